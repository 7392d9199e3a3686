// What browsers are told: which pages of other origins may read us, and the headers that keep our own pages safe.

import t from 'tap';
import { CLIENT_PATH, createAssets } from '../../gateway/page/assets.ts';
import { ConfigFault, readConfig } from '../../kernel/config.ts';
import { isWebOrigin } from '../../kernel/cors.ts';
import type { FanAnswer } from '../support/fan.ts';
import { startGateways } from '../support/gateways.ts';

const SHOP = 'https://www.shop.test';
const gates = await startGateways(t, {
  count: 1,
  env: { ANTEROOM_ALLOWED_ORIGINS: `${SHOP},http://localhost:5173` },
  publicUrl: 'https://tickets.shop.test',
});
const room = await gates.open('shared');
const api = `/v1/rooms/${room.room}`;
const ask = (method: string, path: string, headers: Record<string, string> = {}): Promise<FanAnswer> =>
  gates.fan(room).ask(method, path, { headers });
const cors = ({ headers }: FanAnswer) =>
  Object.fromEntries(Object.entries(headers).filter(([name]) => name.startsWith('access-control-')));

t.test('a listed origin may read every answer of the public API, refusals and all', async (t) => {
  for (const [method, path, status] of [
    ['GET', api, 200],
    ['POST', `${api}/places`, 201],
    ['GET', `${api}/places/me`, 404],
    ['DELETE', `${api}/places/me`, 404],
    ['POST', `${api}/pass`, 404],
    ['POST', `${api}/sessions`, 400],
    ['POST', `${api}/sessions/end`, 401],
    ['GET', '/v1/rooms/nothing', 404],
  ] as const) {
    const answer = await ask(method, path, { origin: SHOP });
    t.equal(answer.status, status, `${method} ${path}`);
    t.same(
      cors(answer),
      {
        'access-control-allow-origin': SHOP,
        'access-control-allow-credentials': 'true',
        'access-control-expose-headers': 'retry-after, ratelimit, ratelimit-policy, x-request-id',
      },
      `${method} ${path}`,
    );
    t.equal(answer.headers.vary, 'Origin');
  }
});

t.test('no other origin may, and a shared cache is told that the answer depends on it', async (t) => {
  for (const origin of [
    'https://evil.test',
    'https://www.shop.test.evil.test',
    'https://shop.test',
    'http://www.shop.test',
    'https://www.shop.test:8443',
    'https://WWW.shop.test',
    'null',
    '*',
    '',
  ]) {
    const answer = await ask('GET', api, { origin });
    t.equal(answer.status, 200, origin);
    t.same(cors(answer), {}, origin);
    t.equal(answer.headers.vary, 'Origin');
  }
  t.same(cors(await ask('GET', api)), {}, 'nor one that names none');
});

t.test('a preflight is answered for the methods an address has, to listed origins alone', async (t) => {
  const preflight = (path: string, origin: string) =>
    ask('OPTIONS', path, { origin, 'access-control-request-method': 'DELETE' });
  const listed = await preflight(`${api}/places/me`, 'http://localhost:5173');
  t.equal(listed.status, 204);
  t.match(listed.headers, {
    'access-control-allow-origin': 'http://localhost:5173',
    'access-control-allow-credentials': 'true',
    'access-control-allow-methods': 'GET, DELETE',
    'access-control-allow-headers': /authorization, content-type/,
    'access-control-max-age': '600',
    vary: 'Origin',
  });
  const other = await preflight(`${api}/places/me`, 'https://evil.test');
  t.equal(other.status, 204);
  t.same(cors(other), {});
});

t.test(
  'the browser client has a lasting address that any page may import, packed for whoever takes that',
  async (t) => {
    const plain = await ask('GET', CLIENT_PATH, { origin: 'https://anybody.test' });
    t.match(plain.headers, {
      'content-type': /^text\/javascript/,
      'access-control-allow-origin': '*',
      'cache-control': 'public, max-age=300',
      vary: 'Accept-Encoding',
    });
    t.match(plain.text, 'export const createAnteroom');
    for (const [accepts, packed] of [
      ['gzip', 'gzip'],
      ['br, gzip;q=0.5', 'gzip'],
      ['br', undefined],
      ['gzip;q=0', undefined],
      ['gzip ;q=0', undefined],
      ['gzip ; q=0.0 , br', undefined],
      ['gzip;q=0.00, br', undefined],
      ['xgzip', undefined],
    ] as const) {
      const answer = await ask('GET', CLIENT_PATH, { 'accept-encoding': accepts });
      t.equal(answer.headers['content-encoding'], packed, accepts);
      t.equal(answer.headers['access-control-allow-credentials'], undefined);
    }
  },
);

t.test('pages, what is proxied and other addresses of ours are no part of it', async (t) => {
  for (const path of [`/rooms/${room.room}`, room.path, '/.well-known/jwks.json']) {
    const answer = await ask('GET', path, { origin: SHOP });
    t.same(cors(answer), {}, path);
  }
  const before = gates.seen.length;
  t.not(
    (await ask('OPTIONS', room.path, { origin: SHOP })).status,
    204,
    'a guarded path has no open preflight',
  );
  t.equal(gates.seen.length, before);
});

t.test('what is listed must be an origin as browsers write it; nothing stands for all', async (t) => {
  for (const text of [SHOP, 'http://localhost:5173', 'https://[2001:db8::1]:8443'])
    t.ok(isWebOrigin(text), text);
  for (const text of [
    '*',
    'null',
    'https://*.shop.test',
    'www.shop.test',
    `${SHOP}/`,
    `${SHOP}/a`,
    'https://www.shop.test:443',
    'HTTPS://www.shop.test',
    'https://user@www.shop.test',
    'ftp://www.shop.test',
    'https://bücher.test',
  ]) {
    t.notOk(isWebOrigin(text), text);
    t.throws(() => readConfig({ ANTEROOM_ALLOWED_ORIGINS: text }), ConfigFault, text);
  }
  t.throws(() => readConfig({ ANTEROOM_TRUSTED_PROXIES: '10.0.0.0/33' }), /ANTEROOM_TRUSTED_PROXIES/);
});

t.test('every page carries the headers that keep it safe, whatever state it is in', async (t) => {
  const html = { accept: 'text/html' };
  const fan = gates.fan(room);
  const form = (act: string) =>
    fan.ask('POST', `/rooms/${room.room}`, {
      raw: `act=${act}&returnTo=/`,
      headers: { ...html, 'content-type': 'application/x-www-form-urlencoded' },
    });
  const pages: [string, number, FanAnswer][] = [
    ['new', 200, await fan.ask('GET', `/rooms/${room.room}`, { headers: html })],
    ['at the guarded address', 200, await fan.ask('GET', room.path, { headers: html })],
    ['joining', 303, await form('join')],
    ['waiting', 200, await fan.ask('GET', `/rooms/${room.room}?returnTo=/x`, { headers: html })],
    ['a room that is not there', 404, await fan.ask('GET', '/rooms/nothing', { headers: html })],
    ['nothing at all', 404, await fan.ask('GET', '/nothing', { headers: html })],
    ['a wrong form', 400, await form('dance')],
    ['head', 200, await fan.ask('HEAD', `/rooms/${room.room}`, { headers: html })],
  ];
  await room.promote();
  pages.push(['promoted', 200, await fan.ask('GET', `/rooms/${room.room}`, { headers: html })]);
  pages.push(['entering', 303, await form('enter')]);
  pages.push(['inside', 200, await fan.ask('GET', room.path, { headers: html })]);
  pages.push(['leaving', 303, await form('leave')]);
  for (const asset of createAssets()) pages.push([asset.path, 200, await fan.ask('GET', asset.path)]);
  let cookies = 0;
  for (const [name, status, { headers, ...answer }] of pages) {
    t.equal(answer.status, status, `${name}: status`);
    t.equal(headers['x-content-type-options'], 'nosniff', `${name}: x-content-type-options`);
    t.equal(headers['referrer-policy'], 'same-origin', `${name}: referrer-policy`);
    t.equal(headers['strict-transport-security'], 'max-age=31536000', `${name}: HSTS, for https`);
    if (String(headers['content-type'] ?? '').startsWith('text/html')) {
      const policy = String(headers['content-security-policy']);
      for (const part of [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'self'",
      ])
        t.match(policy, part, `${name}: ${part}`);
      t.notMatch(policy, /unsafe|\*/, name);
      t.equal(headers['cache-control'], 'no-store', `${name}: kept by nobody`);
    }
    for (const cookie of [headers['set-cookie'] ?? []].flat()) {
      cookies += 1;
      t.match(
        cookie,
        /^__Host-ar_[^;]*; Path=\/; Max-Age=\d+; HttpOnly; SameSite=Lax; Secure$/,
        `${name}: ${cookie}`,
      );
    }
  }
  t.ok(cookies >= 4, `${cookies} cookies were looked at`);
});
