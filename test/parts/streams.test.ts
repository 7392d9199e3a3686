// What is promised to whoever holds a stream open (P1, P2, P3, P5, P6), over real sockets at three brokers on one
// Redis: positions arrive and fall, a turn is told wherever its owner is connected, and nothing a client says of
// what it has heard already, or sends over a socket, changes what is true.

import { randomBytes } from 'node:crypto';
import { connect } from 'node:net';
import t from 'tap';
import { notice } from '../../lua/room.ts';
import { openSocket, openStream, type ServerEvent, type TestStream } from '../support/client.ts';
import { eventually } from '../support/eventually.ts';
import type { Fan } from '../support/fan.ts';
import { startFaultProxy } from '../support/fault-proxy.ts';
import { elsewhere, type Gateways, PUBLIC_URL, type Room, startGateways } from '../support/gateways.ts';
import { UNHURRIED } from '../support/system.ts';

t.setTimeout(600_000);

const BROKERS = 3;
let gates: Gateways;
t.before(async () => {
  gates = await startGateways(t, { count: BROKERS, streams: true });
});

let rooms = 0;
const open = (settings = {}): Promise<Room> => {
  rooms += 1;
  return gates.open(`stream${rooms}`, { ...UNHURRIED, ...settings });
};
const listen = (fan: Fan, headers: Record<string, string> = {}, base = fan.base): Promise<TestStream> =>
  openStream(`${base}/v1/rooms/${fan.room}/events`, { headers: fan.headers(headers) });
const socketOf = (fan: Fan, headers: Record<string, string> = {}) =>
  openSocket(`${fan.base.replace('http', 'ws')}/v1/rooms/${fan.room}/socket`, {
    headers: fan.headers({ origin: PUBLIC_URL, ...headers }),
  });
const dataOf = (event: ServerEvent): Record<string, unknown> => JSON.parse(event.data);

/** The events up to and with the first of this name. */
const until = async (stream: TestStream, name: string): Promise<ServerEvent[]> => {
  const seen: ServerEvent[] = [];
  for (;;) {
    const event = await stream.next();
    if (event === undefined)
      throw new Error(`the stream ended before ${name}, after ${seen.map((one) => one.event)}`);
    seen.push(event);
    if (event.event === name) return seen;
  }
};
const first = async (stream: TestStream, name: string): Promise<Record<string, unknown>> => {
  const found = (await until(stream, name)).at(-1);
  return found === undefined ? {} : dataOf(found);
};
/** Fans of a room, joined one after the other, each at the broker after that of the one before. */
const crowd = async (room: Room, count: number): Promise<Fan[]> => {
  const fans: Fan[] = [];
  for (let index = 0; index < count; index += 1) {
    const fan = gates.fan(room, index % BROKERS);
    await fan.join();
    fans.push(fan);
  }
  return fans;
};

t.test('P1: positions arrive over real sockets, are right, and fall as the line moves', async (t) => {
  const room = await open({ totalActiveUsers: 10 });
  const fans = await crowd(room, 30);
  await room.measure();
  const streams = await Promise.all(fans.map((fan) => listen(fan)));
  const latest = new Map<number, number>();
  const rises: string[] = [];
  const called = new Set<number>();
  const reading = streams.map(async (stream, index) => {
    for (;;) {
      const event = await stream.next();
      if (event === undefined) return;
      if (event.event === 'promoted') called.add(index);
      if (event.event !== 'position') continue;
      const { position } = dataOf(event);
      const before = latest.get(index) ?? Number.POSITIVE_INFINITY;
      if (Number(position) > before) rises.push(`fan ${index} from ${before} to ${position}`);
      latest.set(index, Number(position));
    }
  });
  await eventually('everybody knows where they stand', () =>
    fans.every((_, index) => latest.get(index) === index + 1),
  );
  await room.promote();
  await room.measure();
  await eventually('the first ten are called', () => called.size === 10);
  await eventually('the others have moved up by ten', () =>
    fans.every((_, index) => index < 10 || latest.get(index) === index - 9),
  );
  t.same(
    [...called].sort((a, b) => a - b),
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
    'in order',
  );
  t.same(rises, [], 'and nobody was moved back');
  for (const stream of streams) stream.close();
  await Promise.all(reading);
});

t.test('P2: a turn that comes while the network is cut is known as soon as it is back', async (t) => {
  const room = await open();
  const [fan] = await crowd(room, 1);
  await room.measure();
  const network = await startFaultProxy(t, { port: Number(new URL(gates.bases[0]!).port) });
  const throughIt = `http://127.0.0.1:${network.port}`;
  const before = await listen(fan!, {}, throughIt);
  const [id] = (await until(before, 'position')).map((event) => event.id);
  network.set({ kind: 'blackhole' });
  await room.promote();
  t.equal(await gates.redis.client.zcard(room.keys.promoted), 1, 'called while nothing gets through');
  network.cutAll();
  network.set({ kind: 'clear' });
  const after = await listen(fan!, id === undefined || id === '' ? {} : { 'last-event-id': id }, throughIt);
  const told = await first(after, 'promoted');
  t.equal((await fan!.claim(String(told.claimToken))).status, 200);
  after.close();
  before.close();
});

t.test('P3: everybody is told wherever they are, on every tab and over every transport', async (t) => {
  const room = await open({ totalActiveUsers: 12 });
  const fans = await crowd(room, 12);
  await room.measure();
  // Each fan has a tab at their own broker and one at the next, one an event stream and the other a socket.
  const tabs = await Promise.all(
    fans.map(async (fan, index) => ({
      stream: await listen(fan),
      socket: await socketOf(elsewhere(fan, gates.bases[(index + 1) % BROKERS]!)),
    })),
  );
  await notice.run(gates.redis.client, room.keys, {
    nowMs: '',
    noticeId: 'n1',
    text: 'Doors open soon',
    level: 'info',
  });
  for (const { stream } of tabs) t.equal((await first(stream, 'notice')).text, 'Doors open soon');
  await room.promote();
  const heard = tabs.map(async ({ stream, socket }) => {
    const turn = await first(stream, 'promoted');
    for (;;) {
      const message = JSON.parse((await socket.next()) ?? '{"type":"over"}');
      if (message.type === 'over')
        throw new Error(
          `the socket (${socket.answered} ${socket.text}) closed before the turn: ${await socket.closed}`,
        );
      if (message.type === 'promoted') return { turn, message };
    }
  });
  for (const [index, { turn, message }] of (await Promise.all(heard)).entries()) {
    t.equal(turn.number, fans[index]!.number, 'their own turn');
    t.equal(message.number, fans[index]!.number, 'on the other tab, too');
    t.type(message.claimToken, 'string');
  }
  for (const { stream, socket } of tabs) {
    stream.close();
    socket.close();
  }
});

t.test('P3: when the line stands still, everybody hears it, and when it goes on again', async (t) => {
  const room = await open();
  const fans = await crowd(room, 6);
  await room.measure();
  const streams = await Promise.all(fans.map((fan) => listen(fan)));
  for (const stream of streams) await until(stream, 'position');
  const gateTold = async (gate: string): Promise<void> => {
    for (const stream of streams) for (;;) if ((await first(stream, 'state')).gate === gate) break;
  };
  await room.change({ suspended: true });
  await room.measure();
  await gateTold('suspended');
  await room.change({ suspended: false });
  await room.measure();
  await gateTold('open');
  t.pass('all of them');
  for (const stream of streams) stream.close();
});

t.test('P5: what opens the door goes to its owner alone', async (t) => {
  const room = await open({ totalActiveUsers: 2 });
  const fans = await crowd(room, 6);
  await room.measure();
  const streams = await Promise.all(fans.map((fan) => listen(fan)));
  for (const stream of streams) await until(stream, 'position');
  await room.promote();
  const tokens: string[] = [];
  for (const stream of streams.slice(0, 2)) tokens.push(String((await first(stream, 'promoted')).claimToken));
  t.equal(new Set(tokens).size, 2);
  await room.measure();
  for (const stream of streams.slice(2)) {
    const seen = await until(stream, 'position');
    const text = seen.map((event) => event.data).join('\n');
    for (const token of tokens) t.notOk(text.includes(token), 'nobody else hears it');
  }
  // Another one's claim opens nothing for a visitor who has a place of their own, or for one who has none.
  t.not((await fans[3]!.claim(tokens[0])).status, 200);
  for (const stream of streams) stream.close();
  t.equal((await fans[0]!.claim(tokens[0])).status, 200);
  const stranger = gates.fan(room);
  t.equal((await listen(stranger)).answered, 404, 'and without a place there is no stream');
});

t.test('P6: whatever a client says it has heard last, it hears what is true now', async (t) => {
  const room = await open({ totalActiveUsers: 1 });
  const [called, waiting] = await crowd(room, 2);
  await room.measure();
  const listening = await listen(called!);
  await until(listening, 'position');
  await room.promote();
  await room.measure();
  const promotedId = (await until(listening, 'promoted')).at(-1)?.id ?? '';
  listening.close();
  const [epoch, offset] = promotedId.split(/-(.*)/s);
  t.match(promotedId, /^\d+-\d+-\d+$/, 'epoch and offset');
  const said = {
    nothing: '',
    current: promotedId,
    'an old one': `${epoch}-0-1`,
    'one of the future': `${epoch}-99999999999999-0`,
    'another epoch': `1-${offset}`,
    forged: '../../etc/passwd',
    'not a number': `${epoch}-NaN`,
    'a number too large': `${'9'.repeat(400)}-${'9'.repeat(400)}`,
    'of 3,000 characters': 'x'.repeat(3000),
    quotes: '"\'`<script>',
    'NUL escaped': '%00%0d%0aSet-Cookie: a=b',
  };
  for (const [what, id] of Object.entries(said)) {
    const [turn, wait] = await Promise.all([
      listen(called!, { 'last-event-id': id }),
      listen(waiting!, { 'last-event-id': id }),
    ]);
    t.equal(turn.answered, 200, what);
    t.type((await first(turn, 'promoted')).claimToken, 'string', `${what}: the turn is still told`);
    t.equal((await first(wait, 'position')).position, 1, `${what}: and whoever waits is told where`);
    turn.close();
    wait.close();
  }
  const large = await listen(called!, { 'last-event-id': 'x'.repeat(1_000_000) }).then(
    (stream) => stream.answered,
    () => 'cut off',
  );
  t.ok(large === 431 || large === 400 || large === 'cut off', `one of 1 MB is refused: ${large}`);
});

t.test('streams of one visitor are limited, and the limit is theirs alone', async (t) => {
  const room = await open();
  const [fan, other] = await crowd(room, 2);
  await room.measure();
  const streams = await Promise.all(Array.from({ length: 500 }, () => listen(fan!)));
  const opened = streams.filter((stream) => stream.answered === 200).length;
  const refused = streams.filter((stream) => stream.answered === 429);
  t.ok(opened > 0 && opened < 50, `${opened} of 500 were opened`);
  t.equal(opened + refused.length, 500, 'and all the others refused');
  t.match(refused[0]?.text, /"code":"too-many-streams"/);
  const their = await listen(other!);
  t.equal(their.answered, 200, 'somebody else opens theirs');
  for (const stream of [...streams, their]) stream.close();
  await eventually('room again', async () => {
    const again = await listen(fan!);
    again.close();
    return again.answered === 200;
  });
});

t.test('a socket opens for our own page and allowed sites, and for no other', async (t) => {
  const room = await open();
  const [fan] = await crowd(room, 1);
  await room.measure();
  for (const origin of ['https://evil.test', 'null', 'http://tickets.test.evil.test', `${PUBLIC_URL}:8443`]) {
    const socket = await socketOf(fan!, { origin });
    t.equal(socket.answered, 403, origin);
    t.match(socket.text, /"code":"origin-refused"/);
  }
  const own = await socketOf(fan!);
  t.equal(own.answered, 101);
  own.close();
  const nobody = await socketOf(gates.fan(room));
  t.equal(nobody.answered, 404, 'without a place there is no socket');
  const forged = await socketOf(fan!, { cookie: `ar_v=${'x'.repeat(40)}; ar_r_${fan!.room}=y` });
  t.not(forged.answered, 101, 'nor with cookies that are not ours');
});

/** A handshake on a bare connection; then whatever bytes the test likes. */
const bareSocket = (fan: Fan) => {
  const wire = connect(Number(new URL(fan.base).port), '127.0.0.1');
  let received = Buffer.alloc(0);
  let over = false;
  wire.on('error', () => undefined); // Being reset is one of the right answers.
  wire.on('data', (chunk) => {
    received = Buffer.concat([received, chunk]);
  });
  wire.once('close', () => {
    over = true;
  });
  const headers = Object.entries({
    ...fan.headers({ origin: PUBLIC_URL }),
    host: 'tickets.test',
    connection: 'Upgrade',
    upgrade: 'websocket',
    'sec-websocket-version': '13',
    'sec-websocket-key': randomBytes(16).toString('base64'),
  });
  wire.write(
    `GET /v1/rooms/${fan.room}/socket HTTP/1.1\r\n${headers.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n`,
  );
  return { wire, text: () => received.toString('latin1'), over: () => over };
};
/** A frame by hand (RFC 6455, section 5.2): any first byte, masked or not, with the length it claims. */
const frame = (firstByte: number, payload: Buffer, options: { masked?: boolean; claims?: number } = {}) => {
  const length = options.claims ?? payload.length;
  const head = length < 126 ? Buffer.alloc(2) : length < 65_536 ? Buffer.alloc(4) : Buffer.alloc(10);
  const mask = options.masked === false ? 0 : 0x80;
  head[0] = firstByte;
  head[1] = mask | (length < 126 ? length : length < 65_536 ? 126 : 127);
  if (head.length === 4) head.writeUInt16BE(length, 2);
  if (head.length === 10) head.writeBigUInt64BE(BigInt(length), 2);
  // A mask of zeroes is a mask.
  return Buffer.concat([head, mask === 0 ? Buffer.alloc(0) : Buffer.alloc(4), payload]);
};

t.test(
  'who leaves while their stream is being opened, or asks for its head alone, holds nothing',
  async (t) => {
    const room = await open();
    const [fan] = await crowd(room, 1);
    await room.measure();
    for (let index = 0; index < 40; index += 1) {
      const answer = await fetch(`${fan!.base}/v1/rooms/${fan!.room}/events`, {
        method: 'HEAD',
        headers: fan!.headers({}),
      });
      t.equal(answer.status, 200, `the head ${index}`);
    }
    for (let index = 0; index < 40; index += 1) {
      const { wire } = bareSocket(fan!);
      wire.once('connect', () => setImmediate(() => wire.destroy()));
      await new Promise((resolve) => wire.once('close', resolve));
    }
    await eventually('room for a stream', async () => {
      const stream = await listen(fan!);
      stream.close();
      return stream.answered === 200;
    });
  },
);

t.test('frames that no browser sends end their own connection, and nobody else’s', async (t) => {
  const room = await open();
  const [hostile, honest, silent] = await crowd(room, 3);
  await room.measure();
  const beside = await listen(honest!);
  await until(beside, 'position');
  const text = Buffer.from('hello');
  const bad: Record<string, Buffer[]> = {
    // Of an unmasked frame four bytes are taken for a mask, so one alone is never whole; what follows makes it nonsense.
    'not masked': [frame(0x81, text, { masked: false }), frame(0x81, text, { masked: false })],
    'a reserved opcode': [frame(0x83, text)],
    'a reserved control opcode': [frame(0x8b, text)],
    'a reserved bit': [frame(0xc1, text)],
    'longer than allowed': [frame(0x81, Buffer.alloc(70_000), {})],
    'a length beyond all memory': [frame(0x81, text, { claims: Number.MAX_SAFE_INTEGER })],
    'not UTF-8': [frame(0x81, Buffer.from([0xc3, 0x28, 0xff]))],
    'a ping of 200 bytes': [frame(0x89, Buffer.alloc(200))],
    'a ping in pieces': [frame(0x09, text)],
    'a continuation of nothing': [frame(0x80, text)],
    'a message inside a message': [frame(0x01, text), frame(0x81, text)],
    'pieces without end': Array.from({ length: 5000 }, (_, index) => frame(index === 0 ? 0x01 : 0x00, text)),
    'a close with one byte': [frame(0x88, Buffer.from([3]))],
  };
  // One after the other: a visitor has no more than eight streams.
  for (const [what, frames] of Object.entries(bad)) {
    // Opened first, so that what is silent would be closed for that before the other.
    const control = bareSocket(silent!);
    await eventually('the silent one is open', () => /^HTTP\/1.1 101/.test(control.text()));
    const { wire, text: received, over } = bareSocket(hostile!);
    await eventually(`${what}: open`, () => /^HTTP\/1.1 101/.test(received()));
    wire.write(Buffer.concat(frames));
    await eventually(`${what}: closed`, over);
    t.notOk(control.over(), `${what}: for what was sent, and not for silence`);
    control.wire.destroy();
  }
  const { wire, text: answers, over } = bareSocket(hostile!);
  await eventually('open', () => /^HTTP\/1.1 101/.test(answers()));
  wire.write(Buffer.concat(Array.from({ length: 20_000 }, () => frame(0x89, text))));
  await eventually('a flood of pings is answered or cut off', () => over() || answers().length > 20_000);
  wire.destroy();
  await room.measure();
  t.equal((await first(beside, 'position')).position, 2, 'whoever stands beside notices nothing');
  beside.close();
});
