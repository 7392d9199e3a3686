// What the machine says: which one it is, how much CPU a process has used, how much the host has stolen. Linux only,
// read from /proc (proc(5)); a bench on anything else says so and stops.

import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { cpus, release, totalmem } from 'node:os';

/** USER_HZ: the unit of CPU times in /proc; fixed at 100 on every Linux a Node runs on. */
const TICKS_PER_SECOND = 100;

export type Machine = {
  cpu: string;
  cores: number;
  memoryGiB: number;
  kernel: string;
  node: string;
  commit: string;
};

/** The commit, with `+` when the tree has changes. */
const commitOf = (): string => {
  const git = (...words: string[]): string => execFileSync('git', words, { encoding: 'utf8' }).trim();
  try {
    return git('rev-parse', '--short', 'HEAD') + (git('status', '--porcelain') === '' ? '' : '+');
  } catch {
    return 'unknown'; // A tree without git (a release archive) still runs a bench.
  }
};

export const readMachine = (): Machine => {
  if (process.platform !== 'linux')
    throw new Error('The benches read /proc and run on Linux only; try them in a container.');
  const all = cpus();
  return {
    cpu: all[0]?.model ?? 'unknown',
    cores: all.length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    kernel: release(),
    node: process.version,
    commit: commitOf(),
  };
};

/** CPU seconds (user and system, all threads) a process has used. */
export const cpuSecondsOf = (pid: number): number => {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  // The name is in parentheses and may hold spaces; utime and stime are fields 14 and 15.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
};

/**
 * The same to the nanosecond, for slices in which little is used: the time each thread of it has run
 * (Documentation/scheduler/sched-stats.rst).
 */
export const cpuSecondsExact = (pid: number): number => {
  let nanos = 0;
  for (const thread of readdirSync(`/proc/${pid}/task`))
    nanos += Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ', 1)[0]);
  return nanos / 1e9;
};

/** Bytes of memory a process has for itself: neither files nor what it shares (proc(5), RssAnon). */
export const ownBytesOf = (pid: number): number =>
  Number(/^RssAnon:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? Number.NaN) *
  1024;

/** The child of a process with this name, e.g. the embedded redis-server. */
export const childOf = (pid: number, name: string): number | undefined =>
  readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
    .split(' ')
    .filter((text) => text !== '')
    .map(Number)
    .find((child) => readFileSync(`/proc/${child}/comm`, 'utf8').trim().startsWith(name));

export type HostTimes = { steal: number; idle: number; total: number };

/** Ticks of all cores since start, from the first line of /proc/stat. */
export const readHostTimes = (): HostTimes => {
  const fields = readFileSync('/proc/stat', 'utf8').split('\n')[0]?.trim().split(/\s+/).slice(1, 9) ?? [];
  const ticks = fields.map(Number);
  return {
    steal: ticks[7] ?? 0,
    idle: (ticks[3] ?? 0) + (ticks[4] ?? 0),
    total: ticks.reduce((sum, tick) => sum + tick, 0),
  };
};

/** The share of CPU time the host took away between two readings, from 0 to 1. */
export const stealBetween = (from: HostTimes, to: HostTimes): number =>
  to.total === from.total ? 0 : (to.steal - from.steal) / (to.total - from.total);

/** Keeps a process on one core, so that server and load do not take turns; says nothing on a single core. */
export const pin = (pid: number, core: number): boolean => {
  if (cpus().length < 2) return false;
  try {
    execFileSync('taskset', ['-a', '-c', '-p', String(core), String(pid)], { stdio: 'ignore' });
    return true;
  } catch {
    return false; // Without taskset the numbers are noisier; the result says that nothing was pinned.
  }
};
