// How many stand before an anchor that was not counted this time: no more than, and no fewer than.
//
// The problem: a count costs Redis some 6 µs at ten million places, and half a thousand of them each second are more
// than a tick may take. But places leave a line, they do not appear in the middle of it. So between two scores, `low`
// and `high`, that were counted both times, whoever left before an anchor is between those who left before `low` and
// those who left before `high`:
//
//     least(at) - gone(high)  <=  rank(at)  <=  most(at) - gone(low)
//
// What is told is the most, which is never too little and only falls, whichever scores are counted and by whoever.
// The difference of the two says how much it may be too high, and so which anchors are to be counted next.
//
// Places do come back for a reason: let stand after all, stood up again after a loss, or a turn that was missed.
// Redis counts those (lua/room/release, restore and reap), those who return ahead of the whole line by themselves,
// because they move everybody alike. When some came back among the others, nothing here holds, and all is counted.

import type { Knot } from './position.ts';

/** At most and at least so many stand before `score`. */
export type Bounds = { score: number; most: number; least: number };

/** One step up the line: what was known at a score before, and what was counted there now. */
type Step = { old: Bounds | undefined; counted: number | undefined; score: number };

const stepsOf = (before: readonly Bounds[], counted: readonly Knot[]): Step[] => {
  const steps = new Map<number, Step>();
  for (const old of before) steps.set(old.score, { score: old.score, old, counted: undefined });
  for (const { score, rank } of counted)
    steps.set(score, { score, old: steps.get(score)?.old, counted: rank });
  return [...steps.values()].sort((a, b) => a.score - b.score);
};

/**
 * What is known now at every score that was known `before` or is `counted` now; ascending, whatever the order of the
 * two. `returned` came back ahead of all of them. Undefined when a count is higher than could be: places came back
 * among the others, and what was known before holds no longer.
 */
export const boundsAfter = (
  before: readonly Bounds[],
  counted: readonly Knot[],
  returned: number,
): Bounds[] | undefined => {
  const steps = stepsOf(before, counted);
  const known: Bounds[] = [];
  let goneAtLeast = 0;
  let floor = 0;
  for (const { score, old, counted: rank } of steps) {
    if (rank === undefined) {
      // Every step is known from before or counted.
      known.push({ score, most: old!.most + returned - goneAtLeast, least: floor });
      continue;
    }
    if (old !== undefined && rank > old.most + returned) return undefined;
    if (old !== undefined) goneAtLeast = Math.max(goneAtLeast, old.least + returned - rank);
    floor = rank;
    known.push({ score, most: rank, least: rank });
  }
  let goneAtMost = Number.POSITIVE_INFINITY;
  let ceiling = Number.POSITIVE_INFINITY;
  for (let index = steps.length - 1; index >= 0; index -= 1) {
    const { old, counted: rank } = steps[index]!;
    const at = known[index]!;
    if (rank !== undefined && old !== undefined)
      goneAtMost = Math.min(goneAtMost, old.most + returned - rank);
    if (rank === undefined) {
      at.most = Math.min(at.most, ceiling);
      at.least = Math.max(at.least, old!.least + returned - goneAtMost);
    }
    ceiling = at.most;
  }
  // Numbers are whole and unique, and a least that is known below holds above.
  for (let index = 1; index < known.length; index += 1) {
    const [low, at] = [known[index - 1]!, known[index]!];
    if (low.score >= 0) at.most = Math.min(at.most, low.most + at.score - low.score);
    at.least = Math.min(at.most, Math.max(at.least, low.least));
  }
  return known;
};
