// Which counts make one snapshot: says what to count, takes what was counted, and says when it is enough. It is
// pure, so that the dispatcher asks Redis, a bench its own and a test a sorted list, all in the same way.

import type { Measured } from '../lua/room.ts';
import { isCoarse, isPoor, planAnchors, planCounts } from './anchors.ts';
import {
  bindingOf,
  type Composed,
  composeSnapshot,
  isDrawing,
  listMinAfter,
  type Plan,
  type Snapshot,
} from './snapshot.ts';

/**
 * Anchors of a snapshot: some 430 at ten million places of which a fifth has left, and what everybody reads of the line
 * is 20 KB then; twice that where the line has been thinned again and again.
 */
export const ANCHORS_MAX = 1000;
/**
 * Anchors counted in one call: some 4 to 7 µs each at ten million places, where the list of the first 1,000 takes
 * 1.3 ms (Redis 7.0, 2026-11-21), and a call is to take no more than 2 ms of Redis.
 */
export const COUNTS_MAX = 64;
/** Mostly one; more where a stretch of the line has left, and two to four for the first snapshot of a long line. */
const ROUNDS_MAX = 8;

/** What to count, by its names in lua/room/measure.lua. */
export type Ask = { listMin: number; listedTo: number | '-inf'; scores: readonly number[] };

const allOf = ({ counted, kept }: Plan): Plan => ({
  counted: [...counted, ...kept].sort((a, b) => a - b),
  kept: [],
});

const planAfter = (ground: Snapshot): Plan =>
  isDrawing(ground)
    ? { counted: planAnchors(ground, COUNTS_MAX), kept: [] }
    : planCounts(ground, { anchorsMax: ANCHORS_MAX, countsMax: COUNTS_MAX });

/**
 * Yields what to count next and takes what came of it; returns the snapshot after `before`, undefined when the
 * settings in Redis are those of a newer version. Each count goes on from the one before it, so that anchors which
 * were counted at different instants are never mixed up; people are held to what `before` told them.
 */
export function* survey(before: Snapshot | undefined): Generator<Ask, Composed | undefined, Measured> {
  const listMin = listMinAfter(before);
  const listedTo = before?.listedTo ?? '-inf';
  let ground = before;
  let plan: Plan = before === undefined ? { counted: [], kept: [] } : planAfter(before);
  for (let round = 1; ; round += 1) {
    const measured = yield { listMin, listedTo, scores: plan.counted };
    const composed = composeSnapshot(measured, plan, { before, ground });
    if (composed === undefined) return undefined;
    if (composed === 'uncounted') {
      plan = allOf(plan);
      continue;
    }
    ground = composed.snapshot;
    if (round >= ROUNDS_MAX || isDrawing(ground)) return composed;
    // The anchors of `before` were chosen for this line, and people were told by them.
    const isBound = bindingOf(before, ground.epoch, ground.settings) !== undefined;
    if (!(isBound ? isPoor(ground, ANCHORS_MAX) : isCoarse(ground, ANCHORS_MAX))) return composed;
    plan = planAfter(ground);
  }
}
