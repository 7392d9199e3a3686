// Q17 at length (test/system/admission.test.ts): 200,000 ghosts stand before 10,000 people. ANTEROOM_LUMP is another
// number of ghosts.

import t from 'tap';
import { parseRoomId } from '../../kernel/ids.ts';
import { runLumpSale } from '../support/ghost-sale.ts';
import { random, seedOf } from '../support/random.ts';
import { startRedis } from '../support/redis.ts';

t.test('Q17: a lump of ghosts at the head keeps the people behind it waiting for seconds only', async (t) => {
  const dice = random(seedOf(t, 1));
  const { client: redis } = await startRedis(t);
  const lump = Number(process.env.ANTEROOM_LUMP ?? 200_000);
  const done = await runLumpSale({
    redis,
    room: parseRoomId('lump')!,
    lump,
    people: 10_000,
    minutes: 30,
    dice,
  });
  t.comment(JSON.stringify(done));
  t.ok(done.use >= 0.95, `use ${(done.use * 100).toFixed(2)} %`);
  t.ok(done.examinedMost <= 500, `a call examined ${done.examinedMost} places`);
});
