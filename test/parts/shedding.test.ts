// What a flood of joins from one address meets: an answer from the head of each request, and a lost connection again
// and again. Raw sockets, because what matters is when the answer comes and what becomes of the connection.

import { connect, type Socket } from 'node:net';
import t from 'tap';
import { eventually } from '../support/eventually.ts';
import { startGateways } from '../support/gateways.ts';
import { standing } from '../support/standing-clock.ts';

const BURST = 3;
const PER_CLOSE = 4;
const SHOP = 'https://shop.example';
/** Gateways of tests trust 127.0.0.1 and no other; an IPv4 address of this machine is any of 127.0.0.0/8. */
const PROXY = '127.0.0.1';

const { bases, metrics, open } = await startGateways(t, {
  count: 1,
  clock: standing,
  env: {
    ANTEROOM_ADDRESS_PER_SECOND: '1',
    ANTEROOM_ADDRESS_BURST: String(BURST),
    ANTEROOM_REFUSALS_PER_CLOSE: String(PER_CLOSE),
    ANTEROOM_ALLOWED_ORIGINS: SHOP,
  },
});
const { room } = await open('flooded');
const port = Number(new URL(bases[0]!).port);
const path = `/v1/rooms/${room}/places`;

const headOf = (lines = '', bytes = 2): string =>
  `POST ${path} HTTP/1.1\r\nhost: tickets.test\r\ncontent-type: application/json\r\ncontent-length: ${bytes}\r\n${lines}\r\n`;
const joinOf = (lines = ''): string => `${headOf(lines)}{}`;

type Line = { socket: Socket; answers(): string[]; isClosed(): boolean };
const lineFrom = (localAddress: string): Line => {
  const socket = connect({ port, host: '127.0.0.1', localAddress });
  let [heard, closed] = ['', false];
  socket.setEncoding('latin1');
  socket.on('data', (chunk: string) => {
    heard += chunk;
  });
  // A reset is a close, too.
  socket.on('error', () => socket.destroy());
  socket.on('close', () => {
    closed = true;
  });
  t.teardown(() => socket.destroy());
  return {
    socket,
    isClosed: () => closed,
    answers: () => heard.split(/(?=HTTP\/1\.1 \d)/).filter((answer) => answer !== ''),
  };
};
const answered = (line: Line, count: number): Promise<unknown> =>
  eventually(`${count} answers`, () => line.answers().length === count);
/** Sends a request at a time, each after the answer to the last. */
const ask = async (line: Line, count: number, lines = ''): Promise<void> => {
  for (let index = 0; index < count; index += 1) {
    const before = line.answers().length;
    line.socket.write(joinOf(lines));
    await answered(line, before + 1);
  }
};
/** Uses up what an address may ask. */
const useUp = async (address: string): Promise<void> => {
  const line = lineFrom(address);
  await ask(line, BURST);
  t.ok(
    line.answers().every((answer) => answer.startsWith('HTTP/1.1 201 ')),
    'the first are let in',
  );
};

t.test(
  'a join beyond the limit is refused by its head; its body, when it comes, is no request',
  async (t) => {
    await useUp('127.0.0.61');
    const line = lineFrom('127.0.0.61');
    line.socket.write(headOf('', 70));
    await answered(line, 1);
    const [refusal = ''] = line.answers();
    t.match(refusal, /^HTTP\/1\.1 429 /);
    t.match(refusal, /\r\nretry-after: 1\r\n/i);
    t.match(refusal, /\r\nratelimit-policy: "address";q=3;w=3\r\n/i);
    t.match(refusal, /\r\nratelimit: "address";r=0;t=1\r\n/i);
    t.match(refusal, /"code":"too-many-requests"/);
    t.match(refusal, /"retryAfterMs":\d+/);
    t.notMatch(refusal, /connection: close/i);
    // Seventy bytes that look like a request, and then a real one.
    line.socket.write(`GET /smuggled HTTP/1.1\r\nhost: tickets.test\r\n\r\n`.padEnd(70, 'x'));
    line.socket.write(joinOf());
    await answered(line, 2);
    t.match(line.answers()[1], /^HTTP\/1\.1 429 /);
    t.notOk(line.isClosed());
  },
);

t.test('a page of another origin may read the refusal', async (t) => {
  await useUp('127.0.0.62');
  const line = lineFrom('127.0.0.62');
  await ask(line, 1, `origin: ${SHOP}\r\n`);
  t.match(line.answers()[0], /\r\naccess-control-allow-origin: https:\/\/shop\.example\r\n/i);
  t.match(line.answers()[0], /^HTTP\/1\.1 429 /);
});

t.test('among refused joins every so-manyth loses its connection, and what was sent behind it', async (t) => {
  await useUp('127.0.0.63');
  let line = lineFrom('127.0.0.63');
  // Those of the tests before were counted as well, so the first connection ends early.
  for (let sent = 0; !line.isClosed() && sent < PER_CLOSE; sent += 1) {
    await ask(line, 1);
    if (/\r\nconnection: close\r\n/i.test(line.answers().at(-1) ?? ''))
      await eventually('closed', line.isClosed);
  }
  t.ok(line.isClosed());
  line = lineFrom('127.0.0.63');
  await ask(line, PER_CLOSE - 1);
  t.notOk(line.isClosed(), 'not before its turn');
  await ask(line, 1);
  t.match(line.answers().at(-1), /^HTTP\/1\.1 429 .*\r\nconnection: close\r\n/is);
  await eventually('closed', line.isClosed);

  const refusedBefore = await refused();
  const flood = lineFrom('127.0.0.63');
  flood.socket.write(joinOf().repeat(10 * PER_CLOSE));
  await eventually('closed', flood.isClosed);
  t.equal((await refused()) - refusedBefore, PER_CLOSE, 'the rest was not even looked at');
});

const refused = async (): Promise<number> =>
  Number(/anteroom_limited_total\{by="local"\} (\d+)/.exec(await metrics[0]!.text())?.[1] ?? 0);

t.test("a trusted proxy's connection stays: it carries others as well", async (t) => {
  const line = lineFrom(PROXY);
  const from = 'x-forwarded-for: 203.0.113.9\r\n';
  await ask(line, BURST + 2 * PER_CLOSE, from);
  t.equal(line.answers().filter((answer) => answer.startsWith('HTTP/1.1 429 ')).length, 2 * PER_CLOSE);
  await ask(line, 1, 'x-forwarded-for: 203.0.113.10\r\n');
  t.match(line.answers().at(-1), /^HTTP\/1\.1 201 /, 'somebody else, on the same connection');
  t.notOk(line.isClosed());
});
