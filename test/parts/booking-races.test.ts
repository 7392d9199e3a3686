// What must hold when many act at the same instant. Seats are counted from PostgreSQL and from Redis, never from
// counters.

import t from 'tap';
import type { SaleEvent } from '../../booking-core/inventory.ts';
import { parseEventId, parseRoomId } from '../../kernel/ids.ts';
import { isDuplicate } from '../../kernel/sql.ts';
import { audit, bookingKeys } from '../../lua/booking.ts';
import { type Answer, countSeats, newKey, startBooking } from '../support/booking.ts';
import { eventually } from '../support/eventually.ts';
import { startPostgres } from '../support/postgres.ts';
import { startRedis } from '../support/redis.ts';

const [{ client: redis }, postgres] = await Promise.all([startRedis(t), startPostgres(t)]);
const sql = await postgres.connect();
const event: SaleEvent = {
  id: parseEventId('races')!,
  room: parseRoomId('demo')!,
  name: 'Races',
  venue: 'Test',
  startsAt: new Date('2030-01-01T20:00:00Z'),
  currency: 'EUR',
  version: 1,
  sections: [
    { id: 'small', name: 'Small', kind: 'seated', rows: 2, perRow: 5, priceMinor: 1000 },
    { id: 'blocks', name: 'Blocks', kind: 'seated', rows: 1, perRow: 12, priceMinor: 1000 },
    { id: 'hall', name: 'Hall', kind: 'area', rows: 1, perRow: 400, priceMinor: 1000 },
  ],
};
const booking = await startBooking(t, {
  sql,
  redis,
  event,
  config: { paymentTimeoutMs: 4000, databasePoolMax: 16 },
});
const holds = `/v1/events/${event.id}/holds`;
const many = <T>(count: number, work: (n: number) => Promise<T>): Promise<T[]> =>
  Promise.all(Array.from({ length: count }, (_, n) => work(n)));
const wish = (fan: string, body: unknown, key = newKey()): Promise<Answer> =>
  booking.fan(fan).ask('POST', holds, { key, body });
const number = async (text: string, values: unknown[] = []): Promise<number> =>
  Number((await sql.query<{ n: number }>(text, values))[0]?.n);
const maps = async () => (await booking.fan('x').ask('GET', `/v1/events/${event.id}/seats`)).body.maps;

// Commits take a while, so that what is not yet committed is met by others.
await sql.query(`
  CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.005); RETURN NULL; END';
  CREATE CONSTRAINT TRIGGER linger AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION linger();`);

t.test('B1: racing buyers never buy one seat twice', async (t) => {
  const answers = await many(60, async (n) => {
    for (let tries = 0; tries < 3; tries++) {
      const held = await wish(`buyer-${n}`, { section: 'small', count: 1 + (n % 2) });
      if (held.status === 201) return booking.fan(`buyer-${n}`).pay(String(held.body.id), 'ok');
    }
    return undefined;
  });
  await eventually(
    'nobody is still paying',
    async () => (await number(`SELECT count(*) AS n FROM orders WHERE state = 'paying'`)) === 0,
  );
  // Whoever was answered before that has paid now.
  const paid = answers.filter((answer) => ['paid', 'paying'].includes(String(answer?.body.state)));
  const sold = paid.flatMap((answer) => answer?.body.seats as string[]); // A paid order's view.
  t.ok(sold.length > 0 && sold.length <= 10);
  t.equal(new Set(sold).size, sold.length, 'no seat twice');
  t.equal(
    await number(`SELECT count(*) AS n FROM order_seats WHERE live AND section = 'small'`),
    sold.length,
  );
  t.equal(
    await number(`SELECT count(*) AS n FROM payments p JOIN orders o ON o.id = p.order_id
      WHERE p.state = 'succeeded' AND o.state <> 'paid'`),
    0,
    'nobody paid for nothing',
  );
});

t.test('B20: PostgreSQL refuses a seat that Redis shows as free, and nobody is charged', async (t) => {
  const owner = booking.fan('owner');
  const first = await owner.pay(await owner.hold('blocks', ['A12']), 'ok');
  t.equal(first.status, 201);
  const keys = bookingKeys(event.id);
  const thief = booking.fan('thief');
  // The reconciler repairs the map within a tenth of a second, so the thief has to try until they are quicker.
  await eventually('the constraint has said no', async () => {
    const map = (await redis.hget(keys.seats, 'm:blocks')) ?? '';
    await redis.hset(keys.seats, 'm:blocks', `${map.slice(0, 11)}f`);
    const held = await wish('thief', { section: 'blocks', seats: ['A12'] });
    if (held.status !== 201) return false;
    const answer = await thief.pay(String(held.body.id), 'ok');
    t.notMatch(answer.body, { state: 'paid' });
    return answer.status === 409 && answer.body.code === 'seats-taken';
  });
  t.equal(
    await number(`SELECT count(*) AS n FROM orders WHERE visitor = $1`, [booking.fan('thief').visitorId]),
    0,
  );
  const error = await sql
    .query(
      `INSERT INTO order_seats (order_id, event, section, seat)
       SELECT id, event, 'blocks', 11 FROM orders WHERE section = 'small' LIMIT 1`,
    )
    .catch((caught: unknown) => caught);
  t.ok(isDuplicate(error), 'the constraint exists');
});

t.test('B9: one key a hundred times in parallel has one effect and one answer', async (t) => {
  const key = newKey();
  const held = await many(100, () => wish('echo', { section: 'hall', count: 2 }, key));
  t.equal(new Set(held.map(({ status, body }) => `${status} ${body.id}`)).size, 1);
  t.equal(held[0]?.status, 201);
  const pay = newKey();
  // Who has waited for five seconds is told to ask again.
  const payOnce = async (): Promise<Answer> => {
    const answer = await booking.fan('echo').pay(String(held[0]?.body.id), 'ok', pay);
    return answer.body.code === 'idempotency-busy' ? payOnce() : answer;
  };
  const paid = await many(100, payOnce);
  t.same([...new Set(paid.map(({ status, body }) => `${status} ${body.state}`))], ['201 paid']);
  t.equal(new Set(paid.map(({ body }) => JSON.stringify(body))).size, 1, 'byte for byte');
  t.equal(
    await number('SELECT count(*) AS n FROM orders WHERE visitor = $1', [booking.fan('echo').visitorId]),
    1,
  );
  const other = await booking.fan('echo').pay(String(held[0]?.body.id), 'declined', pay);
  t.match(other, { status: 422, body: { code: 'idempotency-conflict' } });
});

t.test('B10: fifty refunds at once send the money back once', async (t) => {
  const [order] = await sql.query<{ id: string }>('SELECT id FROM orders WHERE visitor = $1', [
    booking.fan('echo').visitorId,
  ]);
  const asked = await many(50, () =>
    booking.fan('echo').ask('POST', `/v1/orders/${order?.id}/refunds`, { key: newKey(), session: false }),
  );
  t.same([...new Set(asked.map(({ status, body }) => `${status} ${body.id}`))], [`201 r-p-${order?.id}`]);
  t.equal(await number('SELECT count(*) AS n FROM refunds WHERE order_id = $1', [order?.id]), 1);
  await eventually('refunded', async () => {
    const seen = await booking.fan('echo').ask('GET', `/v1/orders/${order?.id}`);
    return seen.body.state === 'refunded';
  });
});

t.test('B12: overlapping sets of four are taken whole or not at all, and someone always wins', async (t) => {
  const label = (n: number) => `A${(n % 11) + 1}`;
  const answers = await many(44, (n) =>
    wish(`block-${n}`, { section: 'blocks', seats: [n, n + 1, n + 2, n + 3].map(label) }),
  );
  const won = answers.filter(({ status }) => status === 201).flatMap(({ body }) => body.seats as string[]);
  t.ok(won.length >= 4 && won.length % 4 === 0, `${won.length} seats in whole sets`);
  t.equal(new Set(won).size, won.length, 'no seat in two sets');
  const now = (await maps()) as Record<string, string>; // The route's answer.
  t.equal(countSeats({ blocks: now.blocks }).h, won.length, 'no seat half taken');
});

t.test('B17: fifty holds of one visitor at once stay within the limit', async (t) => {
  const answers = await many(50, (n) => wish('hoarder', { section: 'hall', count: 1 + (n % 3) }));
  const seats = answers.filter(({ status }) => status === 201).flatMap(({ body }) => body.seats as string[]);
  t.equal(seats.length <= booking.config.seatsPerVisitor, true, `${seats.length} seats`);
  t.ok(answers.some(({ body }) => body.code === 'seat-limit'));
});

t.test(
  'B2: a payment at the very end of its order is a seat and a charge, or neither, or a refund',
  async (t) => {
    const trials = 60;
    const placed = await many(trials, async (n) => {
      const fan = booking.fan(`edge-${n}`);
      const hold = await fan.hold('hall', 2);
      // The success arrives from 30 ms before to 30 ms after the order ends, and the machine adds its own spread.
      const answer = await fan.pay(hold, `late:${(0.97 + 0.001 * n).toFixed(3)}`);
      await sql.query(`UPDATE orders SET expires_at = created_at + interval '1 second' WHERE id = $1`, [
        answer.body.id,
      ]);
      return { fan, answer };
    });
    const ends: string[] = [];
    for (const { fan, answer } of placed)
      await eventually('the trial has ended', async () => {
        const { state } = (await fan.ask('GET', `/v1/orders/${answer.body.id}`)).body;
        if (state !== 'paid' && state !== 'refunded') return false;
        ends.push(state);
        return true;
      });
    t.comment(`${ends.filter((state) => state === 'paid').length} paid, of ${trials}`);
    const wrong = await number(`
    SELECT count(*) AS n FROM orders o JOIN payments p ON p.order_id = o.id LEFT JOIN refunds r ON r.order_id = o.id
    WHERE p.state = 'succeeded' AND NOT (
      (o.state = 'paid' AND r.id IS NULL AND
        (SELECT count(*) FROM order_seats s WHERE s.order_id = o.id AND s.live) * 1000 = o.amount_minor)
      OR (o.state = 'refunded' AND r.state = 'done' AND
        NOT EXISTS (SELECT 1 FROM order_seats s WHERE s.order_id = o.id AND s.live)))`);
    t.equal(wrong, 0);
  },
);

t.test('B14, B15: what ran out while nobody worked comes back once, and the counts agree', async (t) => {
  await wish('sleeper', { section: 'hall', count: 3 });
  // Time passes for every hold at once: as after a night with all workers stopped.
  const keys = bookingKeys(event.id);
  for (const holdId of await redis.zrangebyscore(keys.expiries, '-inf', '+inf'))
    await redis.zadd(keys.expiries, '0', holdId);
  await booking.restart();
  const sold = () => number('SELECT count(*) AS n FROM order_seats WHERE live');
  await eventually('only what is sold is taken', async () => {
    const seats = countSeats(await maps());
    return seats.h === 0 && seats.s === (await sold());
  });
  const seen = await audit.run(redis, keys, { nowMs: '' });
  const counted = seen.outcome === 'audited' ? [...seen.holders.values()].reduce((a, b) => a + b, 0) : -1;
  t.equal(counted, await sold(), 'each visitor is counted for what is theirs');
});
