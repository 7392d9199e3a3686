// User JWTs behind real keys on a real HTTP server: one fetch for a flood, the last good set while the address is down,
// weak sets refused, one check a token, and a memory that no forger can fill.

import { generateKeyPairSync } from 'node:crypto';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { exportJWK } from 'jose';
import t from 'tap';
import { readConfig } from '../../kernel/config.ts';
import { Refusal } from '../../kernel/errors.ts';
import type { Request } from '../../kernel/http.ts';
import { COOLDOWN_MS, LOOK_MS_MAX, SET_BYTES_MAX, STALE_MS_MAX } from '../../kernel/key-ring.ts';
import { silentLog } from '../../kernel/log.ts';
import { createMetrics } from '../../kernel/metrics.ts';
import { openUserTokens, type UserTokenRead, type UserTokens } from '../../kernel/user-token.ts';
import { createUsers, TOKEN_DEPOSIT } from '../../line/users.ts';
import { AUDIENCE, handClock, ISSUER, keyPair, startIssuer, userToken } from '../support/issuer.ts';

const key = await keyPair('one');
const second = await keyPair('two', 'ES256');
const rsa = await keyPair('three', 'RS256');
const outcomeOf = async (tokens: UserTokens, token: string): Promise<string> =>
  (await tokens.verify(token, Date.now())).outcome;

t.test('tokens of every accepted algorithm are verified, and the subject is a hash', async (t) => {
  const issuer = await startIssuer(t, [key.jwk, second.jwk, rsa.jwk]);
  const tokens = issuer.tokens();
  for (const pair of [key, second, rsa]) {
    const read = await tokens.verify(await userToken(pair, 'someone'), Date.now());
    t.equal(read.outcome, 'verified', pair.alg);
    t.match(read, { subject: /^[\w-]{43}$/ });
  }
  t.equal(issuer.fetches(), 1, 'the set is fetched once');
  const access = issuer.tokens({ rules: { typ: 'at+jwt' } });
  t.equal(
    await outcomeOf(access, await userToken(key, 'a', { header: { typ: 'application/AT+JWT' } })),
    'verified',
  );
  t.equal(await outcomeOf(access, await userToken(key, 'a')), 'invalid', 'another kind of token');
  t.equal(await outcomeOf(access, await userToken(key, 'a', { header: { typ: undefined } })), 'invalid');
  t.equal(await outcomeOf(tokens, await userToken(key, 'a', { header: { typ: undefined } })), 'verified');
  const list = await userToken(key, 'a', { claims: { aud: ['else', AUDIENCE] } });
  t.equal(await outcomeOf(tokens, list), 'verified', 'one audience of several (RFC 7519, section 4.1.3)');
});

t.test('a set with one key needs no kid; two that fit are none', async (t) => {
  const issuer = await startIssuer(t, [key.jwk]);
  const nameless = await userToken(key, 'a', { header: { kid: undefined } });
  t.equal(await outcomeOf(issuer.tokens(), nameless), 'verified');
  issuer.serve({ keys: [key.jwk, (await keyPair('other')).jwk] });
  t.equal(await outcomeOf(issuer.tokens(), nameless), 'invalid');
});

t.test('5,000 tokens with unknown kids cause one fetch in 30 s', async (t) => {
  const issuer = await startIssuer(t, [key.jwk]);
  const clock = handClock();
  const metrics = createMetrics({ processMetrics: false });
  const tokens = issuer.tokens({ ring: issuer.ring({ clock, metrics }) });
  t.equal(await outcomeOf(tokens, await userToken(key, 'a')), 'verified');
  t.equal(issuer.fetches(), 1);
  clock.move(COOLDOWN_MS);
  const [, claims, mac] = (await userToken(key, 'a')).split('.');
  const flood = (round: string) =>
    Promise.all(
      Array.from({ length: 5000 }, (_, index) => {
        const header = Buffer.from(JSON.stringify({ alg: 'EdDSA', kid: `${round}-${index}` }));
        return outcomeOf(tokens, `${header.toString('base64url')}.${claims}.${mac}`);
      }),
    );
  t.same(new Set(await flood('a')), new Set(['invalid']));
  t.equal(issuer.fetches(), 2, 'one for all of them');
  clock.move(COOLDOWN_MS - 1);
  await flood('b');
  t.equal(issuer.fetches(), 2, 'and none until the cooldown is over');
  issuer.serve({ keys: [second.jwk] });
  clock.move(1);
  t.equal(await outcomeOf(tokens, await userToken(second, 'a')), 'verified', 'a new key is found then');
  t.equal(issuer.fetches(), 3);
  t.equal(await outcomeOf(tokens, await userToken(key, 'a')), 'invalid', 'and the old one is gone');
  t.match(await metrics.text(), 'anteroom_user_keys_total{outcome="ok"} 3');
});

t.test('the last good set stays in use while its address is down, but not for ever', async (t) => {
  const issuer = await startIssuer(t, [key.jwk]);
  const clock = handClock();
  const metrics = createMetrics({ processMetrics: false });
  const ring = issuer.ring({ clock, metrics });
  const tokens = issuer.tokens({ ring });
  const good = await userToken(key, 'a');
  const lost = await userToken(second, 'a');
  const read = await tokens.verify(good, Date.now());
  if (read.outcome !== 'verified') return t.fail(read.outcome);
  const bad: Parameters<typeof issuer.serve>[0][] = [
    { status: 500, text: '' },
    { text: '<html>' },
    { text: '{"keys":[]}' },
    { text: `{"keys":[${' '.repeat(SET_BYTES_MAX)}]}` },
    { keys: [second.jwk, { kty: 'oct', k: 'c2VjcmV0', kid: 's' }] },
  ];
  for (const answer of bad) {
    issuer.serve(answer);
    const before = issuer.fetches();
    clock.move(COOLDOWN_MS);
    t.equal(await outcomeOf(tokens, lost), 'invalid', 'nothing of a bad set is believed');
    t.equal(issuer.fetches(), before + 1);
    t.equal(await outcomeOf(tokens, good), 'verified', JSON.stringify(answer).slice(0, 40));
    t.ok(tokens.trusts(read.keyId));
  }
  const counted = await metrics.text();
  t.match(counted, 'anteroom_user_keys_total{outcome="failed"} 2');
  t.match(counted, 'anteroom_user_keys_total{outcome="refused"} 3');
  clock.move(STALE_MS_MAX);
  t.notOk(tokens.trusts(read.keyId), 'after a day it is too old');
  t.equal(await outcomeOf(tokens, good), 'unavailable');
  issuer.serve({ keys: [key.jwk] });
  clock.move(COOLDOWN_MS);
  t.equal(await outcomeOf(tokens, good), 'verified', 'and it comes back by itself');
});

t.test(
  'an address that says nothing is given up after its deadline, and whoever waits is told',
  async (t) => {
    const issuer = await startIssuer(t, []);
    issuer.serve('silence');
    const tokens = issuer.tokens({ ring: issuer.ring({ lookMsMax: LOOK_MS_MAX }) });
    const token = await userToken(key, 'a');
    const answers = await Promise.all(Array.from({ length: 50 }, () => outcomeOf(tokens, token)));
    t.same(new Set(answers), new Set(['unavailable']));
    t.equal(issuer.fetches(), 1);
  },
);

const setting = {
  ANTEROOM_USER_JWT_ISSUER: ISSUER,
  ANTEROOM_USER_JWT_AUDIENCE: AUDIENCE,
};
const opened = (env: Record<string, string>, clock = handClock()) =>
  openUserTokens({
    config: readConfig({ ...setting, ...env }),
    log: silentLog,
    clock,
    metrics: createMetrics({ processMetrics: false }),
  });

t.test('a set with a weak, secret or foreign key is refused at start, with what is wrong', async (t) => {
  const issuer = await startIssuer(t, []);
  const weak = generateKeyPairSync('rsa', { modulusLength: 1024 }).publicKey;
  const one = generateKeyPairSync('rsa', { modulusLength: 2048 }).publicKey;
  const curve = generateKeyPairSync('ec', { namedCurve: 'secp256k1' }).publicKey;
  const sets: [unknown, RegExp][] = [
    [{ keys: [key.jwk, { kty: 'oct', k: 'c2VjcmV0' }] }, /key 2 is symmetric/],
    [{ keys: [{ ...(await exportJWK(weak)), kid: 'w' }] }, /1024 bits/],
    [{ keys: [{ ...(await exportJWK(one)), e: 'AQ' }] }, /exponent|malformed/],
    [{ keys: [await exportJWK(key.privateKey)] }, /private part/],
    [{ keys: [{ kty: 'RSA', n: 'x', e: 'AQAB' }] }, /malformed|bits/],
    [{ keys: [{ ...key.jwk, kid: 7 }] }, /no text/],
    [{ keys: [{ ...key.jwk, use: 'enc' }] }, /none of its keys/],
    [{ keys: [{ ...key.jwk, key_ops: ['encrypt'] }] }, /none of its keys/],
    [{ keys: [{ ...(await exportJWK(curve)), kid: 'k' }] }, /none of its keys/],
    [{ keys: [] }, /none of its keys/],
    [{ keys: [7] }, /not an object/],
    [{ keys: Array.from({ length: 101 }, () => key.jwk) }, /more than 100/],
    [{}, /not a JWK set/],
    [[], /not a JWK set/],
    ['x', /not a JWK set/],
  ];
  for (const [set, says] of sets) {
    issuer.serve({ text: JSON.stringify(set) });
    await t.rejects(opened({ ANTEROOM_USER_JWKS_URL: issuer.url }), says);
  }
  issuer.serve({ text: 'x' });
  await t.rejects(opened({ ANTEROOM_USER_JWKS_URL: issuer.url }), /not JSON/);
  const other = { ...(await exportJWK(curve)), kid: 'other' };
  issuer.serve({ keys: [other, { ...key.jwk, use: 'enc' }, key.jwk] });
  t.equal(
    await outcomeOf((await opened({ ANTEROOM_USER_JWKS_URL: issuer.url }))!, await userToken(key, 'a')),
    'verified',
  );
  issuer.serve({ status: 503, text: '' });
  t.ok(await opened({ ANTEROOM_USER_JWKS_URL: issuer.url }), 'an address that is down may come back');
  t.equal(await opened({}), undefined, 'nobody asked for user tokens');
});

t.test('a file of keys is read again while it is in use', async (t) => {
  const file = join(t.testdir({}), 'jwks.json');
  await t.rejects(opened({ ANTEROOM_USER_JWKS_FILE: file }), /cannot be read/);
  writeFileSync(file, JSON.stringify({ keys: [key.jwk] }));
  const clock = handClock();
  const tokens = (await opened({ ANTEROOM_USER_JWKS_FILE: file }, clock))!;
  const [first, next] = [await userToken(key, 'a'), await userToken(second, 'a')];
  const read = await tokens.verify(first, Date.now());
  if (read.outcome !== 'verified') return t.fail(read.outcome);
  writeFileSync(file, JSON.stringify({ keys: [second.jwk] }));
  clock.move(9999);
  t.equal(await outcomeOf(tokens, next), 'invalid', 'it is looked at every ten seconds');
  clock.move(1);
  t.equal(await outcomeOf(tokens, next), 'verified');
  t.notOk(tokens.trusts(read.keyId));
  rmSync(file);
  clock.move(60_000);
  t.equal(await outcomeOf(tokens, next), 'verified', 'the last good set stays');
});

type Shown = { bearer?: string; cookie?: string; address?: string };
/** As much of a request as identity looks at. */
const shown = ({ bearer, cookie, address = '10.0.0.1' }: Shown): Request =>
  ({
    address,
    header: (name: string) =>
      name === 'authorization' && bearer !== undefined ? `Bearer ${bearer}` : undefined,
    cookie: (name: string) => (name === 'login' ? cookie : undefined),
  }) as unknown as Request; // Only these three are read.

const start = (
  tokens: UserTokens,
  more: { tokensMax?: number; checksMax?: number; budget?: number } = {},
) => {
  const time = { nowMs: Date.now() };
  const checks = { count: 0 };
  const metrics = createMetrics({ processMetrics: false });
  const spent = new Map<string, number>();
  const users = createUsers({
    tokens: {
      trusts: (id) => tokens.trusts(id),
      verify: (token, nowMs) => {
        checks.count += 1;
        return tokens.verify(token, nowMs);
      },
    },
    cookie: 'login',
    tokensMax: more.tokensMax ?? 1000,
    ...(more.checksMax === undefined ? {} : { checksMax: more.checksMax }),
    toll: ({ address }, cost) => {
      const after = (spent.get(address) ?? 0) + cost;
      if (after > (more.budget ?? 1e9)) throw new Refusal('too-many-requests');
      spent.set(address, after);
    },
    nowMs: () => time.nowMs,
    metrics,
  });
  const codeOf = async (request: Shown, lenient = false): Promise<string> => {
    try {
      return (await users.userOf(shown(request), { lenient })) ?? 'nobody';
    } catch (error) {
      return error instanceof Refusal ? error.code : String(error);
    }
  };
  return { users, time, checks, metrics, codeOf, spent };
};

t.test(
  'a token is checked once, however many bring it at the same time, and again when it has expired',
  async (t) => {
    const clock = handClock();
    const issuer = await startIssuer(t, [key.jwk]);
    const { time, checks, metrics, codeOf } = start(issuer.tokens({ ring: issuer.ring({ clock }) }));
    const token = await userToken(key, 'a');
    const found = await Promise.all(Array.from({ length: 200 }, () => codeOf({ bearer: token })));
    t.equal(new Set(found).size, 1);
    t.match(found[0], /^u:[\w-]{43}$/);
    t.equal(checks.count, 1);
    t.equal(await codeOf({ cookie: token }), found[0], 'the same user by cookie');
    t.equal(checks.count, 1);
    time.nowMs += 2 * 3600_000;
    t.equal(await codeOf({ bearer: token }), 'token-expired', 'memory does not outlive it');
    const text = await metrics.text();
    t.match(text, 'anteroom_user_tokens_total{outcome="verified"} 200');
    t.match(text, 'anteroom_user_tokens_total{outcome="known"} 1');
    t.match(text, 'anteroom_user_tokens_total{outcome="expired"} 1');
  },
);

t.test('memory ends with the age that is allowed, and with the key', async (t) => {
  const clock = handClock();
  const issuer = await startIssuer(t, [key.jwk]);
  const ring = issuer.ring({ clock });
  const { time, checks, codeOf } = start(issuer.tokens({ ring, rules: { ageSeconds: 600 } }));
  const now = Math.floor(time.nowMs / 1000);
  const token = await userToken(key, 'a', { claims: { iat: now - 10, exp: now + 300 * 86_400 } });
  t.match(await codeOf({ bearer: token }), /^u:/);
  time.nowMs += 580_000;
  t.match(await codeOf({ bearer: token }), /^u:/);
  t.equal(checks.count, 1);
  time.nowMs += 20_000;
  t.equal(await codeOf({ bearer: token }), 'token-expired');

  const young = await userToken(key, 'b', { claims: { iat: Math.floor(time.nowMs / 1000) } });
  t.match(await codeOf({ bearer: young }), /^u:/);
  issuer.serve({ keys: [second.jwk] });
  clock.move(600_000);
  const before = issuer.fetches();
  t.match(await codeOf({ bearer: young }), /^u:/, 'the look that finds it out is under way');
  await ring.find({ kid: 'two', alg: 'ES256' });
  t.equal(issuer.fetches(), before + 1);
  t.equal(await codeOf({ bearer: young }), 'token-invalid', 'a key that was taken back counts no more');
});

t.test('memory is bounded, keeps who is seen, and no forger gets into it', async (t) => {
  const issuer = await startIssuer(t, [key.jwk]);
  const { users, checks, codeOf } = start(issuer.tokens(), { tokensMax: 100 });
  const good = await userToken(key, 'regular');
  await codeOf({ bearer: good });
  for (let index = 0; index < 300; index += 1) {
    await codeOf({ bearer: await userToken(key, `user-${index}`) });
    await codeOf({ bearer: good });
    t.ok(users.size() <= 101);
  }
  t.equal(checks.count, 301, 'whoever is seen is not forgotten');
  const [head, body] = good.split('.');
  const forged = Array.from({ length: 500 }, (_, index) => {
    const mac = Buffer.alloc(64);
    mac.writeUInt32BE(index);
    return `${head}.${body}.${mac.toString('base64url')}`;
  });
  const size = users.size();
  t.same(new Set(await Promise.all(forged.map((bearer) => codeOf({ bearer })))), new Set(['token-invalid']));
  t.equal(users.size(), size);
  await codeOf({ bearer: good });
  t.equal(checks.count, 801, 'five hundred forgeries later the regular is still known');
});

t.test('a flood of forgeries is checked no further than its address can pay', async (t) => {
  const issuer = await startIssuer(t, [key.jwk]);
  const { checks, codeOf, spent } = start(issuer.tokens(), { budget: 300 });
  t.equal(
    await codeOf({ bearer: await userToken(key, 'a', { claims: { iat: 1, exp: 2 } }), address: '10.0.0.3' }),
    'token-expired',
  );
  t.equal(spent.get('10.0.0.3'), 1, 'an old sign-in costs one request');
  checks.count = 0;
  const good = await userToken(key, 'regular');
  t.match(await codeOf({ bearer: good }), /^u:/);
  const [head, body] = good.split('.');
  const codes = new Map<string, number>();
  for (let index = 0; index < 1000; index += 1) {
    const mac = Buffer.alloc(64);
    mac.writeUInt32BE(index);
    const code = await codeOf({ bearer: `${head}.${body}.${mac.toString('base64url')}` });
    codes.set(code, (codes.get(code) ?? 0) + 1);
  }
  t.equal(codes.get('token-invalid'), 300 / TOKEN_DEPOSIT, 'each costs what a forgery costs');
  t.equal(codes.get('too-many-requests'), 900, 'and the rest are not looked at');
  t.equal(checks.count, 101);
  t.equal(spent.get('10.0.0.1'), 300, 'the good one cost nothing');
  t.match(await codeOf({ bearer: good }), /^u:/, 'who is known at that address is not held up');
  t.match(
    await codeOf({ bearer: await userToken(key, 'new'), address: '10.0.0.2' }),
    /^u:/,
    'nor anyone elsewhere',
  );
});

t.test('no more checks are under way than are allowed', async (t) => {
  let free: (read: UserTokenRead) => void = () => undefined;
  const held = new Promise<UserTokenRead>((resolve) => {
    free = resolve;
  });
  const { codeOf } = start({ trusts: () => true, verify: () => held }, { checksMax: 2 });
  const [one, two] = [codeOf({ bearer: 'one' }), codeOf({ bearer: 'two' })];
  const same = codeOf({ bearer: 'one' });
  t.equal(await codeOf({ bearer: 'three' }), 'overloaded');
  free({ outcome: 'unavailable' });
  t.same(
    await Promise.all([one, two, same]),
    Array.from({ length: 3 }, () => 'sign-in-unavailable'),
  );
  t.equal(await codeOf({ bearer: 'three' }), 'sign-in-unavailable', 'and there is room again');
});

t.test(
  'header and cookie: one good one is enough, and an old cookie is forgiven where that is asked for',
  async (t) => {
    const issuer = await startIssuer(t, [key.jwk]);
    const { codeOf } = start(issuer.tokens());
    const good = await userToken(key, 'a');
    const user = await codeOf({ bearer: good });
    const expired = await userToken(key, 'a', { claims: { iat: 1000, exp: 2000 } });
    t.equal(await codeOf({ bearer: 'opaque-of-the-origin', cookie: good }), user);
    t.equal(await codeOf({ bearer: good, cookie: expired }), user);
    t.equal(
      await codeOf({ bearer: 'opaque', cookie: expired }),
      'token-invalid',
      'the header is named first',
    );
    t.equal(await codeOf({ cookie: expired }), 'token-expired');
    t.equal(await codeOf({ cookie: expired }, true), 'nobody');
    t.equal(await codeOf({ cookie: 'x' }, true), 'nobody');
    t.equal(await codeOf({ bearer: expired }, true), 'token-expired', 'whoever sets a header means it');
    t.equal(await codeOf({}), 'nobody');
    t.equal(await codeOf({ bearer: '' }), 'nobody');
  },
);
