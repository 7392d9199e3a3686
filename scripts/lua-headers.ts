// Reads the headers of the Lua scripts: the contract each script opens with. docs/reference/scripts.md is made
// from them, and a test compares them with the bindings. A header that does not parse is an error, not a gap.

import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

export type LuaHeader = {
  /** Path below the project, for messages: `lua/room/join.lua`. */
  file: string;
  /** `room.join`. */
  name: string;
  purpose: string;
  keys: string[];
  /** `note` is what stands in parentheses behind the name: a unit, or the words it may be. */
  args: { name: string; note: string }[];
  returns: { word: string; values: string }[];
  cost: string;
  /** What follows the header. */
  body: string;
};

const FIELDS = ['KEYS', 'ARGV', 'Returns', 'Cost'] as const;

/** Splits `nowMs(ms, '' = Redis TIME) placeId …` at spaces outside parentheses. */
const argsOf = (text: string): LuaHeader['args'] =>
  [...text.matchAll(/((?:\.\.\.)?\w+)(?:\(((?:[^()]|\([^()]*\))*)\))?/g)].map((match) => ({
    name: match[1]!,
    note: match[2] ?? '',
  }));

export const parseHeader = (file: string, source: string): LuaHeader => {
  const lines = source.split('\n');
  const end = lines.findIndex((line) => !line.startsWith('--'));
  const fault = (what: string): never => {
    throw new Error(`${file}: ${what}`);
  };
  const parts = new Map<string, string>();
  let current = 'purpose';
  for (const line of lines.slice(0, end)) {
    const text = line.slice(2).trim();
    const field = FIELDS.find((name) => text.startsWith(`${name}:`));
    if (field !== undefined) {
      if (parts.has(field)) fault(`${field} stands twice`);
      current = field;
    }
    const rest = field === undefined ? text : text.slice(field.length + 1).trim();
    parts.set(current, `${parts.get(current) ?? ''} ${rest}`.trim());
  }
  const order = [...parts.keys()].join(' ');
  if (order !== `purpose ${FIELDS.join(' ')}`)
    fault(`the header must have purpose, ${FIELDS.join(', ')}; has ${order}`);
  const [, name = '', purpose = ''] =
    /^([\w.]+): (.+)$/s.exec(parts.get('purpose') ?? '') ?? fault('no purpose');
  const list = (text: string | undefined): string => (text === undefined || text === 'none' ? '' : text);
  return {
    file,
    name,
    purpose,
    keys: list(parts.get('KEYS')).split(' ').filter(Boolean),
    args: argsOf(list(parts.get('ARGV'))),
    returns: list(parts.get('Returns'))
      .split(' | ')
      .map((outcome) => {
        const [word = '', ...values] = outcome.trim().split(' ');
        return { word, values: values.join(' ') };
      }),
    cost: parts.get('Cost') ?? '',
    body: lines.slice(end).join('\n'),
  };
};

/** Every script below lua/, by name. */
export const luaHeaders = (): LuaHeader[] => {
  const root = fileURLToPath(new URL('../lua/', import.meta.url));
  return readdirSync(root, { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith('.lua'))
    .map((path) => parseHeader(`lua/${path}`, readFileSync(`${root}${path}`, 'utf8')))
    .sort((a, b) => (a.name < b.name ? -1 : 1));
};
