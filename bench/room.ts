// A room on a bare Redis, made and filled through the scripts a deployment runs, without any process of ours. What
// a bench needs of it: join many, promote, look at the size.

import { defaultSettings, type Settings } from '../line/settings.ts';
import { LIST_MAX, parseSnapshot, snapshotText } from '../line/snapshot.ts';
import { pipeline, type Reply, type Wire, type Word } from './redis.ts';
import { callOf, keyOf, loadScript, outcomeOf, type Script } from './script.ts';
import { type Surveyed, takeSnapshot } from './survey.ts';

/** The gateway sends at most this many joins in one call (docs/reference/config.md). */
export const JOIN_BATCH = 128;
type ScriptName = 'join' | 'promote' | 'measure' | 'snapshot' | 'here';

export type BenchRoom = {
  name: string;
  scripts: Readonly<Record<ScriptName, Script>>;
  key(name: string): string;
  /** One call of a script of the room; throws unless the outcome is one of `wanted`. */
  run(
    script: ScriptName,
    given: Readonly<Record<string, Word>>,
    options: { wanted: readonly string[]; list?: readonly Word[] },
  ): Promise<readonly [word: string, ...values: Reply[]]>;
  /** Takes a snapshot after the one that is there and keeps it, as the dispatcher does once a second. */
  measure(): Promise<Surveyed>;
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
    snapshot: await loadScript(wire, 'room.snapshot'),
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
      const kept = await wire.ask(['GET', room.key('snapshot')]);
      const surveyed = await takeSnapshot(
        typeof kept === 'string' ? parseSnapshot(kept) : undefined,
        ({ scores, ...ask }) =>
          room.run(
            'measure',
            { nowMs: '', freshMs: 0, listMax: LIST_MAX, ...ask },
            { wanted: ['measured'], list: scores },
          ),
      );
      const { snapshot, basedOnMs, pace } = surveyed;
      const { epoch, atMs, nearScore } = snapshot;
      // A dispatcher of a running system may have come first.
      await room.run(
        'snapshot',
        { epoch, basedOnMs, atMs, pace, nearScore, json: snapshotText(snapshot) },
        { wanted: ['kept', 'superseded'] },
      );
      return surveyed;
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
