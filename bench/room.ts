// A room on a bare Redis, made and filled through the scripts a deployment runs, without any process of ours. What
// a bench needs of it: join many, promote, look at the size.

import { defaultSettings, type Settings } from '../line/settings.ts';
import { pipeline, type Reply, type Wire, type Word } from './redis.ts';
import { callOf, keyOf, loadScript, outcomeOf, type Script } from './script.ts';

/** The gateway sends at most this many joins in one call (docs/reference/config.md). */
export const JOIN_BATCH = 128;
/** As the dispatcher calls it, with as many scores as it ever asks for (dispatcher/measure.ts). */
const MEASURE = { nowMs: '', freshMs: 0, listMin: 1000, listMax: 1000, listedTo: '-inf' };
const SCORES = 500;

export type BenchRoom = {
  name: string;
  scripts: Readonly<Record<'join' | 'promote' | 'measure' | 'here', Script>>;
  key(name: string): string;
  /** One call of a script of the room; throws unless the outcome is one of `wanted`. */
  run(
    script: 'join' | 'promote' | 'measure' | 'here',
    given: Readonly<Record<string, Word>>,
    options: { wanted: readonly string[]; list?: readonly Word[] },
  ): Promise<readonly [word: string, ...values: Reply[]]>;
  /** What a snapshot asks of Redis: the first 1,000 listed, who stands before each of 500 scores, who is near. */
  measure(): Promise<void>;
  /** Puts other settings into effect, as an operator's save does. */
  configure(settings: Partial<Settings>): Promise<void>;
  /** The call of room.join that a gateway makes for these new visitors. */
  joinCall(ids: readonly string[]): Word[];
  /** How many visitors a call with so many words carries. */
  visitorsOf(words: number): number;
  /** Joins places `from` to `from + count − 1` through room.join, in batches. */
  join(from: number, count: number): Promise<void>;
};

/** The nth place, below 2^32: 16 characters of base64url. An odd factor is a bijection, so no two are the same. */
export const placeIdOf = (index: number): string => {
  const bytes = Buffer.allocUnsafe(12);
  bytes.writeInt32LE(Math.imul(index + 1, 0x9e3779b1), 0);
  bytes.writeInt32LE(Math.imul(index + 1, 0x85ebca6b), 4);
  bytes.writeInt32LE(Math.imul(index + 1, 0xc2b2ae35), 8);
  return bytes.toString('base64url');
};

const JOIN = {
  nowMs: '',
  sale: 1,
  lineMax: 50_000_000,
  withheldMax: 100_000,
  joinsMax: 10_000,
} as const;

export const createRoom = async (
  wire: Wire,
  options: { name: string; settings: Partial<Settings> },
): Promise<BenchRoom> => {
  const { name } = options;
  const script = await loadScript(wire, 'room.configure');
  let version = 0;
  const configure = async (settings: Partial<Settings>): Promise<void> => {
    version += 1;
    const text = JSON.stringify({ ...defaultSettings, ...settings });
    const given = { nowMs: '', version, settings: text, create: version === 1 ? 1 : 0 };
    const [word] = outcomeOf(await wire.ask(callOf(script, name, given)));
    if (word !== 'created' && word !== 'configured') throw new Error(`room.configure answered ${word}`);
  };
  await configure(options.settings);
  await wire.ask(['SADD', 'ar:rooms', name]);
  const scripts = {
    join: await loadScript(wire, 'room.join'),
    promote: await loadScript(wire, 'room.promote'),
    measure: await loadScript(wire, 'room.measure'),
    here: await loadScript(wire, 'room.here'),
  };

  const joinCall = (ids: readonly string[]): Word[] =>
    callOf(
      scripts.join,
      name,
      JOIN,
      ids.flatMap((id) => [id, '', 'allow']),
    );
  const joinCalls = function* (from: number, count: number): Generator<Word[]> {
    for (let index = from; index < from + count; index += JOIN_BATCH) {
      const size = Math.min(JOIN_BATCH, from + count - index);
      yield joinCall(Array.from({ length: size }, (_, offset) => placeIdOf(index + offset)));
    }
  };
  /** EVALSHA, hash, number of keys, the keys, the arguments that are not of a visitor. */
  const wordsBefore = 3 + scripts.join.keys.length + scripts.join.args.length - 1;

  const room: BenchRoom = {
    name,
    scripts,
    key: (key) => keyOf(name, key),
    configure,
    joinCall,
    visitorsOf: (words) => (words - wordsBefore) / 3,
    async run(script, words, { wanted, list = [] }) {
      const reply = outcomeOf(await wire.ask(callOf(scripts[script], name, words, list)));
      if (!wanted.includes(reply[0])) throw new Error(`room.${script} answered ${reply[0]}`);
      return reply;
    },
    async measure() {
      const last = Number(await wire.ask(['HGET', room.key('room'), 'nextNumber']));
      const list = Array.from({ length: SCORES }, (_, index) => 1000 + Math.floor((last * index) / SCORES));
      const reply = await room.run('measure', MEASURE, { wanted: ['measured'], list });
      // The last value says whose turn is near; joins beyond it write no presence.
      await wire.ask(['HSET', room.key('room'), 'nearScore', String(reply[reply.length - 1])]);
    },
    async join(from, count) {
      const take = (reply: Reply): void => {
        const [word, , outcomes] = outcomeOf(reply);
        const joined = Array.isArray(outcomes) && outcomes.every((one) => typeof one === 'number');
        if (word !== 'answered' || !joined)
          throw new Error(`room.join answered ${JSON.stringify(reply).slice(0, 200)}`);
      };
      await pipeline(wire, joinCalls(from, count), { under: 16, take });
    },
  };
  return room;
};
