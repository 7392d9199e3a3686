// Real dispatcher processes at a set rate. They find the room suspended with a long line, then it is opened; what
// they let in is read from the entry stream afterwards and recomputed here, with no word from the scripts about
// themselves: how fast, never more than rate × time + burst in any window, nobody twice, nobody out of order.

import { type EntryRecord, parseEntry } from '../line/entries.ts';
import { burstOf } from '../line/settings.ts';
import { type Reply, startRedis } from './redis.ts';
import { type Row, rounded } from './report.ts';
import { createRoom } from './room.ts';
import { onRedis, pause, startSystem } from './system.ts';

type Promotion = Pick<Extract<EntryRecord, { kind: 'promoted' }>, 'atMs' | 'visits' | 'parked'>;

/** The promotions in an answer to XRANGE, oldest first. */
export const promotionsIn = (reply: Reply): Promotion[] => {
  const found: Promotion[] = [];
  for (const record of Array.isArray(reply) ? reply : []) {
    const fields: unknown = record[1];
    const entry = Array.isArray(fields) ? parseEntry(fields.map(String)) : undefined;
    if (entry?.kind === 'promoted') found.push(entry);
  }
  return found;
};

export type Pace = {
  admitted: number;
  seconds: number;
  /** The fullest that a bucket of any size gets when it drains at the rate: above the burst is an overshoot. */
  bucketMax: number;
  repeats: number;
  inversions: number;
};

/**
 * Who went in between `fromMs` and `untilMs`, times by Redis. The rate is counted from one record to another, so a
 * tick at the border does not make it look faster or slower. Overshoot, repeats and order are taken over all.
 */
export const paceOf = (
  promotions: readonly Promotion[],
  options: { fromMs: number; untilMs: number; ratePerMinute: number },
): Pace => {
  const { fromMs, untilMs, ratePerMinute } = options;
  const inside = promotions.filter(({ atMs }) => atMs >= fromMs && atMs <= untilMs);
  const [first, last] = [inside[0], inside.at(-1)];
  const seen = new Set<string>();
  let [level, bucketMax, atMs, repeats, inversions, highest] = [0, 0, 0, 0, 0, Number.NEGATIVE_INFINITY];
  for (const promotion of promotions) {
    level = Math.max(0, level - ((promotion.atMs - atMs) * ratePerMinute) / 60_000) + promotion.visits.length;
    bucketMax = Math.max(bucketMax, level);
    atMs = promotion.atMs;
    for (const { placeId, number } of promotion.visits) {
      if (seen.has(placeId)) repeats += 1;
      if (number < highest) inversions += 1;
      seen.add(placeId);
      highest = Math.max(highest, number);
    }
  }
  return {
    admitted: inside.slice(1).reduce((sum, { visits }) => sum + visits.length, 0),
    seconds: first === undefined || last === undefined ? 0 : (last.atMs - first.atMs) / 1000,
    bucketMax,
    repeats,
    inversions,
  };
};

const SETTLE_MS = 2000;

export const pacedBy = async (options: {
  ratePerMinute: number;
  dispatchers: number;
  seconds: number;
}): Promise<Row> => {
  const { ratePerMinute, dispatchers, seconds } = options;
  const settings = {
    newUsersPerMinute: ratePerMinute,
    totalActiveUsers: 10_000_000,
    claimSeconds: 3600,
    suspended: true,
  };
  const redis = await startRedis({ appendOnly: false });
  const stops: (() => Promise<void>)[] = [redis.stop];
  try {
    const room = await createRoom(redis.wire, { name: 'bench', settings });
    // Half a minute more than can go in, so that the line never runs dry.
    await room.join(0, Math.ceil((ratePerMinute / 60) * (seconds + 30)));
    // One after the other: each opens its embedded stores, and together they would starve each other.
    for (let started = 0; started < dispatchers; started++) {
      const system = await startSystem({ ...onRedis(redis.url), ANTEROOM_ROLES: 'dispatcher' });
      stops.unshift(system.stop);
    }
    await room.configure({ ...settings, suspended: false });
    const clock = await redis.wire.ask(['TIME']);
    const fromMs = Number(Array.isArray(clock) ? clock[0] : 0) * 1000 + SETTLE_MS;
    await pause(SETTLE_MS + seconds * 1000 + 1000);
    const entries = await redis.wire.ask(['XRANGE', room.key('entries'), '-', '+']);
    const pace = paceOf(promotionsIn(entries), {
      fromMs,
      untilMs: fromMs + seconds * 1000,
      ratePerMinute,
    });
    const perSecond = pace.admitted / pace.seconds;
    return {
      part: `${ratePerMinute} a minute over ${seconds} s`,
      dispatchers,
      'admitted/s': rounded(perSecond, 3),
      'off the rate, %': rounded((perSecond / (ratePerMinute / 60) - 1) * 100, 3),
      'most beyond rate × time': Math.ceil(pace.bucketMax - 1e-6),
      'burst allowed': burstOf({ burst: 0, newUsersPerMinute: ratePerMinute }),
      'let in twice': pace.repeats,
      'out of order': pace.inversions,
    };
  } finally {
    for (const stop of stops) await stop();
  }
};
