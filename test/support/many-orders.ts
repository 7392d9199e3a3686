// An event with many live orders, written into PostgreSQL at once: one seat each, from the first on.

import type { SaleEvent } from '../../booking-core/inventory.ts';
import { parseEventId, parseRoomId } from '../../kernel/ids.ts';
import type { Sql } from '../../kernel/sql.ts';

const PER_ROW = 800;

export const bigEvent = (rows: number): SaleEvent => ({
  id: parseEventId('big')!,
  room: parseRoomId('demo')!,
  name: 'Big',
  venue: 'Test',
  startsAt: new Date('2030-01-01T20:00:00Z'),
  currency: 'EUR',
  version: 1,
  sections: [{ id: 'all', name: 'All', kind: 'seated', rows, perRow: PER_ROW, priceMinor: 1000 }],
});

/** Every tenth is still being paid. */
export const writeOrders = async (sql: Sql, event: SaleEvent, count: number): Promise<void> => {
  await sql.query(
    `INSERT INTO orders (id, event, section, visitor, hold_id, fence_epoch, fence_number, state, amount_minor, currency,
                         room, place_id, place_number, expires_at)
     SELECT lpad(n::text, 13, '0'), $1, 'all', 'a:' || lpad(n::text, 22, '0'), $1 || '.' || lpad(n::text, 22, '0'), 0, n,
            CASE WHEN n % 10 = 0 THEN 'paying' ELSE 'paid' END, 1000, 'EUR', 'demo', lpad(n::text, 16, '0'), n,
            now() + interval '1 day'
     FROM generate_series(0, $2::int - 1) AS n`,
    [event.id, count],
  );
  await sql.query(
    `INSERT INTO order_seats (order_id, event, section, seat)
     SELECT lpad(n::text, 13, '0'), $1, 'all', n / $3::int * ($3::int + 1) + n % $3::int
     FROM generate_series(0, $2::int - 1) AS n`,
    [event.id, count, PER_ROW],
  );
};
