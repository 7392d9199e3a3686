// What a join costs: every request is a new visitor at an address of its own, so it goes through the limits, the
// bots and the script of the line, and grows the line. Beside it in the same rounds: a raw POST with an answer as
// long, a naive server (bench/naive.ts), and redis-benchmark on the same script in full batches.

import { execFile } from 'node:child_process';
import { browserHeaders } from './fan.ts';
import type { Load } from './load.ts';
import { cpuSecondsOf } from './machine.ts';
import { type BenchRedis, commandStat, type Reply, startRedis } from './redis.ts';
import { median, type Row, rounded } from './report.ts';
import { type BenchRoom, createRoom, JOIN_BATCH } from './room.ts';
import {
  loaded,
  loadSlice,
  medianOf,
  pinAll,
  type Rounds,
  ratioOf,
  roundsFor,
  runRounds,
  type Slice,
  type Subject,
} from './rounds.ts';
import { onRedis, pause, type Running, startFloor, startNaive, startSystem } from './system.ts';

const ROOM = 'demo';
/** Enough under way at once that the gateway can fill its batches. */
const CONNECTIONS = 256;
/** Calls of a script that take longer are kept by Redis with their time; single commands are faster. */
const SLOW_MICROS = 30;
const SLOW_KEPT_MAX = 100_000;
/** redis-benchmark reads its range with atoi: what is larger becomes 0, and then every id is the same one. */
const TOOL_RANGE = 2 ** 31 - 1;
const names = {
  floor: 'floor: POST',
  naive: 'naive: ZADD and ZRANK',
  join: 'join: a new visitor each',
  redis: `redis-benchmark, ${JOIN_BATCH} a call`,
  paced: "the same script at the gateway's pace",
} as const;

const loadOn = (base: string): Load => ({
  base,
  method: 'POST',
  path: `/v1/rooms/${ROOM}/places`,
  body: '{}',
  headers: { ...browserHeaders, 'content-type': 'application/json' },
  addresses: true,
});

const runTool = (file: string, words: readonly string[]): Promise<void> =>
  new Promise((resolve, reject) => {
    execFile(file, words, { maxBuffer: 1 << 24 }, (error, _written, complaint) => {
      if (error !== null) reject(new Error(`${file}: ${complaint || error.message}`));
      else resolve();
    });
  });

/**
 * One slice of redis-benchmark on room.join. The tool puts twelve random digits where it sees `__rand_int__`, so
 * nearly every visitor is new; that the line grew by so many is checked. Its digits follow from time(2) ^ getpid(2)
 * (srandom in redis-benchmark.c), which can be the same for two runs, so each slice has letters of its own before them.
 * The tool cannot be told a time, so the number of calls follows the last slice.
 */
const toolSlice = (redis: BenchRedis, room: BenchRoom, micros: number[]) => {
  let callsPerSecond = 200;
  let count = 0;
  return async ({ seconds }: { seconds: number }): Promise<Slice> => {
    count += 1;
    const ids = Array.from({ length: JOIN_BATCH }, () => `A${String(count).padStart(3, '0')}__rand_int__`);
    const calls = Math.ceil(callsPerSecond * seconds);
    const lengthBefore = Number(await redis.wire.ask(['ZCARD', room.key('line')]));
    const [cpuBefore, before] = [cpuSecondsOf(redis.pid), await commandStat(redis.wire, 'evalsha')];
    const begun = performance.now();
    const words = ['-p', String(redis.port), '-c', '4', '-n', String(calls), '-r', String(TOOL_RANGE), '-q'];
    await runTool('redis-benchmark', [...words, ...room.joinCall(ids).map(String)]);
    const took = (performance.now() - begun) / 1000;
    const after = await commandStat(redis.wire, 'evalsha');
    const joins = calls * JOIN_BATCH;
    const grown = Number(await redis.wire.ask(['ZCARD', room.key('line')])) - lengthBefore;
    if (grown < 0.99 * joins)
      throw new Error(`redis-benchmark: ${joins} joins made the line ${grown} longer`);
    callsPerSecond = calls / took;
    micros.push((after.micros - before.micros) / joins);
    return {
      perSecond: joins / took,
      p99Ms: 0,
      cpuMicros: 0,
      loadMicros: 0,
      redisMicros: ((cpuSecondsOf(redis.pid) - cpuBefore) / joins) * 1e6,
    };
  };
};

/** Calls a second, and visitors a call, as the gateway made them in its last slice. */
type Pace = { callsPerSecond: number; batch: number };

/**
 * The same calls as redis-benchmark's, as far apart and as long as the gateway's were: a call that comes after a pause
 * finds the caches of the core full of other things, and costs more than one that follows another.
 */
const pacedSlice = (redis: BenchRedis, room: BenchRoom, pace: Pace, micros: number[]) => {
  const someId = (): string => `BBBB${String(Math.floor(Math.random() * 1e12)).padStart(12, '0')}`;
  return async ({ seconds }: { seconds: number }): Promise<Slice> => {
    const { callsPerSecond, batch } = pace;
    const calls = Math.ceil(callsPerSecond * seconds);
    const lengthBefore = Number(await redis.wire.ask(['ZCARD', room.key('line')]));
    const [cpuBefore, before] = [cpuSecondsOf(redis.pid), await commandStat(redis.wire, 'evalsha')];
    const begun = performance.now();
    for (let call = 0; call < calls; call += 1) {
      await pause(Math.max(0, begun + (call / callsPerSecond) * 1000 - performance.now()));
      await redis.wire.ask(room.joinCall(Array.from({ length: batch }, someId)));
    }
    const took = (performance.now() - begun) / 1000;
    const after = await commandStat(redis.wire, 'evalsha');
    const joins = calls * batch;
    const grown = Number(await redis.wire.ask(['ZCARD', room.key('line')])) - lengthBefore;
    if (grown < 0.99 * joins) throw new Error(`paced: ${joins} joins made the line ${grown} longer`);
    micros.push((after.micros - before.micros) / joins);
    return {
      perSecond: joins / took,
      p99Ms: 0,
      cpuMicros: 0,
      loadMicros: 0,
      redisMicros: ((cpuSecondsOf(redis.pid) - cpuBefore) / joins) * 1e6,
    };
  };
};

/** Visitors and microseconds of the calls of room.join in an answer to SLOWLOG GET. */
const joinsIn = (log: Reply, room: BenchRoom): { visitors: number; micros: number; calls: number } => {
  const sum = { visitors: 0, micros: 0, calls: 0 };
  for (const entry of Array.isArray(log) ? log : []) {
    const words: string[] = Array.isArray(entry[3]) ? entry[3].map(String) : [];
    if (words[0]?.toUpperCase() !== 'EVALSHA' || words[1] !== room.scripts.join.sha) continue;
    // Redis keeps 31 arguments and says how many more there were.
    const more = /^\.\.\. \((\d+) more arguments\)$/.exec(words.at(-1) ?? '')?.[1];
    const count = more === undefined ? words.length : words.length - 1 + Number(more);
    sum.visitors += room.visitorsOf(count);
    sum.micros += Number(entry[2]);
    sum.calls += 1;
  }
  return sum;
};

type InScript = { microsEach: number[]; batch: number[] };

const joinSubject = (
  system: Running,
  { redis, room, inScript, pace }: { redis: BenchRedis; room: BenchRoom; inScript: InScript; pace: Pace },
): Subject => ({
  name: names.join,
  floor: names.floor,
  async slice(options) {
    await redis.wire.ask(['SLOWLOG', 'RESET']);
    const slice = await loadSlice(
      { pid: system.pid, redisPid: redis.pid, status: 201, load: loadOn(system.base) },
      options,
    );
    const seen = joinsIn(await redis.wire.ask(['SLOWLOG', 'GET', '-1']), room);
    if (seen.visitors > 0) {
      inScript.microsEach.push(seen.micros / seen.visitors);
      inScript.batch.push(seen.visitors / seen.calls);
      pace.batch = Math.max(1, Math.round(seen.visitors / seen.calls));
      pace.callsPerSecond = slice.perSecond / pace.batch;
    }
    return slice;
  },
});

/** The three ratios the design asks for, from the same rounds. */
const verdictOf = (
  done: Rounds,
  inScript: InScript,
  { tool, paced }: { tool: readonly number[]; paced: readonly number[] },
): Row[] => {
  const { slices } = done;
  const ratio = (of: string, to: string, read: (slice: Slice) => number): number =>
    rounded(ratioOf(slices, { of, to, read }));
  const both = (slice: Slice): number => slice.cpuMicros + slice.redisMicros;
  return [
    {
      ratio: 'joins at equal CPU of the server process, of a raw POST',
      measured: ratio(names.floor, names.join, (slice) => slice.cpuMicros),
      wanted: '≥ 0.45',
    },
    {
      ratio: 'joins at equal CPU of server and Redis, of the naive server',
      measured: ratio(names.naive, names.join, both),
      wanted: '≥ 3',
    },
    {
      ratio: 'joins/s, of the naive server',
      measured: ratio(names.join, names.naive, (slice) => slice.perSecond),
      wanted: '',
    },
    {
      ratio: 'all CPU of Redis a join, of redis-benchmark',
      measured: ratio(names.join, names.redis, (slice) => slice.redisMicros),
      wanted: '≤ 1.1',
    },
    {
      ratio: 'the same, of the same script at the same pace and batch length without a gateway',
      measured: ratio(names.join, names.paced, (slice) => slice.redisMicros),
      wanted: '',
    },
    ...(inScript.microsEach.length === 0
      ? []
      : [
          {
            ratio: `time in room.join a join (batches of ${rounded(median(inScript.batch), 1)}), of redis-benchmark`,
            measured: rounded(median(inScript.microsEach) / median(tool)),
            wanted: '≤ 1.1',
          },
          {
            ratio: 'the same, of the same script at the same pace and batch length without a gateway',
            measured: rounded(median(inScript.microsEach) / median(paced)),
            wanted: '',
          },
        ]),
  ];
};

export const runJoin = async (
  quick: boolean,
): Promise<{ rows: Row[]; rounds: Row[]; conditions: string[] }> => {
  const stops: (() => Promise<void>)[] = [];
  // Whatever was started is ended in reverse, also when the next one does not start.
  const keep = <T extends { stop(): Promise<void> }>(started: T): T => {
    stops.unshift(started.stop);
    return started;
  };
  try {
    const redis = {
      system: keep(await startRedis({ appendOnly: true })),
      naive: keep(await startRedis({ appendOnly: true })),
      tool: keep(await startRedis({ appendOnly: true })),
    };
    const shared = {
      ...onRedis(redis.system.url),
      ANTEROOM_DEMO: 'on',
      ANTEROOM_TRUSTED_PROXIES: '127.0.0.1',
    };
    // As in a sale: the gateway is a process of its own, and the ledger and the database are another's work.
    keep(await startSystem({ ...shared, ANTEROOM_ROLES: 'dispatcher,booking-core,admin,broker' }));
    const system = keep(await startSystem({ ...shared, ANTEROOM_ROLES: 'gateway' }));
    const floor = keep(await startFloor());
    const naive = keep(await startNaive(redis.naive.port));
    const room = await createRoom(redis.tool.wire, { name: ROOM, settings: {} });
    // After a first measurement only those near their turn are noted as present, as in a room with a dispatcher.
    await room.join(0, 2000);
    await room.measure();
    await redis.system.wire.ask(['CONFIG', 'SET', 'slowlog-log-slower-than', SLOW_MICROS]);
    await redis.system.wire.ask(['CONFIG', 'SET', 'slowlog-max-len', SLOW_KEPT_MAX]);

    const pinned = pinAll([floor.pid, naive.pid, system.pid]);
    const inScript: InScript = { microsEach: [], batch: [] };
    const micros = { tool: [] as number[], paced: [] as number[] };
    const pace: Pace = { callsPerSecond: 100, batch: JOIN_BATCH };
    const done = await runRounds(
      [
        loaded({ name: names.floor, pid: floor.pid, status: 201, load: loadOn(floor.base) }),
        loaded({
          name: names.naive,
          floor: names.floor,
          pid: naive.pid,
          redisPid: redis.naive.pid,
          status: 201,
          load: loadOn(naive.base),
        }),
        joinSubject(system, { redis: redis.system, room, inScript, pace }),
        { name: names.redis, slice: toolSlice(redis.tool, room, micros.tool) },
        { name: names.paced, slice: pacedSlice(redis.tool, room, pace, micros.paced) },
      ],
      { ...roundsFor(quick), connections: CONNECTIONS },
    );
    return {
      rows: [...done.rows, ...verdictOf(done, inScript, micros)],
      rounds: done.rounds,
      conditions: [
        ...done.conditions,
        pinned,
        'three Redis of the same settings (append-only file, everysec), not pinned: of the system, of the naive server, of redis-benchmark',
        'the server process is a gateway alone, every other role is a second process, not pinned; addresses told by a trusted proxy, one a request',
        `all CPU of Redis a join has the limits and the ticks of the room in it; time in room.join is from SLOWLOG, calls of ${SLOW_MICROS} µs and more, while redis-benchmark's is from commandstats`,
        `time in room.join, µs a join: gateway ${rounded(median(inScript.microsEach))}, redis-benchmark back to back ${rounded(median(micros.tool))}, at the gateway's pace ${rounded(median(micros.paced))}; Redis CPU of redis-benchmark ${rounded(medianOf(done.slices, names.redis, (slice) => slice.redisMicros))}`,
      ],
    };
  } finally {
    for (const stop of stops) await stop();
  }
};
