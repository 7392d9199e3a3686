// What a snapshot costs Redis and how far positions are off: a line of up to ten million places of which a fifth has
// left, evenly or in clumps, measured by the script and composed by the pure functions the dispatcher uses. Then the
// sale goes on for some ticks, and every position that rises is counted.

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { aheadOf } from '../line/position.ts';
import { defaultSettings } from '../line/settings.ts';
import { LIST_MAX, type Snapshot, snapshotText } from '../line/snapshot.ts';
import type { Ask } from '../line/survey.ts';
import { median, type Row, rounded } from './report.ts';
import { type BareRedis, startBareRedis, type Value } from './resp.ts';
import { takeSnapshot } from './survey.ts';

const TICKS = 40;
/** Promoted in each of those ticks; besides, as many leave as make a fifth in half an hour. */
const PROMOTED = 1000;
const LEAVING_SHARE = 0.2 / 1800;
const SAMPLE = 1_000_000;
const KEYS = ['room', 'line', 'parked', 'withheld', 'promoted', 'active'].map((name) => `ar:{bench}:${name}`);
const [roomKey = '', lineKey = ''] = KEYS;
const MEASURE = readFileSync(new URL('../lua/room/measure.lua', import.meta.url), 'utf8');

/** mulberry32: the same line in every run. */
const dice = (seed: number) => (): number => {
  seed = (seed + 0x6d2b79f5) >>> 0;
  let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed);
  mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
  return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
};

/** Numbers 1 to `count` of which a fifth has left: each by itself, or in clumps of 50 to 550. */
const scoresOf = (count: number, isClumped: boolean): Float64Array => {
  const next = dice(count);
  let left = 0;
  const scores: number[] = [];
  for (let score = 1; score <= count; score += 1) {
    if (isClumped) left = left > 0 ? left - 1 : next() < 0.00083 ? 50 + Math.floor(next() * 500) : 0;
    const isGone = isClumped ? left > 0 : next() < 0.2;
    if (!isGone) scores.push(score);
  }
  return Float64Array.from(scores);
};

const fill = async (redis: BareRedis, scores: Float64Array, count: number): Promise<void> => {
  await redis.ask('FLUSHALL');
  const { newUsersPerMinute, graceSeconds, totalActiveUsers } = defaultSettings;
  await redis.ask(
    ...['HSET', roomKey, 'epoch', 1, 'version', 1, 'nextNumber', count, 'effectiveBurst', 1, 'head', 0],
    ...['newUsersPerMinute', newUsersPerMinute, 'graceSeconds', graceSeconds, 'recoveringUntil', 0],
    ...['totalActiveUsers', totalActiveUsers, 'settings', JSON.stringify(defaultSettings)],
  );
  let sent: Promise<Value>[] = [];
  for (let from = 0; from < scores.length; from += 1000) {
    const words: (string | number)[] = ['ZADD', lineKey];
    for (const score of scores.subarray(from, from + 1000)) words.push(score, String(score).padEnd(16, 'x'));
    sent.push(redis.ask(...words));
    if (sent.length === 100) {
      await Promise.all(sent);
      sent = [];
    }
  }
  await Promise.all(sent);
};

const measureBy =
  (redis: BareRedis, sha: string, atMs: number) =>
  ({ listMin, listedTo, scores }: Ask): Promise<Value> =>
    redis.ask('EVALSHA', sha, KEYS.length, ...KEYS, atMs, 0, listMin, LIST_MAX, listedTo, ...scores);

/** Milliseconds of Redis that the script took since the last reset, by its own statistics. */
const scriptMs = async (redis: BareRedis): Promise<number> => {
  const stats = String(await redis.ask('INFO', 'commandstats'));
  const usec = /cmdstat_evalsha:calls=\d+,usec=(\d+)/.exec(stats)?.[1];
  await redis.ask('CONFIG', 'RESETSTAT');
  return Number(usec ?? Number.NaN) / 1000;
};

type Errors = { sorted: Float64Array; inexact: number };
/** Of those who still stand; `isGone` by index in `scores`. */
const errorsOf = (snapshot: Snapshot, scores: Float64Array, isGone: Uint8Array): Errors => {
  const stride = Math.max(1, Math.floor(scores.length / SAMPLE));
  const errors: number[] = [];
  let inexact = 0;
  let ahead = 0;
  for (let index = 0; index < scores.length; index += 1) {
    if (isGone[index] === 1) continue;
    if (ahead < 1000 || index % stride === 0) {
      const off = Math.abs(aheadOf(snapshot, scores[index]!) - ahead);
      if (ahead < 1000) inexact += off === 0 ? 0 : 1;
      else errors.push(off / (ahead + 1));
    }
    ahead += 1;
  }
  return { sorted: Float64Array.from(errors).sort(), inexact };
};
const percentAt = (sorted: Float64Array, share: number): number =>
  rounded((sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0) * 100, 3);

type Gone = { from: number; to: number };
/** Who leaves in a tick besides the promoted, as stretches of indexes: one by one, or in clumps of 50 to 550. */
const stretchesOf = (next: () => number, first: number, count: number, isClumped: boolean): Gone[] => {
  const stretches: Gone[] = [];
  for (let left = Math.ceil((count - first) * LEAVING_SHARE); left > 0; ) {
    const length = isClumped ? 50 + Math.floor(next() * 500) : 1;
    const from = first + Math.floor(next() * (count - first));
    stretches.push({ from, to: Math.min(count, from + length) });
    left -= length;
  }
  return stretches;
};

type Sale = {
  rises: number;
  ms: number[];
  counts: number[];
  rounds: number[];
  last: Snapshot;
  errors: Errors;
};

/** The sale goes on: the head is promoted, others leave; how many of a sample rose, and how far all are off. */
const sellOn = async (
  redis: BareRedis,
  sha: string,
  given: { start: Snapshot; scores: Float64Array; isClumped: boolean },
): Promise<Sale> => {
  const { start, scores, isClumped } = given;
  const next = dice(7);
  const sample = Array.from({ length: 20_000 }, () => Math.floor(next() * scores.length));
  const isGone = new Uint8Array(scores.length);
  const sale: Sale = {
    ...{ rises: 0, ms: [], counts: [], rounds: [] },
    ...{ last: start, errors: { sorted: new Float64Array(), inexact: 0 } },
  };
  const promoted = Math.min(PROMOTED, Math.floor(scores.length / (2 * TICKS)));
  for (let tick = 1; tick <= TICKS; tick += 1) {
    const first = tick * promoted;
    const leaving = stretchesOf(next, first, scores.length, isClumped);
    for (const { from, to } of [{ from: first - promoted, to: first }, ...leaving]) {
      isGone.fill(1, from, to);
      await redis.ask('ZREMRANGEBYSCORE', lineKey, scores[from]!, scores[to - 1]!);
    }
    await redis.ask('CONFIG', 'RESETSTAT');
    const { snapshot, counts } = await takeSnapshot(
      sale.last,
      measureBy(redis, sha, start.atMs + tick * 1000),
    );
    sale.ms.push(await scriptMs(redis));
    sale.counts.push(Math.max(...counts));
    sale.rounds.push(counts.length);
    for (const index of sample) {
      const score = scores[index]!;
      if (isGone[index] === 0 && aheadOf(snapshot, score) > aheadOf(sale.last, score)) sale.rises += 1;
    }
    sale.last = snapshot;
  }
  sale.errors = errorsOf(sale.last, scores, isGone);
  return sale;
};

export const runPosition = async (
  quick: boolean,
): Promise<{ rows: Row[]; rounds: Row[]; conditions: string[] }> => {
  const counts = quick ? [10_000, 100_000, 1_000_000] : [10_000, 100_000, 1_000_000, 10_000_000];
  const sha = createHash('sha1').update(MEASURE).digest('hex');
  const redis = await startBareRedis();
  const rows: Row[] = [];
  const rounds: Row[] = [];
  try {
    await redis.ask('SCRIPT', 'LOAD', MEASURE);
    for (const count of counts)
      for (const left of ['uniform', 'clumped']) {
        const scores = scoresOf(count, left === 'clumped');
        await fill(redis, scores, count);
        const { snapshot, counts: first } = await takeSnapshot(undefined, measureBy(redis, sha, 1_000_000));
        const { sorted, inexact } = errorsOf(snapshot, scores, new Uint8Array(scores.length));
        const isClumped = left === 'clumped';
        const sale = await sellOn(redis, sha, { start: snapshot, scores, isClumped });
        for (const [tick, ms] of sale.ms.entries())
          rounds.push({
            ...{ places: count, left, tick, ms: rounded(ms, 3) },
            ...{ calls: sale.rounds[tick]!, 'counted in a call': sale.counts[tick]! },
          });
        rows.push({
          places: scores.length,
          left: `20 % ${left}`,
          'p50 %': percentAt(sorted, 0.5),
          'p99 %': percentAt(sorted, 0.99),
          'max %': percentAt(sorted, 1),
          'p99 % at the end': percentAt(sale.errors.sorted, 0.99),
          'max % at the end': percentAt(sale.errors.sorted, 1),
          'inexact of 1,000': inexact + sale.errors.inexact,
          rises: sale.rises,
          anchors: sale.last.anchors.length,
          'calls at first': first.length,
          'calls a tick, most': Math.max(...sale.rounds),
          'counted in a call, most': Math.max(...sale.counts),
          'ms a tick, median': rounded(median(sale.ms), 3),
          'ms, worst': rounded(Math.max(...sale.ms), 3),
          bytes: snapshotText(sale.last).length,
        });
        process.stderr.write(`  ${count} ${left}: done\n`);
      }
  } finally {
    await redis.stop();
  }
  return {
    rows,
    rounds,
    conditions: [
      `ms: all calls of room.measure in a tick by the clock (INFO commandstats); other work on the machine shows`,
      `${TICKS} ticks: in each up to ${PROMOTED} are promoted and others leave as they did before (a fifth in half an hour); 20,000 positions are compared with those of the tick before`,
      'errors are relative to the true rank, beyond the first 1,000: of a first snapshot, and of the last',
      'the redis-server is the bench’s own, without a disk, and shares the machine',
    ],
  };
};
