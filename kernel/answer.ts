// What a route gives back, and its head as text. The head of every answer is built here, so that a header value
// that would break out of its line is a fault of ours (500) and never reaches the wire.

import { STATUS_CODES } from 'node:http';
import { type ErrorCode, problemOf, type Refusal, retryAfterSecondsOf, statusOf } from './errors.ts';

export type HeaderList = readonly (readonly [name: string, value: string])[];

export type Answer = {
  status: number;
  headers?: HeaderList;
  /** A stream is sent as it comes, with backpressure; an error in it ends the connection. */
  body?: string | Uint8Array | AsyncIterable<Uint8Array>;
  /** Its headers as `prepared` has read them; in ASCII. */
  lines?: string;
};

/** Whether a text is the same in latin1 and in UTF-8. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: all of ASCII is meant.
export const isAscii = (text: string): boolean => /^[\x00-\x7f]*$/.test(text);

/** The same answer, for whoever gives it again and again: its head is made once. Throws as `headLines`. */
export const prepared = (answer: Answer): Answer => {
  const lines = headLines(answer.headers ?? []);
  return isAscii(lines) ? { ...answer, lines } : answer;
};

/** A JSON answer. */
export const json = (status: number, value: unknown, headers: HeaderList = []): Answer => ({
  status,
  headers: [['content-type', 'application/json; charset=utf-8'], ['cache-control', 'no-store'], ...headers],
  body: JSON.stringify(value),
});

/**
 * What a 401 says in `WWW-Authenticate`: the scheme it wants (RFC 9110, section 11.6.1), and what is wrong with a token
 * that was shown; where none was, no error is named (RFC 6750, section 3.1).
 */
export const challenge = (code: ErrorCode): HeaderList => {
  if (statusOf(code) !== 401) return [];
  const shown =
    code === 'token-expired' ? 'expired' : code === 'token-missing' ? undefined : 'not valid here';
  const error =
    shown === undefined ? '' : ` error="invalid_token", error_description="The token is ${shown}"`;
  return [['www-authenticate', `Bearer${error}`]];
};

/** A refusal as an answer (RFC 9457), for routes that add headers of their own; else throw a Refusal. */
export const problem = (
  code: ErrorCode,
  options: { detail?: string | undefined; extra?: Record<string, unknown>; headers?: HeaderList } = {},
): Answer => {
  const status = statusOf(code);
  const retryAfterSeconds = retryAfterSecondsOf(code, options.extra);
  return {
    status,
    headers: [
      ['content-type', 'application/problem+json'],
      ['cache-control', 'no-store'],
      ...(retryAfterSeconds === undefined ? [] : [['retry-after', String(retryAfterSeconds)] as const]),
      ...challenge(code),
      ...(options.headers ?? []),
    ],
    body: JSON.stringify(problemOf(code, options)),
  };
};

export const problemFrom = (refusal: Refusal): Answer =>
  problem(refusal.code, { detail: refusal.detail, extra: refusal.extra, headers: refusal.headers });

const statusLines = new Map<number, string>();
for (const [code, text] of Object.entries(STATUS_CODES)) statusLines.set(Number(code), `${code} ${text}`);

export const statusLine = (status: number): string => statusLines.get(status) ?? `${status} Unknown`;

/** Written by the server below us; an answer that brings its own would have two of them. */
const OWNED = new Set(['content-length', 'transfer-encoding', 'connection', 'keep-alive', 'date']);
const NAME = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
/** Names that were looked at before, and whether the server writes them itself. An origin may bring any number. */
const knownNames = new Map<string, boolean>();
const KNOWN_NAMES_MAX = 500;

const isOwned = (name: string): boolean => {
  const known = knownNames.get(name);
  if (known !== undefined) return known;
  if (!NAME.test(name)) throw new Error('an answer has a header with a malformed name');
  if (knownNames.size >= KNOWN_NAMES_MAX) knownNames.clear();
  const owned = OWNED.has(name.toLowerCase());
  knownNames.set(name, owned);
  return owned;
};

/**
 * Headers as lines, each with a line break before it: the server writes one header (the request id) and this text
 * follows it, which costs one call into native code instead of one a header. Throws on a value with a line break
 * or another control character.
 */
export const headLines = (headers: HeaderList): string => {
  let lines = '';
  for (const [name, value] of headers) {
    if (isOwned(name)) continue;
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for.
    if (/[\x00-\x08\x0a-\x1f\x7f]|[^\x00-\xff]/.test(value))
      throw new Error(`the answer's header ${name} has a control or wide character`);
    lines += `\r\n${name}: ${value}`;
  }
  return lines;
};

/** The length an answer declares for its streamed body, when it declares one. */
export const declaredLength = (headers: HeaderList): number | undefined => {
  for (const [name, value] of headers)
    if (name.toLowerCase() === 'content-length') return /^\d{1,15}$/.test(value) ? Number(value) : undefined;
  return undefined;
};
