// The pass that makes everything come out even, whoever crashed where: holds and orders whose time is over end,
// payments nobody has heard of are looked up, steps and refunds that failed are tried again, and Redis is compared
// with PostgreSQL. Any number of processes may run it; every part of it is safe twice and at once.

import type { Config } from '../kernel/config.ts';
import { parsePlaceId, parseRoomId } from '../kernel/ids.ts';
import type { Log } from '../kernel/log.ts';
import type { Metrics } from '../kernel/metrics.ts';
import type { Redis } from '../kernel/redis.ts';
import type { Sql } from '../kernel/sql.ts';
import { parseSessionId } from '../line/receipt.ts';
import { bookingKeys, expire, type Hold, reopen } from '../lua/booking.ts';
import { renew, roomKeys } from '../lua/room.ts';
import { findHold, KEEP_MS, releaseHold } from './holds.ts';
import type { Inventory, SaleEvent } from './inventory.ts';
import type { Outbox } from './outbox.ts';
import type { PaymentProvider } from './payment.ts';
import { rebuild, repairDrift } from './rebuild.ts';
import { LEASE_MS, type Settlement } from './settle.ts';

const EXPIRE_MAX = 200;
const EXPIRE_ROUNDS_MAX = 50;
const LOOKUPS_MAX = 20;
const RENEW_MAX = 500;
const RELEASE_MAX = 500;
/** Looked up after one second, then two, four, … and from then on so often, for as long as it is open. */
const LOOKUP_S_MAX = 6 * 3600;

const OPEN = ['charge', 'refund']
  .map(
    (what) => `
  SELECT '${what}' AS what, count(*) FILTER (WHERE age < interval '1 hour') AS minutes,
         count(*) FILTER (WHERE age >= interval '1 hour' AND age < interval '1 day') AS hours,
         count(*) FILTER (WHERE age >= interval '1 day') AS days
  FROM (SELECT clock_timestamp() - created_at AS age FROM ${what === 'charge' ? 'payments' : 'refunds'}
        WHERE state = 'pending') AS open`,
  )
  .join(' UNION ALL ');

export const createReconciler = (options: {
  config: Pick<Config, 'reconcileMs' | 'paymentTimeoutMs'>;
  sql: Sql;
  redis: Redis;
  log: Log;
  inventory: Inventory;
  provider: PaymentProvider;
  settlement: Settlement;
  outbox: Outbox;
  metrics?: Metrics;
}) => {
  const { config, sql, redis, log, inventory, provider, settlement, outbox, metrics } = options;
  const stores = { sql, redis, log };

  /** Holds marked as ordered whose lease has run out: those without a live order are open again, or over. */
  const settleLeases = async (event: SaleEvent, holdIds: readonly string[], nowMs: number): Promise<void> => {
    const rows = await sql.query<{ hold_id: string }>(
      `SELECT hold_id FROM orders WHERE event = $1 AND hold_id = ANY($2::text[]) AND state IN ('paying', 'paid', 'late')`,
      [event.id, holdIds],
    );
    const owned = new Set(rows.map(({ hold_id }) => hold_id));
    for (const holdId of holdIds) {
      const hold = owned.has(holdId) ? undefined : await findHold(redis, event.id, holdId);
      if (hold?.state !== 'ordered') continue;
      if (hold.expiresAtMs > nowMs)
        await reopen.run(redis, bookingKeys(event.id), { holdId, epoch: hold.epoch, number: hold.number });
      else await releaseHold(redis, event.id, { holdId, fence: hold, cause: 'order' });
    }
  };

  const expireHolds = async (event: SaleEvent): Promise<void> => {
    for (let round = 0; round < EXPIRE_ROUNDS_MAX; round++) {
      const done = await expire.run(redis, bookingKeys(event.id), {
        nowMs: '',
        expireMax: EXPIRE_MAX,
        keepMs: KEEP_MS,
        leaseMs: LEASE_MS,
      });
      if (done.outcome === 'rebuilding') return;
      if (done.ordered.length > 0) {
        const [seconds = '0'] = await redis.time();
        await settleLeases(event, done.ordered, Number(seconds) * 1000);
      }
      if (!done.more) return;
    }
  };

  /** Payments without an answer, each ever less often. One the provider has never seen was not charged. */
  const lookUp = async (): Promise<void> => {
    const due = await sql.query<{ id: string; order_id: string; old: boolean }>(
      `UPDATE payments SET checks = checks + 1,
              next_check_at = clock_timestamp() + make_interval(secs => least(power(2, least(checks, 20)), ${LOOKUP_S_MAX}))
       WHERE id IN (SELECT id FROM payments WHERE state = 'pending' AND next_check_at <= clock_timestamp()
                    ORDER BY next_check_at LIMIT ${LOOKUPS_MAX} FOR UPDATE SKIP LOCKED)
       RETURNING id, order_id, created_at < clock_timestamp() - make_interval(secs => $1) AS old`,
      [(config.paymentTimeoutMs * 2) / 1000],
    );
    for (const { id, order_id, old } of due) {
      const charge = await provider.lookup(id);
      const settled = await settlement.settle(
        id,
        charge.outcome === 'missing' && old ? { outcome: 'declined' } : charge,
      );
      if (settled.outcome === 'settled')
        log.info('payment-looked-up', { order: order_id, found: charge.outcome });
    }
  };

  /** Money of which nobody knows yet where it is. */
  const showOpen = async (): Promise<void> => {
    if (metrics === undefined) return;
    const open = await sql.query<{ what: string; minutes: number; hours: number; days: number }>(OPEN);
    for (const { what, ...ages } of open)
      for (const [age, count] of Object.entries(ages))
        metrics.set('payments_open', { what, age }, Number(count));
  };

  /** Whoever is paying keeps their session while they do. */
  const renewSessions = async (): Promise<void> => {
    const paying = await sql.query<{ room: string; place_id: string; place_number: number }>(
      `SELECT room, place_id, place_number FROM orders WHERE state = 'paying' ORDER BY expires_at LIMIT ${RENEW_MAX}`,
    );
    for (const row of paying) {
      const room = parseRoomId(row.room);
      const placeId = parsePlaceId(row.place_id);
      if (room !== undefined && placeId !== undefined)
        await renew.run(redis, roomKeys(room), { nowMs: '', placeId, number: row.place_number });
    }
  };

  /**
   * Holds whose visit has finished are given back: whoever is not inside cannot pay for them. Of a visit that is merely
   * not active nothing is known here: after a loss of data its session may yet be taken back.
   */
  const releaseFinished = async (event: SaleEvent, holds: ReadonlyMap<string, Hold>): Promise<void> => {
    const held = [...holds].flatMap(([holdId, hold]) => {
      const visit = hold.state === 'held' ? parseSessionId(hold.visit) : undefined;
      return visit === undefined ? [] : [{ holdId, hold, visit }];
    });
    const { finished } = roomKeys(event.room);
    for (let from = 0; from < held.length; from += RELEASE_MAX) {
      const some = held.slice(from, from + RELEASE_MAX);
      const numbers = await redis.hmget(finished, ...some.map(({ visit }) => visit.placeId));
      for (const [index, { holdId, hold, visit }] of some.entries())
        if (Number(numbers[index] ?? 0) >= visit.number)
          await releaseHold(redis, event.id, { holdId, fence: hold, cause: 'visitor' });
    }
  };

  const compare = async (event: SaleEvent): Promise<void> => {
    const compared = await repairDrift(stores, event);
    if (compared.outcome === 'rebuilding') {
      await rebuild(stores, event);
      return;
    }
    metrics?.inc('drift_repaired_total', {}, compared.repaired);
    await releaseFinished(event, compared.holds);
  };

  /** Each part on its own: what fails is logged and comes round again, and holds back nothing else. */
  const attempt = async (part: string, work: () => Promise<unknown>): Promise<void> => {
    try {
      await work();
    } catch (error) {
      log.warn('reconcile-failed', { part, error });
    }
  };

  const pass = async (): Promise<void> => {
    let events: SaleEvent[] = [];
    await attempt('events', async () => {
      events = await inventory.all();
    });
    for (const event of events) await attempt('expire-holds', () => expireHolds(event));
    await attempt('look-up', lookUp);
    await attempt('show-open', showOpen);
    await attempt('expire-orders', settlement.expireOrders);
    await attempt('outbox', () => outbox.run());
    await attempt('refunds', () => settlement.sendRefunds());
    await attempt('renew', renewSessions);
    for (const event of events) await attempt('compare', () => compare(event));
  };

  let timer: NodeJS.Timeout | undefined;
  let running: Promise<void> = Promise.resolve();
  let stopped = false;
  const again = (): void => {
    if (stopped) return;
    timer = setTimeout(() => {
      running = pass().finally(again);
    }, config.reconcileMs);
  };
  return {
    pass,
    /** Compares every event with PostgreSQL now, and writes those that Redis has lost. */
    async compareAll(): Promise<void> {
      for (const event of await inventory.all()) await compare(event);
    },
    start(): void {
      running = pass().finally(again);
    },
    /** Resolves when the pass under way has ended. */
    async stop(): Promise<void> {
      stopped = true;
      clearTimeout(timer);
      await running;
      clearTimeout(timer);
    },
  };
};
