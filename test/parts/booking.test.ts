// What a fan may count on when booking: on real Redis and PostgreSQL, over HTTP, with the sandbox provider.

import t from 'tap';
import { demoEvent } from '../../booking-core/demo.ts';
import { driftOf } from '../../booking-core/rebuild.ts';
import { parseEventId } from '../../kernel/ids.ts';
import { audit, bookingKeys } from '../../lua/booking.ts';
import { countSeats, newKey, startBooking } from '../support/booking.ts';
import { openStream } from '../support/client.ts';
import { eventually } from '../support/eventually.ts';
import { startPostgres } from '../support/postgres.ts';
import { startRedis } from '../support/redis.ts';

const [{ client: redis }, postgres] = await Promise.all([startRedis(t), startPostgres(t)]);
const sql = await postgres.connect();
const booking = await startBooking(t, { sql, redis });
const event = parseEventId('demo')!;
const TOTAL = 10 * 20 + 6 * 18 + 150;
const seatsNow = async () => (await booking.fan('anyone').ask('GET', '/v1/events/demo/seats')).body;
const stateOf = async (name: string, order: unknown) =>
  (await booking.fan(name).ask('GET', `/v1/orders/${order}`, { session: false })).body.state;

t.test('from hold to confirmation: seats sold, paid once, seen without a session', async (t) => {
  const ann = booking.fan('ann');
  const shown = await ann.ask('GET', '/v1/events/demo');
  t.match(shown.body, { id: 'demo', currency: 'EUR', seatsPerVisitor: 6 });
  const key = newKey();
  const wish = { section: 'stalls', seats: ['C12', 'C13'] };
  const held = await ann.ask('POST', '/v1/events/demo/holds', { key, body: wish });
  t.equal(held.status, 201);
  t.match(held.body, { state: 'held', seats: ['C12', 'C13'], amountMinor: 13000, currency: 'EUR' });
  const again = await ann.ask('POST', '/v1/events/demo/holds', { key, body: wish });
  t.equal(again.body.id, held.body.id, 'the same key is the same hold');
  const other = await ann.ask('POST', '/v1/events/demo/holds', {
    key,
    body: { section: 'stalls', count: 1 },
  });
  t.match(other, { status: 422, body: { code: 'idempotency-conflict' } });
  const paid = await ann.pay(String(held.body.id), 'ok');
  t.equal(paid.status, 201);
  t.match(paid.body, {
    state: 'paid',
    seats: ['C12', 'C13'],
    amountMinor: 13000,
    tickets: [{ seat: 'C12' }, {}],
  });
  t.match((await ann.ask('GET', '/v1/orders', { session: false })).body, { orders: [{ id: paid.body.id }] });
  await eventually('its seats are sold', async () => countSeats((await seatsNow()).maps).s === 2);
  t.match(countSeats((await seatsNow()).maps), { f: TOTAL - 2, h: 0, s: 2 });
  t.match(
    (await ann.pay(String(held.body.id), 'ok')).body,
    { code: 'order-state' },
    'a hold is ordered once',
  );
  t.match((await booking.fan('bob').ask('GET', `/v1/orders/${paid.body.id}`)).body, { code: 'not-yours' });
});

t.test('B11: a declined payment can be tried again within the hold', async (t) => {
  const fan = booking.fan('declined');
  const hold = await fan.hold('balcony', ['A1']);
  const first = await fan.pay(hold, 'declined');
  t.match(first, { status: 402, body: { code: 'payment-declined' } });
  const second = await fan.pay(hold, 'ok');
  t.match(second, { status: 201, body: { state: 'paid', seats: ['A1'] } });
});

t.test('B8: a payment that timed out is looked up; charged and not charged both end right', async (t) => {
  // Apart from the others, who would wait for a minute, and look up for as long.
  const [ownRedis, ownPostgres] = await Promise.all([startRedis(t), startPostgres(t)]);
  const hasty = await startBooking(t, {
    ...{ sql: await ownPostgres.connect(), redis: ownRedis.client },
    config: { paymentTimeoutMs: 2000 },
  });
  const stateOf = async (name: string, order: unknown) =>
    (await hasty.fan(name).ask('GET', `/v1/orders/${order}`, { session: false })).body.state;
  const charged = hasty.fan('timeout-charged');
  const answer = await charged.pay(await charged.hold('balcony', ['A2']), 'timeout-charged');
  // No webhook tells of it: whichever lookup it was, the one at once or a later one, one has found it.
  await eventually(
    'found by a lookup',
    async () => (await stateOf('timeout-charged', answer.body.id)) === 'paid',
  );
  const fan = hasty.fan('timeout-not-charged');
  const hold = await fan.hold('balcony', ['A3']);
  const uncertain = await fan.pay(hold, 'timeout-not-charged');
  t.match(uncertain, { status: 202, body: { state: 'paying' } });
  await eventually(
    'given up as not charged',
    async () => (await stateOf('timeout-not-charged', uncertain.body.id)) === 'failed',
  );
  await eventually('and paid with another card', async () => (await fan.pay(hold, 'ok')).status === 201);
});

t.test(
  'B3: a success after the end takes the seats again, or the money goes back, and the provider hears 200',
  async (t) => {
    const lucky = booking.fan('lucky');
    const unlucky = booking.fan('unlucky');
    const pays = await Promise.all([
      lucky.pay(await lucky.hold('balcony', ['B1']), 'late:3600'),
      unlucky.pay(await unlucky.hold('balcony', ['B2']), 'late:3600'),
    ]);
    t.match(pays, [{ status: 202 }, { status: 202 }]);
    await sql.query(`UPDATE orders SET expires_at = now() WHERE state = 'paying'`);
    await eventually('both have expired', async () => {
      const states = await Promise.all([
        stateOf('lucky', pays[0]?.body.id),
        stateOf('unlucky', pays[1]?.body.id),
      ]);
      return states.every((state) => state === 'expired');
    });
    const thief = booking.fan('thief');
    await eventually('the seat is on sale again', async () => (await thief.hold('balcony', ['B2'])) !== '');
    await booking.restartProvider();
    await eventually('seats again', async () => (await stateOf('lucky', pays[0]?.body.id)) === 'paid');
    await eventually('money back', async () => (await stateOf('unlucky', pays[1]?.body.id)) === 'refunded');
  },
);

t.test('B10, B22: a refund that fails is kept and tried again, and frees the seats once', async (t) => {
  const fan = booking.fan('refunder');
  const paid = await fan.pay(await fan.hold('balcony', ['C1', 'C2']), 'refund-fails');
  const seats = async () => (await seatsNow()).maps as Record<string, string>; // The route's answer.
  const from = 2 * (18 + 1);
  const bought = async () => (await seats()).balcony?.slice(from, from + 2);
  await eventually('its seats are sold', async () => (await bought()) === 'ss');
  const asked = await fan.ask('POST', `/v1/orders/${paid.body.id}/refunds`, {
    key: newKey(),
    session: false,
  });
  t.equal(asked.status, 201);
  await eventually('its failure is kept and visible', async () => {
    const [row] = await sql.query('SELECT last_error FROM refunds WHERE id = $1', [asked.body.id]);
    return row?.last_error === 'status 503';
  });
  await sql.query('UPDATE refunds SET next_at = now()');
  await eventually('refunded', async () => {
    await sql.query(`UPDATE refunds SET next_at = now() WHERE state = 'pending'`);
    return (await stateOf('refunder', paid.body.id)) === 'refunded';
  });
  const [row] = await sql.query('SELECT state, attempts FROM refunds WHERE id = $1', [asked.body.id]);
  t.equal(row?.state, 'done');
  t.ok(Number(row?.attempts) >= 3, 'the provider fails twice');
  await eventually('its seats are free', async () => (await bought()) === 'ff');
});

t.test('B16, B4: only the one who holds may give back, and what ended stays ended', async (t) => {
  const mine = booking.fan('mine');
  const hold = await mine.hold('stalls', ['A1']);
  t.match((await booking.fan('other').ask('DELETE', `/v1/holds/${hold}`)).body, { code: 'not-yours' });
  t.match((await booking.fan('other').pay(hold, 'ok')).body, { code: 'not-yours' });
  t.equal((await mine.ask('DELETE', `/v1/holds/${hold}`)).status, 204);
  const next = booking.fan('next');
  await next.hold('stalls', ['A1']);
  t.equal((await mine.ask('DELETE', `/v1/holds/${hold}`)).status, 204, 'giving back twice is giving back');
  t.match((await mine.pay(hold, 'ok')).body, { code: 'hold-expired' });
  const maps = (await seatsNow()).maps as Record<string, string>; // The route's answer.
  t.equal(maps.stalls?.[0], 'h', 'the next one still has the seat');
});

t.test('B24: seats together are in one row; an area has no rows', async (t) => {
  const fan = booking.fan('together');
  // Rows of the balcony have 18 seats each; some are taken above, and six together are still there.
  const hold = await fan.ask('POST', '/v1/events/demo/holds', {
    key: newKey(),
    body: { section: 'balcony', count: 6 },
  });
  const rows = new Set((hold.body.seats as string[]).map((seat) => seat[0]));
  t.equal(rows.size, 1);
  const standing = await booking.fan('area').ask('POST', '/v1/events/demo/holds', {
    key: newKey(),
    body: { section: 'standing', count: 4 },
  });
  t.match(standing, { status: 201, body: { amountMinor: 14000 } });
});

t.test('the limit of one visitor counts what is held and bought', async (t) => {
  const fan = booking.fan('greedy');
  await fan.hold('standing', 4);
  await fan.pay(await fan.hold('standing', 2), 'ok');
  t.match(
    await fan.ask('POST', '/v1/events/demo/holds', {
      key: newKey(),
      body: { section: 'standing', count: 1 },
    }),
    { status: 409, body: { code: 'seat-limit' } },
  );
});

t.test('bad input is refused with its code and changes nothing', async (t) => {
  const fan = booking.fan('bad');
  const key = newKey();
  const holds = '/v1/events/demo/holds';
  const cases: [string, string, { body?: unknown; key?: string; session?: boolean }, number, string][] = [
    ['POST', holds, { body: { section: 'stalls', count: 1 } }, 400, 'idempotency-key-missing'],
    ['POST', holds, { key: 'short', body: {} }, 400, 'idempotency-key-missing'],
    ['POST', holds, { key, body: '{' }, 400, 'bad-json'],
    ['POST', holds, { key, body: '[]' }, 400, 'bad-json'],
    ['POST', holds, { key, body: { section: 'x'.repeat(2_000_000) } }, 413, 'body-too-large'],
    ['POST', holds, { key }, 415, 'wrong-type'],
    ['POST', holds, { key, body: { section: 'attic', count: 1 } }, 400, 'bad-field'],
    ['POST', holds, { key, body: { section: 'stalls' } }, 400, 'bad-field'],
    ['POST', holds, { key, body: { section: 'stalls', count: 1.5 } }, 400, 'bad-field'],
    ['POST', holds, { key, body: { section: 'stalls', count: 1, seats: ['A1'] } }, 400, 'bad-field'],
    ['POST', holds, { key, body: { section: 'stalls', seats: ['A21'] } }, 400, 'bad-field'],
    ['POST', holds, { key, body: { section: 'stalls', seats: ['A1', 'A1'] } }, 400, 'bad-field'],
    ['POST', holds, { key, body: { section: 'stalls', count: 1, price: 0 } }, 400, 'bad-field'],
    ['POST', holds, { key, body: { section: 'stalls', count: 7 } }, 409, 'seat-limit'],
    ['POST', holds, { key, body: { section: 'stalls', count: 1 }, session: false }, 429, 'session-required'],
    ['POST', '/v1/events/none/holds', { key, body: { section: 'stalls', count: 1 } }, 404, 'event-unknown'],
    ['GET', '/v1/events/None', {}, 400, 'bad-id'],
    [
      'POST',
      '/v1/orders',
      { key, body: { holdId: 'demo.x', payment: { method: 'card', token: 'ok' } } },
      404,
      'hold-missing',
    ],
    [
      'POST',
      '/v1/orders',
      { key, body: { holdId: 1, payment: { method: 'card', token: 'ok' } } },
      400,
      'bad-field',
    ],
    [
      'POST',
      '/v1/orders',
      { key, body: { holdId: 'demo.x', payment: { method: 'cash' } } },
      400,
      'bad-field',
    ],
    ['GET', '/v1/orders/x', {}, 400, 'bad-id'],
    ['GET', '/v1/orders/0000000000000', {}, 404, 'order-missing'],
    ['DELETE', '/v1/holds/demo.x', {}, 404, 'hold-missing'],
    ['POST', '/v1/payments/other/webhook', { body: {} }, 404, 'not-found'],
    [
      'POST',
      '/v1/payments/sandbox/webhook',
      { body: { reference: 'x', state: 'succeeded' } },
      401,
      'token-invalid',
    ],
    ['PUT', '/v1/orders', { key, body: {} }, 405, 'wrong-method'],
  ];
  const before = (await seatsNow()).version;
  for (const [method, path, options, status, code] of cases)
    t.match(await fan.ask(method, path, options), { status, body: { code } }, `${method} ${path} → ${code}`);
  const forged = await fetch(`${booking.base}/v1/orders`, {
    headers: { 'anteroom-context': 'x.y.z', 'anteroom-visitor': fan.visitorId },
  });
  t.equal(forged.status, 401, 'a readable header is believed by nobody');
  const maps = (await seatsNow()).version;
  t.equal(String(maps).split('.')[0], String(before).split('.')[0], 'nothing was rebuilt');
});

t.test('everyone sees a change, as a change', async (t) => {
  const stream = await openStream(`${booking.base}/v1/events/demo/seats/events`);
  t.teardown(() => stream.close());
  const first = await stream.next();
  t.equal(first?.event, 'seats');
  const fan = booking.fan('seen');
  const hold = await fan.hold('stalls', ['J20']);
  // Seats of an earlier test may still be on their way back: each change says what it follows, until this one comes.
  const wanted = ['stalls', 9 * 21 + 19, 'h'];
  let version = JSON.parse(first?.data ?? '{}').version;
  for (let seen = false; !seen; ) {
    const change = await stream.next();
    t.equal(change?.event, 'changes');
    const data = JSON.parse(change?.data ?? '{}');
    t.equal(data.from, version, 'and says what it follows');
    version = data.version;
    seen = data.changes.some((one: unknown) => JSON.stringify(one) === JSON.stringify(wanted));
  }
  await fan.ask('DELETE', `/v1/holds/${hold}`);
});

t.test('B21: injected drift is repaired, and live holds are left alone', async (t) => {
  const fan = booking.fan('drifting');
  const hold = await fan.hold('stalls', ['H1', 'H2']);
  const keys = bookingKeys(event);
  const map = (await redis.hget(keys.seats, 'm:stalls')) ?? '';
  // A sold seat shown as free, a free one as sold, and a holder's count off by three.
  const sold = map.indexOf('s');
  const free = map.lastIndexOf('f');
  const broken = [...map];
  broken[sold] = 'f';
  broken[free] = 's';
  await redis.hset(keys.seats, 'm:stalls', broken.join(''));
  await redis.hincrby(keys.holders, fan.visitorId, 3);
  await eventually('repaired', async () => (await redis.hget(keys.seats, 'm:stalls')) === map);
  await eventually('counted', async () => (await redis.hget(keys.holders, fan.visitorId)) === '2');
  t.match(await fan.pay(hold, 'ok'), { status: 201 });
});

t.test('Redis loses everything: seats come back from PostgreSQL, and old holds are fenced off', async (t) => {
  const fan = booking.fan('survivor');
  const paid = await fan.pay(await fan.hold('stalls', ['I1']), 'ok');
  const lost = await fan.hold('stalls', ['I2']);
  const [row] = await sql.query<{ n: number }>('SELECT count(*) AS n FROM order_seats WHERE live');
  const sold = Number(row?.n);
  await redis.flushall();
  const meanwhile = await fan.ask('GET', '/v1/events/demo/seats');
  if (meanwhile.status !== 200) t.match(meanwhile, { status: 503, body: { code: 'rebuilding' } });
  await eventually(
    'seats are back',
    async () => (await fan.ask('GET', '/v1/events/demo/seats')).status === 200,
  );
  t.match(countSeats((await seatsNow()).maps), { s: sold, h: 0 });
  t.match((await fan.pay(lost, 'ok')).body, { code: 'hold-missing' });
  t.match(
    (
      await fan.ask('POST', '/v1/events/demo/holds', {
        key: newKey(),
        body: { section: 'stalls', seats: ['I1'] },
      })
    ).body,
    {
      code: 'seats-taken',
    },
  );
  t.equal(await stateOf('survivor', paid.body.id), 'paid');
});

t.test('in the end the counts agree: maps, holders and orders tell the same', async (t) => {
  await booking.restart();
  const seen = await audit.run(redis, bookingKeys(event), { nowMs: '' });
  t.equal(seen.outcome, 'audited');
  if (seen.outcome !== 'audited') return;
  const [row] = await sql.query<{ n: number }>('SELECT count(*) AS n FROM order_seats WHERE live');
  t.equal(countSeats(Object.fromEntries(seen.maps)).s, row?.n, 'sold seats are paid orders');
  const orders = await sql.query<Parameters<typeof driftOf>[2][number]>(
    `SELECT o.*, ARRAY(SELECT seat FROM order_seats s WHERE s.order_id = o.id ORDER BY seat) AS seats
     FROM orders o WHERE state IN ('paying', 'paid')`,
  );
  t.same(driftOf(demoEvent, seen, orders), []);
});
