// The embedded PostgreSQL: a private server child that listens on a unix socket and nowhere else. Like the embedded
// Redis it promises one opener a folder, a restart when the child dies, and a proper end with us: after `kill -9` of
// this process a guard ends the child, and one that was left behind is ended before a new one starts. It is for trying
// out and for tests; a sale has a PostgreSQL of its own.

import { execFile } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { connect } from 'node:net';
import { userInfo } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { promisify } from 'node:util';
import {
  type Child,
  removeSocketFolder,
  STOP_MS_MAX,
  type Supervised,
  socketPathFor,
  spawnGuarded,
  supervise,
  untilReady,
  waitFor,
} from './child.ts';
import { FolderInUse, identityOf, isAlive, lockFolder } from './folder-lock.ts';
import type { Log } from './log.ts';
import {
  findPrograms,
  isOpenToAll,
  type Programs,
  plainEnvironment,
  serverUser,
  type User,
} from './postgres-programs.ts';

/** PostgreSQL names its socket after a port, also when it opens none. */
const SOCKET = '.s.PGSQL.5432';
/** The one role and database user; only the user we run as may connect as it. */
const ROLE = 'anteroom';
/** Recovery after a crash reads what was written since the last checkpoint; this is far beyond. */
const RECOVERY_MS_MAX = 300_000;
/** Where root keeps a database whose data folder nobody else can enter. */
const ELSEWHERE = '/var/lib/anteroom';

/** `url` is a postgresql:// address on the unix socket. */
export type EmbeddedPostgres = Supervised & { url: string };

/**
 * The folder the server works in: `folder` itself, or, when root's server could not enter it, one below
 * /var/lib/anteroom that is written down in the file `elsewhere`.
 */
const homeOf = (folder: string, user: User | undefined): string => {
  const note = join(folder, 'elsewhere');
  if (existsSync(note)) return readFileSync(note, 'utf8').trim();
  if (user === undefined) return folder;
  chmodSync(folder, 0o711);
  if (isOpenToAll(folder)) return folder;
  mkdirSync(ELSEWHERE, { recursive: true, mode: 0o711 });
  const home = mkdtempSync(join(ELSEWHERE, 'postgres-'));
  chmodSync(home, 0o711);
  writeFileSync(note, home, { mode: 0o600 });
  return home;
};

/** Removes the database of a folder; nobody may have it open. */
export const removeEmbeddedPostgres = (folder: string): void => {
  const note = join(folder, 'elsewhere');
  if (existsSync(note)) rmSync(readFileSync(note, 'utf8').trim(), { recursive: true, force: true });
  rmSync(folder, { recursive: true, force: true });
};

/** A folder or file for the server's user. */
const handOver = (path: string, user: User | undefined): void => {
  if (user !== undefined) chownSync(path, user.uid, user.gid);
};

const majorOfCluster = (cluster: string): number | undefined => {
  const file = join(cluster, 'PG_VERSION');
  return existsSync(file) ? Number(readFileSync(file, 'utf8')) : undefined;
};

/** Made beside its place and moved there when complete, so that a start which is cut short leaves nothing half made. */
const makeCluster = async (home: string, { folder }: Programs, user: User | undefined): Promise<void> => {
  const fresh = join(home, 'cluster.new');
  rmSync(fresh, { recursive: true, force: true });
  mkdirSync(fresh, { mode: 0o700 });
  handOver(fresh, user);
  try {
    await promisify(execFile)(
      join(folder, 'initdb'),
      ['-D', fresh, '-U', ROLE, '-E', 'UTF8', '--no-locale', '--auth-local=peer', '--auth-host=reject'],
      { ...user, cwd: '/', env: plainEnvironment },
    );
  } catch (cause) {
    const says = cause instanceof Error && 'stderr' in cause ? String(cause.stderr).trim() : '';
    throw new Error(`The embedded database cannot be made in ${home}: ${says}`, { cause });
  }
  renameSync(fresh, join(home, 'cluster'));
};

/** Who may connect: the user we run as, and nobody else; the system tells the server who that is. */
const writeAccess = (home: string, user: User | undefined): string[] => {
  const files = {
    'access.conf': `local all ${ROLE} peer map=owner\n`,
    'owner.conf': `owner "${userInfo().username}" ${ROLE}\n`,
  };
  for (const [name, text] of Object.entries(files)) {
    const path = join(home, name);
    writeFileSync(path, text, { mode: 0o600 });
    handOver(path, user);
  }
  return [`hba_file=${join(home, 'access.conf')}`, `ident_file=${join(home, 'owner.conf')}`];
};

/** One folder in a list, which PostgreSQL splits at commas. */
const quoted = (folder: string): string => `"${folder.replaceAll('"', '""')}"`;

const settingsFor = (socket: string, { major }: Programs, more: readonly string[]): string[] => [
  'listen_addresses=',
  `unix_socket_directories=${quoted(dirname(socket))}`,
  'unix_socket_permissions=0700',
  'shared_buffers=32MB',
  'jit=off',
  'max_logical_replication_workers=0',
  // The text of a statement may hold what fans gave us; what went wrong with it is for whoever asked.
  'log_min_messages=fatal',
  'log_min_error_statement=panic',
  'log_error_verbosity=terse',
  // Its workers for reading ahead cost memory and serve large tables.
  ...(major >= 18 ? ['io_method=sync'] : []),
  ...more,
];

const listens = (socket: string): Promise<boolean> =>
  new Promise((answer) => {
    const wire = connect(socket);
    const say = (value: boolean) => () => {
      wire.destroy();
      answer(value);
    };
    wire.once('connect', say(true));
    wire.once('error', say(false));
  });

/**
 * Ends a server left behind by a process that is gone. The file `postgres.pid` holds who the server is and who started
 * it; one that listens and cannot be seen from here is in another container.
 */
const endOrphan = async (folder: string, socket: string, log: Log): Promise<void> => {
  const file = join(folder, 'postgres.pid');
  const [server = '', owner = ''] = existsSync(file) ? readFileSync(file, 'utf8').split('\n') : [];
  if (isAlive(owner)) throw new FolderInUse(folder, owner.split(' ')[0] ?? '');
  if (!isAlive(server)) {
    if (await listens(socket)) throw new FolderInUse(folder, 'elsewhere');
    return;
  }
  log.warn('postgres-orphan-ended', { says: 'a server left behind was shut down before starting anew' });
  const pid = Number(server.split(' ')[0]);
  for (const signal of ['SIGINT', 'SIGQUIT', 'SIGKILL'] as const) {
    process.kill(pid, signal);
    if (await waitFor(() => !isAlive(server), STOP_MS_MAX)) return;
  }
  throw new Error(`the PostgreSQL left behind in ${folder} (process ${pid}) does not end; end it by hand`);
};

/** The eighth line of postmaster.pid is the server's state (src/include/utils/pidfile.h); pg_ctl reads it, too. */
const isReady = (cluster: string, { pid }: Child): boolean => {
  const file = join(cluster, 'postmaster.pid');
  const lines = existsSync(file) ? readFileSync(file, 'utf8').split('\n') : [];
  return lines[0] === String(pid) && lines[7]?.trim() === 'ready';
};

/** A locked folder with a database in it, whose server can be started. */
export type PostgresFolder = {
  /** A postgresql:// address on the unix socket. */
  url: string;
  /** Starts the server, and resolves when it takes connections. */
  start(): Promise<Child>;
  /** Gives the folder back; its server has ended. */
  release(): void;
};

/**
 * Takes a folder (created if missing; the first time makes the database and takes about a second). `settings` are more
 * of PostgreSQL's, `name=value`. Throws FolderInUse when a living Anteroom has the folder, and with a sentence to act
 * on when no PostgreSQL can be run here.
 */
export const openPostgresFolder = async (options: {
  folder: string;
  log: Log;
  settings?: readonly string[];
}): Promise<PostgresFolder> => {
  const { log, settings = [] } = options;
  const folder = resolve(options.folder);
  const unlock = lockFolder(folder);
  try {
    const user = serverUser();
    const home = homeOf(folder, user);
    if (home !== folder) log.warn('postgres-elsewhere', { folder, home });
    const cluster = join(home, 'cluster');
    const sockets = join(home, 'run');
    mkdirSync(sockets, { recursive: true, mode: 0o700 });
    const socket = socketPathFor(sockets, SOCKET);
    await endOrphan(folder, socket, log);
    const major = majorOfCluster(cluster);
    const programs = await findPrograms({ home, user, major });
    if (major === undefined) await makeCluster(home, programs, user);
    handOver(dirname(socket), user);
    const given = settingsFor(socket, programs, [...writeAccess(home, user), ...settings]);
    const pidFile = join(folder, 'postgres.pid');
    return {
      url: `postgresql://${ROLE}@localhost/postgres?host=${encodeURIComponent(dirname(socket))}`,
      start: async () => {
        const child = await spawnGuarded({
          command: join(programs.folder, 'postgres'),
          args: ['-D', cluster, ...given.flatMap((setting) => ['-c', setting])],
          // A fast shutdown: whoever is connected is cut off, and everything is written.
          endSignal: 'INT',
          ...{ cwd: '/', env: plainEnvironment, user },
        });
        writeFileSync(pidFile, `${identityOf(child.pid)}\n${identityOf(process.pid)}`, { mode: 0o600 });
        await untilReady(child, {
          name: 'PostgreSQL',
          answers: () => isReady(cluster, child),
          withinMs: RECOVERY_MS_MAX,
        });
        return child;
      },
      release: () => {
        rmSync(pidFile, { force: true });
        removeSocketFolder(sockets, socket);
        unlock();
      },
    };
  } catch (error) {
    unlock();
    throw error;
  }
};

/** Opens a folder (above) and keeps a server running on it. */
export const startEmbeddedPostgres = async (options: {
  folder: string;
  log: Log;
  settings?: readonly string[];
}): Promise<EmbeddedPostgres> => {
  const { url, start, release } = await openPostgresFolder(options);
  try {
    const supervised = await supervise({
      name: 'postgres',
      log: options.log,
      start,
      end: (child) => child.process.kill('SIGINT'),
      ended: release,
    });
    return Object.assign(supervised, { url });
  } catch (error) {
    release();
    throw error;
  }
};
