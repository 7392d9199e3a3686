// What a snapshot costs Redis and how far positions are off: a line of up to ten million places of which a fifth has
// left, evenly or in clumps, measured by the script and composed by the pure functions the dispatcher uses. Then the
// sale goes on for some ticks, and every position that rises is counted.

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { isCoarse, planAnchors } from '../line/anchors.ts';
import { aheadOf } from '../line/position.ts';
import { defaultSettings } from '../line/settings.ts';
import { composeSnapshot, LIST_MAX, listMinAfter, type Snapshot, snapshotText } from '../line/snapshot.ts';
import { median, type Row, rounded } from './report.ts';
import { type BareRedis, startBareRedis, type Value } from './resp.ts';

/** As in dispatcher/measure.ts. */
const ANCHORS_MAX = 500;
const ROUNDS_MAX = 4;
const TICKS = 20;
const REPEATED = 200;
/** Promoted in each of those ticks, and leaving besides. */
const PROMOTED = 1000;
const LEAVING = 500;
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

const textsOf = (value: Value | undefined): string[] => (Array.isArray(value) ? value.map(String) : []);
const scoresIn = (value: Value | undefined): number[] =>
  typeof value === 'string' && value !== '' ? value.split(' ').map(Number) : [];

/** The reply of room.measure, as lua/room.ts reads it; the bench may not import that. */
const measuredOf = (reply: Value) => {
  const at = Array.isArray(reply) ? reply : [];
  if (at[0] !== 'measured') throw new Error(`room.measure answered ${String(at[0])}`);
  const flat = textsOf(at[2]);
  const room = new Map<string, string>();
  for (let index = 0; index + 1 < flat.length; index += 2) room.set(flat[index]!, flat[index + 1]!);
  return {
    outcome: 'measured' as const,
    atMs: Number(at[1]),
    room,
    waiting: Number(at[3]),
    parked: Number(at[4]),
    withheld: Number(at[5]),
    promoted: Number(at[6]),
    active: Number(at[7]),
    listed: scoresIn(at[8]),
    between: scoresIn(at[9]).reverse(),
    parkedBefore: Number(at[10]),
    parkedAt: textsOf(at[11]).map(Number),
    ranks: textsOf(at[12]).map(Number),
    nearScore: String(at[13]),
  };
};

type Surveyed = { snapshot: Snapshot; rounds: number };

const survey = async (
  redis: BareRedis,
  sha: string,
  before: Snapshot | undefined,
  atMs: number,
): Promise<Surveyed> => {
  let scores = before === undefined ? [] : planAnchors(before, ANCHORS_MAX);
  for (let round = 1; ; round += 1) {
    const listedTo = before?.listedTo ?? '-inf';
    const reply = await redis.ask(
      'EVALSHA',
      sha,
      KEYS.length,
      ...KEYS,
      atMs,
      0,
      listMinAfter(before),
      LIST_MAX,
      listedTo,
      ...scores,
    );
    const composed = composeSnapshot(measuredOf(reply), scores, before);
    if (composed === undefined) throw new Error('the settings of the bench are not valid');
    if (round === ROUNDS_MAX || !isCoarse(composed.snapshot, ANCHORS_MAX))
      return { snapshot: composed.snapshot, rounds: round };
    scores = planAnchors(composed.snapshot, ANCHORS_MAX);
  }
};

/** Milliseconds of Redis that the script took since the last reset, by its own statistics. */
const scriptMs = async (redis: BareRedis): Promise<number> => {
  const stats = String(await redis.ask('INFO', 'commandstats'));
  const usec = /cmdstat_evalsha:calls=\d+,usec=(\d+)/.exec(stats)?.[1];
  await redis.ask('CONFIG', 'RESETSTAT');
  return Number(usec ?? Number.NaN) / 1000;
};

/** CPU of the main thread for one count as the next tick would make it, its reply included. */
const cpuMsOf = async (redis: BareRedis, sha: string, last: Snapshot): Promise<number> => {
  const used = async (): Promise<number> => {
    const info = String(await redis.ask('INFO', 'cpu'));
    const seconds = ['user', 'sys'].map((kind) =>
      Number(new RegExp(`used_cpu_${kind}_main_thread:([\\d.]+)`).exec(info)?.[1]),
    );
    return (seconds[0]! + seconds[1]!) * 1000;
  };
  const scores = planAnchors(last, ANCHORS_MAX);
  const ask = () =>
    redis.ask(
      'EVALSHA',
      sha,
      KEYS.length,
      ...KEYS,
      1,
      0,
      listMinAfter(last),
      LIST_MAX,
      last.listedTo,
      ...scores,
    );
  await ask();
  const from = await used();
  for (let count = 0; count < REPEATED; count += 1) await ask();
  return ((await used()) - from) / REPEATED;
};

const errorsOf = (snapshot: Snapshot, scores: Float64Array): { sorted: Float64Array; inexact: number } => {
  const stride = Math.max(1, Math.floor(scores.length / SAMPLE));
  const errors: number[] = [];
  let inexact = 0;
  for (let index = 0; index < scores.length; index += index < 1000 ? 1 : stride) {
    const off = Math.abs(aheadOf(snapshot, scores[index]!) - index);
    if (index < 1000) inexact += off === 0 ? 0 : 1;
    else errors.push(off / (index + 1));
  }
  return { sorted: Float64Array.from(errors).sort(), inexact };
};
const percentAt = (sorted: Float64Array, share: number): number =>
  rounded((sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0) * 100, 3);

/** The sale goes on: the head is promoted, a stretch somewhere leaves; answers how many of a sample rose. */
const risesOver = async (redis: BareRedis, sha: string, start: Snapshot, scores: Float64Array) => {
  const next = dice(7);
  const sample = Array.from({ length: 20_000 }, () => scores[Math.floor(next() * scores.length)]!);
  let before = start;
  let rises = 0;
  const ms: number[] = [];
  let from = 0;
  const promoted = Math.min(PROMOTED, Math.floor(scores.length / (2 * TICKS)));
  for (let tick = 1; tick <= TICKS; tick += 1) {
    from += promoted;
    await redis.ask('ZREMRANGEBYSCORE', lineKey, '-inf', `(${scores[from]}`);
    const at = from + Math.floor(next() * (scores.length - from));
    const leaving = Math.min(LEAVING, promoted);
    const to = Math.min(scores.length - 1, at + leaving);
    await redis.ask('ZREMRANGEBYSCORE', lineKey, scores[at]!, scores[to]!);
    await redis.ask('CONFIG', 'RESETSTAT');
    const { snapshot, rounds } = await survey(redis, sha, before, start.atMs + tick * 1000);
    ms.push((await scriptMs(redis)) / rounds);
    for (const score of sample)
      if (score >= scores[from]! && aheadOf(snapshot, score) > aheadOf(before, score)) rises += 1;
    before = snapshot;
  }
  return { rises, ms, last: before };
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
        const { snapshot, rounds: first } = await survey(redis, sha, undefined, 1_000_000);
        const { sorted, inexact } = errorsOf(snapshot, scores);
        const sale = await risesOver(redis, sha, snapshot, scores);
        for (const [tick, ms] of sale.ms.entries())
          rounds.push({ places: count, left, tick, ms: rounded(ms, 3) });
        const cpu = await cpuMsOf(redis, sha, sale.last);
        rows.push({
          places: scores.length,
          left: `20 % ${left}`,
          'p50 %': percentAt(sorted, 0.5),
          'p99 %': percentAt(sorted, 0.99),
          'max %': percentAt(sorted, 1),
          'inexact of 1,000': inexact,
          rises: sale.rises,
          anchors: snapshot.anchors.length,
          'counts at first': first,
          'ms CPU': rounded(cpu, 3),
          'ms, best': rounded(Math.min(...sale.ms), 3),
          'ms, median': rounded(median(sale.ms), 3),
          bytes: snapshotText(sale.last).length,
        });
        process.stderr.write(`  ${count} ${left}: done\n`);
      }
  } finally {
    await redis.stop();
  }
  const msOf = (row: Row | undefined): number => Number(row?.['ms CPU']);
  return {
    rows,
    rounds,
    conditions: [
      `a snapshot of the longest line costs ${rounded(msOf(rows.at(-2)) / msOf(rows[0]))} × one of the shortest (uniform)`,
      `ms CPU: what the main thread of Redis used for a count and its reply, mean of ${REPEATED} (other work on the machine does not show)`,
      `ms, best and median: the script by the clock (INFO commandstats) in ${TICKS} ticks; other work on the machine does show`,
      `in each of those ticks up to ${PROMOTED} are promoted and ${LEAVING} in a stretch leave; 20,000 positions are compared`,
      'errors are of a first snapshot, relative to the true rank, beyond the first 1,000',
      'the redis-server is the bench’s own, without a disk, and shares the machine',
    ],
  };
};
