// The one file that knows undici: requests to origins, to booking-core and to payment providers. It promises a
// bounded number of connections and of requests that wait for one (`overloaded` beyond), a deadline for every step,
// and one attempt: nothing is redirected, and only what the caller says may happen twice, and was sent on a used
// connection that turned out to be closed, goes out once more. What the network does wrong becomes
// `origin-unreachable` or `origin-timeout`, with the cause for the log. An origin that cannot be reached is left in
// peace for a while (kernel/breaker.ts).

import { EventEmitter } from 'node:events';
import type { Readable } from 'node:stream';
import { Agent, buildConnector, type Dispatcher, errors } from 'undici';
import { Breaker, type BreakerOptions, type BreakerState } from './breaker.ts';
import { type ErrorCode, Refusal } from './errors.ts';

export type Fetched = {
  status: number;
  /** In wire order, names in lower case; repeated names stay apart (`set-cookie`). */
  headers: [name: string, value: string][];
  /** Must be read, or ended with `return()`: until then it holds its connection. */
  body: AsyncIterable<Uint8Array>;
};

type Ask = {
  /** Scheme, host and port, e.g. `http://127.0.0.1:8082`. */
  origin: string;
  method: string;
  /** Path and query, sent as they are. */
  path: string;
  headers: readonly (readonly [name: string, value: string])[];
  /** Ends the request and its answer's body. */
  signal?: AbortSignal;
  /** Longest wait for the answer's head; default `headersTimeoutMs`. Begins anew with each piece of a body sent. */
  timeoutMs?: number;
};

/** A body that is not here yet: sent as it comes, as fast as the origin takes it. */
export type Outgoing = { bytes: number; pieces: AsyncIterable<Uint8Array> };

export type Fetcher = {
  /** The head of an answer, with its body to be streamed. Throws Refusal. */
  send(
    ask: Ask & {
      body?: Buffer | Outgoing;
      /** May happen twice: sent once more when a used connection was closed before the answer's head. */
      isRepeatable?: boolean;
      /** Will last (an event stream): on a connection beside the ordinary ones. */
      isLasting?: boolean;
    },
  ): Promise<Fetched>;
  /**
   * Sends and reads one JSON value; `value` is undefined when the answer has no body. `timeoutMs` bounds the whole
   * exchange. An answer that is not JSON, or longer than 1 MiB, is `origin-unreachable`: it is not what we asked.
   */
  json(ask: Omit<Ask, 'headers'> & Partial<Pick<Ask, 'headers'>> & { body?: unknown }): Promise<{
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

/** Names and values as undici gives them raw: alternately, a name again for each repetition. */
const pairsOf = (raw: unknown): [string, string][] => {
  if (!Array.isArray(raw)) throw new Error('raw headers are not a list');
  const pairs: [string, string][] = [];
  for (let index = 0; index + 1 < raw.length; index += 2)
    pairs.push([String(raw[index]).toLowerCase(), String(raw[index + 1])]);
  return pairs;
};

const isEventStream = (headers: readonly (readonly [string, string])[]): boolean =>
  headers.some(([name, value]) => name === 'content-type' && value.startsWith('text/event-stream'));

/** A deadline that can be moved. */
const createDeadline = (ms: number, passed: () => void) => {
  let timer: NodeJS.Timeout | undefined = setTimeout(passed, ms);
  return {
    stop: () => clearTimeout(timer),
    restart: () => {
      clearTimeout(timer);
      timer = setTimeout(passed, ms);
    },
  };
};

/** Hands over a body. The deadline runs only while the origin has the turn, not while the sender's piece is awaited. */
const handedOver = (
  { pieces }: Outgoing,
  deadline: ReturnType<typeof createDeadline>,
): AsyncIterable<Uint8Array> => ({
  [Symbol.asyncIterator]() {
    const source = pieces[Symbol.asyncIterator]();
    let isOver = false;
    return {
      async next() {
        deadline.stop();
        const step = await source.next();
        if (!isOver) deadline.restart();
        return step;
      },
      async return() {
        isOver = true;
        await source.return?.();
        return { done: true, value: undefined };
      },
    };
  },
});

/** What undici listens to for cancellation; an emitter costs a fraction of an AbortController. */
class Cancel extends EventEmitter {
  aborted = false;
  reason: unknown;
  abort(reason: unknown): void {
    if (this.aborted) return;
    this.aborted = true;
    this.reason = reason;
    this.emit('abort');
  }
}

/** The body with an idle deadline, our words for faults, and a `return` that lets go of the connection at once. */
const bodyOf = (source: Readable, idleMs: number): AsyncIterable<Uint8Array> => {
  // An error without a listener would end the process. Whoever reads the body sees it through `next`; whoever has
  // let go of it does not want to know.
  source.on('error', () => undefined);
  return {
    [Symbol.asyncIterator]() {
      const pieces = source[Symbol.asyncIterator]();
      return {
        async next() {
          const deadline =
            idleMs === 0
              ? undefined
              : setTimeout(() => source.destroy(new errors.BodyTimeoutError()), idleMs);
          try {
            return await pieces.next();
          } catch (cause) {
            throw refusalFor(cause);
          } finally {
            clearTimeout(deadline);
          }
        },
        async return() {
          source.destroy();
          return { done: true, value: undefined };
        },
      };
    },
  };
};

/** What is known of one origin. */
type Known = { ordinary: number; lasting: number; breaker: Breaker | undefined; lastCode: ErrorCode };

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
}): Fetcher => {
  const { connectionsMax, headersTimeoutMs, connectTimeoutMs = 2000, bodyTimeoutMs = BODY_IDLE_MS } = options;
  const { waitingMax = Number.POSITIVE_INFINITY, lastingMax = connectionsMax } = options;
  const origins = new Map<string, Known>();
  // What undici does not say of an error: whether there was no connection at all, and how much had been read from it.
  const unconnected = new WeakSet<Error>();
  const bytesReadBefore = new WeakMap<Error, number>();
  const openConnection = buildConnector({ timeout: connectTimeoutMs });
  const agentOf = (connections: number) =>
    new Agent({
      connections,
      pipelining: 1,
      connect: (to, done) =>
        openConnection(to, (...result) => {
          const [error, socket] = result;
          if (error !== null) unconnected.add(error);
          socket?.on('error', (late) => bytesReadBefore.set(late, socket.bytesRead));
          done(...result);
        }),
      keepAliveTimeout: KEEP_ALIVE_MS,
      keepAliveMaxTimeout: KEEP_ALIVE_MS,
      maxHeaderSize: HEAD_BYTES_MAX,
      // Deadlines are kept below: undici's run only once a connection is free, and its body deadline is chosen
      // before the answer's type is known.
      headersTimeout: 0,
      bodyTimeout: 0,
    });
  const ordinaryAgent = agentOf(connectionsMax);
  const lastingAgent = agentOf(lastingMax);

  const knownOf = (origin: string): Known => {
    let known = origins.get(origin);
    if (known === undefined) {
      // Nobody waits for the oldest any more, or else it is simply learnt again.
      if (origins.size >= ORIGINS_MAX) origins.delete(origins.keys().next().value!);
      const breaker = options.breaker === undefined ? undefined : new Breaker(options.breaker);
      known = { ordinary: 0, lasting: 0, breaker, lastCode: 'origin-unreachable' };
      origins.set(origin, known);
    }
    return known;
  };

  /** Closed by the other side before a head, and good for an answer earlier: it had been idle for too long. */
  const wasIdleTooLong = (cause: unknown): boolean => {
    if (!(cause instanceof Error) || unconnected.has(cause)) return false;
    const read = cause instanceof errors.SocketError ? cause.socket?.bytesRead : bytesReadBefore.get(cause);
    return (read ?? 0) > 0;
  };

  const attempt = async (ask: Parameters<Fetcher['send']>[0], ended: () => void): Promise<Fetched> => {
    const cancel = new Cancel();
    const { signal, body, headers } = ask;
    const leave = () => cancel.abort(signal?.reason);
    if (signal?.aborted === true) leave();
    signal?.addEventListener('abort', leave, { once: true });
    const deadline = createDeadline(ask.timeoutMs ?? headersTimeoutMs, () =>
      cancel.abort(new errors.HeadersTimeoutError()),
    );
    const isHere = body === undefined || Buffer.isBuffer(body);
    const flat = headers.flat();
    if (!isHere) flat.push('content-length', String(body.bytes));
    try {
      const answer = await (ask.isLasting === true ? lastingAgent : ordinaryAgent).request({
        origin: ask.origin,
        path: ask.path,
        // The method was checked by the server it came through; undici refuses what is not a token.
        method: ask.method as Dispatcher.HttpMethod,
        headers: flat,
        // Its documentation takes any async iterable as a body; its types name only the stream among them.
        body: isHere ? (body ?? null) : (handedOver(body, deadline) as unknown as Readable),
        signal: cancel,
        responseHeaders: 'raw',
      });
      const pairs = pairsOf(answer.headers);
      answer.body.once('close', () => {
        signal?.removeEventListener('abort', leave);
        ended();
      });
      return {
        status: answer.statusCode,
        headers: pairs,
        body: bodyOf(answer.body, isEventStream(pairs) ? 0 : bodyTimeoutMs),
      };
    } catch (cause) {
      signal?.removeEventListener('abort', leave);
      throw cause;
    } finally {
      deadline.stop();
    }
  };

  const send: Fetcher['send'] = async (ask) => {
    const known = knownOf(ask.origin);
    const { breaker } = known;
    const lane = ask.isLasting === true ? 'lasting' : 'ordinary';
    if (known[lane] >= (lane === 'lasting' ? lastingMax : connectionsMax + waitingMax))
      throw new Refusal('overloaded');
    const startedMs = performance.now();
    if (breaker?.admit(startedMs) === false) throw new Refusal(known.lastCode);
    known[lane] += 1;
    let isCounted = true;
    const ended = () => {
      if (isCounted) known[lane] -= 1;
      isCounted = false;
    };
    try {
      let fetched: Fetched;
      try {
        fetched = await attempt(ask, ended);
      } catch (cause) {
        if (ask.isRepeatable !== true || ask.body !== undefined || !wasIdleTooLong(cause)) throw cause;
        fetched = await attempt(ask, ended);
      }
      breaker?.answered(performance.now());
      return fetched;
    } catch (cause) {
      ended();
      const refusal = refusalFor(cause);
      const isAway = cause instanceof Error && unconnected.has(cause);
      if (refusal instanceof Refusal && (isAway || refusal.code === 'origin-timeout')) {
        known.lastCode = refusal.code;
        breaker?.failed(performance.now(), startedMs);
      } else breaker?.left(performance.now());
      throw refusal;
    }
  };

  return {
    send,
    stateOf: (origin) => origins.get(origin)?.breaker?.state ?? 'closed',
    async json({ origin, method, path, headers = [], body, signal, timeoutMs = headersTimeoutMs }) {
      const whole = AbortSignal.timeout(timeoutMs);
      const text = body === undefined ? undefined : Buffer.from(JSON.stringify(body));
      const sent = await send({
        origin,
        method,
        path,
        headers: [
          ['accept', 'application/json'],
          ...(text === undefined ? [] : [['content-type', 'application/json'] as const]),
          ...headers,
        ],
        signal: signal === undefined ? whole : AbortSignal.any([signal, whole]),
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
    },
    async close() {
      const late = new Promise<'late'>((resolve) => setTimeout(resolve, CLOSE_MS, 'late').unref());
      const both = [ordinaryAgent, lastingAgent];
      if ((await Promise.race([Promise.all(both.map((agent) => agent.close())), late])) === 'late')
        await Promise.all(both.map((agent) => agent.destroy()));
    },
  };
};
