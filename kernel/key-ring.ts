// The public keys of the customer's user JWTs: a JWK set (RFC 7517) from a URL or a file, looked at again while it is
// in use. It promises that a flood of tokens with unknown kids causes one look in a cooldown, that the last good set
// stays in use while a new one cannot be had, and that a key taken out of the set is forgotten at the next look.
//
// Modes of the ring: `empty` (no set yet: whoever asks waits for one look), `fresh`, `old` (in use, and one look is
// under way behind the scenes) and `stale` (too old to be trusted; as empty). A look that fails changes no mode.

import { createHash, createPublicKey, type KeyObject } from 'node:crypto';
import { open } from 'node:fs/promises';
import type { Clock } from './clock.ts';
import type { Log } from './log.ts';
import type { Metrics } from './metrics.ts';

/** `id` is the hash of the key itself: the same key under another name is the same key. */
export type PublicKey = {
  id: string;
  kid: string | undefined;
  alg: string | undefined;
  type: string;
  key: KeyObject;
};
export type ReadSet = { outcome: 'read'; keys: PublicKey[] } | { outcome: 'refused'; says: string };

/** How long an address may take to answer, unless whoever makes the ring says otherwise. */
export const LOOK_MS_MAX = 3000;
/** A hundred RSA keys with their certificates are some 300 KB. */
export const SET_BYTES_MAX = 524_288;
const KEYS_MAX = 100;
/** Between two looks for the sake of an unknown kid. */
export const COOLDOWN_MS = 30_000;
/** The same while there is no set at all, so that users wait no longer than they must. */
const EMPTY_COOLDOWN_MS = 5000;
/** How long a set is trusted that could not be looked at again: a night and a day to notice. */
export const STALE_MS_MAX = 86_400_000;
const RSA_BITS_MIN = 2048;
/** Verifying takes time in the square of the length; nobody needs longer ones. */
const RSA_BITS_MAX = 8192;

/** Algorithm → what its key is, in the words of node:crypto. Public-key ones only: a set of secrets is a mistake. */
export const KEY_TYPES: Record<string, string> = {
  RS256: 'rsa',
  RS384: 'rsa',
  RS512: 'rsa',
  PS256: 'rsa',
  PS384: 'rsa',
  PS512: 'rsa',
  ES256: 'ec prime256v1',
  ES384: 'ec secp384r1',
  ES512: 'ec secp521r1',
  EdDSA: 'ed25519',
  Ed25519: 'ed25519',
};

const typeOf = (key: KeyObject): string =>
  [key.asymmetricKeyType, key.asymmetricKeyDetails?.namedCurve]
    .filter((part) => part !== undefined)
    .join(' ');

/** Reads one member of a set: a key, `undefined` for one that is for something else, or why it is refused. */
const readKey = (jwk: Record<string, unknown>, name: string): PublicKey | string | undefined => {
  const { kty, use, key_ops: operations, kid, alg } = jwk;
  if (kty === 'oct') return `${name} is symmetric: whoever can check tokens with it can make them`;
  if ('d' in jwk || 'p' in jwk) return `${name} has its private part in it; publish only the public one`;
  if (use !== undefined && use !== 'sig') return undefined;
  if (Array.isArray(operations) && !operations.includes('verify')) return undefined;
  if ((kid !== undefined && typeof kid !== 'string') || (alg !== undefined && typeof alg !== 'string'))
    return `${name} has a \`kid\` or \`alg\` that is no text`;
  if (!['RSA', 'EC', 'OKP'].includes(String(kty))) return undefined;
  let key: KeyObject;
  try {
    key = createPublicKey({ key: jwk, format: 'jwk' });
  } catch {
    // A curve that Node does not know is a key for somebody else; a broken RSA key is nobody's.
    return kty === 'RSA' ? `${name} is malformed` : undefined;
  }
  const type = typeOf(key);
  if (!Object.values(KEY_TYPES).includes(type)) return undefined;
  if (type === 'rsa') {
    const { modulusLength = 0, publicExponent = 0n } = key.asymmetricKeyDetails ?? {};
    if (modulusLength < RSA_BITS_MIN || modulusLength > RSA_BITS_MAX)
      return `${name} has ${modulusLength} bits; RSA keys need ${RSA_BITS_MIN} to ${RSA_BITS_MAX}`;
    if (publicExponent < 3n || publicExponent % 2n === 0n)
      return `${name} has an exponent that hides nothing`;
  }
  const id = createHash('sha256')
    .update(key.export({ type: 'spki', format: 'der' }))
    .digest('base64url');
  return { id, kid, alg, type, key };
};

/** Reads a whole set. One weak or secret key refuses it: somebody has to look, and the last good one stays in use. */
export const readKeySet = (text: string): ReadSet => {
  const refused = (says: string): ReadSet => ({ outcome: 'refused', says });
  let set: unknown;
  try {
    set = JSON.parse(text);
  } catch {
    return refused('it is not JSON');
  }
  if (typeof set !== 'object' || set === null || !('keys' in set) || !Array.isArray(set.keys))
    return refused('it is not a JWK set: an object with a list of `keys`');
  if (set.keys.length > KEYS_MAX) return refused(`it has more than ${KEYS_MAX} keys`);
  const keys: PublicKey[] = [];
  for (const [index, jwk] of set.keys.entries()) {
    if (typeof jwk !== 'object' || jwk === null) return refused(`key ${index + 1} is not an object`);
    const read = readKey({ ...jwk }, `key ${index + 1}`);
    if (typeof read === 'string') return refused(read);
    if (read !== undefined) keys.push(read);
  }
  return keys.length === 0
    ? refused('none of its keys checks a signature we know')
    : { outcome: 'read', keys };
};

const textFromUrl = async (url: string, lookMsMax: number): Promise<string> => {
  const answer = await fetch(url, {
    redirect: 'error',
    signal: AbortSignal.timeout(lookMsMax),
    headers: { accept: 'application/jwk-set+json, application/json' },
  });
  if (answer.status !== 200 || answer.body === null) {
    await answer.body?.cancel();
    throw new Error(`the address of the user keys answered ${answer.status}`);
  }
  const chunks: Uint8Array[] = [];
  let size = 0;
  // Node's stream of a body is iterable; its type in the DOM library is not.
  for await (const chunk of answer.body as unknown as AsyncIterable<Uint8Array>) {
    size += chunk.length;
    // Leaving the loop ends the connection.
    if (size > SET_BYTES_MAX) throw new Error(`the set of user keys is larger than ${SET_BYTES_MAX} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
};

const textFromFile = async (path: string): Promise<string> => {
  const handle = await open(path, 'r');
  try {
    const { size } = await handle.stat();
    if (size > SET_BYTES_MAX) throw new Error(`the set of user keys is larger than ${SET_BYTES_MAX} bytes`);
    return await handle.readFile('utf8');
  } finally {
    await handle.close();
  }
};

export type Found = { outcome: 'found'; key: PublicKey } | { outcome: 'none' } | { outcome: 'unavailable' };

export type KeyRing = {
  /** The one key for a header. Waits for a look when the ring is empty, or when the kid is unknown and no look was lately. */
  find(header: { kid: string | undefined; alg: string }): Promise<Found>;
  /** Whether a key is still in the set, as far as is known. Never waits. */
  has(id: string): boolean;
  /** The first look, at start. Throws when the set is refused, or when a file cannot be read; a URL may be away. */
  load(): Promise<void>;
};

export const createKeyRing = (options: {
  source: { url: string } | { file: string };
  refreshMs: number;
  log: Log;
  clock: Clock;
  metrics: Metrics;
  /** How long an address may take to answer. */
  lookMsMax?: number;
}): KeyRing => {
  const { source, refreshMs, log, clock, metrics, lookMsMax = LOOK_MS_MAX } = options;
  const isFile = 'file' in source;
  let keys: PublicKey[] | undefined;
  let ids = new Set<string>();
  let readAtMs = Number.NEGATIVE_INFINITY;
  let lookedAtMs = Number.NEGATIVE_INFINITY;
  let looking: Promise<void> | undefined;
  let fault: Error | undefined;

  const lookOnce = async (): Promise<void> => {
    try {
      const read = readKeySet(
        await (isFile ? textFromFile(source.file) : textFromUrl(source.url, lookMsMax)),
      );
      if (read.outcome === 'refused') {
        fault = new Error(
          `The user keys (${isFile ? 'ANTEROOM_USER_JWKS_FILE' : 'ANTEROOM_USER_JWKS_URL'}) cannot be used: ${read.says}.`,
        );
        log.error('user-keys-refused', { says: read.says });
        metrics.inc('user_keys_total', { outcome: 'refused' });
        return;
      }
      keys = read.keys;
      ids = new Set(keys.map((key) => key.id));
      readAtMs = clock.monotonicMs();
      fault = undefined;
      metrics.inc('user_keys_total', { outcome: 'ok' });
    } catch (error) {
      log.warn('user-keys-unreachable', { error: error instanceof Error ? error : String(error) });
      metrics.inc('user_keys_total', { outcome: 'failed' });
      if (isFile) fault = new Error('ANTEROOM_USER_JWKS_FILE cannot be read.', { cause: error });
    }
  };
  /** One look at a time; whoever comes meanwhile waits for the same. */
  const look = (): Promise<void> => {
    if (looking === undefined) {
      lookedAtMs = clock.monotonicMs();
      looking = lookOnce().finally(() => {
        looking = undefined;
      });
    }
    return looking;
  };
  const usable = (): PublicKey[] | undefined =>
    clock.monotonicMs() - readAtMs > STALE_MS_MAX ? undefined : keys;
  const cooldownMs = (): number =>
    usable() === undefined ? EMPTY_COOLDOWN_MS : isFile ? Math.min(COOLDOWN_MS, refreshMs) : COOLDOWN_MS;
  const isCool = (): boolean => clock.monotonicMs() - lookedAtMs >= cooldownMs();
  /** Looks again behind the scenes when the set has become old. */
  const keepFresh = (): void => {
    if (looking === undefined && clock.monotonicMs() - readAtMs >= refreshMs && isCool()) void look();
  };

  const match = (header: { kid: string | undefined; alg: string }): PublicKey | undefined => {
    const fitting = (usable() ?? []).filter(
      (key) =>
        (header.kid === undefined || key.kid === header.kid) &&
        (key.alg === undefined || key.alg === header.alg) &&
        key.type === KEY_TYPES[header.alg],
    );
    // Two keys that fit are none: which of them was meant is not for us to try.
    return fitting.length === 1 ? fitting[0] : undefined;
  };

  return {
    async find(header) {
      keepFresh();
      let key = match(header);
      if (key === undefined) {
        if (looking !== undefined) await looking;
        else if (isCool()) await look();
        key = match(header);
      }
      if (key !== undefined) return { outcome: 'found', key };
      return { outcome: usable() === undefined ? 'unavailable' : 'none' };
    },
    has(id) {
      keepFresh();
      return usable() !== undefined && ids.has(id);
    },
    async load() {
      await look();
      if (fault !== undefined) throw fault;
    },
  };
};
