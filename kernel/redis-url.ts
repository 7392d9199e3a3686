// Where Redis is: one server, or the sentinels that know which server is the primary. Pure text to value, so that
// the configuration can refuse a bad address before anything is opened. No message ever holds the secret part.

export type SentinelNode = { host: string; port: number };
export type RedisPlace =
  | { kind: 'server'; url: string }
  | {
      kind: 'sentinels';
      nodes: readonly SentinelNode[];
      /** What the sentinels call the primary (`sentinel monitor <name> …`). */
      name: string;
      /** Of the Redis servers; undefined where they ask for none. */
      username: string | undefined;
      password: string | undefined;
      db: number;
    };
export type ParsedRedisPlace = { outcome: 'ok'; place: RedisPlace } | { outcome: 'fault'; says: string };

const SENTINEL_SCHEME = 'redis+sentinel://';
const SENTINEL_PORT = 26_379;
const SENTINELS_MAX = 16;
const FORM = 'redis+sentinel://[user:password@]host:26379,host:26379,host:26379/<primary name>[/<db>]';

const fault = (says: string): ParsedRedisPlace => ({ outcome: 'fault', says });

/** `host`, `host:port` or `[v6]:port`. */
const nodeOf = (text: string): SentinelNode | undefined => {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9._-]+))(?::(\d{1,5}))?$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = match?.[3] === undefined ? SENTINEL_PORT : Number(match[3]);
  return host === undefined || port < 1 || port > 65_535 ? undefined : { host, port };
};

/** Percent-decoded; undefined where the escapes are broken. */
const decoded = (text: string): string | undefined => {
  try {
    return decodeURIComponent(text);
  } catch {
    return undefined; // The caller names the fault; the cause would quote the secret.
  }
};

/** The user may be left out (`:password@`); undefined where the escapes are broken. */
const credentialsOf = (text: string): { username?: string; password?: string } | undefined => {
  if (text === '') return {};
  const colon = text.indexOf(':');
  const username = decoded(colon < 0 ? text : text.slice(0, colon));
  const password = colon < 0 ? '' : decoded(text.slice(colon + 1));
  if (username === undefined || password === undefined) return undefined;
  return { ...(username === '' ? {} : { username }), ...(password === '' ? {} : { password }) };
};

const parseSentinels = (rest: string): ParsedRedisPlace => {
  const slash = rest.indexOf('/');
  if (slash < 0) return fault(`names no primary; the form is ${FORM}`);
  const authority = rest.slice(0, slash);
  // A password may hold an @ of its own; the last one ends it.
  const at = authority.lastIndexOf('@');
  const credentials = credentialsOf(at < 0 ? '' : authority.slice(0, at));
  if (credentials === undefined) return fault('has a user or password with a broken %-escape');
  const listed = authority.slice(at + 1).split(',');
  const nodes: SentinelNode[] = [];
  for (const [index, text] of listed.entries()) {
    const node = nodeOf(text.trim());
    if (node === undefined) return fault(`has a sentinel (number ${index + 1}) that is not host:port`);
    nodes.push(node);
  }
  if (nodes.length > SENTINELS_MAX) return fault(`names more than ${SENTINELS_MAX} sentinels`);
  const [name = '', db = '0', ...more] = rest.slice(slash + 1).split('/');
  if (!/^[A-Za-z0-9._-]{1,64}$/.test(name)) return fault(`names no primary; the form is ${FORM}`);
  if (!/^\d{1,4}$/.test(db) || more.length > 0)
    return fault(`has a database that is no number; the form is ${FORM}`);
  return {
    outcome: 'ok',
    place: {
      kind: 'sentinels',
      nodes,
      name,
      username: credentials.username,
      password: credentials.password,
      db: Number(db),
    },
  };
};

/** Reads the address of ANTEROOM_REDIS_URL. `says` goes after the name of the setting, and quotes no secret. */
export const parseRedisPlace = (url: string): ParsedRedisPlace => {
  if (url.startsWith(SENTINEL_SCHEME)) return parseSentinels(url.slice(SENTINEL_SCHEME.length));
  // A path is the unix socket of the embedded server.
  if (/^(rediss?|unix):\/\//.test(url) || url.startsWith('/'))
    return { outcome: 'ok', place: { kind: 'server', url } };
  return fault(`must begin with redis://, rediss:// or ${SENTINEL_SCHEME}`);
};

/** Takes user, password and options out of an address, for messages. A password may hold any character. */
export const withoutSecret = (url: string): string => url.replace(/\/\/.*@/, '//').replace(/\?.*$/, '');
