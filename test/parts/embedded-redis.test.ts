// The embedded redis-server: what a newcomer's line is kept in. Each promise is tested on a real child, killed for
// real; a second process stands for the Anteroom that crashed.

import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { readConfig } from '../../kernel/config.ts';
import { FolderInUse, identityOf, isAlive, lockFolder } from '../../kernel/folder-lock.ts';
import { silentLog } from '../../kernel/log.ts';
import { checkRedisSettings, createRedis, type Redis } from '../../kernel/redis.ts';
import { startEmbeddedRedis } from '../../kernel/redis-server.ts';
import { eventually } from '../support/eventually.ts';
import { collect } from '../support/heard.ts';

/** Of the test's own clients: what they ask may take as long as the machine is busy. */
const config = { ...readConfig({}), redisCommandTimeoutMs: 60_000 };

const folderFor = (test: Test, name = 'redis'): string => {
  const base = mkdtempSync(join(tmpdir(), 'anteroom-test-'));
  test.teardown(() => rmSync(base, { recursive: true, force: true }));
  return join(base, name);
};

const clientOf = async (test: Test, url: string): Promise<Redis> => {
  const client = createRedis({ url, config, log: silentLog, purpose: 'test' });
  test.teardown(() => client.disconnect());
  await client.connect();
  return client;
};

/** A second process that opens `folder` and then only waits. Resolves when its server answers. */
const openElsewhere = async (
  test: Test,
  folder: string,
): Promise<{ process: ChildProcess; pid: number; url: string; gone: Promise<unknown> }> => {
  const kernel = new URL('../../kernel/', import.meta.url).href;
  const code = `
    const { startEmbeddedRedis } = await import(${JSON.stringify(`${kernel}redis-server.ts`)});
    const { silentLog } = await import(${JSON.stringify(`${kernel}log.ts`)});
    const embedded = await startEmbeddedRedis({ folder: ${JSON.stringify(folder)}, log: silentLog });
    process.stdout.write(JSON.stringify({ pid: embedded.pid, url: embedded.url }) + '\\n');
    setInterval(() => undefined, 1000);`;
  const child = spawn(process.execPath, ['--import=tsx/esm', '--input-type=module', '-e', code], {
    cwd: fileURLToPath(new URL('../../', import.meta.url)),
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const gone = new Promise((resolve) => child.once('exit', resolve));
  test.teardown(async () => {
    child.kill('SIGKILL');
    await gone;
  });
  const line = await new Promise<string>((resolve, reject) => {
    child.stdout.once('data', (chunk: Buffer) => resolve(chunk.toString()));
    child.once('exit', (exit) => reject(new Error(`the second process ended with ${exit}`)));
  });
  return { process: child, gone, ...JSON.parse(line) };
};

t.test('what was written is there again after a stop and a start', async (t) => {
  const folder = folderFor(t);
  const first = await startEmbeddedRedis({ folder, log: silentLog });
  const client = await clientOf(t, first.url);
  await client.set('kept', 'yes');
  client.disconnect();
  await first.stop();
  await first.stop();
  const second = await startEmbeddedRedis({ folder, log: silentLog });
  t.teardown(() => second.stop());
  t.equal(await (await clientOf(t, second.url)).get('kept'), 'yes');
});

t.test('it is closed to everyone else: no port, a socket for the owner only', async (t) => {
  const folder = folderFor(t);
  const embedded = await startEmbeddedRedis({ folder, log: silentLog });
  t.teardown(() => embedded.stop());
  const client = await clientOf(t, embedded.url);
  t.same(await client.config('GET', 'port'), ['port', '0']);
  t.equal(statSync(embedded.url).mode & 0o077, 0, 'the socket');
  t.equal(statSync(folder).mode & 0o077, 0, 'the folder');
  const heard = collect();
  await checkRedisSettings(client, heard.log);
  t.equal(heard.count('redis-setting'), 0, 'append-only and noeviction as the line needs them');
});

t.test('settings that may lose places are said at start; forbidden CONFIG is only a note', async (t) => {
  const embedded = await startEmbeddedRedis({ folder: folderFor(t), log: silentLog });
  t.teardown(() => embedded.stop());
  const client = await clientOf(t, embedded.url);
  await client.config('SET', 'maxmemory-policy', 'allkeys-lru');
  const heard = collect();
  await checkRedisSettings(client, heard.log);
  t.equal(heard.count('redis-setting'), 1);
  await client.acl('SETUSER', 'default', '-config');
  await checkRedisSettings(client, heard.log);
  t.equal(heard.count('redis-settings-unknown'), 1);
});

t.test('a folder has one opener, and the second is told who has it', async (t) => {
  const folder = folderFor(t);
  const other = await openElsewhere(t, folder);
  await t.rejects(startEmbeddedRedis({ folder, log: silentLog }), {
    name: 'FolderInUse',
    message: new RegExp(`process ${other.process.pid}\\)`),
  });
  rmSync(join(folder, 'lock'));
  await t.rejects(
    startEmbeddedRedis({ folder, log: silentLog }),
    { name: 'FolderInUse' },
    'even without the lock file: its owner is still connected to the server',
  );
  t.ok(isAlive(identityOf(other.pid)), 'and the server it uses is untouched');
});

t.test('after kill -9 the child ends too, and everything is there at the next start', async (t) => {
  const folder = folderFor(t);
  const other = await openElsewhere(t, folder);
  const client = await clientOf(t, other.url);
  await client.set('kept', 'through a crash');
  client.disconnect();
  other.process.kill('SIGKILL');
  await other.gone;
  const next = await startEmbeddedRedis({ folder, log: silentLog });
  t.teardown(() => next.stop());
  t.not(next.pid, other.pid);
  t.notOk(isAlive(identityOf(other.pid)), 'no second server on the same file');
  t.equal(await (await clientOf(t, next.url)).get('kept'), 'through a crash');
});

t.test('a server left behind by a dead owner is shut down before a new one starts', async (t) => {
  const folder = folderFor(t);
  mkdirSync(folder, { mode: 0o700 });
  const socket = join(folder, 'redis.sock');
  const orphan = spawn('redis-server', ['-'], { detached: true, stdio: ['pipe', 'ignore', 'ignore'] });
  t.teardown(() => orphan.kill('SIGKILL'));
  orphan.stdin.end(`port 0\nunixsocket ${socket}\ndir ${folder}\nappendonly yes\nsave ""\n`);
  writeFileSync(join(folder, 'redis.pid'), identityOf(orphan.pid ?? 0));
  writeFileSync(join(folder, 'lock'), '999999999 1');
  await eventually('the orphan listens, and keeps what it is given', async () => {
    const client = await clientOf(t, socket);
    await client.set('kept', 'by the orphan');
    client.disconnect();
    return true;
  });
  const heard = collect();
  const embedded = await startEmbeddedRedis({ folder, log: heard.log });
  t.teardown(() => embedded.stop());
  t.equal(heard.count('redis-orphan-ended'), 1);
  t.equal(orphan.exitCode, 0, 'it ended properly');
  t.equal(await (await clientOf(t, embedded.url)).get('kept'), 'by the orphan');
});

t.test('a child that dies is started again, its data with it, and the client finds it', async (t) => {
  const heard = collect();
  const embedded = await startEmbeddedRedis({ folder: folderFor(t), log: heard.log });
  t.teardown(() => embedded.stop());
  const client = await clientOf(t, embedded.url);
  await client.set('kept', 'yes');
  const before = embedded.pid;
  process.kill(before, 'SIGKILL');
  await eventually('it is back', () => heard.count('redis-child-back') === 1);
  t.equal(heard.count('redis-child-lost'), 1);
  t.not(embedded.pid, before);
  await eventually('the client is connected again', async () => (await client.get('kept')) === 'yes');
});

t.test('stopping while the child is being started again leaves nothing running', async (t) => {
  const heard = collect();
  const folder = folderFor(t);
  const embedded = await startEmbeddedRedis({ folder, log: heard.log });
  process.kill(embedded.pid, 'SIGKILL');
  await eventually('the loss is seen', () => heard.count('redis-child-lost') === 1);
  await embedded.stop();
  t.notOk(isAlive(identityOf(embedded.pid)));
  t.notOk(readdirSync(folder).includes('lock'), 'the folder is given back');
});

t.test('a child that does not listen to us any more is killed after the deadline', async (t) => {
  const heard = collect();
  const embedded = await startEmbeddedRedis({ folder: folderFor(t), log: heard.log });
  process.kill(embedded.pid, 'SIGSTOP');
  await embedded.stop();
  t.equal(heard.count('redis-child-killed'), 1);
  t.notOk(isAlive(identityOf(embedded.pid)));
});

t.test('a path too long for a socket gets a short one, found again at the next start', async (t) => {
  const folder = folderFor(t, 'a'.repeat(120));
  const embedded = await startEmbeddedRedis({ folder, log: silentLog });
  t.ok(Buffer.byteLength(embedded.url) <= 100);
  t.equal(readFileSync(join(folder, 'socket'), 'utf8'), embedded.url);
  t.equal(await (await clientOf(t, embedded.url)).ping(), 'PONG');
  await embedded.stop();
  t.throws(() => statSync(embedded.url), 'and is gone after the stop');
});

t.test('a folder name with spaces, quotes and percent signs works', async (t) => {
  const embedded = await startEmbeddedRedis({ folder: folderFor(t, `a "b" 100%25 'c' é`), log: silentLog });
  t.teardown(() => embedded.stop());
  t.equal(await (await clientOf(t, embedded.url)).ping(), 'PONG');
});

t.test('without redis-server the error names the way out, and the folder is free again', async (t) => {
  const folder = folderFor(t);
  const path = process.env.PATH;
  process.env.PATH = '/nowhere';
  t.teardown(() => {
    process.env.PATH = path;
  });
  await t.rejects(startEmbeddedRedis({ folder, log: silentLog }), { message: /scripts\/setup/ });
  process.env.PATH = path;
  t.notOk(readdirSync(folder).includes('lock'));
});

t.test(
  'a lock of a living process holds; one of a dead process, or of a number used again, does not',
  async (t) => {
    const folder = folderFor(t);
    const unlock = lockFolder(folder);
    t.throws(() => lockFolder(folder), FolderInUse);
    unlock();
    for (const stale of ['999999999 1', `${process.pid} 1`, 'not a lock', '']) {
      writeFileSync(join(folder, 'lock'), stale);
      const again = lockFolder(folder);
      t.equal(readFileSync(join(folder, 'lock'), 'utf8'), identityOf(process.pid));
      again();
    }
  },
);
