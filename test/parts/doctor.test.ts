// What the doctor finds. Each finding is provoked by one thing that is wrong with an installation in which nothing is,
// and the command itself is run against a real Redis.

import { spawn } from 'node:child_process';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { type Config, readConfig } from '../../kernel/config.ts';
import { parseRoomId } from '../../kernel/ids.ts';
import { roomsKey } from '../../kernel/keys.ts';
import { generateKeys } from '../../kernel/master-keys.ts';
import { examine, type Facts, type FindingCode, findingTable, type PageFacts } from '../../line/checkup.ts';
import { defaultSettings, type Settings } from '../../line/settings.ts';
import { configure, roomKeys } from '../../lua/room.ts';
import { startRedis } from '../support/redis.ts';

const NOW_MS = 1_800_000_000_000;
const healthyEnv = {
  ANTEROOM_ENV: 'production',
  ANTEROOM_KEYS: generateKeys(),
  ANTEROOM_REDIS_URL: 'redis://redis.test',
  ANTEROOM_DATABASE_URL: 'postgresql://sql.test/a',
  ANTEROOM_PUBLIC_URL: 'https://tickets.test',
  ANTEROOM_TRUSTED_PROXIES: '10.0.0.0/8',
  ANTEROOM_SANDBOX_SECRET: 'another-secret',
};
const healthySettings: Partial<Settings> = {
  routes: ['/buy'],
  origin: 'http://10.1.0.1:8000',
  totalActiveUsers: 3000,
  newUsersPerMinute: 60,
  whenRedisIsGone: 'bounded',
};
const healthyPage: PageFacts = {
  url: 'https://tickets.test/buy',
  status: 200,
  isWaitingPage: true,
  headers: new Map([
    ['content-security-policy', "default-src 'none'"],
    ['x-content-type-options', 'nosniff'],
  ]),
  assets: [{ path: '/rooms/assets/waiting.js', status: 200 }],
  originAssets: ['/buy/app.js'],
};

type Wrong = {
  env?: Record<string, string>;
  settings?: Record<string, unknown>;
  other?: Record<string, unknown>;
  page?: Partial<PageFacts>;
  facts?: Partial<Facts>;
};
const settingsOf = (more: Record<string, unknown> = {}) => ({
  ...defaultSettings,
  ...healthySettings,
  ...more,
});
const find = ({ env = {}, settings, other, page, facts }: Wrong) => {
  const room = (name: string, given: unknown) => ({
    room: parseRoomId(name)!,
    settings: given,
    version: 3,
    versionInRedis: 3,
  });
  const config: Config = readConfig({ ...healthyEnv, ...env });
  const rooms = [room('sale', settingsOf(settings))];
  if (other !== undefined) rooms.push(room('other', settingsOf({ routes: ['/elsewhere'], ...other })));
  return examine({
    ...{ config, redis: 'reached', database: 'reached', rooms, nowMs: NOW_MS },
    ...(page === undefined ? {} : { page: { ...healthyPage, ...page } }),
    ...facts,
  });
};

const bypass = (rule: Record<string, unknown>) => ({ bypass: [{ name: 'rule', ...rule }] });
const jwks = {
  ANTEROOM_USER_JWKS_URL: 'https://id.test/jwks',
  ANTEROOM_USER_JWT_ISSUER: 'https://id.test',
  ANTEROOM_USER_JWT_AUDIENCE: 'tickets',
};
const bare = parseRoomId('sale')!;

const provoked: Record<FindingCode, Wrong> = {
  'redis-unreachable': { facts: { redis: 'unreachable' } },
  'database-unreachable': { facts: { database: 'unreachable' } },
  'room-not-applied': {
    facts: { rooms: [{ room: bare, settings: settingsOf(), version: 4, versionInRedis: 3 }] },
  },
  'stores-embedded': { env: { ANTEROOM_DATABASE_URL: '' } },
  'public-url-missing': {
    env: { ANTEROOM_ENV: 'development', ANTEROOM_PUBLIC_URL: '', ANTEROOM_HOST: '0.0.0.0' },
  },
  'public-url-plain': { env: { ANTEROOM_PUBLIC_URL: 'http://tickets.test' } },
  'proxies-missing': { env: { ANTEROOM_TRUSTED_PROXIES: '' } },
  'proxies-everyone': { env: { ANTEROOM_TRUSTED_PROXIES: '10.0.0.0/8,0.0.0.0/0' } },
  'listens-everywhere': { env: { ANTEROOM_HOST: '0.0.0.0' } },
  'operator-token-short': { env: { ANTEROOM_OPERATOR_TOKEN: 'letmein' } },
  'limit-crowd': { env: { ANTEROOM_ADDRESS_BURST: '100' } },
  'origin-foreign-site': { env: { ANTEROOM_ALLOWED_ORIGINS: 'https://www.elsewhere.test' } },
  'default-origin-loop': { env: { ANTEROOM_DEFAULT_ORIGIN: 'http://127.0.0.1:8080' } },
  'settings-invalid': { settings: { opensAt: 2000, closesAt: 1000, newUsersPerMinute: 0 } },
  'route-none': { settings: { routes: [] } },
  'route-same': { other: { routes: ['/Buy'] } },
  'route-twice': { settings: { routes: ['/buy', '/BUY'] } },
  'route-inside': { other: { routes: ['/buy/vip'] } },
  'route-open': { settings: { routes: ['/v1/orders/vip'] } },
  'route-asset': { settings: { routes: ['/buy', '/static'] } },
  'route-host-other': { settings: { routes: ['shop.test/buy'] } },
  'route-host-beside': {
    env: { ANTEROOM_DEFAULT_ORIGIN: 'http://10.1.0.9' },
    settings: { routes: ['tickets.test/buy'] },
  },
  'origin-loop': { settings: { origin: 'https://tickets.test' } },
  'identity-keyless': { settings: { identity: 'required' } },
  'identity-anonymous-keys': { env: jwks, settings: { identity: 'anonymous' } },
  'nobody-enters': { settings: { queueingMethod: 'reject' } },
  'nobody-waits': { settings: { queueingMethod: 'passthrough' } },
  'closed-past': { settings: { closesAt: NOW_MS - 1 } },
  'cap-limits': { settings: { totalActiveUsers: 100 } },
  'burst-above-cap': { settings: { burst: 5000 } },
  'claim-short': { settings: { claimSeconds: 15 } },
  'redis-gone-closed': { settings: { whenRedisIsGone: 'closed' } },
  'bypass-everything': { settings: bypass({ paths: ['/'] }) },
  'bypass-unreachable': { settings: bypass({ paths: ['/Buy/assets'] }) },
  'bypass-keyless': { settings: bypass({ claims: [{ name: 'role', equals: 'staff' }] }) },
  'bypass-proxied': {
    env: { ANTEROOM_TRUSTED_PROXIES: '' },
    settings: bypass({ addresses: ['203.0.113.0/24'] }),
  },
  'page-unreachable': { page: { status: 0 } },
  'page-not-guarded': { page: { isWaitingPage: false, assets: [] } },
  'page-asset-broken': { page: { assets: [{ path: '/rooms/assets/waiting.js', status: 404 }] } },
  'page-headers-missing': { page: { headers: new Map() } },
  'asset-nowhere': { page: { originAssets: ['/styles/app.css'] } },
  'asset-other-room': { other: {}, page: { originAssets: ['/elsewhere/app.css'] } },
};

t.test('an installation in which nothing is wrong has no findings', async (t) => {
  t.same(find({}), []);
  t.same(find({ page: {}, other: {} }), []);
});

for (const code of Object.keys(findingTable) as FindingCode[])
  t.test(`${code} is found, and said with what to do`, async (t) => {
    const findings = find(provoked[code]);
    const found = findings.find((finding) => finding.code === code);
    t.ok(found, JSON.stringify(findings));
    t.equal(found?.severity, findingTable[code]);
    t.match(found?.says, /^\S.{20,}\.$/, 'a sentence');
    const order = findings.map(({ severity }) => ['error', 'warning', 'note'].indexOf(severity));
    t.same(order, [...order].sort(), 'errors first');
  });

t.test('what lets everyone past is told from what names somebody', async (t) => {
  const opens = (rule: Record<string, unknown>): boolean =>
    find({ settings: bypass(rule), env: jwks }).some(({ code }) => code === 'bypass-everything');
  for (const rule of [
    { paths: ['/buy'] },
    { methods: ['GET'] },
    { verdicts: ['allow'] },
    { headers: [{ name: 'x-anything' }] },
    { addresses: ['0.0.0.0/0'] },
    { addresses: ['::/0'], paths: ['/buy/x'] },
  ])
    t.ok(opens(rule), JSON.stringify(rule));
  for (const rule of [
    { paths: ['/buy/assets'] },
    { methods: ['OPTIONS'] },
    { headers: [{ name: 'x-probe', equals: '0123456789abcdef' }] },
    { addresses: ['203.0.113.0/24'] },
    { claims: [{ name: 'role', equals: 'staff' }] },
  ])
    t.notOk(opens(rule), JSON.stringify(rule));
});

const command = fileURLToPath(new URL('../../scripts/doctor.ts', import.meta.url));
const run = (
  env: Record<string, string>,
  ...args: string[]
): Promise<{ code: number | null; text: string }> =>
  new Promise((resolve) => {
    const clean = Object.fromEntries(
      Object.entries(process.env).filter(([name]) => !name.startsWith('ANTEROOM_')),
    );
    const child = spawn(process.execPath, ['--import', 'tsx/esm', command, ...args], {
      env: { ...clean, ...env },
    });
    let text = '';
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (chunk: Buffer) => {
        text += chunk;
      });
    child.once('close', (code) => resolve({ code, text }));
  });

t.test('the command reads the rooms, looks at a page, and exits by what it found', async (t) => {
  const redis = await startRedis(t);
  const site = createServer((_request, response) => response.end('<img src="/pictures/a.png">'));
  await new Promise<void>((resolve) => site.listen(0, '127.0.0.1', resolve));
  t.teardown(() => site.close());
  // `listen` on a port was awaited, so the address is one of TCP.
  const origin = `http://127.0.0.1:${(site.address() as AddressInfo).port}`;
  const env = {
    ANTEROOM_REDIS_URL: redis.url,
    ANTEROOM_KEYS: generateKeys(),
    ANTEROOM_REDIS_TIMEOUT_MS: '60000',
  };
  const put = async (version: number, more: Partial<Settings>) => {
    const settings = JSON.stringify(settingsOf({ origin, ...more }));
    await configure.run(redis.client, roomKeys(bare), { nowMs: '', version, settings, create: 1 });
    await redis.client.sadd(roomsKey, bare);
  };
  await put(1, {});
  const well = await run(env);
  t.match(well, { code: 0, text: /looked at 1 room: 0 errors/ });
  const page = await run(env, `${origin}/buy`);
  t.match(page, { code: 1, text: /page-not-guarded/ }, 'the origin itself is no waiting page');
  t.match(page.text, /asset-nowhere\n +\/pictures\/a\.png/);
  await put(2, { origin: 'http://127.0.0.1:8080' });
  t.match(await run(env), { code: 1, text: /error {3}origin-loop, room sale/ });
  t.match(await run(env, 'nonsense'), { code: 2, text: /usage/ });
  t.match(await run({ ANTEROOM_NONSENSE: '1' }), { code: 2, text: /ANTEROOM_NONSENSE/ });
  await redis.kill();
  t.match(await run(env), { code: 1, text: /redis-unreachable/ });
});
