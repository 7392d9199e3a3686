// The shared rate limit as a typed function: one call, one or two buckets, all or nothing. Both keys carry one hash
// tag (kernel/keys.ts, limitKey), so that the call stays on one slot.

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

export const take = script({
  name: 'limit.take',
  keys: ['limit', 'limitWide'],
  args: ['nowMs', 'cost', 'period', 'burst', 'widePeriod', 'wideBurst'],
  outcomes: ['refused', 'taken'],
  read: ([word, first, second]): Taken =>
    word === 'taken'
      ? { outcome: 'taken', remaining: Number(first), resetMs: Number(second) }
      : { outcome: 'refused', bucket: Number(first), retryAfterMs: Number(second) },
});
