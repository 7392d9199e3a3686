// The one file that knows undici: requests to origins, to booking-core and to payment providers. It promises a
// bounded number of connections and of requests that wait for one (`overloaded` beyond), a deadline for every step,
// and one attempt: nothing is redirected, and only what the caller says may happen twice, and was sent on a used
// connection that turned out to be closed, goes out once more. What the network does wrong becomes
// `origin-unreachable` or `origin-timeout`, with the cause for the log. An origin that cannot be reached is left in
// peace for a while (kernel/breaker.ts).

import type { Readable } from 'node:stream';
import { buildConnector, Client, type Dispatcher, errors } from 'undici';
import { Breaker, type BreakerOptions, type BreakerState } from './breaker.ts';
import { type Clock, systemClock } from './clock.ts';
import { createDeadlines, type Deadlines, type Due } from './deadlines.ts';
import { type ErrorCode, Refusal } from './errors.ts';
import type { FlatHeaders } from './head.ts';

type Header = [name: string, value: string];

export type Fetched = {
  status: number;
  /** In wire order, names in lower case; repeated names stay apart (`set-cookie`). Bytes beyond ASCII are latin1. */
  headers: Header[];
  /** Must be read, or ended with `return()`: until then it holds its connection. */
  body: AsyncIterable<Uint8Array>;
  /** All of the body, where it was asked for whole (`wholeBytesMax`); `body` is empty then. */
  whole?: Uint8Array | undefined;
};

/** Whom an answer is fetched for: `waiter` is told when they leave. Costs a fraction of an AbortSignal. */
export type Reader = { waiter?: { leave(): void } | undefined };

type Ask = {
  /** Scheme, host and port, e.g. `http://127.0.0.1:8082`. */
  origin: string;
  method: string;
  /** Path and query, sent as they are. */
  path: string;
  /** Ends the request and its answer's body. */
  signal?: AbortSignal;
  /** Longest wait for the answer's head; default `headersTimeoutMs`. Begins anew with each piece of a body sent. */
  timeoutMs?: number;
};

/** A body that is not here yet: sent as it comes, as fast as the origin takes it. */
export type Outgoing = { bytes: number; pieces: AsyncIterable<Uint8Array> };

type Sent = Ask & {
  headers: FlatHeaders;
  body?: Buffer | Outgoing;
  /** May happen twice: sent once more when a used connection was closed before the answer's head. */
  isRepeatable?: boolean;
  /** Will last (an event stream): on a connection beside the ordinary ones. */
  isLasting?: boolean;
  /** A body that declares no more than this comes whole, and a fault in it is a fault of the request. */
  wholeBytesMax?: number;
  reader?: Reader;
};

export type Fetcher = {
  /** The head of an answer, with its body to be streamed. Rejects with Refusal. */
  send(ask: Sent): Promise<Fetched>;
  /**
   * Sends and reads one JSON value; `value` is undefined when the answer has no body. `timeoutMs` bounds the whole
   * exchange. An answer that is not JSON, or longer than 1 MiB, is `origin-unreachable`: it is not what we asked.
   */
  json(
    ask: Ask & { headers?: readonly (readonly [name: string, value: string])[]; body?: unknown },
  ): Promise<{
    status: number;
    value: unknown;
  }>;
  /** `closed` is the ordinary state: requests go out. */
  stateOf(origin: string): BreakerState;
  /** Waits for what is under way for at most a second, then closes every connection. */
  close(): Promise<void>;
};

/** uWebSockets closes idle connections at 10 s. One that we believe alive at that moment would lose a request. */
const KEEP_ALIVE_MS = 4000;
/** Between two pieces of an ordinary body. An event stream has no such limit: silence is its normal state. */
const BODY_IDLE_MS = 30_000;
/** What is kept of a body that is read slowly; then its connection is not read any more. */
const KEPT_BYTES_MAX = 65_536;
const JSON_BYTES_MAX = 1_048_576;
const CLOSE_MS = 1000;
const HEAD_BYTES_MAX = 16_384;
/** Origins whose state is remembered; there are as many as rooms at most. */
const ORIGINS_MAX = 1000;

/** Our word for what went wrong between us and an origin; a throw that is not about the network is passed on. */
const refusalFor = (cause: unknown): unknown => {
  if (
    cause instanceof errors.HeadersTimeoutError ||
    cause instanceof errors.BodyTimeoutError ||
    cause instanceof errors.ConnectTimeoutError
  )
    return new Refusal('origin-timeout', { cause });
  // Headers come from strangers: one with a control character is the sender's fault, not the origin's.
  if (cause instanceof errors.InvalidArgumentError) return new Refusal('bad-header', { cause });
  if (cause instanceof errors.UndiciError) return new Refusal('origin-unreachable', { cause });
  // The caller's own signal, which the caller knows about.
  if (cause instanceof DOMException && cause.name === 'AbortError') return cause;
  if (cause instanceof DOMException && cause.name === 'TimeoutError')
    return new Refusal('origin-timeout', { cause });
  // System errors of the socket (ECONNREFUSED, ENOTFOUND, ECONNRESET, TLS faults) carry a code.
  if (cause instanceof Error && 'code' in cause) return new Refusal('origin-unreachable', { cause });
  return cause;
};

/** Connections of one kind to one origin, each a client of undici's that carries one request at a time. */
class Lane {
  /** Requests under way, those that wait for a connection among them. */
  count = 0;
  /** In the order in which they came. */
  readonly waiting = new Set<Carriage>();
  readonly countMax: number;
  private readonly connectionsMax: number;
  private readonly open: () => Client;
  /** The one used last is used next, so that as few as possible stay open. */
  private readonly idle: Client[] = [];
  private readonly all: Client[] = [];
  private isDropped = false;

  constructor(made: { connectionsMax: number; countMax: number; open: () => Client }) {
    this.connectionsMax = made.connectionsMax;
    this.countMax = made.countMax;
    this.open = made.open;
  }

  enter(carriage: Carriage): void {
    this.count += 1;
    let client = this.idle.pop();
    if (client === undefined) {
      if (this.all.length >= this.connectionsMax) {
        this.waiting.add(carriage);
        return;
      }
      client = this.open();
      this.all.push(client);
    }
    carriage.board(client);
  }

  /** Whoever leaves while there was no connection yet. */
  giveUp(carriage: Carriage): void {
    if (this.waiting.delete(carriage)) this.count -= 1;
  }

  /** A request is over, and its connection is the next one's. */
  give(client: Client): void {
    this.count -= 1;
    const next = this.waiting.values().next();
    if (next.done === true) {
      if (this.isDropped) void client.close();
      else this.idle.push(client);
      return;
    }
    this.waiting.delete(next.value);
    next.value.board(client);
  }

  /** Nobody will come any more. */
  drop(): void {
    this.isDropped = true;
    for (const client of this.idle.splice(0)) void client.close();
  }

  async destroy(): Promise<void> {
    for (const one of [...this.waiting]) one.leave();
    await Promise.all(this.all.map((client) => client.destroy()));
  }
}

/** What is known of one origin. */
type Known = { ordinary: Lane; lasting: Lane; breaker: Breaker | undefined; lastCode: ErrorCode };

/** What undici does not say of an error: whether there was no connection at all, and how much had been read from it. */
type Faults = { unconnected: WeakSet<Error>; bytesReadBefore: WeakMap<Error, number> };

type Settled = { resolve: (fetched: Fetched) => void; reject: (refusal: unknown) => void };

/**
 * One request on its way, and its answer. Undici tells it what happens by plain calls, which cost a third of its
 * streams, signals and promises; it is itself the body that is read. Modes: `asking` (no head yet), `answering` (the
 * head is out, or the body is being gathered), `over`.
 */
class Carriage implements Due, Dispatcher.DispatchHandler, AsyncIterableIterator<Uint8Array> {
  dueMs = 0;
  private mode: 'asking' | 'answering' | 'over' = 'asking';
  private readonly ask: Sent;
  private readonly known: Known;
  private readonly lane: Lane;
  private readonly faults: Faults;
  private readonly deadlines: Deadlines;
  private readonly clock: Clock;
  private readonly headMs: number;
  private readonly startedMs: number;
  private idleMs: number;
  private settled: Settled | undefined;
  private client: Client | undefined;
  private abort: ((reason: Error) => void) | undefined;
  private resumeReading: (() => void) | undefined;
  private isSecond = false;
  /** Why it ended early. */
  private fault: unknown;
  private fetched: Fetched | undefined;
  private isWhole = false;
  private isPaused = false;
  private kept: Buffer[] = [];
  private keptBytes = 0;
  private wake: (() => void) | undefined;
  private unsignal: (() => void) | undefined;

  constructor(made: {
    ask: Sent;
    known: Known;
    lane: Lane;
    faults: Faults;
    deadlines: Deadlines;
    clock: Clock;
    headMs: number;
    idleMs: number;
    settled: Settled;
  }) {
    this.ask = made.ask;
    this.known = made.known;
    this.lane = made.lane;
    this.faults = made.faults;
    this.deadlines = made.deadlines;
    this.clock = made.clock;
    this.startedMs = made.clock.monotonicMs();
    this.headMs = made.headMs;
    this.idleMs = made.idleMs;
    this.settled = made.settled;
  }

  start(): void {
    const { signal, reader } = this.ask;
    this.dueMs = this.startedMs + this.headMs;
    this.deadlines.watch(this);
    if (reader !== undefined) reader.waiter = this;
    if (signal !== undefined) {
      const leave = () => this.cancel(signal.reason);
      signal.addEventListener('abort', leave, { once: true });
      this.unsignal = () => signal.removeEventListener('abort', leave);
    }
    this.lane.enter(this);
  }

  /** Its connection is here, or is being opened. */
  board(client: Client): void {
    this.client = client;
    const { origin, path, method, headers, body } = this.ask;
    const isHere = body === undefined || Buffer.isBuffer(body);
    client.dispatch(
      {
        origin,
        path,
        // The method was checked by the server it came through; undici refuses what is not a token.
        method: method as Dispatcher.HttpMethod,
        headers: isHere ? [...headers] : [...headers, 'content-length', String(body.bytes)],
        // Its documentation takes any async iterable as a body; its types name only the stream among them.
        body: isHere ? (body ?? null) : (this.handedOver(body) as unknown as Readable),
      },
      this,
    );
  }

  /** Hands over a body. The deadline runs only while the origin has the turn, not while a piece is awaited. */
  private handedOver({ pieces }: Outgoing): AsyncIterable<Uint8Array> {
    const source = pieces[Symbol.asyncIterator]();
    const iterator = {
      next: async () => {
        if (this.mode === 'asking') this.dueMs = 0;
        const step = await source.next();
        if (this.mode === 'asking') this.dueMs = this.clock.monotonicMs() + this.headMs;
        return step;
      },
      return: async () => {
        await source.return?.();
        return { done: true as const, value: undefined };
      },
    };
    return { [Symbol.asyncIterator]: () => iterator };
  }

  // What undici says.

  onConnect(abort: (reason?: Error) => void): void {
    this.abort = abort;
    // Left, or too late, while the connection was being opened.
    if (this.mode === 'over') abort(new errors.RequestAbortedError());
  }

  onHeaders(status: number, raw: Buffer[], resume: () => void): boolean {
    if (status < 200) return true;
    this.mode = 'answering';
    this.resumeReading = resume;
    const headers: Header[] = [];
    let declared = Number.NaN;
    for (let index = 0; index + 1 < raw.length; index += 2) {
      const name = raw[index]!.toString('latin1').toLowerCase();
      const value = raw[index + 1]!.toString('latin1');
      if (name === 'content-length') declared = Number(value);
      else if (name === 'content-type' && value.startsWith('text/event-stream')) this.idleMs = 0;
      headers.push([name, value]);
    }
    const nowMs = this.clock.monotonicMs();
    this.known.breaker?.answered(nowMs);
    this.fetched = { status, headers, body: this, whole: undefined };
    const { wholeBytesMax, method } = this.ask;
    this.isWhole =
      wholeBytesMax !== undefined &&
      declared <= wholeBytesMax &&
      method !== 'HEAD' &&
      status !== 204 &&
      status !== 304;
    if (this.isWhole) this.awaitMore(nowMs);
    else this.dueMs = 0;
    if (!this.isWhole) this.settle();
    return true;
  }

  onData(piece: Buffer): boolean {
    this.kept.push(piece);
    this.keptBytes += piece.length;
    if (this.isWhole) {
      this.awaitMore(this.clock.monotonicMs());
      return true;
    }
    this.wake?.();
    this.isPaused = this.keptBytes >= KEPT_BYTES_MAX;
    return !this.isPaused;
  }

  onComplete(): void {
    this.end();
    if (this.isWhole && this.fetched !== undefined) {
      this.fetched.whole = this.kept.length === 1 ? this.kept[0] : Buffer.concat(this.kept);
      this.kept = [];
      this.settle();
    } else this.wake?.();
    this.giveBack();
  }

  onError(error: Error): void {
    if (this.mode === 'asking' && !this.isSecond && this.mayRepeat(error)) {
      this.isSecond = true;
      this.abort = undefined;
      // Not at once: undici is still busy with the connection that was lost.
      setImmediate(() => this.repeat());
      return;
    }
    this.fail(error);
    setImmediate(() => this.giveBack());
  }

  /** Closed by the other side before a head, and good for an answer earlier: it had been idle for too long. */
  private mayRepeat(error: Error): boolean {
    const { isRepeatable, body } = this.ask;
    if (isRepeatable !== true || body !== undefined || this.faults.unconnected.has(error)) return false;
    const read =
      error instanceof errors.SocketError ? error.socket?.bytesRead : this.faults.bytesReadBefore.get(error);
    return (read ?? 0) > 0;
  }

  private repeat(): void {
    if (this.mode === 'over' || this.client === undefined) return this.giveBack();
    this.board(this.client);
  }

  private giveBack(): void {
    const { client } = this;
    if (client === undefined) return;
    this.client = undefined;
    this.lane.give(client);
  }

  // What we say.

  late(): void {
    this.cancel(this.mode === 'asking' ? new errors.HeadersTimeoutError() : new errors.BodyTimeoutError());
  }

  leave(): void {
    this.cancel(new errors.RequestAbortedError());
  }

  /** The next piece of the body has its deadline, where there is one. */
  private awaitMore(nowMs: number): void {
    this.dueMs = this.idleMs === 0 ? 0 : nowMs + this.idleMs;
  }

  private cancel(reason: unknown): void {
    if (this.mode === 'over') return;
    this.fail(reason);
    if (this.client === undefined) this.lane.giveUp(this);
    else this.abort?.(reason instanceof Error ? reason : new errors.RequestAbortedError());
  }

  private fail(cause: unknown): void {
    if (this.mode === 'over') return;
    const { breaker } = this.known;
    const wasAsking = this.mode === 'asking';
    const refusal = refusalFor(cause);
    this.fault = refusal;
    this.end();
    if (wasAsking) {
      const isAway = cause instanceof Error && this.faults.unconnected.has(cause);
      if (refusal instanceof Refusal && (isAway || refusal.code === 'origin-timeout')) {
        this.known.lastCode = refusal.code;
        breaker?.failed(this.clock.monotonicMs(), this.startedMs);
      } else breaker?.left(this.clock.monotonicMs());
    }
    const { settled } = this;
    this.settled = undefined;
    settled?.reject(refusal);
    this.wake?.();
  }

  private end(): void {
    this.mode = 'over';
    this.dueMs = 0;
    this.deadlines.leave(this);
    this.unsignal?.();
    const { reader } = this.ask;
    if (reader?.waiter === this) reader.waiter = undefined;
  }

  private settle(): void {
    const { settled, fetched } = this;
    this.settled = undefined;
    if (fetched !== undefined) settled?.resolve(fetched);
  }

  // The body, for whoever reads it.

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<Uint8Array, undefined>> {
    for (;;) {
      const piece = this.kept.shift();
      if (piece !== undefined) {
        this.keptBytes -= piece.length;
        if (this.isPaused && this.keptBytes < KEPT_BYTES_MAX) {
          this.isPaused = false;
          this.resumeReading?.();
        }
        return { done: false, value: piece };
      }
      if (this.fault !== undefined) throw this.fault;
      if (this.mode === 'over') return { done: true, value: undefined };
      this.awaitMore(this.clock.monotonicMs());
      await new Promise<void>((resolve) => {
        this.wake = resolve;
      });
      this.wake = undefined;
      this.dueMs = 0;
    }
  }

  async return(): Promise<IteratorReturnResult<undefined>> {
    this.kept = [];
    this.leave();
    return { done: true, value: undefined };
  }
}

export const createFetcher = (options: {
  /** Connections to one origin; further requests wait for one, within their deadline. */
  connectionsMax: number;
  /** Requests that wait for one of them; no limit when left out. */
  waitingMax?: number;
  /** Connections to one origin for what lasts; beyond, nobody waits. */
  lastingMax?: number;
  headersTimeoutMs: number;
  connectTimeoutMs?: number;
  /** Longest silence inside an ordinary body. */
  bodyTimeoutMs?: number;
  /** Left out, an origin is asked whatever became of the request before. */
  breaker?: BreakerOptions;
  /** By which deadlines and the rest of an origin are counted; default the system's. */
  clock?: Clock;
}): Fetcher => {
  const { connectionsMax, headersTimeoutMs, connectTimeoutMs = 2000, bodyTimeoutMs = BODY_IDLE_MS } = options;
  const { waitingMax = Number.POSITIVE_INFINITY, lastingMax = connectionsMax, clock = systemClock } = options;
  const origins = new Map<string, Known>();
  /** Those dropped from above, as long as something is under way. */
  const lanes = new Set<Lane>();
  const deadlines = createDeadlines(clock);
  const faults: Faults = { unconnected: new WeakSet(), bytesReadBefore: new WeakMap() };
  const openConnection = buildConnector({ timeout: connectTimeoutMs });
  const connect: buildConnector.connector = (to, done) =>
    openConnection(to, (...result) => {
      const [error, socket] = result;
      if (error !== null) faults.unconnected.add(error);
      socket?.on('error', (late) => faults.bytesReadBefore.set(late, socket.bytesRead));
      done(...result);
    });
  const laneTo = (origin: string, limits: { connectionsMax: number; countMax: number }): Lane => {
    const lane = new Lane({
      ...limits,
      open: () =>
        new Client(origin, {
          pipelining: 1,
          connect,
          keepAliveTimeout: KEEP_ALIVE_MS,
          keepAliveMaxTimeout: KEEP_ALIVE_MS,
          maxHeaderSize: HEAD_BYTES_MAX,
          // Deadlines are kept above: undici's run only once a connection is free, and its body deadline is chosen
          // before the answer's type is known.
          headersTimeout: 0,
          bodyTimeout: 0,
        }),
    });
    lanes.add(lane);
    return lane;
  };

  const forget = ({ ordinary, lasting }: Known): void => {
    for (const lane of [ordinary, lasting]) {
      lane.drop();
      lanes.delete(lane);
    }
  };
  const knownOf = (origin: string): Known => {
    let known = origins.get(origin);
    if (known === undefined) {
      for (const [oldest, dropped] of origins) {
        if (origins.size < ORIGINS_MAX) break;
        // Nobody asks for the oldest any more, or else it is simply learnt again.
        origins.delete(oldest);
        forget(dropped);
      }
      known = {
        ordinary: laneTo(origin, { connectionsMax, countMax: connectionsMax + waitingMax }),
        lasting: laneTo(origin, { connectionsMax: lastingMax, countMax: lastingMax }),
        breaker: options.breaker === undefined ? undefined : new Breaker(options.breaker),
        lastCode: 'origin-unreachable',
      };
      origins.set(origin, known);
    }
    return known;
  };

  const send: Fetcher['send'] = (ask) =>
    new Promise((resolve, reject) => {
      const known = knownOf(ask.origin);
      const lane = ask.isLasting === true ? known.lasting : known.ordinary;
      if (lane.count >= lane.countMax) return reject(new Refusal('overloaded'));
      if (ask.signal?.aborted === true) return reject(refusalFor(ask.signal.reason));
      if (known.breaker?.admit(clock.monotonicMs()) === false) return reject(new Refusal(known.lastCode));
      new Carriage({
        ask,
        known,
        lane,
        faults,
        deadlines,
        clock,
        headMs: ask.timeoutMs ?? headersTimeoutMs,
        idleMs: bodyTimeoutMs,
        settled: { resolve, reject },
      }).start();
    });

  return {
    send,
    stateOf: (origin) => origins.get(origin)?.breaker?.state ?? 'closed',
    async json({ origin, method, path, headers = [], body, signal, timeoutMs = headersTimeoutMs }) {
      // The deadline of a request ends with the head of its answer; this one lasts until the end.
      const whole = new AbortController();
      const due: Due = {
        dueMs: clock.monotonicMs() + timeoutMs,
        late: () => whole.abort(new errors.BodyTimeoutError()),
      };
      deadlines.watch(due);
      try {
        const text = body === undefined ? undefined : Buffer.from(JSON.stringify(body));
        const sent = await send({
          origin,
          method,
          path,
          headers: [
            ...['accept', 'application/json'],
            ...(text === undefined ? [] : ['content-type', 'application/json']),
            ...headers.flat(),
          ],
          signal: signal === undefined ? whole.signal : AbortSignal.any([signal, whole.signal]),
          timeoutMs,
          ...(text === undefined ? {} : { body: text }),
        });
        const chunks: Uint8Array[] = [];
        let bytes = 0;
        for await (const chunk of sent.body) {
          bytes += chunk.length;
          if (bytes > JSON_BYTES_MAX)
            throw new Refusal('origin-unreachable', { cause: new Error('the answer is longer than 1 MiB') });
          chunks.push(chunk);
        }
        if (bytes === 0) return { status: sent.status, value: undefined };
        try {
          const value: unknown = JSON.parse(Buffer.concat(chunks).toString('utf8'));
          return { status: sent.status, value };
        } catch (cause) {
          throw new Refusal('origin-unreachable', { cause });
        }
      } finally {
        deadlines.leave(due);
      }
    },
    async close() {
      const untilMs = clock.monotonicMs() + CLOSE_MS;
      const isBusy = () => [...lanes].some(({ count }) => count > 0);
      while (isBusy() && clock.monotonicMs() < untilMs)
        await new Promise((resolve) => setTimeout(resolve, 10));
      await Promise.all([...lanes].map((lane) => lane.destroy()));
    },
  };
};
