// Where someone stands, computed from the snapshot alone: exact for the first 1,000, between fixed scores beyond.
// A position counts everyone ahead, parked included, so it only falls; whoever shows it keeps the lowest seen.

import type { Snapshot } from './snapshot.ts';

/** Index of the first element that is not below `value`, in an ascending array. */
const lowerBound = (sorted: readonly number[], value: number): number => {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (sorted[middle]! < value) low = middle + 1;
    else high = middle;
  }
  return low;
};

/** How many stand before `score` (0 = next). */
export const aheadOf = (snapshot: Snapshot, score: number): number => {
  const { first, between, anchors, ranks, waiting } = snapshot;
  // Whoever joined after the snapshot stands behind all it knows and those numbered in between. Some of those may be
  // gone or withheld: this errs on the side of a position that falls.
  if (score > snapshot.nextNumber) return waiting + snapshot.parked + (score - snapshot.nextNumber - 1);
  const last = first[first.length - 1];
  // Everyone waiting is listed, or the score lies among those listed: count.
  if (last === undefined || first.length === waiting || score <= last)
    return lowerBound(first, score) + snapshot.parkedBefore + lowerBound(between, score);
  // Between two anchors the line is taken to be evenly filled.
  const known = first.length + snapshot.parkedBefore + between.length;
  const above = lowerBound(anchors, score);
  const highScore = anchors[above] ?? snapshot.nextNumber + 1;
  const highRank = ranks[above] ?? waiting + snapshot.parked;
  const below = above - 1;
  const lowIsAnchor = below >= 0 && anchors[below]! > last;
  const lowScore = lowIsAnchor ? anchors[below]! : last;
  const lowRank = lowIsAnchor ? ranks[below]! : known;
  const share = highScore > lowScore ? (score - lowScore) / (highScore - lowScore) : 0;
  return Math.max(known, Math.round(lowRank + share * (highRank - lowRank)));
};
