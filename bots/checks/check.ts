// A check looks at the facts and says what it found, in words that may be shown to anyone. It knows no weights:
// those are rules, and rules are data.

import type { Facts } from '../facts.ts';

export type Family = 'agent' | 'headers' | 'rate';
export type Check = {
  id: string;
  family: Family;
  /** What was found, as a sentence; undefined for nothing. */
  find(facts: Facts, threshold: number): string | undefined;
};
