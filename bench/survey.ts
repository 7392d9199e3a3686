// A snapshot taken as the dispatcher takes it: the same pure functions say what to count and make of it what is
// told, and the answers come from the script on the bench's own Redis.

import type { Snapshot } from '../line/snapshot.ts';
import { type Ask, survey } from '../line/survey.ts';

/** What either client of the benches reads from Redis. */
type Reply = string | number | null | readonly Reply[];

const textsOf = (value: Reply | undefined): string[] =>
  Array.isArray(value) ? value.map((each) => String(each)) : [];
const scoresIn = (value: Reply | undefined): number[] =>
  typeof value === 'string' && value !== '' ? value.split(' ').map(Number) : [];

/** The reply of room.measure, as lua/room.ts reads it; the bench may not import that. */
const measuredOf = (reply: Reply) => {
  const at = Array.isArray(reply) ? reply : [];
  if (at[0] !== 'measured') throw new Error(`room.measure answered ${String(at[0])}`);
  const flat = textsOf(at[2]);
  const room = new Map<string, string>();
  for (let index = 0; index + 1 < flat.length; index += 2) room.set(flat[index]!, flat[index + 1]!);
  return {
    outcome: 'measured' as const,
    atMs: Number(at[1]),
    room,
    waiting: Number(at[3]),
    parked: Number(at[4]),
    withheld: Number(at[5]),
    promoted: Number(at[6]),
    active: Number(at[7]),
    listed: scoresIn(at[8]),
    between: scoresIn(at[9]).reverse(),
    parkedBefore: Number(at[10]),
    parkedAt: textsOf(at[11]).map(Number),
    ranks: textsOf(at[12]).map(Number),
    nearScore: String(at[13]),
  };
};

export type Surveyed = {
  snapshot: Snapshot;
  basedOnMs: number;
  pace: string;
  /** How many scores each call of room.measure asked for. */
  counts: number[];
};

/** The snapshot after `before`; `count` calls room.measure with what is asked and answers its reply. */
export const takeSnapshot = async (
  before: Snapshot | undefined,
  count: (ask: Ask) => Promise<Reply>,
): Promise<Surveyed> => {
  const counts: number[] = [];
  const surveying = survey(before);
  for (let step = surveying.next(); ; ) {
    if (step.done === true) {
      if (step.value === undefined) throw new Error('the settings of the bench are not valid');
      return { ...step.value, counts };
    }
    counts.push(step.value.scores.length);
    step = surveying.next(measuredOf(await count(step.value)));
  }
};
