// How often one address or one visitor may ask. Two limiters, one behind the other: a local one in each process
// sheds floods without a word to Redis, and the shared one (GCRA, lua/limit/take.lua) counts what all processes let
// through. When Redis does not answer, the local one alone decides: people are not sent away for our fault.
//
// The address is IPv4 /32, or IPv6 /64 together with its /48: a household owns a /64, a small company a /48.

import { addressPrefix } from '../kernel/address.ts';
import type { Clock } from '../kernel/clock.ts';
import type { Config } from '../kernel/config.ts';
import { limitKey } from '../kernel/keys.ts';
import type { Metrics } from '../kernel/metrics.ts';
import type { Redis } from '../kernel/redis.ts';
import { type Bucket, bucketOf, type Taken, take } from '../lua/limit.ts';

export type LimitOutcome = { outcome: 'taken' } | { outcome: 'refused'; retryAfterMs: number };

/** `cost` is in requests, at least 1. */
export type LimitedRequest = { address: string; visitorId?: string; cost: number };

/** Neither throws. Where a request is first shed and then counted, both are called, in this order. */
export type Limits = {
  /** The local limiters: sheds a flood before anything else is done for it, without a word to Redis. */
  shed(request: LimitedRequest): LimitOutcome;
  /** The limits shared by all processes. */
  count(request: LimitedRequest): Promise<LimitOutcome>;
  /** Both. */
  take(request: LimitedRequest): Promise<LimitOutcome>;
};

/** How many households of a /48 may be as busy as one is allowed to be. */
const WIDE_FACTOR = 4;
/** Addresses in one generation; two of them are some 15 MB when full. */
const LOCAL_KEYS_MAX = 50_000;

export type LocalLimiter = {
  take(key: string, cost: number, nowMs: number): LimitOutcome;
  /** Entries in memory, for tests. */
  size(): number;
};

/**
 * GCRA in a Map of at most 2 × `keysMax` entries. Two generations: writes go to the young one, reads look in both,
 * and when the young one is full or a whole window old the old one is dropped. A bucket not touched for a window is
 * empty anyway; a flood of addresses can push out others early, which only gives those their burst back.
 */
export const createLocalLimiter = (bucket: Bucket, keysMax: number = LOCAL_KEYS_MAX): LocalLimiter => {
  const periodMs = bucket.periodMicros / 1000;
  const windowMs = periodMs * bucket.burst;
  let young = new Map<string, number>();
  let old = new Map<string, number>();
  let swappedAtMs = Number.NEGATIVE_INFINITY;
  return {
    take(key, cost, nowMs) {
      if (young.size >= keysMax || nowMs - swappedAtMs >= windowMs) {
        old = young;
        young = new Map();
        swappedAtMs = nowMs;
      }
      const stored = young.get(key) ?? old.get(key) ?? nowMs;
      const after =
        Math.min(Math.max(stored, nowMs), nowMs + windowMs) + Math.min(cost, bucket.burst) * periodMs;
      // A billionth of a period is lost in each addition; an exact burst must not be one short for it.
      const over = after - nowMs - windowMs;
      if (over > periodMs * 1e-6) return { outcome: 'refused', retryAfterMs: Math.max(1, Math.ceil(over)) };
      young.set(key, after);
      return { outcome: 'taken' };
    },
    size: () => young.size + old.size,
  };
};

/**
 * What is owed to the shared limits. In a sale most addresses ask once, and one request is within any limit: the first
 * of an address in a window is only written down here, and charged together with the second. So a process can let
 * through at most one request an address that the others do not know of. Forgetting a debt is forgetting one request.
 */
export type Debts = {
  /** What to charge for this request now: nothing, because it is the first, or its cost and what is owed. */
  due(key: string, cost: number, nowMs: number): number;
};

export const createDebts = (windowMs: number, keysMax: number = LOCAL_KEYS_MAX): Debts => {
  let young = new Map<string, number>();
  let old = new Map<string, number>();
  let swappedAtMs = Number.NEGATIVE_INFINITY;
  return {
    due(key, cost, nowMs) {
      if (young.size >= keysMax || nowMs - swappedAtMs >= windowMs) {
        old = young;
        young = new Map();
        swappedAtMs = nowMs;
      }
      const owed = young.get(key) ?? old.get(key);
      young.set(key, owed === undefined ? cost : 0);
      return owed === undefined ? 0 : cost + owed;
    },
  };
};

export const createLimits = (options: {
  config: Pick<Config, 'addressPerSecond' | 'addressBurst' | 'visitorPerSecond' | 'visitorBurst'>;
  redis: Redis;
  clock: Clock;
  metrics: Metrics;
}): Limits => {
  const { config, redis, clock, metrics } = options;
  const addressBucket = bucketOf({ perSecond: config.addressPerSecond, burst: config.addressBurst });
  const visitorBucket = bucketOf({ perSecond: config.visitorPerSecond, burst: config.visitorBurst });
  const localAddresses = createLocalLimiter(addressBucket);
  const localVisitors = createLocalLimiter(visitorBucket);
  const debts = createDebts((addressBucket.periodMicros / 1000) * addressBucket.burst);

  const refusedBy = (by: 'local' | 'address' | 'visitor', retryAfterMs: number): LimitOutcome => {
    metrics.inc('limited_total', { by });
    return { outcome: 'refused', retryAfterMs };
  };

  const takeVisitor = (visitorId: string, cost: number): Promise<Taken> => {
    const key = limitKey(visitorId, 'visitor');
    return take.run(
      redis,
      { limit: key, limitWide: key },
      {
        nowMs: '',
        cost,
        period: visitorBucket.periodMicros,
        burst: visitorBucket.burst,
        widePeriod: 0,
        wideBurst: 0,
      },
    );
  };

  // The tag is the widest prefix, so that both buckets of an IPv6 address stand in one slot.
  const takeAddress = (prefix: string, wide: string, cost: number): Promise<Taken> => {
    const hasWide = wide !== prefix;
    return take.run(
      redis,
      { limit: limitKey(wide, prefix), limitWide: limitKey(wide, wide) },
      {
        nowMs: '',
        cost,
        period: addressBucket.periodMicros,
        burst: addressBucket.burst,
        widePeriod: hasWide ? Math.max(1, Math.round(addressBucket.periodMicros / WIDE_FACTOR)) : 0,
        wideBurst: hasWide ? addressBucket.burst * WIDE_FACTOR : 0,
      },
    );
  };

  const shed: Limits['shed'] = ({ address, visitorId, cost }) => {
    const nowMs = clock.monotonicMs();
    // The visitor first at each stage: one who floods must not use up what their neighbours share.
    if (visitorId !== undefined) {
      const own = localVisitors.take(visitorId, cost, nowMs);
      if (own.outcome === 'refused') return refusedBy('local', own.retryAfterMs);
    }
    const local = localAddresses.take(addressPrefix(address, { v4: 32, v6: 64 }), cost, nowMs);
    return local.outcome === 'refused' ? refusedBy('local', local.retryAfterMs) : local;
  };
  const count: Limits['count'] = async ({ address, visitorId, cost }) => {
    try {
      if (visitorId !== undefined) {
        const taken = await takeVisitor(visitorId, cost);
        if (taken.outcome === 'refused') return refusedBy('visitor', taken.retryAfterMs);
      }
      const prefix = addressPrefix(address, { v4: 32, v6: 64 });
      const wide = addressPrefix(address, { v4: 32, v6: 48 });
      // Of an IPv6 network every request counts: it has as many addresses as anyone could want.
      const due = prefix === wide ? debts.due(prefix, cost, clock.monotonicMs()) : cost;
      if (due === 0) return { outcome: 'taken' };
      // A cost above the burst takes a whole bucket and no more, so a debt that would go beyond is charged by itself.
      if (due > addressBucket.burst && due > cost) await takeAddress(prefix, wide, due - cost);
      const taken = await takeAddress(prefix, wide, due > addressBucket.burst ? cost : due);
      if (taken.outcome === 'refused') return refusedBy('address', taken.retryAfterMs);
    } catch {
      // Redis is slow or gone: the local limiters have counted this request already, and they decide alone.
      metrics.inc('limits_local_total', {});
    }
    return { outcome: 'taken' };
  };
  return {
    shed,
    count,
    async take(request) {
      const local = shed(request);
      return local.outcome === 'refused' ? local : count(request);
    },
  };
};
