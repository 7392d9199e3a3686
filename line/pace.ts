// How fast the head of the line moves, measured at each snapshot: an average in which the last half minute counts
// most (longer where few go in, so that chance does not look like speed). Time in which the line could not move
// (suspended, not open, nobody waiting) says nothing about its speed and is left out.

/** `passed` places had left the head at `atMs`; `weight` from 0 (nothing seen) to 1 says how much is behind the speed. */
export type Pace = { atMs: number; passed: number; perMinute: number; weight: number };

const SHORTEST_MS = 30_000;
const LONGEST_MS = 300_000;
/** So many places should stand behind an average: chance is then a tenth of it. */
const PLACES = 100;

const windowMs = (perMinute: number): number =>
  Math.min(LONGEST_MS, Math.max(SHORTEST_MS, (PLACES * 60_000) / Math.max(1, perMinute)));

/** The pace a moment later. `moving`: whether the line could move since `before`. */
export const paceAfter = (
  before: Pace | undefined,
  now: { atMs: number; passed: number; moving: boolean },
): Pace => {
  const { atMs, passed } = now;
  if (before === undefined || passed < before.passed) return { atMs, passed, perMinute: 0, weight: 0 };
  const ms = atMs - before.atMs;
  if (ms <= 0 || !now.moving) return { ...before, atMs, passed };
  const keep = Math.exp(-ms / windowMs(before.perMinute));
  const seen = ((passed - before.passed) * 60_000) / ms;
  const weight = before.weight * keep + (1 - keep);
  return {
    atMs,
    passed,
    perMinute: (before.perMinute * before.weight * keep + seen * (1 - keep)) / weight,
    weight,
  };
};

/** As it stands in the room's hash; undefined for anything else. */
export const parsePace = (text: string | undefined): Pace | undefined => {
  const [atMs, passed, perMinute, weight] = (text ?? '').split(' ').map(Number);
  if (atMs === undefined || passed === undefined || perMinute === undefined || weight === undefined)
    return undefined;
  return [atMs, passed, perMinute, weight].every(Number.isFinite)
    ? { atMs, passed, perMinute, weight }
    : undefined;
};
export const paceText = ({ atMs, passed, perMinute, weight }: Pace): string =>
  `${atMs} ${passed} ${perMinute.toPrecision(6)} ${weight.toPrecision(4)}`;
