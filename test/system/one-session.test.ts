// One session is one visitor: whatever else a request shows, it holds, buys and is told of as who claimed it, for the
// sale of its own room, and what it holds ends with it. Gateway and booking-core as they run together.

import t from 'tap';
import { parseEventId } from '../../kernel/ids.ts';
import { bookingKeys } from '../../lua/booking.ts';
import { eventually } from '../support/eventually.ts';
import { Fan } from '../support/fan.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';
import { tune } from '../support/sale.ts';
import { createSystem, type System, UNHURRIED } from '../support/system.ts';

t.setTimeout(900_000);

const LIMIT = 6;
const WIDE = { ...UNHURRIED, newUsersPerMinute: 60_000, burst: 1000, totalActiveUsers: 1000 };
let redis: TestRedis;
let system: System;
let fans = 0;
let keys = 0;

t.before(async () => {
  redis = await startRedis(t);
  system = await createSystem(t, { ANTEROOM_REDIS_URL: redis.url, ANTEROOM_LOG_LEVEL: 'warn' });
  await system.start();
  await tune(system, WIDE);
  // Another room in front of the same shop: its people wait in another line.
  const made = await fetch(`${system.admin}/v1/rooms`, {
    method: 'POST',
    headers: { authorization: `Bearer ${system.operatorToken}`, 'content-type': 'application/json' },
    body: JSON.stringify({
      ...{ room: 'easy', title: 'Easy', routes: ['/easy'], origin: 'booking-core', stripPrefix: true },
      ...WIDE,
    }),
  });
  if (made.status !== 201) throw new Error(`the room was answered ${made.status}: ${await made.text()}`);
  await eventually(
    'the room is known',
    async () => (await fetch(`${system.base}/v1/rooms/easy`)).status === 200,
  );
});

const stranger = (room = 'demo'): Fan => {
  fans += 1;
  return new Fan({ base: system.base, index: fans, room });
};
const enter = async (fan: Fan): Promise<Fan> => {
  await fan.join();
  const turn = await fan.wait('sse');
  const claimed = await fan.claim('claim' in turn ? turn.claim : '');
  if (claimed.status !== 200) throw new Error(`the claim answered ${claimed.status}: ${claimed.text}`);
  return fan;
};
/** The same browser, or a copy of it, with only some of its cookies. */
const showing = (fan: Fan, keep: RegExp): Fan => {
  const copy = stranger(fan.room);
  for (const [name, value] of fan.cookies) if (keep.test(name)) copy.cookies.set(name, value);
  return copy;
};
const keyed = (body: unknown) => {
  keys += 1;
  return { headers: { 'idempotency-key': `one-session-${keys}` }, body };
};
const hold = (fan: Fan, wish: object, at = '/v1/events/demo/holds') => fan.ask('POST', at, keyed(wish));
const pay = (fan: Fan, holdId: unknown) =>
  fan.ask('POST', '/v1/orders', keyed({ holdId, payment: { method: 'card', token: 'ok' } }));
const some = { section: 'standing', count: 1 };
const heldBy = async (): Promise<number[]> =>
  (await redis.client.hvals(bookingKeys(parseEventId('demo')!).holders)).map(Number);

t.test('however many requests with whatever cookies, one session has one limit', async (t) => {
  const owner = await enter(stranger());
  const other = stranger();
  await other.join();
  const visitors = [undefined, 'x', 'x.y.z', other.cookies.get('ar_v'), `${other.cookies.get('ar_v')}x`];
  const answers = await Promise.all(
    Array.from({ length: 30 }, (_, index) => {
      const copy = showing(owner, /^ar_s_/);
      const visitor = visitors[index % visitors.length];
      if (visitor !== undefined) copy.cookies.set('ar_v', visitor);
      return hold(copy, { section: 'standing', count: 2 }).then((answer) => ({ answer, copy, visitor }));
    }),
  );
  const held = answers.filter(({ answer }) => answer.status === 201);
  t.equal(held.length * 2, LIMIT);
  for (const { answer } of answers)
    if (answer.status !== 201) t.same([answer.status, answer.json.code], [409, 'seat-limit'], answer.text);
  for (const { copy, visitor } of answers)
    t.equal(copy.cookies.get('ar_v'), visitor, 'nobody is made up behind the gate');
  t.same(await heldBy(), [LIMIT], 'all of it by one visitor');

  // Orders are those of the session, too: by whom it is paid makes no difference.
  const paid = await Promise.all(held.map(({ answer, copy }) => pay(copy, answer.json.id)));
  for (const { status, text } of paid) t.ok([201, 202, 429].includes(status), text);
  const orders = await owner.ask('GET', '/v1/orders');
  t.ok(
    (orders.json.orders as unknown[]).length > 0,
    'and after the session they are those of the one who claimed',
  );
  t.same((await other.ask('GET', '/v1/orders')).json.orders, [], 'not of whose cookie was shown along');
});

t.test('a session that was moved or taken over stays that of who claimed first', async (t) => {
  const owner = await enter(stranger());
  const visitor = owner.cookies.get('ar_v');
  t.equal((await hold(owner, { section: 'stalls', count: 4 })).status, 201);
  // To a host that has never seen it.
  const { json } = await owner.claim();
  const elsewhere = stranger();
  const moved = await elsewhere.ask('POST', '/v1/rooms/demo/sessions', { body: { pass: json.pass } });
  t.equal(moved.status, 201, moved.text);
  const told = (cookie: string | undefined) =>
    JSON.parse(Buffer.from(cookie?.split('.')[1] ?? '', 'base64url').toString('utf8'))[0];
  t.equal(told(elsewhere.cookies.get('ar_v')), told(visitor), 'whoever was nobody there is now its visitor');
  t.same((await hold(elsewhere, { section: 'stalls', count: 4 })).json.code, 'seat-limit');
  t.equal((await hold(elsewhere, { section: 'stalls', count: 2 })).status, 201);
  // By the receipt, in a browser that is somebody else.
  const taker = stranger();
  await taker.join();
  const was = taker.cookies.get('ar_v');
  taker.cookies.set('ar_r_demo', owner.cookies.get('ar_r_demo')!);
  const taken = await taker.claim();
  t.equal(taken.status, 200, taken.text);
  t.equal(taker.cookies.get('ar_v'), was, 'and keeps who they are elsewhere');
  t.same((await hold(taker, some)).json.code, 'seat-limit', 'the limit does not begin anew');
  t.equal((await hold(elsewhere, some)).status, 429, 'the one before is superseded');
});

t.test('a session of another room buys nothing of this sale, by no path', async (t) => {
  const easy = await enter(stranger('easy'));
  for (const at of ['/easy/v1/events/demo/holds', '/v1/events/demo/holds']) {
    const answer = await hold(easy, some, at);
    t.ok([403, 429].includes(answer.status), `${at}: ${answer.text}`);
  }
  const refused = await hold(easy, some, '/easy/v1/events/demo/holds');
  t.match(refused.json, { code: 'session-other-room', room: 'demo', join: '/v1/rooms/demo/places' });
  const form = await easy.ask('POST', '/easy/demo/book', {
    raw: new URLSearchParams({ step: 'hold', key: 'other-room-1', ...some, count: '1' }).toString(),
    headers: { 'content-type': 'application/x-www-form-urlencoded' },
  });
  t.equal(form.status, 403, form.text);
  // A hold of somebody who is inside, paid with the other session, by whoever shows both visitors.
  const inside = await enter(stranger());
  const held = await hold(inside, some);
  t.equal(held.status, 201, held.text);
  easy.cookies.set('ar_v', inside.cookies.get('ar_v')!);
  t.match((await pay(easy, held.json.id)).json, { code: 'session-other-room' });
  // Who has both sessions pays with the right one, whichever comes first.
  for (const [name, value] of easy.cookies) if (name.startsWith('ar_s_')) inside.cookies.set(name, value);
  const paid = await pay(inside, held.json.id);
  t.ok([201, 202].includes(paid.status), paid.text);
});

t.test('what a session holds ends with it, and nobody else’s does', async (t) => {
  const leaving = await enter(stranger());
  const staying = await enter(stranger());
  const gone = await hold(leaving, { section: 'balcony', seats: ['A1', 'A2'] });
  const kept = await hold(staying, { section: 'balcony', seats: ['A3'] });
  t.same([gone.status, kept.status], [201, 201]);
  t.equal((await leaving.ask('DELETE', '/v1/rooms/demo/places/me')).status, 204);
  const seats = async () => {
    const { json } = await staying.ask('GET', '/v1/events/demo/seats');
    return (json.maps as Record<string, string>).balcony?.slice(0, 3); // The route's answer.
  };
  await eventually('its seats are free', async () => (await seats()) === 'ffh');
  const paid = await pay(staying, kept.json.id);
  t.ok([201, 202].includes(paid.status), paid.text);
});

t.test('who takes and gives back again and again has to wait, and nobody else', async (t) => {
  const restless = await enter(stranger());
  const codes: unknown[] = [];
  let last = await hold(restless, some);
  for (let times = 0; last.status === 201 && times < 100; times += 1) {
    const given = await restless.ask('DELETE', `/v1/holds/${last.json.id}`);
    codes.push(given.status);
    last = await hold(restless, some);
  }
  t.same([last.status, last.json.code], [429, 'hold-cooling'], last.text);
  t.ok(Number(last.headers['retry-after']) > 0, 'and is told for how long');
  t.same([...new Set(codes)], [204]);
  t.equal((await hold(await enter(stranger()), some)).status, 201);
});
