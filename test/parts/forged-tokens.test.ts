// Forgeries: what has been tried on token checkers over the years, against the user JWTs of the customer and against
// every kind of token of our own. None is accepted, each gets its stable code, and none is a fault of ours (500): first
// at the verifier itself, then over HTTP at a real gateway.

import { createHmac, createPublicKey, generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { CompactEncrypt, type CompactJWSHeaderParameters, CompactSign } from 'jose';
import t from 'tap';
import {
  createTokens,
  type Field,
  generateKey,
  parseKeys,
  type TokenKind,
  type Tokens,
} from '../../kernel/token.ts';
import { EXP_SECONDS_MAX, USER_TOKEN_CHARS_MAX } from '../../kernel/user-token.ts';
import { readContext, signContext } from '../../line/context.ts';
import {
  readClaim,
  readReceipt,
  readSession,
  signClaim,
  signReceipt,
  signSession,
} from '../../line/receipt.ts';
import { readService, signService } from '../../line/service.ts';
import { newVisitor, readVisitor } from '../../line/visitor.ts';
import { PUBLIC_URL, startGateways } from '../support/gateways.ts';
import { AUDIENCE, ISSUER, keyPair, startIssuer, userToken } from '../support/issuer.ts';

const text = (value: unknown): string =>
  Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url');
const bytes = (count: number): string => Buffer.alloc(count).toString('base64url');
/** The alphabet of base64url in order: the next character differs in the lowest bit or two. */
const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
const spareBits = (part: string): string =>
  part.slice(0, -1) + ALPHABET[ALPHABET.indexOf(part.at(-1) ?? 'A') ^ 1];

const key = await keyPair('one');
const ec = await keyPair('two', 'ES256');
const rsa = await keyPair('three', 'RS256');
const evil = await keyPair('one');
const now = Math.floor(Date.now() / 1000);
const usual = { iss: ISSUER, aud: AUDIENCE, sub: 'victim', iat: now - 10, exp: now + 3600 };
/** Signed with the site's own key, whatever it says: such a token is not forged but wrong. */
const signed = (header: Record<string, unknown>, claims: unknown): Promise<string> =>
  new CompactSign(Buffer.from(typeof claims === 'string' ? claims : JSON.stringify(claims)))
    // The library types know the usual headers only; the unusual ones are the point here.
    .setProtectedHeader({ alg: 'EdDSA', typ: 'JWT', kid: 'one', ...header } as CompactJWSHeaderParameters)
    .sign(key.privateKey);
const claiming = (claims: Record<string, unknown>): Promise<string> => userToken(key, 'victim', { claims });

/** An address that a header points at; nobody may ever ask it. */
const bait = async (t: {
  teardown(work: () => unknown): void;
}): Promise<{ url: string; asked(): number }> => {
  let asked = 0;
  const server = createServer((_request, response) => {
    asked += 1;
    response.end(JSON.stringify({ keys: [evil.jwk] }));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  // `listen` on a port was awaited, so the address is one of TCP.
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`, asked: () => asked };
};

const forgedUserTokens = async (baitUrl: string, issuerUrl: string): Promise<[string, string][]> => {
  const good = await userToken(key, 'victim');
  const [head = '', body = '', mac = ''] = good.split('.');
  const rest = `${body}.${mac}`;
  const [ecHead, ecBody, ecMac = ''] = (await userToken(ec, 'victim')).split('.');
  const hmacWith = (secret: string | Buffer, header: Record<string, unknown> = {}): string => {
    const part = `${text({ alg: 'HS256', typ: 'JWT', ...header })}.${body}`;
    return `${part}.${createHmac('sha256', secret).update(part).digest('base64url')}`;
  };
  const rsaPublic = createPublicKey(rsa.privateKey);
  const kid = (value: unknown) => `${text({ alg: 'EdDSA', typ: 'JWT', kid: value })}.${rest}`;
  const own = createTokens({ keys: parseKeys(generateKey('one'))!, issuer: ISSUER });
  const jwe = await new CompactEncrypt(Buffer.from(JSON.stringify(usual)))
    .setProtectedHeader({ alg: 'RSA-OAEP-256', enc: 'A256GCM', kid: 'three' })
    .encrypt(rsaPublic);
  return [
    // Algorithms
    ['alg none', `${text({ alg: 'none', typ: 'JWT' })}.${body}.`],
    ['alg none with a signature', `${text({ alg: 'none', kid: 'one' })}.${rest}`],
    ['alg NoNe', `${text({ alg: 'NoNe', kid: 'one' })}.${rest}`],
    ['no alg', `${text({ typ: 'JWT', kid: 'one' })}.${rest}`],
    ['alg as a list', `${text({ alg: ['EdDSA'], kid: 'one' })}.${rest}`],
    ['alg of a prototype', `${text({ alg: 'constructor', kid: 'one' })}.${rest}`],
    [
      'HS256 with the RSA key in PEM',
      hmacWith(rsaPublic.export({ type: 'spki', format: 'pem' }), { kid: 'three' }),
    ],
    [
      'HS256 with the RSA key in DER',
      hmacWith(rsaPublic.export({ type: 'spki', format: 'der' }), { kid: 'three' }),
    ],
    ['HS256 with the JWK as text', hmacWith(JSON.stringify(key.jwk), { kid: 'one' })],
    ['HS256 with the x of the JWK', hmacWith(Buffer.from(String(key.jwk.x), 'base64url'), { kid: 'one' })],
    ['HS256 with nothing', hmacWith('', { kid: 'one' })],
    ['HS256 with the kid', hmacWith('one', { kid: 'one' })],
    ['RS384, which is not accepted here', `${text({ alg: 'RS384', kid: 'three' })}.${rest}`],
    ['RS256 under the name of an Ed25519 key', `${text({ alg: 'RS256', kid: 'one' })}.${rest}`],
    ['ES256 under the name of an RSA key', `${text({ alg: 'ES256', kid: 'three' })}.${ecBody}.${ecMac}`],
    // Signatures
    ['no signature', `${head}.${body}.`],
    ['no third part', `${head}.${body}`],
    ['a signature of zeros', `${head}.${body}.${bytes(64)}`],
    ['ES256, r = s = 0', `${ecHead}.${ecBody}.${bytes(64)}`],
    [
      'ES256, r = s = 1',
      `${ecHead}.${ecBody}.${Buffer.from(`${'0'.repeat(63)}1`.repeat(2), 'hex').toString('base64url')}`,
    ],
    [
      'ES256, r = s = n',
      `${ecHead}.${ecBody}.${Buffer.from('ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551'.repeat(2), 'hex').toString('base64url')}`,
    ],
    [
      'ES256 in DER',
      `${ecHead}.${ecBody}.${Buffer.concat([Buffer.from('30440220', 'hex'), Buffer.alloc(32, 1), Buffer.from('0220', 'hex'), Buffer.alloc(32, 1)]).toString('base64url')}`,
    ],
    ['RSA of zeros', `${text({ alg: 'RS256', kid: 'three' })}.${body}.${bytes(256)}`],
    [
      'RSA, signature 1',
      `${text({ alg: 'RS256', kid: 'three' })}.${body}.${Buffer.from(`${'00'.repeat(255)}01`, 'hex').toString('base64url')}`,
    ],
    ['a truncated signature', `${head}.${body}.${mac.slice(0, 40)}`],
    ['a signature too long', `${head}.${body}.${mac}AAAA`],
    ['another body', `${head}.${text({ ...usual, sub: 'admin' })}.${mac}`],
    ['another header', `${text({ alg: 'EdDSA', typ: 'JWT', kid: 'one', x: 1 })}.${rest}`],
    ['of another key under the same name', await userToken(evil, 'victim')],
    ['halves of two tokens', `${head}.${(await userToken(key, 'admin')).split('.')[1]}.${mac}`],
    // Which key
    ['kid unknown', kid('nobody')],
    ['kid of another key', kid('two')],
    ['kid a path', kid('../../../../dev/null')],
    ['kid SQL', kid("one' UNION SELECT 'secret' --")],
    ['kid a command', kid('one|/bin/true')],
    ['kid with a NUL', kid('one\0')],
    ['kid 10,000 long', `${text({ alg: 'EdDSA', kid: 'o'.repeat(2500) })}.${rest}`],
    ['kid 257 long', kid('o'.repeat(257))],
    ['kid a number', kid(1)],
    ['kid a list', kid(['one'])],
    ['kid an object', kid({ toString: 'one' })],
    ['kid null', kid(null)],
    ['kid empty', kid('')],
    ['kid __proto__', kid('__proto__')],
    ['kid constructor', kid('constructor')],
    ['no kid with several keys', `${text({ alg: 'RS256', typ: 'JWT' })}.${rest}`],
    ['jwk brought along', await userToken(evil, 'victim', { header: { jwk: evil.jwk } })],
    [
      'jwk brought along, no kid',
      await userToken(evil, 'victim', { header: { jwk: evil.jwk, kid: undefined } }),
    ],
    ['jku elsewhere', await userToken(evil, 'victim', { header: { jku: baitUrl, kid: 'new' } })],
    ['jku on the site', await userToken(evil, 'victim', { header: { jku: `${issuerUrl}/../${baitUrl}` } })],
    ['x5u elsewhere', await userToken(evil, 'victim', { header: { x5u: baitUrl } })],
    ['x5c brought along', await userToken(evil, 'victim', { header: { x5c: [text('certificate')] } })],
    // Extensions and kinds
    [
      'crit',
      await signed({ crit: ['exp'], exp: 1 }, usual).catch(
        () => `${text({ alg: 'EdDSA', kid: 'one', crit: ['exp'] })}.${rest}`,
      ),
    ],
    ['crit empty', `${text({ alg: 'EdDSA', kid: 'one', crit: [] })}.${rest}`],
    ['b64 false', `${text({ alg: 'EdDSA', kid: 'one', b64: false, crit: ['b64'] })}.${rest}`],
    ['typ of a pass', await userToken(key, 'victim', { header: { typ: 'anteroom-pass+jwt' } })],
    ['typ at+jwt', await userToken(key, 'victim', { header: { typ: 'at+jwt' } })],
    [
      'typ a list',
      await userToken(key, 'victim', { header: { typ: ['JWT'] } }).catch(
        () => `${text({ alg: 'EdDSA', kid: 'one', typ: ['JWT'] })}.${rest}`,
      ),
    ],
    ['a JWE', jwe],
    ['a token in a token', await signed({ cty: 'JWT' }, good)],
    [
      'a pass of ours',
      await own.signPass({
        room: AUDIENCE,
        sale: 1,
        placeId: 'p',
        number: 1,
        serial: 1,
        sessionId: 's',
        lifeSeconds: 60,
        nowMs: Date.now(),
      }),
    ],
    ['a visitor of ours', own.sign('visitor', ['a:xxxxxxxxxxxxxxxxxxxxxx', 1])],
    // Claims, signed with the true key
    ['another issuer', await claiming({ iss: 'https://evil.test' })],
    ['an issuer with a slash', await claiming({ iss: `${ISSUER}/` })],
    ['an issuer in a list', await claiming({ iss: [ISSUER] })],
    ['no issuer', await claiming({ iss: undefined })],
    ['another audience', await claiming({ aud: 'else' })],
    ['only other audiences', await claiming({ aud: ['else', `${AUDIENCE}2`] })],
    ['an audience among numbers', await claiming({ aud: [AUDIENCE, 7] })],
    ['an audience as an object', await claiming({ aud: { [AUDIENCE]: true } })],
    ['an empty list of audiences', await claiming({ aud: [] })],
    ['no audience', await claiming({ aud: undefined })],
    ['no sub', await claiming({ sub: undefined })],
    ['sub empty', await claiming({ sub: '' })],
    ['sub a number', await claiming({ sub: 1 })],
    ['sub an object', await claiming({ sub: { $ne: null } })],
    ['sub 257 long', await claiming({ sub: 's'.repeat(257) })],
    ['no exp', await claiming({ exp: undefined })],
    ['exp null', await claiming({ exp: null })],
    ['exp a string', await claiming({ exp: String(now + 3600) })],
    ['exp a float', await claiming({ exp: now + 3600.5 })],
    ['exp negative', await claiming({ exp: -1 })],
    ['exp in milliseconds', await claiming({ exp: (now + 3600) * 1000 })],
    ['exp beyond a year', await claiming({ exp: now + EXP_SECONDS_MAX + 86_400 })],
    [
      'exp beyond all numbers',
      await signed({}, JSON.stringify({ ...usual, exp: 0 }).replace('"exp":0', '"exp":1e999')),
    ],
    ['exp before iat', await claiming({ iat: now - 10, exp: now - 20 })],
    ['no iat', await claiming({ iat: undefined })],
    ['iat a string', await claiming({ iat: String(now) })],
    ['iat a float', await claiming({ iat: now - 0.5 })],
    ['iat negative', await claiming({ iat: -5 })],
    ['iat ahead', await claiming({ iat: now + 86_400, exp: now + 90_000 })],
    ['nbf ahead', await claiming({ nbf: now + 86_400, exp: now + 90_000 })],
    ['nbf a string', await claiming({ nbf: 'now' })],
    ['nbf a float', await claiming({ nbf: now - 0.5 })],
    // Spellings
    ['sub twice', await signed({}, `${JSON.stringify(usual).slice(0, -1)},"sub":"admin"}`)],
    [
      'sub twice, once escaped',
      await signed({}, `${JSON.stringify(usual).slice(0, -1)},"s\\u0075b":"admin"}`),
    ],
    ['alg twice', `${text(`{"alg":"none","alg":"EdDSA","typ":"JWT","kid":"one"}`)}.${rest}`],
    ['claims a list', await signed({}, [usual])],
    ['claims a text', await signed({}, '"victim"')],
    ['claims null', await signed({}, 'null')],
    ['claims with a BOM', await signed({}, `\ufeff${JSON.stringify(usual)}`)],
    ['claims not UTF-8', `${head}.${Buffer.from([0x7b, 0xff, 0x7d]).toString('base64url')}.${mac}`],
    ['claims 1,500 deep', await signed({}, `${'['.repeat(1200)}${']'.repeat(1200)}`)],
    ['padding', `${head}=.${body}.${mac}`],
    ['padding at the end', `${good}==`],
    ['spare bits', `${head}.${body}.${spareBits(mac)}`],
    ['the other alphabet', good.replace(/[-_]/, '+').replace(/^([^+]*)$/, '$1+')],
    ['a line break', `${head}.${body}.${mac.slice(0, 20)}\n${mac.slice(20)}`],
    ['white space before', ` ${good}`],
    ['white space after', `${good} `],
    ['a fourth part', `${good}.${mac}`],
    ['an empty fourth part', `${good}.`],
    ['empty parts', '..'],
    ['nothing', ''],
    ['JSON serialisation', JSON.stringify({ payload: body, protected: head, signature: mac })],
    ['too long', await userToken(key, 'victim', { claims: { pad: 'x'.repeat(USER_TOKEN_CHARS_MAX) } })],
    ['of this size but empty', 'A'.repeat(USER_TOKEN_CHARS_MAX)],
    ['wide characters', `${head}.${body}.${mac.replace(/.$/, '\u0141')}`],
  ];
};

t.test(
  'no forged user token is accepted, by the verifier or by a gateway, and each has its code',
  async (t) => {
    const lure = await bait(t);
    const issuer = await startIssuer(t, [key.jwk, ec.jwk, rsa.jwk]);
    const tokens = issuer.tokens();
    const forged = await forgedUserTokens(lure.url, issuer.url);
    t.ok(forged.length >= 100, `${forged.length} forgeries`);
    t.equal(new Set(forged.map(([name]) => name)).size, forged.length);
    for (const pair of [key, ec, rsa])
      t.equal((await tokens.verify(await userToken(pair, 'victim'), Date.now())).outcome, 'verified');
    for (const [name, token] of forged) {
      const read = await tokens.verify(token, Date.now());
      t.match(read, { outcome: 'invalid', why: /^its? / }, name);
    }
    const old = await claiming({ iat: now - 7200, exp: now - 3600 });
    t.same(await tokens.verify(old, Date.now()), { outcome: 'expired' });
    const aged = await claiming({ iat: now - 90_000, exp: now + 3600 });
    t.same(await tokens.verify(aged, Date.now()), { outcome: 'expired' }, 'older than is accepted here');
    t.equal(lure.asked(), 0, 'nobody asked an address out of a token');
    t.ok(issuer.fetches() <= 1);

    const gates = await startGateways(t, { count: 1, users: tokens });
    const room = await gates.open('required', { identity: 'required' });
    let sent = 0;
    for (const [name, token] of [...forged, ['expired', old], ['aged', aged]] as const) {
      // What no client can put into a header line never arrives.
      if (token === '' || /[^\x21-\x7e]/.test(token)) continue;
      sent += 1;
      const answer = await gates.fan(room).ask('POST', `/v1/rooms/${room.room}/places`, {
        body: {},
        headers: { authorization: `Bearer ${token}` },
      });
      const code = name === 'expired' || name === 'aged' ? 'token-expired' : 'token-invalid';
      // A header beyond what the server reads is refused before anybody looks at it.
      if (answer.status === 431) continue;
      t.same([answer.status, answer.json.code], [401, code], name);
      t.match(answer.headers['www-authenticate'], /^Bearer error="invalid_token"/);
    }
    t.ok(sent > 90, `${sent} over HTTP`);
    t.equal(await gates.redis.client.zcard(room.keys.line), 0, 'nobody got into the line');
  },
);

// Our own

const placeId = 'AAAABBBBCCCCDDDD';
const KINDS: readonly TokenKind[] = [
  'visitor',
  'receipt',
  'receipt-withheld',
  'claim',
  'session',
  'context',
  'service',
  'operator-csrf',
];

/** A context is signed with the key of its room, which stands second. */
const scopeOf = (kind: TokenKind) =>
  kind === 'context' ? (fields: readonly Field[]) => String(fields[1] ?? '') : undefined;
const compactOf = (tokens: Tokens, kind: TokenKind, fields: readonly Field[]): string =>
  tokens.sign(kind, fields, scopeOf(kind)?.(fields));

/** Everything that can be done to a compact token without its key. */
const forgedCompact = (tokens: Tokens, kind: TokenKind, fields: readonly Field[]): [string, string][] => {
  const good = compactOf(tokens, kind, fields);
  const [kid = '', body = '', mac = ''] = good.split('.');
  const foreign = createTokens({ keys: parseKeys(generateKey(kid))!, issuer: PUBLIC_URL });
  const other = createTokens({ keys: parseKeys(generateKey('other'))!, issuer: PUBLIC_URL });
  const flipped = (part: string, at: number): string =>
    part.slice(0, at) + (part[at] === 'A' ? 'B' : 'A') + part.slice(at + 1);
  return [
    ...KINDS.filter((one) => one !== kind).map((one): [string, string] => [
      `a ${one} of the same`,
      compactOf(tokens, one, fields),
    ]),
    ['of another scope', tokens.sign(kind, fields, 'other')],
    ['nothing', ''],
    ['dots', '..'],
    ['no MAC', `${kid}.${body}.`],
    ['no third part', `${kid}.${body}`],
    ['only the MAC', mac],
    ['no kid', `.${body}.${mac}`],
    ['no body', `${kid}..${mac}`],
    ['a MAC of zeros', `${kid}.${body}.${bytes(16)}`],
    ['a MAC of 15 bytes', `${kid}.${body}.${mac.slice(0, 20)}`],
    ['a MAC of one byte', `${kid}.${body}.${mac.slice(0, 2)}`],
    ['a MAC too long', `${kid}.${body}.${mac}AA`],
    ['the whole of a SHA-256', `${kid}.${body}.${bytes(32)}`],
    ['a MAC with a wrong first character', `${kid}.${body}.${flipped(mac, 0)}`],
    [
      'a MAC with a wrong last character',
      `${kid}.${body}.${mac.slice(0, -1)}${mac.endsWith('A') ? 'Q' : 'A'}`,
    ],
    ['a MAC in hex', `${kid}.${body}.${Buffer.from(mac, 'base64url').toString('hex')}`],
    ['spare bits in the MAC', `${kid}.${body}.${spareBits(mac)}`],
    ['padding', `${good}==`],
    ['white space after', `${good} `],
    ['white space before', ` ${good}`],
    ['a line break in the MAC', `${kid}.${body}.${mac.slice(0, 10)}\n${mac.slice(10)}`],
    ['a letter that is none in the MAC', `${kid}.${body}.${mac.slice(0, 10)}!${mac.slice(10)}`],
    ['the other alphabet', `${kid}.${body}.${mac.slice(0, -2)}+/`],
    ['wide characters', `${kid}.${body}.${mac.slice(0, -1)}\u0141`],
    ['padding in the body', `${kid}.${body}=.${mac}`],
    ['spare bits in the body', `${kid}.${body.length % 4 === 0 ? `${body}A` : spareBits(body)}.${mac}`],
    ['another body', `${kid}.${text([...fields, 1])}.${mac}`],
    ['the first field changed', `${kid}.${flipped(body, 4)}.${mac}`],
    ['a fourth part', `${good}.${mac}`],
    ['a part in the middle', `${kid}.${body}.x.${mac}`],
    ['of another key under this kid', compactOf(foreign, kind, fields)],
    ['of another key', compactOf(other, kind, fields)],
    ['another kid', `other.${body}.${mac}`],
    ['kid root', `root.${body}.${mac}`],
    ['kid __proto__', `__proto__.${body}.${mac}`],
    ['kid constructor', `constructor.${body}.${mac}`],
    ['kid a path', `../${kid}.${body}.${mac}`],
    ['kid in capitals', `${kid.toUpperCase()}.${body}.${mac}`],
    ['kid with a NUL', `${kid}\0.${body}.${mac}`],
    ['two tokens', `${good},${good}`],
    ['too long', `${kid}.${'A'.repeat(400)}.${mac}`],
    ['a JWT with alg none', `${text({ alg: 'none' })}.${text(fields)}.`],
    ['a JWT with the MAC', `${text({ alg: 'HS256', kid })}.${body}.${mac}`],
  ];
};

t.test('no forged token of our own is accepted, whatever its kind', async (t) => {
  const keys = parseKeys(`${generateKey('k')},${generateKey('root')}`)!;
  const tokens = createTokens({ keys, issuer: PUBLIC_URL });
  const nowMs = Date.now();
  const fields: Record<TokenKind, readonly Field[]> = {
    visitor: [newVisitor(), Math.floor(nowMs / 1000)],
    receipt: ['demo', 1, placeId, 7, 7, 1],
    'receipt-withheld': ['demo', 1, placeId, 7, 7, 1],
    claim: ['demo', 1, placeId, 7, nowMs + 60_000, 1],
    session: ['demo', 1, placeId, 7, nowMs + 60_000, nowMs, 1, 1, newVisitor()],
    context: [newVisitor(), 'demo', placeId, 7, 1, nowMs],
    service: ['*', Math.floor(nowMs / 1000) + 60],
    'operator-csrf': ['session', 'id', nowMs + 60_000],
  };
  const at = { room: 'demo' as never, nowMs }; // In the form of a room by its looks.
  const read: Record<TokenKind, (token: string) => unknown> = {
    visitor: (token) => readVisitor(tokens, token, { nowMs, lifeDays: 30 }),
    // A withheld receipt is a receipt, told apart by its key: that one is left out below.
    receipt: (token) => readReceipt(tokens, token),
    'receipt-withheld': (token) => readReceipt(tokens, token),
    claim: (token) => readClaim(tokens, token),
    session: (token) => readSession(tokens, token),
    context: (token) => readContext(tokens, token, nowMs),
    service: (token) => (readService(tokens, token, at).outcome === 'allowed' ? 'allowed' : undefined),
    'operator-csrf': (token) => tokens.verify('operator-csrf', token),
  };
  for (const kind of KINDS) {
    t.ok(read[kind](compactOf(tokens, kind, fields[kind])), `${kind}: the true one is good`);
    const forged = forgedCompact(tokens, kind, fields[kind]);
    t.ok(forged.length >= 40, `${forged.length} forgeries`);
    for (const [name, token] of forged) {
      t.equal(tokens.verify(kind, token, scopeOf(kind)), undefined, `${kind}: ${name}`);
      if (!(kind.startsWith('receipt') && name.startsWith('a receipt')))
        t.equal(read[kind](token), undefined, `${kind}: ${name}, as it is read`);
    }
    for (const wrong of [
      [],
      ['x'],
      fields[kind].map(String),
      fields[kind].map(() => 0),
      [...fields[kind], 0],
      [...fields[kind]].reverse(),
    ])
      if (
        kind !== 'operator-csrf' &&
        !(kind === 'visitor' && wrong.length === 3) &&
        !(kind === 'context' && wrong.length === 7)
      )
        t.equal(
          read[kind](compactOf(tokens, kind, wrong)),
          undefined,
          `${kind}: signed, and of another form ${wrong}`,
        );
  }
});

t.test('no forged pass is accepted', async (t) => {
  const tokens = createTokens({ keys: parseKeys(generateKey('k'))!, issuer: PUBLIC_URL });
  const nowMs = Date.now();
  const claims = {
    room: 'demo',
    sale: 1,
    placeId,
    number: 7,
    serial: 1,
    sessionId: 's',
    lifeSeconds: 60,
    nowMs,
  };
  const good = await tokens.signPass(claims);
  const at = { room: 'demo', nowMs };
  t.equal((await tokens.verifyPass(good, at)).outcome, 'valid');
  const [head = '', body = '', mac = ''] = good.split('.');
  const header = (more: Record<string, unknown>) =>
    `${text({ alg: 'EdDSA', typ: 'anteroom-pass+jwt', kid: 'k', ...more })}.${body}.${mac}`;
  const foreign = createTokens({ keys: parseKeys(generateKey('k'))!, issuer: PUBLIC_URL });
  const stranger = createTokens({ keys: parseKeys(generateKey('k'))!, issuer: 'https://evil.test' });
  const other = generateKeyPairSync('ed25519').privateKey;
  const jwk = (await foreign.jwks()).keys[0];
  const part = `${text({ alg: 'HS256', typ: 'anteroom-pass+jwt', kid: 'k' })}.${body}`;
  const publicKey = (await tokens.jwks()).keys[0];
  const forged: [string, string][] = [
    ['alg none', `${text({ alg: 'none', typ: 'anteroom-pass+jwt', kid: 'k' })}.${body}.`],
    [
      'alg HS256 with the public key',
      `${part}.${createHmac('sha256', JSON.stringify(publicKey)).update(part).digest('base64url')}`,
    ],
    [
      'alg HS256 with its x',
      `${part}.${createHmac('sha256', Buffer.from(String(publicKey?.x), 'base64url'))
        .update(part)
        .digest('base64url')}`,
    ],
    ['alg ES256', header({ alg: 'ES256' })],
    ['typ JWT', header({ typ: 'JWT' })],
    ['no typ', header({ typ: undefined })],
    ['typ of a ledger head', header({ typ: 'anteroom-ledger+jwt' })],
    ['a ledger head', await tokens.signLedgerHead({ room: 'demo', sale: 1, seq: 1, hash: 'h', atMs: nowMs })],
    ['kid of the ledger', header({ kid: 'k-ledger' })],
    ...['root', '__proto__', '../k', 'K', '', 'k'.repeat(1000)].map((kid): [string, string] => [
      `kid ${kid.slice(0, 10)}`,
      header({ kid }),
    ]),
    ['kid a number', header({ kid: 1 })],
    ['kid a list', header({ kid: ['k'] })],
    ['no kid', header({ kid: undefined })],
    ['jwk brought along', header({ jwk })],
    ['jku brought along', header({ jku: 'http://127.0.0.1:1/' })],
    ['crit', header({ crit: ['exp'] })],
    ['b64 false', header({ b64: false, crit: ['b64'] })],
    ['of another key under the same kid', await foreign.signPass(claims)],
    ['of another issuer', await stranger.signPass(claims)],
    [
      'signed by a stranger',
      await new CompactSign(Buffer.from(body, 'base64url'))
        .setProtectedHeader({ alg: 'EdDSA', typ: 'anteroom-pass+jwt', kid: 'k' })
        .sign(other),
    ],
    ['another room', await tokens.signPass({ ...claims, room: 'other' })],
    ['made ahead', await tokens.signPass({ ...claims, nowMs: nowMs + 60_000 })],
    ['no signature', `${head}.${body}.`],
    ['a signature of zeros', `${head}.${body}.${bytes(64)}`],
    ['a truncated signature', `${head}.${body}.${mac.slice(0, 40)}`],
    ['another body', `${head}.${text({ aud: 'demo' })}.${mac}`],
    ['spare bits', `${head}.${body}.${spareBits(mac)}`],
    ['padding', `${good}==`],
    ['white space', `${good} `],
    ['a line break', `${head}.${body}.${mac.slice(0, 9)}\n${mac.slice(9)}`],
    ['the other alphabet', `${head}.${body}.+${mac.slice(1)}`],
    ['a fourth part', `${good}.x`],
    [
      'a session',
      signSession(tokens, {
        room: 'demo' as never,
        sale: 1,
        placeId: placeId as never,
        number: 7,
        expiresAtMs: nowMs,
        startedAtMs: 1,
        epoch: 1,
        serial: 1,
        visitorId: newVisitor(),
      }),
    ],
    ['nothing', ''],
    ['too long', `${good}${'A'.repeat(2000)}`],
  ];
  t.ok(forged.length >= 40, `${forged.length} forgeries`);
  for (const [name, pass] of forged) t.same(await tokens.verifyPass(pass, at), { outcome: 'invalid' }, name);
});

t.test('over HTTP each forged token of ours has its code, and opens nothing', async (t) => {
  const gates = await startGateways(t, { count: 1 });
  const { tokens } = gates;
  const [room, next] = [await gates.open('one'), await gates.open('two')];
  const { fan, cookie, claim } = await gates.inside(room);
  const session = room.session(cookie);
  const [visitorCookie, sessionCookie] = ['ar_v', `ar_s_${room.room}`];
  const visit = {
    room: room.room,
    sale: 1,
    placeId: session.placeId,
    number: session.number,
    epoch: session.epoch,
  };
  const base = `/v1/rooms/${room.room}`;
  let asked = 0;
  const expect = async (
    what: string,
    answer: { status: number; json: Record<string, unknown> },
    status: number,
    code: string,
  ) => {
    asked += 1;
    t.same([answer.status, answer.json.code], [status, code], what);
  };
  const isHeader = (token: string): boolean => token !== '' && /^[\x21-\x2b\x2d-\x3a\x3c-\x7e]+$/.test(token);
  t.equal((await fan.ask('GET', room.path)).text, 'inside', 'the true one is good');
  for (const [name, token] of forgedCompact(
    tokens,
    'session',
    JSON.parse(Buffer.from(cookie.split('.')[1]!, 'base64url').toString('utf8')),
  )) {
    if (!isHeader(token)) continue;
    const stranger = gates.fan(room);
    stranger.cookies.set(sessionCookie, token);
    await expect(`session, ${name}`, await stranger.ask('GET', room.path), 429, 'session-required');
  }
  const waiting = gates.fan(room);
  await waiting.join();
  const mine = waiting.cookies.get(visitorCookie) ?? '';
  for (const [name, token] of forgedCompact(
    tokens,
    'visitor',
    JSON.parse(Buffer.from(mine.split('.')[1]!, 'base64url').toString('utf8')),
  )) {
    if (!isHeader(token)) continue;
    const stranger = gates.fan(room);
    stranger.cookies.set(visitorCookie, token);
    await expect(`visitor, ${name}`, await stranger.ask('GET', `${base}/places/me`), 404, 'place-missing');
  }
  const receiptFields = [room.room, 1, session.placeId, session.number, session.number, session.epoch];
  for (const [name, receipt] of forgedCompact(tokens, 'receipt', receiptFields)) {
    // A receipt of a withheld place is a receipt.
    if (name.startsWith('a receipt-withheld')) continue;
    await expect(
      `receipt, ${name}`,
      await gates.fan(room).ask('POST', `${base}/places`, { body: { receipt } }),
      400,
      'receipt-invalid',
    );
  }
  for (const [name, receipt] of [
    ['of another room', signReceipt(tokens, { ...visit, room: next.room, score: 1, withheld: false })],
    ['of another sale', signReceipt(tokens, { ...visit, sale: 2, score: 1, withheld: false })],
  ] as const)
    await expect(
      `receipt ${name}`,
      await gates.fan(room).ask('POST', `${base}/places`, { body: { receipt } }),
      400,
      'receipt-invalid',
    );
  const claimFields = [room.room, 1, session.placeId, session.number, Date.now() + 60_000, session.epoch];
  const claims = forgedCompact(tokens, 'claim', claimFields);
  claims.push(['of another room', signClaim(tokens, { ...visit, room: next.room, deadlineMs: 9e15 })]);
  claims.push(['of another sale', signClaim(tokens, { ...visit, sale: 2, deadlineMs: 9e15 })]);
  for (const [name, token] of claims)
    await expect(`claim, ${name}`, await waiting.claim(token), 401, 'token-invalid');
  for (const [name, pass] of [
    ['of a claim', claims[0]![1]],
    ['of a session', cookie],
    ['with spare bits', `${String(claim.pass).slice(0, -1)}${spareBits(String(claim.pass).slice(-1))}`],
    [
      'of another room',
      await tokens.signPass({
        ...visit,
        room: next.room,
        serial: 1,
        sessionId: 's',
        lifeSeconds: 60,
        nowMs: Date.now(),
      }),
    ],
    [
      'of another sale',
      await tokens.signPass({
        ...visit,
        sale: 2,
        serial: 1,
        sessionId: 's',
        lifeSeconds: 60,
        nowMs: Date.now(),
      }),
    ],
  ] as const)
    await expect(
      `pass ${name}`,
      await gates.fan(room).ask('POST', `${base}/sessions`, { body: { pass } }),
      400,
      'pass-invalid',
    );
  for (const [name, token] of forgedCompact(tokens, 'service', ['*', 9e9])) {
    if (!isHeader(token)) continue;
    const answer = await gates.fan(room).ask('POST', `${base}/sessions/end`, {
      body: { session: 'x' },
      headers: { authorization: `Bearer ${token}` },
    });
    await expect(`service, ${name}`, answer, 401, 'token-invalid');
  }
  const foreignRoom = signService(tokens, { scope: next.room, expiresAtMs: Date.now() + 60_000 });
  const elsewhere = await gates
    .fan(room)
    .ask('POST', `${base}/sessions/end`, { body: {}, headers: { authorization: `Bearer ${foreignRoom}` } });
  await expect('service of another room', elsewhere, 403, 'token-other-room');
  // What a client says about itself in our headers never reaches the origin.
  await fan.ask('GET', room.path, {
    headers: {
      'anteroom-context': signContext(tokens, { visitorId: newVisitor() }, Date.now()),
      'anteroom-visitor': 'a:me',
    },
  });
  t.not(gates.seen.at(-1)?.headers['anteroom-visitor'], 'a:me');
  t.equal((await fan.ask('GET', room.path)).text, 'inside', 'and the true one is still good');
  t.ok(asked > 180, `${asked} forgeries over HTTP`);
});
