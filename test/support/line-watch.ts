// What a watcher can say of a room from outside: from the sets as they are, and from the entry stream alone. It
// shares no rule with the scripts; where they are wrong, this must not be wrong in the same way.

import type { Redis } from '../../kernel/redis.ts';
import { type EntryRecord, parseEntry } from '../../line/entries.ts';
import type { roomKeys } from '../../lua/room.ts';

type Keys = ReturnType<typeof roomKeys>;
const SETS = ['line', 'parked', 'withheld', 'promoted', 'active'] as const;
type SetName = (typeof SETS)[number];

export type Standing = {
  /** placeId → the sets it stands in; more than one is a broken promise. */
  sets: Map<string, SetName[]>;
  /** number → where the visit of that number is; `finished` counts as a place to be. */
  numbers: Map<number, string[]>;
  counts: Record<SetName, number>;
};

export const readStanding = async (redis: Redis, keys: Keys): Promise<Standing> => {
  // One transaction, so that nobody moves between two reads.
  const batch = redis.multi();
  for (const name of SETS) batch.zrange(keys[name], '0', '-1', 'WITHSCORES');
  batch.hgetall(keys.places);
  batch.hgetall(keys.finished);
  const replies = (await batch.exec())?.map(([error, reply]) => {
    if (error) throw error;
    return reply;
  });
  if (replies === undefined) throw new Error('the transaction was not run');
  const pairs = (reply: unknown): [string, string][] => {
    if (!Array.isArray(reply))
      return Object.entries(Object(reply)).map(([key, value]) => [key, String(value)]);
    const flat = reply.flat().map(String);
    return Array.from({ length: flat.length / 2 }, (_, index) => [flat[index * 2]!, flat[index * 2 + 1]!]);
  };
  const entries = new Map(pairs(replies[5]));
  const sets = new Map<string, SetName[]>();
  const numbers = new Map<number, string[]>();
  const add = <K>(map: Map<K, string[]>, key: K, value: string) =>
    map.set(key, [...(map.get(key) ?? []), value]);
  const counts = { line: 0, parked: 0, withheld: 0, promoted: 0, active: 0 };
  for (const [index, name] of SETS.entries())
    for (const [placeId, score] of pairs(replies[index])) {
      counts[name] += 1;
      sets.set(placeId, [...(sets.get(placeId) ?? []), name]);
      const entry = entries.get(placeId);
      const hasScore = name === 'line' || name === 'parked' || name === 'withheld';
      add(numbers, Number(entry === undefined && hasScore ? score : entry?.split(' ')[0]), name);
    }
  for (const [, number] of pairs(replies[6])) add(numbers, Number(number), 'finished');
  return { sets, numbers, counts };
};

/** Places in more than one set. */
export const inTwoSets = ({ sets }: Standing): string[] =>
  [...sets]
    .filter(([, names]) => names.length > 1)
    .map(([placeId, names]) => `${placeId} ${names.join('+')}`);

/** Numbers that are not in exactly one place, of those that were given out. */
export const notInOne = ({ numbers }: Standing, given: readonly number[]): string[] =>
  given
    .filter((number) => (numbers.get(number) ?? []).length !== 1)
    .map((number) => `${number}: ${(numbers.get(number) ?? ['nowhere']).join('+')}`);

export const readEntries = async (redis: Redis, keys: Keys): Promise<EntryRecord[]> =>
  (await redis.xrange(keys.entries, '-', '+'))
    .map(([, flat]) => parseEntry(flat))
    .filter((record): record is EntryRecord => record !== undefined);

/** Visits that were promoted again without having missed their turn in between. */
export const promotedTwice = (records: readonly EntryRecord[]): string[] => {
  const called = new Set<string>();
  const twice: string[] = [];
  for (const record of records) {
    if (record.kind === 'missed')
      for (const visit of record.visits) called.delete(`${visit.placeId} ${visit.number}`);
    if (record.kind !== 'promoted') continue;
    for (const { placeId, number } of record.visits) {
      const visit = `${placeId} ${number}`;
      if (called.has(visit)) twice.push(visit);
      called.add(visit);
    }
  }
  return twice;
};

/**
 * How far promotions ran ahead of the rate at worst, in people: a token bucket of its own over the records alone.
 * At most 0 (rounded up) when the limits were kept. A miss gives its token back; a recovery leaves none.
 */
export const aheadOfRate = (records: readonly EntryRecord[]): number => {
  let tokens = 0;
  let atMs = 0;
  let limits = { newUsersPerMinute: 0, effectiveBurst: 0 };
  let worst = Number.NEGATIVE_INFINITY;
  for (const record of records) {
    const earned = (Math.max(0, record.atMs - atMs) * limits.newUsersPerMinute) / 60_000;
    atMs = Math.max(atMs, record.atMs);
    const isFirst = limits.effectiveBurst === 0;
    tokens = Math.min(limits.effectiveBurst, tokens + earned);
    if (record.kind === 'settings' || record.kind === 'recovering') limits = record.limits;
    // Earned at the old rate and burst, clamped to the new; the first record is the room's making, with a full bucket.
    tokens = isFirst ? limits.effectiveBurst : Math.min(limits.effectiveBurst, tokens);
    if (record.kind === 'recovering') tokens = 0;
    if (record.kind === 'missed')
      tokens = Math.min(limits.effectiveBurst, tokens + record.visits.length + record.finished.length);
    if (record.kind === 'promoted') {
      tokens -= record.visits.length;
      worst = Math.max(worst, -tokens);
    }
  }
  return worst;
};
