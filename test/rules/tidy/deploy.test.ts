// What people copy from: the container, the compose file, the pages. A name that does not exist any more would be
// found by them otherwise. There is no container engine in the tests; this checks what can be checked by reading.

import { existsSync } from 'node:fs';
import { posix } from 'node:path';
import t from 'tap';
import { configTable } from '../../../kernel/config.ts';
import { roleNames } from '../../../kernel/role.ts';
import { files, read, root, rule } from './files.ts';

const settings = new Set<string>(Object.values(configTable).map((row) => row.env));
const ports = [8080, 8081, 8082, 8083, 9090];
const compose = read('deploy/compose.yaml');
const dockerfile = read('Dockerfile');

/** A service of the compose file: the lines below `  name:`, indented deeper. */
const service = (name: string): string =>
  new RegExp(`^  ${name}:\\n((?:    .*\\n|\\n)+)`, 'm').exec(compose)?.[1] ?? '';

rule('every setting named in deploy files and pages exists', (found) => {
  const named = files.filter((path) =>
    /^(Dockerfile|deploy\/|docs\/|README|SECURITY|CONTRIBUTING)/.test(path),
  );
  // What a test is told by, which contributors read of.
  for (const name of ['ANTEROOM_SEED', 'ANTEROOM_SEEDS']) settings.add(name);
  for (const path of [...named, 'deploy/anteroom.env.example'])
    for (const [name] of read(path).matchAll(/\bANTEROOM_[A-Z_]+[A-Z]\b/g))
      found.ok(settings.has(name), `${path}: ${name}`);
});

rule('every command in the pages exists', (found) => {
  const { scripts }: { scripts: Record<string, string> } = JSON.parse(read('package.json'));
  for (const path of files.filter((name) => name.endsWith('.md'))) {
    for (const [, name = ''] of read(path).matchAll(/`npm run ([\w:]+)/g))
      found.ok(name in scripts, `${path}: ${name}`);
    for (const [, target = ''] of read(path).matchAll(/\]\(([^)#\s]+)[^)]*\)/g))
      if (!/^[a-z]+:/.test(target))
        found.ok(existsSync(root + posix.join(posix.dirname(path), target)), `${path}: link to ${target}`);
  }
});

t.test('the compose file runs every role once, on stores that keep what they are given', async (t) => {
  const roles = [...compose.matchAll(/ANTEROOM_ROLES: "?([\w,-]+)"?/g)].flatMap((match) =>
    match[1]!.split(','),
  );
  t.same(roles.sort(), [...roleNames].sort());
  for (const [, host = '', port = ''] of compose.matchAll(/http:\/\/([\w-]+):(\d+)/g)) {
    t.not(service(host), '', `${host} is a service`);
    t.ok(ports.includes(Number(port)), `${port} is a port of ours`);
  }
  t.match(service('redis'), /--appendonly yes .*--maxmemory-policy noeviction/);
  t.match(service('redis'), /volumes:/);
  t.match(service('postgres'), /volumes:/);
  t.match(service('admin'), /127\.0\.0\.1:8081:8081/, 'the admin port is not open to the world');
  for (const name of ['redis', 'postgres', 'booking-core'])
    t.notMatch(service(name), /^ {4}ports:/m, `${name} is not reachable from outside`);
  t.notMatch(compose, /password:|secret:|ANTEROOM_KEYS/i, 'no secret is written down');
});

t.test('the image runs as nobody special, says how it is, and holds only what runs', async (t) => {
  t.match(dockerfile, /^FROM node:24-trixie-slim AS packages$/m);
  const last = dockerfile.slice(dockerfile.lastIndexOf('\nFROM '));
  t.match(last, /^\nFROM node:24-trixie-slim$/m, 'glibc 2.38 or later');
  t.match(last, /^USER node$/m);
  t.match(last, /HEALTHCHECK[\s\S]*\/live/);
  t.match(last, /^CMD \["node", "--import", "tsx\/esm", "main.ts"\]$/m);
  t.match(last, new RegExp(`^EXPOSE ${ports.join(' ')}$`, 'm'));
  t.notMatch(dockerfile, /ANTEROOM_(KEYS|OPERATOR_TOKEN|DATABASE_URL)/);
  const defaults = [
    configTable.publicPort,
    configTable.adminPort,
    configTable.bookingPort,
    configTable.sandboxPort,
    configTable.metricsPort,
  ].map((row) => row.default);
  t.same(defaults, ports, 'the ports are the defaults of the table');
  const kept = read('.dockerignore')
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'));
  t.equal(kept[0], '*', 'everything stays out');
  for (const name of kept.slice(1)) t.ok(existsSync(root + name.slice(1)), `${name.slice(1)} exists`);
  const code = new Set(
    files.filter((path) => /\.(ts|lua|sql)$/.test(path)).map((path) => path.split('/')[0]),
  );
  for (const name of ['test', 'bench', 'deploy']) code.delete(name);
  for (const name of code) t.ok(kept.includes(`!${name}`), `${name} is in the image`);
});
