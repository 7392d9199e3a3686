// scripts/setup on machines this one is not: a PATH of its own, with stand-ins that write down how they were
// called. What it promises: it says what it does, installs only what is missing, and never fails in riddles.

import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';

const setup = fileURLToPath(new URL('../../scripts/setup', import.meta.url));
const which = (name: string): string =>
  spawnSync('sh', ['-c', `command -v ${name}`])
    .stdout.toString()
    .trim();

/** A machine with the given commands; `own` are shell scripts, run with $LOG as the file to write to. */
const machine = (t: Test, own: Record<string, string>) => {
  const folder = mkdtempSync(join(tmpdir(), 'anteroom-setup-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  for (const name of ['bash', 'dirname', 'env', 'sed', 'grep', 'sleep', 'cat', 'chmod', 'cp', 'sh'])
    symlinkSync(which(name), join(folder, name));
  const add = (name: string, script: string) => {
    writeFileSync(join(folder, name), `#!/bin/sh\n${script}\n`);
    chmodSync(join(folder, name), 0o755);
  };
  add('node', `exec ${process.execPath} "$@"`);
  add('uname', 'echo Linux');
  add('id', 'echo 0');
  for (const [name, script] of Object.entries(own)) add(name, script);
  const log = join(folder, 'log');
  return {
    run: (...options: string[]) => {
      const result = spawnSync(join(folder, 'bash'), [setup, ...options], {
        env: { PATH: folder, LOG: log, BIN: folder },
        stdio: ['ignore', 'pipe', 'pipe'],
      });
      return {
        status: result.status,
        says: result.stderr.toString(),
        did: existsSync(log) ? readFileSync(log, 'utf8').trim().split('\n') : [],
      };
    },
  };
};

const redis = (version: string): string => `echo "Redis server v=${version} sha=0"`;
/** apt-get that installs redis-server when asked to. */
const aptGet = `echo "$@" >> "$LOG"
case "$*" in *install*redis-server*) printf '#!/bin/sh\\necho "Redis server v=7.0.15 sha=0"\\n' > "$BIN/redis-server"; chmod 755 "$BIN/redis-server";; esac`;

t.test('with everything there it changes nothing', async (t) => {
  const result = machine(t, { 'redis-server': redis('7.0.15'), 'apt-get': aptGet }).run();
  t.equal(result.status, 0, result.says);
  t.match(result.says, /ready: redis-server 7\.0\.15/);
  t.same(result.did, []);
});

t.test('a missing redis-server is installed, after saying what and why', async (t) => {
  const fresh = machine(t, { 'apt-get': aptGet });
  const first = fresh.run();
  t.equal(first.status, 0, first.says);
  t.match(
    first.says,
    /redis-server is missing.*private Redis[\s\S]*apt-get install --no-install-recommends redis-server/,
  );
  t.equal(first.did.length, 2);
  t.match(first.did[0], /update$/);
  t.match(first.did[1], /install --no-install-recommends redis-server$/);
  t.equal(fresh.run().did.length, 2, 'and not a second time');
});

t.test('an update that fails once is tried again', async (t) => {
  const flaky = `echo "$@" >> "$LOG"
case "$*" in *update) [ -e "$BIN/tried" ] || { : > "$BIN/tried"; exit 100; };; esac
case "$*" in *install*) printf '#!/bin/sh\\necho "Redis server v=7.0.15 sha=0"\\n' > "$BIN/redis-server"; chmod 755 "$BIN/redis-server";; esac`;
  const result = machine(t, { 'apt-get': flaky }).run();
  t.equal(result.status, 0, result.says);
  t.equal(result.did.filter((line) => line.endsWith('update')).length, 2);
});

t.test('without the right to install it says what to type, and changes nothing', async (t) => {
  for (const own of [
    { 'apt-get': aptGet, id: 'echo 1000' },
    { 'apt-get': aptGet, id: 'echo 1000', sudo: 'exit 1' },
    {},
  ]) {
    const result = machine(t, own).run();
    t.equal(result.status, 1);
    t.match(
      result.says,
      /sudo apt-get install redis-server[\s\S]*brew install redis[\s\S]*ANTEROOM_REDIS_URL/,
    );
    t.same(result.did, []);
  }
});

t.test('a user whose sudo needs no password goes through it', async (t) => {
  const result = machine(t, {
    'apt-get': aptGet,
    id: 'echo 1000',
    sudo: '[ "$1" = -n ] && exit 0; echo "sudo $*" >> "$LOG"; exec "$@"',
  }).run();
  t.equal(result.status, 0, result.says);
  t.match(result.says, /sudo apt-get install/);
  t.match(result.did[0], /^sudo env .*apt-get .*update$/);
});

t.test('on macOS it asks Homebrew', async (t) => {
  const brew = `echo "$@" >> "$LOG"
printf '#!/bin/sh\\necho "Redis server v=8.0.0 sha=0"\\n' > "$BIN/redis-server"; chmod 755 "$BIN/redis-server"`;
  const result = machine(t, { uname: 'echo Darwin', brew, id: 'echo 501' }).run();
  t.equal(result.status, 0, result.says);
  t.same(result.did, ['install redis']);
});

t.test('a Redis too old for the scripts is refused by name', async (t) => {
  for (const version of ['6.0.16', '5.0.14']) {
    const result = machine(t, { 'redis-server': redis(version) }).run();
    t.equal(result.status, 1);
    t.match(result.says, new RegExp(`${version} is too old`));
  }
  for (const version of ['6.2.0', '8.2.1', '10.0.0'])
    t.equal(machine(t, { 'redis-server': redis(version) }).run().status, 0, version);
});

t.test('the wrong Node is said first, with the pairs that work', async (t) => {
  const old = machine(t, {
    node: 'echo "Node 18.0.0 is too old: Anteroom needs 20.18 or later."; exit 1',
    'apt-get': aptGet,
  });
  const result = old.run();
  t.equal(result.status, 1);
  t.match(result.says, /too old[\s\S]*Node 20 .*2\.27[\s\S]*Node 22, 24 .*2\.38[\s\S]*macOS/);
  t.same(result.did, [], 'and nothing was installed for it');
});

t.test('an option it does not know is refused', async (t) => {
  t.equal(machine(t, { 'redis-server': redis('7.0.15') }).run('--tests').status, 2);
});
