// Auth mode over HTTP: what a proxy is told about a request that it describes. Promise: it is what the gate itself
// would have done with that request, and nobody but a proxy is told anything.

import { request } from 'node:http';
import t from 'tap';
import { readContext } from '../../line/context.ts';
import { eventually } from '../support/eventually.ts';
import type { Fan, FanAnswer } from '../support/fan.ts';
import { elsewhere, type Gateways, startGateways } from '../support/gateways.ts';
import { pathTricks } from '../support/hostile.ts';
import { standing } from '../support/standing-clock.ts';

let gates: Gateways;
t.before(async () => {
  gates = await startGateways(t, { count: 2 });
});

type Original = { uri: string; method?: string; host?: string; headers?: Record<string, string> };
const question = ({ uri, method = 'GET', host = 'tickets.test', headers = {} }: Original) => ({
  headers: { 'x-original-uri': uri, 'x-original-method': method, 'x-original-host': host, ...headers },
});
const authorize = (fan: Fan, original: Original): Promise<FanAnswer> =>
  fan.ask('GET', '/v1/authorize', question(original));
const setCookies = (answer: FanAnswer): string[] => [answer.headers['set-cookie'] ?? []].flat();
const HTML = { accept: 'text/html,application/xhtml+xml' };

t.test('a stranger waits, whoever is inside goes on, and what no room guards is let through', async (t) => {
  const room = await gates.open('who');
  const stranger = await authorize(gates.fan(room), { uri: `${room.path}/seats?row=5&a=%20` });
  t.equal(stranger.status, 401);
  t.equal(stranger.headers['cache-control'], 'no-store');
  t.same(stranger.json, {
    type: 'urn:anteroom:error:admission-required',
    title: stranger.json.title,
    status: 401,
    code: 'admission-required',
    room: 'who',
    page: '/rooms/who?returnTo=%2Fshop-who%2Fseats%3Frow%3D5%26a%3D%2520',
    join: '/v1/rooms/who/places',
  });
  t.equal(stranger.headers['anteroom-wait'], stranger.json.page);
  t.notOk('anteroom-context' in stranger.headers, 'who waits has no context');
  t.same(setCookies(stranger), []);
  t.equal(
    (await authorize(gates.fan(room), { uri: room.path, method: 'POST' })).headers['anteroom-wait'],
    '/rooms/who',
    'nobody comes back to a POST',
  );
  t.match(
    (await gates.fan(room).ask('GET', String(stranger.json.page), { headers: HTML })).text,
    'value="/shop-who/seats?row=5&amp;a=%20"',
    'the page knows where to go afterwards',
  );

  const { fan, claim } = await gates.inside(room);
  for (const method of ['GET', 'HEAD', 'POST', 'DELETE', 'PROPFIND']) {
    const inside = await authorize(fan, { uri: `${room.path}/x`, method, host: 'tickets.test:8080' });
    t.equal(inside.status, 204, method);
    t.equal(inside.text, '');
    t.equal(inside.headers['cache-control'], 'no-store');
    t.equal(inside.headers['anteroom-room'], 'who');
    const { id } = claim.session as { id: string }; // The shape of a claim's answer.
    t.equal(inside.headers['anteroom-session-id'], id);
    const context = readContext(gates.tokens, String(inside.headers['anteroom-context']), Date.now());
    t.equal(context?.visitorId, inside.headers['anteroom-visitor']);
    t.equal(`${context?.visit?.placeId}.${context?.visit?.number}`, id);
    t.same(setCookies(inside), [], 'nothing to renew');
  }
  const free = await authorize(gates.fan(room), { uri: '/elsewhere' });
  t.equal(free.status, 204);
  t.notOk('anteroom-context' in free.headers, 'and is told nothing');
});

t.test('the answer is that of the gate, whatever is asked', async (t) => {
  const room = await gates.open('same', { routes: ['/shop-same', 'b.test/only', 'c.test/Case/'] });
  const other = await gates.inside(await gates.open('another'));
  const { fan: inside } = await gates.inside(room);
  const forged = elsewhere(inside, gates.bases[0]!);
  forged.cookies.set('ar_s_same', `${forged.cookies.get('ar_s_same')?.slice(0, -3)}AAA`);
  const fans: Record<string, Fan> = { inside, forged, other: other.fan, stranger: gates.fan(room) };
  let [passed, waited] = [0, 0];
  for (const host of ['tickets.test', 'b.test', 'B.TEST.', 'b.test.:80', 'b.test:8080', 'c.test'])
    for (const uri of [
      '/shop-same',
      '/shop-same/',
      '/shop-same?x=/y',
      '/only',
      '/only/x',
      '/onlyx',
      '/Case/x',
    ])
      for (const [name, fan] of Object.entries(fans)) {
        const gate = await fan.ask('GET', uri, { headers: { host } });
        const told = await authorize(fan, { uri, host });
        const what = `${name} at ${host}${uri}: the gate says ${gate.status}, the answer is ${told.status}`;
        if (gate.text === 'inside') {
          passed += 1;
          t.equal(told.status, 204, what);
        } else if (gate.json.code === 'session-required') {
          waited += 1;
          t.equal(told.status, 401, what);
        } else t.same([gate.json.code, told.status], ['not-found', 204], what);
      }
  t.ok(passed > 10 && waited > 30, `${passed} passed, ${waited} waited`);
});

t.test(
  'a path of booking-core that needs no session there is guarded at an origin that is not it',
  async (t) => {
    const room = await gates.open('orders', { routes: ['/v1/orders'] });
    t.equal((await authorize(gates.fan(room), { uri: '/v1/orders/5' })).status, 401);
  },
);

t.test(
  'a description that is missing, doubled or ambiguous is refused, for who is inside as for a stranger',
  async (t) => {
    const room = await gates.open('odd');
    const { fan: inside } = await gates.inside(room);
    const whole: Record<string, string> = question({ uri: room.path }).headers;
    t.equal((await inside.ask('GET', '/v1/authorize', { headers: whole })).status, 204);
    for (const fan of [inside, gates.fan(room)]) {
      for (const name of Object.keys(whole)) {
        for (const value of ['', ' ', ', ', 'a, b']) {
          const told = await fan.ask('GET', '/v1/authorize', { headers: { ...whole, [name]: value } });
          t.equal(told.status, 400, `${name}: '${value}'`);
        }
        const { [name]: _, ...rest } = whole;
        const told = await fan.ask('GET', '/v1/authorize', { headers: { ...rest, 'x-forwarded-uri': '/x' } });
        t.equal(told.status, 400, `no ${name}`);
        t.match(told.json, { code: 'bad-header', detail: name });
      }
      for (const method of ['get', 'GET /', 'G'.repeat(21)])
        t.equal((await authorize(fan, { uri: room.path, method })).json.code, 'bad-header', method);
      for (const host of ['a b', 'a/b', 'a@b', 'a:b', '[a', 'a,b', 'a%2eb', 'a'.repeat(254)])
        t.equal((await authorize(fan, { uri: room.path, host })).json.code, 'bad-header', host);
      for (const trick of pathTricks) {
        // What cannot stand in a header cannot be described. The parser below us takes bytes beyond ASCII from the end of
        // a header away, so the proxies' files refuse those themselves (test/system/front.test.ts).
        if (!/^[\x20-\x7e]+$/.test(trick)) continue;
        const told = await authorize(fan, { uri: trick });
        t.same([told.status, told.json.code], [400, 'bad-path'], trick);
      }
      for (const uri of ['http://a/admin', '*', 'admin', `/x?${'q'.repeat(9000)}`])
        t.equal((await authorize(fan, { uri })).status, 400, uri.slice(0, 20));
    }
  },
);

t.test('nobody but a trusted proxy is told anything', async (t) => {
  const room = await gates.open('peer');
  const { fan } = await gates.inside(room);
  const askedFrom = (localAddress: string): Promise<{ status: number; text: string }> =>
    new Promise((resolve, reject) => {
      const asked = request(
        `${gates.bases[0]}/v1/authorize`,
        { localAddress, headers: fan.headers(question({ uri: room.path }).headers), agent: false },
        (answer) => {
          let text = '';
          answer.setEncoding('utf8');
          answer.on('data', (part: string) => {
            text += part;
          });
          answer.on('end', () => resolve({ status: answer.statusCode ?? 0, text }));
        },
      );
      asked.on('error', reject);
      asked.end();
    });
  t.equal((await askedFrom('127.0.0.1')).status, 204);
  const stranger = await askedFrom('127.0.0.2');
  t.equal(stranger.status, 403);
  t.match(JSON.parse(stranger.text), { code: 'proxy-unknown', detail: 'ANTEROOM_TRUSTED_PROXIES' });
});

t.test('a session that is used is renewed, by one cookie; ended anywhere, it is over here', async (t) => {
  const room = await gates.open('life', { sessionSeconds: 100, absoluteSessionSeconds: 1000 });
  const { fan, cookie } = await gates.inside(room);
  fan.cookies.set('ar_s_life', await room.age(cookie, 60));
  // A session says by itself whose it is: whoever lost the other cookie is given none.
  fan.cookies.delete('ar_v');
  const before = Date.now();
  const renewed = await authorize(fan, { uri: room.path });
  t.equal(renewed.status, 204);
  t.equal(setCookies(renewed).length, 1);
  t.match(setCookies(renewed)[0], /^ar_s_life=/);
  t.ok(room.session(fan.cookies.get('ar_s_life')).expiresAtMs > before + 90_000);
  t.same(setCookies(await authorize(fan, { uri: room.path })), []);

  const there = elsewhere(fan, gates.bases[1]!);
  t.equal((await authorize(there, { uri: room.path })).status, 204);
  t.equal((await fan.ask('GET', `${room.path}/bought`)).text, 'inside', 'an answer of the origin ends it');
  t.equal((await authorize(fan, { uri: room.path })).status, 401, 'at once here');
  await eventually(
    'and at every gateway',
    async () => (await authorize(there, { uri: room.path })).status === 401,
  );
});

t.test(
  'what was told of a session is told again, and names its visitor whatever else is shown',
  async (t) => {
    const room = await gates.open('again');
    const { fan } = await gates.inside(room);
    const toldOf = async (asking: Fan) => {
      const { status, headers } = await authorize(asking, { uri: room.path });
      t.equal(status, 204);
      const context = String(headers['anteroom-context']);
      return {
        context,
        visitor: headers['anteroom-visitor'],
        read: readContext(gates.tokens, context, Date.now()),
      };
    };
    const first = await toldOf(fan);
    let { context: last } = first;
    await eventually('one signature for several', async () => {
      const { context } = await toldOf(fan);
      const isSame = context === last;
      last = context;
      return isSame;
    });
    const other = elsewhere(fan, gates.bases[0]!);
    const stranger = gates.fan(room);
    await stranger.join();
    other.cookies.set('ar_v', stranger.cookies.get('ar_v')!);
    for (const show of [() => undefined, () => other.cookies.delete('ar_v')]) {
      show();
      const told = await toldOf(other);
      t.equal(told.visitor, first.visitor);
      t.equal(told.read?.visitorId, first.visitor);
    }
  },
);

t.test('who is inside and asks far too often is refused, by its own address alone', async (t) => {
  const few = await startGateways(t, {
    count: 1,
    env: { ANTEROOM_INSIDE_PER_SECOND: '1' },
    clock: standing,
  });
  const room = await few.open('often');
  const { fan } = await few.inside(room);
  const statuses: number[] = [];
  for (let index = 0; index < 14; index += 1)
    statuses.push((await authorize(fan, { uri: room.path })).status);
  t.same(statuses, [...Array(10).fill(204), ...Array(4).fill(429)], 'ten seconds of its rate');
  await eventually('the gate itself counts in the same place', async () => {
    const carried = await fan.ask('GET', room.path);
    return carried.status === 429 && carried.headers.ratelimit?.includes('"inside"') === true;
  });
});

t.test('a room without a line lets everyone through, and says so under its own name', async (t) => {
  const room = await gates.open('free', { queueingMethod: 'passthrough' });
  const fan = gates.fan(room);
  const first = await authorize(fan, { uri: room.path });
  t.equal(first.status, 204);
  t.equal(first.headers['anteroom-room'], 'free');
  t.equal(first.headers['anteroom-session-id'], '');
  t.same(readContext(gates.tokens, String(first.headers['anteroom-context']), Date.now()), {
    visitorId: first.headers['anteroom-visitor'],
    room: 'free',
  });
  t.equal(
    (await authorize(fan, { uri: room.path })).headers['anteroom-visitor'],
    first.headers['anteroom-visitor'],
    'the same visitor afterwards',
  );
});

t.test('a rule that lets requests by lets them by here, and shows no one to the origin', async (t) => {
  const room = await gates.open('rule', { bypass: [{ name: 'robots', paths: ['/shop-rule/robots.txt'] }] });
  const fan = gates.fan(room);
  const by = await authorize(fan, { uri: '/shop-rule/robots.txt' });
  t.equal(by.status, 204, by.text);
  t.notOk('anteroom-context' in by.headers);
  t.same(setCookies(by), []);
  t.equal((await authorize(fan, { uri: room.path })).status, 401, 'and nothing beside them');
});
