// The one file that knows undici: requests to origins, to booking-core and to payment providers. It promises a
// bounded number of connections, a deadline for every step, and one attempt: nothing is retried or redirected,
// because only the caller knows whether a request may happen twice. What the network does wrong becomes
// `origin-unreachable` or `origin-timeout`, with the cause for the log.

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
  // System errors of the socket (ECONNREFUSED, ENOTFOUND, ECONNRESET, TLS faults) carry a code.
  if (cause instanceof Error && 'code' in cause) return new Refusal('origin-unreachable', { cause });
  return cause;
};

const pairsOf = (raw: readonly Buffer[]): [string, string][] => {
  const pairs: [string, string][] = [];
  for (let index = 0; index + 1 < raw.length; index += 2)
    pairs.push([raw[index]!.toString('latin1').toLowerCase(), raw[index + 1]!.toString('latin1')]);
  return pairs;
};

const isEventStream = (headers: readonly (readonly [string, string])[]): boolean =>
  headers.some(([name, value]) => name === 'content-type' && value.startsWith('text/event-stream'));
