// The simulator: some seeds of the scripts as they are, and each of eight defects put into a script on purpose must be
// found. test/slow/simulator.test.ts walks 1,000, `npm run fuzz` 10,000 fresh ones; ANTEROOM_SEED=<seed> with
// test/parts/room-model.test.ts runs one again.

import t from 'tap';
import type { Redis } from '../../kernel/redis.ts';
import * as scripts from '../../lua/room.ts';
import { walk, walkMany } from '../support/line-walk.ts';
import { seedOf } from '../support/random.ts';
import { startRedis } from '../support/redis.ts';

t.setTimeout(600_000);
const STEPS = 120;
/** The rarest of the defects below takes some 24. */
const SEEDS = 36;

t.test(`${SEEDS} walks of ${STEPS} random operations and faults: no rule is broken`, async (t) => {
  const { client } = await startRedis(t);
  const first = seedOf(t, 1);
  t.equal(await walkMany({ redis: client, first, count: SEEDS, steps: STEPS }), SEEDS);
});

type Defect = {
  what: string;
  script: 'promote' | 'join' | 'reap' | 'end' | 'claim' | 'restore' | 'recover';
  is: string;
  becomes: string;
};
const defects: Defect[] = [
  {
    what: 'the cap is not looked at',
    script: 'promote',
    is: 'math.min(math.floor(tokens / 60000), free, promoteMax)',
    becomes: 'math.min(math.floor(tokens / 60000), promoteMax)',
  },
  {
    what: 'a promotion costs no token',
    script: 'promote',
    is: 'tokens - n * 60000',
    becomes: 'tokens',
  },
  {
    what: 'a join does not see parked places',
    script: 'join',
    is: 'line[i] or parked[i]',
    becomes: 'line[i]',
  },
  {
    what: 'a second miss parks again',
    script: 'reap',
    is: "if before == '0' then",
    becomes: 'if true then',
  },
  {
    what: 'an ended visit is not finished',
    script: 'end',
    is: "redis.call('HSET', finishedKey, placeId, number)",
    becomes: "redis.call('HGET', finishedKey, placeId)",
  },
  {
    what: 'a place stands up again though its turn has passed',
    script: 'restore',
    is: 'if score <= tonumber(f[2]) then',
    becomes: 'if false then',
  },
  {
    what: 'numbers are given twice after a loss of data',
    script: 'recover',
    is: 'nextNumber + 1000000',
    becomes: 'nextNumber',
  },
  {
    what: 'whoever stands twice in a batch gets two numbers',
    script: 'join',
    is: 'if first[placeId] then',
    becomes: 'if false then',
  },
];

/** Walks in which Redis draws lots differ each time, so a defect may need more of them than it mostly does. */
const WITHIN_SEEDS = 400;

/** The same client with one script replaced; everything else is the product. */
const breakScript = (redis: Redis, defect: Defect): void => {
  const { name, source, keys } = scripts[defect.script];
  if (!source.includes(defect.is)) throw new Error(`${name} has no "${defect.is}"`);
  redis.defineCommand(`ar_${name.replace('.', '_')}`, {
    lua: source.replace(defect.is, defect.becomes),
    numberOfKeys: keys.length,
  });
};

for (const defect of defects)
  t.test(`a defect put in on purpose is found: ${defect.what}`, async (t) => {
    const { connect } = await startRedis(t);
    const client = await connect('broken');
    breakScript(client, defect);
    const first = seedOf(t, 1);
    for (let seed = first; seed < first + WITHIN_SEEDS; seed += 1)
      try {
        await walk(client, seed, STEPS);
      } catch (error) {
        t.pass(`after ${seed - first + 1} seeds: ${error instanceof Error ? error.message : String(error)}`);
        return;
      }
    t.fail(`not found in ${WITHIN_SEEDS} seeds from ${first} on`);
  });
