// The rules of the line, kept by the scripts through random operations and faults (support/line-walk.ts).
// ANTEROOM_SEED=<seed> runs one walk again, ANTEROOM_SEEDS says how many follow one another.

import t from 'tap';
import { walkMany } from '../support/line-walk.ts';
import { seedOf } from '../support/random.ts';
import { startRedis } from '../support/redis.ts';

t.setTimeout(7_200_000);
const STEPS = 120;

t.test('the scripts keep the rules of the line through random operations and faults', async (t) => {
  const { client } = await startRedis(t);
  const isOneAgain = (process.env.ANTEROOM_SEED ?? '') !== '';
  const count = Number(process.env.ANTEROOM_SEEDS ?? (isOneAgain ? 1 : 30));
  // Beyond those that test/parts/simulator.test.ts walks.
  const first = seedOf(t, 10_001);
  t.equal(await walkMany({ redis: client, first, count, steps: STEPS }), count, `${count} walks`);
});
