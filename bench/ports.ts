// Ports for servers that a bench or a test starts. A port is checked here and opened later, often by another process. So
// each number is also reserved by a lock file, which one process of ours holds until it ends. Numbers lie below those
// that systems give to outgoing connections, of which a bench opens tens of thousands.

import { randomInt } from 'node:crypto';
import { rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { FolderInUse, lockFolder } from '../kernel/folder-lock.ts';

const LOWEST = 10_000;
/** Linux gives numbers from 32,768 on to connections (ip_local_port_range), macOS from 49,152 on. */
const BELOW = 32_000;

const locks = join(tmpdir(), `anteroom-ports-${userInfo().uid}`);
const taken = new Set<string>();

const take = (port: number): boolean => {
  const folder = join(locks, String(port));
  try {
    lockFolder(folder);
  } catch (error) {
    // ENOENT: its owner ended between our making the folder and our writing into it.
    if (
      error instanceof FolderInUse ||
      (error instanceof Error && 'code' in error && error.code === 'ENOENT')
    )
      return false;
    throw error;
  }
  if (taken.size === 0)
    process.once('exit', () => {
      for (const mine of taken) rmSync(mine, { recursive: true, force: true });
    });
  taken.add(folder);
  return true;
};

/** Whether nobody listens there, another program say. */
const isFree = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const probe = createServer();
    probe.once('error', () => resolve(false));
    probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(true)));
  });

/** A port that stays this process's until it ends, on 127.0.0.1. */
export const takePort = async (): Promise<number> => {
  for (;;) {
    const port = LOWEST + randomInt(BELOW - LOWEST);
    if (take(port) && (await isFree(port))) return port;
  }
};
