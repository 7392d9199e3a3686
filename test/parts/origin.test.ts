// client/origin.js as an origin uses it: in Express, in Fastify, and on a bare server of Node. Promise: nobody comes in
// who has not come by the gate, whoever has is known by name, and a session ends at the origin's word. And passes, as
// any library checks them, with nothing of ours but the public keys.

import { execFile } from 'node:child_process';
import { createPublicKey, verify } from 'node:crypto';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { promisify } from 'node:util';
import express from 'express';
import fastify from 'fastify';
import { createRemoteJWKSet, jwtVerify, SignJWT } from 'jose';
import t from 'tap';
import { type Anteroom, createContextReader, createGuard, createPassReader } from '../../client/origin.js';
import { parseRoomId } from '../../kernel/ids.ts';
import { createTokens, generateKey, parseKeys } from '../../kernel/token.ts';
import { contextKeys, signContext } from '../../line/context.ts';
import { signService } from '../../line/service.ts';
import { newVisitor } from '../../line/visitor.ts';
import { type Gateways, PUBLIC_URL, startGateways } from '../support/gateways.ts';

let gates: Gateways;
t.before(async () => {
  gates = await startGateways(t, { count: 1 });
});

const keysOf = (room: string): string => contextKeys(gates.tokens, parseRoomId(room)!);
const guardOf = (room: string, more = {}) =>
  createGuard({
    room,
    keys: keysOf(room),
    passes: { jwks: `${gates.bases[0]}/.well-known/jwks.json`, issuer: PUBLIC_URL },
    ...more,
  });
type Guard = ReturnType<typeof guardOf>;
const portOf = (server: Server): string => {
  // `listen` on a port was awaited, so the address is one of TCP.
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
};
/** What the middleware put on a request; it is there wherever a handler runs. */
const anteroomOf = (request: object): Anteroom => (request as { anteroom: Anteroom }).anteroom;
const answerOf = async (request: object, path: string) => {
  const { visitor, room, session, end } = anteroomOf(request);
  return { visitor, room, session, ...(path === '/bye' ? await end() : {}) };
};

/** The same small shop in each framework: says who came; at the end of `/bye` the session is over. */
const shops: Record<string, (guard: Guard) => Promise<string>> = {
  async Express(guard) {
    const app = express();
    app.use(guard);
    app.use(async (request, response) => {
      response.json(await answerOf(request, request.path.slice(request.path.lastIndexOf('/'))));
    });
    const server = app.listen(0, '127.0.0.1');
    await new Promise<void>((resolve) => server.once('listening', () => resolve()));
    t.teardown(() => {
      server.closeAllConnections();
      server.close();
    });
    return portOf(server);
  },
  async Fastify(guard) {
    const app = fastify();
    app.addHook('onRequest', guard);
    app.get('/*', (request) => answerOf(request, request.url.slice(request.url.lastIndexOf('/'))));
    await app.listen({ port: 0, host: '127.0.0.1' });
    t.teardown(() => app.close());
    return portOf(app.server);
  },
  async Node(guard) {
    const server = createServer((request, response) =>
      guard(request, response, async () => {
        const url = request.url ?? '';
        response.end(JSON.stringify(await answerOf(request, url.slice(url.lastIndexOf('/')))));
      }),
    );
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    t.teardown(() => {
      server.closeAllConnections();
      server.close();
    });
    return portOf(server);
  },
};
const get = async (url: string, headers: Record<string, string> = {}) => {
  const answer = await fetch(url, { headers });
  return {
    status: answer.status,
    type: answer.headers.get('content-type') ?? '',
    json: (await answer.json()) as Record<string, unknown>,
  };
};

for (const [name, open] of Object.entries(shops)) {
  const roomName = `in-${name.toLowerCase()}`;
  t.test(`in ${name}, who came by the gate is known, and nobody else comes in`, async (t) => {
    const origin = await open(guardOf(roomName));
    const room = await gates.open(roomName, { origin });
    const { fan, claim } = await gates.inside(room);
    const { id } = claim.session as { id: string }; // The shape of a claim's answer.
    const inside = await fan.ask('GET', room.path);
    t.equal(inside.status, 200, inside.text);
    t.match(JSON.parse(inside.text), { room: roomName, session: { id, sale: 1 }, visitor: /^a:/ });

    const told = (
      await fan.ask('GET', '/v1/authorize', {
        headers: { 'x-original-uri': room.path, 'x-original-method': 'GET', 'x-original-host': 'a' },
      })
    ).headers;
    const context = String(told['anteroom-context']);
    t.equal(
      (await get(origin, { 'anteroom-context': context })).status,
      200,
      'as a proxy in auth mode tells it',
    );
    const pass = String(claim.pass);
    t.match(await get(origin, { authorization: `Bearer ${pass}` }), {
      status: 200,
      json: { session: { id }, room: roomName },
    });

    const other = await gates.inside(await gates.open(`${roomName}-other`, { origin }));
    const [kid, payload, mac] = context.split('.');
    const nobody: [string, Record<string, string>, number, string][] = [
      ['nothing', {}, 401, 'gate-missing'],
      ['names alone', { 'anteroom-visitor': 'a:x', 'anteroom-session-id': id }, 401, 'gate-missing'],
      ['another scheme', { authorization: 'Basic YTpi' }, 401, 'gate-missing'],
      ['no token', { 'anteroom-context': 'x' }, 403, 'context-invalid'],
      ['no signature', { 'anteroom-context': `${kid}.${payload}` }, 403, 'context-invalid'],
      ['an empty signature', { 'anteroom-context': `${kid}.${payload}.` }, 403, 'context-invalid'],
      [
        'another signature',
        { 'anteroom-context': `${kid}.${payload}.${'A'.repeat(22)}` },
        403,
        'context-invalid',
      ],
      ['another key', { 'anteroom-context': `zz.${payload}.${mac}` }, 403, 'context-invalid'],
      ['a longer one', { 'anteroom-context': `${context}.x` }, 403, 'context-invalid'],
      [
        'the session’s cookie',
        { 'anteroom-context': fan.cookies.get(`ar_s_${roomName}`)! },
        403,
        'context-other-room',
      ],
      ['no pass', { authorization: 'Bearer x' }, 403, 'pass-invalid'],
      [
        'a pass of another room',
        { authorization: `Bearer ${String(other.claim.pass)}` },
        403,
        'pass-invalid',
      ],
      ['a pass signed by nobody', { authorization: `Bearer ${pass.slice(0, -4)}AAAA` }, 403, 'pass-invalid'],
      [
        'a context beside a pass',
        { authorization: `Bearer ${pass}`, 'anteroom-context': 'x' },
        403,
        'context-invalid',
      ],
    ];
    for (const [what, headers, status, code] of nobody) {
      const answer = await get(origin, headers);
      t.match(answer, { status, json: { code, status }, type: 'application/problem+json' }, what);
      t.ok(String(answer.json.title).length > 20, 'in words');
    }
    const through = await other.fan.ask('GET', `/shop-${roomName}-other`);
    t.match([through.status, through.json.code], [403, 'context-other-room'], 'the gate of another room');

    t.match(JSON.parse((await fan.ask('GET', `${room.path}/bye`)).text), { outcome: 'told' });
    t.equal((await fan.ask('GET', room.path)).json.code, 'session-required', 'its word ended the session');
  });
}

t.test('an origin in auth mode ends a session by itself, once', async (t) => {
  const service = {
    url: gates.bases[0]!,
    token: signService(gates.tokens, { scope: '*', expiresAtMs: Date.now() + 3_600_000 }),
  };
  const origin = await shops.Express!(guardOf('ends', { service }));
  const room = await gates.open('ends', { origin });
  const { fan, claim } = await gates.inside(room);
  const bye = () => get(`${origin}/bye`, { authorization: `Bearer ${String(claim.pass)}` });
  t.equal((await bye()).json.outcome, 'ended');
  t.equal((await fan.ask('GET', room.path)).json.code, 'session-required');
  t.equal((await bye()).json.outcome, 'missing', 'a pass outlives its session, for minutes at most');
  const wrong = await shops.Express!(guardOf('ends', { service: { ...service, token: 'x' } }));
  const refused = await fetch(`${wrong}/bye`, { headers: { authorization: `Bearer ${String(claim.pass)}` } });
  t.equal(refused.status, 500, 'a token that is refused is a fault, not a farewell');
  await refused.text();
});

t.test('a key is one room’s and a command prints it; a rotation leaves the old one good', async (t) => {
  const masters = `${generateKey('new')},${generateKey('old')}`;
  const run = (...more: string[]) =>
    promisify(execFile)(process.execPath, ['--import', 'tsx/esm', 'scripts/keys.ts', 'context', ...more], {
      env: { ...process.env, ANTEROOM_KEYS: masters },
    });
  const printed = (await run('demo')).stdout.trim();
  await t.rejects(run('Not a room'), /name a room/);
  const all = createTokens({ keys: parseKeys(masters)!, issuer: '' });
  const old = createTokens({ keys: parseKeys(masters.split(',')[1]!)!, issuer: '' });
  const room = parseRoomId('demo')!;
  t.equal(printed, contextKeys(all, room));
  const read = createContextReader({ room, keys: printed, nowMs: () => 100_000 });
  const visitorId = newVisitor();
  for (const tokens of [all, old])
    t.same(read(signContext(tokens, { visitorId, room }, 100_000)), {
      outcome: 'valid',
      visitor: visitorId,
      room,
      session: undefined,
    });
  const outcomeAt = (atMs: number) => read(signContext(all, { visitorId, room }, atMs)).outcome;
  t.same([40_000, 39_999, 160_000, 160_001].map(outcomeAt), [
    'valid',
    'context-expired',
    'valid',
    'context-expired',
  ]);
  const elsewhere = parseRoomId('other')!;
  t.equal(read(signContext(all, { visitorId, room: elsewhere }, 100_000)).outcome, 'context-other-room');
  // Whoever has the key of one room writes the name of another: the gateway's own key for that one is another.
  const made = signContext(all, { visitorId, room: elsewhere }, 100_000).split('.');
  const claims = Buffer.from(JSON.stringify([visitorId, 'demo', '', 0, 0, 100_000])).toString('base64url');
  t.equal(read(`${made[0]}.${claims}.${made[2]}`).outcome, 'context-invalid');
  for (const keys of ['', 'x', masters.slice(0, 20), `${printed},`])
    t.throws(() => createContextReader({ room, keys }), /npm run keys/);
  t.throws(() => createGuard({ room }), /needs `keys`/);
});

t.test('a pass is checked by jose, and by Node alone, with the published keys', async (t) => {
  const { claim } = await gates.inside(await gates.open('public'));
  const pass = String(claim.pass);
  const { id } = claim.session as { id: string }; // The shape of a claim's answer.
  const jwks = `${gates.bases[0]}/.well-known/jwks.json`;
  const { payload } = await jwtVerify(pass, createRemoteJWKSet(new URL(jwks)), {
    algorithms: ['EdDSA'],
    typ: 'anteroom-pass+jwt',
    issuer: PUBLIC_URL,
    audience: 'public',
  });
  t.equal(payload.jti, id);

  const [head = '', body = '', signature = ''] = pass.split('.');
  const { kid } = JSON.parse(Buffer.from(head, 'base64url').toString());
  const { keys } = (await (await fetch(jwks)).json()) as { keys: { kid: string }[] };
  const key = createPublicKey({ key: keys.find((one) => one.kid === kid)!, format: 'jwk' });
  t.ok(verify(null, Buffer.from(`${head}.${body}`), key, Buffer.from(signature, 'base64url')));
  t.notOk(verify(null, Buffer.from(`${head}.${body}x`), key, Buffer.from(signature, 'base64url')));
});

t.test(
  'a pass that is old, early, for others or signed otherwise is none; its keys are asked for sparingly',
  async (t) => {
    const { claim } = await gates.inside(await gates.open('strict'));
    const pass = String(claim.pass);
    let nowMs = Date.now();
    let fetches = 0;
    let up = false;
    const shop = createServer(async (_, response) => {
      fetches += 1;
      if (!up) return response.writeHead(503).end('{}');
      response.end(await (await fetch(`${gates.bases[0]}/.well-known/jwks.json`)).text());
    });
    await new Promise<void>((resolve) => shop.listen(0, '127.0.0.1', resolve));
    t.teardown(() => {
      shop.closeAllConnections();
      shop.close();
    });
    const of = (more: object = {}) =>
      createPassReader({
        room: 'strict',
        jwks: portOf(shop),
        issuer: PUBLIC_URL,
        nowMs: () => nowMs,
        ...more,
      });
    const read = of();
    t.equal((await read(pass)).outcome, 'keys-unavailable');
    up = true;
    t.equal((await read(pass)).outcome, 'keys-unavailable', 'a pause between two questions');
    nowMs += 31_000;
    t.match(await read(pass), { outcome: 'valid', session: { sale: 1 } });
    up = false;
    const count = fetches;
    const forged = async (header: object, claims: object = {}) =>
      new SignJWT({ ...claims })
        .setProtectedHeader({ alg: 'HS256', ...header })
        .sign(Buffer.from('x'.repeat(32)));
    for (const header of [
      { kid: 'a' },
      { kid: 'b', typ: 'anteroom-pass+jwt' },
      { kid: 't' },
      { alg: 'HS512' },
    ])
      t.equal((await read(await forged(header))).outcome, 'pass-invalid');
    const [, body, signature] = pass.split('.');
    for (const header of [
      { alg: 'none', typ: 'anteroom-pass+jwt', kid: 't' },
      { alg: 'EdDSA', typ: 'JWT', kid: 't' },
      { alg: 'EdDSA', typ: 'anteroom-pass+jwt', kid: 't', crit: ['x'] },
      { alg: 'EdDSA', typ: 'anteroom-pass+jwt', kid: 'unknown' },
      { alg: 'EdDSA', typ: 'anteroom-pass+jwt', kid: ['t'] },
    ]) {
      const head = Buffer.from(JSON.stringify(header)).toString('base64url');
      for (const end of [signature, ''])
        t.equal((await read(`${head}.${body}.${end}`)).outcome, 'pass-invalid', JSON.stringify(header));
    }
    for (const text of [undefined, '', '..', 'a.b.c', `${pass}.x`, 'x'.repeat(3000)])
      t.equal((await read(text)).outcome, 'pass-invalid');
    t.equal(fetches, count, 'strangers cause no questions for keys within the pause');
    nowMs += 31_000;
    const unknown = Buffer.from('{"alg":"EdDSA","typ":"anteroom-pass+jwt","kid":"u"}').toString('base64url');
    for (let index = 0; index < 20; index += 1) await read(`${unknown}.${body}.${signature}`);
    t.equal(fetches, count + 1, 'and one after it, whatever their number');
    t.equal((await read(pass)).outcome, 'valid', 'known keys stay good while nobody answers');
    nowMs += 300_000;
    t.equal((await read(pass)).outcome, 'pass-expired');
    nowMs -= 3_600_000;
    t.equal((await read(pass)).outcome, 'pass-invalid', 'from the future');
    nowMs = Date.now();
    up = true;
    t.equal((await of({ room: 'other' })(pass)).outcome, 'pass-invalid');
    t.equal((await of({ issuer: 'https://evil.test' })(pass)).outcome, 'pass-invalid');
  },
);
