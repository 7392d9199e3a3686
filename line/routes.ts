// Which room guards an address: host and path prefix, normalised on both sides, looked up in an index that is made
// once for each change of settings. Pure.
//
// Guarding fails closed. A host is compared without case, port and trailing dot, international names in their ASCII
// form. A path is compared without case, because many origins serve `/Buy` for `/buy`: a room that guarded only one
// of them would have a door beside it. The longest prefix wins; for one prefix the most exact host does.

import { domainToASCII } from 'node:url';
import type { RoomId } from '../kernel/ids.ts';
import { isPlainPath } from '../kernel/path.ts';

/** `host` is empty for any, `*.example.org` for every name below (not the name itself); `prefix` is empty for all. */
export type Route = { host: string; prefix: string };
export type Guarded = { room: RoomId; prefix: string };

/** Parts of booking-core that need no session: one's own orders and their page, and payment webhooks. */
export const openBookingPaths = [
  '/v1/orders',
  '/v1/holds',
  '/v1/payments',
  '/demo/orders',
  '/demo/assets',
] as const;

const PREFIX_CHARS_MAX = 200;
const LABEL = '[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?';
const NAME = new RegExp(`^${LABEL}(?:\\.${LABEL})*$`);
const BRACKETED = /^\[[0-9a-f:.]{2,45}\]$/;

/** Whether `path` is `prefix` or stands below it. The empty prefix covers every path. */
export const isBelow = (path: string, prefix: string): boolean =>
  path.startsWith(prefix) && (path.length === prefix.length || path.charCodeAt(prefix.length) === 47);

const asciiHost = (text: string): string | undefined => {
  const wild = text.startsWith('*.');
  const given = (wild ? text.slice(2) : text).replace(/\.$/, '');
  // biome-ignore lint/suspicious/noControlCharactersInRegex: everything that is not ASCII is what is looked for.
  const name = /[^\x00-\x7f]/.test(given) ? domainToASCII(given) : given.toLowerCase();
  if (name.length > 253 || !(NAME.test(name) || (!wild && BRACKETED.test(name)))) return undefined;
  return wild ? `*.${name}` : name;
};

/** A prefix as it arrives in a request: encoded where it is not ASCII, no slash at the end. */
const asciiPrefix = (text: string): string | undefined => {
  if (/\p{Surrogate}/u.test(text)) return undefined;
  const encoded = text.replace(/[\u0080-\u{10ffff}]+/gu, encodeURIComponent);
  return encoded.length <= PREFIX_CHARS_MAX && isPlainPath(encoded) && !encoded.includes('*')
    ? encoded.replace(/\/$/, '')
    : undefined;
};

/** A path prefix in its normal form, with `/` as the empty prefix; undefined when it is none. */
export const parsePrefix = (text: unknown): string | undefined =>
  typeof text === 'string' && text.startsWith('/') ? asciiPrefix(text) : undefined;

/** A route as an operator writes it: `host/prefix`, or `/prefix` for any host. Otherwise what is wrong with it. */
export const parseRoute = (text: unknown): Route | string => {
  const slash = typeof text === 'string' ? text.indexOf('/') : -1;
  if (typeof text !== 'string' || slash < 0) return 'must be routes such as `/demo` or `host/prefix`';
  const [given, path] = [text.slice(0, slash), text.slice(slash)];
  if (given.includes('://') || given.endsWith(':')) return 'must be routes without `https:`';
  if (/^[^[\]]*:\d*$|\]:\d*$/.test(given))
    return 'must be routes without a port: all ports of a host are guarded';
  if (path.includes('*')) return 'must be routes without `*`: everything below a prefix is guarded';
  const host = given === '' ? '' : asciiHost(given);
  if (host === undefined) return 'must be routes whose host is a name such as `tickets.example`';
  const prefix = asciiPrefix(path);
  return prefix === undefined
    ? `must be routes whose path is in plain form, at most ${PREFIX_CHARS_MAX} characters`
    : { host, prefix };
};

/** The text of a route, as settings keep it. */
export const routeText = ({ host, prefix }: Route): string => `${host}${prefix === '' ? '/' : prefix}`;

/** Routes of settings that were parsed: they have no faults any more. */
export const routeOf = (text: string): Route => {
  const route = parseRoute(text);
  if (typeof route === 'string') throw new Error(`the route ${text} ${route}`);
  return route;
};

const HOST = /^([a-z0-9._-]{1,253}?)\.?(?::\d{0,5})?$/;
const HOST_V6 = /^(\[[0-9a-f:.]{2,45}\])(?::\d{0,5})?$/;

/** The name in a Host header, to be compared with routes: empty when there is none, undefined when it is no name. */
export const hostOf = (header: string | undefined): string | undefined => {
  if (header === undefined || header === '') return '';
  const lower = header.toLowerCase();
  return (HOST.exec(lower) ?? HOST_V6.exec(lower))?.[1];
};

export type Routes = {
  /** `host` as hostOf answers it; `path` must be in plain form. Costs one look a segment of the path. */
  guarding(host: string, path: string): Guarded | undefined;
};

/**
 * Where two rooms have the same route, the one whose name comes first has it: every process says the same. The
 * prefix that is found is as long as what it matched in the path, whatever the case of either.
 */
export const indexRoutes = (rooms: Iterable<readonly [RoomId, readonly string[]]>): Routes => {
  const byPrefix = new Map<string, Map<string, Guarded>>();
  let longest = 0;
  for (const [room, routes] of [...rooms].sort(([a], [b]) => (a < b ? -1 : 1)))
    for (const { host, prefix } of routes.map(routeOf)) {
      const key = prefix.toLowerCase();
      const hosts = byPrefix.get(key) ?? new Map<string, Guarded>();
      byPrefix.set(key, hosts);
      if (!hosts.has(host)) hosts.set(host, { room, prefix });
      longest = Math.max(longest, key.length);
    }

  const ofHost = (hosts: ReadonlyMap<string, Guarded>, host: string): Guarded | undefined => {
    const exact = host === '' ? undefined : hosts.get(host);
    if (exact !== undefined) return exact;
    for (let dot = host.indexOf('.'); dot >= 0; dot = host.indexOf('.', dot + 1)) {
      const wild = hosts.get(`*${host.slice(dot)}`);
      if (wild !== undefined) return wild;
    }
    return hosts.get('');
  };

  return {
    guarding(host, path) {
      if (byPrefix.size === 0) return undefined;
      const lower = path.toLowerCase();
      for (let end = lower.length; ; end = lower.lastIndexOf('/', end - 1)) {
        if (end <= longest) {
          const hosts = byPrefix.get(lower.slice(0, end));
          const found = hosts === undefined ? undefined : ofHost(hosts, host);
          if (found !== undefined) return found;
        }
        if (end <= 0) return undefined;
      }
    },
  };
};
