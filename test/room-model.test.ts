// The rules of the line, kept by the scripts through random operations and faults (support/line-walk.ts). The seed is
// printed; ANTEROOM_SEED runs one again, ANTEROOM_SEEDS says how many.

import t from 'tap';
import { walkMany } from './support/line-walk.ts';
import { startRedis } from './support/redis.ts';

t.setTimeout(7_200_000);
const STEPS = 120;

t.test('the scripts keep the rules of the line through random operations and faults', async (t) => {
  const { client } = await startRedis(t);
  const given = process.env.ANTEROOM_SEED;
  const count = given === undefined ? Number(process.env.ANTEROOM_SEEDS ?? 30) : 1;
  const first = Number(given ?? Math.floor(Math.random() * 1_000_000));
  t.comment(`first seed ${first}`);
  t.equal(await walkMany({ redis: client, first, count, steps: STEPS }), count, `${count} walks`);
});
