// The contract of the Lua scripts: what a header says, the binding says, and the body does. A caller reads the
// header instead of the body, so a header that lies is worse than none.

import { readdirSync } from 'node:fs';
import t from 'tap';
import { keyTable } from '../../../kernel/keys.ts';
import { luaHeaders, parseHeader } from '../../../scripts/lua-headers.ts';
import { rule } from './files.ts';

const CODE_LINES_MAX = 60;

type Binding = { name: string; keys: string[]; args: string[]; outcomes: string[]; source: string };

const isBinding = (value: unknown): value is Binding =>
  typeof value === 'object' && value !== null && 'outcomes' in value && 'source' in value && 'run' in value;

const bindings = async (): Promise<Map<string, Binding>> => {
  const found = new Map<string, Binding>();
  const root = new URL('../../../lua/', import.meta.url);
  for (const file of readdirSync(root).filter((name) => name.endsWith('.ts'))) {
    const exported: Record<string, unknown> = await import(new URL(file, root).href);
    const grouped = Object.values(exported).flatMap((value) =>
      typeof value === 'object' && value !== null && !isBinding(value) ? Object.values(value) : [value],
    );
    for (const value of grouped) if (isBinding(value)) found.set(value.name, value);
  }
  return found;
};

const headers = luaHeaders();

rule(
  'a header and its binding name the same keys, arguments and outcomes in the same order',
  async (found) => {
    const bound = await bindings();
    found.same(
      [...bound.keys()].sort(),
      headers.map((header) => header.name).sort(),
      'each script has one binding and each binding a script',
    );
    for (const header of headers) {
      const binding = bound.get(header.name);
      if (binding === undefined) continue;
      found.same(
        header.file,
        `lua/${header.name.replace('.', '/')}.lua`,
        `${header.name}: the path is the name`,
      );
      found.same(header.keys, [...binding.keys], `${header.name}: KEYS`);
      found.same(
        header.args.map((arg) => arg.name),
        [...binding.args],
        `${header.name}: ARGV`,
      );
      found.same(
        header.returns.map((outcome) => outcome.word),
        [...binding.outcomes],
        `${header.name}: Returns`,
      );
    }
  },
);

rule('a script answers with the words of its header, and with all of them', (found) => {
  for (const { name, body, returns } of headers) {
    // The reply may be built on the same line or kept in a local first; either way the word opens a table.
    const answered = new Set([...body.matchAll(/\{\s*'(\w+)'/g)].map((match) => match[1]));
    for (const { word } of returns) found.ok(answered.has(word), `${name} can answer ${word}`);
    const words = new Set(returns.map((outcome) => outcome.word));
    for (const match of body.matchAll(/return\s*\{\s*'(\w+)'/g))
      found.ok(words.has(match[1]!), `${name} documents ${match[1]}`);
  }
});

rule('KEYS and ARGV are named in the first paragraph, and nowhere else', (found) => {
  for (const { name, body, keys, args } of headers) {
    const [first = '', ...rest] = body.trimStart().split(/\n\s*\n/);
    // An argument that is spread has no names; a loop over it is the one use of positions further down.
    const spread = args.some((arg) => arg.name.startsWith('...'));
    const below = spread ? rest.join('\n').replace(/#ARGV|ARGV\[i\b/g, '') : rest.join('\n');
    found.notMatch(below, /\b(KEYS|ARGV)\b/, `${name}: positions only at the top`);
    const indices = [...first.matchAll(/\bKEYS\[(\d+)\]/g)].map((match) => Number(match[1]));
    found.same(
      indices,
      keys.map((_, index) => index + 1),
      `${name}: every key once and in order`,
    );
    const plain = args.filter((arg) => !arg.name.startsWith('...')).length;
    for (let index = 1; index <= plain; index++)
      found.ok(first.includes(`ARGV[${index}]`), `${name}: argument ${index} is named`);
    const named = [...first.matchAll(/local ([^=]+) = ((?:KEYS\[\d+\](?:, )?)+)/g)]
      .flatMap((match) => match[1]!.split(','))
      .map((local) => local.trim());
    found.same(
      named,
      keys.map((key) => `${key}Key`),
      `${name}: a key's local is its name and Key`,
    );
  }
});

rule('a script touches only the keys it was given', (found) => {
  for (const { name, body, keys } of headers) {
    found.notMatch(body, /ar:/, `${name}: no key is built inside`);
    for (const match of body.matchAll(/redis\.p?call\('(\w+)'(?:,\s*([^,)]+))?/g)) {
      const [, command, key] = match;
      if (command === 'TIME') continue;
      found.match(key ?? '', /^[\w[\]]+\s*$/, `${name}: ${command} takes a key by name, never text`);
    }
    const [, ...rest] = body.trimStart().split(/\n\s*\n/);
    for (const key of keys) found.ok(rest.join('\n').includes(`${key}Key`), `${name}: uses ${key}`);
    for (const key of keys)
      found.ok(key === 'limit' || /^limit/.test(key) || key in keyTable, `${name}: ${key} is in the table`);
  }
});

rule('a script is one transition: short, and without faults of its own making', (found) => {
  for (const { name, body, purpose, cost } of headers) {
    const code = body.split('\n').filter((line) => line.trim() !== '' && !line.trim().startsWith('--'));
    found.ok(code.length <= CODE_LINES_MAX, `${name}: ${code.length} lines of code`);
    found.notMatch(body, /redis\.pcall/, `${name}: no fault is hidden`);
    found.notMatch(body, /while true|repeat\b/, `${name}: no loop without a limit`);
    found.match(purpose, /[.]$/, `${name}: the purpose is a sentence`);
    found.match(cost, /O\(/, `${name}: says its cost`);
  }
});

t.test('a header out of form is refused', async (t) => {
  const whole = '-- room.x: Does x.\n-- KEYS: room\n-- ARGV: none\n-- Returns: ok\n-- Cost: O(1)\nreturn 1\n';
  t.equal(parseHeader('x', whole).name, 'room.x');
  t.same(parseHeader('x', whole).args, []);
  t.throws(() => parseHeader('x', whole.replace('-- Cost: O(1)\n', '')), /must have/);
  t.throws(() => parseHeader('x', whole.replace('KEYS', 'keys')), /must have/);
  t.throws(() => parseHeader('x', whole.replace('-- ARGV: none\n', '-- KEYS: room\n')), /twice/);
  t.throws(() => parseHeader('x', whole.replace('room.x: ', '')), /purpose/);
});
