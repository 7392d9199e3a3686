// The watcher reads only the entry stream. It finds nothing while the scripts keep their promises, and each promise
// that is taken out of a script moves a counter.

import t from 'tap';
import { createWatch, createWatcher, type Findings } from '../../dispatcher/watcher.ts';
import { parseRoomId } from '../../kernel/ids.ts';
import { silentLog } from '../../kernel/log.ts';
import { createMetrics } from '../../kernel/metrics.ts';
import type { Redis } from '../../kernel/redis.ts';
import { parseEntry } from '../../line/entries.ts';
import { defaultSettings, type Settings } from '../../line/settings.ts';
import * as scripts from '../../lua/room.ts';
import { eventually } from '../support/eventually.ts';
import { joinOne } from '../support/one.ts';
import { random, seedOf } from '../support/random.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';

let server: TestRedis;
t.before(async () => {
  server = await startRedis(t);
});

const T0 = 1_800_000_000_000;
const firstSeed = seedOf(t, 1);
let counter = 0;

/** promote.lua as it is, or with one of its rules replaced; the text that is replaced must be there. */
const promoteWith = (rule?: { is: string; becomes: string }) => {
  const { source, keys } = scripts.promote;
  if (rule !== undefined && !source.includes(rule.is)) throw new Error(`promote.lua has no "${rule.is}"`);
  const text = rule === undefined ? source : source.replace(rule.is, rule.becomes);
  return (redis: Redis, room: Record<string, string>, nowMs: number) =>
    redis.eval(text, keys.length, ...keys.map((name) => room[name]!), nowMs, 500, 500);
};

/** People join, are promoted, claim, miss, leave and come back for a minute; the stream of it is what counts. */
const live = async (
  settings: Partial<Settings>,
  promote: ReturnType<typeof promoteWith>,
): Promise<Findings> => {
  const redis = server.client;
  counter += 1;
  const keys = scripts.roomKeys(parseRoomId(`watched-${counter}`)!);
  const dice = random(firstSeed + counter);
  let version = 1;
  const configure = (more: Partial<Settings>, nowMs: number) =>
    scripts.configure.run(redis, keys, {
      nowMs,
      version: version++,
      settings: JSON.stringify({ ...defaultSettings, claimSeconds: 10, ...settings, ...more }),
      create: 1,
    });
  await configure({}, T0);
  let joined = 0;
  const visits = new Map<string, number>();
  for (let nowMs = T0; nowMs < T0 + 60_000; nowMs += 500) {
    for (let count = dice.pick([0, 1, 2, 5]); count > 0; count -= 1) {
      joined += 1;
      const placeId = `fan${joined}`.padEnd(16, '_');
      const done = await joinOne(redis, keys, { nowMs, placeId });
      if ('number' in done) visits.set(placeId, done.number);
    }
    if (nowMs % 2000 === 0 && joined > 0) {
      // Some are heard from, so that others are passed over.
      const heard = [...visits.keys()].filter(() => dice.pick([true, true, false])).slice(0, 400);
      await scripts.here.run(redis, keys, { nowMs, placeIds: heard });
    }
    await promote(redis, keys, nowMs);
    for (const placeId of await redis.zrange(keys.promoted, '0', '-1')) {
      const number = visits.get(placeId) ?? 0;
      const act = dice.pick(['claim', 'wait', 'wait', 'leave']);
      if (act === 'claim')
        await scripts.claim.run(redis, keys, {
          nowMs,
          placeId,
          number,
          shownSerial: '',
          visitor: 'a:AAAAAAAAAAAAAAAAAAAAAA',
        });
      if (act === 'leave') await scripts.leave.run(redis, keys, { nowMs, placeId });
    }
    for (const placeId of await redis.zrange(keys.active, '0', '-1'))
      if (dice.pick([true, false, false, false, false]))
        await scripts.end.run(redis, keys, {
          nowMs,
          placeId,
          number: visits.get(placeId) ?? 0,
          reason: 'test',
        });
    await scripts.reap.run(redis, keys, { nowMs, reapMax: 100, entriesMax: 100_000 });
    if (nowMs === T0 + 30_000) await configure({ newUsersPerMinute: 90 }, nowMs);
  }
  const watch = createWatch();
  const sum: Findings = { overshoot: 0, duplicates: 0, inversions: 0, adoptedOverCap: 0 };
  for (const [, flat] of await redis.xrange(keys.entries, '-', '+')) {
    const record = parseEntry(flat ?? []);
    if (record === undefined) continue;
    const found = watch.observe(record);
    for (const name of Object.keys(sum) as (keyof Findings)[]) sum[name] += found[name];
  }
  await redis.del(...Object.values(keys));
  return sum;
};

const NOTHING: Findings = { overshoot: 0, duplicates: 0, inversions: 0, adoptedOverCap: 0 };
const BUDGET = 'math.min(math.floor(tokens / 60000), free, promoteMax)';

t.test('a sale that keeps its promises moves no counter', async (t) => {
  for (let round = 0; round < 2; round += 1) {
    t.same(await live({ newUsersPerMinute: 60, burst: 3, totalActiveUsers: 10 }, promoteWith()), NOTHING);
    t.same(
      await live({ newUsersPerMinute: 600, burst: 10, totalActiveUsers: 4, graceSeconds: 5 }, promoteWith()),
      NOTHING,
    );
  }
  t.same(
    await live(
      { newUsersPerMinute: 60, burst: 3, totalActiveUsers: 10, queueingMethod: 'random' },
      promoteWith(),
    ),
    NOTHING,
    'a draw at each promotion is no inversion',
  );
});

t.test('a script without its rate overshoots, and the watcher says so', async (t) => {
  const broken = promoteWith({ is: BUDGET, becomes: 'math.min(free, promoteMax)' });
  t.ok((await live({ newUsersPerMinute: 60, burst: 3, totalActiveUsers: 100 }, broken)).overshoot > 0);
});
t.test('a script without its burst overshoots, and the watcher says so', async (t) => {
  const broken = promoteWith({
    is: 'local tokens = math.min(tonumber(f[6]) * 60000, ',
    becomes: 'local tokens = math.max(5 * 60000, ',
  });
  t.ok((await live({ newUsersPerMinute: 60, burst: 2, totalActiveUsers: 100 }, broken)).overshoot > 0);
});
t.test('a script without its cap overshoots, and the watcher says so', async (t) => {
  const broken = promoteWith({ is: BUDGET, becomes: 'math.min(math.floor(tokens / 60000), promoteMax)' });
  t.ok((await live({ newUsersPerMinute: 600, burst: 20, totalActiveUsers: 3 }, broken)).overshoot > 0);
});
t.test(
  'a script that leaves the promoted in the line promotes them twice, and the watcher says so',
  async (t) => {
    const broken = promoteWith({
      is: "redis.call('ZREMRANGEBYRANK', lineKey, 0, seen - 1)",
      becomes: 'seen = seen',
    });
    t.ok((await live({ newUsersPerMinute: 600, burst: 20, totalActiveUsers: 50 }, broken)).duplicates > 0);
  },
);
t.test(
  'a script that draws where it should take the first inverts the order, and the watcher says so',
  async (t) => {
    const broken = promoteWith({ is: "f[15] == 'random'", becomes: 'true' });
    t.ok((await live({ newUsersPerMinute: 60, burst: 3, totalActiveUsers: 10 }, broken)).inversions > 0);
  },
);

t.test('what the watcher finds is in the metrics, from the oldest record on', async (t) => {
  const redis = server.client;
  const room = parseRoomId('exported')!;
  const keys = scripts.roomKeys(room);
  const settings = { ...defaultSettings, newUsersPerMinute: 60, burst: 10, totalActiveUsers: 2 };
  await scripts.configure.run(redis, keys, {
    nowMs: T0,
    version: 1,
    settings: JSON.stringify(settings),
    create: 1,
  });
  for (let index = 0; index < 5; index += 1)
    await joinOne(redis, keys, { nowMs: T0, placeId: `fan${index}`.padEnd(16, '_') });
  await promoteWith({ is: BUDGET, becomes: 'promoteMax' })(redis, keys, T0 + 1);
  const metrics = createMetrics({ processMetrics: false });
  const watcher = createWatcher({
    reader: await server.connect('watcher', { blocking: true }),
    redis,
    log: silentLog,
    metrics,
  });
  t.teardown(() => watcher.stop());
  await watcher.follow(room);
  await eventually('the overshoot is exported', async () =>
    /anteroom_overshoot_total\{room="exported"\} 3\b/.test(await metrics.text()),
  );
});
