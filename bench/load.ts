// The load: keep-alive connections that send ready-made bytes and count answers by their status line. A general
// HTTP client would be the limit long before uWebSockets is; this one does little more than the system calls. It knows
// answers with a length or in chunks, and any fault ends the slice.

import { connect, type Socket } from 'node:net';

export type Load = {
  /** `http://host:port`, nothing more. */
  base: string;
  method: 'GET' | 'POST';
  path: string;
  headers: Readonly<Record<string, string>>;
  body?: string;
  /** Every request comes from a made-up address, as a trusted proxy would tell it: bots count joins by network. */
  addresses?: boolean;
};

export type LoadResult = {
  answers: number;
  seconds: number;
  p99Ms: number;
  statuses: ReadonlyMap<number, number>;
};

/** Answers slower than this many tenths of a millisecond are counted in the last one. */
const TENTHS_MAX = 100_000;
const HEAD_END = Buffer.from('\r\n\r\n');
/** Four numbers of three digits each, so that a new address takes the place of the old one byte for byte. */
const someAddress = (): string =>
  Array.from({ length: 4 }, () => 100 + Math.floor(Math.random() * 100)).join('.');

const requestOf = (load: Load): Buffer => {
  const body = load.body ?? '';
  const headers: Record<string, string> = {
    host: load.base.replace('http://', ''),
    ...load.headers,
    ...(load.body === undefined ? {} : { 'content-length': String(Buffer.byteLength(body)) }),
    ...(load.addresses ? { 'x-forwarded-for': someAddress() } : {}),
  };
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  return Buffer.from(`${load.method} ${load.path} HTTP/1.1\r\n${lines.join('')}\r\n${body}`);
};

/** Where a chunked body that begins at `at` ends (RFC 9112, section 7.1); undefined while it is not all there. */
const chunkedEnd = (data: Buffer, at: number): number | undefined => {
  for (let position = at; ; ) {
    const lineEnd = data.indexOf('\r\n', position, 'latin1');
    if (lineEnd < 0) return undefined;
    const size = Number.parseInt(data.toString('latin1', position, lineEnd), 16);
    if (Number.isNaN(size)) throw new Error('a chunk without a size');
    position = lineEnd + 2 + size + 2;
    if (data.length < position) return undefined;
    if (size === 0) return position;
  }
};

/** Status and length of the answer at the start of `data`; undefined while it is not there as a whole. */
const readAnswer = (data: Buffer): { status: number; bytes: number } | undefined => {
  const headEnd = data.indexOf(HEAD_END);
  if (headEnd < 0) return undefined;
  const head = data.toString('latin1', 0, headEnd);
  const status = Number(head.slice(9, 12));
  const bodyAt = headEnd + HEAD_END.length;
  const length = /\r\ncontent-length: *(\d+)/i.exec(head)?.[1];
  if (length !== undefined) {
    const bytes = bodyAt + Number(length);
    return data.length < bytes ? undefined : { status, bytes };
  }
  if (!/\r\ntransfer-encoding: *chunked/i.test(head))
    throw new Error(`an answer without a length: ${head.slice(0, 80)}`);
  const bytes = chunkedEnd(data, bodyAt);
  return bytes === undefined ? undefined : { status, bytes };
};

/**
 * Sends for `seconds` on `connections` connections, one request at a time on each. With `perSecond` all of them
 * together send so many, evenly spread; a request whose turn came while its connection still waited counts from its
 * turn, so that a server which stalls cannot hide it.
 */
export const runLoad = (
  load: Load,
  options: { connections: number; seconds: number; perSecond?: number },
): Promise<LoadResult> => {
  const spaceMs = options.perSecond === undefined ? 0 : (options.connections / options.perSecond) * 1000;
  const url = new URL(load.base);
  const statuses = new Map<number, number>();
  const tenths = new Uint32Array(TENTHS_MAX + 1);
  let answers = 0;
  let opened = 0;
  let open = options.connections;
  let begun = 0;
  let until = Number.POSITIVE_INFINITY;
  let ended = 0;

  const p99Ms = (): number => {
    let left = answers * 0.99;
    const index = tenths.findIndex((count) => {
      left -= count;
      return left <= 0;
    });
    return index / 10;
  };

  return new Promise((resolve, reject) => {
    const sockets: Socket[] = [];
    const fail = (error: Error): void => {
      for (const socket of sockets) socket.destroy();
      reject(error);
    };
    const start: (() => void)[] = [];
    for (let index = 0; index < options.connections; index++) {
      const bytes = requestOf(load);
      const addressAt = bytes.indexOf('x-forwarded-for: ') + 'x-forwarded-for: '.length;
      const socket = connect({ host: url.hostname, port: Number(url.port), noDelay: true });
      sockets.push(socket);
      let sentAt = 0;
      let turnAt = 0;
      let rest: Buffer | undefined;
      const send = (): void => {
        // The last request was answered, so its bytes are free to be written over.
        if (load.addresses) bytes.write(someAddress(), addressAt, 'latin1');
        sentAt = performance.now();
        socket.write(bytes);
      };
      const sendInTurn = (): void => {
        turnAt += spaceMs;
        const aheadMs = turnAt - performance.now();
        if (aheadMs > 0) {
          // A timer that comes late is the load's own fault, so it counts from the sending.
          setTimeout(send, aheadMs);
          return;
        }
        send();
        sentAt = turnAt;
      };
      start.push(() => {
        turnAt = begun + (spaceMs * (index - options.connections)) / options.connections;
        if (spaceMs === 0) send();
        else sendInTurn();
      });
      socket.on('data', (chunk: Buffer) => {
        rest = rest === undefined ? chunk : Buffer.concat([rest, chunk]);
        try {
          const answer = readAnswer(rest);
          if (answer === undefined) return;
          if (answer.bytes !== rest.length) throw new Error('more bytes than one answer has');
          rest = undefined;
          answers += 1;
          statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1);
        } catch (error) {
          fail(error instanceof Error ? error : new Error(String(error)));
          return;
        }
        const now = performance.now();
        tenths[Math.min(TENTHS_MAX, Math.floor((now - sentAt) * 10))]! += 1;
        if (now < until) {
          if (spaceMs === 0) send();
          else sendInTurn();
          return;
        }
        ended = now;
        open -= 1;
        socket.destroy();
        if (open === 0) resolve({ answers, seconds: (ended - begun) / 1000, p99Ms: p99Ms(), statuses });
      });
      socket.on('error', fail);
      socket.on('end', () => fail(new Error('the server closed a connection under load')));
      socket.on('connect', () => {
        opened += 1;
        if (opened < options.connections) return;
        begun = performance.now();
        until = begun + options.seconds * 1000;
        for (const send of start) send();
      });
    }
  });
};
