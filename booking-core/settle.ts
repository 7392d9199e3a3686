// How an order ends. Whatever the provider says, by its answer, its webhook or when looked up, comes through
// `settle`, and time runs out in `expireOrders`; both lock the order's row first, so one of them wins and the other
// finds an ended order. A success after the end is `late`: the seats are taken again if they are still free, in
// Redis and in PostgreSQL, and otherwise the money goes back by itself.

import { randomBytes } from 'node:crypto';
import type { Config } from '../kernel/config.ts';
import type { EventId, VisitorId } from '../kernel/ids.ts';
import type { Log } from '../kernel/log.ts';
import type { Metrics } from '../kernel/metrics.ts';
import type { Redis } from '../kernel/redis.ts';
import { isDuplicate, type Sql } from '../kernel/sql.ts';
import { bookingKeys, hold, order as orderHold } from '../lua/booking.ts';
import { releaseHold } from './holds.ts';
import { enqueue } from './outbox.ts';
import type { Charge, PaymentProvider } from './payment.ts';

export type OrderState = 'paying' | 'paid' | 'failed' | 'expired' | 'late' | 'refunding' | 'refunded';

export type OrderRow = {
  id: string;
  event: EventId;
  section: string;
  visitor: VisitorId;
  hold_id: string;
  fence_epoch: number;
  fence_number: number;
  state: OrderState;
  amount_minor: number;
  currency: string;
  room: string;
  place_id: string;
  place_number: number;
  sale_version: number;
};

type Tx = Pick<Sql, 'query'>;
/** Crockford's base32 without I, L, O, U: read aloud without mistakes. 13 characters are 65 bits. */
const LETTERS = '0123456789ABCDEFGHJKMNPQRSTVWXYZ';
export const newOrderId = (): string => [...randomBytes(13)].map((byte) => LETTERS[byte & 31]).join('');

export const holdRefOf = (order: OrderRow) => ({
  event: order.event,
  holdId: order.hold_id,
  epoch: order.fence_epoch,
  number: order.fence_number,
});
const endOfSession = (order: OrderRow) => ({
  kind: 'end-session' as const,
  room: order.room,
  placeId: order.place_id,
  number: order.place_number,
});

/** A hold with an order is left alone by expiry for this long; then PostgreSQL is asked whether the order exists. */
export const LEASE_MS = 30_000;
/** Why a charge is refunded whose amount was not the one asked for. */
export const AMOUNT_DIFFERS = 'amount-differs';
const EXPIRE_MAX = 100;
const REFUND_LEASE_S = 30;

export type Settled = { outcome: 'settled' | 'unchanged' | 'unknown'; order?: string };

export const createSettlement = (options: {
  config: Pick<Config, 'holdSeconds'>;
  sql: Sql;
  redis: Redis;
  log: Log;
  provider: PaymentProvider;
  metrics?: Metrics;
}) => {
  const { config, sql, redis, log, provider, metrics } = options;

  const setState = (tx: Tx, order: string, state: OrderState) => {
    metrics?.inc('orders_total', { outcome: state });
    return tx.query(
      `UPDATE orders SET state = $2, paid_at = CASE WHEN $2 = 'paid' THEN clock_timestamp() ELSE paid_at END WHERE id = $1`,
      [order, state],
    );
  };
  const unclaim = (tx: Tx, orders: readonly string[]) =>
    tx.query('UPDATE order_seats SET live = false WHERE order_id = ANY($1::text[]) AND live', [orders]);
  const lock = async (tx: Tx, order: string): Promise<OrderRow | undefined> =>
    (await tx.query<OrderRow>('SELECT * FROM orders WHERE id = $1 FOR UPDATE', [order]))[0];

  /** What was taken is not what was asked for: nobody has bought anything, and all of it goes back. */
  const giveBack = async (
    tx: Tx,
    order: OrderRow,
    taken: { reference: string; amountMinor: number; currency: string },
  ): Promise<Settled> => {
    const { reference, amountMinor, currency } = taken;
    log.error('payment-amount-differs', {
      order: order.id,
      asked: order.amount_minor,
      amountMinor,
      currency,
    });
    await tx.query(
      `UPDATE payments SET state = 'succeeded', charged_minor = $2, charged_currency = $3 WHERE id = $1`,
      [reference, amountMinor, currency],
    );
    await writeRefund(tx, order.id, AMOUNT_DIFFERS);
    await unclaim(tx, [order.id]);
    if (order.state === 'paying') await enqueue(tx, order.id, [{ kind: 'reopen-hold', ...holdRefOf(order) }]);
    return { outcome: 'settled', order: order.id };
  };

  /** The one refund of an order, of what was taken; the money moves in `sendRefunds`. */
  const writeRefund = async (tx: Tx, orderId: string, reason: string): Promise<void> => {
    await tx.query(
      `INSERT INTO refunds (id, payment_id, order_id, reason, amount_minor, currency)
       SELECT 'r-' || id, id, order_id, $2, coalesce(charged_minor, amount_minor), coalesce(charged_currency, currency)
       FROM payments WHERE order_id = $1`,
      [orderId, reason],
    );
    await setState(tx, orderId, 'refunding');
  };

  /** Applies what the provider says of a charge. Safe twice and in any order; a success is never undone here. */
  const settle = (reference: string, charge: Charge): Promise<Settled> => {
    const { outcome } = charge;
    if (outcome !== 'succeeded' && outcome !== 'declined') return Promise.resolve({ outcome: 'unchanged' });
    return sql.transaction(async (tx): Promise<Settled> => {
      const [found] = await tx.query<{ order_id: string }>('SELECT order_id FROM payments WHERE id = $1', [
        reference,
      ]);
      const order = found && (await lock(tx, found.order_id));
      if (order === undefined) return { outcome: 'unknown' };
      // Read under the order's lock: nobody else changes a payment without it.
      const [payment] = await tx.query<{ state: string; amount_minor: number; currency: string }>(
        'SELECT state, amount_minor, currency FROM payments WHERE id = $1',
        [reference],
      );
      if (payment === undefined || payment.state === 'succeeded' || payment.state === outcome)
        return { outcome: 'unchanged', order: order.id };
      if (outcome === 'succeeded') {
        const { amountMinor, currency } = charge;
        if (amountMinor === undefined || currency === undefined)
          return { outcome: 'unchanged', order: order.id };
        if (amountMinor !== payment.amount_minor || currency !== payment.currency)
          return giveBack(tx, order, { reference, amountMinor, currency });
      }
      await tx.query('UPDATE payments SET state = $2 WHERE id = $1', [reference, outcome]);
      if (outcome === 'declined') {
        if (order.state !== 'paying') return { outcome: 'settled', order: order.id };
        await setState(tx, order.id, 'failed');
        await unclaim(tx, [order.id]);
        await enqueue(tx, order.id, [{ kind: 'reopen-hold', ...holdRefOf(order) }]);
      } else if (order.state === 'paying') {
        await setState(tx, order.id, 'paid');
        await enqueue(tx, order.id, [{ kind: 'confirm-hold', ...holdRefOf(order) }, endOfSession(order)]);
      } else {
        await setState(tx, order.id, 'late');
        await enqueue(tx, order.id, [{ kind: 'reclaim', order: order.id }]);
      }
      return { outcome: 'settled', order: order.id };
    });
  };

  /** Ends orders whose time to pay has run out by PostgreSQL's clock; answers their ids. */
  const expireOrders = (): Promise<string[]> =>
    sql.transaction(async (tx) => {
      const due = await tx.query<OrderRow>(
        `UPDATE orders SET state = 'expired' WHERE id IN (
           SELECT id FROM orders WHERE state = 'paying' AND expires_at <= clock_timestamp()
           ORDER BY id LIMIT ${EXPIRE_MAX} FOR UPDATE SKIP LOCKED)
         RETURNING *`,
      );
      const ids = due.map(({ id }) => id);
      if (ids.length > 0) {
        metrics?.inc('orders_total', { outcome: 'expired' }, ids.length);
        await unclaim(tx, ids);
      }
      for (const order of due) await enqueue(tx, order.id, [{ kind: 'expire-hold', ...holdRefOf(order) }]);
      return ids;
    });

  /** Writes down the one refund of an order; asking again gives the same. The money moves in `sendRefunds`. */
  const requestRefund = (orderId: string, reason: string) =>
    sql.transaction(async (tx) => {
      const order = await lock(tx, orderId);
      if (order === undefined) return { outcome: 'missing' as const };
      if (order.state === 'refunding' || order.state === 'refunded') return { outcome: 'already' as const };
      if (order.state !== 'paid' && order.state !== 'late')
        return { outcome: 'refused' as const, state: order.state };
      await writeRefund(tx, orderId, reason);
      await unclaim(tx, [orderId]);
      if (order.state === 'paid') await enqueue(tx, orderId, [{ kind: 'free-seats', ...holdRefOf(order) }]);
      return { outcome: 'requested' as const };
    });

  type RefundRow = {
    id: string;
    payment_id: string;
    order_id: string;
    amount_minor: number;
    currency: string;
    attempts: number;
  };
  /** Sends what is due, of one order or of all. A failure stays, with its reason, and is tried again. */
  const sendRefunds = async (orderId = ''): Promise<{ done: number; failed: number }> => {
    const due = await sql.query<RefundRow>(
      `UPDATE refunds SET attempts = attempts + 1, next_at = clock_timestamp() + make_interval(secs => ${REFUND_LEASE_S})
       WHERE id IN (SELECT id FROM refunds WHERE state = 'pending' AND next_at <= clock_timestamp()
                    AND ($1 = '' OR order_id = $1) ORDER BY next_at LIMIT 20 FOR UPDATE SKIP LOCKED)
       RETURNING id, payment_id, order_id, amount_minor, currency, attempts`,
      [orderId],
    );
    const count = { done: 0, failed: 0 };
    for (const refund of due) {
      const sent = await provider.refund({
        reference: refund.id,
        charge: refund.payment_id,
        amountMinor: refund.amount_minor,
        currency: refund.currency,
      });
      if (sent.outcome === 'refunded') {
        count.done++;
        metrics?.inc('refunds_total', { outcome: 'done' });
        await sql.transaction(async (tx) => {
          await lock(tx, refund.order_id);
          await tx.query(`UPDATE refunds SET state = 'done', done_at = clock_timestamp() WHERE id = $1`, [
            refund.id,
          ]);
          await setState(tx, refund.order_id, 'refunded');
        });
      } else {
        count.failed++;
        metrics?.inc('refunds_total', { outcome: 'failed' });
        log.warn('refund-failed', { order: refund.order_id, attempts: refund.attempts, says: sent.says });
        await sql.query(
          'UPDATE refunds SET last_error = $2, next_at = clock_timestamp() + make_interval(secs => $3) WHERE id = $1',
          [refund.id, sent.says, Math.min(2 ** Math.min(refund.attempts, 9), 300)],
        );
      }
    }
    return count;
  };

  /** Seats for someone who paid after the end: first in Redis, so that no one else's hold is broken. */
  const takeAgain = async (order: OrderRow, offsets: readonly number[]) => {
    const keys = bookingKeys(order.event);
    const lease = { nowMs: '', visitor: order.visitor, leaseMs: LEASE_MS };
    const first = await orderHold.run(redis, keys, { ...lease, holdId: order.hold_id });
    // The hold they had may still be open, after a payment that was given up too early.
    if (first.outcome === 'ordered' && first.hold.number === order.fence_number)
      return { outcome: 'ordered' as const, holdId: order.hold_id, hold: first.hold };
    if (first.outcome === 'rebuilding') return { outcome: 'rebuilding' as const };
    const holdId = `${order.event}.late-${order.id}`;
    const again = await hold.run(redis, keys, {
      nowMs: '',
      holdId,
      visitor: order.visitor,
      // Paid for: it neither ends with a session, nor does anybody have to wait before it.
      ...{ visit: '', saleVersion: order.sale_version, paceMs: 0, paceBurst: 0 },
      request: 'late',
      section: order.section,
      limit: Number.MAX_SAFE_INTEGER,
      ttlMs: config.holdSeconds * 1000,
      count: offsets.length,
      together: 1,
      offsets,
    });
    if (again.outcome === 'rebuilding') return { outcome: 'rebuilding' as const };
    if (again.outcome !== 'held' && again.outcome !== 'repeated') return { outcome: 'taken' as const };
    const marked = await orderHold.run(redis, keys, { ...lease, holdId });
    return marked.outcome === 'ordered'
      ? { outcome: 'ordered' as const, holdId, hold: marked.hold }
      : { outcome: marked.outcome === 'rebuilding' ? ('rebuilding' as const) : ('taken' as const) };
  };

  /** The end of a late payment: the same seats again, or the money back. Safe to repeat after a crash anywhere. */
  const reclaim = async (orderId: string): Promise<void> => {
    const [order] = await sql.query<OrderRow>('SELECT * FROM orders WHERE id = $1', [orderId]);
    if (order === undefined || order.state !== 'late') return;
    const seats = await sql.query<{ seat: number }>(
      'SELECT seat FROM order_seats WHERE order_id = $1 ORDER BY seat',
      [orderId],
    );
    const taken = await takeAgain(
      order,
      seats.map(({ seat }) => seat),
    );
    if (taken.outcome === 'rebuilding') throw new Error('seats are being rebuilt');
    if (taken.outcome === 'ordered') {
      const { holdId, hold: held } = taken;
      try {
        await sql.transaction(async (tx) => {
          const locked = await lock(tx, orderId);
          if (locked?.state !== 'late') return;
          await tx.query('UPDATE order_seats SET live = true WHERE order_id = $1', [orderId]);
          await tx.query(
            'UPDATE orders SET hold_id = $2, fence_epoch = $3, fence_number = $4 WHERE id = $1',
            [orderId, holdId, held.epoch, held.number],
          );
          await setState(tx, orderId, 'paid');
          const again = { ...locked, hold_id: holdId, fence_epoch: held.epoch, fence_number: held.number };
          await enqueue(tx, orderId, [{ kind: 'confirm-hold', ...holdRefOf(again) }, endOfSession(locked)]);
        });
        log.info('order-reclaimed', { order: orderId });
        return;
      } catch (error) {
        // The unique index has the last word: in PostgreSQL the seats, or the hold, are someone else's order.
        if (!isDuplicate(error)) throw error;
        if (holdId !== order.hold_id)
          await releaseHold(redis, order.event, { holdId, fence: held, cause: 'order' });
      }
    }
    await requestRefund(orderId, 'paid-too-late');
    log.info('order-refunded-late', { order: orderId });
  };

  return { settle, expireOrders, requestRefund, sendRefunds, reclaim };
};

export type Settlement = ReturnType<typeof createSettlement>;
