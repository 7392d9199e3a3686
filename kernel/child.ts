// A server that runs as our child: started with a guard, started again when it is lost, and ended with us. What is
// started and how it is asked to end is its owner's (kernel/redis-server.ts, kernel/postgres-server.ts).

import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { type Clock, systemClock } from './clock.ts';
import type { Log } from './log.ts';

/** How long a child that was asked to end may take before it is killed. */
export const STOP_MS_MAX = 5000;
const BACKOFF_MS_MAX = 5000;
/** A child that lived this long has proven itself: the next loss starts with the shortest pause again. */
const SETTLED_MS = 30_000;
const LAST_LINES = 12;
/** sun_path is 104 bytes on macOS and 108 on Linux, with the closing zero (unix(7)). */
const SOCKET_PATH_BYTES_MAX = 100;

export type Child = {
  process: ChildProcess;
  pid: number;
  /** Resolves with the signal or the exit code, as text. */
  gone: Promise<string>;
  /** The last lines it wrote. */
  says: string[];
};

/** Whether `check` came true in time. */
export const waitFor = async (
  check: () => boolean | Promise<boolean>,
  withinMs: number,
  clock: Clock = systemClock,
): Promise<boolean> => {
  const until = clock.monotonicMs() + withinMs;
  for (;;) {
    if (await check()) return true;
    if (clock.monotonicMs() > until) return false;
    await pause(20);
  }
};

export const hasEnded = ({ process }: Child): boolean =>
  process.exitCode !== null || process.signalCode !== null;

/**
 * Starts a program in a process group of its own, because Ctrl-C in a terminal goes to the whole group and would end
 * it before the roles have finished. The guard is a shell that reads from a pipe we hold: when we die in whatever
 * way, the pipe closes, and the guard sends `endSignal`. Rejects as spawn does (ENOENT, EACCES).
 */
export const spawnGuarded = async (options: {
  command: string;
  args: readonly string[];
  endSignal: 'TERM' | 'INT';
  stdin?: string;
  cwd?: string;
  env?: NodeJS.ProcessEnv;
  user?: { uid: number; gid: number } | undefined;
}): Promise<Child> => {
  const { command, args, endSignal, stdin = '', cwd, env, user } = options;
  const server = spawn(command, args, { cwd, env, ...user, detached: true, stdio: ['pipe', 'pipe', 'pipe'] });
  const says: string[] = [];
  const keep = (chunk: Buffer): void => {
    says.push(...chunk.toString().trimEnd().split('\n'));
    says.splice(0, says.length - LAST_LINES);
  };
  server.stdout.on('data', keep);
  server.stderr.on('data', keep);
  const gone = new Promise<string>((end) => {
    server.once('exit', (code, signal) => end(signal ?? `code ${code}`));
  });
  await new Promise<void>((started, failed) => {
    server.once('spawn', started);
    server.once('error', failed);
  });
  // A child that dies at once closes its stdin; its exit is what tells us, not this write.
  server.stdin.on('error', () => undefined);
  server.stdin.end(stdin);
  const pid = server.pid;
  if (pid === undefined) throw new Error('a spawned process has a number');
  const guard = spawn('/bin/sh', ['-c', `read -r _; kill -${endSignal} "$1"`, 'sh', String(pid)], {
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  guard.on('error', () => undefined); // Without a shell there is no guard; the next start ends the orphan.
  guard.unref();
  void gone.then(() => guard.kill('SIGKILL'));
  return { process: server, pid, gone, says };
};

/** Waits until `answers` holds; kills the child and throws with its last words when it ends or is late instead. */
export const untilReady = async (
  child: Child,
  { name, answers, withinMs }: { name: string; answers(): boolean | Promise<boolean>; withinMs: number },
): Promise<void> => {
  const ready = await waitFor(async () => hasEnded(child) || (await answers()), withinMs);
  if (ready && !hasEnded(child)) return;
  const how = ready ? `ended (${await child.gone})` : `was not ready within ${withinMs} ms`;
  child.process.kill('SIGKILL');
  await child.gone;
  throw new Error(`${name} ${how}: ${child.says.join(' | ')}`);
};

export type Supervised = {
  /** The process number of the child that runs now. */
  readonly pid: number;
  /** Ends the child, with everything written; kills it after STOP_MS_MAX. Safe to call twice. */
  stop(): Promise<void>;
};

/**
 * Keeps a child running. Modes: running → (child lost) restarting → running …; stopped is final. Writes
 * `<name>-child-lost`, `-back` and `-killed` to the log. `end` asks a child to end, and need not wait for it; `ended`
 * runs once, when the last child is gone.
 */
export const supervise = async (options: {
  name: 'redis' | 'postgres';
  log: Log;
  start(): Promise<Child>;
  end(child: Child): Promise<unknown> | unknown;
  ended(): void;
  clock?: Clock;
}): Promise<Supervised> => {
  const { name, log, start, end, clock = systemClock } = options;
  const pauses = new AbortController();
  let mode: 'running' | 'restarting' | 'stopped' = 'running';
  let child = await start();

  const restart = async (attempt: number): Promise<void> => {
    try {
      await pause(Math.min(100 * 2 ** attempt, BACKOFF_MS_MAX), undefined, { signal: pauses.signal });
    } catch {
      // Stopped during the pause: there is nothing to start any more.
      return;
    }
    if (mode !== 'restarting') return;
    try {
      child = await start();
      // stop() may have come meanwhile; it waits for this promise and then ends the new child.
      if (mode !== 'restarting') return;
      mode = 'running';
      log.info(`${name}-child-back`, { pid: child.pid });
      watch(child, attempt);
    } catch (error) {
      log.error(`${name}-child-lost`, { error, attempt });
      if (mode === 'restarting') await restart(attempt + 1);
    }
  };

  let restarting: Promise<void> = Promise.resolve();
  const watch = (watched: Child, attempt: number): void => {
    const sinceMs = clock.monotonicMs();
    void watched.gone.then((how) => {
      if (mode !== 'running') return;
      mode = 'restarting';
      log.error(`${name}-child-lost`, { how, says: watched.says.join(' | ') });
      restarting = restart(clock.monotonicMs() - sinceMs > SETTLED_MS ? 0 : attempt + 1);
    });
  };
  watch(child, -1);

  const endLast = async (): Promise<void> => {
    // An exited child has nothing to be asked; asking it again would only time out.
    if (hasEnded(child)) return;
    const asked = Promise.resolve(end(child));
    const ended = await Promise.race([
      child.gone,
      asked.then(() => child.gone).catch((error: unknown) => ({ error })),
      pause(STOP_MS_MAX, 'late' as const, { ref: false }),
    ]);
    if (ended !== 'late' && typeof ended !== 'object') return;
    log.warn(`${name}-child-killed`, { says: `did not end within ${STOP_MS_MAX} ms` });
    child.process.kill('SIGKILL');
    await child.gone;
  };
  const stop = async (): Promise<void> => {
    mode = 'stopped';
    pauses.abort();
    await restarting;
    await endLast();
    options.ended();
  };
  let stopped: Promise<void> | undefined;
  return {
    get pid() {
      return child.pid;
    },
    stop: () => {
      stopped ??= stop();
      return stopped;
    },
  };
};

/**
 * The path of a folder's unix socket: in the folder, or, where that is too long, in a private folder of a short name
 * that is written down in the file `socket`. `name` is the socket's file.
 */
export const socketPathFor = (folder: string, name: string): string => {
  const plain = join(folder, name);
  if (Buffer.byteLength(plain) <= SOCKET_PATH_BYTES_MAX) return plain;
  const note = join(folder, 'socket');
  if (existsSync(note)) {
    const path = readFileSync(note, 'utf8').trim();
    const stat = statSync(dirname(path), { throwIfNoEntry: false });
    // Only a folder that is ours alone: anyone may put something of that name into a shared temporary folder.
    if (stat?.isDirectory() && stat.uid === process.getuid?.() && (stat.mode & 0o077) === 0) return path;
  }
  const path = join(mkdtempSync(join(tmpdir(), 'anteroom-')), name);
  if (Buffer.byteLength(path) > SOCKET_PATH_BYTES_MAX)
    throw new Error(`both ${folder} and the temporary folder have paths too long for a unix socket`);
  writeFileSync(note, path, { mode: 0o600 });
  return path;
};

/** Removes the short folder, where there is one. */
export const removeSocketFolder = (folder: string, socket: string): void => {
  if (dirname(socket) === folder) return;
  rmSync(dirname(socket), { recursive: true, force: true });
  rmSync(join(folder, 'socket'), { force: true });
};
