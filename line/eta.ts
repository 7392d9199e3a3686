// How long it may take, as an honest range. The middle is people ahead over the measured speed; the far end
// allows for the spread of a counting process (two standard deviations) and for a speed that drops by a quarter.

import { burstOf } from './settings.ts';
import type { Snapshot } from './snapshot.ts';

export type EtaSeconds = readonly [p50: number, p90: number];

/**
 * Speed in people a minute: what was measured, or what the settings promise while too little has been seen, and
 * never more than the rate allows.
 */
export const speedOf = (snapshot: Snapshot): number => {
  const { settings, perMinute, free } = snapshot;
  if (perMinute > 0) return perMinute;
  // Nothing measured: with free slots the rate decides; without, sessions running out do.
  const turnover = (settings.totalActiveUsers * 60) / settings.sessionSeconds;
  return free > 0 ? settings.newUsersPerMinute : Math.max(1, Math.min(settings.newUsersPerMinute, turnover));
};

/** Undefined while the line does not move at all (suspended, not open) and nothing can be promised. */
export const etaOf = (snapshot: Snapshot, ahead: number, moving: boolean): EtaSeconds | undefined => {
  if (!moving) return undefined;
  const burst = snapshot.free > 0 ? Math.min(burstOf(snapshot.settings), snapshot.free) : 0;
  const people = Math.max(0, ahead + 1 - burst);
  const perSecond = speedOf(snapshot) / 60;
  const p50 = people / perSecond;
  const p90 = (people + 2 * Math.sqrt(people)) / (perSecond * 0.8);
  return [Math.ceil(p50), Math.ceil(p90)];
};
