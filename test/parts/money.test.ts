// No money is lost, and none is kept for nothing: what is charged is what was shown, a charge is looked for as long as
// it is open, and a sale of any size comes back into Redis. On real Redis and PostgreSQL, with the sandbox provider.

import t from 'tap';
import { migrateBooking } from '../../booking-core/booking-core.ts';
import { createEvent, createInventory } from '../../booking-core/inventory.ts';
import { signWebhook } from '../../booking-core/payment.ts';
import { rebuild } from '../../booking-core/rebuild.ts';
import { parseEventId } from '../../kernel/ids.ts';
import { silentLog } from '../../kernel/log.ts';
import { audit, bookingKeys, load } from '../../lua/booking.ts';
import { join, roomKeys } from '../../lua/room.ts';
import { countSeats, newKey, startBooking } from '../support/booking.ts';
import { eventually } from '../support/eventually.ts';
import { bigEvent, writeOrders } from '../support/many-orders.ts';
import { startPostgres } from '../support/postgres.ts';
import { startRedis } from '../support/redis.ts';

const [{ client: redis }, postgres] = await Promise.all([startRedis(t), startPostgres(t)]);
const sql = await postgres.connect();
const booking = await startBooking(t, {
  ...{ sql, redis },
  // Where webhooks go nobody listens: what becomes of a charge is found out by looking, or never.
  config: { bookingUrl: 'http://127.0.0.1:9' },
});
const wish = { section: 'standing', count: 2 };
const hold = (name: string, key = newKey()) =>
  booking.fan(name).ask('POST', '/v1/events/demo/holds', { key, body: wish });
const orderOf = async (id: unknown) => (await sql.query('SELECT * FROM orders WHERE id = $1', [id]))[0];
const refundOf = async (id: unknown) =>
  (await sql.query('SELECT * FROM refunds WHERE order_id = $1', [id]))[0];
const paymentsOf = (name: string) =>
  sql.query('SELECT p.* FROM payments p JOIN orders o ON o.id = p.order_id WHERE o.visitor = $1', [
    booking.fan(name).visitorId,
  ]);

t.test('a charge that was forgotten by everybody is found, however long ago it was', async (t) => {
  const fan = booking.fan('forgotten');
  const paid = await fan.pay(await fan.hold('balcony', ['A1']), 'late:3600');
  t.equal(paid.status, 202);
  const id = paid.body.id;
  await sql.query(
    `UPDATE orders SET created_at = now() - interval '9 days', expires_at = now() - interval '9 days' WHERE id = $1`,
    [id],
  );
  await sql.query(
    `UPDATE payments SET created_at = now() - interval '9 days', checks = 40 WHERE order_id = $1`,
    [id],
  );
  await eventually('it has expired', async () => (await orderOf(id))?.state === 'expired');
  // Now it is charged, and the message of it gets lost.
  await booking.restartProvider();
  await eventually('it is looked up', async () => {
    await sql.query('UPDATE payments SET next_check_at = now() WHERE order_id = $1', [id]);
    return (await orderOf(id))?.state === 'paid';
  });
  const [row] = await sql.query<{ seconds: number }>(
    'SELECT extract(epoch FROM next_check_at - now())::int AS seconds FROM payments WHERE order_id = $1',
    [id],
  );
  t.ok(Number(row?.seconds) <= 6 * 3600, 'and is never left alone for longer than six hours');
});

t.test('a charge of another amount goes back, whole, and the seats can still be bought', async (t) => {
  const fan = booking.fan('other-amount');
  const held = await fan.hold('balcony', ['B1', 'B2']);
  const answer = await fan.pay(held, 'other-amount');
  t.match(answer, { status: 402, body: { code: 'payment-returned' } });
  const { order } = answer.body;
  await eventually('it is refunded', async () => (await orderOf(order))?.state === 'refunded');
  t.match(await refundOf(order), {
    reason: 'amount-differs',
    state: 'done',
    amount_minor: 9001,
    currency: 'EUR',
  });
  await eventually('and paid with another card', async () => (await fan.pay(held, 'ok')).status === 201);
});

t.test('a webhook counts for what it says, and is no good news without an amount', async (t) => {
  const tell = async (body: object) => {
    const text = JSON.stringify({ type: 'charge', ...body });
    const answer = await fetch(`${booking.base}/v1/payments/sandbox/webhook`, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        'sandbox-signature': signWebhook(booking.config.sandboxSecret, text, Date.now()),
      },
      body: text,
    });
    return { status: answer.status, body: (await answer.json()) as { outcome: string } };
  };
  const paying = async (name: string) => {
    const fan = booking.fan(name);
    const answer = await fan.pay(await fan.hold('standing', 1), 'late:3600');
    t.equal(answer.status, 202, JSON.stringify(answer.body));
    return { id: answer.body.id, reference: `p-${answer.body.id}`, state: 'succeeded' };
  };
  for (const [name, said] of Object.entries({
    'no amount': {},
    'no currency': { amountMinor: 3500 },
    'an amount in words': { amountMinor: '3500', currency: 'EUR' },
    'half a cent': { amountMinor: 3500.5, currency: 'EUR' },
    'a negative amount': { amountMinor: -3500, currency: 'EUR' },
  })) {
    const { id, ...charge } = await paying(name);
    t.match(await tell({ ...charge, ...said }), { status: 200, body: { outcome: 'unchanged' } }, name);
    t.equal((await orderOf(id))?.state, 'paying', name);
  }
  for (const [name, said, taken] of [
    ['less', { amountMinor: 3499, currency: 'EUR' }, [3499, 'EUR']],
    ['nothing', { amountMinor: 0, currency: 'EUR' }, [0, 'EUR']],
    ['another currency', { amountMinor: 3500, currency: 'USD' }, [3500, 'USD']],
  ] as const) {
    const { id, ...charge } = await paying(name);
    for (const _ of 'twice!')
      t.equal((await tell({ ...charge, ...said })).status, 200, `${name}, however often it is said`);
    t.match(await orderOf(id), { state: 'refunding' }, name);
    const refund = await refundOf(id);
    t.same(
      [refund?.amount_minor, refund?.currency],
      taken,
      'what was taken, for the operator to see until it is done',
    );
  }
  const asked = booking.fan('asked');
  const forgotten = await asked.pay(await asked.hold('standing', 1), 'late:3600');
  await booking.restartProvider();
  await eventually('news without an amount make it be asked, and that is what counts', async () => {
    await tell({ reference: `p-${forgotten.body.id}`, state: 'succeeded' });
    return (await orderOf(forgotten.body.id))?.state === 'paid';
  });
  const { id, ...charge } = await paying('small letters');
  await tell({ ...charge, amountMinor: 3500, currency: 'eur' });
  t.equal((await orderOf(id))?.state, 'paid');
});

t.test('a price that changes between hold and order is refused before anything is charged', async (t) => {
  const reprice = (price: number) =>
    sql.query(`UPDATE booking_sections SET price_minor = $1 WHERE event = 'demo' AND id = 'standing'`, [
      price,
    ]);
  const changes: Record<string, () => Promise<unknown>> = {
    dearer: () => reprice(9900),
    cheaper: () => reprice(100),
    'dearer and back': async () => {
      await reprice(9900);
      await reprice(100);
    },
    'another currency': () => sql.query(`UPDATE booking_events SET currency = 'CHF' WHERE id = 'demo'`),
  };
  for (const [what, change] of Object.entries(changes)) {
    const name = `price: ${what}`;
    const fan = booking.fan(name);
    const key = newKey();
    const held = await hold(name, key);
    t.equal(held.status, 201, JSON.stringify(held.body));
    await change();
    t.match(
      await fan.pay(String(held.body.id), 'ok'),
      { status: 409, body: { code: 'price-changed' } },
      name,
    );
    t.same(await paymentsOf(name), [], 'nothing was charged');
    t.match((await hold(name, key)).body, { code: 'hold-expired' }, 'the hold is over, by its key as well');
    const again = await hold(name);
    t.equal(again.status, 201, 'and its seats are free');
    const paid = await fan.pay(String(again.body.id), 'ok');
    t.match(paid, {
      status: 201,
      body: { amountMinor: again.body.amountMinor, currency: again.body.currency },
    });
    const [row] = await paymentsOf(name);
    t.match(
      row,
      { amount_minor: again.body.amountMinor, currency: again.body.currency },
      'shown and charged are one',
    );
  }
  // Asked for again by its key, after a change, it shows no price that was not of it.
  const key = newKey();
  t.equal((await hold('asked-again', key)).status, 201);
  await reprice(7700);
  await createInventory(sql).all();
  await eventually(
    'the new price is known',
    async () => (await hold(`looks-${newKey()}`)).body.amountMinor === 2 * 7700,
  );
  t.match((await hold('asked-again', key)).body, { code: 'price-changed' });

  // What is being paid is paid at the price it was ordered for, and is told by its order.
  const payer = newKey();
  const ordered = await hold('paying', payer);
  t.equal((await booking.fan('paying').pay(String(ordered.body.id), 'late:3600')).status, 202);
  await reprice(8800);
  await eventually(
    'that price is known, too',
    async () => (await hold(`looks-${newKey()}`)).body.amountMinor === 2 * 8800,
  );
  t.match((await hold('paying', payer)).body, { code: 'order-state' }, 'nobody says that it was not charged');
  t.match((await paymentsOf('paying'))[0], { amount_minor: 2 * 7700, state: 'pending' });
});

t.test('an event is never said to be unknown once it is there', async (t) => {
  const inventory = createInventory(sql);
  const late = { ...bigEvent(1), id: parseEventId('late')! };
  const [before] = await Promise.all([inventory.find(late.id), inventory.find(parseEventId('nothing')!)]);
  t.equal(before, undefined);
  await createEvent(sql, late);
  t.match(await inventory.find(late.id), { id: 'late' }, 'however lately it was looked for in vain');
  t.match(await createInventory(sql).find(late.id), { id: 'late' }, 'nor at the first look of all');
  let looks = 0;
  const counting = createInventory({
    ...sql,
    query: (text, values) => {
      looks += 1;
      return sql.query(text, values);
    },
  });
  await Promise.all(Array.from({ length: 500 }, (_, n) => counting.find(parseEventId(`unknown-${n}`)!)));
  t.ok(looks <= 4, `500 names that nobody knows were ${looks} questions`);
});

t.test(
  'a sale of more orders than fit one call is rebuilt in parts, by one of many, and in the middle of another',
  async (t) => {
    const [{ client: apart }, own] = await Promise.all([startRedis(t), startPostgres(t)]);
    const db = await own.connect();
    await migrateBooking(db);
    const ORDERS = 5003; // A page more than one, and a part more than ten.
    const event = bigEvent(8);
    await createEvent(db, event);
    await writeOrders(db, event, ORDERS);
    const stores = { sql: db, redis: apart, log: silentLog };
    const keys = bookingKeys(event.id);
    const rightly = async (epoch: number, what: string) => {
      const seen = await audit.run(apart, keys, { nowMs: '' });
      if (seen.outcome !== 'audited') throw new Error(`${what}: ${seen.outcome}`);
      t.same(
        countSeats(Object.fromEntries(seen.maps)),
        { f: 8 * 800 - ORDERS, h: 501, s: ORDERS - 501 },
        what,
      );
      t.equal(seen.holds.size, ORDERS);
      t.equal(
        [...seen.holders.values()].filter((count) => count !== 1).length,
        0,
        'each holder has their one seat',
      );
      t.equal(Number(seen.epoch), epoch);
      const [row] = await db.query<{ epoch: number }>('SELECT epoch FROM booking_events WHERE id = $1', [
        event.id,
      ]);
      t.equal(Number(row?.epoch), epoch, 'and orders are taken for just this');
    };
    const outcomes = await Promise.all([
      rebuild(stores, event),
      rebuild(stores, event),
      rebuild(stores, event),
    ]);
    t.ok(outcomes.includes('loaded'), outcomes.join(', '));
    const [first] = await db.query<{ epoch: number }>('SELECT epoch FROM booking_events WHERE id = $1', [
      event.id,
    ]);
    await rightly(Number(first?.epoch), 'by three at once');
    t.equal(await rebuild(stores, event), 'stale', 'what is there is left alone');

    // One that died in the middle: others wait for it a while, and then begin anew.
    await apart.flushall();
    const step = (phase: string, nowMs: number | '') =>
      load.run(apart, keys, { nowMs, phase, epoch: 90, patienceMs: 10_000, leaseMs: 1, rest: ['all', 'ff'] });
    t.same(await step('begin', ''), { outcome: 'begun' });
    t.equal(await rebuild(stores, event), 'busy');
    t.same(
      await audit.run(apart, keys, { nowMs: '' }),
      { outcome: 'rebuilding' },
      'nothing is sold meanwhile',
    );
    await apart.hset(keys.seats, 'loadingAt', 1);
    await db.query('UPDATE booking_events SET epoch = 99 WHERE id = $1', [event.id]);
    t.equal(await rebuild(stores, event), 'loaded');
    await rightly(100, 'after one that died');
    t.same(await step('part', ''), { outcome: 'stale' }, 'which comes back in vain');
    t.same(await step('end', ''), { outcome: 'stale' });
  },
);

t.test('a call with more arguments than Redis should take is refused before it is sent', async (t) => {
  const keys = roomKeys(booking.fan('x').visitorId as never);
  const args = { nowMs: '', sale: 1, lineMax: 1, withheldMax: 1, joinsMax: 1 };
  const [huge, beside] = await Promise.allSettled([
    join.run(redis, keys, { ...args, visitors: Array.from({ length: 300_000 }, () => 'x') }),
    redis.ping(),
  ]);
  t.match(huge, { status: 'rejected', reason: /room\.join takes at most/ });
  t.match(beside, { status: 'fulfilled', value: 'PONG' }, 'and takes nobody else along');
});
