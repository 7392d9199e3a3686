// WebSockets to origins: the handshake of RFC 6455, section 4.1, and the connection that comes of it. Beside
// kernel/fetch.ts because such a connection is none of a pool's: it lasts, and belongs to one fan.
//
// Promises: a deadline for the handshake; an origin that answers anything but a handshake is heard (its answer is
// handed over as it is); whole messages of a bounded length, pings answered here; a silent connection is pinged, and
// cut when nothing comes back; nothing is read while the fan is slow.

import { createHash, randomBytes } from 'node:crypto';
import { type ClientRequest, type IncomingMessage, request as plainRequest } from 'node:http';
import { request as secureRequest } from 'node:https';
import type { Duplex } from 'node:stream';
import { Refusal } from './errors.ts';
import { closePayload, createFrameReader, maskedFrame, OPCODE } from './frames.ts';
import type { FlatHeaders } from './head.ts';

type HeaderPairs = [name: string, value: string][];

export type OriginSocket = {
  outcome: 'open';
  /** The subprotocol the origin chose; empty for none. */
  protocol: string;
  /** Begins reading. `closed` comes once: 1005 for a close without a code, 1006 for a cut connection. */
  listen(to: {
    message(payload: Buffer, isBinary: boolean): void;
    closed(code: number, reason: string): void;
  }): void;
  send(payload: Uint8Array, isBinary: boolean): void;
  /** What waits because the origin reads too slowly. */
  readonly waitingBytes: number;
  pause(): void;
  resume(): void;
  /** 1005 for no code; 1006 cuts the connection. */
  end(code: number, reason: string): void;
};
export type OriginAnswer = {
  outcome: 'answered';
  status: number;
  headers: HeaderPairs;
  body: AsyncIterable<Uint8Array>;
};

/** RFC 6455, section 1.3. */
const ACCEPT_SALT = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';
const HEAD_BYTES_MAX = 16_384;
/** Two of them in a row without a byte from the origin, and it is gone. */
const SILENT_MS = 30_000;
/** How long the other side may take to answer a close. */
const CLOSE_MS = 2000;

const pairsOf = ({ rawHeaders }: IncomingMessage): HeaderPairs => {
  const pairs: HeaderPairs = [];
  for (let index = 0; index + 1 < rawHeaders.length; index += 2)
    pairs.push([rawHeaders[index]!.toLowerCase(), rawHeaders[index + 1]!]);
  return pairs;
};

const openedOn = (
  wire: Duplex,
  head: Buffer,
  options: { protocol: string; bytesMax: number },
): OriginSocket => {
  const read = createFrameReader(options.bytesMax);
  let listener: Parameters<OriginSocket['listen']>[0] | undefined;
  let isPinged = false;
  let isOver = false;
  let timer: NodeJS.Timeout | undefined;

  const over = (code: number, reason: string): void => {
    if (isOver) return;
    isOver = true;
    clearInterval(timer);
    listener?.closed(code, reason);
  };
  const finish = (code: number, reason: string): void => {
    isOver = true;
    clearInterval(timer);
    if (code === 1006) return void wire.destroy();
    wire.end(maskedFrame(OPCODE.close, closePayload(code, reason)));
    wire.resume();
    setTimeout(() => wire.destroy(), CLOSE_MS).unref();
  };
  const take = (piece: Buffer): void => {
    isPinged = false;
    if (isOver) return;
    const { messages, fault } = read(piece);
    for (const { opcode, payload } of messages) {
      if (isOver) return;
      if (opcode === OPCODE.ping) wire.write(maskedFrame(OPCODE.pong, payload));
      else if (opcode === OPCODE.close) {
        const code = payload.length >= 2 ? payload.readUInt16BE(0) : 1005;
        const reason = payload.subarray(2).toString('utf8');
        over(code, reason);
        finish(code, reason);
      } else if (opcode !== OPCODE.pong) listener?.message(payload, opcode === OPCODE.binary);
    }
    if (fault === undefined || isOver) return;
    over(fault.code === 1009 ? 1009 : 1006, fault.says);
    finish(fault.code, fault.says);
  };

  wire.on('error', () => wire.destroy()); // What is lost with it is said by `close`.
  wire.once('close', () => over(1006, ''));
  return {
    outcome: 'open',
    protocol: options.protocol,
    listen(to) {
      listener = to;
      if (wire.destroyed) return over(1006, '');
      timer = setInterval(() => {
        if (isPinged) wire.destroy();
        // Not while the fan is slow: nothing is read then, the answer neither.
        else if (!wire.isPaused()) {
          isPinged = true;
          wire.write(maskedFrame(OPCODE.ping, Buffer.alloc(0)));
        }
      }, SILENT_MS);
      timer.unref();
      if (head.length > 0) take(head);
      wire.on('data', take);
    },
    send(payload, isBinary) {
      if (!isOver) wire.write(maskedFrame(isBinary ? OPCODE.binary : OPCODE.text, payload));
    },
    get waitingBytes() {
      return wire.writableLength;
    },
    pause: () => void wire.pause(),
    resume: () => void wire.resume(),
    end(code, reason) {
      if (!isOver) finish(code, reason);
    },
  };
};

/** Asks an origin for a WebSocket. Throws Refusal when there is no answer, or an answer that makes no sense. */
export const openOriginSocket = (ask: {
  origin: string;
  path: string;
  /** Without those of the handshake. */
  headers: FlatHeaders;
  /** What the fan's side can speak; the origin may choose one. */
  protocols: readonly string[];
  timeoutMs: number;
  /** Longest message. */
  bytesMax: number;
  signal: AbortSignal;
}): Promise<OriginSocket | OriginAnswer> =>
  new Promise((resolve, reject) => {
    const url = new URL(ask.origin);
    const key = randomBytes(16).toString('base64');
    const request = url.protocol === 'https:' ? secureRequest : plainRequest;
    let deadline: NodeJS.Timeout | undefined;
    const refuse = (code: 'origin-unreachable' | 'origin-timeout', cause: unknown): void => {
      clearTimeout(deadline);
      reject(new Refusal(code, { cause }));
    };
    let asked: ClientRequest;
    try {
      asked = request({
        protocol: url.protocol,
        hostname: url.hostname.replace(/^\[|\]$/g, ''),
        port: url.port,
        path: ask.path,
        agent: false,
        maxHeaderSize: HEAD_BYTES_MAX,
        signal: ask.signal,
        // Names and values alternately keep repetitions apart.
        headers: [
          ...['host', url.host, 'connection', 'Upgrade', 'upgrade', 'websocket'],
          ...['sec-websocket-version', '13', 'sec-websocket-key', key],
          ...(ask.protocols.length === 0 ? [] : ['sec-websocket-protocol', ask.protocols.join(', ')]),
          ...ask.headers,
        ] as unknown as Record<string, string>, // The list form is documented; the types know only the other.
      });
    } catch (cause) {
      reject(new Refusal('bad-header', { cause }));
      return;
    }
    deadline = setTimeout(() => {
      refuse('origin-timeout', new Error('no answer to the handshake'));
      asked.destroy();
    }, ask.timeoutMs);
    asked.on('error', (cause) => refuse('origin-unreachable', cause));
    asked.once('response', (answer) => {
      clearTimeout(deadline);
      answer.on('error', () => undefined); // Whoever reads the body sees it there.
      resolve({
        outcome: 'answered',
        status: answer.statusCode ?? 502,
        headers: pairsOf(answer),
        body: answer,
      });
    });
    asked.once('upgrade', (answer, wire, head) => {
      clearTimeout(deadline);
      const { 'sec-websocket-accept': accept, 'sec-websocket-extensions': extensions } = answer.headers;
      const protocol = answer.headers['sec-websocket-protocol'] ?? '';
      const expected = createHash('sha1').update(`${key}${ACCEPT_SALT}`).digest('base64');
      if (
        accept !== expected ||
        extensions !== undefined ||
        (protocol !== '' && !ask.protocols.includes(protocol))
      ) {
        wire.destroy();
        return refuse('origin-unreachable', new Error('the origin answered another handshake'));
      }
      resolve(openedOn(wire, head, { protocol, bytesMax: ask.bytesMax }));
    });
    asked.end();
  });
