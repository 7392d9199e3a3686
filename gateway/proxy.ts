// Carries an admitted request to its origin and the answer back. Hop-by-hop headers, identity-like headers and our
// own cookies never pass; the forwarded address is rebuilt; who the visitor is travels in one signed header.

import { claimedAddressHeaders } from '../kernel/address.ts';
import { Refusal } from '../kernel/errors.ts';
import type { Fetcher } from '../kernel/fetch.ts';
import type { Answer, Request } from '../kernel/http.ts';
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
  'x-forwarded-host',
  'x-forwarded-proto',
  'x-request-id',
  'traceparent',
  'tracestate',
  'cookie',
]);
const NOT_TO_CLIENT = new Set([
  'connection',
  'keep-alive',
  'proxy-authenticate',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'content-length',
  'date',
  'server',
  // One request has one name, the one we gave it.
  'x-request-id',
]);

const ours = (name: string): boolean => name.startsWith('anteroom-');

/** The client's cookies without ours. */
const foreignCookies = (cookie: string | undefined): string =>
  (cookie ?? '')
    .split(';')
    .map((part) => part.trim())
    .filter((part) => part !== '' && !/^(?:__Host-)?ar_/.test(part))
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

export const createProxy = (options: { fetcher: Fetcher }) => {
  const { fetcher } = options;
  return async (p: Proxied): Promise<ProxyOutcome> => {
    const { request } = p;
    const named = namedByConnection(request.headers);
    const headers: [string, string][] = [];
    for (const [name, value] of request.headers)
      if (!NOT_TO_ORIGIN.has(name) && !named.has(name) && !ours(name)) headers.push([name, value]);
    const cookie = foreignCookies(request.header('cookie'));
    if (cookie !== '') headers.push(['cookie', cookie]);
    headers.push(
      ['x-forwarded-for', request.address],
      ['x-forwarded-host', request.header('host') ?? ''],
      ['x-forwarded-proto', p.proto],
      ['x-request-id', request.id],
      ...traceHeaders(request.trace),
    );
    for (const [name, value] of p.context) headers.push([name, value]);

    const sent = await fetcher.send({
      origin: p.origin,
      method: request.method,
      path: request.query === '' ? p.path : `${p.path}?${request.query}`,
      headers,
      ...(request.body.length > 0 ? { body: request.body } : {}),
      signal: request.signal,
      timeoutMs: p.timeoutMs,
    });
    const namedBack = namedByConnection(sent.headers);
    const back: Header[] = [];
    let endSession = false;
    for (const [name, value] of sent.headers) {
      if (name === 'anteroom-session') endSession ||= value === 'end';
      else if (!NOT_TO_CLIENT.has(name) && !namedBack.has(name) && !ours(name)) back.push([name, value]);
    }
    // A private answer must not be shared by a cache that cannot see the session.
    if (!back.some(([name]) => name === 'cache-control')) back.push(['cache-control', 'private, no-store']);
    if (sent.status < 200) throw new Refusal('origin-unreachable');
    return {
      answer: { status: sent.status, headers: [...back, ...p.setCookies], body: sent.body },
      endSession,
    };
  };
};
