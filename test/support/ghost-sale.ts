// A sale in virtual time with people who are there and ghosts, who joined and went away: the real scripts on a real
// Redis, called as the dispatcher calls them, with presence written as the broker writes it. It tells how full the
// room was of people, by the sets, and how much one call of promote examined at most.

import { createSurveyor } from '../../dispatcher/measure.ts';
import type { RoomId } from '../../kernel/ids.ts';
import { createMetrics } from '../../kernel/metrics.ts';
import type { Redis } from '../../kernel/redis.ts';
import { defaultSettings, type Settings } from '../../line/settings.ts';
import * as scripts from '../../lua/room.ts';
import { lastPromoted } from './promoted.ts';
import type { random } from './random.ts';

export const TICK_MS = 200;
/** What one call of promote is taken to last; lua/room/promote.lua at 500 places took less (bench promote). */
const CALL_MS = 5;
const HERE_MAX = 500;
/** Half as often as a dispatcher, which leaves brokers less time than they have. */
const SURVEY_MS = 2000;

export type GhostSale = {
  /** Share of the cap that was active, over the whole sale and since the cap was first reached. */
  use: number;
  useSinceFull: number;
  /** Most places that one call promoted and parked. */
  examinedMost: number;
  calls: number;
  parked: number;
  ghostsPromoted: number;
  /** People who were passed over although they were there. */
  peopleParked: number;
  entered: number;
};

export const placeName = (number: number): string => `p${number}`.padEnd(16, '_');
const numberIn = (placeId: string): number => Number.parseInt(placeId.slice(1), 10);

/**
 * Runs `minutes` of a sale whose line is filled, and before it half a minute until it opens. Numbers are scores, and
 * `people` are those there, ascending.
 */
export const runGhostSale = async (options: {
  redis: Redis;
  room: RoomId;
  settings: Settings;
  people: readonly number[];
  isThere: (number: number) => boolean;
  minutes: number;
  staySeconds: readonly [least: number, most: number];
  dice: ReturnType<typeof random>;
}): Promise<GhostSale> => {
  const { redis, room, settings, people, isThere, dice } = options;
  const keys = scripts.roomKeys(room);
  const openMs = settings.opensAt;
  let nowMs = openMs - 30_000;
  const untilMs = openMs + options.minutes * 60_000;
  const metrics = createMetrics({ processMetrics: false });
  const surveyor = createSurveyor({ config: { snapshotMs: 1000 }, redis, metrics, nowMs: () => nowMs });
  const result = { examinedMost: 0, calls: 0, parked: 0, ghostsPromoted: 0, peopleParked: 0, entered: 0 };

  // What brokers do: whoever is near their turn is written down every third of the grace, whoever was parked at
  // once; and while they hold anybody's stream they say every third of the grace that presence is known.
  const near: { number: number; hereAtMs: number }[] = [];
  let nearTo = 0;
  const gone = new Set<number>();
  const returning = new Set<string>();
  let saidAtMs = Number.NEGATIVE_INFINITY;
  const sweep = (nearScore: number): void => {
    while (nearTo < people.length && people[nearTo]! <= nearScore)
      near.push({ number: people[nearTo++]!, hereAtMs: Number.NEGATIVE_INFINITY });
    for (const one of near.splice(0)) {
      if (gone.has(one.number)) continue;
      near.push(one);
      if (nowMs - one.hereAtMs < (settings.graceSeconds * 1000) / 3) continue;
      one.hereAtMs = nowMs;
      returning.add(placeName(one.number));
    }
  };
  const writeHere = async (): Promise<void> => {
    const isDue = nowMs - saidAtMs >= (settings.graceSeconds * 1000) / 3;
    if (returning.size === 0 && !isDue) return;
    const placeIds = [...returning];
    returning.clear();
    saidAtMs = nowMs;
    for (let from = 0; from === 0 || from < placeIds.length; from += HERE_MAX)
      await scripts.here.run(redis, keys, { nowMs, placeIds: placeIds.slice(from, from + HERE_MAX) });
  };

  const called: string[] = [];
  const leaving = new Map<number, string[]>();
  const promoteAll = async (): Promise<boolean> => {
    const until = nowMs + TICK_MS;
    while (nowMs < until) {
      const done = await scripts.promote.run(redis, keys, { nowMs, promoteMax: 500, examineMax: 500 });
      nowMs += CALL_MS;
      result.calls += 1;
      if (done.outcome !== 'promoted') return true;
      result.examinedMost = Math.max(result.examinedMost, done.promoted + done.parked);
      result.parked += done.parked;
      const { placeIds, parked } = await lastPromoted(redis, keys);
      for (const placeId of placeIds)
        if (isThere(numberIn(placeId))) called.push(placeId);
        else result.ghostsPromoted += 1;
      for (const placeId of parked) {
        if (!isThere(numberIn(placeId))) continue;
        returning.add(placeId);
        result.peopleParked += 1;
      }
      if (!done.more) return true;
    }
    return false;
  };
  const claimAll = async (): Promise<void> => {
    for (const placeId of called.splice(0)) {
      const number = numberIn(placeId);
      const done = await scripts.claim.run(redis, keys, {
        nowMs,
        placeId,
        number,
        shownSerial: '',
        visitor: 'a:AAAAAAAAAAAAAAAAAAAAAA',
      });
      if (done.outcome !== 'claimed')
        throw new Error(`${placeId} claims in time and is answered ${done.outcome}`);
      result.entered += 1;
      gone.add(number);
      const [least, most] = options.staySeconds;
      const tick = Math.ceil((nowMs + (least + dice.next() * (most - least)) * 1000) / TICK_MS);
      leaving.set(tick, [...(leaving.get(tick) ?? []), placeId]);
    }
  };
  const leaveAll = async (): Promise<void> => {
    for (const [tick, placeIds] of leaving) {
      if (tick * TICK_MS > nowMs) continue;
      leaving.delete(tick);
      for (const placeId of placeIds)
        await scripts.end.run(redis, keys, { nowMs, placeId, number: numberIn(placeId), reason: 'done' });
    }
  };

  let [usedMs, sinceFullMs, fullFromMs] = [0, 0, Number.POSITIVE_INFINITY];
  let surveyedMs = Number.NEGATIVE_INFINITY;
  while (nowMs < untilMs) {
    const begunMs = nowMs;
    await claimAll();
    await leaveAll();
    await writeHere();
    const isDone = await promoteAll();
    const [active] = await Promise.all([
      redis.zcard(keys.active),
      scripts.reap.run(redis, keys, { nowMs, reapMax: 500, entriesMax: 1000 }),
    ]);
    if (nowMs - surveyedMs >= SURVEY_MS) {
      surveyedMs = nowMs;
      const snapshot = await surveyor.measure(room);
      if (snapshot !== undefined) sweep(snapshot.nearScore);
    }
    if (isDone) nowMs = Math.max(nowMs, begunMs + TICK_MS);
    if (begunMs >= openMs) usedMs += active * (nowMs - begunMs);
    if (nowMs > fullFromMs) sinceFullMs += active * (nowMs - begunMs);
    else if (active + called.length >= settings.totalActiveUsers) fullFromMs = nowMs;
  }
  const shareOf = (activeMs: number, ms: number) => activeMs / (ms * settings.totalActiveUsers);
  return {
    ...result,
    use: shareOf(usedMs, nowMs - openMs),
    useSinceFull: shareOf(sinceFullMs, nowMs - fullFromMs),
  };
};

const T0 = 1_800_000_000_000;

/** A sale whose line begins with a lump of ghosts, who joined first and went away; the people stand behind it. */
export const runLumpSale = async (options: {
  redis: Redis;
  room: RoomId;
  lump: number;
  people: number;
  minutes: number;
  dice: ReturnType<typeof random>;
}): Promise<GhostSale> => {
  const { redis, room, lump, people, minutes, dice } = options;
  const keys = scripts.roomKeys(room);
  const settings: Settings = {
    ...defaultSettings,
    newUsersPerMinute: 600,
    burst: 50,
    totalActiveUsers: 100,
    graceSeconds: 30,
    opensAt: T0,
    prequeueStartsAt: T0 - 700_000,
  };
  await scripts.configure.run(redis, keys, {
    nowMs: T0 - 600_000,
    version: 1,
    settings: JSON.stringify(settings),
    create: 1,
  });
  // As join would leave them, ten minutes ago: a place whose score is its number has no entry of its own.
  for (let number = 1; number <= lump + people; ) {
    const flat: (string | number)[] = [];
    for (let index = 0; index < 1000 && number <= lump + people; index += 1, number += 1)
      flat.push(number, placeName(number));
    await redis.zadd(keys.line, ...flat);
  }
  await redis.hset(keys.room, 'nextNumber', lump + people);
  const done = await runGhostSale({
    redis,
    room,
    settings,
    dice,
    people: Array.from({ length: people }, (_, index) => lump + index + 1),
    isThere: (number) => number > lump,
    minutes,
    staySeconds: [30, 90],
  });
  await redis.unlink(...Object.values(keys));
  return done;
};
