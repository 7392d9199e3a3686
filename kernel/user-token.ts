// The user JWTs of the customer's own site. Everything about them is pinned by the configuration (`alg`, `typ`, `iss`,
// `aud`, age), and the signature is checked with a key of the customer's set. The cheap checks come first: a forgery
// costs a public-key operation (some 185 µs) only when all that its forger could know is right.
//
// Nothing in the header is believed but `alg`, `typ` and `kid`, and `kid` only chooses among the keys of the set. What
// brings its own key along (`jwk`, `x5c`) or says where to get one (`jku`, `x5u`) is not listened to; extensions that
// must be understood (`crit`, RFC 7515 section 4.1.11) are refused, because we understand none.

import { createHash } from 'node:crypto';
import { jwtVerify } from 'jose';
import type { Clock } from './clock.ts';
import type { Config } from './config.ts';
import { readJws } from './jws.ts';
import { createKeyRing, type KeyRing } from './key-ring.ts';
import type { Log } from './log.ts';
import type { Metrics } from './metrics.ts';

/** `why` names the part that is wrong, in words for whoever connects a site; it quotes nothing of the token. */
export type UserTokenRead =
  | { outcome: 'verified'; subject: string; expiresAtMs: number; keyId: string }
  | { outcome: 'expired' }
  | { outcome: 'invalid'; why: string }
  /** There are no keys to check it with: none could be had yet, or not for too long. */
  | { outcome: 'unavailable' };

export type UserTokens = {
  /** Never throws. `nowMs` is Redis's time, as for our own tokens. */
  verify(token: string, nowMs: number): Promise<UserTokenRead>;
  /** Whether the key that verified a token is still one of the customer's. Never waits. */
  trusts(keyId: string): boolean;
};

export type UserTokenRules = {
  issuer: string;
  audience: string;
  typ: string;
  algorithms: readonly string[];
  ageSeconds: number;
};

/** Cookies and headers of real sites stay below 3 KB. */
export const USER_TOKEN_CHARS_MAX = 4096;
const KID_CHARS_MAX = 256;
const SUBJECT_CHARS_MAX = 256;
/** An `exp` further away than a year says that somebody computed it wrongly, in milliseconds perhaps. */
export const EXP_SECONDS_MAX = 366 * 86_400;
/** Between the issuer's clock and ours, for times that may lie ahead. An expired token gets nothing added. */
const AHEAD_SECONDS_MAX = 5;

/** RFC 7515, section 4.1.9: `application/` may be left out, and case does not matter. */
const plainTyp = (typ: string): string => typ.toLowerCase().replace(/^application\//, '');

/** What is wrong with a header; undefined when nothing is. */
const wrongHeader = (header: Record<string, unknown>, rules: UserTokenRules): string | undefined => {
  const { alg, typ, kid } = header;
  if (typeof alg !== 'string' || !rules.algorithms.includes(alg)) return 'its `alg` is not one accepted here';
  const isTyp = typ === undefined ? plainTyp(rules.typ) === 'jwt' : typeof typ === 'string';
  if (!isTyp || (typeof typ === 'string' && plainTyp(typ) !== plainTyp(rules.typ)))
    return 'its `typ` is not the one accepted here';
  if (kid !== undefined && (typeof kid !== 'string' || kid.length > KID_CHARS_MAX))
    return 'its `kid` is malformed';
  if ('crit' in header || 'b64' in header) return 'it asks for an extension';
  return undefined;
};

/** Whole seconds since 1970 (RFC 7519 allows fractions; no issuer needs them, and a string or a float is a mistake). */
const isSeconds = (value: unknown): value is number => Number.isSafeInteger(value) && Number(value) >= 0;

type ClaimsRead =
  | { outcome: 'good'; sub: string; expiresAtSeconds: number }
  | Exclude<UserTokenRead, { outcome: 'verified' | 'unavailable' }>;

const readClaims = (claims: Record<string, unknown>, rules: UserTokenRules, nowMs: number): ClaimsRead => {
  const invalid = (why: string): ClaimsRead => ({ outcome: 'invalid', why });
  const { iss, aud, sub, exp, iat, nbf } = claims;
  const now = nowMs / 1000;
  if (iss !== rules.issuer) return invalid('its `iss` is not the issuer of this site');
  const audiences: unknown[] = Array.isArray(aud) ? aud : [aud];
  if (!audiences.every((one) => typeof one === 'string') || !audiences.includes(rules.audience))
    return invalid('its `aud` is not this site');
  if (typeof sub !== 'string' || sub === '' || sub.length > SUBJECT_CHARS_MAX)
    return invalid('its `sub` is missing or malformed');
  if (!isSeconds(exp)) return invalid('its `exp` is missing or not in whole seconds');
  if (!isSeconds(iat)) return invalid('its `iat` is missing or not in whole seconds');
  if (nbf !== undefined && !isSeconds(nbf)) return invalid('its `nbf` is not in whole seconds');
  if (exp <= iat) return invalid('its `exp` is not after its `iat`');
  if (exp - now > EXP_SECONDS_MAX) return invalid('its `exp` is too far away');
  if (iat - now > AHEAD_SECONDS_MAX) return invalid('its `iat` lies ahead');
  if (nbf !== undefined && nbf - now > AHEAD_SECONDS_MAX) return invalid('its `nbf` lies ahead');
  const expiresAtSeconds = Math.min(exp, iat + rules.ageSeconds);
  return expiresAtSeconds <= now ? { outcome: 'expired' } : { outcome: 'good', sub, expiresAtSeconds };
};

export const createUserTokens = (options: { rules: UserTokenRules; ring: KeyRing }): UserTokens => {
  const { rules, ring } = options;
  return {
    trusts: (keyId) => ring.has(keyId),
    async verify(token, nowMs) {
      const jws = readJws(token, USER_TOKEN_CHARS_MAX);
      if (jws === undefined) return { outcome: 'invalid', why: 'it is not a signed JWT' };
      const why = wrongHeader(jws.header, rules);
      if (why !== undefined) return { outcome: 'invalid', why };
      const claims = readClaims(jws.claims, rules, nowMs);
      if (claims.outcome !== 'good') return claims;
      // Both were looked at above: the algorithm is one of ours, the kid a text or absent.
      const { alg, kid } = jws.header as { alg: string; kid?: string };
      const found = await ring.find({ alg, kid });
      if (found.outcome === 'unavailable') return found;
      if (found.outcome === 'none') return { outcome: 'invalid', why: 'its `kid` names no key of the site' };
      try {
        await jwtVerify(token, found.key.key, {
          algorithms: [alg],
          issuer: rules.issuer,
          audience: rules.audience,
          requiredClaims: ['exp', 'iat', 'sub'],
          maxTokenAge: rules.ageSeconds,
          clockTolerance: AHEAD_SECONDS_MAX,
          currentDate: new Date(nowMs),
        });
      } catch {
        return { outcome: 'invalid', why: 'its signature is not by the key it names' };
      }
      const subject = createHash('sha256').update(`${rules.issuer}\n${claims.sub}`).digest('base64url');
      const expiresAtMs = claims.expiresAtSeconds * 1000;
      return { outcome: 'verified', subject, expiresAtMs, keyId: found.key.id };
    },
  };
};

/** How often a file is looked at while it is in use. */
const FILE_REFRESH_MS = 10_000;

/** The user tokens that the configuration asks for; undefined when it names no keys. Throws when those cannot be used. */
export const openUserTokens = async (options: {
  config: Config;
  log: Log;
  clock: Clock;
  metrics: Metrics;
}): Promise<UserTokens | undefined> => {
  const { config, ...rest } = options;
  if (config.jwksUrl === '' && config.jwksFile === '') return undefined;
  const isUrl = config.jwksUrl !== '';
  const ring = createKeyRing({
    ...rest,
    source: isUrl ? { url: config.jwksUrl } : { file: config.jwksFile },
    refreshMs: isUrl ? config.jwksRefreshSeconds * 1000 : FILE_REFRESH_MS,
  });
  await ring.load();
  const rules = {
    issuer: config.jwtIssuer,
    audience: config.jwtAudience,
    typ: config.jwtTyp,
    algorithms: config.jwtAlgorithms,
    ageSeconds: config.jwtAgeSeconds,
  };
  return createUserTokens({ rules, ring });
};
