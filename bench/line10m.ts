// Ten million really waiting, each through room.join: what a place takes in memory, and what grows with the line.
// At 10 thousand, 100 thousand, 1 million and 10 million the same calls are timed, and a real system runs over the
// line with nobody connected, so that what the room asks of Redis just for being there can be counted.

import { chartSvg } from './chart.ts';
import { readHostTimes, readMachine, stealBetween } from './machine.ts';
import { type BenchRedis, commandStat, connectWire, infoOf, redisCpuSeconds, startRedis } from './redis.ts';
import { median, type Row, rounded } from './report.ts';
import { type BenchRoom, createRoom, JOIN_BATCH } from './room.ts';
import { pinAll } from './rounds.ts';
import { onRedis, pause, startSystem } from './system.ts';

const SIZES = [10_000, 100_000, 1_000_000, 10_000_000] as const;
/** Joined before the first snapshot says whose turn is near; a dispatcher measures once a second. */
const BEFORE_SNAPSHOT = 2000;
const FILL_CHUNK = 100_000;
const PROMOTED_A_CALL = 100;
const CALLS = 40;
/** The next size is left out, and said so, when filling it at the last rate would take longer than this in all. */
const FILL_MS_MAX = 200_000;

/** Snapshots at each size, while the line moves as it would in so many seconds. */
const TICKS = 40;
const PROMOTED_A_TICK = 50;
/** A fifth leaves in half an hour. */
const LEAVING_A_TICK = 0.2 / 1800;

/**
 * Takes places out of the line in the block of ranks from ARGV[1] on, the lowest last: ARGV[3] of them one by one,
 * anywhere among ARGV[2] ranks, and a clump of ARGV[4].
 */
const LEAVE = `math.randomseed(ARGV[1] + 1)
local from, among, alone, clump = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
for left = 0, alone - 1 do
  local rank = from + math.random(0, among - left - 1)
  redis.call('ZREMRANGEBYRANK', KEYS[1], rank, rank)
end
local rank = from + math.random(0, math.max(0, among - alone - clump))
if clump > 0 then redis.call('ZREMRANGEBYRANK', KEYS[1], rank, rank + clump - 1) end
return 'OK'`;
/** Of so many ranks a tenth leaves one by one, and a tenth in a clump. */
const LEAVE_BLOCK = 3000;

const calm = { newUsersPerMinute: 60, burst: 5, totalActiveUsers: 10_000_000, claimSeconds: 3600 };
const hurried = { ...calm, newUsersPerMinute: 6_000_000, burst: 1_000_000 };

type Timed = { micros: number; wallMs: number };

/** Calls one after the other: Redis's own time of each on average, and the median of what the caller waits. */
const timed = async (redis: BenchRedis, calls: number, call: () => Promise<unknown>): Promise<Timed> => {
  const before = await commandStat(redis.wire, 'evalsha');
  const waits: number[] = [];
  for (let index = 0; index < calls; index++) {
    const begun = performance.now();
    await call();
    waits.push(performance.now() - begun);
  }
  const after = await commandStat(redis.wire, 'evalsha');
  return { micros: (after.micros - before.micros) / (after.calls - before.calls), wallMs: median(waits) };
};

const leave = async (redis: BenchRedis, room: BenchRoom, words: readonly number[]): Promise<void> => {
  await redis.wire.ask(['EVAL', LEAVE, 1, room.key('line'), ...words]);
};

/** A fifth of the line leaves, from its end on, so that the ranks still to come stay. */
const leaveFifth = async (redis: BenchRedis, room: BenchRoom): Promise<void> => {
  const waiting = Number(await redis.wire.ask(['ZCARD', room.key('line')]));
  let sent: Promise<void>[] = [];
  for (let from = waiting - LEAVE_BLOCK; from >= 0; from -= LEAVE_BLOCK) {
    sent.push(leave(redis, room, [from, LEAVE_BLOCK, LEAVE_BLOCK / 10, LEAVE_BLOCK / 10]));
    if (sent.length === 50) {
      await Promise.all(sent);
      sent = [];
    }
  }
  await Promise.all(sent);
};

type Snapshots = {
  first: number;
  mean: number;
  worst: number;
  wallMs: number;
  counted: number;
  most: number;
  calls: number;
  anchors: number;
};

/** One snapshot a tick while the head goes in and others leave: all that Redis spends on it, in µs. */
const timeSnapshots = async (redis: BenchRedis, room: BenchRoom): Promise<Snapshots> => {
  const spent: number[] = [];
  const waits: number[] = [];
  const counts: number[][] = [];
  let anchors = 0;
  for (let tick = 0; tick <= TICKS; tick += 1) {
    const waiting = Number(await redis.wire.ask(['ZCARD', room.key('line')]));
    await redis.wire.ask(['ZREMRANGEBYRANK', room.key('line'), 0, PROMOTED_A_TICK - 1]);
    const leaving = Math.max(1, Math.round((waiting * LEAVING_A_TICK) / 2));
    await leave(redis, room, [tick, waiting - PROMOTED_A_TICK - tick, leaving, leaving]);
    const before = await commandStat(redis.wire, 'evalsha');
    const begun = performance.now();
    const surveyed = await room.measure();
    waits.push(performance.now() - begun);
    spent.push((await commandStat(redis.wire, 'evalsha')).micros - before.micros);
    counts.push(surveyed.counts);
    anchors = surveyed.snapshot.anchors.length;
  }
  // The first finds a fifth of the line gone all at once; those after it are what a second costs.
  const [first = 0, ...ticks] = spent;
  const counted = counts.slice(1).map((each) => each.reduce((sum, count) => sum + count, 0));
  return {
    first,
    mean: ticks.reduce((sum, micros) => sum + micros, 0) / ticks.length,
    worst: Math.max(...ticks),
    wallMs: median(waits.slice(1)),
    counted: counted.reduce((sum, count) => sum + count, 0) / ticks.length,
    most: Math.max(...counts.slice(1).flat()),
    calls: Math.max(...counts.slice(1).map(({ length }) => length)),
    anchors,
  };
};

/** Bytes Redis uses without those of its connections, whose buffers swell while the line is filled. */
const dataBytes = async (redis: BenchRedis): Promise<number> => {
  const info = await infoOf(redis.wire, 'memory');
  return Number(info.get('used_memory')) - Number(info.get('mem_clients_normal'));
};

/** MEMORY USAGE of every key of the room that exists, by name; sampled for the large ones. */
const bytesByKey = async (redis: BenchRedis, room: BenchRoom): Promise<ReadonlyMap<string, number>> => {
  const bytes = new Map<string, number>();
  const keys = await redis.wire.ask(['KEYS', room.key('*')]);
  for (const key of Array.isArray(keys) ? keys.map(String) : []) {
    const used = await redis.wire.ask(['MEMORY', 'USAGE', key, 'SAMPLES', 1000]);
    bytes.set(key.slice(room.key('').length), Number(used));
  }
  return bytes;
};

type Idle = { clientCommands: number; allCommands: number; cpuShare: number; byName: Record<string, number> };

/**
 * A real system over the line, nobody connected. MONITOR tells commands of clients from those inside scripts, which
 * INFO counts too; it runs in a window of its own, because it costs Redis time.
 */
const measureIdle = async (
  redis: BenchRedis,
  options: { settleMs: number; windowMs: number },
): Promise<Idle> => {
  const system = await startSystem({ ...onRedis(redis.url), ANTEROOM_DEMO: 'off' });
  const seconds = options.windowMs / 1000;
  try {
    await pause(options.settleMs);
    const commands = async (): Promise<number> =>
      Number((await infoOf(redis.wire, 'stats')).get('total_commands_processed'));
    const [before, cpuBefore] = [await commands(), await redisCpuSeconds(redis.wire)];
    await pause(options.windowMs);
    const [after, cpuAfter] = [await commands(), await redisCpuSeconds(redis.wire)];

    const counts = new Map<string, number>();
    let isCounting = false;
    const monitor = await connectWire(redis.port, (line) => {
      const read = /^[\d.]+ \[\d+ ([^\]]+)\] "([^"]+)"/.exec(String(line));
      const name = read?.[2]?.toLowerCase();
      if (!isCounting || name === undefined || read?.[1] === 'lua') return;
      counts.set(name, (counts.get(name) ?? 0) + 1);
    });
    try {
      await monitor.ask(['MONITOR']);
      isCounting = true;
      await pause(options.windowMs);
      isCounting = false;
    } finally {
      monitor.close();
    }
    const sum = [...counts.values()].reduce((total, count) => total + count, 0);
    return {
      clientCommands: sum / seconds,
      allCommands: (after - before) / seconds,
      cpuShare: (cpuAfter - cpuBefore) / seconds,
      byName: Object.fromEntries([...counts].map(([name, count]) => [name, rounded(count / seconds, 1)])),
    };
  } finally {
    await system.stop();
  }
};

type Measured = {
  size: number;
  fillPerSecond: number;
  bytesEach: number;
  byKey: ReadonlyMap<string, number>;
  join: Timed;
  promote: Timed;
  snapshot: Snapshots;
  idle: Idle;
};

const rowOf = (measured: Measured): Row => ({
  waiting: measured.size,
  'bytes a place': rounded(measured.bytesEach, 1),
  'µs a join': rounded(measured.join.micros / JOIN_BATCH),
  [`ms to ${JOIN_BATCH} joined`]: rounded(measured.join.wallMs),
  'µs a promotion': rounded(measured.promote.micros / PROMOTED_A_CALL),
  [`ms to ${PROMOTED_A_CALL} promoted`]: rounded(measured.promote.wallMs),
  'µs a snapshot': Math.round(measured.snapshot.mean),
  'µs, worst': Math.round(measured.snapshot.worst),
  'ms to a snapshot': rounded(measured.snapshot.wallMs),
  'commands/s, nobody connected': rounded(measured.idle.clientCommands, 1),
  'with those in scripts': Math.round(measured.idle.allCommands),
  'Redis CPU of a core': rounded(measured.idle.cpuShare, 4),
});

const detailOf = (measured: Measured): Row => ({
  waiting: measured.size,
  'joins/s while filling': Math.round(measured.fillPerSecond),
  anchors: measured.snapshot.anchors,
  'counted a snapshot': rounded(measured.snapshot.counted, 1),
  'counted in a call, most': measured.snapshot.most,
  'calls a snapshot, most': measured.snapshot.calls,
  'µs of the first snapshot, all calls': Math.round(measured.snapshot.first),
  ...Object.fromEntries([...measured.byKey].map(([key, bytes]) => [`bytes of ${key}`, bytes])),
  ...Object.fromEntries(
    Object.entries(measured.idle.byName).map(([name, perSecond]) => [`${name}/s`, perSecond]),
  ),
});

const verdictOf = (all: readonly Measured[]): Row[] => {
  const [smallest, largest] = [all[0]!, all.at(-1)!];
  const growth = (read: (measured: Measured) => number): number => rounded(read(largest) / read(smallest));
  return [
    { what: 'bytes a place, all keys of the room', measured: rounded(largest.bytesEach, 1), wanted: '≤ 150' },
    { what: 'µs of Redis a snapshot', measured: Math.round(largest.snapshot.mean), wanted: '≤ 2000' },
    { what: `the worst of ${TICKS}`, measured: Math.round(largest.snapshot.worst), wanted: '≤ 2000' },
    {
      what: 'the same, over that of the smallest line',
      measured: growth(({ snapshot }) => snapshot.mean),
      wanted: '≤ 2',
    },
    {
      what: 'commands of clients with nobody connected, over those of the smallest line',
      measured: growth(({ idle }) => idle.clientCommands),
      wanted: 'about 1',
    },
  ];
};

const chartOf = (all: readonly Measured[]): string => {
  const machine = readMachine();
  const values = (read: (measured: Measured) => number): number[] => all.map(read);
  return chartSvg({
    title: 'What grows with the line',
    note: `${machine.cpu}, commit ${machine.commit}. Times are Redis's own; memory is all keys of the room.`,
    x: { label: 'places waiting', ticks: all.map(({ size }) => size.toLocaleString('en')) },
    y: { label: 'µs, commands/s, bytes' },
    series: [
      { name: 'µs a snapshot', colour: '#0b62a4', values: values(({ snapshot }) => snapshot.mean) },
      { name: 'bytes a place', colour: '#7a3e9d', values: values(({ bytesEach }) => bytesEach) },
      {
        name: 'commands/s, nobody connected',
        colour: '#2b7a3d',
        values: values(({ idle }) => idle.clientCommands),
      },
      {
        name: 'µs a promotion',
        colour: '#b4500b',
        values: values(({ promote }) => promote.micros / PROMOTED_A_CALL),
      },
      { name: 'µs a join', colour: '#b3123f', values: values(({ join }) => join.micros / JOIN_BATCH) },
    ],
  });
};

export const runLine10m = async (
  quick: boolean,
): Promise<{ rows: Row[]; rounds: Row[]; conditions: string[]; chart: string }> => {
  const sizes = quick ? SIZES.slice(0, -1) : SIZES;
  const window = quick ? { settleMs: 2000, windowMs: 4000 } : { settleMs: 4000, windowMs: 10_000 };
  const host = readHostTimes();
  const redis = await startRedis({ appendOnly: false });
  try {
    const pinned = pinAll([redis.pid]);
    // The scripts are in memory before the count begins.
    const warm = await createRoom(redis.wire, { name: 'warm', settings: calm });
    await redis.wire.ask(['DEL', warm.key('room'), warm.key('entries'), 'ar:rooms']);
    const bytesBefore = await dataBytes(redis);
    const room = await createRoom(redis.wire, { name: 'bench', settings: calm });
    const all: Measured[] = [];
    const leftOut: string[] = [];
    let [joined, filledMs] = [0, 0];
    const fillTo = async (size: number): Promise<number> => {
      const begun = performance.now();
      const missing = size - Number(await redis.wire.ask(['ZCARD', room.key('line')]));
      for (let left = missing; left > 0; ) {
        const count = Math.min(left, joined === 0 ? BEFORE_SNAPSHOT : FILL_CHUNK);
        await room.join(joined, count);
        await room.measure();
        joined += count;
        left -= count;
      }
      const tookMs = performance.now() - begun;
      filledMs += tookMs;
      return (missing / tookMs) * 1000;
    };
    for (const size of sizes) {
      const before = all.at(-1);
      const estimateMs = before === undefined ? 0 : ((size - before.size) / before.fillPerSecond) * 1000;
      if (filledMs + estimateMs > FILL_MS_MAX) {
        leftOut.push(
          `${size} places left out: at ${Math.round(before?.fillPerSecond ?? 0)} joins/s filling would take ${Math.round(estimateMs / 1000)} s`,
        );
        break;
      }
      process.stderr.write(`  ${size}: filling`);
      const fillPerSecond = await fillTo(size);
      process.stderr.write(` at ${Math.round(fillPerSecond)}/s, measuring\n`);
      const bytesEach = ((await dataBytes(redis)) - bytesBefore) / size;
      const byKey = await bytesByKey(redis, room);
      await leaveFifth(redis, room);
      const snapshot = await timeSnapshots(redis, room);
      const join = await timed(redis, CALLS, () => {
        joined += JOIN_BATCH;
        return room.join(joined - JOIN_BATCH, JOIN_BATCH);
      });
      await room.configure(hurried);
      await redis.wire.ask(['HSET', room.key('room'), 'tokens', hurried.burst * 60_000]);
      const promote = await timed(redis, CALLS, () =>
        room.run(
          'promote',
          { nowMs: '', promoteMax: PROMOTED_A_CALL, examineMax: 500 },
          { wanted: ['promoted'] },
        ),
      );
      await room.configure(calm);
      // Those let in by the measurement go, so that the next size has the line and nothing else.
      for (const name of ['promoted', 'places', 'entries']) await redis.wire.ask(['DEL', room.key(name)]);
      await room.measure();
      const idle = await measureIdle(redis, window);
      all.push({ size, fillPerSecond, bytesEach, byKey, join, promote, snapshot, idle });
    }
    const steal = stealBetween(host, readHostTimes());
    return {
      rows: [...all.map(rowOf), ...verdictOf(all)],
      rounds: all.map(detailOf),
      conditions: [
        `every place through room.join, ${JOIN_BATCH} a call, with a snapshot after the first ${BEFORE_SNAPSHOT} and every ${FILL_CHUNK}`,
        `bytes before anyone leaves; then a fifth leaves, half of them one by one and half in clumps, and ${TICKS} snapshots are taken as by a dispatcher, room.measure and room.snapshot together, while each second ${PROMOTED_A_TICK} go in and 0.011 % leave`,
        `${CALLS} calls one after the other at each size: µs by Redis (commandstats), ms as the caller waits (median)`,
        `Redis without an append-only file; ${pinned}; ${rounded(steal * 100, 1)} % of the CPU was stolen by the host meanwhile`,
        `nobody connected: a system with all roles, ${window.windowMs / 1000} s each of INFO and of MONITOR; it promotes one a second`,
        ...leftOut,
      ],
      chart: chartOf(all),
    };
  } finally {
    await redis.stop();
  }
};
