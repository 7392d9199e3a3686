// Rounds: every subject gets a slice in each round, in an order that turns with the rounds, so that whatever else
// the machine does falls on all of them alike. A round in which the host stole CPU is dropped and counted.

import { cpus } from 'node:os';
import autocannon from 'autocannon';
import { childOf, cpuSecondsOf, type HostTimes, pin, readHostTimes, stealBetween } from './machine.ts';
import { median, type Row, rounded } from './report.ts';

const STEAL_MAX = 0.05;
const ROUNDS_KEPT_MIN = 5;
/** Below this share of a core a server was not the limit: the load was, or other work on the machine. */
const BUSY_MIN = 0.85;

export type Subject = {
  name: string;
  /** The server process whose CPU counts. */
  pid: number;
  /** The base of the ratio: another subject's name. Left out for a base itself. */
  floor?: string;
  /** What autocannon is to send; connections and duration come from the round. */
  load: Omit<autocannon.Options, 'connections' | 'duration' | 'amount'>;
  /** The status every answer must have; one other and the run stops, because it measures something else. */
  status: number;
};

type Slice = { perSecond: number; p99Ms: number; cpuMicros: number; redisMicros: number };

/** One slice of load on one subject. */
const runSlice = async (
  subject: Subject,
  options: { connections: number; seconds: number },
): Promise<Slice> => {
  const redis = childOf(subject.pid, 'redis-server');
  const redisBefore = redis === undefined ? 0 : cpuSecondsOf(redis);
  const before = cpuSecondsOf(subject.pid);
  const done = await autocannon({
    ...subject.load,
    connections: options.connections,
    duration: options.seconds,
  });
  const cpu = cpuSecondsOf(subject.pid) - before;
  const redisCpu = redis === undefined ? 0 : cpuSecondsOf(redis) - redisBefore;
  const answers = done.requests.total;
  const statuses: Record<string, { count?: number }> = done.statusCodeStats ?? {};
  const right = statuses[String(subject.status)]?.count ?? 0;
  if (done.errors > 0 || done.timeouts > 0 || answers === 0 || right !== answers)
    throw new Error(
      `${subject.name}: ${right} of ${answers} answers were ${subject.status}, ${done.errors} errors; got ${Object.keys(statuses).join(', ')}`,
    );
  return {
    perSecond: answers / done.duration,
    p99Ms: done.latency.p99,
    cpuMicros: (cpu / answers) * 1e6,
    redisMicros: (redisCpu / answers) * 1e6,
  };
};

/** Cores' worth of CPU the server used during a slice. */
const busyOf = (slice: Slice): number => (slice.perSecond * slice.cpuMicros) / 1e6;

export type RoundOptions = { rounds: number; seconds: number; connections: number };
export const roundsFor = (quick: boolean): RoundOptions =>
  quick ? { rounds: 5, seconds: 1, connections: 32 } : { rounds: 7, seconds: 4, connections: 64 };

/** Pins servers to the first core and this process (the load) to the last; answers the sentence for the result. */
export const pinAll = (pids: readonly number[]): string => {
  const last = cpus().length - 1;
  const pinned = pids.map((pid) => pin(pid, 0)).every(Boolean) && pin(process.pid, last);
  return pinned ? `servers pinned to core 0, load to core ${last}` : 'nothing pinned: no taskset or one core';
};

/** Runs the rounds and answers a row a subject, a row a slice, and what there is to say about noise. */
export const runRounds = async (
  subjects: readonly Subject[],
  options: RoundOptions,
): Promise<{ rows: Row[]; rounds: Row[]; conditions: string[] }> => {
  const kept: Map<string, Slice>[] = [];
  const all: Row[] = [];
  let dropped = 0;
  // One slice that does not count: caches fill, functions are compiled.
  for (const subject of subjects) await runSlice(subject, { ...options, seconds: 1 });
  // Up to twice the rounds, when the host steals.
  for (let round = 0; round < options.rounds * 2 && kept.length < options.rounds; round++) {
    const from: HostTimes = readHostTimes();
    const slices = new Map<string, Slice>();
    for (let turn = 0; turn < subjects.length; turn++) {
      const subject = subjects[(turn + round) % subjects.length]!;
      slices.set(subject.name, await runSlice(subject, options));
    }
    const steal = stealBetween(from, readHostTimes());
    for (const [subject, slice] of slices)
      all.push({
        round,
        subject,
        perSecond: Math.round(slice.perSecond),
        cpuMicros: rounded(slice.cpuMicros),
        stealPercent: rounded(steal * 100),
      });
    if (steal > STEAL_MAX) dropped += 1;
    else kept.push(slices);
    process.stderr.write(`  round ${round + 1}: ${steal > STEAL_MAX ? 'dropped' : 'kept'}\n`);
  }
  if (kept.length < ROUNDS_KEPT_MIN)
    throw new Error(
      `only ${kept.length} rounds without stolen CPU; ${ROUNDS_KEPT_MIN} are needed. Try again later.`,
    );
  const of = (name: string, read: (slice: Slice) => number): number =>
    median(kept.map((slices) => read(slices.get(name)!)));
  const rows = subjects.map(({ name, floor }): Row => {
    const ratio = (read: (slice: Slice) => number): number =>
      median(kept.map((slices) => read(slices.get(name)!) / read(slices.get(floor ?? name)!)));
    return {
      subject: name,
      'requests/s': Math.round(of(name, (slice) => slice.perSecond)),
      'ratio to floor': floor === undefined ? 1 : rounded(ratio((slice) => slice.perSecond)),
      'core busy': rounded(of(name, busyOf)),
      'µs CPU each': rounded(of(name, (slice) => slice.cpuMicros)),
      'CPU × floor': floor === undefined ? 1 : rounded(ratio((slice) => slice.cpuMicros)),
      'µs Redis each': rounded(of(name, (slice) => slice.redisMicros)),
      'p99 ms': of(name, (slice) => slice.p99Ms),
    };
  });
  const waiting = subjects.filter(({ name }) => of(name, busyOf) < BUSY_MIN).map(({ name }) => name);
  return {
    rows,
    rounds: all,
    conditions: [
      ...(waiting.length === 0
        ? []
        : [
            `used less than ${BUSY_MIN} of a core, so the load or other work on the machine was the limit: ${waiting.join('; ')}. Do not quote their requests/s or its ratio; CPU each is what counts`,
          ]),
      `${kept.length} interleaved rounds of ${options.seconds} s kept, ${dropped} dropped for more than ${STEAL_MAX * 100} % steal`,
      `${options.connections} connections without pipelining; all figures are medians over the rounds`,
    ],
  };
};
