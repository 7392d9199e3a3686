// How many may join one room each second, of everybody together and at all gateways: what stands between a flood from
// a hundred thousand addresses and the line. A join is counted here, and what was counted is charged to the limit in
// Redis ten times a second, so a join pays for no call. What the others have taken is therefore heard a moment later:
// each process may let through one burst more than it should, once. Every join is charged sooner or later.
//
// Modes of a room: open; shut, while Redis says that what is owed does not fit yet. It opens when it has been charged.

import type { Clock } from '../kernel/clock.ts';
import type { RoomId } from '../kernel/ids.ts';
import { limitKey } from '../kernel/keys.ts';
import type { Metrics } from '../kernel/metrics.ts';
import type { Redis } from '../kernel/redis.ts';
import { type Bucket, takeAll } from '../lua/limit.ts';
import type { LocalLimiter, LocalOutcome } from './limits.ts';

const CHARGE_MS = 100;

type Owed = { joins: number; shutUntilMs: number; timer: NodeJS.Timeout | undefined };

export const createRoomLimit = (options: {
  bucket: Bucket;
  local: LocalLimiter;
  redis: Redis;
  clock: Clock;
  metrics: Metrics;
}) => {
  const { bucket, local, redis, clock, metrics } = options;
  const rooms = new Map<RoomId, Owed>();

  const charge = async (room: RoomId, owed: Owed): Promise<void> => {
    owed.timer = undefined;
    const { joins } = owed;
    owed.joins = 0;
    if (joins === 0) return;
    try {
      const narrow = { key: limitKey(room, 'joins'), bucket };
      const taken = await takeAll(redis, { narrow }, { cost: joins });
      owed.shutUntilMs = 0;
      if (taken.outcome === 'taken') return;
      owed.joins += joins;
      owed.shutUntilMs = clock.monotonicMs() + taken.retryAfterMs;
      chargeLater(room, owed, taken.retryAfterMs);
    } catch {
      // Redis is slow or gone: the local limit decides alone, and what was owed is forgotten.
      owed.shutUntilMs = 0;
      metrics.inc('limits_local_total', {}, joins);
    }
  };
  const chargeLater = (room: RoomId, owed: Owed, afterMs: number): void => {
    owed.timer ??= setTimeout(() => void charge(room, owed), afterMs).unref();
  };

  return {
    take(room: RoomId): LocalOutcome {
      const nowMs = clock.monotonicMs();
      let owed = rooms.get(room);
      if (owed === undefined) {
        owed = { joins: 0, shutUntilMs: 0, timer: undefined };
        rooms.set(room, owed);
      }
      if (owed.shutUntilMs > 0)
        return { outcome: 'refused', retryAfterMs: Math.max(1, Math.ceil(owed.shutUntilMs - nowMs)) };
      const done = local.take(room, 1, nowMs);
      if (done.outcome === 'refused') return done;
      owed.joins += 1;
      chargeLater(room, owed, CHARGE_MS);
      return done;
    },
    /** Charges what is owed, so that a restart forgives nothing. */
    async stop(): Promise<void> {
      for (const [room, owed] of rooms) {
        clearTimeout(owed.timer);
        await charge(room, owed);
        clearTimeout(owed.timer);
      }
    },
  };
};
