// Rules by which a request passes a room without a session: what may be written, when one holds, and that nothing
// beside it opens.

import { createHash } from 'node:crypto';
import t from 'tap';
import {
  BYPASS_RULES_MAX,
  type BypassFacts,
  type BypassRule,
  createBypass,
  parseBypass,
  verdictWords,
} from '../../line/bypass.ts';
import { claimValues } from '../../line/claims.ts';
import { parseSettings } from '../../line/settings.ts';
import { rawRequest } from '../support/client.ts';
import { startGateways } from '../support/gateways.ts';
import { keyPair, startIssuer, userToken } from '../support/issuer.ts';

const SECRET = 'monitor-secret-0123456789';
const hashOf = (text: string): string => createHash('sha256').update(text).digest('hex');

const facts = (over: Partial<BypassFacts> = {}): BypassFacts => ({
  path: '/shop/assets/a.css',
  method: 'GET',
  address: '192.0.2.7',
  header: () => undefined,
  claims: async () => new Map(),
  verdict: () => 'allow',
  ...over,
});
const holds = async (rule: Omit<BypassRule, 'name'>, over: Partial<BypassFacts> = {}): Promise<boolean> => {
  const { rules, faults } = parseBypass([{ name: 'one', ...rule }]);
  if (faults.length > 0) throw new Error(JSON.stringify(faults));
  return (await createBypass(rules).find(facts(over))) === 'one';
};

t.test('each kind of condition holds for what it names and for nothing else', async (t) => {
  const header = (values: Record<string, string>) => ({ header: (name: string) => values[name] });
  const claims = (values: Record<string, string[]>) => ({
    claims: async () => new Map(Object.entries(values)),
  });
  const cases: [Omit<BypassRule, 'name'>, Partial<BypassFacts>[], Partial<BypassFacts>[]][] = [
    [
      { paths: ['/shop/assets/'] },
      [{}, { path: '/shop/assets' }],
      [{ path: '/shop/assetsx' }, { path: '/shop' }, { path: '/Shop/assets/a.css' }, { path: '/' }],
    ],
    [{ methods: ['OPTIONS', 'GET'] }, [{}, { method: 'OPTIONS' }], [{ method: 'HEAD' }, { method: 'get' }]],
    [
      { addresses: ['192.0.2.0/29', '2001:DB8::/32', '198.51.100.1'] },
      [{}, { address: '2001:db8:1::1' }, { address: '198.51.100.1' }],
      [{ address: '192.0.2.8' }, { address: '2001:db9::1' }, { address: '' }, { address: '198.51.100.2' }],
    ],
    [{ addresses: ['::/0'] }, [{ address: '2001:db8::1' }], [{ address: '192.0.2.1' }]],
    [{ addresses: ['0.0.0.0/0'] }, [{}], [{ address: '2001:db8::1' }]],
    [{ headers: [{ name: 'X-Edge' }] }, [header({ 'x-edge': '' })], [{}, header({ 'x-edgy': '1' })]],
    [
      { headers: [{ name: 'x-monitor', sha256: hashOf(SECRET) }] },
      [header({ 'x-monitor': SECRET })],
      [{}, header({ 'x-monitor': `${SECRET}, ${SECRET}` }), header({ 'x-monitor': hashOf(SECRET) })],
    ],
    [
      { claims: [{ name: 'role', equals: 'staff' }] },
      [claims({ role: ['fan', 'staff'] })],
      [{}, claims({ role: ['staffs'] }), claims({ other: ['staff'] })],
    ],
    [
      { verdicts: ['allow', 'challenge'] },
      [{}, { verdict: () => 'challenge' }],
      [{ verdict: () => 'block' }],
    ],
  ];
  for (const [rule, yes, no] of cases) {
    for (const over of yes) t.ok(await holds(rule, over), `${JSON.stringify(rule)} ${JSON.stringify(over)}`);
    for (const over of no)
      t.notOk(await holds(rule, over), `${JSON.stringify(rule)} ${JSON.stringify(over)}`);
  }
});

t.test('all conditions of a rule must hold, and the first rule that holds is named', async (t) => {
  const both = { paths: ['/shop'], methods: ['GET'] };
  t.ok(await holds(both));
  t.notOk(await holds(both, { method: 'POST' }));
  t.notOk(await holds(both, { path: '/x' }));
  const { rules } = parseBypass([
    { name: 'first', paths: ['/a'] },
    { name: 'second', paths: ['/shop'] },
    { name: 'third', paths: ['/'] },
  ]);
  t.equal(await createBypass(rules).find(facts()), 'second');
  t.equal(await createBypass([]).find(facts()), undefined);
});

t.test('an ambiguous path is let by no rule, not even by one for all paths', async (t) => {
  for (const path of [
    '/shop//assets',
    '/shop/assets/../x',
    '/shop/%61ssets/x',
    '/shop/assets/%2e%2e/x',
    '/shop/assets;x=1',
    '/shop/assets/%2f',
    '/shop\\assets',
    'shop',
    '',
  ])
    for (const paths of [['/'], ['/shop/assets']]) t.notOk(await holds({ paths }, { path }), path);
});

t.test('claims and verdict are asked for only where everything else of a rule holds', async (t) => {
  let asked = 0;
  const counting = {
    claims: async () => {
      asked += 1;
      return new Map([['role', ['staff']]]);
    },
    verdict: () => {
      asked += 1;
      return 'allow' as const;
    },
  };
  const rule = { paths: ['/shop'], claims: [{ name: 'role', equals: 'staff' }], verdicts: verdictWords };
  t.notOk(await holds(rule, { ...counting, path: '/other' }));
  t.equal(asked, 0);
  t.ok(await holds(rule, { ...counting }));
  t.equal(asked, 2);
});

t.test('faults name their field; a secret is kept as its hash; reading again changes nothing', async (t) => {
  const many = Array.from({ length: 51 }, () => '/a');
  const cases: [unknown, string, RegExp][] = [
    ['text', 'bypass', /list/],
    [Array.from({ length: BYPASS_RULES_MAX + 1 }, () => ({})), 'bypass', /at most 20/],
    [[7], 'bypass[0]', /object/],
    [[{ name: 'a' }], 'bypass[0]', /at least one/],
    [[{ name: 'A b', paths: ['/a'] }], 'bypass[0].name', /small letters/],
    [[{ paths: ['/a'] }], 'bypass[0].name', /small letters/],
    [
      [
        { name: 'a', paths: ['/a'] },
        { name: 'a', paths: ['/b'] },
      ],
      'bypass[1].name',
      /another rule/,
    ],
    [[{ name: 'a', path: ['/a'] }], 'bypass[0].path', /is not one of/],
    [[{ name: 'a', paths: [] }], 'bypass[0].paths', /1 to 50/],
    [[{ name: 'a', paths: many }], 'bypass[0].paths', /1 to 50/],
    [[{ name: 'a', paths: ['/a', 'b'] }], 'bypass[0].paths[1]', /plain form/],
    [[{ name: 'a', paths: ['/a/*.css'] }], 'bypass[0].paths[0]', /plain form/],
    [[{ name: 'a', paths: ['/a/../b'] }], 'bypass[0].paths[0]', /plain form/],
    [[{ name: 'a', methods: ['BREW'] }], 'bypass[0].methods[0]', /GET/],
    [[{ name: 'a', addresses: ['10.0.0.0/33'] }], 'bypass[0].addresses[0]', /network/],
    [[{ name: 'a', addresses: ['tickets.example'] }], 'bypass[0].addresses[0]', /network/],
    [[{ name: 'a', headers: [{ name: 'x-a', equals: 'short' }] }], 'bypass[0].headers[0]', /16/],
    [[{ name: 'a', headers: [{ name: 'x-a', sha256: 'zz' }] }], 'bypass[0].headers[0]', /64/],
    [[{ name: 'a', headers: [{ name: 'x-a', matches: '.' }] }], 'bypass[0].headers[0]', /either/],
    [[{ name: 'a', headers: [{ name: 'X-Forwarded-For' }] }], 'bypass[0].headers[0]', /rest on/],
    [[{ name: 'a', headers: [{ name: 'a b' }] }], 'bypass[0].headers[0]', /header name/],
    [[{ name: 'a', claims: [{ name: 'x' }] }], 'bypass[0].claims[0]', /equals/],
    [[{ name: 'a', claims: [{ name: 'x', equals: true }] }], 'bypass[0].claims[0]', /texts/],
    [[{ name: 'a', verdicts: ['fine'] }], 'bypass[0].verdicts[0]', /allow/],
  ];
  for (const [bypass, field, says] of cases) {
    const read = parseSettings({ bypass });
    t.match(read, { outcome: 'faults', faults: [{ field, says }] }, field);
  }
  const read = parseSettings({
    bypass: [{ name: 'probe', headers: [{ name: 'X-Probe', equals: SECRET }], paths: ['/a/'] }],
  });
  t.notMatch(JSON.stringify(read), SECRET);
  t.match(read, {
    settings: { bypass: [{ headers: [{ name: 'x-probe', sha256: hashOf(SECRET) }], paths: ['/a'] }] },
  });
  if (read.outcome === 'ok') t.same(parseSettings(read.settings), read);
});

t.test('a claim is compared as text, and a long list of them is cut', async (t) => {
  t.same(claimValues(['a', 1, true, null, { b: 1 }, 'x'.repeat(201)]), ['a', '1', 'true']);
  t.same(claimValues(undefined), []);
  t.equal(claimValues(Array.from({ length: 100 }, String)).length, 32);
});

t.test('through a gateway', async (t) => {
  const key = await keyPair('u');
  const users = (await startIssuer(t, [key.jwk])).tokens();
  const token = (role: string): Promise<string> =>
    userToken(key, 'somebody', { claims: { role: ['fan', role] } });
  const gates = await startGateways(t, { count: 1, users });
  const { rules } = parseBypass([
    { name: 'assets', paths: ['/shop-pass/assets'], methods: ['GET', 'HEAD'] },
    { name: 'probe', headers: [{ name: 'x-probe', equals: SECRET }] },
    { name: 'office', addresses: ['203.0.113.0/24'] },
    { name: 'staff', claims: [{ name: 'role', equals: 'staff' }] },
    { name: 'people', paths: ['/shop-pass/people'], verdicts: ['allow'] },
  ]);
  const room = await gates.open('pass', { bypass: rules });
  const ask = (path: string, headers: Record<string, string> = {}, method = 'GET') =>
    gates.fan(room).ask(method, `${room.path}${path}`, { headers });
  const passes = async (by: string, answered: Promise<{ status: number; headers: object }>) => {
    const { status, headers } = await answered;
    t.equal(status, 200, by);
    t.notOk('set-cookie' in headers, `${by}: a request without a session is given nothing`);
  };

  await t.test('each rule passes what it names, and counts it by its name', async (t) => {
    await passes('assets', ask('/assets/a.css'));
    await passes('probe', ask('/anything', { 'x-probe': SECRET }));
    await passes('office', ask('/buy', { 'x-forwarded-for': '203.0.113.9' }));
    await passes('staff', ask('/buy', { authorization: `Bearer ${await token('staff')}` }));
    await passes('people', ask('/people'));
    const last = gates.seen.at(-1)!;
    for (const name of ['anteroom-context', 'anteroom-visitor', 'anteroom-session-id'])
      t.notOk(name in last.headers, `${name}: nobody's visit`);
    const text = await gates.metrics[0]!.text();
    for (const { name } of rules)
      t.match(text, `anteroom_bypassed_total{room="pass",rule="${name}"} 1`, name);
  });

  await t.test('whatever no rule names waits in line as before', async (t) => {
    const before = gates.seen.length;
    for (const answered of [
      ask('/buy'),
      ask('/assets/a.css', {}, 'POST'),
      ask('/assets/a.css', {}, 'DELETE'),
      ask('/ASSETS/a.css'),
      ask('/assetsx'),
      ask('/anything', { 'x-probe': `${SECRET}x` }),
      ask('/buy', { 'x-forwarded-for': '203.0.114.9' }),
      ask('/buy', { 'x-forwarded-for': '203.0.113.9, 198.51.100.1' }),
      ask('/buy', { authorization: `Bearer ${await token('fan')}` }),
      ask('/people', { 'user-agent': 'curl/8.5.0' }),
      ask('/people', { 'user-agent': 'Mozilla/5.0 (compatible; Googlebot/2.1)' }),
    ])
      t.match(await answered, { status: 429, json: { code: 'session-required' } });
    const forged = `${(await token('staff')).slice(0, -4)}AAAA`;
    t.match(await ask('/buy', { authorization: `Bearer ${forged}` }), { status: 429 }, 'a forged claim');
    t.equal(gates.seen.length, before, 'the origin heard of none of them');
  });

  await t.test('no path tricks reach a rule from outside of it, nor the rest through it', async (t) => {
    const before = gates.seen.length;
    const port = Number(new URL(gates.bases[0]!).port);
    for (const path of [
      '/shop-pass/assets/../buy',
      '/shop-pass/assets/%2e%2e/buy',
      '/shop-pass//assets/a.css',
      '/shop-pass/assets/..;/buy',
      '/shop-pass/assets%2f..%2fbuy',
      '/shop-pass/%61ssets/a.css',
      '/shop-pass/assets\\..\\buy',
      '/shop-pass/./assets/a.css',
    ]) {
      const { text } = await rawRequest(port, `GET ${path} HTTP/1.1\r\nhost: tickets.test\r\n\r\n`);
      t.match(text, /^HTTP\/1\.1 400 /, path);
    }
    t.equal(gates.seen.length, before);
  });

  await t.test('a Host that is no name is refused, and any name is guarded by a route for any', async (t) => {
    const port = Number(new URL(gates.bases[0]!).port);
    const send = (host: string) =>
      rawRequest(port, `GET /Shop-Pass/buy HTTP/1.1\r\nhost: ${host}\r\nconnection: close\r\n\r\n`);
    for (const host of ['a@b', 'a b', 'a,b', 'a%2eb'])
      t.match((await send(host)).text, /^HTTP\/1\.1 400 /, host);
    for (const host of ['evil.example', 'TICKETS.test.:80', '[::1]:80', '127.0.0.1'])
      t.match((await send(host)).text, /^HTTP\/1\.1 429 /, host);
  });

  await t.test('while Redis is away a rule still holds, and the rest stays shut', async (t) => {
    await gates.redis.kill();
    await passes('assets', ask('/assets/a.css'));
    t.ok((await ask('/buy')).status >= 429);
  });
});
