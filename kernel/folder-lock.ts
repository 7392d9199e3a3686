// One opener of a data folder. A file named `lock` holds who has it: the process number and, where the system
// tells it, when that process began, so that a number used again after a crash or a reboot does not count as the
// owner. A lock whose owner is gone is taken over; one whose owner lives is a clear error.

import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export class FolderInUse extends Error {
  constructor(folder: string, owner: string) {
    super(
      `${folder} is in use by a running Anteroom (process ${owner}). Stop that one first, or give this one a folder of its own with ANTEROOM_DATA.`,
    );
    this.name = 'FolderInUse';
  }
}

/**
 * What /proc/<pid>/stat (proc(5)) says from its third field on: the state first, and the start as the twentieth.
 * Undefined where there is no /proc, or no such process.
 */
const statOf = (pid: number): string[] | undefined => {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The second field is the command in parentheses and may hold spaces: count from the last parenthesis.
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  } catch {
    return undefined;
  }
};

/** `<pid> <start>`; the start is `-` on systems that do not tell it: the number alone has to do there. */
export const identityOf = (pid: number): string => `${pid} ${statOf(pid)?.[19] ?? '-'}`;

/** Whether the process written down as `identity` still runs, and is still the same one. */
export const isAlive = (identity: string): boolean => {
  const pid = Number(identity.split(' ')[0]);
  if (!Number.isSafeInteger(pid) || pid <= 0) return false;
  try {
    process.kill(pid, 0);
  } catch (error) {
    // EPERM: it exists and belongs to someone else. Anything else (ESRCH): there is no such process.
    if (!(error instanceof Error && 'code' in error && error.code === 'EPERM')) return false;
  }
  // A zombie has ended; only nobody has asked how, as in a container whose first process asks for no one.
  if (statOf(pid)?.[0] === 'Z') return false;
  return identity.endsWith(' -') || identityOf(pid) === identity;
};

const codeOf = (error: unknown): unknown =>
  error instanceof Error && 'code' in error ? error.code : undefined;

/** Takes the folder (made if missing, for us alone) and returns what gives it back. Throws FolderInUse. */
export const lockFolder = (folder: string): (() => void) => {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const path = join(folder, 'lock');
  const mine = identityOf(process.pid);
  for (let attempt = 0; attempt < 5; attempt++) {
    try {
      writeFileSync(path, mine, { flag: 'wx', mode: 0o600 });
      return () => rmSync(path, { force: true });
    } catch (error) {
      if (codeOf(error) !== 'EEXIST') throw error;
    }
    let found: string;
    try {
      found = readFileSync(path, 'utf8');
    } catch (error) {
      // Its owner gave it back between our two looks: try again.
      if (codeOf(error) === 'ENOENT') continue;
      throw error;
    }
    if (isAlive(found)) throw new FolderInUse(folder, found.split(' ')[0] ?? '');
    // Two processes may find the same stale lock. Renaming has one winner, and shows whether what was taken
    // away is what was judged.
    const aside = `${path}.stale-${process.pid}`;
    try {
      renameSync(path, aside);
    } catch (error) {
      if (codeOf(error) === 'ENOENT') continue;
      throw error;
    }
    const taken = readFileSync(aside, 'utf8');
    if (taken !== found) {
      renameSync(aside, path);
      throw new FolderInUse(folder, taken.split(' ')[0] ?? '');
    }
    rmSync(aside, { force: true });
  }
  throw new FolderInUse(folder, 'unknown');
};
