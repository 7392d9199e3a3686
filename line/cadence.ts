// How often someone is told. Near the turn about once a second, far back every half minute: the page moves
// between updates by itself, because each message carries the speed. Someone waiting must cost almost nothing.

const NEAR_MS = 1000;
const FAR_MS = 30_000;

/** Milliseconds to the next position message for someone whose turn is `etaSeconds` away (undefined: unknown). */
export const cadenceMs = (etaSeconds: number | undefined): number => {
  if (etaSeconds === undefined) return 10_000;
  if (etaSeconds <= 60) return NEAR_MS;
  // A fortieth of the wait: at ten minutes every 15 s, from twenty minutes on every 30 s.
  return Math.min(FAR_MS, Math.max(NEAR_MS, (etaSeconds * 1000) / 40));
};

/** Polling costs a request, so it is slower than a stream, but never slower than half of the time to claim. */
export const pollAfterMs = (etaSeconds: number | undefined, claimSeconds: number): number => {
  const longest = Math.min(FAR_MS, (claimSeconds * 1000) / 2);
  if (etaSeconds === undefined) return Math.min(10_000, longest);
  return Math.round(Math.min(longest, Math.max(2000, (etaSeconds * 1000) / 20)));
};
