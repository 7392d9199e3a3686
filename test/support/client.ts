// Clients for tests, on node: modules alone: an event stream, a WebSocket and raw bytes on a socket. They are
// deliberately plain, so that a test sees what really came over the wire.

import { createHash, randomBytes } from 'node:crypto';
import { EventEmitter } from 'node:events';
import { type IncomingHttpHeaders, type IncomingMessage, request } from 'node:http';
import { connect } from 'node:net';
import type { Duplex } from 'node:stream';
import { readAnswers } from '../fuzz/reading.ts';

/** Values in the order they come; `next` waits, and answers undefined after the end. */
type Inbox<T> = {
  put(value: T): void;
  end(): void;
  next(deadlineMs?: number): Promise<T | undefined>;
  iterate(): AsyncGenerator<T>;
};

/** Whoever waits for the next value expects one: so long a silence is a fault, on any machine. */
const NEXT_MS_MAX = 60_000;

const createInbox = <T>(): Inbox<T> => {
  const values: T[] = [];
  const waiting: ((value: T | undefined) => void)[] = [];
  let ended = false;
  const next = (deadlineMs = NEXT_MS_MAX): Promise<T | undefined> => {
    const ready = values.shift();
    if (ready !== undefined || ended) return Promise.resolve(ready);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        waiting.splice(waiting.indexOf(take), 1);
        reject(new Error(`nothing came within ${deadlineMs} ms`));
      }, deadlineMs);
      const take = (value: T | undefined) => {
        clearTimeout(timer);
        resolve(value);
      };
      waiting.push(take);
    });
  };
  return {
    put(value) {
      const take = waiting.shift();
      if (take === undefined) values.push(value);
      else take(value);
    },
    end() {
      ended = true;
      for (const take of waiting.splice(0)) take(undefined);
    },
    next,
    async *iterate() {
      for (;;) {
        const value = await next();
        if (value === undefined) return;
        yield value;
      }
    },
  };
};

export type ServerEvent = { event: string; id: string; data: string };

export type TestStream = AsyncIterable<ServerEvent> & {
  /** The status of the answer; anything but 200 is a refusal, with its body in `text`. */
  answered: number;
  headers: IncomingHttpHeaders;
  text: string;
  /** The next event; undefined after the end, an error after the deadline. */
  next(deadlineMs?: number): Promise<ServerEvent | undefined>;
  close(): void;
  /** Resolves when the connection is over, whoever ended it. */
  closed: Promise<void>;
  /** The pauses it was told to make before it comes again, in ms, as they came. */
  retries: readonly number[];
  /** Whether the answer ended as it should; false when the connection was cut. */
  whole(): boolean;
};

const textOf = async (answer: IncomingMessage): Promise<string> => {
  const chunks: Buffer[] = [];
  for await (const chunk of answer) chunks.push(chunk);
  return Buffer.concat(chunks).toString('utf8');
};

/** Opens an event stream and parses it (WHATWG HTML, section 9.2.6). Comments are passed over. */
export const openStream = (
  url: string,
  options: { headers?: Record<string, string>; localAddress?: string } = {},
): Promise<TestStream> =>
  new Promise((resolve, reject) => {
    const asked = request(url, {
      agent: false,
      headers: { accept: 'text/event-stream', ...options.headers },
      ...(options.localAddress === undefined ? {} : { localAddress: options.localAddress }),
    });
    asked.once('error', reject);
    asked.once('response', async (answer) => {
      const inbox = createInbox<ServerEvent>();
      const closed = new Promise<void>((done) => answer.once('close', done));
      const retries: number[] = [];
      const stream: TestStream = {
        retries,
        whole: () => answer.complete,
        answered: answer.statusCode ?? 0,
        headers: answer.headers,
        text: '',
        next: inbox.next,
        close: () => asked.destroy(),
        closed,
        [Symbol.asyncIterator]: inbox.iterate,
      };
      // A connection cut by either side ends the stream; the test sees it as `closed`.
      asked.removeListener('error', reject);
      asked.on('error', inbox.end);
      answer.on('error', inbox.end);
      answer.once('close', inbox.end);
      if (stream.answered !== 200) {
        try {
          stream.text = await textOf(answer);
        } catch (error) {
          reject(error);
        }
        inbox.end();
        return resolve(stream);
      }
      let rest = '';
      let current = { event: 'message', id: '', data: [] as string[] };
      answer.setEncoding('utf8');
      answer.on('data', (chunk: string) => {
        const lines = (rest + chunk).split(/\r?\n/);
        rest = lines.pop() ?? '';
        for (const line of lines) {
          if (line === '') {
            if (current.data.length > 0)
              inbox.put({ event: current.event, id: current.id, data: current.data.join('\n') });
            current = { event: 'message', id: current.id, data: [] };
            continue;
          }
          const colon = line.indexOf(':');
          if (colon === 0) continue;
          const name = colon < 0 ? line : line.slice(0, colon);
          const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
          if (name === 'retry') retries.push(Number(value));
          else if (name === 'event') current.event = value;
          else if (name === 'id') current.id = value;
          else if (name === 'data') current.data.push(value);
        }
      });
      resolve(stream);
    });
    asked.end();
  });

export type TestSocket = AsyncIterable<string> & {
  /** 101, or the status of the refusal with its body in `text`. */
  answered: number;
  headers: IncomingHttpHeaders;
  text: string;
  /** The next message, a binary one as `0x…`; undefined after the end, an error after the deadline. */
  next(deadlineMs?: number): Promise<string | undefined>;
  send(text: string): void;
  /** Sends one unfragmented frame with any opcode, masked as RFC 6455 section 5.3 asks of clients. */
  sendFrame(opcode: number, payload: Buffer): void;
  /** Stops and starts reading from the kernel, to play a slow reader. */
  pause(): void;
  resume(): void;
  close(): void;
  /** The close code, or 1006 when the connection was cut without one. */
  closed: Promise<number>;
};

const OPCODE = { text: 1, binary: 2, close: 8, ping: 9, pong: 10 };

const maskedFrame = (opcode: number, payload: Buffer): Buffer => {
  const mask = randomBytes(4);
  const length = payload.length;
  const head = length < 126 ? Buffer.alloc(2) : length < 65_536 ? Buffer.alloc(4) : Buffer.alloc(10);
  head[0] = 0x80 | opcode;
  if (length < 126) head[1] = 0x80 | length;
  else if (length < 65_536) {
    head[1] = 0x80 | 126;
    head.writeUInt16BE(length, 2);
  } else {
    head[1] = 0x80 | 127;
    head.writeBigUInt64BE(BigInt(length), 2);
  }
  return Buffer.concat([head, mask, payload.map((byte, index) => byte ^ mask[index % 4]!)]);
};

/** Opens a WebSocket (RFC 6455) without extensions. Answers pings, as a browser does. */
export const openSocket = (
  url: string,
  options: { headers?: Record<string, string> } = {},
): Promise<TestSocket> =>
  new Promise((resolve, reject) => {
    const key = randomBytes(16).toString('base64');
    const asked = request(url.replace(/^ws/, 'http'), {
      agent: false,
      headers: {
        connection: 'Upgrade',
        upgrade: 'websocket',
        'sec-websocket-version': '13',
        'sec-websocket-key': key,
        ...options.headers,
      },
    });
    const inbox = createInbox<string>();
    const made = (
      answer: IncomingMessage,
      wire: Duplex | undefined,
      closed: Promise<number>,
    ): TestSocket => ({
      answered: answer.statusCode ?? 0,
      headers: answer.headers,
      text: '',
      next: inbox.next,
      send: (text) => wire?.write(maskedFrame(OPCODE.text, Buffer.from(text))),
      sendFrame: (opcode, payload) => wire?.write(maskedFrame(opcode, payload)),
      pause: () => wire?.pause(),
      resume: () => wire?.resume(),
      close: () => wire?.destroy(),
      closed,
      [Symbol.asyncIterator]: inbox.iterate,
    });
    asked.once('error', reject);
    asked.once('response', async (answer) => {
      try {
        inbox.end();
        const refused = made(answer, undefined, Promise.resolve(1006));
        refused.text = await textOf(answer);
        resolve(refused);
      } catch (error) {
        reject(error);
      }
    });
    asked.once('upgrade', (answer, wire, head) => {
      const expected = createHash('sha1')
        .update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`)
        .digest('base64');
      if (answer.headers['sec-websocket-accept'] !== expected)
        return reject(new Error('the server answered another handshake'));
      let code = 1006;
      const closed = new Promise<number>((done) => wire.once('close', () => done(code)));
      wire.once('close', inbox.end);
      wire.on('error', inbox.end);
      let rest: Buffer = head;
      const take = (chunk: Buffer) => {
        rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
        for (;;) {
          if (rest.length < 2) return;
          const short = rest[1]! & 127;
          const at = short < 126 ? 2 : short === 126 ? 4 : 10;
          if (rest.length < at) return;
          const length =
            short < 126 ? short : short === 126 ? rest.readUInt16BE(2) : Number(rest.readBigUInt64BE(2));
          if (rest.length < at + length) return;
          const opcode = rest[0]! & 15;
          const payload = rest.subarray(at, at + length);
          rest = rest.subarray(at + length);
          if (opcode === OPCODE.text) inbox.put(payload.toString('utf8'));
          else if (opcode === OPCODE.binary) inbox.put(`0x${payload.toString('hex')}`);
          else if (opcode === OPCODE.ping) wire.write(maskedFrame(OPCODE.pong, payload));
          else if (opcode === OPCODE.close) {
            code = payload.length >= 2 ? payload.readUInt16BE(0) : 1005;
            wire.end(maskedFrame(OPCODE.close, payload));
          }
        }
      };
      wire.on('data', take);
      resolve(made(answer, wire, closed));
      take(Buffer.alloc(0));
    });
    asked.end();
  });

export type RawAnswer = {
  text: string;
  /** Whether the server ended or reset the connection. */
  closed: boolean;
};

/** A connection that stays silent for this long is a fault, whatever the test expects. */
const SILENT_MS_MAX = 90_000;
const methodsIn = (bytes: Buffer): string[] =>
  [...bytes.toString('latin1').matchAll(/(?:^|\r\n\r\n)([A-Z]+) /g)].map(([, method]) => method!);

export type RawOptions = {
  /** How many complete answers to wait for (1). If request or answer say `Connection: close`, also for the end. */
  answers?: number;
  /** Pause between one piece and the next (20). */
  pieceMs?: number;
  /** Each piece is a request, sent when those before it are answered: a client that does not pipeline. */
  inTurn?: boolean;
  host?: string;
  /** The client leaves when this settles, answered or not. */
  leave?: () => Promise<unknown>;
  /** For a request that may stay unanswered: the client leaves if nothing has come when this settles. */
  unlessSilent?: () => Promise<unknown>;
};

/**
 * Sends bytes as they are and collects whatever comes back, until the answers are complete or the server closes.
 * Silence is never an answer: a test says what must happen elsewhere before it stops waiting (`leave`,
 * `unlessSilent`). Leaving closes the client's side; what the server still sends before it closes is collected, too.
 */
export const rawRequest = async (
  port: number,
  bytes: string | Buffer | readonly (string | Buffer)[],
  options: RawOptions = {},
): Promise<RawAnswer> => {
  const pieces = (typeof bytes === 'string' || Buffer.isBuffer(bytes) ? [bytes] : bytes).map((piece) =>
    typeof piece === 'string' ? Buffer.from(piece, 'latin1') : piece,
  );
  const asked = Buffer.concat(pieces);
  const methods = methodsIn(asked);
  const asksClose = /\r\nconnection: close\r\n/i.test(asked.toString('latin1'));
  const wire = connect({ port, host: options.host ?? '127.0.0.1' });
  let came: Buffer = Buffer.alloc(0);
  const answered = new EventEmitter();
  const isAnswered = (wanted: number) =>
    new Promise<void>((resolve) => {
      answered.on('count', (count) => count >= wanted && resolve());
      wire.once('close', resolve);
    });
  const over = new Promise<boolean>((resolve, reject) => {
    wire.setTimeout(SILENT_MS_MAX, () =>
      reject(new Error(`silent: ${pieces[0]?.toString('latin1', 0, 200)}`)),
    );
    wire.on('data', (chunk) => {
      came = Buffer.concat([came, chunk]);
      const answers = readAnswers(came, methods)?.answers ?? [];
      const closes = asksClose || answers.at(-1)?.closes === true;
      answered.emit('count', answers.length);
      if (answers.length >= (options.answers ?? 1) && !closes) resolve(false);
    });
    wire.once('end', () => resolve(true));
    wire.once('error', (error: NodeJS.ErrnoException) =>
      error.code === 'ECONNRESET' || error.code === 'EPIPE' ? resolve(true) : reject(error),
    );
  });
  const sent = async (): Promise<void> => {
    if (wire.connecting) await new Promise((resolve) => wire.once('connect', resolve).once('close', resolve));
    for (const [index, piece] of pieces.entries()) {
      if (index > 0 && options.inTurn !== true)
        await new Promise((resume) => setTimeout(resume, options.pieceMs ?? 20));
      if (wire.destroyed) return;
      wire.write(piece);
      if (options.inTurn === true) await isAnswered(index + 1);
    }
    await options.unlessSilent?.();
    await options.leave?.();
    const isSilent = options.unlessSilent !== undefined && came.length === 0;
    if (isSilent || options.leave !== undefined) wire.end();
  };
  try {
    const [closed] = await Promise.all([over, sent()]);
    return { text: came.toString('latin1'), closed };
  } finally {
    wire.destroy();
  }
};
