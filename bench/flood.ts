// A flood of joins from one address, beside ordinary fans: how much slower is their slowest hundredth than in quiet
// slices of the same run, what part of the flood the local limiter sheds, and what Redis hears of it.

import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { cpuSecondsOf } from './machine.ts';
import { commandsOf, fansSentence, JOIN_PATH, ordinaryFans, startAttacked } from './ordinary.ts';
import type { BenchRedis } from './redis.ts';
import { type Row, rounded } from './report.ts';
import { interleave, medianOf, pinAll, ratioOf } from './rounds.ts';
import { own, pause, type RunningSystem } from './system.ts';

const FLOOD_CONNECTIONS = 256;
/** The flood is on before the fans come and after they have gone. */
const MARGIN_MS = 700;
/** How long it is counted what Redis is asked when nobody comes. */
const IDLE_MS = 3000;
const QUIET = 'quiet';
const FLOOD = 'flood';

type Flooded = { answers: number; seconds: number; refused: number };
type Slice = {
  p99Ms: number;
  fansPerSecond: number;
  floodPerSecond: number;
  refusedShare: number;
  shedShare: number;
  fans: number;
  flood: number;
  /** What Redis was asked during the whole slice, which took so many seconds. */
  commands: number;
  seconds: number;
  core: number;
};

const startFlood = (base: string, seconds: number): Promise<Flooded> => {
  const file = fileURLToPath(new URL('./flooder.ts', import.meta.url));
  const words = ['--import', 'tsx', file, base, JOIN_PATH, String(seconds), String(FLOOD_CONNECTIONS)];
  const child = spawn(process.execPath, words, { stdio: ['ignore', 'pipe', 'inherit'] });
  own(child);
  let written = '';
  child.stdout.on('data', (chunk: Buffer) => {
    written += chunk.toString('utf8');
  });
  return new Promise((resolve, reject) => {
    child.once('exit', (code) => {
      if (code !== 0) return reject(new Error(`the flood ended with ${code}`));
      // Written by bench/flooder.ts, in exactly this form.
      resolve(JSON.parse(written) as Flooded);
    });
  });
};

const shedBy = async (system: RunningSystem): Promise<number> => {
  const text = await (await fetch(`${system.metrics}/metrics`)).text();
  return Number(/^anteroom_limited_total\{[^}]*by="local"[^}]*\} (\d+)/m.exec(text)?.[1] ?? 0);
};

const sliceOf =
  (system: RunningSystem, redis: BenchRedis, seconds: number) =>
  async (subject: string): Promise<Slice> => {
    const flooding = subject === FLOOD;
    const wholeMs = seconds * 1000 + 2 * MARGIN_MS;
    const [shed, commands, cpu, begun] = [
      await shedBy(system),
      await commandsOf(redis),
      cpuSecondsOf(system.pid),
      performance.now(),
    ];
    const flood = flooding ? startFlood(system.base, wholeMs / 1000) : undefined;
    await pause(MARGIN_MS);
    const fans = await ordinaryFans(system.base, seconds);
    const flooded = (await flood) ?? { answers: 0, seconds: 1, refused: 0 };
    const took = (performance.now() - begun) / 1000;
    return {
      p99Ms: fans.p99Ms,
      fansPerSecond: fans.answers / fans.seconds,
      floodPerSecond: flooded.answers / flooded.seconds,
      refusedShare: flooding ? flooded.refused / flooded.answers : 0,
      shedShare: flooding ? ((await shedBy(system)) - shed) / flooded.answers : 0,
      fans: fans.answers,
      flood: flooded.answers,
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
    const { redis, system } = await startAttacked((started) => {
      stops.unshift(started.stop);
      return started;
    });
    const pinned = pinAll([system.pid]);
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
      'flood, joins/s': Math.round(of(subject, (one) => one.floodPerSecond)),
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
          ratio: 'share of the flood shed by the local limiter, %',
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
        `the flood: one address, ${FLOOD_CONNECTIONS} connections, each sends its next join as soon as the last is answered, without pipelining: as many as gateway and sender manage on two cores, not the 50,000 a second of the target`,
        `nobody there: ${Math.round(idlePerSecond)} commands of Redis a second; taken off before commands are shared out`,
        `${pinned}; the flood shares the fans' core at the lowest priority`,
        'the gateway is a process of its own, the other roles a second one, not pinned; addresses are told by a trusted proxy',
      ],
    };
  } finally {
    for (const stop of stops) await stop();
  }
};
