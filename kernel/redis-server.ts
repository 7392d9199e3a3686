// The embedded Redis: a private redis-server child that listens on a unix socket in the data folder and nowhere
// else, with an append-only file flushed every second. It promises one opener a folder, a restart when the child
// dies, and a proper end with us: after `kill -9` of this process a guard ends the child, and whatever still
// answers at the next start is shut down first, so no two servers ever write one file.

import { chmodSync, existsSync, readFileSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join, resolve } from 'node:path';
import {
  removeSocketFolder,
  STOP_MS_MAX,
  type Supervised,
  socketPathFor,
  supervise,
  waitFor,
} from './child.ts';
import { FolderInUse, isAlive, lockFolder } from './folder-lock.ts';
import type { Log } from './log.ts';
import { ANSWER_MS_MAX, ask, startRedisChild } from './redis-child.ts';

const SOCKET = 'redis.sock';
/** The name of the connection that shows a folder's server has a living owner. */
const OWNER = 'anteroom-owner';

/** `url` is the path of the unix socket; createRedis takes it as an address. */
export type EmbeddedRedis = Supervised & { url: string };

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

/** Where the server of a folder listens, if one was ever started there. */
export const embeddedSocket = (folder: string): string | undefined => {
  const path = existsSync(folder) ? socketPathFor(folder, SOCKET) : undefined;
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
 */
export const startEmbeddedRedis = async (options: { folder: string; log: Log }): Promise<EmbeddedRedis> => {
  const { log } = options;
  const folder = resolve(options.folder);
  const unlock = lockFolder(folder);
  let owner: Socket | undefined;
  try {
    const socket = socketPathFor(folder, SOCKET);
    await endOrphan(folder, socket, log);
    const supervised = await supervise({
      name: 'redis',
      log,
      start: async () => {
        const started = await startRedisChild(folder, socket);
        chmodSync(socket, 0o700);
        owner?.destroy();
        owner = ownerConnection(socket);
        return started;
      },
      end: () => ask(socket, 'SHUTDOWN NOSAVE', { answerMs: STOP_MS_MAX, complete: () => false }),
      ended: () => {
        owner?.destroy();
        rmSync(join(folder, 'redis.pid'), { force: true });
        removeSocketFolder(folder, socket);
        unlock();
      },
    });
    return Object.assign(supervised, { url: socket });
  } catch (error) {
    unlock();
    throw error;
  }
};
