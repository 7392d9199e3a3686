// How often one address or one visitor may ask. Two limiters, one behind the other: a local one in each process
// sheds floods without a word to Redis, and the shared one (GCRA, lua/limit/take.lua) counts what all processes let
// through. When Redis does not answer, the local one alone decides: people are not sent away for our fault.
//
// What is counted, by kind of request (LimitedRequest and the costs below):
// - A stranger counts for the address: IPv4 /32 and its /24, or IPv6 /64 with its /56 and /48. A household owns a /64 or
//   a /56, a small company a /48; a /24 is what a carrier hides thousands behind, address by address.
// - Whoever shows a signed cookie or a verified token counts for that visitor. Their address counts too, though far
//   wider: three thousand people who wait behind one address ask after their places all the time, and must not use up
//   the joins of those who come after them, nor the claim of the one whose turn it is.
// - A page costs more work than words with Redis: it has a local limit alone.
// - A request of somebody inside, or its question in auth mode, has a local limit of its own, per address and very wide:
//   it keeps one address from using up a process, and may be switched off.
// - The joins of one room, of everybody together, protect the line itself (room-limit.ts).

import { addressPrefix } from '../kernel/address.ts';
import type { Clock } from '../kernel/clock.ts';
import type { Config } from '../kernel/config.ts';
import { Refusal } from '../kernel/errors.ts';
import type { RoomId } from '../kernel/ids.ts';
import { limitKey } from '../kernel/keys.ts';
import type { Metrics } from '../kernel/metrics.ts';
import type { Redis } from '../kernel/redis.ts';
import type { Toll } from '../line/users.ts';
import { type Bucket, type Buckets, bucketOf, type Taken, takeAll } from '../lua/limit.ts';
import { createRoomLimit } from './room-limit.ts';

/** Which limit refused: what a client is told, by name. */
export type LimitName = 'address' | 'visitor' | 'room' | 'inside';
export type LimitOutcome =
  | { outcome: 'taken' }
  | { outcome: 'refused'; retryAfterMs: number; limit: LimitName };
type Refused = Extract<LimitOutcome, { outcome: 'refused' }>;

/** `cost` is in requests, at least 1; the local limit also takes less than none, which gives back. */
export type LimitedRequest = { address: string; visitorId?: string; cost: number };

/** What each kind of request costs. A token that fails has cost a signature's check, or was a guess. */
export const costs = { join: 1, status: 1, claim: 1, redeem: 1, page: 1, failedToken: 10 } as const;

/** Neither throws. Where a request is first shed and then counted, both are called, in this order. */
export type Limits = {
  /** The local limiters: sheds a flood before anything else is done for it, without a word to Redis. */
  shed(request: LimitedRequest): LimitOutcome;
  /** The limits shared by all processes. */
  count(request: LimitedRequest): Promise<LimitOutcome>;
  /** Both. */
  take(request: LimitedRequest): Promise<LimitOutcome>;
  /** For a visitor who is known by a signed cookie or a verified token: local and shared. */
  takeKnown(request: Required<LimitedRequest>): Promise<LimitOutcome>;
  /** For a page: local alone. */
  page(address: string): LimitOutcome;
  /** For a request of somebody inside: local alone, and nothing at all where it is switched off. */
  inside(address: string): LimitOutcome;
  /** For one join of a room, whoever it is of; charged to the shared limit a moment later. */
  joinOf(room: RoomId): LimitOutcome;
  /** The refusal of a request, with the headers of draft-ietf-httpapi-ratelimit-headers. */
  refusal(refused: Refused): Refusal;
  /** Charges what is owed. */
  stop(): Promise<void>;
};

/** How many addresses of a wider network may be as busy as one is allowed to be. */
const WIDER = { v4: { 24: 16 }, v6: { 56: 2, 48: 4 } } as const;
/** How much more people who are known may ask behind one address: 3,000 who poll every few seconds. */
const KNOWN_FACTOR = 16;
/** A visit loads a handful of pages. */
const PAGE_FACTOR = 4;
/** How long one address may send those inside at more than their rate: a page is many requests at once. */
const INSIDE_BURST_SECONDS = 10;
const TAKEN = { outcome: 'taken' } as const;
/** Addresses in one generation; two of them are some 15 MB when full. */
const LOCAL_KEYS_MAX = 50_000;

export type LocalOutcome = { outcome: 'taken' } | { outcome: 'refused'; retryAfterMs: number };
export type LocalLimiter = {
  take(key: string, cost: number, nowMs: number): LocalOutcome;
  /** What `take` would answer, without taking. */
  look(key: string, cost: number, nowMs: number): LocalOutcome;
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
  const afterOf = (key: string, cost: number, nowMs: number): number => {
    const stored = young.get(key) ?? old.get(key) ?? nowMs;
    return Math.min(Math.max(stored, nowMs), nowMs + windowMs) + Math.min(cost, bucket.burst) * periodMs;
  };
  const judged = (after: number, nowMs: number): LocalOutcome => {
    // A billionth of a period is lost in each addition; an exact burst must not be one short for it.
    const over = after - nowMs - windowMs;
    return over > periodMs * 1e-6
      ? { outcome: 'refused', retryAfterMs: Math.max(1, Math.ceil(over)) }
      : TAKEN;
  };
  return {
    take(key, cost, nowMs) {
      if (young.size >= keysMax || nowMs - swappedAtMs >= windowMs) {
        old = young;
        young = new Map();
        swappedAtMs = nowMs;
      }
      const after = afterOf(key, cost, nowMs);
      const done = judged(after, nowMs);
      if (done.outcome === 'taken') young.set(key, after);
      return done;
    },
    look: (key, cost, nowMs) => judged(afterOf(key, cost, nowMs), nowMs),
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

/** A limit so many times as wide. */
export const widened = ({ periodMicros, burst }: Bucket, factor: number): Bucket => ({
  periodMicros: Math.max(1, Math.round(periodMicros / factor)),
  burst: burst * factor,
});

/** The buckets an address counts in. The tag is the widest prefix, so that all of them stand in one slot. */
export const addressBuckets = (address: string, own: Bucket): Buckets => {
  const net = (bits: number) => addressPrefix(address, { v4: bits, v6: bits });
  const isV6 = address.includes(':');
  const tag = net(isV6 ? 48 : 24);
  const at = (prefix: string, bucket: Bucket) => ({ key: limitKey(tag, prefix), bucket });
  return isV6
    ? {
        narrow: at(net(64), own),
        middle: at(net(56), widened(own, WIDER.v6[56])),
        wide: at(tag, widened(own, WIDER.v6[48])),
      }
    : { narrow: at(net(32), own), wide: at(tag, widened(own, WIDER.v4[24])) };
};

/**
 * A refused request, with the header fields of draft-ietf-httpapi-ratelimit-headers-10: `q` requests in `w` seconds, of
 * which `r` are left, and `t` seconds until there are more. An answer that is no refusal has none of them: on the
 * path of a join nothing is worked out that nobody reads.
 */
export const limitRefusal = (
  { limit, retryAfterMs }: Omit<Refused, 'outcome'>,
  { periodMicros, burst }: Bucket,
): Refusal =>
  new Refusal('too-many-requests', {
    extra: { retryAfterMs },
    headers: [
      [
        'ratelimit-policy',
        `"${limit}";q=${burst};w=${Math.max(1, Math.round((periodMicros * burst) / 1_000_000))}`,
      ],
      ['ratelimit', `"${limit}";r=0;t=${Math.max(1, Math.ceil(retryAfterMs / 1000))}`],
    ],
  });

export const createLimits = (options: {
  config: Pick<
    Config,
    | 'addressPerSecond'
    | 'addressBurst'
    | 'visitorPerSecond'
    | 'visitorBurst'
    | 'roomJoinsPerSecond'
    | 'insidePerSecond'
  >;
  redis: Redis;
  clock: Clock;
  metrics: Metrics;
}): Limits => {
  const { config, redis, clock, metrics } = options;
  const addressBucket = bucketOf({ perSecond: config.addressPerSecond, burst: config.addressBurst });
  const visitorBucket = bucketOf({ perSecond: config.visitorPerSecond, burst: config.visitorBurst });
  const localAddresses = createLocalLimiter(addressBucket);
  const localVisitors = createLocalLimiter(visitorBucket);
  const localKnown = createLocalLimiter(widened(addressBucket, KNOWN_FACTOR));
  const localPages = createLocalLimiter(widened(addressBucket, PAGE_FACTOR));
  const { insidePerSecond } = config;
  const insideBucket = bucketOf({
    perSecond: Math.max(1, insidePerSecond),
    burst: Math.max(1, insidePerSecond * INSIDE_BURST_SECONDS),
  });
  const localInside = insidePerSecond === 0 ? undefined : createLocalLimiter(insideBucket);
  const roomBucket = bucketOf({ perSecond: config.roomJoinsPerSecond, burst: config.roomJoinsPerSecond });
  const roomLimit = createRoomLimit({
    bucket: roomBucket,
    local: createLocalLimiter(roomBucket),
    redis,
    clock,
    metrics,
  });
  const buckets: Record<LimitName, Bucket> = {
    address: addressBucket,
    visitor: visitorBucket,
    room: roomBucket,
    inside: insideBucket,
  };
  const debts = createDebts((addressBucket.periodMicros / 1000) * addressBucket.burst);

  const refusedBy = (
    by: 'local' | 'address' | 'visitor' | 'room',
    limit: LimitName,
    retryAfterMs: number,
  ): Refused => {
    metrics.inc('limited_total', { by });
    return { outcome: 'refused', retryAfterMs, limit };
  };

  const takeVisitor = (visitorId: string, cost: number): Promise<Taken> =>
    takeAll(redis, { narrow: { key: limitKey(visitorId, 'visitor'), bucket: visitorBucket } }, { cost });

  const shed: Limits['shed'] = ({ address, visitorId, cost }) => {
    const nowMs = clock.monotonicMs();
    // The visitor first at each stage: one who floods must not use up what their neighbours share.
    if (visitorId !== undefined) {
      const own = localVisitors.take(visitorId, cost, nowMs);
      if (own.outcome === 'refused') return refusedBy('local', 'visitor', own.retryAfterMs);
    }
    const local = localAddresses.take(addressPrefix(address, { v4: 32, v6: 64 }), cost, nowMs);
    return local.outcome === 'refused' ? refusedBy('local', 'address', local.retryAfterMs) : local;
  };
  const count: Limits['count'] = async ({ address, visitorId, cost }) => {
    try {
      if (visitorId !== undefined) {
        const taken = await takeVisitor(visitorId, cost);
        if (taken.outcome === 'refused') return refusedBy('visitor', 'visitor', taken.retryAfterMs);
      }
      // Of an IPv6 network every request counts: it has as many addresses as anyone could want.
      const due = address.includes(':') ? cost : debts.due(address, cost, clock.monotonicMs());
      if (due === 0) return { outcome: 'taken' };
      const nets = addressBuckets(address, addressBucket);
      // A cost above the burst takes a whole bucket and no more, so a debt that would go beyond is charged by itself.
      if (due > addressBucket.burst && due > cost) await takeAll(redis, nets, { cost: due - cost });
      const taken = await takeAll(redis, nets, { cost: due > addressBucket.burst ? cost : due });
      if (taken.outcome === 'refused') return refusedBy('address', 'address', taken.retryAfterMs);
    } catch {
      // Redis is slow or gone: the local limiters have counted this request already, and they decide alone.
      metrics.inc('limits_local_total', {});
    }
    return { outcome: 'taken' };
  };
  const shedKnown = ({ address, visitorId, cost }: Required<LimitedRequest>): LimitOutcome => {
    const nowMs = clock.monotonicMs();
    const own = localVisitors.take(visitorId, cost, nowMs);
    if (own.outcome === 'refused') return refusedBy('local', 'visitor', own.retryAfterMs);
    const local = localKnown.take(addressPrefix(address, { v4: 32, v6: 64 }), cost, nowMs);
    return local.outcome === 'refused' ? refusedBy('local', 'address', local.retryAfterMs) : local;
  };

  return {
    shed,
    count,
    async take(request) {
      const local = shed(request);
      return local.outcome === 'refused' ? local : count(request);
    },
    async takeKnown(request) {
      const local = shedKnown(request);
      if (local.outcome === 'refused') return local;
      try {
        const taken = await takeVisitor(request.visitorId, request.cost);
        if (taken.outcome === 'refused') return refusedBy('visitor', 'visitor', taken.retryAfterMs);
      } catch {
        // As in `count`: the local limits decide alone.
        metrics.inc('limits_local_total', {});
      }
      return { outcome: 'taken' };
    },
    page(address) {
      const prefix = addressPrefix(address, { v4: 32, v6: 64 });
      const local = localPages.take(prefix, costs.page, clock.monotonicMs());
      return local.outcome === 'refused' ? refusedBy('local', 'address', local.retryAfterMs) : local;
    },
    inside(address) {
      if (localInside === undefined) return TAKEN;
      // An IPv4 address is its own network of 32 bits, so its text will do.
      const key = address.includes(':') ? addressPrefix(address, { v4: 32, v6: 64 }) : address;
      const local = localInside.take(key, 1, clock.monotonicMs());
      return local.outcome === 'refused' ? refusedBy('local', 'inside', local.retryAfterMs) : local;
    },
    joinOf(room) {
      const done = roomLimit.take(room);
      return done.outcome === 'refused' ? refusedBy('room', 'room', done.retryAfterMs) : done;
    },
    refusal: (refused) => limitRefusal(refused, buckets[refused.limit]),
    stop: () => roomLimit.stop(),
  };
};

/** What an address pays for showing tokens that are not known, from the local limit alone. */
export const tollOf =
  (limits: Limits): Toll =>
  ({ address }, cost) => {
    const taken = limits.shed({ address, cost });
    if (taken.outcome === 'refused') throw limits.refusal(taken);
  };
