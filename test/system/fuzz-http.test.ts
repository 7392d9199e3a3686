// Short runs of the fuzzer of request bytes (`npm run fuzz:http` is the long one), straight and behind the proxies
// people have. The seed is fixed, so that what is sent is the same each time; it is printed, and one case of it can be
// sent again by its number.

import t from 'tap';
import { startFuzz, WAYS } from '../fuzz/run.ts';

t.setTimeout(900_000);

const SEED = 20_261_121;
const CASES = { straight: 1500, nginx: 500, haproxy: 400 };

t.test('damaged requests crash nothing, wait for nothing and are never read in another way', async (t) => {
  t.comment(`seed ${SEED}`);
  const { run } = await startFuzz(t, (text) => t.comment(text));
  for (const way of WAYS)
    await t.test(way === 'straight' ? 'straight' : `behind ${way}`, async (t) => {
      const tally = await run({ way, until: { cases: CASES[way] }, seed: SEED });
      t.equal(tally.crashes, 0, 'crashes');
      t.equal(tally.hangs, 0, 'hangs');
      t.equal(tally.misread, 0, 'misread');
      t.ok(tally.requests > 100, `${tally.requests} whole requests were sent`);
      t.ok(tally.proxied > 10, `${tally.proxied} came through to the origin`);
    });
});
