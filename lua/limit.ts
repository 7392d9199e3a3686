// The shared rate limit as a typed function: one call, one to three buckets, all or nothing. All keys carry one
// hash tag (kernel/keys.ts, limitKey), so that the call stays on one slot.

import type { Redis } from '../kernel/redis.ts';
import { script } from './script.ts';

/** `burst` at once, and one more each `periodMicros`. */
export type Bucket = { periodMicros: number; burst: number };

export type Taken =
  | { outcome: 'refused'; bucket: number; retryAfterMs: number }
  | { outcome: 'taken'; remaining: number; resetMs: number };

export const bucketOf = (rate: { perSecond: number; burst: number }): Bucket => ({
  periodMicros: Math.max(1, Math.round(1_000_000 / rate.perSecond)),
  burst: rate.burst,
});

/** The arguments of a bucket that is not asked for. */
const NO_BUCKET: Bucket = { periodMicros: 0, burst: 0 };

/** One bucket, or a bucket and the wider ones it stands in. */
export type Buckets = {
  narrow: { key: string; bucket: Bucket };
  middle?: { key: string; bucket: Bucket };
  wide?: { key: string; bucket: Bucket };
};

/** Takes `cost` from all of them or from none. `nowMs` is for tests; without it the time is Redis's. */
export const takeAll = (
  redis: Redis,
  { narrow, middle, wide }: Buckets,
  { cost, nowMs = '' }: { cost: number; nowMs?: number | '' },
): Promise<Taken> =>
  take.run(
    redis,
    {
      limit: narrow.key,
      limitMiddle: middle?.key ?? narrow.key,
      limitWide: wide?.key ?? narrow.key,
    },
    {
      nowMs,
      cost,
      period: narrow.bucket.periodMicros,
      burst: narrow.bucket.burst,
      middlePeriod: (middle?.bucket ?? NO_BUCKET).periodMicros,
      middleBurst: (middle?.bucket ?? NO_BUCKET).burst,
      widePeriod: (wide?.bucket ?? NO_BUCKET).periodMicros,
      wideBurst: (wide?.bucket ?? NO_BUCKET).burst,
    },
  );

export const take = script({
  name: 'limit.take',
  keys: ['limit', 'limitMiddle', 'limitWide'],
  args: ['nowMs', 'cost', 'period', 'burst', 'middlePeriod', 'middleBurst', 'widePeriod', 'wideBurst'],
  outcomes: ['refused', 'taken'],
  read: ([word, first, second]): Taken =>
    word === 'taken'
      ? { outcome: 'taken', remaining: Number(first), resetMs: Number(second) }
      : { outcome: 'refused', bucket: Number(first), retryAfterMs: Number(second) },
});
