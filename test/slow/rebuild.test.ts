// A sale of 70,000 live orders loses Redis, and has it back while booking-core goes on. ANTEROOM_ORDERS is another
// number of them.

import t from 'tap';
import { migrateBooking } from '../../booking-core/booking-core.ts';
import { createEvent } from '../../booking-core/inventory.ts';
import { countSeats, startBooking } from '../support/booking.ts';
import { eventually } from '../support/eventually.ts';
import { bigEvent, writeOrders } from '../support/many-orders.ts';
import { startPostgres } from '../support/postgres.ts';
import { startRedis } from '../support/redis.ts';

t.setTimeout(600_000);

t.test('a rebuild of 70,000 live orders ends, and so does nothing else', async (t) => {
  const orders = Number(process.env.ANTEROOM_ORDERS ?? 70_000);
  const event = bigEvent(Math.ceil(orders / 800) + 1);
  const [{ client: redis }, postgres] = await Promise.all([startRedis(t), startPostgres(t)]);
  const sql = await postgres.connect();
  await migrateBooking(sql);
  await createEvent(sql, event);
  await writeOrders(sql, event, orders);
  const booking = await startBooking(t, { sql, redis, event, config: { reconcileMs: 2000 } });
  const seats = () => booking.fan('looks').ask('GET', `/v1/events/${event.id}/seats`);
  const paying = Math.ceil(orders / 10);
  for (const times of ['first', 'second']) {
    const fromMs = performance.now();
    await redis.flushall();
    await eventually('the seats are back', async () => (await seats()).status === 200, 300_000);
    t.comment(`${times} time after ${Math.round(performance.now() - fromMs)} ms`);
    t.match(countSeats((await seats()).body.maps), { h: paying, s: orders - paying });
  }
  const fan = booking.fan('new');
  t.equal((await fan.pay(await fan.hold('all', 2), 'ok')).status, 201, 'and the sale goes on');
});
