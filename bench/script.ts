// The scripts of the line as an outsider sees them: the file is read, its header says the names of keys and
// arguments, and it is called by hash. So a bench measures exactly what a deployment runs.

import { readFileSync } from 'node:fs';
import type { Reply, Wire, Word } from './redis.ts';

export type Script = {
  sha: string;
  keys: readonly string[];
  /** The last one begins with `...` when it takes a list. */
  args: readonly string[];
};

const wordsOf = (source: string, label: string): string[] => {
  const line = new RegExp(`^-- ${label}: (.*)$`, 'm').exec(source)?.[1] ?? '';
  return line
    .replace(/\([^)]*\)/g, '')
    .trim()
    .split(/\s+/);
};

/** `room.join` is lua/room/join.lua. */
export const loadScript = async (wire: Wire, name: string): Promise<Script> => {
  const source = readFileSync(new URL(`../lua/${name.replace('.', '/')}.lua`, import.meta.url), 'utf8');
  const sha = await wire.ask(['SCRIPT', 'LOAD', source]);
  return { sha: String(sha), keys: wordsOf(source, 'KEYS'), args: wordsOf(source, 'ARGV') };
};

/** The key of a room by its name in the scripts' headers (docs/reference/keys.md). */
export const keyOf = (room: string, name: string): string => `ar:{${room}}:${name}`;

/** The command that calls a script for a room. An argument the header names and nobody gave is a fault. */
export const callOf = (
  script: Script,
  room: string,
  given: Readonly<Record<string, Word>>,
  list: readonly Word[] = [],
): Word[] => {
  const words: Word[] = ['EVALSHA', script.sha, script.keys.length];
  for (const name of script.keys) words.push(keyOf(room, name));
  for (const name of script.args) {
    if (name.startsWith('...')) {
      for (const word of list) words.push(word);
      continue;
    }
    const value = given[name];
    if (value === undefined) throw new Error(`a script now takes ${name}, which this bench does not know`);
    words.push(value);
  }
  return words;
};

/** The outcome word and what follows it. */
export const outcomeOf = (reply: Reply): readonly [word: string, ...values: Reply[]] => {
  if (!Array.isArray(reply) || typeof reply[0] !== 'string') throw new Error('not the answer of a script');
  return [reply[0], ...reply.slice(1)];
};
