// The rate limits: the script alone with a clock of ours, then the two limiters one behind the other.

import t from 'tap';
import {
  addressBuckets,
  costs,
  createDebts,
  createLimits,
  createLocalLimiter,
} from '../../gateway/limits.ts';
import { createRoomLimit } from '../../gateway/room-limit.ts';
import { problemFrom } from '../../kernel/answer.ts';
import { type Clock, systemClock } from '../../kernel/clock.ts';
import { readConfig } from '../../kernel/config.ts';
import { parseRoomId } from '../../kernel/ids.ts';
import { limitKey } from '../../kernel/keys.ts';
import { createMetrics } from '../../kernel/metrics.ts';
import { type Buckets, bucketOf, takeAll } from '../../lua/limit.ts';
import { eventually } from '../support/eventually.ts';
import { startRedis } from '../support/redis.ts';
import { standing } from '../support/standing-clock.ts';

const server = await startRedis(t);
const redis = server.client;
const START_MS = 1_700_000_000_000;

// The time is the test's, but Redis forgets a full bucket by its own: so the rates are low, and no bucket of these is
// full again, by that clock, while a slow machine goes from one call to the next.
type Rate = { perSecond: number; burst: number };
let keys = 0;
const bucket = (rate: Rate, wide?: Rate, middle?: Rate) => {
  keys += 1;
  const at = (name: string, of: Rate) => ({ key: limitKey(`t${keys}`, name), bucket: bucketOf(of) });
  const buckets: Buckets = {
    narrow: at('narrow', rate),
    ...(middle === undefined ? {} : { middle: at('middle', middle) }),
    ...(wide === undefined ? {} : { wide: at('wide', wide) }),
  };
  return {
    buckets,
    at: (nowMs: number | '', cost = 1) => takeAll(redis, buckets, { nowMs, cost }),
  };
};

t.test('exactly the burst is taken at once, and the refusal says when to come back', async (t) => {
  const limit = bucket({ perSecond: 0.01, burst: 5 });
  for (let index = 0; index < 5; index++)
    t.same(await limit.at(START_MS), {
      outcome: 'taken',
      remaining: 4 - index,
      resetMs: (index + 1) * 100_000,
    });
  t.same(await limit.at(START_MS), { outcome: 'refused', bucket: 1, retryAfterMs: 100_000 });
  t.equal((await limit.at(START_MS + 99_999)).outcome, 'refused');
  t.equal((await limit.at(START_MS + 100_000)).outcome, 'taken', 'coming back when told works');
});

t.test('the sustained rate is exact', async (t) => {
  const limit = bucket({ perSecond: 0.05, burst: 3 });
  let taken = 0;
  for (let seconds = 0; seconds < 4000; seconds += 5)
    if ((await limit.at(START_MS + seconds * 1000)).outcome === 'taken') taken += 1;
  t.equal(taken, 3 + 4000 * 0.05 - 1, '200 of the rate, and the burst that was there at the start');
});

t.test('a cost takes that many, and one above the burst takes the whole bucket', async (t) => {
  const limit = bucket({ perSecond: 0.01, burst: 5 });
  t.match(await limit.at(START_MS, 3), { outcome: 'taken', remaining: 2 });
  t.match(await limit.at(START_MS, 3), { outcome: 'refused', retryAfterMs: 100_000 });
  t.match(await limit.at(START_MS + 10_000_000, 50), { outcome: 'taken', remaining: 0 });
});

t.test('a clock that steps back never blocks for longer than one window', async (t) => {
  const limit = bucket({ perSecond: 0.01, burst: 5 });
  await limit.at(START_MS + 3_600_000_000, 5);
  const answer = await limit.at(START_MS);
  t.match(answer, { outcome: 'refused' });
  t.ok('retryAfterMs' in answer && answer.retryAfterMs <= 500_000, 'not a thousand hours');
  t.match(await limit.at(START_MS + 500_000), { outcome: 'refused' }, 'still as if the window began now');
  await limit.at(START_MS + 600_000);
  const forward = bucket({ perSecond: 0.01, burst: 5 });
  await forward.at(START_MS, 5);
  t.match(
    await forward.at(START_MS + 3_600_000_000),
    { outcome: 'taken', remaining: 4 },
    'a jump fills it once',
  );
});

t.test('two buckets: all or nothing', async (t) => {
  const limit = bucket({ perSecond: 0.001, burst: 10 }, { perSecond: 0.001, burst: 3 });
  for (let index = 0; index < 3; index++) t.match(await limit.at(START_MS), { outcome: 'taken' });
  const before = await redis.get(limit.buckets.narrow.key);
  t.match(await limit.at(START_MS), { outcome: 'refused', bucket: 3 });
  t.equal(await redis.get(limit.buckets.narrow.key), before, 'the other bucket was not charged');
});

t.test(
  'three buckets: the one that is refused longest is named, and nothing is taken of the others',
  async (t) => {
    const limit = bucket(
      { perSecond: 0.001, burst: 10 },
      { perSecond: 0.0001, burst: 2 },
      { perSecond: 0.001, burst: 2 },
    );
    t.match(await limit.at(START_MS, 2), { outcome: 'taken', remaining: 0 });
    const { narrow, middle, wide } = limit.buckets;
    const stored = () => redis.mget(narrow.key, middle!.key, wide!.key);
    const before = await stored();
    t.match(await limit.at(START_MS), { outcome: 'refused', bucket: 3, retryAfterMs: 10_000_000 });
    t.same(await stored(), before);
  },
);

t.test('a hundred in parallel take exactly the burst', async (t) => {
  const limit = bucket({ perSecond: 0.001, burst: 40 });
  const answers = await Promise.all(Array.from({ length: 100 }, () => limit.at(START_MS)));
  t.equal(answers.filter((answer) => answer.outcome === 'taken').length, 40);
});

t.test("without a time it is Redis's, and an idle bucket vanishes", async (t) => {
  const limit = bucket({ perSecond: 1 / 3600, burst: 5 });
  t.match(await limit.at(''), { outcome: 'taken', remaining: 4 });
  const life = await redis.pttl(limit.buckets.narrow.key);
  t.ok(life > 0 && life <= 3_600_000, `gone in ${life} ms, when there is nothing to remember`);
  const quick = bucket({ perSecond: 10, burst: 5 });
  await quick.at('');
  await eventually('it is gone', async () => (await redis.exists(quick.buckets.narrow.key)) === 0);
});

t.test('the local limiter: exact at the burst, exact after it, bounded in memory', async (t) => {
  const local = createLocalLimiter(bucketOf({ perSecond: 10, burst: 5 }), 100);
  for (let index = 0; index < 5; index++) t.equal(local.take('a', 1, 0).outcome, 'taken');
  t.same(local.take('a', 1, 0), { outcome: 'refused', retryAfterMs: 100 });
  t.equal(local.take('b', 1, 0).outcome, 'taken', 'others are not concerned');
  let taken = 0;
  for (let ms = 1; ms <= 10_000; ms++) if (local.take('a', 1, ms).outcome === 'taken') taken += 1;
  t.equal(taken, 100, 'through many swaps of generations');
  for (let index = 0; index < 10_000; index++) local.take(`flood${index}`, 1, 10_000);
  t.ok(local.size() <= 200, `${local.size()} entries`);
});

/** One an hour: what a test has taken does not come back while it runs, here or in Redis. */
const SLOWLY = 1 / 3600;
const limitsOf = (
  rates: Partial<
    Record<
      'addressPerSecond' | 'addressBurst' | 'visitorBurst' | 'roomJoinsPerSecond' | 'insidePerSecond',
      number
    >
  > = {},
  clock: Clock = systemClock,
) => {
  const metrics = createMetrics({ processMetrics: false });
  const config = {
    ...{ addressPerSecond: SLOWLY, addressBurst: 20, visitorPerSecond: SLOWLY, visitorBurst: 5 },
    ...{ roomJoinsPerSecond: 100, insidePerSecond: 2, ...rates },
  };
  const limits = createLimits({ config, redis, clock, metrics });
  t.teardown(() => limits.stop());
  return { limits, metrics };
};
/** Scripts Redis has run so far. */
const scriptCalls = async (): Promise<number> =>
  Number(/cmdstat_evalsha:calls=(\d+)/.exec(await redis.info('commandstats'))?.[1] ?? 0);

t.test(
  'those inside have a limit of their own, by address, that never asks Redis and may be off',
  async (t) => {
    const before = await scriptCalls();
    const { limits, metrics } = limitsOf({}, standing);
    for (let index = 0; index < 20; index++) t.match(limits.inside('192.0.2.9'), { outcome: 'taken' });
    const refused = limits.inside('192.0.2.9');
    t.same(refused, { outcome: 'refused', retryAfterMs: 500, limit: 'inside' });
    t.match(limits.inside('192.0.2.10'), { outcome: 'taken' }, 'another address is not concerned');
    t.match(limits.shed({ address: '192.0.2.9', cost: 1 }), { outcome: 'taken' }, 'nor its strangers');
    for (let index = 0; index < 20; index++) limits.inside(`2001:db8::${index}`);
    t.match(limits.inside('2001:db8::ff'), { outcome: 'refused' }, 'a household of IPv6 is one');
    t.match(await metrics.text(), /anteroom_limited_total\{by="local"\} 2/);
    const off = limitsOf({ insidePerSecond: 0 }, standing).limits;
    for (let index = 0; index < 100; index++) t.match(off.inside('192.0.2.9'), { outcome: 'taken' });
    t.equal(await scriptCalls(), before);
  },
);

t.test('what one process let through counts in the other', async (t) => {
  const [one, two] = [limitsOf(), limitsOf()];
  let taken = 0;
  for (let index = 0; index < 30; index++)
    for (const { limits } of [one, two])
      if ((await limits.take({ address: '192.0.2.1', cost: 1 })).outcome === 'taken') taken += 1;
  t.ok(taken >= 20 && taken <= 22, `${taken} of a burst of 20 for both together`);
});

t.test(
  'the first request of an address costs the others nothing, and is charged with its second',
  async (t) => {
    const debts = createDebts(1000, 2);
    t.equal(debts.due('a', 1, 0), 0);
    t.equal(debts.due('a', 1, 1), 2);
    t.equal(debts.due('a', 3, 2), 3);
    t.equal(debts.due('b', 4, 3), 0);
    t.equal(debts.due('c', 1, 4), 0, 'a third address begins another generation');
    t.equal(debts.due('b', 1, 5), 5, 'and the one before is still known');
    t.equal(debts.due('a', 1, 5000), 0, 'after a window it is the first again');
    const { limits } = limitsOf({ addressBurst: 1 });
    t.match(await limits.take({ address: '192.0.2.77', cost: 1 }), { outcome: 'taken' });
    t.match(
      await limits.take({ address: '192.0.2.77', cost: 1 }),
      { outcome: 'refused' },
      'a burst of 1 is 1',
    );
    const before = await scriptCalls();
    for (let index = 1; index <= 200; index += 1)
      t.equal((await limits.take({ address: `198.18.7.${index}`, cost: 1 })).outcome, 'taken');
    t.equal(await scriptCalls(), before, 'a crowd of strangers asks Redis nothing');
  },
);

t.test('a visitor who floods is refused and does not use up the address', async (t) => {
  const { limits } = limitsOf();
  const address = '192.0.2.2';
  let refused = 0;
  for (let index = 0; index < 100; index++)
    if ((await limits.take({ address, visitorId: 'a:one', cost: 1 })).outcome === 'refused') refused += 1;
  t.equal(refused, 95, 'all but the burst');
  t.match(await limits.take({ address, visitorId: 'a:two', cost: 10 }), { outcome: 'taken' });
});

t.test('an IPv6 household is a /64 or a /56, and many of them are one /48', async (t) => {
  const { limits } = limitsOf({ addressBurst: 5 });
  const takenOf = async (addresses: string[]): Promise<number> => {
    let taken = 0;
    for (const address of addresses)
      if ((await limits.take({ address, cost: 1 })).outcome === 'taken') taken += 1;
    return taken;
  };
  const many = (of: (index: string) => string): string[] =>
    Array.from({ length: 60 }, (_, index) => of((index + 1).toString(16)));
  const household = await takenOf(many((index) => `2001:db8:1:1::${index}`));
  t.ok(household >= 5 && household <= 6, `${household} of a burst of 5`);
  const large = await takenOf(many((index) => `2001:db8:2:${index}::1`));
  t.ok(large >= 10 && large <= 13, `${large} of 2 × 5 in a /56`);
  const company = await takenOf(many((index) => `2001:db8:3:${index}00::1`));
  t.ok(company >= 20 && company <= 24, `${company} of 4 × 5 in a /48`);
});

t.test('a /24 of addresses that all ask for more is held at sixteen times one of them', async (t) => {
  const { limits } = limitsOf({ addressBurst: 3 });
  let taken = 0;
  for (let round = 0; round < 2; round += 1)
    for (let index = 1; index <= 50; index += 1)
      if ((await limits.take({ address: `198.51.77.${index}`, cost: 1 })).outcome === 'taken') taken += 1;
  // The first of each address is not charged before its second, and a refused one charges nothing.
  t.ok(taken >= 50 + 24 && taken < 50 + 40, `${taken} of 100`);
});

t.test('all buckets of an address stand in one slot', async (t) => {
  const own = bucketOf({ perSecond: 1, burst: 1 });
  const tagsOf = ({ narrow, middle, wide }: Buckets): Set<string> =>
    new Set([narrow, middle, wide].flatMap((some) => /\{.*\}/.exec(some?.key ?? '')?.[0] ?? []));
  t.same(tagsOf(addressBuckets('192.0.2.77', own)), new Set(['{192.0.2.0/24}']));
  t.same(tagsOf(addressBuckets('2001:db8:1:2:3::4', own)), new Set(['{2001:db8:1::/48}']));
});

t.test(
  '3,000 people behind one address get in with the default settings, while all of them ask',
  async (t) => {
    const metrics = createMetrics({ processMetrics: false });
    const limits = createLimits({ config: readConfig({}), redis, clock: standing, metrics });
    t.teardown(() => limits.stop());
    const address = '198.51.100.1';
    const room = parseRoomId('demo')!;
    const crowd = Array.from({ length: 3000 }, (_, index) => `a:fan${index}`);
    const got = async (ask: (visitorId: string) => Promise<{ outcome: string }>): Promise<number> =>
      (await Promise.all(crowd.map(ask))).filter(({ outcome }) => outcome === 'taken').length;
    const seen = await got(async () => limits.page(address));
    const joined = await got(async () => {
      const taken = await limits.take({ address, cost: costs.join });
      return taken.outcome === 'taken' ? limits.joinOf(room) : taken;
    });
    const polls = [];
    for (let round = 0; round < 5; round += 1)
      polls.push(await got((visitorId) => limits.takeKnown({ address, visitorId, cost: costs.status })));
    const claimed = await got((visitorId) => limits.takeKnown({ address, visitorId, cost: costs.claim }));
    for (const [what, count] of Object.entries({ seen, joined, polled: Math.min(...polls), claimed }))
      t.ok(count >= 2970, `${what}: ${count} of 3,000`);
    t.equal((await limits.take({ address, cost: 3000 })).outcome, 'refused', 'and a limit there is');
  },
);

t.test('a flood from one address is shed without a word to Redis, at least 95 in 100 of it', async (t) => {
  const { limits, metrics } = limitsOf();
  const before = await scriptCalls();
  const floods = 5000;
  let taken = 0;
  for (let index = 0; index < floods; index += 1)
    if ((await limits.take({ address: '203.0.113.5', cost: costs.join })).outcome === 'taken') taken += 1;
  const asked = (await scriptCalls()) - before;
  t.ok(asked <= floods * 0.05, `${asked} calls of Redis for ${floods} requests`);
  t.ok(taken <= 60, `${taken} of a burst of 20`);
  t.match(await metrics.text(), /anteroom_limited_total\{by="local"\} 4\d{3}/);
});

t.test('a known visitor uses up none of what strangers behind the same address share', async (t) => {
  const { limits } = limitsOf({ visitorBurst: 1000 }, standing);
  const address = '203.0.113.9';
  for (let index = 0; index < 300; index += 1)
    t.match(await limits.takeKnown({ address, visitorId: 'a:here', cost: 1 }), { outcome: 'taken' });
  t.match(await limits.take({ address, cost: 1 }), { outcome: 'taken' });
  let refused = 0;
  for (let index = 0; index < 100; index += 1)
    if ((await limits.takeKnown({ address, visitorId: 'a:here', cost: 1 })).outcome === 'refused')
      refused += 1;
  t.ok(refused >= 70, `and there is an end to it: ${refused} of 100 beyond 16 × 20`);
  t.match(await limits.takeKnown({ address: '203.0.113.10', visitorId: 'a:flood', cost: 1000 }), {
    outcome: 'taken',
  });
  t.match(await limits.takeKnown({ address: '203.0.113.10', visitorId: 'a:flood', cost: 1 }), {
    outcome: 'refused',
    limit: 'visitor',
  });
});

t.test('pages have a limit of their own', async (t) => {
  const { limits } = limitsOf({}, standing);
  let taken = 0;
  for (let index = 0; index < 200; index += 1)
    if (limits.page('203.0.113.20').outcome === 'taken') taken += 1;
  t.ok(taken >= 80 && taken <= 82, `${taken} of 4 × 20`);
  t.match(await limits.take({ address: '203.0.113.20', cost: 1 }), { outcome: 'taken' });
});

t.test('the joins of a room are limited, those of another room beside it are not', async (t) => {
  const room = parseRoomId('stormed')!;
  const { limits, metrics } = limitsOf({ roomJoinsPerSecond: 60 }, standing);
  let taken = 0;
  for (let index = 0; index < 1000; index += 1) if (limits.joinOf(room).outcome === 'taken') taken += 1;
  t.equal(taken, 60);
  t.match(await metrics.text(), /anteroom_limited_total\{by="room"\} 940/);
  t.match(limits.joinOf(parseRoomId('quiet')!), { outcome: 'taken' }, 'another room is not concerned');
  const { limits: later } = limitsOf({ roomJoinsPerSecond: 60 });
  // So many at once that none comes back meanwhile, if not at the first attempt then at another.
  await eventually('it is shut', () => {
    for (let index = 0; index < 10_000; index += 1) if (later.joinOf(room).outcome === 'refused') return true;
    return false;
  });
  await eventually('it opens again', () => later.joinOf(room).outcome === 'taken');
});

t.test('of the joins of a room each gateway hears what the others have let through', async (t) => {
  const room = parseRoomId('shared')!;
  // One a minute comes back: far less than is taken here, however slow the machine.
  const burst = 10_000;
  const bucket = bucketOf({ perSecond: 1 / 60, burst });
  const [one, two] = [0, 1].map(() => {
    const metrics = createMetrics({ processMetrics: false });
    const limit = createRoomLimit({
      ...{ bucket, redis, metrics, clock: standing },
      local: createLocalLimiter(bucket),
    });
    t.teardown(() => limit.stop());
    return limit;
  });
  let first = 0;
  while (one!.take(room).outcome === 'taken') first += 1;
  t.equal(first, burst);
  await eventually('Redis has been told', async () => (await redis.exists(limitKey(room, 'joins'))) === 1);
  // The second has used nothing of its own yet; what it hears of is what the first has taken.
  let second = 0;
  for (; second < 30; second += 1) t.equal(two!.take(room).outcome, 'taken');
  await eventually('the second has heard', () => {
    if (two!.take(room).outcome === 'refused') return true;
    second += 1;
    return false;
  });
  t.ok(second < burst, `${second}, not a burst of its own`);
  t.match(two!.take(parseRoomId('calm')!), { outcome: 'taken' }, 'another room is not concerned');
});

t.test('a refusal says which limit, how much it allows and when to come back', async (t) => {
  const { limits } = limitsOf({ addressPerSecond: 2, addressBurst: 20 });
  const refused = limits.refusal({ outcome: 'refused', limit: 'address', retryAfterMs: 2500 });
  const headers = new Map(problemFrom(refused).headers);
  t.equal(headers.get('ratelimit-policy'), '"address";q=20;w=10');
  t.equal(headers.get('ratelimit'), '"address";r=0;t=3');
  t.equal(headers.get('retry-after'), '3');
  const room = limits.refusal({ outcome: 'refused', limit: 'room', retryAfterMs: 1 });
  t.equal(new Map(problemFrom(room).headers).get('ratelimit-policy'), '"room";q=100;w=1');
});

t.test('a clock that steps back at a local limit blocks for no longer than one window', async (t) => {
  const local = createLocalLimiter(bucketOf({ perSecond: 10, burst: 5 }), 100);
  for (let index = 0; index < 5; index += 1) local.take('a', 1, 3_600_000);
  const answer = local.take('a', 1, 0);
  t.ok(answer.outcome === 'refused' && answer.retryAfterMs <= 500, JSON.stringify(answer));
  t.same(local.look('a', 1, 0), answer, 'a look says the same');
});

t.test('Redis gone: the local limits decide alone, and are counted', async (t) => {
  await server.kill();
  const { limits, metrics } = limitsOf({}, standing);
  let taken = 0;
  for (let index = 0; index < 40; index++)
    if ((await limits.take({ address: '192.0.2.9', cost: 1 })).outcome === 'taken') taken += 1;
  t.ok(
    taken >= 20 && taken <= 22,
    `${taken}: nobody is sent away for our fault, and a flood is still a flood`,
  );
  t.match(await metrics.text(), /anteroom_limits_local_total (?:19|2\d)/);
  t.match(await limits.takeKnown({ address: '192.0.2.9', visitorId: 'a:known', cost: 1 }), {
    outcome: 'taken',
  });
  const room = parseRoomId('alone')!;
  for (let index = 0; index < 100; index += 1) limits.joinOf(room);
  t.match(limits.joinOf(room), { outcome: 'refused', limit: 'room' }, 'of a room, too');
  await limits.stop();
  t.match(
    await metrics.text(),
    /anteroom_limits_local_total 1\d\d/,
    'what was owed is forgotten, and counted',
  );
});
