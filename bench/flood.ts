// A flood of joins from one address, beside ordinary fans: how much slower is their slowest hundredth than in quiet
// slices of the same run, what part of the flood the local limiter sheds, and what Redis hears of it.

import { spawn } from 'node:child_process';
import { cpus } from 'node:os';
import { fileURLToPath } from 'node:url';
import { cpuSecondsOf, pin } from './machine.ts';
import { commandsOf, fansSentence, JOIN_PATH, ordinaryFans, startAttacked } from './ordinary.ts';
import type { BenchRedis } from './redis.ts';
import { type Row, rounded } from './report.ts';
import { interleave, medianOf, pinAll, ratioOf } from './rounds.ts';
import { own, pause, type RunningSystem } from './system.ts';

const FLOOD_CONNECTIONS = 16;
const FLOOD_PER_SECOND = 50_000;
/** Not a trusted proxy's: whatever comes from it is the flooder's own. */
const FLOOD_ADDRESS = '127.0.0.66';
/** The flood is on before the fans come and after they have gone. */
const MARGIN_MS = 700;
/** How long it is counted what Redis is asked when nobody comes. */
const IDLE_MS = 3000;
const QUIET = 'quiet';
const FLOOD = 'flood';

/** Joins that were sent, answers that came back, and connections that were opened and cut. */
type Flooded = {
  sent: number;
  answers: number;
  refused: number;
  opened: number;
  cut: number;
  seconds: number;
};
const NO_FLOOD: Flooded = { sent: 0, answers: 0, refused: 0, opened: 0, cut: 0, seconds: 1 };
type Slice = {
  p99Ms: number;
  fansPerSecond: number;
  floodPerSecond: number;
  heardPerSecond: number;
  cutPerSecond: number;
  shedShare: number;
  fans: number;
  flood: number;
  /** What Redis was asked during the whole slice, which took so many seconds. */
  commands: number;
  seconds: number;
  core: number;
};

/** `begun` when the flood is on, and `done` when it is over. */
const startFlood = (base: string, seconds: number): { begun: Promise<void>; done: Promise<Flooded> } => {
  const file = fileURLToPath(new URL('./flooder.ts', import.meta.url));
  const given = [seconds, FLOOD_CONNECTIONS, FLOOD_PER_SECOND, FLOOD_ADDRESS].map(String);
  // It shares the core of the fans that are measured, and runs when nobody else there wants to: it must slow the
  // gateway, and not them.
  const words = ['--idle', '0', process.execPath, '--import', 'tsx/esm', file, base, JOIN_PATH, ...given];
  const child = spawn('chrt', words, { stdio: ['ignore', 'pipe', 'inherit'] });
  own(child);
  let written = '';
  const begun = new Promise<void>((resolve) => child.stdout.once('data', () => resolve()));
  child.stdout.on('data', (chunk: Buffer) => {
    written += chunk.toString('utf8');
  });
  const done = new Promise<Flooded>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code) => {
      if (code !== 0) return reject(new Error(`the flood ended with ${code}`));
      // Written by bench/flooder.ts, in exactly this form, after a first line that says it is on.
      resolve(JSON.parse(written.split('\n')[1] ?? '') as Flooded);
    });
  });
  return { begun: Promise.race([begun, done.then(() => undefined)]), done };
};

type Counted = { shed: number; heard: number };
/** Joins the local limiter refused so far, and all those that came to be read. */
const countedBy = async (system: RunningSystem): Promise<Counted> => {
  const text = await (await fetch(`${system.metrics}/metrics`)).text();
  const counted: Counted = { shed: 0, heard: 0 };
  for (const line of text.split('\n')) {
    const value = Number(line.slice(line.lastIndexOf(' ') + 1));
    if (line.startsWith('anteroom_limited_total{') && line.includes('by="local"')) counted.shed += value;
    if (line.startsWith('anteroom_request_seconds_count{') && line.includes('places"'))
      counted.heard += value;
  }
  return counted;
};

const sliceOf =
  (system: RunningSystem, redis: BenchRedis, seconds: number) =>
  async (subject: string): Promise<Slice> => {
    const wholeMs = seconds * 1000 + 2 * MARGIN_MS;
    const [before, commands, cpu, begun] = [
      await countedBy(system),
      await commandsOf(redis),
      cpuSecondsOf(system.pid),
      performance.now(),
    ];
    const flood = subject === FLOOD ? startFlood(system.base, wholeMs / 1000) : undefined;
    await flood?.begun;
    await pause(MARGIN_MS);
    const fans = await ordinaryFans(system.base, seconds);
    const flooded = (await flood?.done) ?? NO_FLOOD;
    const took = (performance.now() - begun) / 1000;
    const after = await countedBy(system);
    const heard = after.heard - before.heard - fans.answers;
    return {
      p99Ms: fans.p99Ms,
      fansPerSecond: fans.answers / fans.seconds,
      floodPerSecond: flooded.sent / flooded.seconds,
      heardPerSecond: heard / flooded.seconds,
      cutPerSecond: flooded.cut / flooded.seconds,
      shedShare: flood === undefined ? 0 : (after.shed - before.shed) / heard,
      fans: fans.answers,
      flood: heard,
      commands: (await commandsOf(redis)) - commands,
      seconds: took,
      core: (cpuSecondsOf(system.pid) - cpu) / took,
    };
  };

export const runFlood = async (
  quick: boolean,
): Promise<{ rows: Row[]; rounds: Row[]; conditions: string[] }> => {
  const stops: (() => Promise<void>)[] = [];
  try {
    const { redis, others, system } = await startAttacked((started) => {
      stops.unshift(started.stop);
      return started;
    });
    const pinned = pinAll([system.pid]);
    for (const pid of [redis.pid, others.pid]) pin(pid, cpus().length - 1);
    const slice = sliceOf(system, redis, quick ? 2 : 3);
    // Not counted: functions are compiled, and the flooding address uses up its burst.
    await slice(FLOOD);
    await slice(QUIET);
    const [idleFrom, begun] = [await commandsOf(redis), performance.now()];
    await pause(IDLE_MS);
    const idlePerSecond = ((await commandsOf(redis)) - idleFrom) / ((performance.now() - begun) / 1000);
    const done = await interleave({
      subjects: [QUIET, FLOOD],
      rounds: 5,
      slice,
      rowOf: (one) => ({
        p99Ms: rounded(one.p99Ms, 1),
        fansPerSecond: Math.round(one.fansPerSecond),
        floodPerSecond: Math.round(one.floodPerSecond),
        heardPerSecond: Math.round(one.heardPerSecond),
        cutPerSecond: Math.round(one.cutPerSecond),
        shedPercent: rounded(one.shedShare * 100, 2),
        commands: one.commands,
        seconds: rounded(one.seconds, 1),
        core: rounded(one.core),
      }),
    });
    const of = (subject: string, read: (slice: Slice) => number): number => medianOf(done, subject, read);
    // Redis is also asked by the clocks of the roles, and by the fans; what is left was asked for the flood.
    const ofFans = (one: Slice): number => (one.commands - idlePerSecond * one.seconds) / one.fans;
    const perFan = of(QUIET, ofFans);
    const caused = of(FLOOD, (one) => ((ofFans(one) - perFan) * one.fans) / one.flood);
    const rows = [QUIET, FLOOD].map((subject) => ({
      subject,
      'fans, joins/s': Math.round(of(subject, (one) => one.fansPerSecond)),
      'fans, p99 ms': rounded(
        of(subject, (one) => one.p99Ms),
        1,
      ),
      'flood, joins/s sent': Math.round(of(subject, (one) => one.floodPerSecond)),
      'of these read': Math.round(of(subject, (one) => one.heardPerSecond)),
      'connections cut/s': Math.round(of(subject, (one) => one.cutPerSecond)),
      'Redis commands a fan': rounded(of(subject, ofFans)),
      'core busy': rounded(of(subject, (one) => one.core)),
    }));
    return {
      rows: [
        ...rows,
        {
          ratio: 'p99 of ordinary fans in the flood, of that in quiet slices',
          measured: rounded(ratioOf(done, { of: FLOOD, to: QUIET, read: (one) => one.p99Ms })),
          wanted: '≤ 2',
        },
        {
          ratio: 'share of the joins of the flood that were read, shed by the local limiter, %',
          measured: rounded(of(FLOOD, (one) => one.shedShare) * 100, 2),
          wanted: '≥ 95',
        },
        {
          ratio: 'commands of Redis a request of the flood (below 0: joins of fans came in larger batches)',
          measured: rounded(caused, 4),
          wanted: 'near 0',
        },
      ],
      rounds: done.rows,
      conditions: [
        `${done.kept.length} interleaved rounds kept, ${done.dropped} dropped for steal; figures are medians over the rounds`,
        fansSentence,
        `the flood: one address, ${FLOOD_CONNECTIONS} connections, ${FLOOD_PER_SECOND} joins a second, evenly and whether or not they are answered; up to 64 at a time on a connection. What was sent on a connection that is then cut is never read`,
        `nobody there: ${Math.round(idlePerSecond)} commands of Redis a second; taken off before commands are shared out`,
        `${pinned}; the flood shares the fans' core and runs when nothing else there does (SCHED_IDLE)`,
        'the gateway is a process of its own; the other roles, a second one, and Redis are on the core of the load. Addresses of fans are told by a trusted proxy, the flood comes from an address of its own',
      ],
    };
  } finally {
    for (const stop of stops) await stop();
  }
};
