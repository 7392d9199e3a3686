// The rate limits: the script alone with a clock of ours, then the two limiters one behind the other.

import t from 'tap';
import { createDebts, createLimits, createLocalLimiter } from '../gateway/limits.ts';
import { systemClock } from '../kernel/clock.ts';
import { limitKey } from '../kernel/keys.ts';
import { createMetrics } from '../kernel/metrics.ts';
import { bucketOf, take } from '../lua/limit.ts';
import { startRedis } from './support/redis.ts';

const server = await startRedis(t);
const redis = server.client;
const START_MS = 1_700_000_000_000;

let keys = 0;
const bucket = (rate: { perSecond: number; burst: number }, wide?: { perSecond: number; burst: number }) => {
  keys += 1;
  const names = { limit: limitKey(`t${keys}`, 'narrow'), limitWide: limitKey(`t${keys}`, 'wide') };
  const own = bucketOf(rate);
  const other = wide === undefined ? { periodMicros: 0, burst: 0 } : bucketOf(wide);
  const args = {
    period: own.periodMicros,
    burst: own.burst,
    widePeriod: other.periodMicros,
    wideBurst: other.burst,
  };
  return {
    names,
    at: (nowMs: number | '', cost = 1) => take.run(redis, names, { nowMs, cost, ...args }),
  };
};

t.test('exactly the burst is taken at once, and the refusal says when to come back', async (t) => {
  const limit = bucket({ perSecond: 10, burst: 5 });
  for (let index = 0; index < 5; index++)
    t.same(await limit.at(START_MS), { outcome: 'taken', remaining: 4 - index, resetMs: (index + 1) * 100 });
  t.same(await limit.at(START_MS), { outcome: 'refused', bucket: 1, retryAfterMs: 100 });
  t.equal((await limit.at(START_MS + 99)).outcome, 'refused');
  t.equal((await limit.at(START_MS + 100)).outcome, 'taken', 'coming back when told works');
});

t.test('the sustained rate is exact', async (t) => {
  const limit = bucket({ perSecond: 50, burst: 3 });
  let taken = 0;
  for (let ms = 0; ms < 4000; ms += 5) if ((await limit.at(START_MS + ms)).outcome === 'taken') taken += 1;
  t.equal(taken, 3 + (4000 / 1000) * 50 - 1, '200 of the rate, and the burst that was there at the start');
});

t.test('a cost takes that many, and one above the burst takes the whole bucket', async (t) => {
  const limit = bucket({ perSecond: 10, burst: 5 });
  t.match(await limit.at(START_MS, 3), { outcome: 'taken', remaining: 2 });
  t.match(await limit.at(START_MS, 3), { outcome: 'refused', retryAfterMs: 100 });
  t.match(await limit.at(START_MS + 10_000, 50), { outcome: 'taken', remaining: 0 });
});

t.test('a clock that steps back never blocks for longer than one window', async (t) => {
  const limit = bucket({ perSecond: 10, burst: 5 });
  await limit.at(START_MS + 3_600_000, 5);
  const answer = await limit.at(START_MS);
  t.match(answer, { outcome: 'refused' });
  t.ok('retryAfterMs' in answer && answer.retryAfterMs <= 500, 'not an hour');
  t.match(await limit.at(START_MS + 500), { outcome: 'refused' }, 'still as if the window began now');
  await limit.at(START_MS + 600);
  const forward = bucket({ perSecond: 10, burst: 5 });
  await forward.at(START_MS, 5);
  t.match(await forward.at(START_MS + 3_600_000), { outcome: 'taken', remaining: 4 }, 'a jump fills it once');
});

t.test('two buckets: all or nothing', async (t) => {
  const limit = bucket({ perSecond: 1, burst: 10 }, { perSecond: 1, burst: 3 });
  for (let index = 0; index < 3; index++) t.match(await limit.at(START_MS), { outcome: 'taken' });
  const before = await redis.get(limit.names.limit);
  t.match(await limit.at(START_MS), { outcome: 'refused', bucket: 2 });
  t.equal(await redis.get(limit.names.limit), before, 'the other bucket was not charged');
});

t.test('a hundred in parallel take exactly the burst', async (t) => {
  const limit = bucket({ perSecond: 1, burst: 40 });
  const answers = await Promise.all(Array.from({ length: 100 }, () => limit.at(START_MS)));
  t.equal(answers.filter((answer) => answer.outcome === 'taken').length, 40);
});

t.test("without a time it is Redis's, and an idle bucket vanishes", async (t) => {
  const limit = bucket({ perSecond: 10, burst: 5 });
  t.match(await limit.at(''), { outcome: 'taken', remaining: 4 });
  const life = await redis.pttl(limit.names.limit);
  t.ok(life > 0 && life <= 100, `gone in ${life} ms`);
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

const limitsOf = (rates: Partial<Record<'addressBurst' | 'visitorBurst', number>> = {}) => {
  const metrics = createMetrics({ processMetrics: false });
  const config = { addressPerSecond: 1, addressBurst: 20, visitorPerSecond: 1, visitorBurst: 5, ...rates };
  return { limits: createLimits({ config, redis, clock: systemClock, metrics }), metrics };
};

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
    const calls = async () =>
      Number(/cmdstat_evalsha:calls=(\d+)/.exec(await redis.info('commandstats'))?.[1] ?? 0);
    const before = await calls();
    for (let index = 1; index <= 200; index += 1)
      t.equal((await limits.take({ address: `198.18.7.${index}`, cost: 1 })).outcome, 'taken');
    t.equal(await calls(), before, 'a crowd of strangers asks Redis nothing');
  },
);

t.test('a visitor who floods is refused and does not use up the address', async (t) => {
  const { limits } = limitsOf();
  const address = '192.0.2.2';
  let refused = 0;
  for (let index = 0; index < 100; index++)
    if ((await limits.take({ address, visitorId: 'a:one', cost: 1 })).outcome === 'refused') refused += 1;
  t.ok(refused >= 93, `${refused} of 100`);
  t.match(await limits.take({ address, visitorId: 'a:two', cost: 10 }), { outcome: 'taken' });
});

t.test('an IPv6 household is one /64, and many of them are one /48', async (t) => {
  const { limits } = limitsOf({ addressBurst: 5 });
  let household = 0;
  for (let index = 1; index <= 20; index++)
    if ((await limits.take({ address: `2001:db8:1:1::${index}`, cost: 1 })).outcome === 'taken')
      household += 1;
  t.ok(household >= 5 && household <= 6, `${household} of a burst of 5`);
  let company = 0;
  for (let index = 1; index <= 100; index++)
    if ((await limits.take({ address: `2001:db8:2:${index}::1`, cost: 1 })).outcome === 'taken') company += 1;
  t.ok(company >= 20 && company <= 24, `${company} of 4 × 5`);
});

t.test('3,000 people behind one address get in with the default settings', async (t) => {
  const metrics = createMetrics({ processMetrics: false });
  const config = { addressPerSecond: 50, addressBurst: 3000, visitorPerSecond: 5, visitorBurst: 30 };
  const limits = createLimits({ config, redis, clock: systemClock, metrics });
  const answers = await Promise.all(
    Array.from({ length: 3000 }, (_, index) =>
      limits.take({ address: '198.51.100.1', visitorId: `a:fan${index}`, cost: 1 }),
    ),
  );
  t.ok(answers.filter((answer) => answer.outcome === 'taken').length >= 2970);
});

t.test('Redis gone: the local limits decide alone, and are counted', async (t) => {
  await server.kill();
  const { limits, metrics } = limitsOf();
  let taken = 0;
  for (let index = 0; index < 40; index++)
    if ((await limits.take({ address: '192.0.2.9', cost: 1 })).outcome === 'taken') taken += 1;
  t.ok(
    taken >= 20 && taken <= 22,
    `${taken}: nobody is sent away for our fault, and a flood is still a flood`,
  );
  t.match(await metrics.text(), /anteroom_limits_local_total (?:19|2\d)/);
});
