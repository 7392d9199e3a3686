// What letting people in costs, and whether the rate is kept. Three parts: Redis's time a promotion, against the
// least that any promotion does (take one from a sorted set, add it to another); a lump of ghosts at the head; and
// real dispatcher processes at a set rate, recomputed from the entry stream alone.

import { pin } from './machine.ts';
import { pacedBy, promotionsIn } from './paced.ts';
import { type BenchRedis, commandStat, pipeline, redisCpuSeconds, startRedis, type Word } from './redis.ts';
import { type Row, rounded } from './report.ts';
import { type BenchRoom, createRoom, placeIdOf } from './room.ts';
import { interleave, medianOf, ratioOf, STEAL_MAX } from './rounds.ts';
import { onRedis, pause, startSystem } from './system.ts';

/** Far more than the script's own bound of 500, so that the bound is what is seen. */
const ASKED_MAX = 10_000;
const FILL_BATCH = 1000;
const LUMP_MS_MAX = 120_000;
/** The script's own bound on places a call. */
const EXAMINED_MAX = 500;
/** By how much the script's clock goes on from call to call: about what a call takes. */
const CALL_MS = 5;

/** The bucket never runs empty: what is measured is the work, not the waiting. */
const settings = {
  newUsersPerMinute: 6_000_000,
  burst: 1_000_000,
  totalActiveUsers: 10_000_000,
  claimSeconds: 3600,
  graceSeconds: 600,
};

/** Puts places straight into the line, in order: what is measured is leaving it. */
const fillLine = (redis: BenchRedis, room: BenchRoom, count: number): Promise<void> => {
  const commands = function* (): Generator<Word[]> {
    for (let from = 0; from < count; from += FILL_BATCH) {
      const words: Word[] = ['ZADD', room.key('line')];
      for (let index = from; index < Math.min(count, from + FILL_BATCH); index++)
        words.push(index + 1, placeIdOf(index));
      yield words;
    }
  };
  return pipeline(redis.wire, commands(), { under: 8 });
};

/** Every second place, or every place, was heard from at `nowMs`; the rest are ghosts. */
const fillHere = (redis: BenchRedis, room: BenchRoom, options: { count: number; nowMs: number }) => {
  const commands = function* (): Generator<Word[]> {
    yield ['HSET', room.key('room'), 'hereAt', options.nowMs];
    for (let from = 0; from < options.count; from += FILL_BATCH) {
      const words: Word[] = ['ZADD', room.key('here')];
      for (let index = from; index < Math.min(options.count, from + FILL_BATCH); index += 2)
        words.push(options.nowMs, placeIdOf(index));
      yield words;
    }
  };
  return pipeline(redis.wire, commands(), { under: 8 });
};

type Part = 'floor: ZPOPMIN and ZADD, pipelined' | 'all go in, presence unknown' | 'half of them ghosts';
const parts: readonly Part[] = [
  'floor: ZPOPMIN and ZADD, pipelined',
  'all go in, presence unknown',
  'half of them ghosts',
];

type PromoteSlice = {
  promoted: number;
  /** Promoted and parked. */
  examined: number;
  calls: number;
  /** Most places one call looked at. */
  examinedMax: number;
  /** CPU of Redis's main thread, reading and writing included. */
  cpuSeconds: number;
  /** Time inside the commands, as Redis counts it. */
  commandMicros: number;
  slowestMs: number;
};

const plainMoves = function* (room: BenchRoom, count: number): Generator<Word[]> {
  for (let index = 0; index < count; index++) {
    yield ['ZPOPMIN', room.key('line')];
    // A deadline for as many as one call of the script gives the same one.
    yield ['ZADD', room.key('promoted'), Math.floor(index / EXAMINED_MAX), placeIdOf(index)];
  }
};

const countOf = (value: unknown): number => Number(value);

/** Calls promote until the line is empty, one call after the other, as a dispatcher does. */
const promoteAll = async (room: BenchRoom, nowMs: number) => {
  const seen = { promoted: 0, examined: 0, calls: 0, examinedMax: 0, slowestMs: 0 };
  for (;;) {
    const begun = performance.now();
    const [word, promoted, parked] = await room.run(
      'promote',
      { nowMs: nowMs + seen.calls * CALL_MS, promoteMax: ASKED_MAX, examineMax: ASKED_MAX },
      { wanted: ['promoted', 'idle'] },
    );
    if (word === 'idle') return seen;
    seen.slowestMs = Math.max(seen.slowestMs, performance.now() - begun);
    seen.calls += 1;
    seen.promoted += countOf(promoted);
    seen.examined += countOf(promoted) + countOf(parked);
    seen.examinedMax = Math.max(seen.examinedMax, countOf(promoted) + countOf(parked));
  }
};

const runPart = async (
  redis: BenchRedis,
  room: BenchRoom,
  options: { part: Part; count: number },
): Promise<PromoteSlice> => {
  const { part, count } = options;
  const { wire } = redis;
  const nowMs = Date.now();
  for (const name of ['line', 'promoted', 'places', 'entries', 'parked', 'here'])
    await wire.ask(['DEL', room.key(name)]);
  await wire.ask(['HDEL', room.key('room'), 'hereAt']);
  // Tokens are counted in 1/60000 of a place.
  await wire.ask(['HSET', room.key('room'), 'tokens', settings.burst * 60_000, 'tokensAt', nowMs]);
  await fillLine(redis, room, count);
  if (part === 'half of them ghosts') await fillHere(redis, room, { count, nowMs });

  const isFloor = part === 'floor: ZPOPMIN and ZADD, pipelined';
  const spent = async (): Promise<number> => {
    let micros = 0;
    for (const command of isFloor ? ['zpopmin', 'zadd'] : ['evalsha'])
      micros += (await commandStat(wire, command)).micros;
    return micros;
  };
  const [cpuBefore, spentBefore] = [await redisCpuSeconds(wire), await spent()];
  let seen = { promoted: count, examined: count, calls: count, examinedMax: 1, slowestMs: 0 };
  if (isFloor) await pipeline(wire, plainMoves(room, count), { under: 1000 });
  else seen = await promoteAll(room, nowMs);
  const expected = part === 'half of them ghosts' ? count / 2 : count;
  if (seen.promoted !== expected)
    throw new Error(`${part}: ${seen.promoted} went in where ${expected} should have`);
  return {
    ...seen,
    cpuSeconds: (await redisCpuSeconds(wire)) - cpuBefore,
    commandMicros: (await spent()) - spentBefore,
  };
};

/** Redis's time a promotion, in rounds. */
const measureCost = async (quick: boolean) => {
  const redis = await startRedis({ appendOnly: false });
  try {
    const isPinned = pin(redis.pid, 0);
    const room = await createRoom(redis.wire, { name: 'bench', settings });
    const count = quick ? 20_000 : 100_000;
    for (const part of parts) await runPart(redis, room, { part, count: 10_000 });
    const done = await interleave<PromoteSlice>({
      subjects: parts,
      rounds: quick ? 5 : 7,
      slice: (subject) => runPart(redis, room, { part: parts.find((part) => part === subject)!, count }),
      rowOf: (slice) => ({
        promoted: slice.promoted,
        examined: slice.examined,
        calls: slice.calls,
        cpuSeconds: rounded(slice.cpuSeconds, 3),
        commandSeconds: rounded(slice.commandMicros / 1e6, 3),
        examinedMax: slice.examinedMax,
        slowestMs: rounded(slice.slowestMs),
      }),
    });
    const micros = (slice: PromoteSlice): number => (slice.cpuSeconds / slice.promoted) * 1e6;
    const rows = parts.map((part): Row => {
      const of = (read: (slice: PromoteSlice) => number): number => medianOf(done, part, read);
      return {
        part,
        'promotions/s of Redis CPU': Math.round(of((slice) => slice.promoted / slice.cpuSeconds)),
        'places/s of Redis CPU': Math.round(of((slice) => slice.examined / slice.cpuSeconds)),
        'places/s inside commands': Math.round(of((slice) => (slice.examined / slice.commandMicros) * 1e6)),
        'µs CPU each': rounded(of(micros)),
        'CPU × floor': rounded(ratioOf(done, { of: part, to: parts[0]!, read: micros })),
        ...(part === parts[0]
          ? {}
          : {
              'examined a call, most': Math.max(...done.kept.map((slices) => slices.get(part)!.examinedMax)),
              'mean ms CPU a call': rounded(
                of((slice) => (slice.cpuSeconds / slice.calls) * 1000),
                3,
              ),
              'slowest ms, wall': rounded(of((slice) => slice.slowestMs)),
            }),
      };
    });
    return {
      rows,
      rounds: done.rows,
      conditions: [
        `${count} places a slice; ${done.kept.length} interleaved rounds kept, ${done.dropped} dropped for more than ${STEAL_MAX * 100} % steal; medians`,
        `Redis without an append-only file${isPinned ? ', pinned to core 0' : ''}; the script's clock goes on by ${CALL_MS} ms a call and its bucket is full`,
        `each call asks for ${ASKED_MAX} places; the script looks at no more than its own bound`,
      ],
    };
  } finally {
    await redis.stop();
  }
};

/** Ghosts at the head and one present person behind them; a real dispatcher, as often as it ticks. */
const measureLump = async (ghosts: number): Promise<Row> => {
  const redis = await startRedis({ appendOnly: false });
  try {
    const room = await createRoom(redis.wire, { name: 'bench', settings });
    await fillLine(redis, room, ghosts + 1);
    const present = placeIdOf(ghosts);
    const hear = () => room.run('here', { nowMs: '' }, { wanted: ['noted'], list: [present] });
    await hear();
    const before = await commandStat(redis.wire, 'evalsha');
    const begun = performance.now();
    const system = await startSystem({ ...onRedis(redis.url), ANTEROOM_ROLES: 'dispatcher' });
    let firstSeenAt = 0;
    try {
      const until = begun + LUMP_MS_MAX;
      while ((await redis.wire.ask(['ZSCORE', room.key('promoted'), present])) === null) {
        if (performance.now() > until) throw new Error('the present person never went in');
        if (firstSeenAt === 0 && (await redis.wire.ask(['EXISTS', room.key('parked')])) === 1)
          firstSeenAt = performance.now();
        await pause(20);
      }
      const seconds = (performance.now() - firstSeenAt) / 1000;
      const after = await commandStat(redis.wire, 'evalsha');
      const entries = await redis.wire.ask(['XRANGE', room.key('entries'), '-', '+']);
      const examined = promotionsIn(entries).map(({ visits, parked }) => visits.length + parked.length);
      return {
        part: `${ghosts} ghosts at the head, one dispatcher`,
        'seconds until the present person is in': rounded(seconds),
        calls: examined.length,
        'examined a call, most': Math.max(...examined),
        'mean ms a call': rounded((after.micros - before.micros) / 1000 / examined.length, 3),
      };
    } finally {
      await system.stop();
    }
  } finally {
    await redis.stop();
  }
};

export const runPromote = async (
  quick: boolean,
): Promise<{ rows: Row[]; rounds: Row[]; conditions: string[] }> => {
  const cost = await measureCost(quick);
  process.stderr.write('  ghosts\n');
  const lump = await measureLump(quick ? 100_000 : 1_000_000);
  const seconds = quick ? 10 : 60;
  const paced: Row[] = [];
  for (const { ratePerMinute, dispatchers } of [
    { ratePerMinute: 60_000, dispatchers: 1 },
    { ratePerMinute: 60_000, dispatchers: 3 },
    { ratePerMinute: 6000, dispatchers: 3 },
  ]) {
    process.stderr.write(`  ${ratePerMinute} a minute, ${dispatchers} dispatcher(s), ${seconds} s\n`);
    paced.push(await pacedBy({ ratePerMinute, dispatchers, seconds }));
  }
  return {
    rows: [...cost.rows, lump, ...paced],
    rounds: cost.rounds,
    conditions: cost.conditions,
  };
};
