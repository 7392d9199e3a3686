// Sales of every kind in seconds of simulated time, to see whether estimates of waiting times hold: the rules of
// admission (token bucket, cap, claims, no-shows, sessions of random length) over a line of numbers, measured by the
// same pure functions the dispatcher uses. No Redis, no clock.

import { type Estimate, EVERY_MS, estimateNow, OPEN_MAX, settleEstimates } from '../../line/calibration.ts';
import type { Calibration } from '../../line/eta.ts';
import { defaultSettings, type Settings } from '../../line/settings.ts';
import { MeasuredLine } from './measured-line.ts';
import type { random } from './random.ts';

export type Sale = {
  places: number;
  settings: Partial<Settings>;
  /** Share of the promoted who never claim. */
  noShows: number;
  /** Mean length of a session, in seconds; lengths are exponential. */
  sessionSeconds: number;
  joinsPerSecond: number;
  /** Share of those waiting who leave in a second. */
  leaving: number;
  /** What operators do, at which second. */
  changes: readonly { atSecond: number; settings: Partial<Settings> }[];
};

export type Settled = { total: number; right: number; late50: number; p50Errors: number[] };

/** Runs a sale to its end or for `secondsMax`; `calibration` is what the room had learnt before, and is returned. */
export const runSale = (
  sale: Sale,
  dice: ReturnType<typeof random>,
  from: Calibration,
  secondsMax: number,
): Settled & { calibration: Calibration } => {
  const line = new MeasuredLine();
  line.settings = { ...defaultSettings, ...sale.settings };
  line.join(sale.places);
  const ends: number[][] = [];
  const at = (second: number): number[] => (ends[second] ??= []);
  let tokens = 0;
  let calibration = from;
  let open: (Estimate & { madeAtMs: number })[] = [];
  let written = dice.below(1000);
  const settled: Settled = { total: 0, right: 0, late50: 0, p50Errors: [] };
  for (let second = 1; second <= secondsMax && line.waiting.length > 0; second += 1) {
    for (const change of sale.changes)
      if (change.atSecond === second) line.settings = { ...line.settings, ...change.settings };
    const { settings } = line;
    for (const kind of ends[second] ?? []) {
      line[kind === 0 ? 'promoted' : 'active'] -= 1;
      if (kind === 0) tokens += 1;
    }
    const burst = Math.max(1, Math.ceil(settings.newUsersPerMinute / 60));
    tokens = Math.min(burst, tokens + settings.newUsersPerMinute / 60);
    const free = settings.totalActiveUsers - line.promoted - line.active;
    const count = settings.suspended ? 0 : Math.max(0, Math.min(Math.floor(tokens), free));
    const gone = line.waiting.splice(0, count);
    tokens -= gone.length;
    line.passedTotal += gone.length;
    line.head = gone.at(-1) ?? line.head;
    for (const _ of gone) {
      if (dice.next() < sale.noShows) {
        line.promoted += 1;
        at(second + settings.claimSeconds).push(0);
      } else {
        line.active += 1;
        const stays = Math.max(1, Math.round(-Math.log(1 - dice.next()) * sale.sessionSeconds));
        at(second + Math.min(stays, settings.sessionSeconds)).push(1);
      }
    }
    if (sale.leaving > 0) line.waiting = line.waiting.filter(() => dice.next() > sale.leaving);
    const joins = Math.floor(sale.joinsPerSecond + dice.next());
    line.join(joins);
    const { right, total, p50Factor, p90Factor } = calibration;
    line.fields.set('etaP50Factor', String(p50Factor)).set('etaP90Factor', String(p90Factor));
    line.fields.set('etaRight', String(right)).set('etaTotal', String(total));
    const snapshot = line.survey(second * 1000);
    const before = new Map(open.map((estimate) => [estimate.score, estimate]));
    const now = settleEstimates(open, snapshot, calibration);
    const stillOpen = new Set(now.open.map(({ score }) => score));
    for (const estimate of open)
      if (!stillOpen.has(estimate.score) && line.head >= estimate.score) {
        const { madeAtMs, p50AtMs } = before.get(estimate.score)!;
        settled.p50Errors.push((second * 1000 - madeAtMs) / (p50AtMs - madeAtMs));
      }
    settled.total += now.calibration.total - calibration.total;
    settled.right += now.calibration.right - calibration.right;
    calibration = now.calibration;
    open = now.open.map((estimate) => ({ ...before.get(estimate.score)!, ...estimate }));
    if ((second * 1000) % EVERY_MS === 0 && open.length < OPEN_MAX) {
      const estimate = estimateNow(snapshot, written);
      written += 1;
      if (estimate !== undefined && !before.has(estimate.score))
        open.push({ ...estimate, madeAtMs: second * 1000 });
    }
  }
  return { ...settled, calibration };
};
