// Slow clients by the thousand (slowhttptest): heads, bodies and readers that take for ever, beside ordinary fans. How
// much slower is their slowest hundredth than in quiet slices of the same run?

import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { setPriority } from 'node:os';
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
/** Connections a second while they are opened, and how long that is waited for. */
const OPENED_PER_SECOND = 10_000;
/** Behind everything else on its core, or it would be the load of the fans that is slowed. */
const LOWEST_PRIORITY = 19;

type Slice = { p99Ms: number; fansPerSecond: number; descriptors: number; core: number };

const descriptorsOf = (pid: number): number => readdirSync(`/proc/${pid}/fd`).length;

const startAttack = (base: string, attack: string, connections: number) => {
  const words = [...(attacks[attack] ?? []), '-c', String(connections), '-r', String(OPENED_PER_SECOND)];
  const child = spawn(
    'slowhttptest',
    [...words, '-l', '60', '-p', '20', '-v', '0', '-u', urlOf(base, attack)],
    { stdio: 'ignore' },
  );
  own(child);
  child.once('spawn', () => setPriority(child.pid ?? 0, LOWEST_PRIORITY));
  return child;
};

const sliceOf =
  (system: RunningSystem, options: { connections: number; seconds: number }) =>
  async (subject: string): Promise<Slice> => {
    const { connections, seconds } = options;
    const attack = subject === QUIET ? undefined : startAttack(system.base, subject, connections);
    try {
      if (attack !== undefined) {
        await new Promise((resolve, reject) => {
          attack.once('error', () => reject(new Error('slowhttptest is missing: run scripts/setup --bench')));
          attack.once('spawn', resolve);
        });
        // Most are open when the fans begin; the last are still being opened while they join.
        await pause((connections / OPENED_PER_SECOND) * 1000);
      }
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
      if (attack !== undefined) await stopChild(attack);
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
  const connections = quick ? 4000 : 19_000;
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
        ...Object.entries(attacks).map(
          ([attack, words]) =>
            `${attack}: slowhttptest ${words.join(' ')} -c ${connections} -r ${OPENED_PER_SECOND}`,
        ),
        `${pinned}; slowhttptest shares the fans' core at the lowest priority`,
        'the gateway is a process of its own, the other roles a second one, not pinned',
      ],
    };
  } finally {
    for (const stop of stops) await stop();
  }
};
