// How often someone is told. Near the turn about once a second, far back every 25 s: the page moves between updates
// by itself, because each message carries the speed. Someone waiting must cost almost nothing.

const NEAR_MS = 1000;
/**
 * Also the longest silence of any stream. Proxies give a silent connection up after 30 to 60 s (nginx: 60 by default),
 * and a peer that has died is noticed by writing to it; a position said this often makes any other heartbeat needless.
 */
export const HEARTBEAT_MS = 25_000;
const UNKNOWN_MS = 10_000;

/** Milliseconds to the next position message for someone whose turn is `etaSeconds` away (undefined: unknown). */
export const cadenceMs = (etaSeconds: number | undefined): number => {
  if (etaSeconds === undefined) return UNKNOWN_MS;
  if (etaSeconds <= 60) return NEAR_MS;
  // A fortieth of the wait: at ten minutes every 15 s, from some seventeen minutes on every 25 s.
  return Math.min(HEARTBEAT_MS, Math.max(NEAR_MS, (etaSeconds * 1000) / 40));
};

/**
 * When the next message goes out that was announced in `nextMs`: never later than said, and by lot up to a tenth
 * earlier, so that those who are told in one instant drift apart. `chance` is from 0 to 1.
 */
export const spreadMs = (nextMs: number, chance: number): number => nextMs * (0.9 + 0.1 * chance);

/**
 * The same after a moment that was one moment for many (a broker came back, the gate has changed): anywhere within the
 * mean pause, so that their next messages do not make one wave every 25 s for the rest of the hour.
 */
export const firstSpreadMs = (nextMs: number, chance: number): number => nextMs * 0.95 * chance;

/** Polls of an overloaded process may be this far apart, where the turn is at least four times as far away. */
const OVERLOADED_MS = 120_000;
const LONGEST_MS = 30_000;

/**
 * Polling costs a request, so it is slower than a stream, but never slower than half of the time to claim. Each level
 * of overload (0 to 3) doubles it; then those far back may be asked to wait for longer than a claim, because their turn
 * cannot come so soon.
 */
export const pollAfterMs = (etaSeconds: number | undefined, claimSeconds: number, level = 0): number => {
  const longest = Math.min(LONGEST_MS, (claimSeconds * 1000) / 2);
  const plain = etaSeconds === undefined ? 10_000 : Math.max(2000, (etaSeconds * 1000) / 20);
  const farMs = level === 0 || etaSeconds === undefined ? 0 : Math.min(OVERLOADED_MS, etaSeconds * 250);
  return Math.round(Math.min(Math.max(longest, farMs), plain * 2 ** level));
};
