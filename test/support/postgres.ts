// A private PostgreSQL server for one test file: a cluster in a temporary folder, a random port, gone when the
// test ends. Races are tested here: PGlite has one connection, on which no race can fail.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { chownSync, existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { userInfo } from 'node:os';
import { delimiter, join } from 'node:path';
import { readConfig } from '../../kernel/config.ts';
import { silentLog } from '../../kernel/log.ts';
import { createSql, type Sql } from '../../kernel/sql.ts';
import { eventually } from './eventually.ts';
import { freePort } from './redis.ts';

type Teardown = { teardown(work: () => unknown): void };

/** The newest folder that has both programs: PATH first, then where Debian and Homebrew put them. */
const binaries = (): string => {
  const folders = (process.env.PATH ?? '').split(delimiter);
  for (const base of ['/usr/lib/postgresql', '/opt/homebrew/opt', '/usr/local/opt'])
    if (existsSync(base))
      for (const name of readdirSync(base).sort().reverse()) folders.push(join(base, name, 'bin'));
  const found = folders.find(
    (folder) => existsSync(join(folder, 'initdb')) && existsSync(join(folder, 'postgres')),
  );
  if (found === undefined)
    throw new Error('These tests need a PostgreSQL server. Run `bash scripts/setup --test` to install one.');
  return found;
};

const idOf = (flag: '-u' | '-g', user: string): number =>
  Number(execFileSync('id', [flag, user], { encoding: 'utf8' }));

export type TestPostgres = {
  url: string;
  /** A pool of its own, closed with the test. */
  connect(options?: { poolMax?: number }): Promise<Sql>;
  kill(): Promise<void>;
  start(): Promise<void>;
};

export const startPostgres = async (t: Teardown): Promise<TestPostgres> => {
  const bin = binaries();
  // /tmp and not tmpdir(): the folder must be reachable for the user below, and its path is a socket path too.
  const folder = mkdtempSync('/tmp/anteroom-pg-');
  const port = await freePort();
  // PostgreSQL refuses to run as root, so root hands it to someone without rights.
  const someone = userInfo().uid === 0 ? { uid: idOf('-u', 'nobody'), gid: idOf('-g', 'nobody') } : undefined;
  if (someone) chownSync(folder, someone.uid, someone.gid);
  const cluster = join(folder, 'cluster');
  const as = { cwd: folder, ...(someone ?? {}) };
  execFileSync(
    join(bin, 'initdb'),
    ['-D', cluster, '-U', 'anteroom', '--auth=trust', '--no-sync', '-E', 'UTF8', '--no-locale'],
    { ...as, stdio: 'ignore' },
  );
  const url = `postgresql://anteroom@127.0.0.1:${port}/postgres`;
  const pools: Sql[] = [];
  let child: ChildProcess | undefined;

  const connect = async ({ poolMax = 16 }: { poolMax?: number } = {}): Promise<Sql> => {
    const config = { ...readConfig({}), databaseUrl: url, databasePoolMax: poolMax };
    const sql = await createSql({ config, log: silentLog });
    pools.push(sql);
    return sql;
  };
  const start = async (): Promise<void> => {
    child = spawn(
      join(bin, 'postgres'),
      ['-D', cluster, '-p', String(port), '-k', folder, '-c', 'listen_addresses=127.0.0.1'].concat([
        '-c',
        'fsync=off',
        '-c',
        'max_connections=80',
        '-c',
        'shared_buffers=32MB',
      ]),
      { ...as, stdio: 'ignore' },
    );
    const config = { ...readConfig({}), databaseUrl: url, databasePoolMax: 1 };
    await eventually('PostgreSQL answers', async () => {
      await (await createSql({ config, log: silentLog })).close();
      return true;
    });
  };
  const kill = async (): Promise<void> => {
    const running = child;
    if (running === undefined || running.exitCode !== null || running.signalCode !== null) return;
    const gone = new Promise((resolve) => running.once('exit', resolve));
    running.kill('SIGQUIT'); // "Immediate shutdown": no checkpoint, recovery at the next start.
    await gone;
  };
  t.teardown(async () => {
    await Promise.all(pools.map((sql) => sql.close()));
    await kill();
    rmSync(folder, { recursive: true, force: true });
  });
  await start();
  return { url, connect, kill, start };
};
