// The one file that knows undici: requests to origins, to booking-core and to payment providers. It promises a
// bounded number of connections, a deadline for every step, and one attempt: nothing is retried or redirected,
// because only the caller knows whether a request may happen twice. What the network does wrong becomes
// `origin-unreachable` or `origin-timeout`, with the cause for the log.

import { EventEmitter } from 'node:events';
import type { Readable } from 'node:stream';
import { Agent, type Dispatcher, errors } from 'undici';
import { Refusal } from './errors.ts';

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
  /** Longest wait for the answer's head; default `headersTimeoutMs`. */
  timeoutMs?: number;
};

export type Fetcher = {
  /** The head of an answer, with its body to be streamed. Throws Refusal. */
  send(ask: Ask & { body?: Buffer }): Promise<Fetched>;
  /**
   * Sends and reads one JSON value; `value` is undefined when the answer has no body. `timeoutMs` bounds the whole
   * exchange. An answer that is not JSON, or longer than 1 MiB, is `origin-unreachable`: it is not what we asked.
   */
  json(ask: Omit<Ask, 'headers'> & Partial<Pick<Ask, 'headers'>> & { body?: unknown }): Promise<{
    status: number;
    value: unknown;
  }>;
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

export const createFetcher = (options: {
  /** Connections to one origin; further requests wait for one, within their deadline. */
  connectionsMax: number;
  headersTimeoutMs: number;
  connectTimeoutMs?: number;
  /** Longest silence inside an ordinary body. */
  bodyTimeoutMs?: number;
}): Fetcher => {
  const { connectionsMax, headersTimeoutMs, connectTimeoutMs = 2000, bodyTimeoutMs = BODY_IDLE_MS } = options;
  const agent = new Agent({
    connections: connectionsMax,
    pipelining: 1,
    connect: { timeout: connectTimeoutMs },
    keepAliveTimeout: KEEP_ALIVE_MS,
    keepAliveMaxTimeout: KEEP_ALIVE_MS,
    maxHeaderSize: HEAD_BYTES_MAX,
    // Deadlines are kept below: undici's run only once a connection is free, and its body deadline is chosen
    // before the answer's type is known.
    headersTimeout: 0,
    bodyTimeout: 0,
  });

  const send: Fetcher['send'] = async (ask) => {
    const cancel = new Cancel();
    const { signal } = ask;
    const leave = () => cancel.abort(signal?.reason);
    if (signal?.aborted === true) leave();
    signal?.addEventListener('abort', leave, { once: true });
    const deadline = setTimeout(
      () => cancel.abort(new errors.HeadersTimeoutError()),
      ask.timeoutMs ?? headersTimeoutMs,
    );
    try {
      const answer = await agent.request({
        origin: ask.origin,
        path: ask.path,
        // The method was checked by the server it came through; undici refuses what is not a token.
        method: ask.method as Dispatcher.HttpMethod,
        headers: ask.headers.flat(),
        body: ask.body ?? null,
        signal: cancel,
        responseHeaders: 'raw',
      });
      const headers = pairsOf(answer.headers);
      answer.body.once('close', () => signal?.removeEventListener('abort', leave));
      return {
        status: answer.statusCode,
        headers,
        body: bodyOf(answer.body, isEventStream(headers) ? 0 : bodyTimeoutMs),
      };
    } catch (cause) {
      signal?.removeEventListener('abort', leave);
      throw refusalFor(cause);
    } finally {
      clearTimeout(deadline);
    }
  };

  return {
    send,
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
      if ((await Promise.race([agent.close(), late])) === 'late') await agent.destroy();
    },
  };
};
