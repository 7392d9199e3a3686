// From a hold to a paid order. The order of things is the promise: the hold is marked, then one transaction writes
// the idempotency key, the order, its seats (unique while live) and the payment, and only then is the provider asked
// for money. Whoever loses the seats there was never charged, and whatever happens after is found again from rows.

import { createHash } from 'node:crypto';
import type { Config } from '../kernel/config.ts';
import { type ErrorCode, problemOf, Refusal, statusOf } from '../kernel/errors.ts';
import type { EventId, VisitorId } from '../kernel/ids.ts';
import type { Log } from '../kernel/log.ts';
import { orUnavailable, type Redis } from '../kernel/redis.ts';
import type { Sql } from '../kernel/sql.ts';
import type { Visit } from '../line/context.ts';
import { bookingKeys, type Hold, order as orderHold } from '../lua/booking.ts';
import { renew, roomKeys } from '../lua/room.ts';
import { eventOfHold, releaseHold } from './holds.ts';
import { type Inventory, labelOf, sectionOf } from './inventory.ts';
import type { Outbox } from './outbox.ts';
import type { PaymentProvider } from './payment.ts';
import {
  AMOUNT_DIFFERS,
  LEASE_MS,
  newOrderId,
  type OrderRow,
  type OrderState,
  type Settlement,
} from './settle.ts';

/** A duplicate waits this long for the answer of the first request with its key (promise B9). */
const DUPLICATE_WAIT_MS = 5000;
const DUPLICATE_LOOK_MS = 40;

/** An answer as it was given, and as it is given again for the same key. */
export type Answered = { status: number; body: unknown };

export type OrderView = {
  id: string;
  event: string;
  eventName: string;
  section: string;
  sectionName: string;
  state: OrderState;
  seats: string[];
  tickets: { code: string; seat: string }[];
  amountMinor: number;
  currency: string;
  createdAt: string;
  expiresAt: string;
};

type FullRow = OrderRow & { created_at: Date; expires_at: Date; seats: number[] };
type KeyRow = { request: string; order_id: string; status: number | null; body: unknown };

const fingerprint = (...parts: unknown[]): string =>
  createHash('sha256').update(JSON.stringify(parts)).digest('base64url').slice(0, 22);

class Lost extends Error {
  readonly code: 'seats-taken' | 'order-state' | 'hold-expired' | 'price-changed' | 'duplicate';
  constructor(code: Lost['code']) {
    super(code);
    this.code = code;
  }
}

export const createOrders = (options: {
  config: Pick<Config, 'paySeconds' | 'paymentTimeoutMs'>;
  sql: Sql;
  redis: Redis;
  log: Log;
  inventory: Inventory;
  provider: PaymentProvider;
  settlement: Settlement;
  outbox: Outbox;
}) => {
  const { config, sql, redis, log, inventory, provider, settlement, outbox } = options;

  const view = async (row: FullRow): Promise<OrderView> => {
    const event = await inventory.find(row.event);
    const section = event && sectionOf(event, row.section);
    const seats = section ? row.seats.map((offset) => labelOf(section, offset)) : [];
    return {
      id: row.id,
      event: row.event,
      eventName: event?.name ?? row.event,
      section: row.section,
      sectionName: section?.name ?? row.section,
      state: row.state,
      seats,
      tickets: row.state === 'paid' ? seats.map((seat, n) => ({ code: `${row.id}-${n + 1}`, seat })) : [],
      amountMinor: row.amount_minor,
      currency: row.currency,
      createdAt: new Date(row.created_at).toISOString(),
      expiresAt: new Date(row.expires_at).toISOString(),
    };
  };
  const FULL = `SELECT o.*, ARRAY(SELECT s.seat FROM order_seats s WHERE s.order_id = o.id ORDER BY s.seat) AS seats FROM orders o`;

  /** Refuses what is not there and what belongs to someone else with different codes; ids cannot be guessed. */
  const rowOf = async (orderId: string, visitors: readonly VisitorId[]): Promise<FullRow> => {
    const [row] = await sql.query<FullRow>(`${FULL} WHERE o.id = $1`, [orderId]);
    if (row === undefined) throw new Refusal('order-missing');
    if (!visitors.includes(row.visitor)) throw new Refusal('not-yours');
    return row;
  };
  const find = async (orderId: string, visitors: readonly VisitorId[]): Promise<OrderView> =>
    view(await rowOf(orderId, visitors));
  const list = async (visitors: readonly VisitorId[]): Promise<OrderView[]> => {
    const rows = await sql.query<FullRow>(
      `${FULL} WHERE o.visitor = ANY($1::text[]) ORDER BY o.created_at DESC, o.id LIMIT 50`,
      [visitors],
    );
    return Promise.all(rows.map(view));
  };

  const answerOf = async (order: OrderView): Promise<Answered> => {
    if (order.state === 'failed') return refused('payment-declined', { order: order.id });
    if (order.state === 'refunding' || order.state === 'refunded') {
      const [refund] = await sql.query('SELECT id FROM refunds WHERE order_id = $1 AND reason = $2', [
        order.id,
        AMOUNT_DIFFERS,
      ]);
      if (refund !== undefined) return refused('payment-returned', { order: order.id });
    }
    return { status: order.state === 'paying' ? 202 : 201, body: order };
  };
  const refused = (code: ErrorCode, extra: Record<string, unknown>): Answered => ({
    status: statusOf(code),
    body: problemOf(code, { extra }),
  });

  const keyOf = async (visitorId: VisitorId, key: string): Promise<KeyRow | undefined> =>
    (
      await sql.query<KeyRow>(
        'SELECT request, order_id, status, body FROM idempotency WHERE visitor = $1 AND key = $2',
        [visitorId, key],
      )
    )[0];
  const remember = (visitorId: VisitorId, key: string, answer: Answered) =>
    sql.query(
      'UPDATE idempotency SET status = $3, body = $4::jsonb WHERE visitor = $1 AND key = $2 AND status IS NULL',
      [visitorId, key, answer.status, JSON.stringify(answer.body)],
    );

  /** The answer of the first request with this key; undefined when nobody has used it. Waits while it is made. */
  const replay = async (
    visitorId: VisitorId,
    key: string,
    request: string,
  ): Promise<Answered | undefined> => {
    const until = performance.now() + DUPLICATE_WAIT_MS;
    for (;;) {
      const row = await keyOf(visitorId, key);
      if (row === undefined) return undefined;
      if (row.request !== request) throw new Refusal('idempotency-conflict');
      if (row.status !== null) return { status: row.status, body: row.body };
      // The first may have crashed: its order then ends through the reconciler, and that is the answer.
      const order = await find(row.order_id, [visitorId]);
      if (order.state !== 'paying') return answerOf(order);
      if (performance.now() > until) throw new Refusal('idempotency-busy');
      await new Promise((resolve) => setTimeout(resolve, DUPLICATE_LOOK_MS));
    }
  };

  type Wanted = {
    visitorId: VisitorId;
    visit: Visit;
    key: string;
    holdId: string;
    token: string;
  };

  /** The one transaction before money is asked for. Throws Lost with the reason, which rolls everything back. */
  const write = (
    wanted: Wanted,
    request: string,
    held: Pick<Hold, 'section' | 'epoch' | 'number' | 'offsets' | 'saleVersion'> & { event: EventId },
  ) => {
    const { visitorId, visit, key, holdId } = wanted;
    const orderId = newOrderId();
    return sql.transaction(async (tx) => {
      const fresh = await tx.query(
        'INSERT INTO idempotency (visitor, key, request, order_id) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING RETURNING key',
        [visitorId, key, request, orderId],
      );
      if (fresh.length === 0) throw new Lost('duplicate');
      // FOR SHARE meets the epoch's UPDATE in a rebuild: an order is either seen by it, or refused after it.
      const [event] = await tx.query<{ epoch: number; version: number }>(
        'SELECT epoch, version FROM booking_events WHERE id = $1 FOR SHARE',
        [held.event],
      );
      if (event === undefined || event.epoch !== held.epoch) throw new Lost('hold-expired');
      // Nobody changes a price of this version before the order is written.
      if (event.version !== held.saleVersion) throw new Lost('price-changed');
      const [order] = await tx.query<{ amount_minor: number; currency: string }>(
        `INSERT INTO orders (id, event, section, visitor, hold_id, fence_epoch, fence_number, state, amount_minor,
                             currency, room, place_id, place_number, sale_version, expires_at)
         SELECT $1, e.id, s.id, $4, $5, $6, $7, 'paying', s.price_minor * $8::bigint, e.currency, $9, $10, $11,
                e.version, clock_timestamp() + make_interval(secs => $12)
         FROM booking_events e JOIN booking_sections s ON s.event = e.id WHERE e.id = $2 AND s.id = $3
         ON CONFLICT DO NOTHING RETURNING amount_minor, currency`,
        [
          orderId,
          held.event,
          held.section,
          visitorId,
          holdId,
          held.epoch,
          held.number,
          held.offsets.length,
          visit.room,
          visit.placeId,
          visit.number,
          config.paySeconds,
        ],
      );
      if (order === undefined) throw new Lost('order-state');
      // Sorted, so that two orders that overlap meet at the same seat first and cannot deadlock.
      const claimed = await tx.query(
        `INSERT INTO order_seats (order_id, event, section, seat)
         SELECT $1, $2, $3, seat FROM unnest($4::int[]) AS seat ORDER BY seat ON CONFLICT DO NOTHING RETURNING seat`,
        [orderId, held.event, held.section, [...held.offsets]],
      );
      if (claimed.length !== held.offsets.length) throw new Lost('seats-taken');
      const reference = `p-${orderId}`;
      await tx.query(
        `INSERT INTO payments (id, order_id, provider, amount_minor, currency, next_check_at)
         VALUES ($1, $2, $3, $4, $5, clock_timestamp() + make_interval(secs => $6))`,
        [
          reference,
          orderId,
          provider.name,
          order.amount_minor,
          order.currency,
          (config.paymentTimeoutMs + 1000) / 1000,
        ],
      );
      return { orderId, reference, amountMinor: order.amount_minor, currency: order.currency };
    });
  };

  const renewSession = ({ room, placeId, number }: Visit): void => {
    renew.run(redis, roomKeys(room), { nowMs: '', placeId, number }).catch((error: unknown) => {
      log.warn('session-not-renewed', { room, error });
    });
  };

  /** Follows a committed change at once; what fails here is done by the reconciler. */
  const follow = async (orderId: string): Promise<void> => {
    try {
      await outbox.run(orderId);
      await settlement.sendRefunds(orderId);
    } catch (error) {
      log.warn('booking-follow-up-later', { order: orderId, error });
    }
  };

  const place = async (wanted: Wanted): Promise<Answered> => {
    const { visitorId, key, holdId, token } = wanted;
    const request = fingerprint('order', holdId, token);
    const before = await replay(visitorId, key, request);
    if (before !== undefined) return before;

    const event = eventOfHold(holdId);
    if (event === undefined) throw new Refusal('hold-missing');
    const marked = await orUnavailable(
      orderHold.run(redis, bookingKeys(event), { nowMs: '', holdId, visitor: visitorId, leaseMs: LEASE_MS }),
    );
    if (marked.outcome !== 'ordered') {
      // A twin may have been quicker since the first look.
      const now = await replay(visitorId, key, request);
      if (now !== undefined) return now;
      switch (marked.outcome) {
        case 'rebuilding':
          throw new Refusal('rebuilding');
        case 'missing':
          throw new Refusal('hold-missing');
        case 'foreign':
          throw new Refusal('not-yours');
        case 'late':
          throw new Refusal('hold-expired');
        case 'ended':
          throw new Refusal(marked.state === 'confirmed' ? 'order-state' : 'hold-expired');
      }
    }
    const held = { event, ...marked.hold };
    let written: Awaited<ReturnType<typeof write>>;
    try {
      written = await write(wanted, request, held);
    } catch (error) {
      if (!(error instanceof Lost)) throw error;
      if (error.code === 'duplicate') {
        const first = await replay(visitorId, key, request);
        if (first !== undefined) return first;
        throw new Refusal('idempotency-busy');
      }
      // PostgreSQL has sold a seat that Redis showed as free: the hold is worthless, and drift repair mends the map.
      // One of another price is worth nothing either, and the next is to be of the new one.
      if (error.code === 'price-changed') await inventory.all();
      if (error.code === 'seats-taken' || error.code === 'price-changed')
        await orUnavailable(releaseHold(redis, event, { holdId, fence: held, cause: 'order' }));
      throw new Refusal(error.code);
    }
    renewSession(wanted.visit);

    const { orderId, reference, amountMinor, currency } = written;
    let charge = await provider.charge({ reference, amountMinor, currency, token });
    // Silence is not a failure. If the provider knows of the charge, that is the answer; if it does not, the charge
    // may still be on its way, so the order stays `paying` and the reconciler looks again.
    if (charge.outcome === 'unknown') charge = await provider.lookup(reference);
    await settlement.settle(reference, charge);
    await follow(orderId);
    const answer = await answerOf(await find(orderId, [visitorId]));
    if (answer.status !== 202) await remember(visitorId, key, answer);
    return answer;
  };

  const refund = async (wanted: {
    visitors: readonly VisitorId[];
    orderId: string;
    key: string;
  }): Promise<Answered> => {
    const { visitors, orderId, key } = wanted;
    const order = await rowOf(orderId, visitors);
    const visitorId = order.visitor;
    const request = fingerprint('refund', orderId);
    const fresh = await sql.query(
      'INSERT INTO idempotency (visitor, key, request, order_id) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING RETURNING key',
      [visitorId, key, request, orderId],
    );
    if (fresh.length === 0) {
      const row = await keyOf(visitorId, key);
      if (row?.request !== request) throw new Refusal('idempotency-conflict');
      if (row.status !== null) return { status: row.status, body: row.body };
    }
    const { outcome } = await settlement.requestRefund(orderId, 'asked-by-visitor');
    if (outcome === 'missing') throw new Refusal('order-missing');
    if (outcome === 'refused') throw new Refusal('order-state', { extra: { state: order.state } });
    if (outcome === 'requested') await follow(orderId);
    const [row] = await sql.query<{ id: string; amount_minor: number; currency: string }>(
      'SELECT id, amount_minor, currency FROM refunds WHERE order_id = $1',
      [orderId],
    );
    // The state of the money is the order's to tell; this says that it is on its way, the same to everyone who asks.
    const answer: Answered = {
      status: 201,
      body: { id: row?.id, order: orderId, amountMinor: row?.amount_minor, currency: row?.currency },
    };
    await remember(visitorId, key, answer);
    return answer;
  };

  /** The hold an order was made from, for the way back to it. */
  const holdOf = async (orderId: string): Promise<string | undefined> =>
    (await sql.query<{ hold_id: string }>('SELECT hold_id FROM orders WHERE id = $1', [orderId]))[0]?.hold_id;

  return { place, refund, find, list, follow, holdOf };
};

export type Orders = ReturnType<typeof createOrders>;
