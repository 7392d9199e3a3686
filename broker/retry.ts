// How long a stream waits before it comes again: by lot, so that those whom one broker lost do not all come at once to
// the next, and short enough that everybody is back within ten seconds.

import { type Chance, systemChance } from '../kernel/clock.ts';

const RETRY_MS = 1000;
const RETRY_SPREAD_MS = 3000;

export const retryMs = (chance: Chance = systemChance): number =>
  Math.round(RETRY_MS + chance() * RETRY_SPREAD_MS);
