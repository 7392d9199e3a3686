// A short run of the fuzzer of request bytes (`npm run fuzz:http` is the long one). The seed is fixed, so that what is
// sent is the same each time; it is printed, and one case of it can be sent again by its number.

import t from 'tap';
import { runFuzz } from '../fuzz/run.ts';

t.setTimeout(120_000);

const SEED = 20_261_121;

t.test('damaged requests crash nothing, wait for nothing and are never read in another way', async (t) => {
  t.comment(`seed ${SEED}`);
  const tally = await runFuzz(t, { seconds: 5, seed: SEED, say: (text) => t.comment(text) });
  t.equal(tally.crashes, 0, 'crashes');
  t.equal(tally.hangs, 0, 'hangs');
  t.equal(tally.misread, 0, 'misread');
  t.ok(tally.requests > 100, `${tally.requests} whole requests were sent`);
  t.ok(tally.proxied > 10, `${tally.proxied} came through to the origin`);
});
