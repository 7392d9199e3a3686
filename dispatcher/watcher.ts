// The watcher: reads nothing but the entry stream and works out for itself what the promise of admission comes to.
// The scripts decide; this recomputes rate, cap and order from what they wrote down, with a bucket and sets of its
// own, so that a fault in a script shows in a number that must be 0. What happened before its first record it does
// not know: it then counts fewer people inside than there are, and never raises a false alarm.

import type { RoomId } from '../kernel/ids.ts';
import { parseRoomId } from '../kernel/ids.ts';
import { roomKey } from '../kernel/keys.ts';
import type { Log } from '../kernel/log.ts';
import type { Metrics } from '../kernel/metrics.ts';
import type { Redis } from '../kernel/redis.ts';
import { type Follower, followStreams } from '../kernel/stream.ts';
import { type EntryRecord, type Limits, parseEntry, type Visit } from '../line/entries.ts';

export type Findings = { overshoot: number; duplicates: number; inversions: number; adoptedOverCap: number };

/** Visits that ended, in two generations of this size: enough to know a visit that comes back too soon. */
const FINISHED_MAX = 200_000;
/** Places passed over and not back yet. Beyond this the order can no longer be judged, and is not. */
const EXCUSED_MAX = 500_000;
/** After a restart or failover Redis may have forgotten what it did in the last seconds; doing it again is no fault. */
const FORGOTTEN_MS = 10_000;
/** Ends of the last FORGOTTEN_MS that are kept with their time; beyond this nothing of before is held against anybody. */
const ENDED_LATELY_MAX = 50_000;

type RateLimits = Pick<Limits, 'newUsersPerMinute' | 'effectiveBurst' | 'totalActiveUsers'> & {
  queueingMethod: string;
};

export type Watch = {
  /** What this record adds to the findings: all 0 for a record that keeps every promise. */
  observe(record: EntryRecord): Findings;
};

export const createWatch = (): Watch => {
  let limits: RateLimits | undefined;
  // The bucket in units of 1/60000 of a promotion, as in lua/room/promote.lua; full until the first record.
  let units = 0;
  let unitsAtMs = 0;
  let inside = new Map<string, { number: number; atMs: number }>();
  let finished = new Map<string, number>();
  let finishedBefore = new Map<string, number>();
  let excused = new Set<string>();
  let passed = Number.NEGATIVE_INFINITY;
  let isOrderKnown = true;
  let endedLately: { placeId: string; number: number; atMs: number }[] = [];

  const earn = (atMs: number): void => {
    if (limits === undefined) return;
    units = Math.min(
      limits.effectiveBurst * 60_000,
      units + Math.max(0, atMs - unitsAtMs) * limits.newUsersPerMinute,
    );
    unitsAtMs = atMs;
  };
  const adoptLimits = (next: RateLimits, atMs: number): void => {
    earn(atMs);
    const isFirst = limits === undefined;
    limits = next;
    units = isFirst ? next.effectiveBurst * 60_000 : Math.min(units, next.effectiveBurst * 60_000);
    unitsAtMs = atMs;
  };
  const finish = ({ placeId, number }: Visit, atMs: number): void => {
    endedLately.push({ placeId, number, atMs });
    if (endedLately.length > 2 * ENDED_LATELY_MAX) endedLately = endedLately.slice(-ENDED_LATELY_MAX);
    if (inside.get(placeId)?.number === number) inside.delete(placeId);
    excused.delete(placeId);
    if (finished.size >= FINISHED_MAX) {
      finishedBefore = finished;
      finished = new Map();
    }
    finished.set(placeId, Math.max(number, finished.get(placeId) ?? 0));
  };
  const excuse = (placeId: string): void => {
    if (excused.size < EXCUSED_MAX) excused.add(placeId);
    else isOrderKnown = false;
  };
  const isDuplicate = ({ placeId, number }: Visit): boolean => {
    const held = inside.get(placeId);
    if (held !== undefined && held.number >= number) return true;
    return (finished.get(placeId) ?? finishedBefore.get(placeId) ?? 0) >= number;
  };
  const forget = (): void => {
    endedLately = [];
    inside = new Map();
    finished = new Map();
    finishedBefore = new Map();
    excused = new Set();
    passed = Number.NEGATIVE_INFINITY;
    isOrderKnown = true;
  };

  /** What Redis may not know of any more: it may happen again, and whoever is inside of it takes no slot there. */
  const forgetSince = (fromMs: number): void => {
    for (const [placeId, { atMs }] of inside) if (atMs >= fromMs) inside.delete(placeId);
    for (const { placeId, number, atMs } of endedLately) {
      if (atMs < fromMs) continue;
      for (const ends of [finished, finishedBefore]) if (ends.get(placeId) === number) ends.delete(placeId);
    }
    if (endedLately.length >= ENDED_LATELY_MAX) {
      finished = new Map();
      finishedBefore = new Map();
    }
    endedLately = [];
  };

  const promoted = (record: Extract<EntryRecord, { kind: 'promoted' }>, found: Findings): void => {
    const { atMs, visits, parked } = record;
    if (limits === undefined) adoptLimits(record.limits, atMs);
    const rules = limits ?? record.limits;
    earn(atMs);
    units -= visits.length * 60_000;
    const overRate = units < 0 ? Math.ceil(-units / 60_000) : 0;
    units = Math.max(0, units);
    for (const visit of visits) if (isDuplicate(visit)) found.duplicates += 1;
    const before = inside.size;
    for (const { placeId, number } of visits) inside.set(placeId, { number, atMs });
    const free = Math.max(0, rules.totalActiveUsers - before);
    const overCap = Math.max(0, inside.size - before - free);
    found.overshoot += Math.max(overRate, overCap);
    for (const placeId of parked) excuse(placeId);
    const isInOrder = rules.queueingMethod !== 'random' && isOrderKnown;
    for (const { placeId, number, score = number } of visits) {
      // Whoever was passed over, released or missed a claim comes back with the old score: that is the promise.
      const hadReason = excused.delete(placeId);
      if (isInOrder && score < passed && !hadReason) found.inversions += 1;
      if (rules.queueingMethod !== 'random') passed = Math.max(passed, score);
    }
  };

  return {
    observe(record) {
      const found: Findings = { overshoot: 0, duplicates: 0, inversions: 0, adoptedOverCap: 0 };
      switch (record.kind) {
        case 'promoted':
          promoted(record, found);
          break;
        case 'missed': {
          const { visits, finished: gone } = record;
          // A miss gives its token back. Time is not counted here: the script does not either.
          if (limits !== undefined)
            units = Math.min(limits.effectiveBurst * 60_000, units + (visits.length + gone.length) * 60_000);
          for (const { placeId } of visits) {
            inside.delete(placeId);
            excuse(placeId);
          }
          for (const visit of gone) finish(visit, record.atMs);
          break;
        }
        case 'ended':
        case 'left':
          for (const visit of record.visits) finish(visit, record.atMs);
          break;
        case 'released':
          for (const placeId of record.places) excuse(placeId);
          break;
        case 'adopted':
          for (const { placeId, number } of record.visits) {
            inside.set(placeId, { number, atMs: record.atMs });
            if (limits !== undefined && inside.size > limits.totalActiveUsers) found.adoptedOverCap += 1;
          }
          break;
        case 'settings':
          adoptLimits(record.limits, record.atMs);
          if (record.isNewSale) forget();
          break;
        case 'recovering':
          adoptLimits(record.limits, record.atMs);
          units = 0;
          if (record.reason === 'lost' || record.reason === 'older') forget();
          else forgetSince(record.atMs - FORGOTTEN_MS);
          passed = record.head;
          break;
        case 'clock':
          unitsAtMs = Math.min(unitsAtMs, record.atMs);
          break;
        case 'over':
          forget();
          break;
        default:
          break;
      }
      return found;
    },
  };
};

/** Follows every room it is told of, from the oldest record there is, and exports what it finds. */
export const createWatcher = (options: {
  /** A connection of its own, made with `blocking`. */
  reader: Redis;
  redis: Redis;
  log: Log;
  metrics: Metrics;
}): { follow(room: RoomId): Promise<void>; stop(): void } => {
  const { reader, redis, log, metrics } = options;
  const watches = new Map<RoomId, Watch>();
  const roomOf = (key: string): RoomId | undefined => parseRoomId(/^ar:\{(.+)\}:entries$/.exec(key)?.[1]);
  const follower: Follower = followStreams({
    redis: reader,
    lookup: redis,
    log,
    record: (key, id, flat) => {
      const room = roomOf(key);
      const record = parseEntry(flat);
      const watch = room === undefined ? undefined : watches.get(room);
      if (room === undefined || record === undefined || watch === undefined) return;
      const found = watch.observe(record);
      metrics.inc('overshoot_total', { room }, found.overshoot);
      metrics.inc('duplicate_promotion_total', { room }, found.duplicates);
      metrics.inc('inversion_total', { room }, found.inversions);
      metrics.inc('adopted_over_cap_total', { room }, found.adoptedOverCap);
      if (found.overshoot + found.duplicates + found.inversions > 0)
        log.error('promise-broken', { room, id, ...found });
    },
    // Records are missing, or Redis lost some: nothing that was known is sure any more.
    gap: (key) => {
      const room = roomOf(key);
      if (room !== undefined) watches.set(room, createWatch());
    },
  });
  return {
    async follow(room) {
      if (watches.has(room)) return;
      await follower.add(roomKey(room, 'entries'), 'start');
      watches.set(room, createWatch());
    },
    stop: () => follower.stop(),
  };
};
