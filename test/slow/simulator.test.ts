// The simulator at length (test/parts/simulator.test.ts): fixed seeds, so that a failure is there again.

import t from 'tap';
import { walkMany } from '../support/line-walk.ts';
import { seedOf } from '../support/random.ts';
import { startRedis } from '../support/redis.ts';

t.setTimeout(1_200_000);
const STEPS = 120;
const SEEDS = 1000;

t.test(`${SEEDS} walks of ${STEPS} random operations and faults: no rule is broken`, async (t) => {
  const { client } = await startRedis(t);
  const first = seedOf(t, 1);
  t.equal(await walkMany({ redis: client, first, count: SEEDS, steps: STEPS }), SEEDS);
});
