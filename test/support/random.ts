// Random choices that can be had again: a small seeded generator (mulberry32, public domain), and where its seed comes
// from.

/**
 * The seed of a test's choices, told in its output: ANTEROOM_SEED if that is set, so that a run can be had again; a
 * fresh one below 2 ** 31 where ANTEROOM_FUZZ is "on", as `npm run fuzz` sets it; otherwise `fixed`, so that
 * `npm test` chooses the same each time. Sockets, processes and Redis's own lots (ZRANDMEMBER) follow no seed: a test
 * in which they take part must hold whatever they do.
 */
export const seedOf = (t: { comment(text: string): void }, fixed: number): number => {
  const { ANTEROOM_SEED: given = '', ANTEROOM_FUZZ: fuzz } = process.env;
  const ours = fuzz === 'on' ? Math.floor(Math.random() * 2 ** 31) : fixed;
  const seed = given === '' ? ours : Number(given);
  if (!Number.isInteger(seed) || seed < 0) throw new Error('ANTEROOM_SEED must be a whole number');
  t.comment(`ANTEROOM_SEED=${seed}`);
  return seed;
};

export const random = (seed: number) => {
  let state = seed >>> 0;
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  return {
    next,
    /** A whole number from 0 to below `below`. */
    below: (below: number): number => Math.floor(next() * below),
    pick: <T>(from: readonly T[]): T => from[Math.floor(next() * from.length)]!,
  };
};
