// Which fixed scores the next snapshot counts before, and what is told at them.
//
// The problem: ten million people want to know where they stand, every second, and Redis may count at some hundreds of
// scores only. Between two of them, `low` and `high`, somebody with a number x is told
//
//     min(rank(high), rank(low) + x - low)        the most there can be: numbers are whole and unique
//
// which is never less than the truth and errs by about c(s-c)/s, at most twice that, for c places among s numbers:
// nothing where all still stand or all have gone, most where some left. It has two more virtues. Ranks of fixed scores only fall, so
// what it tells only falls. And a new anchor can only lower it, because what it told there was never too little: so
// anchors may come wherever they are needed, at any time, and nobody sees a number rise. A straight line would err
// less under even leaving, but to both sides: each new anchor, and the list of the first, would make some rise.
//
// Lots of a draw are scattered over 2^40 scores, where "the most there can be" says nothing. There a straight line
// is drawn, whose error is chance, and what is told at a new anchor is held at what was told there before. The
// hundred lots behind the first thousand are anchors of their own, so that what is held back has caught up with the
// truth by the time a lot is listed exactly.
//
// Anchors stay until the head passes them or until they say nothing, and are chosen by a pure function of the last
// snapshot, so that any dispatcher goes on from any other's. Only a few are counted each time: some spread evenly,
// those that are new, and those that are least sure (line/bounds.ts says what is known of the others).

import { aheadOf, type Curve, firstKnot, type Knot, lowerBound } from './position.ts';

/** The part of a snapshot that anchors are chosen from. */
export type Ranked = Curve & {
  nextNumber: number;
  waiting: number;
  parked: number;
  listedTo: number;
};
/** With how sure each anchor is. */
export type Weighed = Ranked & { unsure: readonly number[] };

/** Of the rank: how much a position may err by where nothing else limits it. p99 is promised at 0.5 %. */
const TOLERANCE = 0.0045;
/** Shorter lines get finer steps; the count at a fixed score is so cheap that they may as well. */
const FINE = 0.0025;
const FINE_UP_TO = 20_000;
const COARSE_FROM = 1_000_000;

/** What an interval may err by at its low end, in places. */
export const toleranceOf = (total: number): number => {
  const share = Math.log(total / FINE_UP_TO) / Math.log(COARSE_FROM / FINE_UP_TO);
  return FINE + (TOLERANCE - FINE) * Math.min(1, Math.max(0, share));
};

/**
 * Places between two anchors among lots: the error of a straight line is half the root of them, so it is 0.2 % of
 * the rank at one standard deviation, until leaving in blocks counts more than chance (3 % of the rank).
 */
const lotsBetween = (rank: number, tolerance: number): number =>
  Math.max(8, Math.min(0.03 * rank, (0.004 * rank) ** 2) * (tolerance / TOLERANCE));

/**
 * By how much a number may be off, as a share of its interval of which `filled` is: f(1-f) when it is evenly filled,
 * min(f, 1-f) when all stand at its end. The second is rarer, and counts a little less.
 */
const shareOff = (filled: number): number =>
  Math.max(filled * (1 - filled), 0.7 * Math.min(filled, 1 - filled));
const boundOf = (low: Knot, high: Knot): number => {
  const width = high.score - low.score;
  return width * shareOff((high.rank - low.rank) / width);
};

const DIVIDED_MAX = 2000;

/** Where the interval is to be divided, evenly in what each part may err by; nothing when it is good as it is. */
const divided = (low: Knot, high: Knot, tolerance: number): number[] => {
  const scores: number[] = [];
  const width = high.score - low.score;
  // Nothing lies between neighbours, and an interval of no width has no filling.
  if (width <= 1) return scores;
  const filled = (high.rank - low.rank) / width;
  const isLots = low.score < 0;
  if (
    isLots
      ? high.rank - low.rank <= lotsBetween(low.rank, tolerance)
      : boundOf(low, high) <= Math.max(1, tolerance * low.rank)
  )
    return scores;
  let { score, rank } = low;
  for (;;) {
    const step = isLots
      ? lotsBetween(rank, tolerance) / filled
      : Math.max(1, tolerance * rank) / shareOff(filled);
    // The last two parts share what is left.
    const left = high.score - score;
    if (left <= step) return scores;
    const next = Math.floor(score + (left < 2 * step ? left / 2 : step));
    if (next <= score) return scores;
    rank += (next - score) * filled;
    score = next;
    scores.push(score);
    // More than are ever asked for at once: the tolerance will have to grow.
    if (left < 2 * step || scores.length > DIVIDED_MAX) return scores;
  }
};

const knotsOf = (ranked: Ranked): Knot[] => {
  const { anchors, ranks, listedTo } = ranked;
  const knots: Knot[] = [];
  let from = lowerBound(anchors, listedTo + 1);
  const listEnd = firstKnot(ranked);
  // Lots listed behind the first thousand are anchors that come anew with each list; the last one begins the rest.
  if (from > 0) knots.push({ score: anchors[from - 1]!, rank: ranks[from - 1]! });
  else if (listEnd !== undefined) knots.push(listEnd);
  // An anchor right behind the list says what the list says.
  if (anchors[from] === knots[0]?.score) from += 1;
  for (let index = from; index < anchors.length; index += 1)
    knots.push({ score: anchors[index]!, rank: ranks[index]! });
  const end = ranked.nextNumber + 1;
  if (knots.length > 0 && knots[knots.length - 1]!.score < end)
    knots.push({ score: end, rank: ranked.waiting + ranked.parked });
  return knots;
};

/** An anchor says nothing where both its sides are full, or both are empty: it can go, and nothing changes. */
const saysNothing = (low: Knot, at: Knot, high: Knot): boolean => {
  const isFull = (from: Knot, to: Knot): boolean => to.rank - from.rank === to.score - from.score;
  return low.score >= 0 && ((isFull(low, at) && isFull(at, high)) || low.rank === high.rank);
};

/** `tolerance` is what the intervals may err by so that there are not too many anchors. */
type Plan = { staying: number[]; added: number[]; tolerance: number };

const planOf = (ranked: Ranked, anchorsMax: number): Plan => {
  const all = knotsOf(ranked);
  // Lots and numbers are told differently: score 0, which nobody has, always parts them.
  const parting = all.findIndex(({ score }) => score >= 0);
  if (parting > 0 && all[parting]!.score > 0) all.splice(parting, 0, { score: 0, rank: aheadOf(ranked, 0) });
  const knots = all.filter((at, index) => {
    const low = all[index - 1];
    const high = all[index + 1];
    return low === undefined || high === undefined || at.score === 0 || !saysNothing(low, at, high);
  });
  const end = ranked.nextNumber + 1;
  const staying = knots
    .slice(1)
    .map(({ score }) => score)
    .filter((score) => score < end || ranked.anchors.includes(score));
  let tolerance = toleranceOf(ranked.waiting + ranked.parked);
  for (let tries = 0; tries < 40; tries += 1) {
    const added: number[] = [];
    for (let index = 1; index < knots.length; index += 1)
      added.push(...divided(knots[index - 1]!, knots[index]!, tolerance));
    if (staying.length + added.length <= anchorsMax) return { staying, added, tolerance };
    tolerance *= 1.2;
  }
  return { staying, added: [], tolerance };
};

/**
 * All anchors of the next snapshot, ascending: those that stay and those that divide what errs too much. When they
 * would be more than `anchorsMax`, all tolerances grow together.
 */
export const planAnchors = (ranked: Ranked, anchorsMax: number): number[] => {
  const { staying, added } = planOf(ranked, anchorsMax);
  return [...new Set([...staying, ...added])].sort((a, b) => a - b);
};

/** Anchors counted each time, evenly spread: whoever left between two of them is what is not known of the others. */
const SPREAD = 24;
/** New anchors at once; there is one in each that errs too much, and what is left comes with the next snapshot. */
const NEW_MAX = 24;
/** How much too high an anchor's rank may be known, beside what its intervals err by; one or two places always. */
const UNSURE_MAX = 0.002;
const isUnsure = (unsure: number, rank: number): boolean => unsure > Math.max(2, UNSURE_MAX * rank);

/** Of each of so many equal parts the one that is surest, the first where several are; and the very last. */
const spreadOver = (anchors: readonly Surety[]): Surety[] => {
  const spread: Surety[] = [];
  for (let part = 0; part < SPREAD; part += 1) {
    const from = Math.floor((part * anchors.length) / SPREAD);
    const to = Math.floor(((part + 1) * anchors.length) / SPREAD);
    let surest = anchors[from]!;
    for (let index = from; index < to; index += 1)
      if (anchors[index]!.unsure < surest.unsure) surest = anchors[index]!;
    spread.push(surest);
  }
  spread.push(anchors[anchors.length - 1]!);
  return spread;
};
type Surety = { score: number; unsure: number; share: number };

const evenly = (scores: readonly number[], countMax: number): number[] =>
  scores.length <= countMax
    ? [...scores]
    : Array.from({ length: countMax }, (_, index) => scores[Math.floor((index * scores.length) / countMax)]!);

/**
 * The next snapshot's anchors: those to count, at most `countsMax`, and those that are kept as they are known.
 * Both ascending.
 */
export const planCounts = (
  ranked: Weighed,
  { anchorsMax, countsMax }: { anchorsMax: number; countsMax: number },
): { counted: number[]; kept: number[] } => {
  const all = planAnchors(ranked, anchorsMax);
  if (all.length <= countsMax) return { counted: all, kept: [] };
  const index = new Map(ranked.anchors.map((score, at) => [score, at]));
  const known: Surety[] = [];
  const unknown: number[] = [];
  for (const score of all) {
    const at = index.get(score);
    const unsure = at === undefined ? undefined : ranked.unsure[at];
    if (at === undefined || unsure === undefined) unknown.push(score);
    else known.push({ score, unsure, share: unsure / (ranked.ranks[at]! + 1) });
  }
  // Nothing to go on from: all are counted at once.
  if (known.length <= SPREAD) return { counted: evenly(all, anchorsMax), kept: [] };
  const counted = new Set(spreadOver(known).map(({ score }) => score));
  for (const score of evenly(unknown, NEW_MAX)) counted.add(score);
  const least = known.filter(({ share }) => share > 0).sort((a, b) => b.share - a.share);
  for (const { score } of least) {
    if (counted.size >= countsMax) break;
    counted.add(score);
  }
  return {
    counted: [...counted].sort((a, b) => a - b),
    kept: known.map(({ score }) => score).filter((score) => !counted.has(score)),
  };
};

/** So many anchors more are worth counting again at once; fewer come with the next snapshot … */
const WORTH_A_ROUND = 16;
/** … unless some interval errs by more than this many times what it may. */
const MUCH = 1.2;

/** Whether some interval errs by more than this share of its rank, or two places. */
const errsBeyond = (ranked: Ranked, share: number): boolean => {
  const knots = knotsOf(ranked);
  return knots.some((high, index) => {
    const low = knots[index - 1];
    return low !== undefined && low.score >= 0 && boundOf(low, high) > Math.max(2, share * low.rank);
  });
};

/** Whether a first snapshot errs so much that it is worth counting again at better scores before anyone sees it. */
export const isCoarse = (ranked: Ranked, anchorsMax: number): boolean => {
  const { added } = planOf(ranked, anchorsMax);
  if (added.length === 0 || added.length > WORTH_A_ROUND) return added.length > 0;
  return errsBeyond(ranked, MUCH * toleranceOf(ranked.waiting + ranked.parked));
};

/**
 * So many times what it may can an interval of a later snapshot err by for a second or two, until new anchors come in
 * their turn: when all stand at its end that is 1.1 %, and with what its anchors are unsure of still below 1.5 %.
 */
const SHORTLY = 1.7;
/**
 * Whether a snapshot that goes on from another is not to be told as it is, and some more are counted at once. What
 * more anchors than there may be would have to mend is no reason.
 */
export const isPoor = (ranked: Weighed, anchorsMax: number): boolean => {
  const { anchors, ranks, unsure, waiting, parked } = ranked;
  const areUnsure = anchors.some((_, index) => isUnsure(unsure[index] ?? 0, ranks[index]!));
  if (areUnsure) return true;
  // Mostly the smallest tolerance is kept to, and nothing has to be planned to know it.
  if (!errsBeyond(ranked, SHORTLY * toleranceOf(waiting + parked))) return false;
  return errsBeyond(ranked, SHORTLY * planOf(ranked, anchorsMax).tolerance);
};

/**
 * Whether the numbers behind the last anchor hold so many gaps that their end becomes an anchor: until then those
 * who just joined are told as if all before them still stood there.
 */
export const needsTail = (ranked: Ranked): boolean => {
  const knots = knotsOf({ ...ranked, nextNumber: Number.NEGATIVE_INFINITY });
  const last = knots[knots.length - 1];
  const total = ranked.waiting + ranked.parked;
  if (last === undefined) return true;
  const gaps = ranked.nextNumber + 1 - last.score - (total - last.rank);
  return gaps > Math.max(1, toleranceOf(total) * total);
};
