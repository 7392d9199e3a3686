// How good the estimates of waiting times are, and what is learnt from it. Whoever takes the snapshots writes down
// now and then what somebody at a score would be told, and looks later when the head passed that score. The factors
// of line/eta.ts then move a little: the far end up by nine parts when it was too early and down by one part when it
// held, so that in the long run it holds nine times in ten whatever the sale does; the middle likewise for a half
// (adaptive conformal inference, Gibbs and Candès 2021). Pure: the dispatcher keeps the open ones, Redis the factors.

import { type Calibration, etaOf } from './eta.ts';
import { aheadOf } from './position.ts';
import { gateStateOf, type Snapshot } from './snapshot.ts';

/** What somebody at a score was told. `is50Known`: whether the middle has been counted. */
export type Estimate = { score: number; p50AtMs: number; p90AtMs: number; is50Known: boolean };

export const OPEN_MAX = 200;
export const EVERY_MS = 3000;
/** Shorter waits than this are told as "less than a minute" and end between two snapshots. */
const SHORTEST_SECONDS = 5;
const STEP_90 = 0.04;
const STEP_50 = 0.02;
const FACTOR_MIN = 0.3;
const FACTOR_MAX = 10;
/** Steps of a golden ratio fall evenly wherever one stops. */
const GOLDEN = 0.618_033_988_749_895;

/** The score somebody may have at share `u` of the line, with as many near the head as there are far back. */
const scoreAt = (snapshot: Snapshot, u: number): number => {
  const { first, anchors, nextNumber } = snapshot;
  const head = first[0] ?? nextNumber;
  if (head >= 0) return Math.floor(head + Math.max(1, nextNumber - head) ** u);
  const known = [...first, ...anchors.filter((score) => score <= nextNumber)];
  return known[Math.floor(u * known.length)] ?? nextNumber;
};

/** What to write down now; `count` is how many have been written down before. */
export const estimateNow = (snapshot: Snapshot, count: number): Estimate | undefined => {
  if (snapshot.waiting === 0 || gateStateOf(snapshot, snapshot.atMs) !== 'open') return undefined;
  const score = scoreAt(snapshot, (count * GOLDEN) % 1);
  const eta = etaOf(snapshot, aheadOf(snapshot, score), true);
  if (eta === undefined || eta[0] < SHORTEST_SECONDS || score <= snapshot.head) return undefined;
  const [p50, p90] = eta;
  return {
    score,
    p50AtMs: snapshot.atMs + p50 * 1000,
    p90AtMs: snapshot.atMs + p90 * 1000,
    is50Known: false,
  };
};

const moved = (factor: number, by: number): number =>
  Math.min(FACTOR_MAX, Math.max(FACTOR_MIN, factor * Math.exp(by)));

/**
 * What the open estimates say at this snapshot: those that are known are counted and dropped. While the line is kept
 * (suspended, closed) no time is told, so what was told before is withdrawn.
 */
export const settleEstimates = (
  open: readonly Estimate[],
  snapshot: Snapshot,
  from: Calibration,
): { open: Estimate[]; calibration: Calibration } => {
  if (gateStateOf(snapshot, snapshot.atMs) !== 'open') return { open: [], calibration: from };
  const calibration = { ...from };
  const left: Estimate[] = [];
  for (const estimate of open) {
    const { atMs } = snapshot;
    const isPassed = snapshot.head >= estimate.score;
    const isLate50 = atMs > estimate.p50AtMs;
    if (!estimate.is50Known && (isPassed || isLate50))
      calibration.p50Factor = moved(calibration.p50Factor, isLate50 ? STEP_50 / 2 : -STEP_50 / 2);
    const isLate90 = atMs > estimate.p90AtMs;
    if (!isPassed && !isLate90) {
      left.push({ ...estimate, is50Known: estimate.is50Known || isLate50 });
      continue;
    }
    calibration.p90Factor = moved(calibration.p90Factor, STEP_90 * (isLate90 ? 0.9 : -0.1));
    calibration.total += 1;
    if (!isLate90) calibration.right += 1;
  }
  return { open: left, calibration };
};
