// Streams through the proxies people have, with the files of deploy/: nginx and HAProxy, real, in front of one real
// gateway and broker. A place in line is live behind them as it is without them: nothing is gathered, nothing is cut
// while there is news, a turn arrives, and the pages behind a proxy that is restarted come back.

import t from 'tap';
import { launchChromium, windowedAgent } from '../support/chromium.ts';
import { openSocket, openStream } from '../support/client.ts';
import type { Fan } from '../support/fan.ts';
import type { Front } from '../support/front.ts';
import { elsewhere, PUBLIC_URL, startGateways } from '../support/gateways.ts';
import { startHaproxy } from '../support/haproxy.ts';
import { startNginx } from '../support/nginx.ts';
import { UNHURRIED } from '../support/system.ts';

t.setTimeout(600_000);

/**
 * The files of deploy/ let a stream be silent for 75 s to an hour. Here it is 10 s, and news comes each second, as it
 * does near a turn: whoever is still there after 11 s has outlived the limit by what was sent.
 */
const IDLE_MS = 10_000;
const NGINX = {
  'proxy_read_timeout 1h;': 'proxy_read_timeout 10s;',
  'proxy_send_timeout 1h;': 'proxy_send_timeout 10s;',
};
const HAPROXY = {
  'timeout client 75s': 'timeout client 10s',
  'timeout server 75s': 'timeout server 10s',
  'timeout tunnel 1h': 'timeout tunnel 10s',
};

const fronts: Record<string, Front> = {};
/** With the limits they come with. */
const patient: Record<string, Front> = {};

type Heard = { type: string; data: Record<string, unknown>; atMs: number };
type Line = { next(): Promise<Heard | undefined>; close(): void };

const listen = async (front: Pick<Front, 'base'>, fan: Fan, channel: 'sse' | 'socket'): Promise<Line> => {
  const path = `${front.base}/v1/rooms/${fan.room}`;
  if (channel === 'sse') {
    const stream = await openStream(`${path}/events`, { headers: fan.headers() });
    if (stream.answered !== 200) throw new Error(`${stream.answered}: ${stream.text}`);
    return {
      next: async () => {
        const event = await stream.next();
        return event && { type: event.event, data: JSON.parse(event.data), atMs: performance.now() };
      },
      close: () => stream.close(),
    };
  }
  const socket = await openSocket(`${path}/socket`.replace('http', 'ws'), {
    headers: fan.headers({ origin: PUBLIC_URL }),
  });
  if (socket.answered !== 101) throw new Error(`${socket.answered}: ${socket.text}`);
  return {
    next: async () => {
      const text = await socket.next();
      if (text === undefined) return undefined;
      const data = JSON.parse(text);
      return { type: data.type, data, atMs: performance.now() };
    },
    close: () => socket.close(),
  };
};
const until = async (line: Line, type: string): Promise<Heard> => {
  for (;;) {
    const heard = await line.next();
    if (heard === undefined) throw new Error(`the stream ended before ${type}`);
    if (heard.type === type) return heard;
  }
};
const gates = await startGateways(t, { count: 1, streams: true });
const base = gates.bases[0]!;
const behind = { gateway: new URL(base).host, origin: '127.0.0.1:9' };
fronts.nginx = await startNginx(t, 'anteroom.conf', behind, NGINX);
fronts['nginx in auth mode'] = await startNginx(t, 'anteroom-auth.conf', behind, NGINX);
fronts.haproxy = await startHaproxy(t, 'haproxy.cfg', behind, HAPROXY);
fronts['haproxy in auth mode'] = await startHaproxy(t, 'haproxy-auth.cfg', behind, HAPROXY);
patient.nginx = await startNginx(t, 'anteroom.conf', behind);
patient.haproxy = await startHaproxy(t, 'haproxy.cfg', behind);

t.test(
  'the first words come at once, positions go on past the idle limits, and the turn arrives',
  async (t) => {
    const room = await gates.open('shop', { ...UNHURRIED, burst: 1 });
    const ways = [];
    for (const [name, front] of Object.entries(fronts))
      for (const channel of ['sse', 'socket'] as const) {
        const fan = elsewhere(gates.fan(room), front.base);
        t.equal((await fan.join()).status, 201);
        ways.push({ name: `${channel} through ${name}`, channel, front, fan });
      }
    await room.measure();
    const lines = await Promise.all(
      ways.map(async (way) => {
        const askedAt = performance.now();
        const line = await listen(way.front, way.fan, way.channel);
        t.teardown(() => line.close());
        const first = await line.next();
        t.match(first?.type, /position|state/, `${way.name}: ${first?.type}`);
        t.comment(`${way.name}: first words after ${Math.round(performance.now() - askedAt)} ms`);
        return { ...way, line };
      }),
    );
    await Promise.all(
      lines.map(async ({ name, line }) => {
        const fromMs = performance.now();
        let positions = 0;
        for (let atMs = fromMs; atMs - fromMs < IDLE_MS + 1000 || positions < 3; positions += 1)
          atMs = (await until(line, 'position')).atMs;
        t.ok(positions >= 3, `${name}: ${positions} positions, one after the other`);
      }),
    );
    for (const _ of ways) await room.promote();
    await Promise.all(
      lines.map(async ({ name, line, fan }) => {
        const { data } = await until(line, 'promoted');
        const claimed = await fan.claim(String(data.claimToken));
        t.equal(claimed.status, 200, `${name}: ${claimed.text}`);
      }),
    );
  },
);

t.test('a proxy that is restarted has the pages back that waited behind it', async (t) => {
  const browser = await launchChromium();
  t.teardown(() => browser.close());
  await gates.open('still', UNHURRIED);
  const pages = await Promise.all(
    Object.entries(patient).map(async ([name, front]) => {
      // A fan each: cookies do not tell ports of one host apart.
      const context = await browser.newContext({ userAgent: windowedAgent(browser) });
      context.setDefaultTimeout(120_000);
      const page = await context.newPage();
      await page.goto(`${front.base}/rooms/still`);
      await page.getByText('Live', { exact: true }).waitFor();
      return { name, front, page, number: await page.locator('#number').textContent() };
    }),
  );
  await Promise.all(
    pages.map(async ({ name, front, page, number }) => {
      await front.stop();
      await page.getByText('Reconnecting').waitFor();
      await front.start();
      const from = performance.now();
      await page.getByText('Live', { exact: true }).waitFor();
      t.comment(`${name}: live again ${Math.round(performance.now() - from)} ms after`);
      t.equal(await page.locator('#number').textContent(), number, name);
    }),
  );
});
