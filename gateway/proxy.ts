// Carries an admitted request to its origin and the answer back. Hop-by-hop headers, identity-like headers and our
// own cookies never pass; the forwarded address is rebuilt; who the visitor is travels in one signed header.

import { claimedAddressHeaders } from '../kernel/address.ts';
import { Refusal } from '../kernel/errors.ts';
import type { Fetcher } from '../kernel/fetch.ts';
import type { Answer, Request } from '../kernel/http.ts';
import type { Metrics } from '../kernel/metrics.ts';
import { traceHeaders } from '../kernel/traceparent.ts';

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
  // Frameworks take these for the path or host that was asked for.
  'x-original-url',
  'x-rewrite-url',
  'x-original-host',
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

const isStopped = (name: string): boolean =>
  NOT_TO_ORIGIN.has(name) || name.startsWith('x-forwarded-') || isOurs(name);

/** The client's cookies without ours. */
const foreignCookies = (cookie: string | undefined): string =>
  (cookie ?? '')
    .split(';')
    .map((part) => part.trim())
    .filter((part) => part !== '' && !OWN_COOKIE.test(part))
    .join('; ');

/** Named by the Connection header, and so hop-by-hop for this message. */
const namedByConnection = (headers: readonly Header[]): Set<string> => {
  const named = new Set<string>();
  for (const [name, value] of headers)
    if (name === 'connection') for (const token of value.split(',')) named.add(token.trim().toLowerCase());
  return named;
};

export type Proxied = {
  request: Request;
  origin: string;
  path: string;
  /** The signed context and its readable companions. */
  context: readonly Header[];
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

/**
 * The head that goes to the origin. `Via` is passed on, but not extended: an origin behind nginx stops compressing for
 * requests that have one (`gzip_proxied`).
 */
export const headersToOrigin = ({
  request,
  context,
  proto,
}: Pick<Proxied, 'request' | 'context' | 'proto'>) => {
  const named = namedByConnection(request.headers);
  const headers: Header[] = [];
  for (const header of request.headers) {
    const [name] = header;
    if (!isStopped(name) && !named.has(name)) headers.push(header);
  }
  const cookie = foreignCookies(request.header('cookie'));
  if (cookie !== '') headers.push(['cookie', cookie]);
  headers.push(
    ['x-forwarded-for', request.address],
    ['x-forwarded-host', request.header('host') ?? ''],
    ['x-forwarded-proto', proto],
    ['x-request-id', request.id],
    ...traceHeaders(request.trace),
    ...context,
  );
  return headers;
};

/** What of an origin's head goes on to the client, and what it says to us. */
export const headersToClient = (sent: readonly Header[]): { headers: Header[]; endSession: boolean } => {
  const named = namedByConnection(sent);
  const headers: Header[] = [];
  let endSession = false;
  for (const header of sent) {
    const [name, value] = header;
    if (name === 'anteroom-session') endSession ||= value === 'end';
    else if (name === 'set-cookie' && OWN_COOKIE.test(value.trimStart())) continue;
    else if (!NOT_TO_CLIENT.has(name) && !named.has(name) && !isOurs(name)) headers.push(header);
  }
  return { headers, endSession };
};

const gathered = async (body: AsyncIterable<Uint8Array>): Promise<Uint8Array> => {
  const pieces: Uint8Array[] = [];
  for await (const piece of body) pieces.push(piece);
  return pieces.length === 1 ? pieces[0]! : Buffer.concat(pieces);
};

const headerOf = (headers: readonly Header[], name: string): string | undefined =>
  headers.find(([known]) => known === name)?.[1];

export const createProxy = (options: { fetcher: Pick<Fetcher, 'send'>; metrics: Metrics }) => {
  const { fetcher, metrics } = options;
  const send: Fetcher['send'] = async (ask) => {
    try {
      const sent = await fetcher.send(ask);
      metrics.inc('proxied_total', { outcome: sent.status >= 500 ? 'error' : 'ok' });
      return sent;
    } catch (error) {
      const isFull = error instanceof Refusal && error.code === 'overloaded';
      metrics.inc('proxied_total', { outcome: isFull ? 'full' : 'failed' });
      throw error;
    }
  };
  return async (p: Proxied): Promise<ProxyOutcome> => {
    const { request } = p;
    const { method, body, upload } = request;
    const outgoing = upload?.whole() ?? upload ?? (body.length > 0 ? body : undefined);
    const sent = await send({
      origin: p.origin,
      method,
      path: request.query === '' ? p.path : `${p.path}?${request.query}`,
      headers: headersToOrigin(p),
      ...(outgoing === undefined ? {} : { body: outgoing }),
      signal: request.signal,
      timeoutMs: p.timeoutMs,
      isRepeatable: SAFE.has(method),
      isLasting: method === 'GET' && request.header('accept') === 'text/event-stream',
    });
    const { status } = sent;
    const { headers, endSession } = headersToClient(sent.headers);
    // A private answer must not be shared by a cache that cannot see the session.
    if (headerOf(headers, 'cache-control') === undefined)
      headers.push(['cache-control', 'private, no-store']);
    headers.push(...p.setCookies);
    const length = Number(headerOf(headers, 'content-length') ?? Number.NaN);
    const isSmall = method !== 'HEAD' && status !== 304 && length <= GATHERED_BYTES_MAX;
    const answered = isSmall ? await gathered(sent.body) : sent.body;
    return { answer: { status, headers, body: answered }, endSession };
  };
};
