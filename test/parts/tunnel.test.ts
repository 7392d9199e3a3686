// WebSockets that are passed through: who gets one, what passes, and when it ends. Gateways, Redis and sockets are real.

import { Socket } from 'node:net';
import fc from 'fast-check';
import t from 'tap';
import { createFrameReader, maskedFrame } from '../../kernel/frames.ts';
import { createServer, type TunnelSocket } from '../../kernel/http.ts';
import { silentLog } from '../../kernel/log.ts';
import { openSocket, type TestSocket } from '../support/client.ts';
import { eventually } from '../support/eventually.ts';
import type { Fan } from '../support/fan.ts';
import { elsewhere, startGateways } from '../support/gateways.ts';
import { countsNothing, heldBytes } from '../support/held-bytes.ts';
import { seedOf } from '../support/random.ts';
import { refusingAddress } from '../support/refusing.ts';
import { serverFrame, startSocketOrigin } from '../support/socket-origin.ts';

const MESSAGE_BYTES_MAX = 65_536;
const MIB = 1_048_576;
const TEXT = 1;
const BINARY = 2;
const CLOSE = 8;
const PING = 9;

const gates = await startGateways(t, {
  count: 1,
  env: {
    ANTEROOM_SOCKET_MESSAGE_BYTES_MAX: String(MESSAGE_BYTES_MAX),
    ANTEROOM_ORIGIN_STREAMS_MAX: '3',
    // No machine is too slow for these.
    ANTEROOM_ORIGIN_TIMEOUT_MS: '120000',
    ANTEROOM_SLOW_READER_MS: '60000',
  },
});
const { origin, peers } = await startSocketOrigin(t, (url) => {
  if (url.endsWith('/chat')) return 'sec-websocket-protocol: chat.v2\r\nset-cookie: ar_v=stolen\r\n';
  if (url.endsWith('/odd')) return 'sec-websocket-protocol: never.offered\r\n';
  if (url.endsWith('/no'))
    return 'HTTP/1.1 403 Forbidden\r\ncontent-length: 4\r\nx-own: 1\r\nanteroom-x: 1\r\nconnection: close\r\n\r\nnope';
  return '';
});
let rooms = 0;
const open = () => {
  rooms += 1;
  return gates.open(`t${rooms}`, { origin });
};
const socketOf = (fan: Fan, path: string, headers: Record<string, string> = {}) =>
  openSocket(`${gates.bases[0]}${path}`, { headers: fan.headers(headers) });
const lastPeer = () => peers.at(-1)!;
const closeFrame = (code: number, reason: string) => {
  const payload = Buffer.alloc(2);
  payload.writeUInt16BE(code);
  return Buffer.concat([payload, Buffer.from(reason)]);
};

t.test('without a session there is no socket, and the origin hears nothing', async (t) => {
  const room = await open();
  const before = peers.length;
  const refused = await socketOf(gates.fan(room), `${room.path}/live`);
  t.equal(refused.answered, 429);
  t.match(JSON.parse(refused.text), { code: 'session-required' });
  t.equal(peers.length, before);
});

t.test('with a session messages pass both ways as they are', async (t) => {
  const room = await open();
  const { fan } = await gates.inside(room);
  const socket = await socketOf(fan, `${room.path}/chat`, {
    'sec-websocket-protocol': 'chat.v1, chat.v2',
    'sec-websocket-extensions': 'permessage-deflate',
    origin: 'https://other.test',
    'x-forwarded-for': '10.9.9.9',
    'anteroom-visitor': 'forged',
  });
  t.equal(socket.answered, 101);
  t.equal(socket.headers['sec-websocket-protocol'], 'chat.v2');
  t.equal(socket.headers['sec-websocket-extensions'], undefined);
  t.notMatch(JSON.stringify(socket.headers), 'stolen');
  const peer = lastPeer();
  t.match(peer.headers, {
    'sec-websocket-protocol': 'chat.v1, chat.v2',
    origin: 'https://other.test',
    'x-forwarded-for': '10.9.9.9',
  });
  t.ok(peer.headers['anteroom-context']);
  t.not(peer.headers['anteroom-visitor'], 'forged');
  t.equal(peer.headers['sec-websocket-extensions'], undefined);
  t.notMatch(peer.headers.cookie ?? '', 'ar_');

  socket.send('grüße');
  socket.sendFrame(BINARY, Buffer.from([0, 255, 128]));
  await eventually('both came', () => peer.received.length === 2);
  t.same(peer.received[0], { opcode: TEXT, payload: Buffer.from('grüße') });
  t.same(peer.received[1], { opcode: BINARY, payload: Buffer.from([0, 255, 128]) });

  peer.send(TEXT, 'one ', false);
  peer.send(PING, 'still there?');
  peer.send(0, 'message');
  peer.send(BINARY, Buffer.from([0, 255]));
  t.equal(await socket.next(), 'one message', 'put together, with a ping in its middle');
  t.equal(await socket.next(), '0x00ff');
  await eventually('the ping is answered', () => peer.received.at(-1)?.opcode === 10);
  t.equal(String(peer.received.at(-1)?.payload), 'still there?');

  const long = 'x'.repeat(MESSAGE_BYTES_MAX);
  peer.send(TEXT, long);
  t.equal(await socket.next(), long, 'up to the limit');
  peer.send(CLOSE, closeFrame(4321, 'bye'));
  t.equal(await socket.closed, 4321);
  await eventually('the origin is let go', () => peer.isClosed);
});

t.test('a close of the fan reaches the origin with its code, and a cut as a cut', async (t) => {
  const room = await open();
  const { fan } = await gates.inside(room);
  const closing = await socketOf(fan, `${room.path}/live`);
  closing.sendFrame(CLOSE, closeFrame(4002, 'done'));
  const peer = lastPeer();
  await eventually('closed', () => peer.isClosed);
  t.same(peer.received.at(-1), { opcode: CLOSE, payload: closeFrame(4002, 'done') });

  const cut = await socketOf(fan, `${room.path}/live`);
  const other = lastPeer();
  cut.close();
  await eventually('cut', () => other.isClosed);
  t.equal(other.received.length, 0);

  const left = await socketOf(fan, `${room.path}/live`);
  lastPeer().wire.destroy();
  t.equal(await left.closed, 1006);
});

t.test('an origin that refuses is heard, one that answers nonsense or not at all is a 502', async (t) => {
  const room = await open();
  const { fan } = await gates.inside(room);
  const refused = await socketOf(fan, `${room.path}/no`);
  t.equal(refused.answered, 403);
  t.equal(refused.text, 'nope');
  t.equal(refused.headers['x-own'], '1');
  t.equal(refused.headers['anteroom-x'], undefined);
  t.match(JSON.parse((await socketOf(fan, `${room.path}/odd`)).text), { code: 'origin-unreachable' });
  const away = await gates.open('away', { origin: (await refusingAddress(t)).origin });
  const { fan: waiting } = await gates.inside(away);
  t.match(JSON.parse((await socketOf(waiting, `${away.path}/live`)).text), { code: 'origin-unreachable' });
});

t.test('that an origin is away is told by its room', async (t) => {
  const away = await gates.open('resting', { origin: (await refusingAddress(t)).origin });
  const { fan } = await gates.inside(away);
  const resting = async (value: number) =>
    (await gates.metrics[0]?.text())?.includes(`anteroom_origin_resting{room="resting"} ${value}`) === true;
  await eventually('it is asked', () => resting(0));
  for (let count = 0; count < 5; count += 1) t.equal((await fan.ask('GET', away.path)).status, 502);
  await eventually('it is left in peace', () => resting(1));
});

t.test('a socket ends with its session, and when the session goes to another browser', async (t) => {
  const room = await open();
  const { fan } = await gates.inside(room);
  const first = await socketOf(fan, `${room.path}/live`);
  t.equal((await fan.ask('GET', room.path)).status, 200);
  const peer = lastPeer();
  const laptop = elsewhere(fan, gates.bases[0]!);
  laptop.cookies.delete(`ar_s_${room.room}`);
  t.equal((await laptop.claim()).status, 200);
  t.equal(await first.closed, 1008);
  await eventually('the origin is told', () => peer.isClosed);
  t.equal(peer.received.at(-1)?.payload.readUInt16BE(0), 1008);

  t.equal((await socketOf(fan, `${room.path}/live`)).answered, 429);
  const second = await socketOf(laptop, `${room.path}/live`);
  t.equal(second.answered, 101);
  t.equal((await laptop.ask('DELETE', `/v1/rooms/${room.room}/places/me`)).status, 204);
  t.equal(await second.closed, 1008);
  t.equal((await socketOf(laptop, `${room.path}/live`)).answered, 429);
});

t.test('a message that is too long ends the socket, from either side', async (t) => {
  const room = await open();
  const { fan } = await gates.inside(room);
  const wordy = await socketOf(fan, `${room.path}/live`);
  const peer = lastPeer();
  wordy.sendFrame(BINARY, Buffer.alloc(MESSAGE_BYTES_MAX + 1));
  await wordy.closed;
  await eventually('the origin is let go', () => peer.isClosed);
  t.equal(peer.received.filter(({ opcode }) => opcode === BINARY).length, 0);

  const told = await socketOf(fan, `${room.path}/live`);
  lastPeer().send(BINARY, Buffer.alloc(MESSAGE_BYTES_MAX + 1));
  t.equal(await told.closed, 1009);
});

/** A message or two in each of: the frames read from the origin, the socket to the fan, the fan's own buffer. */
const HELD_BYTES_MAX = MIB;

t.test(
  'a fan who reads slowly holds the origin back, and misses nothing',
  { skip: countsNothing },
  async (t) => {
    const room = await open();
    const { fan } = await gates.inside(room);
    const socket = await socketOf(fan, `${room.path}/live`);
    socket.pause();
    const peer = lastPeer();
    const { wire } = peer;
    if (!(wire instanceof Socket)) throw new Error('not a socket');
    const total = 600;
    let sent = 0;
    const flow = () => {
      while (sent < total) {
        sent += 1;
        if (!peer.send(TEXT, `${sent} `.padEnd(60_000, 'x'))) return void wire.once('drain', flow);
      }
    };
    flow();
    const held = await heldBytes('nobody reads', {
      into: { from: wire.localPort!, to: wire.remotePort! },
      outOf: { from: Number(new URL(gates.bases[0]!).port) },
      total: total * 60_000,
      sent: () => wire.bytesWritten - wire.writableLength,
      taken: () => 0,
    });
    t.ok(held <= HELD_BYTES_MAX, `${held} bytes`);
    socket.resume();
    for (let number = 1; number <= total; number += 1) {
      const text = await socket.next(60_000);
      if (Number.parseInt(text ?? '', 10) !== number)
        return t.fail(`${number} did not come: ${text?.slice(0, 20)}`);
    }
    socket.close();
  },
);

t.test('what waits for a slow origin is bounded', async (t) => {
  const room = await open();
  const { fan } = await gates.inside(room);
  const socket = await socketOf(fan, `${room.path}/live`);
  lastPeer().wire.pause();
  let isOver = false;
  const closed = socket.closed.then((code) => {
    isOver = true;
    return code;
  });
  // More than any kernel keeps for a connection; what comes of it may come later than the last of it was sent.
  for (let count = 0; count < 2000 && !isOver; count += 1) {
    socket.sendFrame(BINARY, Buffer.alloc(60_000));
    await new Promise((resolve) => setImmediate(resolve));
  }
  // Without a bound it would be over after a minute: the origin answers no ping.
  await eventually('it is over', () => isOver, 30_000);
  // Whoever still sends may be reset before the close is read.
  t.ok([1013, 1006].includes(await closed));
});

t.test('there are only so many sockets to one origin', async (t) => {
  const room = await open();
  const { fan } = await gates.inside(room);
  const path = `${room.path}/live`;
  const sockets: TestSocket[] = [];
  await eventually('those of other tests are gone', async () => {
    const socket = await socketOf(fan, path);
    if (socket.answered === 101) sockets.push(socket);
    return sockets.length === 3;
  });
  t.match(JSON.parse((await socketOf(fan, path)).text), { code: 'overloaded' });
  t.match(await gates.metrics[0]?.text(), /anteroom_tunnels_open 3$/m);
  sockets[0]?.close();
  await eventually('there is room again', async () => (await socketOf(fan, path)).answered === 101);
});

t.test('a server that stops says so to both sides', async (t) => {
  const server = createServer({
    name: 'edge',
    host: '127.0.0.1',
    port: 0,
    log: silentLog,
    bodyBytesMax: 100,
    slowReaderMs: 60_000,
    trustedProxies: [],
  });
  const told: (string | number)[] = [];
  server.otherwise(({ asksSocket }) =>
    asksSocket === true
      ? {
          tunnel: true,
          protocol: '',
          open: (socket: TunnelSocket) => void socket.send(Buffer.from('open'), false),
          message: () => undefined,
          writable: () => undefined,
          closed: (code: number, reason: string) => void told.push(code, reason),
        }
      : { status: 200, body: 'plain' },
  );
  const { port } = await server.listen();
  const socket = await openSocket(`http://127.0.0.1:${port}/x`);
  t.equal(await socket.next(), 'open');
  const old = await openSocket(`http://127.0.0.1:${port}/x`, { headers: { 'sec-websocket-version': '8' } });
  t.equal(old.text, 'plain', 'a handshake of another version is an ordinary request');
  await server.close(100);
  t.equal(await socket.closed, 1001);
  t.same(told, [1001, 'going away']);
});

t.test('frames are read the same however they are cut', async (t) => {
  fc.assert(
    fc.property(
      fc.array(
        fc.record({
          parts: fc.array(fc.uint8Array({ maxLength: 300 }), { minLength: 1, maxLength: 3 }),
          isBinary: fc.boolean(),
          ping: fc.option(fc.uint8Array({ maxLength: 125 })),
        }),
        { maxLength: 5 },
      ),
      fc.array(fc.integer({ min: 1, max: 200 }), { minLength: 1 }),
      (sent, cuts) => {
        const bytes: Buffer[] = [];
        const expected: string[] = [];
        for (const { parts, isBinary, ping } of sent) {
          for (const [index, part] of parts.entries()) {
            const isLast = index === parts.length - 1;
            bytes.push(serverFrame(index > 0 ? 0 : isBinary ? BINARY : TEXT, Buffer.from(part), isLast));
            if (index > 0 || ping === null) continue;
            bytes.push(serverFrame(PING, Buffer.from(ping)));
            expected.push(`${PING} ${Buffer.from(ping).toString('hex')}`);
          }
          const whole = `${isBinary ? BINARY : TEXT} ${Buffer.concat(parts).toString('hex')}`;
          // A ping after the only frame of a message follows it; inside a message it comes first.
          if (parts.length === 1 && ping !== null) expected.splice(-1, 0, whole);
          else expected.push(whole);
        }
        const read = createFrameReader(1000);
        const all = Buffer.concat(bytes);
        const seen: string[] = [];
        for (let at = 0, turn = 0; at < all.length; turn += 1) {
          const next = at + cuts[turn % cuts.length]!;
          const { messages, fault } = read(all.subarray(at, next));
          if (fault !== undefined) return false;
          for (const { opcode, payload } of messages) seen.push(`${opcode} ${payload.toString('hex')}`);
          at = next;
        }
        return seen.join() === expected.join();
      },
    ),
    { seed: seedOf(t, 1) },
  );
});

t.test('a frame that breaks the rules is a fault', async (t) => {
  const faultOf = (...frames: Buffer[]) => createFrameReader(1000)(Buffer.concat(frames)).fault?.code;
  const reserved = serverFrame(TEXT, 'x');
  reserved[0]! |= 0x40;
  t.equal(faultOf(reserved), 1002, 'a reserved bit');
  t.equal(faultOf(maskedFrame(TEXT, Buffer.from('x'))), 1002, 'masked');
  t.equal(faultOf(serverFrame(3, 'x')), 1002, 'an unknown opcode');
  t.equal(faultOf(serverFrame(11, 'x')), 1002, 'an unknown control opcode');
  t.equal(faultOf(serverFrame(PING, 'x'.repeat(126))), 1002, 'a long ping');
  t.equal(faultOf(serverFrame(PING, 'x', false)), 1002, 'half a ping');
  t.equal(faultOf(serverFrame(0, 'x')), 1002, 'a middle without a start');
  t.equal(faultOf(serverFrame(TEXT, 'x', false), serverFrame(TEXT, 'y')), 1002, 'a start in the middle');
  t.equal(faultOf(serverFrame(TEXT, 'x'.repeat(1001))), 1009);
  t.equal(faultOf(serverFrame(TEXT, 'x'.repeat(600), false), serverFrame(0, 'x'.repeat(600))), 1009);
  t.equal(faultOf(serverFrame(TEXT, 'x'.repeat(1000))), undefined);
});
