// The embedded Redis: a private redis-server child that listens on a unix socket in the data folder and nowhere
// else, with an append-only file flushed every second. It promises one opener a folder, a restart when the child
// dies, and a proper end with us: after `kill -9` of this process a guard ends the child, and whatever still
// answers at the next start is shut down first, so no two servers ever write one file.

import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { FolderInUse, isAlive, lockFolder } from './folder-lock.ts';
import type { Log } from './log.ts';
import { ANSWER_MS_MAX, ask, type Child, spawnChild, untilReady, waitFor } from './redis-child.ts';

/** sun_path is 104 bytes on macOS and 108 on Linux, with the closing zero (unix(7)). */
const SOCKET_PATH_BYTES_MAX = 100;
const STOP_MS_MAX = 5000;
const BACKOFF_MS_MAX = 5000;
/** A child that lived this long has proven itself: the next loss starts with the shortest pause again. */
const SETTLED_MS = 30_000;
/** The name of the connection that shows a folder's server has a living owner. */
const OWNER = 'anteroom-owner';

export type EmbeddedRedis = {
  /** The path of the unix socket; createRedis takes it as an address. */
  url: string;
  /** The process number of the child that runs now. */
  readonly pid: number;
  /** Shuts the child down with everything written; kills it after 5 s. Safe to call twice. */
  stop(): Promise<void>;
};

/** A bulk reply is `$<bytes>\r\n<payload>\r\n` (RESP). Anything else is complete at its first line end. */
const bulkComplete = (text: string): boolean => {
  const head = /^\$(\d+)\r\n/.exec(text);
  return head === null
    ? text.includes('\r\n')
    : Buffer.byteLength(text) >= Number(head[1]) + head[0].length + 2;
};

/** Whether a running Anteroom is connected to the server: the kernel closes its connections when it dies. */
const hasOwner = async (socket: string): Promise<boolean> => {
  const clients = await ask(socket, 'CLIENT LIST', { answerMs: ANSWER_MS_MAX, complete: bulkComplete });
  return clients?.includes(` name=${OWNER} `) ?? false;
};

/**
 * Ends a server that was left behind by a process that is gone. It is asked first (SHUTDOWN flushes the
 * append-only file); only if it does not answer is it killed, and only if it is the process written down.
 */
const endOrphan = async (folder: string, socket: string, log: Log): Promise<void> => {
  const pidFile = join(folder, 'redis.pid');
  const recorded = existsSync(pidFile) ? readFileSync(pidFile, 'utf8') : '';
  try {
    if ((await ask(socket, 'PING', { answerMs: ANSWER_MS_MAX })) !== undefined) {
      if (!(await waitFor(async () => !(await hasOwner(socket)), 1000)))
        throw new FolderInUse(folder, recorded.split(' ')[0] || 'elsewhere');
      log.warn('redis-orphan-ended', { says: 'a server left behind was shut down before starting anew' });
      await ask(socket, 'SHUTDOWN NOSAVE', { answerMs: STOP_MS_MAX, complete: () => false });
    }
  } catch (error) {
    if (error instanceof FolderInUse) throw error;
    log.warn('redis-orphan-silent', { error });
    if (isAlive(recorded)) process.kill(Number(recorded.split(' ')[0]), 'SIGKILL');
  }
  // The orphan is no child of ours, so its end can only be watched.
  if (!(await waitFor(() => recorded === '' || !isAlive(recorded), STOP_MS_MAX)))
    throw new Error(
      `the redis-server left behind in ${folder} (process ${recorded}) does not end; end it by hand`,
    );
};

/** The socket's path: in the folder, or, where that is too long, in a private folder that is written down. */
const socketPathFor = (folder: string): string => {
  const plain = join(folder, 'redis.sock');
  if (Buffer.byteLength(plain) <= SOCKET_PATH_BYTES_MAX) return plain;
  const note = join(folder, 'socket');
  if (existsSync(note)) {
    const path = readFileSync(note, 'utf8').trim();
    const stat = statSync(dirname(path), { throwIfNoEntry: false });
    // Only a folder that is ours alone: anyone may put something of that name into a shared temporary folder.
    if (stat?.isDirectory() && stat.uid === process.getuid?.() && (stat.mode & 0o077) === 0) return path;
  }
  const path = join(mkdtempSync(join(tmpdir(), 'anteroom-')), 'redis.sock');
  if (Buffer.byteLength(path) > SOCKET_PATH_BYTES_MAX)
    throw new Error(`both ${folder} and the temporary folder have paths too long for a unix socket`);
  writeFileSync(note, path, { mode: 0o600 });
  return path;
};

/** Where the server of a folder listens, if one was ever started there. */
export const embeddedSocket = (folder: string): string | undefined => {
  const path = existsSync(folder) ? socketPathFor(folder) : undefined;
  return path !== undefined && existsSync(path) ? path : undefined;
};

const ownerConnection = (socket: string): Socket => {
  const wire = connect(socket);
  wire.write(`CLIENT SETNAME ${OWNER}\r\n`);
  wire.resume();
  wire.unref();
  // Its end is the child's end, which the exit event reports.
  wire.on('error', () => undefined);
  return wire;
};

/**
 * Starts the child on `folder` (created if missing) and resolves when it answers. Throws FolderInUse when a living
 * Anteroom has the folder, and with a sentence to act on when redis-server is missing or cannot start.
 * Modes: running → (child lost) restarting → running …; stopped is final.
 */
export const startEmbeddedRedis = async (options: { folder: string; log: Log }): Promise<EmbeddedRedis> => {
  const { log } = options;
  const folder = resolve(options.folder);
  const unlock = lockFolder(folder);
  let mode: 'starting' | 'running' | 'restarting' | 'stopped' = 'starting';
  let child: Child;
  let owner: Socket | undefined;
  const pauses = new AbortController();

  const start = async (socket: string): Promise<Child> => {
    const started = await spawnChild(folder, socket);
    try {
      await untilReady(started, socket);
    } catch (error) {
      started.process.kill('SIGKILL');
      await started.gone;
      throw error;
    }
    chmodSync(socket, 0o700);
    owner?.destroy();
    owner = ownerConnection(socket);
    return started;
  };

  const restart = async (socket: string, attempt: number): Promise<void> => {
    const backoffMs = Math.min(100 * 2 ** attempt, BACKOFF_MS_MAX);
    try {
      await pause(backoffMs, undefined, { signal: pauses.signal });
    } catch {
      // Stopped during the pause: there is nothing to start any more.
      return;
    }
    if (mode !== 'restarting') return;
    try {
      const next = await start(socket);
      child = next;
      if (mode !== 'restarting') {
        // stop() came while it was starting; it waits for this promise and then ends the new child.
        return;
      }
      mode = 'running';
      log.info('redis-child-back', { pid: next.pid });
      watch(next, socket, attempt);
    } catch (error) {
      log.error('redis-child-lost', { error, attempt });
      if (mode === 'restarting') await restart(socket, attempt + 1);
    }
  };

  let restarting: Promise<void> = Promise.resolve();
  const watch = (watched: Child, socket: string, attempt: number): void => {
    const sinceMs = performance.now();
    void watched.gone.then((how) => {
      if (mode !== 'running') return;
      mode = 'restarting';
      log.error('redis-child-lost', { how, says: watched.says.join(' | ') });
      const settled = performance.now() - sinceMs > SETTLED_MS;
      restarting = restart(socket, settled ? 0 : attempt + 1);
    });
  };

  let socket: string;
  try {
    socket = socketPathFor(folder);
    await endOrphan(folder, socket, log);
    child = await start(socket);
  } catch (error) {
    unlock();
    throw error;
  }
  mode = 'running';
  watch(child, socket, -1);

  const end = async (): Promise<void> => {
    mode = 'stopped';
    pauses.abort();
    await restarting;
    const ending = child;
    // An exited child has an exit code or a signal already; asking it again would only time out.
    if (ending.process.exitCode === null && ending.process.signalCode === null) {
      const asked = ask(socket, 'SHUTDOWN NOSAVE', { answerMs: STOP_MS_MAX, complete: () => false });
      const ended = await Promise.race([
        ending.gone,
        asked.then(() => ending.gone).catch((error: unknown) => ({ error })),
        pause(STOP_MS_MAX, 'late' as const, { ref: false }),
      ]);
      if (ended === 'late' || typeof ended === 'object') {
        log.warn('redis-child-killed', { says: `did not end within ${STOP_MS_MAX} ms` });
        ending.process.kill('SIGKILL');
        await ending.gone;
      }
    }
    owner?.destroy();
    rmSync(join(folder, 'redis.pid'), { force: true });
    if (dirname(socket) !== folder) {
      rmSync(dirname(socket), { recursive: true, force: true });
      rmSync(join(folder, 'socket'), { force: true });
    }
    unlock();
  };
  let stopped: Promise<void> | undefined;
  return {
    url: socket,
    get pid() {
      return child.pid;
    },
    stop: () => {
      stopped ??= end();
      return stopped;
    },
  };
};
