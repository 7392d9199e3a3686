// The clients of the stream benches: bench/holder.c and bench/sender.c, compiled when they are first needed into a
// folder that goes with the run, and a handle on each process of them.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { own, pause, stopChild } from './system.ts';

/** A process here has 20,000 descriptors; some are its own. */
export const HELD_MAX = 19_000;
const SETTLE_MS_MAX = 90_000;

let folder: string | undefined;
const compiled = new Map<string, string>();

export const benchFolder = (): string => {
  folder ??= mkdtempSync(join(tmpdir(), 'anteroom-bench-streams-'));
  return folder;
};

/** `holder` or `sender` as a program of this machine. */
export const compile = (name: 'holder' | 'sender'): string => {
  const known = compiled.get(name);
  if (known !== undefined) return known;
  const [source, program] = [
    fileURLToPath(new URL(`./${name}.c`, import.meta.url)),
    join(benchFolder(), name),
  ];
  try {
    execFileSync('gcc', ['-O2', '-Wall', '-o', program, source], { stdio: ['ignore', 'ignore', 'inherit'] });
  } catch (cause) {
    throw new Error('gcc is missing or failed; `scripts/setup --bench` installs it', { cause });
  }
  compiled.set(name, program);
  return program;
};

/** Counters since the start of the process; `open` and `settled` (with a first frame) are now. */
export type Counters = {
  atMs: number;
  open: number;
  settled: number;
  /** Fans that have been begun with, in the order of the file. */
  opened: number;
  frames: number;
  bytes: number;
  connects: number;
  losses: number;
  faults: number;
  refusals: number;
  refusedBy: Record<string, number>;
};
/** What concerned one fan; `fan` is the index in the file. */
export type FanNews =
  | { kind: 'promoted'; fan: number; number: number; atMs: number }
  | { kind: 'ended'; fan: number; reason: string; atMs: number }
  | { kind: 'state'; fan: number; is: string; atMs: number }
  | { kind: 'first'; fan: number; event: string; position: number; atMs: number };
/** Milliseconds after the promised time, and how often. */
export type Lateness = [ms: number, count: number][];

type Line =
  | FanNews
  | ({ kind: 'second' | 'counters' } & Counters)
  | { kind: 'late'; counts: Lateness }
  | { kind: 'settled'; atMs: number; open: number }
  | { kind: 'fault'; says: string };

export type HolderOptions = {
  port: number;
  /** Path and headers that all fans have in common. */
  path: string;
  headers: Readonly<Record<string, string>>;
  /** A header line for each fan, or only how many there are. */
  fans: number | readonly string[];
  mode?: 'sse' | 'ws' | 'socketio';
  /** Index of the first fan's address; holders beside each other need different ones. */
  source?: number;
  /** What a fan does whose stream is lost: stay away, come back at once, or wait as `retry` says. */
  reconnect?: 'no' | 'now' | 'retry';
  /** So long after its turn was told a fan goes, and the next of the file comes. */
  lingerMs?: number;
  says?: (news: FanNews) => void;
  second?: (counters: Counters) => void;
  wantsFirst?: boolean;
  inflight?: number;
};

export type Holder = {
  pid: number;
  /** Keeps so many open from now on. */
  open(count: number): void;
  /** Resolves with the moment at which each of those wanted had its first frame. */
  settled(): Promise<number>;
  /**
   * After a cut at `sinceMs`: when all `fans` were there again, once so many streams were lost in all. Those who are
   * back before the others have noticed the cut are not all.
   */
  back(options: { fans: number; losses: number; sinceMs: number }): Promise<number>;
  count(): Promise<Counters>;
  /** How late positions came since this was last asked. */
  lateness(): Promise<Lateness>;
  /** Closes all; the next `open` begins with the first fan. */
  close(): Promise<void>;
  stop(): Promise<void>;
};

let files = 0;
const fileOf = (lines: readonly string[]): string => {
  files += 1;
  const path = join(benchFolder(), `fans-${files}`);
  writeFileSync(path, `${lines.join('\n')}\n`);
  return path;
};

const upgradeHeaders = {
  connection: 'Upgrade',
  upgrade: 'websocket',
  'sec-websocket-version': '13',
  // Any sixteen bytes: a holder does not check what the server makes of them.
  'sec-websocket-key': Buffer.alloc(16, 'fan').toString('base64'),
};

export const startHolder = (options: HolderOptions): Holder => {
  const { port, path, fans, mode = 'sse', source = 0, reconnect = 'no', lingerMs, inflight = 256 } = options;
  const headers: Record<string, string> = {
    host: `127.0.0.1:${port}`,
    ...options.headers,
    ...(mode === 'sse' ? { accept: 'text/event-stream' } : upgradeHeaders),
  };
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  const child: ChildProcess = spawn(
    compile('holder'),
    [
      ...['--port', String(port), '--mode', mode, '--source', String(source), '--reconnect', reconnect],
      ...['--inflight', String(inflight), '--prefix', `GET ${path} HTTP/1.1\r\n${lines.join('')}`],
      ...(typeof fans === 'number' ? ['--fans', String(fans)] : ['--lines', fileOf(fans)]),
      ...(lingerMs === undefined ? [] : ['--linger', String(lingerMs)]),
      ...(options.wantsFirst === true ? ['--first'] : []),
    ],
    { stdio: ['pipe', 'pipe', 'inherit'] },
  );
  own(child, benchFolder());
  let last: Counters | undefined;
  let gone: string | undefined;
  const counted: ((counters: Counters) => void)[] = [];
  const late: ((counts: Lateness) => void)[] = [];
  let settledAtMs: number | undefined;
  createInterface({ input: child.stdout! }).on('line', (text) => {
    // Written by bench/holder.c, one object of these kinds a line.
    const line = JSON.parse(text) as Line;
    switch (line.kind) {
      case 'second':
        last = line;
        return options.second?.(line);
      case 'counters':
        last = line;
        return counted.shift()?.(line);
      case 'late':
        return late.shift()?.(line.counts);
      case 'settled':
        settledAtMs = line.atMs;
        return;
      case 'fault':
        gone = line.says;
        return;
      default:
        options.says?.(line);
    }
  });
  child.once('exit', (code) => {
    gone ??= `the holder ended with ${code}`;
  });
  // Its end is noticed by whoever waits for an answer.
  child.stdin!.on('error', () => undefined);
  const tell = (order: string): void => void child.stdin!.write(`${order}\n`);
  const answered = async <T>(order: string, into: ((value: T) => void)[]): Promise<T> => {
    let value: T | undefined;
    into.push((given) => {
      value = given;
    });
    tell(order);
    while (value === undefined) {
      if (gone !== undefined) throw new Error(gone);
      await pause(2);
    }
    return value;
  };
  const count = (): Promise<Counters> => answered('count', counted);
  return {
    pid: child.pid ?? 0,
    open(count) {
      settledAtMs = undefined;
      tell(`open ${count}`);
    },
    async settled() {
      const until = performance.now() + SETTLE_MS_MAX;
      while (settledAtMs === undefined) {
        if (gone !== undefined) throw new Error(gone);
        if (performance.now() > until) throw new Error(`fans did not all come: ${JSON.stringify(last)}`);
        await pause(5);
      }
      return settledAtMs;
    },
    async back({ fans, losses, sinceMs }) {
      const until = performance.now() + SETTLE_MS_MAX;
      for (;;) {
        const now = await count();
        if (
          now.losses >= losses &&
          now.settled === fans &&
          now.open === fans &&
          settledAtMs !== undefined &&
          settledAtMs > sinceMs
        )
          return settledAtMs;
        if (performance.now() > until) throw new Error(`fans did not come back: ${JSON.stringify(now)}`);
        await pause(5);
      }
    },
    count,
    lateness: () => answered('late', late),
    close: async () => {
      await answered('close', counted);
    },
    stop: () => stopChild(child),
  };
};

/** The milliseconds below which a share of all lie, over the answers of several holders. */
export const quantileOf = (all: readonly Lateness[], share: number): number => {
  const sorted = all.flat().sort((a, b) => a[0] - b[0]);
  let left = sorted.reduce((sum, [, count]) => sum + count, 0) * share;
  for (const [ms, count] of sorted) {
    left -= count;
    if (left <= 0) return ms;
  }
  return Number.NaN;
};
