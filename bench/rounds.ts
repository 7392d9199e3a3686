// Rounds: every subject gets a slice in each round, in an order that turns with the rounds, so that whatever else
// the machine does falls on all of them alike. A round in which the host stole CPU is dropped and counted.

import { cpus } from 'node:os';
import { runCannon } from './cannon.ts';
import { type Load, type LoadResult, runLoad } from './load.ts';
import { childOf, cpuSecondsOf, type HostTimes, pin, readHostTimes, stealBetween } from './machine.ts';
import { median, type Row, rounded } from './report.ts';
import { runWrk } from './wrk.ts';

export const STEAL_MAX = 0.05;
const ROUNDS_KEPT_MIN = 5;
/** Below this share of a core a server was not the limit: the load was, or other work on the machine. */
const BUSY_MIN = 0.85;

/** Slices that were kept, a map by subject for each round; every slice as a row; how many rounds were dropped. */
export type Interleaved<S> = { kept: Map<string, S>[]; rows: Row[]; dropped: number };

/** Runs up to twice `rounds` rounds until so many were not disturbed. Throws when fewer than five were not. */
export const interleave = async <S>(options: {
  subjects: readonly string[];
  rounds: number;
  slice: (subject: string) => Promise<S>;
  rowOf: (slice: S) => Row;
}): Promise<Interleaved<S>> => {
  const { subjects, rounds, slice, rowOf } = options;
  const kept: Map<string, S>[] = [];
  const rows: Row[] = [];
  let dropped = 0;
  for (let round = 0; round < rounds * 2 && kept.length < rounds; round++) {
    const from: HostTimes = readHostTimes();
    const slices = new Map<string, S>();
    for (let turn = 0; turn < subjects.length; turn++) {
      const subject = subjects[(turn + round) % subjects.length]!;
      slices.set(subject, await slice(subject));
    }
    const steal = stealBetween(from, readHostTimes());
    for (const [subject, done] of slices)
      rows.push({ round, subject, ...rowOf(done), stealPercent: rounded(steal * 100) });
    if (steal > STEAL_MAX) dropped += 1;
    else kept.push(slices);
    process.stderr.write(`  round ${round + 1}: ${steal > STEAL_MAX ? 'dropped' : 'kept'}\n`);
  }
  if (kept.length < ROUNDS_KEPT_MIN)
    throw new Error(
      `only ${kept.length} rounds without stolen CPU; ${ROUNDS_KEPT_MIN} are needed. Try again later.`,
    );
  return { kept, rows, dropped };
};

/** The median over the rounds of what `read` sees in the slices of one subject. */
export const medianOf = <S>({ kept }: Interleaved<S>, subject: string, read: (slice: S) => number): number =>
  median(kept.map((slices) => read(slices.get(subject)!)));

/** The median over the rounds of one subject's figure over another's of the same round. */
export const ratioOf = <S>(
  { kept }: Interleaved<S>,
  options: { of: string; to: string; read: (slice: S) => number },
): number =>
  median(kept.map((slices) => options.read(slices.get(options.of)!) / options.read(slices.get(options.to)!)));

export type Slice = {
  perSecond: number;
  p99Ms: number;
  cpuMicros: number;
  redisMicros: number;
  /** CPU of the load itself: near a core's worth, and it is the limit. */
  loadMicros: number;
};
export type SliceOptions = { connections: number; seconds: number };

export type Subject = {
  name: string;
  /** The base of the ratio: another subject's name. Left out for a base itself. */
  floor?: string;
  slice(options: SliceOptions): Promise<Slice>;
};

/** A server under load. */
export type Loaded = {
  /** The server process whose CPU counts. */
  pid: number;
  /** Its Redis, where that is no child of the server. */
  redisPid?: number;
  load: Load;
  /** By wrk, where autocannon would be the limit: plain GETs. */
  byWrk?: boolean;
  /** The status every answer must have; one other and the run stops, because it measures something else. */
  status: number;
};

/** One slice of load on one server. */
export const loadSlice = async (
  { pid, redisPid, load, status, byWrk }: Loaded,
  options: SliceOptions,
): Promise<Slice> => {
  const redis = redisPid ?? childOf(pid, 'redis-server');
  const redisBefore = redis === undefined ? 0 : cpuSecondsOf(redis);
  const [before, loadBefore] = [cpuSecondsOf(pid), cpuSecondsOf(process.pid)];
  const send = (): Promise<LoadResult & { cpuSeconds?: number }> => {
    if (byWrk === true) return runWrk(load, { ...options, status });
    return (load.addresses ? runLoad : runCannon)(load, options);
  };
  const done = await send();
  const loadCpu = done.cpuSeconds ?? cpuSecondsOf(process.pid) - loadBefore;
  const cpu = cpuSecondsOf(pid) - before;
  const redisCpu = redis === undefined ? 0 : cpuSecondsOf(redis) - redisBefore;
  const right = done.statuses.get(status) ?? 0;
  if (done.answers === 0 || right !== done.answers)
    throw new Error(
      `${load.path}: ${right} of ${done.answers} answers were ${status}; got ${[...done.statuses.keys()].join(', ')}`,
    );
  return {
    perSecond: done.answers / done.seconds,
    p99Ms: done.p99Ms,
    cpuMicros: (cpu / done.answers) * 1e6,
    redisMicros: (redisCpu / done.answers) * 1e6,
    loadMicros: (loadCpu / done.answers) * 1e6,
  };
};

/** A server under load as a subject. */
export const loaded = ({ name, floor, ...server }: Omit<Subject, 'slice'> & Loaded): Subject => ({
  name,
  ...(floor === undefined ? {} : { floor }),
  slice: (options) => loadSlice(server, options),
});

/** Cores' worth of CPU the server used during a slice. */
const busyOf = (slice: Slice): number => (slice.perSecond * slice.cpuMicros) / 1e6;

export type RoundOptions = SliceOptions & { rounds: number };
export const roundsFor = (quick: boolean): RoundOptions =>
  quick ? { rounds: 5, seconds: 1, connections: 32 } : { rounds: 7, seconds: 4, connections: 64 };

/** Pins servers to the first core and this process (the load) to the last; answers the sentence for the result. */
export const pinAll = (pids: readonly number[]): string => {
  const last = cpus().length - 1;
  const pinned = pids.map((pid) => pin(pid, 0)).every(Boolean) && pin(process.pid, last);
  return pinned ? `servers pinned to core 0, load to core ${last}` : 'nothing pinned: no taskset or one core';
};

export type Rounds = {
  slices: Interleaved<Slice>;
  rows: Row[];
  rounds: Row[];
  conditions: string[];
};

/** Runs the rounds and answers a row a subject, a row a slice, and what there is to say about noise. */
export const runRounds = async (subjects: readonly Subject[], options: RoundOptions): Promise<Rounds> => {
  const byName = new Map(subjects.map((subject) => [subject.name, subject]));
  // One slice that does not count: caches fill, functions are compiled.
  for (const subject of subjects) await subject.slice({ ...options, seconds: 1 });
  const slices = await interleave({
    subjects: [...byName.keys()],
    rounds: options.rounds,
    slice: (name) => byName.get(name)!.slice(options),
    rowOf: (slice) => ({
      perSecond: Math.round(slice.perSecond),
      cpuMicros: rounded(slice.cpuMicros),
      redisMicros: rounded(slice.redisMicros),
    }),
  });
  const of = (name: string, read: (slice: Slice) => number): number => medianOf(slices, name, read);
  const rows = subjects.map(({ name, floor }): Row => {
    const ratio = (read: (slice: Slice) => number): number =>
      floor === undefined ? 1 : rounded(ratioOf(slices, { of: name, to: floor, read }));
    return {
      subject: name,
      'requests/s': Math.round(of(name, (slice) => slice.perSecond)),
      'ratio to floor': ratio((slice) => slice.perSecond),
      'core busy': rounded(of(name, busyOf)),
      'µs CPU each': rounded(of(name, (slice) => slice.cpuMicros)),
      'CPU × floor': ratio((slice) => slice.cpuMicros),
      'µs Redis each': rounded(of(name, (slice) => slice.redisMicros)),
      'µs load each': rounded(of(name, (slice) => slice.loadMicros)),
      'p99 ms': rounded(
        of(name, (slice) => slice.p99Ms),
        1,
      ),
    };
  });
  const waiting = subjects
    .filter(({ name }) => of(name, busyOf) > 0 && of(name, busyOf) < BUSY_MIN)
    .map(({ name }) => name);
  return {
    slices,
    rows,
    rounds: slices.rows,
    conditions: [
      ...(waiting.length === 0
        ? []
        : [
            `used less than ${BUSY_MIN} of a core, so the load or other work on the machine was the limit: ${waiting.join('; ')}. Do not quote their requests/s or its ratio; CPU each is what counts`,
          ]),
      `${slices.kept.length} interleaved rounds of ${options.seconds} s kept, ${slices.dropped} dropped for more than ${STEAL_MAX * 100} % steal`,
      `${options.connections} connections without pipelining; all figures are medians over the rounds`,
    ],
  };
};
