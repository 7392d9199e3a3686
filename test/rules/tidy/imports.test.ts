// Who may import whom (docs/architecture.md), and one home for each foreign package. Roles meet in Redis, in
// PostgreSQL and over HTTP; the day one imports another, they can no longer run apart.

import { builtinModules } from 'node:module';
import { posix } from 'node:path';
import ts from 'typescript';
import { read, rule, sources } from './files.ts';
import { at, parse, visit } from './syntax.ts';

const everything = undefined;

/** Folder → the folders of ours it may import besides itself. */
const MAY: Record<string, readonly string[] | undefined> = {
  kernel: [],
  lua: ['kernel'],
  line: ['kernel', 'lua'],
  bots: ['kernel', 'lua', 'line'],
  broker: ['kernel', 'lua', 'line'],
  dispatcher: ['kernel', 'lua', 'line'],
  'booking-core': ['kernel', 'lua', 'line'],
  gateway: ['kernel', 'lua', 'line', 'bots'],
  admin: ['kernel', 'lua', 'line', 'bots'],
  client: [],
  bench: ['kernel', 'line'],
  scripts: ['kernel', 'lua', 'line'],
  app: ['kernel', 'line', 'bots', 'gateway', 'broker'],
  'main.ts': everything,
  test: everything,
};

/**
 * Package → the files that may import it. Nobody else knows about cork, aborts or key imports. The servers of the
 * bench that ours is compared with are strangers: they use the packages bare.
 */
const HOMES: Record<string, readonly string[]> = {
  'uWebSockets.js': [
    'kernel/http.ts',
    'kernel/bystander.ts',
    'bench/floor.ts',
    'bench/naive.ts',
    'bench/raw-streams.ts',
  ],
  ioredis: ['kernel/redis.ts', 'bench/naive.ts'],
  undici: ['kernel/fetch.ts'],
  pg: ['kernel/sql.ts'],
  jose: ['kernel/token.ts', 'kernel/user-token.ts'],
  'prom-client': ['kernel/metrics.ts'],
  'ua-parser-js': ['bots/facts.ts'],
  fastify: ['bench/fastify-jwt.ts', 'bench/fastify-proxy.ts'],
  'fast-jwt': ['bench/fastify-jwt.ts'],
  '@fastify/http-proxy': ['bench/fastify-proxy.ts'],
};

type Import = { from: string; specifier: string; where: string };

const isCreateRequire = (node: ts.Node): boolean =>
  ts.isIdentifier(node) && (node.text === 'require' || node.text.startsWith('require'));

/** import, export … from, import(), import type, require() and new URL(…, import.meta.url) of a source file. */
const importsOf = (path: string): Import[] => {
  const source = parse(path);
  const all: Import[] = [];
  const add = (node: ts.Node, specifier: ts.Node | undefined) => {
    if (specifier !== undefined && ts.isStringLiteralLike(specifier))
      all.push({ from: path, specifier: specifier.text, where: at(source, node) });
  };
  visit(source, (node) => {
    if (ts.isImportDeclaration(node) || ts.isExportDeclaration(node)) add(node, node.moduleSpecifier);
    else if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument))
      add(node, node.argument.literal);
    else if (ts.isCallExpression(node)) {
      if (node.expression.kind === ts.SyntaxKind.ImportKeyword || isCreateRequire(node.expression))
        add(node, node.arguments[0]);
    } else if (ts.isNewExpression(node) && node.getText().startsWith('new URL(')) {
      const [first, base] = node.arguments ?? [];
      if (base?.getText() === 'import.meta.url' && /\.(ts|js)'?$/.test(first?.getText() ?? ''))
        add(node, first);
    }
  });
  return all;
};

const imports = sources.flatMap(importsOf);
const folderOf = (path: string): string => path.split('/')[0]!;
/** Code a browser runs refers to addresses of the server, not to files of ours. */
const isBrowser = (path: string): boolean => /(^client\/|\/page\/).*\.js$/.test(path);
const packageOf = (specifier: string): string =>
  specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/');
const isOurs = (specifier: string): boolean => specifier.startsWith('.') || specifier.startsWith('/');

rule('each folder imports only what the table allows', (found) => {
  for (const folder of new Set(sources.map(folderOf)))
    found.ok(folder in MAY, `${folder} is in the table: add a row here and in docs/architecture.md`);
  for (const { from, specifier, where } of imports) {
    if (!isOurs(specifier) || isBrowser(from)) continue;
    const home = folderOf(from);
    const allowed = MAY[home];
    const target = folderOf(posix.normalize(posix.join(posix.dirname(from), specifier)));
    if (allowed === everything || target === home || allowed.includes(target)) continue;
    found.fail(`${where}: ${home} may not import ${target} (${specifier})`);
  }
});

rule('each foreign package has one home, and is declared', (found) => {
  const manifest: { dependencies: Record<string, string>; devDependencies: Record<string, string> } =
    JSON.parse(read('package.json'));
  const builtin = new Set(builtinModules);
  for (const { from, specifier, where } of imports) {
    if (isOurs(specifier) || isBrowser(from)) continue;
    if (specifier.startsWith('node:')) {
      found.ok(
        folderOf(from) !== 'client' || !from.endsWith('anteroom.js'),
        `${where}: the browser client has no node:`,
      );
      continue;
    }
    const name = packageOf(specifier);
    const inTests = ['test', 'bench', 'scripts'].includes(folderOf(from));
    found.ok(!builtin.has(name), `${where}: write node:${specifier}`);
    found.ok(
      name in manifest.dependencies || (inTests && name in manifest.devDependencies),
      `${where}: ${name} is declared in package.json`,
    );
    // A test plays the outsider: the origin that checks a pass with a standard library, for one.
    if (folderOf(from) !== 'test' && name in HOMES)
      found.ok(
        HOMES[name]?.includes(from) === true,
        `${where}: ${name} is imported in ${HOMES[name]?.join(', ')} only`,
      );
  }
  for (const name of Object.keys(manifest.dependencies))
    if (name !== 'tsx') found.ok(name in HOMES, `${name} has a home: add a row here`);
});

rule('our files are imported with their ending, as they run', (found) => {
  for (const { from, specifier, where } of imports)
    if (isOurs(specifier) && !isBrowser(from)) found.match(specifier, /\.(ts|js|mjs|json)$/, where);
});
