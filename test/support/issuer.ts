// The customer's site, as far as Anteroom sees it: a real HTTP server with a JWK set that a test may change, break or
// take away, and tokens signed with keys of the test's choice.

import { generateKeyPairSync, type KeyObject } from 'node:crypto';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { exportJWK, type JWK, SignJWT } from 'jose';
import type { Clock } from '../../kernel/clock.ts';
import { createKeyRing, type KeyRing } from '../../kernel/key-ring.ts';
import { silentLog } from '../../kernel/log.ts';
import { createMetrics, type Metrics } from '../../kernel/metrics.ts';
import { createUserTokens, type UserTokenRules, type UserTokens } from '../../kernel/user-token.ts';

type Teardown = { teardown(work: () => unknown): void };

export const ISSUER = 'https://shop.test';
export const AUDIENCE = 'tickets';
export const RULES: UserTokenRules = {
  issuer: ISSUER,
  audience: AUDIENCE,
  typ: 'JWT',
  algorithms: ['ES256', 'EdDSA', 'RS256', 'PS256'],
  ageSeconds: 86_400,
};

/** A clock that stands until it is moved. */
export const handClock = (): Clock & { move(ms: number): void } => {
  let atMs = 1_000_000;
  return {
    nowMs: () => Date.now(),
    monotonicMs: () => atMs,
    move: (ms) => {
      atMs += ms;
    },
  };
};

export type KeyPair = { kid: string; alg: string; privateKey: KeyObject; jwk: JWK };

export const keyPair = async (kid: string, alg: 'EdDSA' | 'ES256' | 'RS256' = 'EdDSA'): Promise<KeyPair> => {
  const { publicKey, privateKey } =
    alg === 'EdDSA'
      ? generateKeyPairSync('ed25519')
      : alg === 'ES256'
        ? generateKeyPairSync('ec', { namedCurve: 'P-256' })
        : generateKeyPairSync('rsa', { modulusLength: 2048 });
  return { kid, alg, privateKey, jwk: { ...(await exportJWK(publicKey)), kid, alg, use: 'sig' } };
};

/** A token of the site, good unless a test says otherwise. `claims` and `header` go over what is usual. */
export const userToken = (
  key: KeyPair,
  sub: string,
  more: { claims?: Record<string, unknown>; header?: Record<string, unknown> } = {},
): Promise<string> => {
  const now = Math.floor(Date.now() / 1000);
  const claims = { iss: ISSUER, aud: AUDIENCE, sub, iat: now - 10, exp: now + 3600, ...more.claims };
  return new SignJWT(JSON.parse(JSON.stringify(claims)))
    .setProtectedHeader({ alg: key.alg, typ: 'JWT', kid: key.kid, ...more.header })
    .sign(key.privateKey);
};

export type Issuer = {
  url: string;
  /** How often the set was fetched. */
  fetches(): number;
  /** What the address answers: a set, or anything else as it is. */
  serve(answer: { keys: readonly JWK[] } | { status?: number; text: string } | 'silence'): void;
  /** It waits for an answer for longer than any machine takes, unless `lookMsMax` says otherwise. */
  ring(options?: { clock?: Clock; metrics?: Metrics; refreshMs?: number; lookMsMax?: number }): KeyRing;
  tokens(options?: { ring?: KeyRing; rules?: Partial<UserTokenRules> }): UserTokens;
};

export const startIssuer = async (t: Teardown, keys: readonly JWK[]): Promise<Issuer> => {
  let answer: Parameters<Issuer['serve']>[0] = { keys };
  let fetches = 0;
  const server = createServer((_request, response) => {
    fetches += 1;
    if (answer === 'silence') return;
    const text = 'keys' in answer ? JSON.stringify(answer) : answer.text;
    response.writeHead('keys' in answer ? 200 : (answer.status ?? 200), {
      'content-type': 'application/json',
    });
    response.end(text);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  // `listen` on a port was awaited, so the address is one of TCP.
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/jwks`;
  const ring: Issuer['ring'] = (options = {}) =>
    createKeyRing({
      source: { url },
      refreshMs: options.refreshMs ?? 600_000,
      lookMsMax: options.lookMsMax ?? 60_000,
      log: silentLog,
      clock: options.clock ?? handClock(),
      metrics: options.metrics ?? createMetrics({ processMetrics: false }),
    });
  return {
    url,
    fetches: () => fetches,
    serve: (next) => {
      answer = next;
    },
    ring,
    tokens: (options = {}) =>
      createUserTokens({ rules: { ...RULES, ...options.rules }, ring: options.ring ?? ring() }),
  };
};
