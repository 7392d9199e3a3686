// Slow clients by the thousand (slowhttptest): heads, bodies and readers that take for ever, beside ordinary fans. How
// much slower is their slowest hundredth than in quiet slices of the same run?

import { type ChildProcess, spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { cpuSecondsOf } from './machine.ts';
import { fansSentence, JOIN_PATH, ordinaryFans, PAGE_PATH, startAttacked } from './ordinary.ts';
import { type Row, rounded } from './report.ts';
import { interleave, medianOf, pinAll, ratioOf } from './rounds.ts';
import { own, pause, type RunningSystem, stopChild } from './system.ts';

const QUIET = 'quiet';
/** Words of slowhttptest for each attack: what a connection does, and where. */
const attacks: Readonly<Record<string, readonly string[]>> = {
  'slow heads': ['-H', '-i', '3', '-x', '24'],
  'slow bodies': ['-B', '-i', '3', '-x', '10', '-s', '8192', '-f', 'application/json'],
  'slow readers': ['-X', '-n', '5', '-z', '8', '-w', '16', '-y', '64', '-k', '1'],
};
const urlOf = (base: string, attack: string): string =>
  `${base}${attack === 'slow bodies' ? JOIN_PATH : PAGE_PATH}`;
/** One process of slowhttptest opens some hundreds a second beside others; together they are faster. */
const ATTACKERS = 4;
const OPENED_PER_SECOND = 10_000;
/** The fans begin when nearly all are open, or no more are being opened, or the first will soon be closed for it. */
const OPENING_MS_MAX = 8000;
const ENOUGH_SHARE = 0.97;
const STILL_LOOKS = 6;
const LOOK_MS = 250;

type Slice = { p99Ms: number; fansPerSecond: number; descriptors: number; core: number };

const descriptorsOf = (pid: number): number => readdirSync(`/proc/${pid}/fd`).length;

const wordsOf = (attack: string, connections: number): string[] => [
  ...(attacks[attack] ?? []),
  ...['-c', String(Math.floor(connections / ATTACKERS))],
  ...['-r', String(OPENED_PER_SECOND / ATTACKERS)],
];

/** Only when nobody else wants its core (SCHED_IDLE), or it would be the load of the fans that is slowed. */
const startAttack = (base: string, attack: string, connections: number): ChildProcess[] =>
  Array.from({ length: ATTACKERS }, () => {
    const child = spawn(
      'chrt',
      [
        ...['--idle', '0', 'slowhttptest', ...wordsOf(attack, connections)],
        ...['-l', '60', '-p', '20', '-v', '0', '-u', urlOf(base, attack)],
      ],
      { stdio: 'ignore' },
    );
    own(child);
    return child;
  });

const untilOpen = async (pid: number, connections: number): Promise<void> => {
  const untilMs = performance.now() + OPENING_MS_MAX;
  let [most, still] = [0, 0];
  while (performance.now() < untilMs && most < connections * ENOUGH_SHARE && still < STILL_LOOKS) {
    await pause(LOOK_MS);
    const now = descriptorsOf(pid);
    still = now > most ? 0 : still + 1;
    most = Math.max(most, now);
  }
};

const sliceOf =
  (system: RunningSystem, options: { connections: number; seconds: number }) =>
  async (subject: string): Promise<Slice> => {
    const { connections, seconds } = options;
    const attackers = subject === QUIET ? [] : startAttack(system.base, subject, connections);
    try {
      if (attackers.length > 0) await untilOpen(system.pid, connections);
      if (attackers.some(({ exitCode }) => exitCode !== null))
        throw new Error('slowhttptest does not run: scripts/setup --bench installs it');
      let descriptors = descriptorsOf(system.pid);
      const look = setInterval(() => {
        descriptors = Math.max(descriptors, descriptorsOf(system.pid));
      }, 1000);
      const [cpu, begun] = [cpuSecondsOf(system.pid), performance.now()];
      const fans = await ordinaryFans(system.base, seconds).finally(() => clearInterval(look));
      return {
        p99Ms: fans.p99Ms,
        fansPerSecond: fans.answers / fans.seconds,
        descriptors,
        core: (cpuSecondsOf(system.pid) - cpu) / ((performance.now() - begun) / 1000),
      };
    } finally {
      await Promise.all(attackers.map(stopChild));
      // The gateway closes what the attack has left behind.
      const until = performance.now() + 10_000;
      while (descriptorsOf(system.pid) > 500 && performance.now() < until) await pause(100);
    }
  };

export const runSlow = async (
  quick: boolean,
): Promise<{ rows: Row[]; rounds: Row[]; conditions: string[] }> => {
  const stops: (() => Promise<void>)[] = [];
  // A process here has 20,000 descriptors; some are left for the fans, and for what the gateway has open itself.
  const connections = quick ? 4000 : 18_800;
  try {
    const { system } = await startAttacked((started) => {
      stops.unshift(started.stop);
      return started;
    });
    const pinned = pinAll([system.pid]);
    const subjects = [QUIET, ...Object.keys(attacks)];
    const slice = sliceOf(system, { connections, seconds: quick ? 2 : 3 });
    for (let times = 0; times < 2; times++) await slice(QUIET);
    const done = await interleave({
      subjects,
      rounds: 5,
      slice,
      rowOf: (one) => ({
        p99Ms: rounded(one.p99Ms, 1),
        fansPerSecond: Math.round(one.fansPerSecond),
        descriptors: one.descriptors,
        core: rounded(one.core),
      }),
    });
    const of = (subject: string, read: (slice: Slice) => number): number => medianOf(done, subject, read);
    return {
      rows: [
        ...subjects.map((subject) => ({
          subject,
          'fans, joins/s': Math.round(of(subject, (one) => one.fansPerSecond)),
          'fans, p99 ms': rounded(
            of(subject, (one) => one.p99Ms),
            1,
          ),
          'descriptors of the gateway': of(subject, (one) => one.descriptors),
          'core busy': rounded(of(subject, (one) => one.core)),
        })),
        ...Object.keys(attacks).map((attack) => ({
          ratio: `p99 of ordinary fans beside ${attack}, of that in quiet slices`,
          measured: rounded(ratioOf(done, { of: attack, to: QUIET, read: (one) => one.p99Ms })),
          wanted: '≤ 2',
        })),
      ],
      rounds: done.rows,
      conditions: [
        `${done.kept.length} interleaved rounds kept, ${done.dropped} dropped for steal; figures are medians over the rounds`,
        fansSentence,
        ...Object.keys(attacks).map(
          (attack) => `${attack}: ${ATTACKERS} × slowhttptest ${wordsOf(attack, connections).join(' ')}`,
        ),
        `${pinned}; slowhttptest has what the fans leave of their core (SCHED_IDLE)`,
        'the gateway is a process of its own, the other roles a second one, not pinned',
      ],
    };
  } finally {
    for (const stop of stops) await stop();
  }
};
