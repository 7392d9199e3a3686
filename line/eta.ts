// How long it may take, as an honest range: half of all are in before the first, nine in ten before the second. The
// middle is people ahead over the measured speed, the far end allows for chance and for a speed that changes; both
// carry a factor that is learnt from how earlier estimates held (line/calibration.ts).

import { burstOf } from './settings.ts';
import type { Snapshot } from './snapshot.ts';

export type EtaSeconds = readonly [p50: number, p90: number];

export type Calibration = {
  /** What the plain middle and the plain far end are multiplied with. */
  p50Factor: number;
  p90Factor: number;
  /** Of `total` estimates so many held: the turn came before p90. */
  right: number;
  total: number;
};
export const initialCalibration: Calibration = { p50Factor: 1, p90Factor: 1.35, right: 0, total: 0 };

/** Speed in people a minute: what was measured, or what the settings promise while too little has been seen. */
export const speedOf = (snapshot: Snapshot): number => {
  const { settings, perMinute, free } = snapshot;
  if (perMinute > 0) return perMinute;
  // Nothing measured: with free slots the rate decides; without, sessions running out do.
  const turnover = (settings.totalActiveUsers * 60) / settings.sessionSeconds;
  return free > 0 ? settings.newUsersPerMinute : Math.max(1, Math.min(settings.newUsersPerMinute, turnover));
};

/** A counting process spreads by the root of what it counts; 1.3 of them is the ninth part in ten. */
const SPREAD = 1.3;

/**
 * For someone with `ahead` people before them; undefined while the line does not move at all (suspended, not open)
 * and nothing can be promised. Parked places ahead cost no time: the head has passed them.
 */
export const etaOf = (snapshot: Snapshot, ahead: number, moving: boolean): EtaSeconds | undefined => {
  if (!moving) return undefined;
  const { p50Factor, p90Factor } = snapshot.calibration;
  const burst = snapshot.free > 0 ? Math.min(burstOf(snapshot.settings), snapshot.free) : 0;
  const people = Math.max(0, ahead + 1 - snapshot.parkedBefore - burst);
  const perSecond = speedOf(snapshot) / 60;
  const p50 = Math.ceil((people * p50Factor) / perSecond);
  const p90 = Math.ceil((people * p90Factor + SPREAD * Math.sqrt(people)) / perSecond);
  return [p50, Math.max(p50, p90)];
};
