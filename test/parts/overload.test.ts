// What a gateway refuses when it cannot do everything: the decision as a table, and then whole gateways whose lateness
// a test decides.

import { connect, type Socket } from 'node:net';
import t from 'tap';
import {
  CALM_MS,
  calmState,
  LAGS,
  type Level,
  type LoadState,
  levelOf,
  type Measured,
  nextState,
  shedFrom,
} from '../../gateway/overload.ts';
import { createServer, json } from '../../kernel/http.ts';
import { silentLog } from '../../kernel/log.ts';
import { openSocket } from '../support/client.ts';
import { eventually } from '../support/eventually.ts';
import type { Fan } from '../support/fan.ts';
import { startGateways } from '../support/gateways.ts';

const limits = { lagMs: 100, requests: 50, connectionsMax: 1000 };
const idle: Measured = { lagMs: 0, requests: 0, connections: 0 };

t.test(
  'a level is a multiple of lateness and of waiting requests, and a share of the connections',
  async (t) => {
    const rows: [Partial<Measured>, Level][] = [
      [{}, 0],
      [{ lagMs: 99 }, 0],
      [{ lagMs: 100 }, 1],
      [{ lagMs: 200 }, 2],
      [{ lagMs: 399 }, 2],
      [{ lagMs: 400 }, 3],
      [{ requests: 49 }, 0],
      [{ requests: 50 }, 1],
      [{ requests: 100 }, 2],
      [{ requests: 200 }, 3],
      [{ connections: 969 }, 0],
      [{ connections: 970 }, 1],
      [{ connections: 980 }, 2],
      [{ connections: 990 }, 3],
      [{ lagMs: 100, requests: 100, connections: 990 }, 3],
    ];
    for (const [measured, level] of rows)
      t.equal(levelOf({ ...idle, ...measured }, limits), level, JSON.stringify(measured));
  },
);

/** A run of measurements, one every 100 ms; answers the level after each. */
const levelsOf = (from: LoadState, run: readonly Measured[]): { levels: Level[]; state: LoadState } => {
  let state = from;
  const levels = run.map((measured, index) => {
    state = nextState(state, measured, limits, index * 100);
    return state.level;
  });
  return { levels, state };
};
const times = (count: number, measured: Partial<Measured>): Measured[] =>
  Array.from({ length: count }, () => ({ ...idle, ...measured }));

t.test('one pause sheds nobody; a second of lateness does', async (t) => {
  const pause = levelsOf(calmState, [...times(20, {}), { ...idle, lagMs: 5000 }, ...times(20, {})]);
  t.same(new Set(pause.levels), new Set([0]), 'garbage collection is no overload');
  const steady = levelsOf(calmState, times(LAGS, { lagMs: 250 }));
  t.same(steady.levels, [...Array(LAGS - 1).fill(0), 2], 'all of the last second was late');
  t.same(levelsOf(calmState, times(1, { connections: 995 })).levels, [3], 'a full process does not wait');
});

t.test('a level falls one at a time, after a calm, and does not flap at its limit', async (t) => {
  const { state } = levelsOf(calmState, times(LAGS, { lagMs: 450 }));
  t.equal(state.level, 3);
  const calmTicks = CALM_MS / 100;
  const falling = levelsOf(state, times(4 * calmTicks, {})).levels;
  t.equal(falling[calmTicks - 1], 3, 'not before the calm is over');
  t.equal(falling[calmTicks], 2);
  t.equal(falling[2 * calmTicks], 1);
  t.equal(falling[3 * calmTicks], 0);

  const one = levelsOf(calmState, times(1, { requests: 50 })).state;
  const around = Array.from({ length: 200 }, (_, index) => ({
    ...idle,
    requests: index % 2 === 0 ? 50 : 45,
  }));
  t.same(new Set(levelsOf(one, around).levels), new Set([1]), 'just below the limit is not calm');
  const full = levelsOf(calmState, times(1, { connections: 970 })).state;
  t.same(new Set(levelsOf(full, times(100, { connections: 960 })).levels), new Set([1]));
  t.equal(levelsOf(full, times(100, { connections: 900 })).state.level, 0);
});

t.test('newcomers are refused first, those inside never', async (t) => {
  const never = undefined;
  const rows: Record<string, [session: unknown, near: unknown, far: unknown, newcomer: unknown]> = {
    page: [never, 3, 3, 1],
    join: [never, 3, 3, 1],
    poll: [never, 3, 2, 1],
    stream: [never, 3, 3, 1],
    claim: [never, never, never, 1],
    other: [never, 3, 3, 3],
    kept: [never, never, never, never],
  };
  // The keys of `rows` are the words of Wanted; another one would have no row here.
  for (const [wanted, levels] of Object.entries(rows))
    for (const [index, who] of (['session', 'near', 'far', 'newcomer'] as const).entries())
      t.equal(shedFrom(wanted as Parameters<typeof shedFrom>[0], who), levels[index], `${wanted} of ${who}`);
});

t.test(
  'a late gateway sends newcomers away, then those far back, and serves whoever is inside',
  async (t) => {
    let lagMs = 0;
    const g = await startGateways(t, { count: 1, probe: { lagMs: () => lagMs } });
    const room = await g.open('late', { newUsersPerMinute: 60, burst: 5 });
    const { fan: holder } = await g.inside(room);
    const near = g.fan(room);
    await near.join();
    // Beyond the hundred who are always near the head.
    await Promise.all(Array.from({ length: 110 }, () => g.fan(room).join()));
    const far = g.fan(room);
    await far.join();
    await room.measure();
    const [gate] = g.overloads;
    const look = (times: number): void => {
      for (let index = 0; index < times; index += 1) gate!.look();
    };
    const html = { accept: 'text/html' };
    const page = (fan: Fan) => fan.ask('GET', room.path, { headers: html });
    const newcomer = () => g.fan(room);

    lagMs = 300;
    look(LAGS);
    t.equal(gate!.level, 1);
    const away = await page(newcomer());
    t.equal(away.status, 503);
    const retryAfter = Number(away.headers['retry-after']);
    t.ok(retryAfter >= 10 && retryAfter < 30, 'back in 10 to 30 seconds');
    t.match(away.text, `<meta http-equiv="refresh" content="${retryAfter}">`, 'the page does it by itself');
    t.match(away.headers['content-security-policy'], "default-src 'none'");
    t.equal(away.headers['cache-control'], 'no-store');
    const refused = await newcomer().ask('POST', `/v1/rooms/${room.room}/places`, { body: {} });
    t.equal(refused.status, 503);
    t.equal(refused.json.code, 'busy');
    t.ok(Number(refused.headers['retry-after']) >= 10, 'one Retry-After, and a number');
    t.equal((await page(far)).status, 200, 'who is known keeps the page');
    t.equal((await far.ask('GET', `/v1/rooms/${room.room}/places/me`)).status, 200);
    t.equal((await holder.ask('GET', room.path)).text, 'inside');

    lagMs = 600;
    look(LAGS);
    t.equal(gate!.level, 2);
    const poll = await far.ask('GET', `/v1/rooms/${room.room}/places/me`);
    t.equal(poll.status, 503);
    t.equal(poll.json.pollAfterMs, Number(poll.headers['retry-after']) * 1000, 'asked to poll later');
    t.equal((await near.ask('GET', `/v1/rooms/${room.room}/places/me`)).status, 200, 'not who is near');
    t.equal((await page(far)).status, 200);
    t.equal((await holder.ask('GET', room.path)).text, 'inside');

    lagMs = 1200;
    look(LAGS);
    t.equal(gate!.level, 3);
    t.equal((await page(near)).status, 503);
    t.equal((await far.ask('GET', `/v1/rooms/${room.room}`)).status, 503);
    t.equal((await holder.ask('GET', room.path)).text, 'inside', 'a session lasts');
    t.equal((await far.ask('GET', '/.well-known/jwks.json')).status, 200, 'origins still check passes');
    await room.promote();
    t.equal((await near.claim()).status, 200, 'a turn that has come is not lost');
    t.equal((await near.ask('GET', room.path)).text, 'inside');

    const forged = newcomer();
    forged.cookies.set(`ar_s_${room.room}`, `${holder.cookies.get(`ar_s_${room.room}`)}x`);
    t.equal((await forged.ask('GET', room.path)).status, 503, 'a forged session is nobody');

    const metrics = await g.metrics[0]!.text();
    t.match(metrics, /^anteroom_overload_level 3$/m);
    for (const series of ['level="1",kind="page"', 'level="1",kind="join"', 'level="2",kind="poll"'])
      t.ok(metrics.includes(`anteroom_shed_total{${series}} 1`), series);
  },
);

t.test('connections beyond the limit are closed as they come, and counted down when they go', async (t) => {
  const server = createServer({
    name: 'test',
    host: '127.0.0.1',
    port: 0,
    log: silentLog,
    bodyBytesMax: 1000,
    slowReaderMs: 60_000,
    trustedProxies: [],
    connectionsMax: 5,
  });
  let finish = (): void => undefined;
  const work = new Promise<void>((resolve) => {
    finish = resolve;
  });
  server.route('GET', '/', async () => {
    await work;
    return json(200, {});
  });
  server.socket('/socket', () => ({
    upgrade: true,
    open: () => undefined,
    message: () => undefined,
    closed: () => undefined,
  }));
  const { port } = await server.listen();
  t.teardown(() => server.close(0));
  const open = (): Socket => {
    const socket = connect(port, '127.0.0.1');
    socket.on('error', () => undefined); // A reset is one way of being closed.
    t.teardown(() => socket.destroy());
    return socket;
  };
  // Each waits for an answer: who only stays silent is closed in the end.
  const held = Array.from({ length: 4 }, open);
  for (const socket of held) socket.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
  const upgraded = await openSocket(`http://127.0.0.1:${port}/socket`);
  await eventually('five are open', () => server.load().connections === 5);
  const sixth = open();
  await new Promise((resolve) => sixth.once('close', resolve));
  t.equal(server.load().connections, 5);
  const answered = new Promise((resolve) => held[0]!.once('data', resolve));
  finish();
  t.match(String(await answered), /^HTTP\/1.1 200/, 'those that are in are served');
  upgraded.close();
  for (const socket of held) socket.destroy();
  await eventually('all are gone, WebSockets too', () => server.load().connections === 0);
  const next = open();
  await eventually('and there is room again', () => server.load().connections === 1);
  t.notOk(next.destroyed);
});

t.test('bodies that are still on their way are no load, however many they are', async (t) => {
  let finish = (): void => undefined;
  const work = new Promise<void>((resolve) => {
    finish = resolve;
  });
  const server = createServer({
    name: 'test',
    host: '127.0.0.1',
    port: 0,
    log: silentLog,
    bodyBytesMax: 1000,
    slowReaderMs: 60_000,
    trustedProxies: [],
  });
  const bodies: string[] = [];
  server.route('POST', '/', async ({ body }) => {
    bodies.push(body.toString());
    await work;
    return json(200, {});
  });
  const { port } = await server.listen();
  t.teardown(() => server.close(0));
  const send = (text: string): Socket => {
    const socket = connect({ port, host: '127.0.0.1', noDelay: true });
    socket.on('error', () => undefined); // A reset is one way of being closed.
    t.teardown(() => socket.destroy());
    socket.write(text);
    return socket;
  };
  const head = 'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 600\r\n\r\n';
  const slow = Array.from({ length: 3 }, () => send(`${head}a`));
  send(head + 'b'.repeat(600));
  await eventually('one is at work', () => server.load().requests === 1 && bodies.length === 1);
  t.equal(server.load().connections, 4);
  for (const socket of slow) socket.destroy();
  await eventually('they have left', () => server.load().connections === 1);
  t.equal(server.load().requests, 1);
  const first = send(`${head}a`);
  // In pieces that make the room for the body grow several times.
  for (let sent = 1; sent < 600; sent += 100) {
    const piece = Buffer.alloc(Math.min(100, 600 - sent), String(sent % 7));
    await new Promise((resolve) => first.write(piece, resolve));
  }
  await eventually('it has come as a whole', () => bodies.length === 2);
  t.equal(server.load().requests, 2, 'and is at work');
  t.match(
    bodies.at(-1),
    new RegExp(`^a${['1', '3', '5', '0', '2'].map((digit) => `${digit}{100}`).join('')}4{99}$`),
  );
  finish();
  await eventually('and nothing is left', () => server.load().requests === 0);
});
