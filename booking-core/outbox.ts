// What must follow from a committed change, exactly as sure as the change itself: rows written in its transaction,
// done after it, at least once, in order for each order. Every step is safe twice. A failed one stays with its
// error, is tried again ever more slowly, and holds back only the later steps of the same order.

import { parseEventId, parsePlaceId, parseRoomId } from '../kernel/ids.ts';
import type { Log } from '../kernel/log.ts';
import type { Redis } from '../kernel/redis.ts';
import type { Sql } from '../kernel/sql.ts';
import { bookingKeys, confirm, reopen } from '../lua/booking.ts';
import { end, roomKeys } from '../lua/room.ts';
import { releaseHold } from './holds.ts';

export type HoldRef = { event: string; holdId: string; epoch: number; number: number };
export type Step =
  | ({ kind: 'confirm-hold' } & HoldRef)
  | ({ kind: 'reopen-hold' } & HoldRef)
  | ({ kind: 'expire-hold' } & HoldRef)
  | ({ kind: 'free-seats' } & HoldRef)
  | { kind: 'end-session'; room: string; placeId: string; number: number }
  | { kind: 'reclaim'; order: string };

type Tx = Pick<Sql, 'query'>;

export const enqueue = async (tx: Tx, subject: string, steps: readonly Step[]): Promise<void> => {
  for (const { kind, ...payload } of steps)
    await tx.query('INSERT INTO outbox (subject, kind, payload) VALUES ($1, $2, $3::jsonb)', [
      subject,
      kind,
      JSON.stringify(payload),
    ]);
};

type OutboxRow = {
  id: number;
  subject: string;
  kind: string;
  payload: Record<string, unknown>;
  attempts: number;
};

/** A step being done is left alone by others for this long; then it is taken to have been lost. */
const LEASE_S = 15;
const CLAIM_MAX = 100;

// One claim takes the first open step of each order, so that no step overtakes an earlier one.
const CLAIM = `
  UPDATE outbox SET attempts = attempts + 1, next_at = clock_timestamp() + make_interval(secs => ${LEASE_S})
  WHERE id IN (
    SELECT id FROM outbox o
    WHERE next_at <= clock_timestamp() AND ($1 = '' OR subject = $1)
      AND NOT EXISTS (SELECT 1 FROM outbox e WHERE e.subject = o.subject AND e.id < o.id)
    ORDER BY id LIMIT ${CLAIM_MAX} FOR UPDATE SKIP LOCKED)
  RETURNING id, subject, kind, payload, attempts`;

export type Outbox = {
  /** Does what is due, of one subject or of all; answers how many steps failed and stay. */
  run(subject?: string): Promise<{ done: number; failed: number }>;
};

class StepFailed extends Error {}

export const createOutbox = (options: {
  sql: Sql;
  redis: Redis;
  log: Log;
  reclaim: (order: string) => Promise<void>;
}): Outbox => {
  const { sql, redis, log, reclaim } = options;

  const perform = async (kind: string, payload: Record<string, unknown>): Promise<void> => {
    const text = (name: string) => String(payload[name] ?? '');
    const fence = { epoch: Number(payload.epoch), number: Number(payload.number) };
    const event = parseEventId(payload.event);
    if (event !== undefined) {
      const holdId = text('holdId');
      const { outcome } =
        kind === 'confirm-hold'
          ? await confirm.run(redis, bookingKeys(event), { holdId, ...fence })
          : kind === 'reopen-hold'
            ? await reopen.run(redis, bookingKeys(event), { holdId, ...fence })
            : await releaseHold(redis, event, {
                holdId,
                fence,
                cause: kind === 'free-seats' ? 'refund' : 'order',
              });
      // Being rebuilt: PostgreSQL is being copied, perhaps from before this change. Every other answer is an end:
      // done, done before, or the hold is gone and its fence with it.
      if (outcome === 'rebuilding') throw new StepFailed('seats are being rebuilt');
      return;
    }
    if (kind === 'reclaim') return reclaim(text('order'));
    const room = parseRoomId(payload.room);
    const placeId = parsePlaceId(payload.placeId);
    if (kind !== 'end-session' || room === undefined || placeId === undefined)
      throw new StepFailed(`there is no step ${kind.slice(0, 20)} of this form`);
    await end.run(redis, roomKeys(room), {
      nowMs: '',
      placeId,
      number: fence.number,
      reason: 'purchase',
    });
  };

  return {
    async run(subject = '') {
      const count = { done: 0, failed: 0 };
      for (;;) {
        const claimed = await sql.query<OutboxRow>(CLAIM, [subject]);
        for (const { id, subject: of, kind, payload, attempts } of claimed)
          try {
            await perform(kind, payload);
            await sql.query('DELETE FROM outbox WHERE id = $1', [id]);
            count.done++;
          } catch (error) {
            count.failed++;
            log.warn('booking-step-failed', { step: kind, order: of, attempts, error });
            const says = error instanceof Error ? error.message.slice(0, 200) : 'unknown';
            await sql.query(
              'UPDATE outbox SET last_error = $2, next_at = clock_timestamp() + make_interval(secs => $3) WHERE id = $1',
              [id, says, Math.min(0.2 * 2 ** Math.min(attempts, 12), 60)],
            );
          }
        if (claimed.length === 0) return count;
      }
    },
  };
};
