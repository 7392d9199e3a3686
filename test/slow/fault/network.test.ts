// A bad network between every process and Redis: replies lost at random instants, cuts, latency, silence. Several
// processes, a real line over HTTP, and at the end a recount from the sets and from the entry stream alone.

import t, { type Test } from 'tap';
import { takePort } from '../../../bench/ports.ts';
import { parseRoomId } from '../../../kernel/ids.ts';
import { roomKeys } from '../../../lua/room.ts';
import { eventually } from '../../support/eventually.ts';
import type { Fan } from '../../support/fan.ts';
import { type FaultProxy, startFaultProxy } from '../../support/fault-proxy.ts';
import { ledgerVerifies } from '../../support/ledger-verdict.ts';
import {
  aheadOfRate,
  inTwoSets,
  notInOne,
  promotedTwice,
  readEntries,
  readStanding,
} from '../../support/line-watch.ts';
import { startPostgres } from '../../support/postgres.ts';
import { seedOf } from '../../support/random.ts';
import { startRedis, type TestRedis } from '../../support/redis.ts';
import { inParallel, joinFans, tune, untilAnswered, untilRefused, untilWell } from '../../support/sale.ts';
import { createSystem, type System } from '../../support/system.ts';

t.setTimeout(240_000);
const keys = roomKeys(parseRoomId('demo')!);
const seed = seedOf(t, 1);

let redis: TestRedis;
let system: System;
let proxy: FaultProxy;
let fans: Fan[];
t.before(async () => {
  redis = await startRedis(t, { appendOnly: true });
  proxy = await startFaultProxy(t, { port: redis.port, seed });
  const postgres = await startPostgres(t);
  system = await createSystem(t, {
    ANTEROOM_REDIS_URL: proxy.url,
    ANTEROOM_DATABASE_URL: postgres.url,
    ANTEROOM_LOG_LEVEL: 'error',
    ANTEROOM_REDIS_TIMEOUT_MS: '1000',
  });
  await system.start({ roles: 'admin,dispatcher', metricsPort: await takePort() });
  await Promise.all([
    system.start({ roles: 'dispatcher', metricsPort: await takePort() }),
    system.start({ roles: 'gateway,broker', metricsPort: await takePort() }),
  ]);
});
// Whatever happened in a scenario, the record of the sale is whole and true.
const scenario = (name: string, work: (t: Test) => Promise<void>) =>
  t.test(name, async (t) => {
    await work(t);
    await ledgerVerifies(t, system);
  });

scenario('Q1, Q24: replies lost at random instants around join, promote and claim', async (t) => {
  await tune(system, { suspended: true, newUsersPerMinute: 12_000, burst: 50, totalActiveUsers: 300 });
  proxy.set({ kind: 'lostReplies', chance: 0.03 });
  fans = await joinFans(system, { count: 3000, from: 0 });
  const given = fans.map((fan) => fan.number);
  t.equal(new Set(given).size, 3000, 'no number twice');
  await tune(system, { suspended: false });
  const called = [...fans].sort((a, b) => a.number - b.number).slice(0, 120);
  const sessions = new Map<Fan, string>();
  await inParallel(called, 24, async (fan) => {
    await eventually(
      'called',
      async () =>
        (await untilAnswered('status', () => fan.ask('GET', '/v1/rooms/demo/places/me'))).json.state ===
        'promoted',
      60_000,
    );
    const claimed = await untilAnswered('claim', () => fan.claim());
    if (claimed.status !== 200) throw new Error(`claim answered ${claimed.status}: ${claimed.text}`);
    sessions.set(fan, String(fan.cookies.get('ar_s_demo')));
  });
  await tune(system, { suspended: true });
  proxy.set({ kind: 'clear' });
  t.ok(proxy.counts().repliesLost > 10, `${proxy.counts().repliesLost} replies were lost`);
  await untilWell(system);

  const standing = await readStanding(redis.client, keys);
  t.same(inTwoSets(standing), []);
  t.same(notInOne(standing, given), [], 'everyone who was given a number is in exactly one set');
  t.ok(standing.counts.active >= 120, `${standing.counts.active} inside`);
  t.ok(standing.counts.active + standing.counts.promoted <= 300, 'never above the cap');
  const records = await readEntries(redis.client, keys);
  t.same(promotedTwice(records), [], 'nobody is promoted twice');
  t.ok(aheadOfRate(records) < 0.01, `never ahead of the rate (${aheadOfRate(records)})`);
  t.equal(sessions.size, 120);
  for (const fan of called.slice(0, 10)) {
    t.equal((await fan.claim()).status, 200, 'claiming again gives the same session');
    t.not((await fan.ask('GET', '/v1/events/demo')).status, 429, 'and it admits');
  }
});

scenario('300 ms with 5 % loss: slow, and right', async (t) => {
  proxy.set({ kind: 'mixed', ms: 150, lossChance: 0.05, cutChance: 0.002 });
  const more = await joinFans(system, { count: 100, from: 5000 });
  proxy.set({ kind: 'clear' });
  t.ok(proxy.counts().late > 0);
  const standing = await readStanding(redis.client, keys);
  t.same(inTwoSets(standing), []);
  t.same(
    notInOne(
      standing,
      more.map((fan) => fan.number),
    ),
    [],
  );
});

scenario(
  'nothing gets through: refused with Retry-After, and well again by itself when the cable is back',
  async (t) => {
    proxy.set({ kind: 'blackhole' });
    await untilRefused(t, system);
    proxy.set({ kind: 'clear' });
    const { tookMs } = await untilWell(system);
    t.comment(`well ${tookMs} ms after the cable was back`);
    proxy.set({ kind: 'halfOpen', stops: 'replies' });
    await untilRefused(t, system);
    proxy.set({ kind: 'clear' });
    const half = await untilWell(system);
    t.comment(`well ${half.tookMs} ms after the half-open network was whole`);
    const status = await fans[2000]!.ask('GET', '/v1/rooms/demo/places/me');
    t.match(status, { status: 200, json: { number: fans[2000]!.number } });
  },
);

scenario('every connection reset again and again: whoever asks again is answered', async (t) => {
  proxy.set({ kind: 'cut', chance: 0.01 });
  const more = await joinFans(system, { count: 200, from: 6000 });
  for (let round = 0; round < 10; round += 1) {
    proxy.cutAll();
    await eventually('connected again', () => proxy.counts().open > 0);
  }
  proxy.set({ kind: 'clear' });
  await untilWell(system);
  const standing = await readStanding(redis.client, keys);
  t.same(inTwoSets(standing), []);
  t.same(
    notInOne(
      standing,
      [...fans, ...more].map((fan) => fan.number),
    ),
    [],
  );
  t.same(promotedTwice(await readEntries(redis.client, keys)), []);
});
