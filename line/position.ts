// Where someone stands, computed from the snapshot alone: exact for the first 1,000, between fixed scores beyond.
// A position counts everyone ahead, parked included, so it only falls, and nobody has to remember what was told:
// line/anchors.ts says why the curve of one snapshot never lies above that of the one before.

import type { Snapshot } from './snapshot.ts';

/** Index of the first element that is not below `value`, in an ascending array. */
export const lowerBound = (sorted: readonly number[], value: number): number => {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (sorted[middle]! < value) low = middle + 1;
    else high = middle;
  }
  return low;
};

/** A score and how many are told to stand before it. */
export type Knot = { score: number; rank: number };
export type Curve = Pick<Snapshot, 'first' | 'between' | 'parkedBefore' | 'parkedAt' | 'anchors' | 'ranks'>;

/** The first score behind those listed one by one; undefined when none is. */
export const firstKnot = ({ first, between, parkedBefore }: Curve): Knot | undefined =>
  first.length === 0
    ? undefined
    : { score: first[first.length - 1]! + 1, rank: first.length + between.length + parkedBefore };

/**
 * How many are told to stand between two knots at `score`. Numbers are whole and unique, so no more than
 * `score - low.score` can: the most there can be is told, and never more than stand before the next knot. Lots lie
 * scattered over 2^40 scores by chance alone, and a straight line is what chance makes of them.
 */
const toldBetween = (low: Knot, high: Knot | undefined, score: number): number => {
  if (score >= 0) return Math.min(high?.rank ?? Number.POSITIVE_INFINITY, low.rank + score - low.score);
  if (high === undefined) return low.rank;
  const share = (score - low.score) / (high.score - low.score);
  return Math.round(low.rank + share * (high.rank - low.rank));
};

/** Among those listed: counted. */
const listedAhead = (curve: Curve, score: number): number => {
  const index = lowerBound(curve.first, score);
  return index + (curve.parkedAt[index] ?? curve.parkedBefore + lowerBound(curve.between, score));
};

/** How many stand before `score` (0 = next). */
export const aheadOf = (curve: Curve, score: number): number => {
  const { anchors, ranks } = curve;
  const listEnd = firstKnot(curve);
  if (listEnd !== undefined && score <= listEnd.score) return listedAhead(curve, score);
  const above = lowerBound(anchors, score);
  const high = above < anchors.length ? { score: anchors[above]!, rank: ranks[above]! } : undefined;
  const low = above > 0 ? { score: anchors[above - 1]!, rank: ranks[above - 1]! } : listEnd;
  if (low === undefined) return high?.rank ?? curve.parkedBefore;
  return high?.score === score ? high.rank : toldBetween(low, high, score);
};
