// Everything we sign. Compact tokens are HMACs that a gateway checks in a microsecond; passes are JWTs that any
// origin can check with a standard library. Each kind has a key of its own, derived from the master key, so a
// token of one kind is never accepted as another. Several master keys may be known at once: the first signs, all
// verify, and what must not move comes from the root (kernel/master-keys.ts), so rotating them loses nobody's place.
//
//   compact = kid "." base64url(JSON array of fields) "." base64url(first 16 bytes of HMAC-SHA-256)
//
// The MAC covers the kind, the kid and the payload as they are spelt, and is itself accepted in one spelling only, so
// one token is one text. jose is imported here and, for the user tokens of the customer, in kernel/user-token.ts.

import { createHash, createPrivateKey, createPublicKey, hkdfSync, timingSafeEqual } from 'node:crypto';
import {
  calculateJwkThumbprint,
  createLocalJWKSet,
  errors,
  exportJWK,
  type JWK,
  jwtVerify,
  SignJWT,
} from 'jose';
import { readJws } from './jws.ts';
import { createMac, type Mac } from './mac.ts';
import { type MasterKey, ROOT_KID, rootOf, signingKeys } from './master-keys.ts';

export { generateKey, generateKeys, loadKeys, parseKeys } from './master-keys.ts';

import { createRecent } from './recent.ts';

export type TokenKind =
  | 'visitor'
  | 'receipt'
  | 'receipt-withheld'
  | 'claim'
  | 'session'
  | 'context'
  | 'service'
  | 'operator-csrf';

export type Field = string | number;

const TOKEN_CHARS_MAX = 400;
const MAC_BYTES = 16;
/** 16 bytes in base64url. */
const MAC_CHARS = 22;
/** A pass has some 450 characters, a head some 400. */
const JWS_CHARS_MAX = 2000;
/** Derived keys kept at hand: more than 500 rooms need with two master keys. */
const DERIVED_MAX = 2000;

export type Pass = { sale: number; placeId: string; number: number; serial: number; sessionId: string };
export type PassRead = ({ outcome: 'valid' } & Pass) | { outcome: 'expired' } | { outcome: 'invalid' };

export type Tokens = {
  /** `scope` narrows the key: whoever holds that of one scope can neither make nor check a token of another. */
  sign(kind: TokenKind, fields: readonly Field[], scope?: string): string;
  /**
   * The fields, if the token is whole, of this kind and signed with a known key; never throws. `scopeOf` reads the
   * scope from the fields, which are not to be believed before this has answered.
   */
  verify(kind: TokenKind, token: string, scopeOf?: (fields: Field[]) => string): Field[] | undefined;
  /** The keys of one kind and scope, newest first, as `kid:base64url,…`: for those who check without being us. */
  exportKeys(kind: TokenKind, scope: string): string;
  /** 32 secret bytes for a purpose (place salt, draw), from the root, so that rotation does not move them. */
  derive(purpose: string): Buffer;
  signPass(claims: {
    room: string;
    sale: number;
    placeId: string;
    number: number;
    serial: number;
    sessionId: string;
    lifeSeconds: number;
    nowMs: number;
  }): Promise<string>;
  /** `nowMs` is Redis's time, as at signing: a gateway whose own clock is wrong judges like the others. */
  verifyPass(token: string, expected: { room: string; nowMs: number }): Promise<PassRead>;
  /** Vouches for a sale's ledger up to a row; `createHeadVerifier` checks it from the public keys alone. */
  signLedgerHead(head: LedgerHead): Promise<string>;
  /** The public keys of passes and of ledger heads as a JWK set (RFC 7517). */
  jwks(): Promise<KeySet>;
};

export type KeySet = { keys: JWK[] };
/** What a signed head says: after row `seq` the chain of this sale had this hash. */
export type LedgerHead = { room: string; sale: number; seq: number; hash: string; atMs: number };

const PASS_TYP = 'anteroom-pass+jwt';
/** Longest life of a pass: long enough for a redirect to another host, short enough to be worth little if copied. */
export const PASS_LIFE_SECONDS = 300;
/** Gateways read Redis's clock about once a second and so differ by a little. */
const PASS_TOLERANCE_SECONDS = 2;
const LEDGER_TYP = 'anteroom-ledger+jwt';

/**
 * An Ed25519 key from 32 derived bytes. RFC 8410: the PKCS#8 wrapping of a seed is a fixed 16-byte prefix, so
 * every process derives the same key pair from the same master key and none has to be stored or shared.
 */
const ed25519 = (seed: Buffer) =>
  createPrivateKey({
    key: Buffer.concat([Buffer.from('302e020100300506032b657004220420', 'hex'), seed]),
    format: 'der',
    type: 'pkcs8',
  });

// Each is used and done with in one go; tokens are checked by the thousand, and Node's small buffers cost a microsecond.
const payloadBytes = Buffer.alloc(TOKEN_CHARS_MAX);
const givenMac = Buffer.alloc(MAC_CHARS);
const expectedMac = Buffer.alloc(MAC_CHARS);

/** The fields of a compact token's payload; undefined when it is not a list of texts and numbers. */
const fieldsOf = (payload: string): Field[] | undefined => {
  try {
    const fields: unknown = JSON.parse(
      payloadBytes.toString('utf8', 0, payloadBytes.write(payload, 'base64url')),
    );
    if (!Array.isArray(fields)) return undefined;
    for (const field of fields) if (typeof field !== 'string' && typeof field !== 'number') return undefined;
    return fields;
  } catch {
    return undefined; // Not JSON, and so no token.
  }
};

/** `issuer` is the public address; it stands in `iss` of every pass. */
export const createTokens = (options: { keys: readonly MasterKey[]; issuer: string }): Tokens => {
  const { issuer } = options;
  const keys = signingKeys(options.keys);
  const newest = keys[0];
  const root = rootOf(options.keys);
  if (newest === undefined || root === undefined) throw new Error('createTokens needs at least one key');

  const derived = new Map<string, Buffer>();
  const keyFor = (key: MasterKey, purpose: string): Buffer => {
    const name = `${key.kid}/${purpose}`;
    let found = derived.get(name);
    if (found === undefined) {
      // A scope may come from a token that was not checked yet: strangers must not fill the memory with them.
      if (derived.size >= DERIVED_MAX) derived.clear();
      found = Buffer.from(hkdfSync('sha256', key.secret, 'anteroom', purpose, 32));
      derived.set(name, found);
    }
    return found;
  };
  const purposeOf = (kind: TokenKind, scope: string): string =>
    scope === '' ? `token/${kind}` : `token/${kind}/${scope}`;
  const macs = new Map(keys.map((key) => [key, createRecent<string, Mac>(DERIVED_MAX)]));
  /** 32 bytes, of which a token carries the first 16. */
  const macOf = (key: MasterKey, kind: TokenKind, scope: string, signed: string): Buffer => {
    const ofKey = macs.get(key)!;
    const name = scope === '' ? kind : `${kind}/${scope}`;
    const mac = ofKey.get(name) ?? ofKey.set(name, createMac(keyFor(key, purposeOf(kind, scope))));
    return mac(`${kind}.${signed}`);
  };
  const pairFor = (key: MasterKey, purpose: string, suffix = '') => {
    const privateKey = ed25519(keyFor(key, purpose));
    return { kid: key.kid + suffix, privateKey, publicKey: createPublicKey(privateKey) };
  };
  const passKeys = keys.map((key) => pairFor(key, 'pass'));
  // A key of their own and a kid of their own: whoever checks passes never meets a head under the same name. Heads are
  // checked years later, so the root signs them, where there is one; those of before are checked with the others.
  const ledgerKeys = [...(root.kid === ROOT_KID ? [root] : []), ...keys].map((key) =>
    pairFor(key, 'ledger', '-ledger'),
  );

  return {
    sign(kind, fields, scope = '') {
      const signed = `${newest.kid}.${Buffer.from(JSON.stringify(fields)).toString('base64url')}`;
      return `${signed}.${macOf(newest, kind, scope, signed).toString('base64url', 0, MAC_BYTES)}`;
    },
    verify(kind, token, scopeOf) {
      if (token.length > TOKEN_CHARS_MAX) return undefined;
      const last = token.lastIndexOf('.');
      const first = token.indexOf('.');
      if (first <= 0 || last <= first) return undefined;
      const key = keys.find((candidate) => candidate.kid === token.slice(0, first));
      if (key === undefined) return undefined;
      // Compared as text: decoders also take padding, white space and spare bits, and one token would have many names.
      if (token.length - last - 1 !== MAC_CHARS) return undefined;
      const payload = token.slice(first + 1, last);
      const claimed = scopeOf === undefined ? undefined : fieldsOf(payload);
      if (scopeOf !== undefined && claimed === undefined) return undefined;
      const scope = scopeOf === undefined || claimed === undefined ? '' : scopeOf(claimed);
      // Characters beyond ASCII take more bytes and do not all fit.
      if (givenMac.write(token.slice(last + 1), 'utf8') !== MAC_CHARS) return undefined;
      const mac = macOf(key, kind, scope, token.slice(0, last));
      expectedMac.write(mac.toString('base64url', 0, MAC_BYTES), 'latin1');
      if (!timingSafeEqual(givenMac, expectedMac)) return undefined;
      return claimed ?? fieldsOf(payload);
    },
    exportKeys: (kind, scope) =>
      keys.map((key) => `${key.kid}:${keyFor(key, purposeOf(kind, scope)).toString('base64url')}`).join(','),
    derive: (purpose) => keyFor(root, purpose),
    async signPass({ room, sale, placeId, number, serial, sessionId, lifeSeconds, nowMs }) {
      const at = Math.floor(nowMs / 1000);
      return new SignJWT({ sale, number, serial })
        .setProtectedHeader({ alg: 'EdDSA', typ: PASS_TYP, kid: newest.kid })
        .setIssuer(issuer)
        .setAudience(room)
        .setSubject(placeId)
        .setJti(sessionId)
        .setIssuedAt(at)
        .setExpirationTime(at + lifeSeconds)
        .sign(passKeys[0]!.privateKey);
    },
    async verifyPass(token, { room, nowMs }) {
      if (readJws(token, JWS_CHARS_MAX) === undefined) return { outcome: 'invalid' };
      try {
        const { payload } = await jwtVerify(
          token,
          ({ kid }) => {
            const found = passKeys.find((key) => key.kid === kid);
            if (found === undefined) throw new Error('unknown kid');
            return found.publicKey;
          },
          {
            algorithms: ['EdDSA'],
            typ: PASS_TYP,
            issuer,
            audience: room,
            requiredClaims: ['exp', 'iat', 'jti', 'sub'],
            maxTokenAge: PASS_LIFE_SECONDS,
            clockTolerance: PASS_TOLERANCE_SECONDS,
            currentDate: new Date(nowMs),
          },
        );
        const { sale, number, serial, sub, jti } = payload;
        if (typeof sale !== 'number' || typeof number !== 'number' || typeof serial !== 'number')
          return { outcome: 'invalid' };
        return { outcome: 'valid', sale, number, serial, placeId: sub!, sessionId: jti! };
      } catch (error) {
        // Only a pass of ours that is too old is told so; any other fault of a stranger's token is one answer.
        return { outcome: error instanceof errors.JWTExpired ? 'expired' : 'invalid' };
      }
    },
    async signLedgerHead(head) {
      const { kid, privateKey } = ledgerKeys[0]!;
      return new SignJWT({ ...head })
        .setProtectedHeader({ alg: 'EdDSA', typ: LEDGER_TYP, kid })
        .setIssuer(issuer)
        .sign(privateKey);
    },
    async jwks() {
      const set: JWK[] = [];
      for (const { kid, publicKey } of [...passKeys, ...ledgerKeys])
        set.push({ ...(await exportJWK(publicKey)), kid, alg: 'EdDSA', use: 'sig' });
      return { keys: set };
    },
  };
};

/** More keys than any site has; a longer list is refused rather than searched. */
const SET_KEYS_MAX = 100;

/** A JWK set somebody gave; undefined when it is none. */
export const parseKeySet = (input: unknown): KeySet | undefined => {
  if (typeof input !== 'object' || input === null || !('keys' in input) || !Array.isArray(input.keys))
    return undefined;
  if (input.keys.length > SET_KEYS_MAX) return undefined;
  const isKey = (key: unknown): key is JWK => typeof key === 'object' && key !== null && 'kty' in key;
  return input.keys.every(isKey) ? { keys: input.keys } : undefined;
};

/** The keys of a set that sign ledger heads, by their RFC 7638 thumbprints: what people compare by eye. */
export const thumbprintsOf = async (set: KeySet): Promise<string[]> => {
  const found: string[] = [];
  for (const key of set.keys)
    if (key.kid?.endsWith('-ledger')) found.push(await calculateJwkThumbprint(key, 'sha256'));
  return found;
};

/** Checks signed ledger heads with public keys alone. The verifier answers undefined for whatever is not one. */
export const createHeadVerifier = (set: KeySet): ((jws: string) => Promise<LedgerHead | undefined>) => {
  const source = createLocalJWKSet({ keys: set.keys.filter((key) => key.kid?.endsWith('-ledger')) });
  return async (jws) => {
    if (readJws(jws, JWS_CHARS_MAX) === undefined) return undefined;
    try {
      const { payload } = await jwtVerify(jws, source, { algorithms: ['EdDSA'], typ: LEDGER_TYP });
      const { room, sale, seq, hash, atMs } = payload;
      if (typeof room !== 'string' || typeof sale !== 'number' || typeof seq !== 'number') return undefined;
      if (typeof hash !== 'string' || typeof atMs !== 'number') return undefined;
      return { room, sale, seq, hash, atMs };
    } catch {
      return undefined; // Forged, of another kind, or of a key that is not in the set: not a head.
    }
  };
};

/** Compares two secrets without saying by its duration where they differ. */
export const sameSecret = (a: string, b: string): boolean =>
  timingSafeEqual(createHash('sha256').update(a).digest(), createHash('sha256').update(b).digest());
