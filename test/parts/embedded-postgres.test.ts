// The embedded PostgreSQL: what a newcomer's rooms and orders are kept in. Each promise is tested on a real server,
// killed for real; a second process stands for the Anteroom that crashed.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { readConfig } from '../../kernel/config.ts';
import { identityOf, isAlive } from '../../kernel/folder-lock.ts';
import { silentLog } from '../../kernel/log.ts';
import { findPrograms, packagedPrograms, serverUser } from '../../kernel/postgres-programs.ts';
import {
  openPostgresFolder,
  removeEmbeddedPostgres,
  startEmbeddedPostgres,
} from '../../kernel/postgres-server.ts';
import { createSql, type Sql } from '../../kernel/sql.ts';
import { eventually } from '../support/eventually.ts';
import { collect } from '../support/heard.ts';

/** A folder that everybody may enter, as a project's usually is, with a name of its own; it does not exist yet. */
const folderFor = (test: Pick<Test, 'teardown'>, name = 'postgres'): string => {
  const base = mkdtempSync('/tmp/anteroom-test-');
  chmodSync(base, 0o711);
  const folder = join(base, name);
  test.teardown(() => {
    removeEmbeddedPostgres(folder);
    rmSync(base, { recursive: true, force: true });
  });
  return folder;
};

/** Making a database takes a second, so most tests start from a copy of one that was made before. */
const made = folderFor(t);
t.before(async () => (await openPostgresFolder({ folder: made, log: silentLog })).release());
const readyFolder = (test: Test, name?: string): string => {
  const folder = folderFor(test, name);
  mkdirSync(folder, { recursive: true, mode: 0o711 });
  execFileSync('cp', ['-a', join(made, 'cluster'), folder]);
  return folder;
};

const connect = async (test: Test, databaseUrl: string): Promise<Sql> => {
  const sql = await createSql({
    config: { ...readConfig({}), databaseUrl, databaseTimeoutMs: 60_000 },
    log: silentLog,
  });
  test.teardown(() => sql.close());
  return sql;
};

/** Starts one that ends with the test. */
const start = async (test: Test, folder: string, log = silentLog) => {
  const embedded = await startEmbeddedPostgres({ folder, log });
  test.teardown(() => embedded.stop());
  return embedded;
};

/** A second process that opens `folder`, writes until it is killed, and says when 500 rows are in. */
const writeElsewhere = async (
  test: Test,
  folder: string,
): Promise<{ process: ChildProcess; pid: number; gone: Promise<unknown> }> => {
  const kernel = new URL('../../kernel/', import.meta.url).href;
  const code = `
    const { startEmbeddedPostgres } = await import(${JSON.stringify(`${kernel}postgres-server.ts`)});
    const { createSql } = await import(${JSON.stringify(`${kernel}sql.ts`)});
    const { readConfig } = await import(${JSON.stringify(`${kernel}config.ts`)});
    const { silentLog: log } = await import(${JSON.stringify(`${kernel}log.ts`)});
    const embedded = await startEmbeddedPostgres({ folder: ${JSON.stringify(folder)}, log });
    const sql = await createSql({
      config: { ...readConfig({}), databaseUrl: embedded.url, databaseTimeoutMs: 60_000 },
      log,
    });
    await sql.query('CREATE TABLE kept (n int)');
    await sql.query('INSERT INTO kept SELECT generate_series(1, 500)');
    process.stdout.write(embedded.pid + '\\n');
    for (let n = 501; ; n++) await sql.query('INSERT INTO kept VALUES ($1)', [n]);`;
  const child = spawn(process.execPath, ['--import=tsx/esm', '--input-type=module', '-e', code], {
    cwd: fileURLToPath(new URL('../../', import.meta.url)),
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const gone = new Promise((resolve) => child.once('exit', resolve));
  test.teardown(async () => {
    child.kill('SIGKILL');
    await gone;
  });
  const pid = await new Promise<number>((resolve, reject) => {
    child.stdout.once('data', (chunk: Buffer) => resolve(Number(chunk.toString())));
    child.once('exit', (exit) => reject(new Error(`the second process ended with ${exit}`)));
  });
  return { process: child, pid, gone };
};

t.test('what was written is there again after a stop and a start', async (t) => {
  const folder = folderFor(t);
  const first = await startEmbeddedPostgres({ folder, log: silentLog });
  const sql = await connect(t, first.url);
  await sql.query('CREATE TABLE kept AS SELECT 1 AS n');
  await sql.close();
  await first.stop();
  await first.stop();
  t.same(readdirSync(join(folder, 'run')), [], 'nothing listens any more');
  const again = await connect(t, (await start(t, folder)).url);
  t.same(await again.query('SELECT n FROM kept'), [{ n: 1 }]);
});

t.test('it is closed to everyone else: no port, and only the user we run as may connect', async (t) => {
  const folder = readyFolder(t);
  process.env.ANTEROOM_OPERATOR_TOKEN = 'canary';
  const { url, pid } = await start(t, folder);
  const sql = await connect(t, url);
  t.same(await sql.query('SHOW listen_addresses'), [{ listen_addresses: '' }]);
  t.same(await sql.query('SELECT type, auth_method, options FROM pg_hba_file_rules'), [
    { type: 'local', auth_method: 'peer', options: ['map=owner'] },
  ]);
  t.equal(lstatSync(join(folder, 'run')).mode & 0o077, 0, 'the folder of the socket');
  t.equal(lstatSync(join(folder, 'cluster')).mode & 0o077, 0, 'the data');
  // Where the system shows it; our own has the secrets of every role.
  if (existsSync('/proc/self/environ')) t.notMatch(readFileSync(`/proc/${pid}/environ`, 'utf8'), 'canary');
});

t.test(
  'a folder has one opener, and after its kill -9 the server ends and every acknowledged row is kept',
  async (t) => {
    const folder = readyFolder(t);
    const other = await writeElsewhere(t, folder);
    const refused = { name: 'FolderInUse', message: new RegExp(`process ${other.process.pid}\\)`) };
    await t.rejects(startEmbeddedPostgres({ folder, log: silentLog }), refused);
    rmSync(join(folder, 'lock'));
    await t.rejects(startEmbeddedPostgres({ folder, log: silentLog }), refused, 'even without the lock file');
    t.ok(isAlive(identityOf(other.pid)), 'and the server it uses is untouched');
    other.process.kill('SIGKILL');
    await other.gone;
    const next = await start(t, folder);
    t.notOk(isAlive(identityOf(other.pid)), 'no second server on the same data');
    const sql = await connect(t, next.url);
    const [row] = await sql.query<{ n: number; top: number }>(
      'SELECT count(*) AS n, max(n) AS top FROM kept',
    );
    t.ok(row !== undefined && row.n >= 500 && row.n === row.top, 'all of them, without holes');
  },
);

t.test('a server left behind by a dead owner is shut down before a new one starts', async (t) => {
  const folder = readyFolder(t);
  const opened = await openPostgresFolder({ folder, log: silentLog });
  const orphan = await opened.start();
  writeFileSync(join(folder, 'postgres.pid'), `${identityOf(orphan.pid)}\n999999999 1`);
  writeFileSync(join(folder, 'lock'), '999999999 1');
  const heard = collect();
  const sql = await connect(t, (await start(t, folder, heard.log)).url);
  t.equal(heard.count('postgres-orphan-ended'), 1);
  t.equal(await orphan.gone, 'code 0', 'it ended properly');
  t.same(await sql.query('SELECT 1 AS n'), [{ n: 1 }]);
});

t.test('a server that dies is started again, its data with it, and the pool finds it', async (t) => {
  const heard = collect();
  const embedded = await start(t, readyFolder(t), heard.log);
  const sql = await connect(t, embedded.url);
  await sql.query('CREATE TABLE kept AS SELECT 1 AS n');
  const before = embedded.pid;
  process.kill(before, 'SIGKILL');
  await eventually('it is back', () => heard.count('postgres-child-back') === 1);
  t.not(embedded.pid, before);
  await eventually(
    'what was written is read',
    async () => (await sql.query('SELECT n FROM kept')).length === 1,
  );
});

t.test('stopping while the server is being started again leaves nothing running', async (t) => {
  const heard = collect();
  const folder = readyFolder(t);
  const embedded = await startEmbeddedPostgres({ folder, log: heard.log });
  process.kill(embedded.pid, 'SIGKILL');
  await eventually('the loss is seen', () => heard.count('postgres-child-lost') === 1);
  await embedded.stop();
  t.notOk(isAlive(identityOf(embedded.pid)));
  t.notOk(readdirSync(folder).includes('lock'), 'the folder is given back');
});

t.test('a server that does not listen to us any more is killed after the deadline', async (t) => {
  const heard = collect();
  const embedded = await startEmbeddedPostgres({ folder: readyFolder(t), log: heard.log });
  process.kill(embedded.pid, 'SIGSTOP');
  await embedded.stop();
  t.equal(heard.count('postgres-child-killed'), 1);
  t.notOk(isAlive(identityOf(embedded.pid)));
});

t.test('folders with long and with odd names work', async (t) => {
  const deep = join('a'.repeat(120), 'postgres');
  for (const name of [`a "b", 100%25 'c' é`, deep]) {
    const folder = readyFolder(t, name);
    const sql = await connect(t, (await start(t, folder)).url);
    t.same(await sql.query('SELECT 1 AS n'), [{ n: 1 }], name.slice(0, 20));
  }
});

t.test('a start that was cut short leaves nothing half made', async (t) => {
  const folder = folderFor(t);
  mkdirSync(join(folder, 'cluster.new'), { recursive: true });
  writeFileSync(join(folder, 'cluster.new', 'PG_VERSION'), '18');
  const sql = await connect(t, (await start(t, folder)).url);
  t.same(await sql.query('SELECT 1 AS n'), [{ n: 1 }]);
  t.notOk(existsSync(join(folder, 'cluster.new')));
});

t.test('data of another PostgreSQL is a sentence that says what to do, and stays as it is', async (t) => {
  const folder = folderFor(t);
  mkdirSync(join(folder, 'cluster'), { recursive: true });
  writeFileSync(join(folder, 'cluster', 'PG_VERSION'), '9\n');
  await t.rejects(startEmbeddedPostgres({ folder, log: silentLog }), {
    message:
      /^PostgreSQL 9 made the database in .* none of that version can be run here\. .*ANTEROOM_DATABASE_URL.*--fresh/,
  });
  t.equal(readFileSync(join(folder, 'cluster', 'PG_VERSION'), 'utf8'), '9\n');
  t.notOk(readdirSync(folder).includes('lock'), 'the folder is given back');
});

const own = packagedPrograms();
/** The package as npm unpacks it: without links. */
const unpacked = (t: Test): { top: string; own: { folder: string; version: string } } => {
  const top = folderFor(t, 'package');
  mkdirSync(top);
  const folder = join(top, 'native');
  execFileSync('cp', ['-a', own!.folder, folder]);
  for (const name of readdirSync(join(folder, 'lib')))
    if (lstatSync(join(folder, 'lib', name)).isSymbolicLink()) rmSync(join(folder, 'lib', name));
  return { top, own: { folder, version: own!.version } };
};

t.test(
  'the links that the package leaves to a script are made when they are missing',
  { skip: own === undefined && 'no package for this system' },
  async (t) => {
    const home = folderFor(t, 'home');
    mkdirSync(home);
    const found = await findPrograms({ home, user: serverUser(), own: unpacked(t).own });
    t.match(found.folder, /package\/native\/bin$/, 'in place');
    t.equal(found.major, 18);
    t.same(readdirSync(home), []);
  },
);

t.test(
  'programs that cannot be run where they are, are copied',
  { skip: own === undefined && 'no package for this system' },
  async (t) => {
    const home = folderFor(t, 'home');
    mkdirSync(home, { mode: 0o711 });
    const user = serverUser();
    const { top, own } = unpacked(t);
    // Root's server may not enter root's folders; anybody else may not write in somebody else's.
    if (user === undefined) chmodSync(join(own.folder, 'lib'), 0o555);
    else chmodSync(top, 0o700);
    t.teardown(() => chmodSync(join(own.folder, 'lib'), 0o755));
    const found = await findPrograms({ home, user, own });
    t.match(found.folder, /home\/programs-18[^/]*\/native\/bin$/);
    t.equal(found.major, 18);
  },
);

t.test(
  'below a folder of root alone the data is kept elsewhere, found again, and removed with it',
  { skip: serverUser() === undefined && 'of root only' },
  async (t) => {
    const folder = folderFor(t);
    chmodSync(dirname(folder), 0o700);
    const heard = collect();
    const first = await startEmbeddedPostgres({ folder, log: heard.log });
    t.equal(heard.count('postgres-elsewhere'), 1, 'and it says where');
    const sql = await connect(t, first.url);
    await sql.query('CREATE TABLE kept AS SELECT 1 AS n');
    await sql.close();
    await first.stop();
    const again = await startEmbeddedPostgres({ folder, log: silentLog });
    const second = await connect(t, again.url);
    t.same(await second.query('SELECT n FROM kept'), [{ n: 1 }]);
    await second.close();
    await again.stop();
    const home = readFileSync(join(folder, 'elsewhere'), 'utf8');
    t.match(home, /^\/var\/lib\/anteroom\//);
    removeEmbeddedPostgres(folder);
    t.notOk(existsSync(home));
  },
);
