// Carries an admitted request to its origin and the answer back. Hop-by-hop headers, identity-like headers and our
// own cookies never pass; the forwarded address is rebuilt; who the visitor is travels in one signed header.

import { claimedAddressHeaders } from '../kernel/address.ts';
import { Refusal } from '../kernel/errors.ts';
import type { Fetched, Fetcher } from '../kernel/fetch.ts';
import type { FlatHeaders } from '../kernel/head.ts';
import type { Answer, Request } from '../kernel/http.ts';
import type { Metrics } from '../kernel/metrics.ts';
import { createRecent } from '../kernel/recent.ts';
import { traceparentOf } from '../kernel/traceparent.ts';

type Header = readonly [name: string, value: string];

/** RFC 9110, section 7.6.1, and what is rebuilt or ours. */
const NOT_TO_ORIGIN = new Set([
  'connection',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authorization',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'host',
  'content-length',
  'expect',
  ...claimedAddressHeaders,
  'x-request-id',
  'traceparent',
  'tracestate',
  'cookie',
  // Frameworks take this for the path that was asked for; so they do with `x-original-…`.
  'x-rewrite-url',
]);
const NOT_TO_CLIENT = new Set([
  'connection',
  'keep-alive',
  'proxy-authenticate',
  'trailer',
  'transfer-encoding',
  'upgrade',
  // Written by our own server.
  'date',
  'server',
  // One request has one name, the one we gave it.
  'x-request-id',
]);

const isOurs = (name: string): boolean => name.startsWith('anteroom-');
const OWN_COOKIE = /^(?:__Host-)?ar_/;

const KNOWN_NAMES_MAX = 500;

/** Remembers what becomes of a name. A stranger may bring any number. */
const createKnownNames = (look: (name: string) => boolean): ((name: string) => boolean) => {
  const known = createRecent<string, boolean>(KNOWN_NAMES_MAX);
  return (name) => known.get(name) ?? known.set(name, look(name));
};

const isStopped = createKnownNames(
  (name) =>
    NOT_TO_ORIGIN.has(name) ||
    name.startsWith('x-forwarded-') ||
    name.startsWith('x-original-') ||
    isOurs(name),
);
const isKeptBack = createKnownNames((name) => NOT_TO_CLIENT.has(name) || isOurs(name));

/** The client's cookies without ours. */
const foreignCookies = (cookie: string): string => {
  let kept = '';
  for (let at = 0; at < cookie.length; ) {
    const semicolon = cookie.indexOf(';', at);
    const end = semicolon < 0 ? cookie.length : semicolon;
    const part = cookie.slice(at, end).trim();
    if (part !== '' && !OWN_COOKIE.test(part)) kept += kept === '' ? part : `; ${part}`;
    at = end + 1;
  }
  return kept;
};

const NOTHING: ReadonlySet<string> = new Set();
/** Named by a Connection header, and so hop-by-hop for this message. */
const namedBy = (connection: string): ReadonlySet<string> =>
  connection === 'keep-alive' || connection === 'close'
    ? NOTHING
    : new Set(connection.split(',').map((token) => token.trim().toLowerCase()));

export type Proxied = {
  request: Request;
  origin: string;
  path: string;
  /** The signed context and its readable companions, names and values alternately. */
  context: FlatHeaders;
  /** Cookies of ours to set with the answer. */
  setCookies: readonly Header[];
  proto: 'http' | 'https';
  timeoutMs: number;
};

export type ProxyOutcome = { answer: Answer; endSession: boolean };

/** RFC 9110, section 9.2.1: asking again does no harm. */
const SAFE = new Set(['GET', 'HEAD', 'OPTIONS']);
/** An answer up to this size is gathered and sent at once: one write, and a fault in it can still become a 502. */
const GATHERED_BYTES_MAX = 65_536;
const OK = { outcome: 'ok' } as const;
const ERROR = { outcome: 'error' } as const;
const PRIVATE: Header = ['cache-control', 'private, no-store'];

/**
 * The head that goes to the origin. `Via` is passed on, but not extended: an origin behind nginx stops compressing for
 * requests that have one (`gzip_proxied`).
 */
export const headersToOrigin = (
  { request, context, proto }: Pick<Proxied, 'request' | 'context' | 'proto'>,
  options: { isHandshake: boolean } = { isHandshake: false },
): string[] => {
  const { flatHeaders, trace } = request;
  const connection = request.header('connection');
  const named = connection === undefined ? NOTHING : namedBy(connection);
  const headers: string[] = [];
  for (let index = 0; index < flatHeaders.length; index += 2) {
    const name = flatHeaders[index]!;
    if (isStopped(name) || (named.size > 0 && named.has(name))) continue;
    if (options.isHandshake && name.startsWith('sec-websocket-')) continue;
    headers.push(name, flatHeaders[index + 1]!);
  }
  const cookie = foreignCookies(request.header('cookie') ?? '');
  if (cookie !== '') headers.push('cookie', cookie);
  headers.push('x-forwarded-for', request.address, 'x-forwarded-host', request.header('host') ?? '');
  headers.push('x-forwarded-proto', proto, 'x-request-id', request.id, 'traceparent', traceparentOf(trace));
  if (trace.state !== '') headers.push('tracestate', trace.state);
  for (const text of context) headers.push(text);
  return headers;
};

/** What of an origin's head goes on to the client, and what it says to us. */
export const headersToClient = (sent: readonly Header[]): { headers: Header[]; endSession: boolean } => {
  let named = NOTHING;
  for (const [name, value] of sent) if (name === 'connection') named = new Set([...named, ...namedBy(value)]);
  const headers: Header[] = [];
  let endSession = false;
  for (const header of sent) {
    const [name, value] = header;
    if (name === 'anteroom-session') endSession ||= value === 'end';
    else if (name === 'set-cookie' && OWN_COOKIE.test(value.trimStart())) continue;
    else if (!isKeptBack(name) && !(named.size > 0 && named.has(name))) headers.push(header);
  }
  return { headers, endSession };
};

/** With its query, as it was sent. */
export const pathToOrigin = (
  path: string,
  { query, hasBareMark = false }: Pick<Request, 'query' | 'hasBareMark'>,
): string => (query === '' && !hasBareMark ? path : `${path}?${query}`);

const headerOf = (headers: readonly Header[], name: string): string | undefined =>
  headers.find(([known]) => known === name)?.[1];

export const createProxy = (options: { fetcher: Pick<Fetcher, 'send'>; metrics: Metrics }) => {
  const { fetcher, metrics } = options;

  const answerOf = (p: Proxied, sent: Fetched): ProxyOutcome => {
    const { status } = sent;
    metrics.inc('proxied_total', status >= 500 ? ERROR : OK);
    const { headers, endSession } = headersToClient(sent.headers);
    // A private answer must not be shared by a cache that cannot see the session.
    if (headerOf(headers, 'cache-control') === undefined) headers.push(PRIVATE);
    for (const cookie of p.setCookies) headers.push(cookie);
    return { answer: { status, headers, body: sent.whole ?? sent.body }, endSession };
  };
  const failed = (error: unknown): never => {
    const isFull = error instanceof Refusal && error.code === 'overloaded';
    metrics.inc('proxied_total', { outcome: isFull ? 'full' : 'failed' });
    throw error;
  };

  return (p: Proxied): Promise<ProxyOutcome> => {
    const { request } = p;
    const { method, body, upload } = request;
    const outgoing = upload?.whole() ?? upload ?? (body.length > 0 ? body : undefined);
    const ask = {
      origin: p.origin,
      method,
      path: pathToOrigin(p.path, request),
      headers: headersToOrigin(p),
      reader: request,
      timeoutMs: p.timeoutMs,
      isRepeatable: SAFE.has(method),
      isLasting: method === 'GET' && request.header('accept') === 'text/event-stream',
      wholeBytesMax: GATHERED_BYTES_MAX,
    };
    // Where nothing is sent along, the member is left out. (A spread would cost more than the rest of this.)
    const sent = fetcher.send(outgoing === undefined ? ask : Object.assign(ask, { body: outgoing }));
    return sent.then((fetched) => answerOf(p, fetched), failed);
  };
};
