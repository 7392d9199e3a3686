// node bench/flooder.ts BASE PATH SECONDS CONNECTIONS PER_SECOND ADDRESS: joins from one address, thrown at the gateway
// at an even rate whether it answers or not, in a process of its own. A connection sends ahead of its answers; one
// that is cut is opened again. Prints what was sent and what came back as one line of JSON.

import { connect, type Socket } from 'node:net';
import { browserHeaders } from './fan.ts';

const [base = '', path = '', seconds = '0', connections = '0', perSecond = '0', address = ''] =
  process.argv.slice(2);
/** So many requests may be unanswered on one connection. */
const AHEAD_MAX = 64;
const TICK_MS = 5;
const SENT_LATE_MS_MAX = 200;

const url = new URL(base);
const lines = Object.entries({
  host: url.host,
  ...browserHeaders,
  'content-type': 'application/json',
  'content-length': '2',
}).map(([name, value]) => `${name}: ${value}\r\n`);
const request = `POST ${path} HTTP/1.1\r\n${lines.join('')}\r\n{}`;
/** Ready bytes of 1 to AHEAD_MAX requests. */
const bytes = Array.from({ length: AHEAD_MAX + 1 }, (_, count) => Buffer.from(request.repeat(count)));
const STATUS = 'HTTP/1.1 ';
/** Of an answer nothing is looked at but this much. */
const HEARD = STATUS.length + 3;

const done = { sent: 0, answers: 0, refused: 0, opened: 0, cut: 0 };
type Line = { socket: Socket | undefined; ahead: number; isOpen: boolean };
const all: Line[] = Array.from({ length: Number(connections) }, () => ({
  socket: undefined,
  ahead: 0,
  isOpen: false,
}));
let over = false;
let turn = 0;
/** A join that is let in waits for Redis, and a connection on which more came meanwhile is cut: only the refused pile up. */
let aheadMax = 1;

const open = (line: Line): void => {
  const socket = connect({
    host: url.hostname,
    port: Number(url.port),
    localAddress: address,
    noDelay: true,
  });
  line.socket = socket;
  line.ahead = 0;
  socket.on('connect', () => {
    line.isOpen = true;
    done.opened += 1;
    if (done.opened === all.length) start();
  });
  let tail = '';
  socket.setEncoding('latin1');
  socket.on('data', (chunk: string) => {
    const text = tail + chunk;
    let from = 0;
    for (
      let at = text.indexOf(STATUS);
      at >= 0 && at + HEARD <= text.length;
      at = text.indexOf(STATUS, from)
    ) {
      from = at + HEARD;
      done.answers += 1;
      line.ahead -= 1;
      if (!text.startsWith('429', at + STATUS.length)) continue;
      done.refused += 1;
      aheadMax = AHEAD_MAX;
    }
    // A status line may be cut in two.
    tail = text.slice(Math.max(from, text.length - HEARD));
  });
  // Cut by the gateway, with or without a word: a flood goes on with another connection.
  socket.on('error', () => socket.destroy());
  socket.on('close', () => {
    if (line.isOpen) done.cut += 1;
    line.isOpen = false;
    if (!over) open(line);
  });
};

/** Sends what is due by now; what the gateway does not take is not made up for later than a moment. */
const sender = (begunMs: number) => {
  let [fromMs, sent] = [begunMs, 0];
  return (nowMs: number): void => {
    if (nowMs - fromMs > SENT_LATE_MS_MAX) [fromMs, sent] = [nowMs - TICK_MS, 0];
    let due = Math.floor(((nowMs - fromMs) / 1000) * Number(perSecond)) - sent;
    for (let tried = 0; tried < all.length && due > 0; tried += 1) {
      const line = all[turn % all.length]!;
      turn += 1;
      const { socket } = line;
      if (socket === undefined || !line.isOpen || socket.writableLength > 0) continue;
      const count = Math.min(due, aheadMax - line.ahead);
      if (count <= 0) continue;
      socket.write(bytes[count]!);
      line.ahead += count;
      due -= count;
      sent += count;
      done.sent += count;
    }
  };
};

const start = (): void => {
  const begunMs = performance.now();
  const send = sender(begunMs);
  // The first line says that the flood is on.
  console.log();
  const timer = setInterval(() => {
    const nowMs = performance.now();
    if (nowMs - begunMs < Number(seconds) * 1000) return send(nowMs);
    clearInterval(timer);
    over = true;
    for (const { socket } of all) socket?.destroy();
    console.log(JSON.stringify({ ...done, seconds: (nowMs - begunMs) / 1000 }));
  }, TICK_MS);
};

for (const line of all) open(line);
