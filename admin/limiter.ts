// Slows down who guesses tokens: per address, ten failures at once and then one in six seconds. Tokens have 256
// random bits, so this keeps the log and the database quiet rather than the door shut; it is local and small.

import type { Clock } from '../kernel/clock.ts';

const FAILURES_MAX = 10;
const REFILL_MS = 6000;
/** Addresses remembered; with more, the longest quiet is forgotten first. */
const ADDRESSES_MAX = 5000;

export type FailureLimiter = {
  /** Whether this address must wait before its next try. */
  isFull(address: string): boolean;
  failed(address: string): void;
};

export const createFailureLimiter = (clock: Clock): FailureLimiter => {
  /** Address → the moment its bucket is whole again; in the order of the last failure. */
  const wholeAtMs = new Map<string, number>();
  const debtMs = (address: string): number =>
    Math.max(0, (wholeAtMs.get(address) ?? 0) - clock.monotonicMs());
  return {
    isFull: (address) => debtMs(address) > (FAILURES_MAX - 1) * REFILL_MS,
    failed(address) {
      const until = clock.monotonicMs() + debtMs(address) + REFILL_MS;
      wholeAtMs.delete(address);
      wholeAtMs.set(address, until);
      if (wholeAtMs.size > ADDRESSES_MAX)
        for (const oldest of wholeAtMs.keys()) {
          wholeAtMs.delete(oldest);
          break;
        }
    },
  };
};
