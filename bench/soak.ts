// The whole of it for ten minutes: fans by the ten thousand on several brokers behind one port while the line moves,
// one broker killed and one drained in between. Whoever is told goes, and the next of the line comes. At the end the
// entry stream says who was let in, the holders say who heard of it, and Redis says who still waits.

import { chartSvg } from './chart.ts';
import { type Crew, startCrew } from './crew.ts';
import { type Followed, followEntries, quantile } from './entries.ts';
import { type Fleet, hold, type Line, release, startFleet } from './fleet.ts';
import { quantileOf } from './holder.ts';
import { cpuSecondsExact, ownBytesOf, readHostTimes, readMachine, stealBetween } from './machine.ts';
import { pipeline, type Reply } from './redis.ts';
import { type Row, rounded } from './report.ts';
import { pause, type RunningSystem } from './system.ts';

const PER_BROKER = 13_000;
const PER_HOLDER = 15_000;
const PER_SECOND_MAX = 200;
/** The head of a short line must not run through it before a newcomer has come. */
const LINE_SECONDS_MIN = 60;
const LINGER_MS = 2000;
/** After the last turn: long enough for whoever was between two brokers to come back and hear of it. */
const AFTER_MS = 15_000;
const BACK_AFTER_MS = 12_000;
const SAMPLES_SHOWN = 30;
const ASKED_AT_ONCE = 500;

export type SoakPlan = { fans: number; seconds: number; perSecond: number };
export const soakPlan = (options: { quick: boolean; fans?: number; minutes?: number }): SoakPlan => {
  const fans = options.fans ?? (options.quick ? 2000 : 60_000);
  const seconds = options.minutes === undefined ? (options.quick ? 20 : 600) : options.minutes * 60;
  return { fans, seconds, perSecond: Math.min(PER_SECOND_MAX, Math.ceil(fans / LINE_SECONDS_MIN)) };
};

type Sample = { second: number; open: number; brokerCpu: number; redisCpu: number; mebibytes: number };

/** Looks once a second; processes come and go, so only what is there is counted. */
const startSampling = (options: { crew: Crew; pids: () => number[]; redisPid: number }) => {
  const { crew, pids, redisPid } = options;
  const samples: Sample[] = [];
  const used = new Map<number, number>();
  const readOf = (pid: number, read: (pid: number) => number): number => {
    try {
      return read(pid);
    } catch {
      return 0; // Gone between two looks: that is what this bench does to brokers.
    }
  };
  const spent = (pid: number): number => {
    const now = readOf(pid, cpuSecondsExact);
    const before = used.get(pid);
    used.set(pid, now);
    return before === undefined ? 0 : Math.max(0, now - before);
  };
  const begun = performance.now();
  let lookedAt = begun;
  const timer = setInterval(() => {
    const now = performance.now();
    const seconds = (now - lookedAt) / 1000;
    lookedAt = now;
    samples.push({
      second: (now - begun) / 1000,
      open: crew.openNow(),
      brokerCpu: pids().reduce((sum, pid) => sum + spent(pid), 0) / seconds,
      redisCpu: spent(redisPid) / seconds,
      mebibytes: pids().reduce((sum, pid) => sum + (readOf(pid, ownBytesOf) || 0), 0) / 2 ** 20,
    });
  }, 1000);
  return {
    samples,
    second: () => (performance.now() - begun) / 1000,
    stop: () => clearInterval(timer),
  };
};

/** Resolves when a process of ours is gone. */
const goneOf = async (pid: number, untilMs: number): Promise<boolean> => {
  while (performance.now() < untilMs) {
    try {
      process.kill(pid, 0);
    } catch {
      return true; // ESRCH is the answer that was waited for.
    }
    await pause(100);
  }
  return false;
};

/** Which of these fans have no place any more, whatever its state. */
const withoutPlace = async (fleet: Fleet, line: Line, fans: readonly number[]): Promise<number[]> => {
  const lost = new Set(fans);
  const chunks: number[][] = [];
  for (let from = 0; from < fans.length; from += ASKED_AT_ONCE)
    chunks.push(fans.slice(from, from + ASKED_AT_ONCE));
  for (const set of ['line', 'parked', 'promoted', 'active', 'withheld']) {
    let next = 0;
    await pipeline(
      fleet.redis.wire,
      chunks.map((chunk) => ['ZMSCORE', line.room.key(set), ...chunk.map((fan) => line.places[fan]!)]),
      {
        under: 8,
        take(reply: Reply) {
          const chunk = chunks[next++] ?? [];
          for (const [index, score] of (Array.isArray(reply) ? reply : []).entries())
            if (score !== null) lost.delete(chunk[index]!);
        },
      },
    );
  }
  return [...lost];
};

type Told = ReadonlyMap<number, number>;
type Verdict = {
  missed: number;
  lost: number;
  denied: number;
  early: number;
  delays: number[];
  admitted: number;
};

const judge = async (
  fleet: Fleet,
  line: Line,
  seen: { crew: Crew; followed: Followed; told: Told; denied: ReadonlySet<number> },
): Promise<Verdict> => {
  const { crew, followed, told, denied } = seen;
  const verdict: Verdict = { missed: 0, lost: 0, denied: 0, early: 0, delays: [], admitted: 0 };
  const waiting: number[] = [];
  for (const [fan, placeId] of line.places.entries()) {
    const admitted = followed.admitted.get(placeId);
    const heardMs = told.get(fan);
    if (admitted === undefined) {
      // Told without a record: nobody let them in.
      if (heardMs !== undefined) verdict.early += 1;
      waiting.push(fan);
      if (denied.has(fan)) verdict.denied += 1;
      continue;
    }
    verdict.admitted += 1;
    // A fan whose turn came before the first connection was never there to be told; there should be none.
    if (!crew.isOpened(fan)) verdict.early += 1;
    else if (heardMs === undefined || heardMs > admitted.deadlineMs) verdict.missed += 1;
    else verdict.delays.push(Math.max(0, heardMs - admitted.atMs));
  }
  verdict.lost = (await withoutPlace(fleet, line, waiting)).length;
  return verdict;
};

const chartOf = (samples: readonly Sample[], plan: SoakPlan): string => {
  const machine = readMachine();
  const step = Math.max(1, Math.ceil(samples.length / SAMPLES_SHOWN));
  const shown = samples.filter((_, index) => index % step === step - 1);
  const least = (values: readonly number[]): number[] => values.map((value) => Math.max(value, 0.1));
  return chartSvg({
    title: `${plan.fans.toLocaleString('en')} streams for ${Math.round(plan.seconds / 60) || 1} min, one broker killed, one drained`,
    note: `${machine.cpu}, commit ${machine.commit}. Sums over all brokers; ${plan.perSecond} turns a second.`,
    x: {
      label: 'seconds',
      ticks: shown.map(({ second }, index) => (index % 5 === 0 ? String(Math.round(second)) : '')),
    },
    y: { label: 'streams, MiB, ms of CPU a second' },
    marks: 'none',
    series: [
      { name: 'streams open', colour: '#0b62a4', values: least(shown.map(({ open }) => open)) },
      { name: 'brokers, MiB', colour: '#7a3e9d', values: least(shown.map(({ mebibytes }) => mebibytes)) },
      {
        name: 'brokers, ms CPU/s',
        colour: '#b4500b',
        values: least(shown.map(({ brokerCpu }) => brokerCpu * 1000)),
      },
      {
        name: 'Redis, ms CPU/s',
        colour: '#2b7a3d',
        values: least(shown.map(({ redisCpu }) => redisCpu * 1000)),
      },
    ],
  });
};

/** Seconds from `from` until as many are open again as before, seen once a second; NaN when they never were. */
const backAfter = (samples: readonly Sample[], from: number, fans: number): number =>
  (samples.find(({ second, open }) => second > from + 1.5 && open >= 0.995 * fans)?.second ?? Number.NaN) -
  from;

export const runSoak = async (
  plan: SoakPlan,
): Promise<{ rows: Row[]; rounds: Row[]; conditions: string[]; chart: string }> => {
  const { fans, seconds, perSecond } = plan;
  const note = (text: string): void => void process.stderr.write(`  ${text}\n`);
  const fleet = await startFleet({ appendOnly: true });
  let crew: Crew | undefined;
  try {
    const size = Math.max(3, Math.ceil(fans / PER_BROKER));
    const brokers: RunningSystem[] = await Promise.all(
      Array.from({ length: size }, () => fleet.startBroker()),
    );
    note(`${size} brokers are there; joining`);
    const line = await fleet.createLine({
      name: 'soak',
      held: true,
      fans: fans + perSecond * (seconds + 30),
      settings: {
        newUsersPerMinute: perSecond * 60,
        burst: perSecond,
        totalActiveUsers: 10_000_000,
        claimSeconds: 900,
      },
    });
    const told = new Map<number, number>();
    const denied = new Set<number>();
    crew = startCrew(line, {
      port: fleet.port,
      holders: Math.ceil(fans / PER_HOLDER),
      reconnect: 'retry',
      lingerMs: LINGER_MS,
      inflight: 128,
      says(heard) {
        if (heard.kind === 'promoted' && !told.has(heard.fan)) told.set(heard.fan, heard.atMs);
        const isDenied = heard.kind === 'ended' || (heard.kind === 'state' && heard.is === 'none');
        if (isDenied && !told.has(heard.fan)) denied.add(heard.fan);
      },
    });
    const opening = performance.now();
    crew.open(fans);
    await crew.settled();
    const openSeconds = (performance.now() - opening) / 1000;
    note(`${fans} are open after ${rounded(openSeconds, 1)} s`);
    const host = readHostTimes();
    const followed = followEntries(fleet.redis, line.room);
    const sampling = startSampling({
      crew,
      pids: () => brokers.map(({ pid }) => pid),
      redisPid: fleet.redis.pid,
    });
    await release(fleet.redis, line.room);
    const begun = performance.now();
    const until = (share: number): Promise<void> =>
      pause(Math.max(0, begun + share * seconds * 1000 - performance.now()));

    await crew.lateness();
    await until(0.3);
    const late = await crew.lateness();
    const before = await crew.count();
    const killedAt = sampling.second();
    process.kill(brokers[0]!.pid, 'SIGKILL');
    note(`one broker is killed, ${before.open} open`);
    const replace = async (index: number): Promise<void> => {
      await pause(Math.min(BACK_AFTER_MS, seconds * 150));
      brokers[index] = await fleet.startBroker();
    };
    await replace(0);
    await until(0.65);
    const drainedAt = sampling.second();
    process.kill(brokers[1]!.pid, 'SIGTERM');
    note('one broker is told to stop');
    const isGone = await goneOf(brokers[1]!.pid, performance.now() + 60_000);
    const drainSeconds = sampling.second() - drainedAt;
    await replace(1);
    await until(1);
    await hold(fleet.redis, line.room);
    const endedAt = sampling.second();
    await pause(Math.min(AFTER_MS, Math.max(8000, seconds * 250)));
    await followed.stop();
    sampling.stop();
    const after = await crew.count();
    const steal = stealBetween(host, readHostTimes());
    note('judging');
    const verdict = await judge(fleet, line, { crew, followed, told, denied });
    const during = sampling.samples.filter(({ second }) => second <= endedAt);
    const mean = (read: (sample: Sample) => number): number =>
      during.reduce((sum, sample) => sum + read(sample), 0) / during.length;
    const row = (what: string, measured: number | string, wanted = ''): Row => ({ what, measured, wanted });
    return {
      rows: [
        row('missed promotions', verdict.missed, '0'),
        row('lost places', verdict.lost, '0'),
        row('told that they have no place, who had one', verdict.denied, '0'),
        row('let in without a record, or before they came', verdict.early, '0'),
        row('let in and told', verdict.delays.length),
        row('turns a second', rounded(verdict.admitted / endedAt, 1), `${perSecond}`),
        row('promoted → told, p50 ms', Math.round(quantile(verdict.delays, 0.5))),
        row('promoted → told, p99 ms', Math.round(quantile(verdict.delays, 0.99))),
        row('promoted → told, longest ms', Math.round(quantile(verdict.delays, 1))),
        row('position frames late before the kill, p99 ms', quantileOf(late, 0.99), '≤ 250'),
        row(
          'killed: seconds until all are back',
          rounded(backAfter(sampling.samples, killedAt, fans), 1),
          '≤ 10',
        ),
        row(
          'drained: seconds until the process is gone',
          isGone ? rounded(drainSeconds, 1) : 'never',
          '≤ 60',
        ),
        row(
          'drained: seconds until all are back',
          rounded(backAfter(sampling.samples, drainedAt + drainSeconds, fans), 1),
        ),
        row('streams lost and opened again', after.losses),
        row('refused, and tried again', after.refusals),
        row('parked meanwhile', followed.counts.parked),
        row('seconds to open all', rounded(openSeconds, 1)),
        row('frames/s', Math.round((after.frames - before.frames) / (sampling.second() - killedAt))),
        row('brokers, cores', rounded(mean(({ brokerCpu }) => brokerCpu))),
        row('brokers, MiB', Math.round(mean(({ mebibytes }) => mebibytes))),
        row(
          'Redis, cores',
          rounded(
            mean(({ redisCpu }) => redisCpu),
            3,
          ),
        ),
      ],
      rounds: sampling.samples.map((sample) => ({
        second: rounded(sample.second, 1),
        open: sample.open,
        brokerCpu: rounded(sample.brokerCpu, 3),
        redisCpu: rounded(sample.redisCpu, 3),
        mebibytes: Math.round(sample.mebibytes),
      })),
      conditions: [
        `${fans} streams on ${size} brokers behind one port, ${crew.holders.length} holders, all on the same ${readMachine().cores} cores; ${seconds} s, ${perSecond} turns a second`,
        `places joined through room.join, one a fan; whoever was told goes after ${LINGER_MS} ms without claiming, and the next of the line opens a stream`,
        'a broker is killed (SIGKILL) at 30 % and one drained (SIGTERM) at 65 % of the time; another takes its place some seconds later',
        'a lost stream comes back after the retry that the server gave; a refused one with full jitter, 10 s at most',
        'missed: in the entry stream, and not told over any connection before the deadline; lost: opened or not, neither let in nor anywhere in the line',
        `${rounded(steal * 100, 1)} % of the CPU was stolen by the host meanwhile`,
      ],
      chart: chartOf(during, plan),
    };
  } finally {
    await crew?.stop();
    await fleet.stop();
  }
};
