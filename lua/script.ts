// Binds a .lua file to a typed function. The path is the name: lua/room/join.lua is room.join. Names of keys and
// arguments are written once, here in the binding; a contract test compares them with the header of the file.
// A reply is `{word, values…}`; `read` turns it into a union of outcomes, and a word nobody knows is a fault, not
// a silent default.

import { readFileSync } from 'node:fs';
import { type Redis, scriptCommands } from '../kernel/redis.ts';

/** What comes back from Redis: the outcome word, then strings, integers or nested arrays. */
export type Reply = readonly [word: string, ...values: unknown[]];

export type ScriptSpec<K extends string, A extends string, O> = {
  /** `room.join`: the path below lua/ without its ending. */
  name: string;
  keys: readonly K[];
  /** The last one may begin with `...`: it takes an array and is spread. */
  args: readonly A[];
  /** Outcome words in the order they are checked. */
  outcomes: readonly string[];
  read: (reply: Reply) => O;
};

export type ScriptArgs<A extends string> = {
  [N in A as N extends `...${infer Rest}` ? Rest : N]: N extends `...${string}`
    ? readonly (string | number)[]
    : string | number;
};

export type Script<K extends string, A extends string, O> = ScriptSpec<K, A, O> & {
  source: string;
  /** Runs on any client made by kernel/redis.ts after this binding. */
  run(redis: Redis, keys: Record<K, string>, args: ScriptArgs<A>): Promise<O>;
};

export class UnknownOutcome extends Error {
  constructor(script: string, word: unknown) {
    super(
      `script ${script} answered with an outcome this version does not know: ${String(word).slice(0, 40)}`,
    );
    this.name = 'UnknownOutcome';
  }
}

/** Keys and arguments of one call; what is longer than a moment's work for Redis is cut up by the caller. */
const ARGUMENTS_MAX = 20_000;

type Defined = Record<string, (...args: (string | number)[]) => Promise<unknown>>;

export const script = <K extends string, A extends string, O>(spec: ScriptSpec<K, A, O>): Script<K, A, O> => {
  const source = readFileSync(new URL(`./${spec.name.replace('.', '/')}.lua`, import.meta.url), 'utf8');
  const command = `ar_${spec.name.replace('.', '_')}`;
  scriptCommands.set(command, { lua: source, numberOfKeys: spec.keys.length });
  return {
    ...spec,
    source,
    async run(redis, keys, args) {
      const flat: (string | number)[] = spec.keys.map((name) => keys[name]);
      for (const name of spec.args) {
        // The argument record has exactly the names of `args`, with the dots taken off (ScriptArgs).
        const value = (args as Record<string, string | number | readonly (string | number)[]>)[
          name.replace('...', '')
        ];
        if (typeof value !== 'object') flat.push(value as string | number);
        else if (value.length <= ARGUMENTS_MAX) flat.push(...value);
        // Before the client sees them: it would fail in the middle, and take other calls of its batch along.
        else
          throw new RangeError(
            `script ${spec.name} takes at most ${ARGUMENTS_MAX} arguments, not ${value.length}: call it in parts`,
          );
      }
      // createRedis has defined this command (ioredis `defineCommand`) on the client; its type cannot say so.
      const reply = await (redis as unknown as Defined)[command]!(...flat);
      if (!Array.isArray(reply) || typeof reply[0] !== 'string' || !spec.outcomes.includes(reply[0]))
        throw new UnknownOutcome(spec.name, Array.isArray(reply) ? reply[0] : reply);
      return spec.read(reply as unknown as Reply);
    },
  };
};
