// Processes killed with SIGKILL while a sale runs: dispatchers and brokers. What they held was only a hint; the
// state is in Redis, so whoever is left goes on.

import type { ChildProcess } from 'node:child_process';
import t, { type Test } from 'tap';
import { takePort } from '../../../bench/ports.ts';
import { parseRoomId } from '../../../kernel/ids.ts';
import { roomKeys } from '../../../lua/room.ts';
import { openStream, type TestStream } from '../../support/client.ts';
import { eventually } from '../../support/eventually.ts';
import type { Fan } from '../../support/fan.ts';
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
import { startRedis, type TestRedis } from '../../support/redis.ts';
import { joinFans, tune } from '../../support/sale.ts';
import { createSystem, type System } from '../../support/system.ts';

t.setTimeout(180_000);
const keys = roomKeys(parseRoomId('demo')!);

let redis: TestRedis;
let system: System;
const dispatchers: ChildProcess[] = [];
const fronts: ChildProcess[] = [];
const start = async (roles: string): Promise<ChildProcess> =>
  system.start({ roles, metricsPort: await takePort() });
t.before(async () => {
  redis = await startRedis(t, { appendOnly: true });
  const postgres = await startPostgres(t);
  system = await createSystem(t, {
    ANTEROOM_REDIS_URL: redis.url,
    ANTEROOM_DATABASE_URL: postgres.url,
    ANTEROOM_LOG_LEVEL: 'error',
  });
  await start('admin');
  for (let index = 0; index < 2; index += 1) {
    dispatchers.push(await start('dispatcher'));
    fronts.push(await start('gateway,broker'));
  }
});
// Whatever happened in a scenario, the record of the sale is whole and true.
const scenario = (name: string, work: (t: Test) => Promise<void>) =>
  t.test(name, async (t) => {
    await work(t);
    await ledgerVerifies(t, system);
  });

const openFor = (fan: Fan): Promise<TestStream> =>
  openStream(`${system.base}/v1/rooms/demo/events`, {
    headers: fan.headers({ accept: 'text/event-stream' }),
  });
/** The events up to and with the first of this name; undefined when the stream ends before. */
const until = async (stream: TestStream, event: string): Promise<string[] | undefined> => {
  const seen: string[] = [];
  for (;;) {
    const next = await stream.next(20_000);
    if (next === undefined) return undefined;
    seen.push(next.event);
    if (next.event === event) return seen;
  }
};

scenario(
  'Q8: called while their broker is dead: the first thing they hear elsewhere is their turn',
  async (t) => {
    await tune(system, { suspended: true, newUsersPerMinute: 12_000, burst: 100, totalActiveUsers: 1000 });
    const fans = await joinFans(system, { count: 40, from: 0 });
    const streams = new Map<Fan, TestStream>();
    for (const fan of fans) {
      const stream = await openFor(fan);
      await until(stream, 'position');
      streams.set(fan, stream);
    }
    const ended = new Set<Fan>();
    for (const [fan, stream] of streams)
      void until(stream, 'nothing').then(
        (seen) => seen === undefined && ended.add(fan),
        () => undefined, // The streams of the broker that lives only fall silent.
      );
    await system.end(fronts[0]!, 'SIGKILL');
    await eventually('its streams are gone', () => ended.size > 0);
    t.ok(ended.size < 40, `${ended.size} of 40 were on the broker that was killed`);
    await tune(system, { suspended: false });
    await eventually('all are called', async () => (await redis.client.zcard(keys.promoted)) === 40, 20_000);
    let slowest = 0;
    for (const fan of ended) {
      const begun = performance.now();
      const stream = await openFor(fan);
      const heard = (await until(stream, 'promoted')) ?? [];
      slowest = Math.max(slowest, performance.now() - begun);
      t.same(
        heard.filter((event) => event !== 'notice'),
        ['promoted'],
        'at once, before anything else',
      );
      t.equal((await fan.claim()).status, 200);
      stream.close();
    }
    t.comment(`the slowest heard ${Math.round(slowest)} ms after asking elsewhere`);
    for (const stream of streams.values()) stream.close();
    fronts[0] = await start('gateway,broker');
  },
);

scenario(
  'Q1: dispatchers killed in the middle of promoting: the others go on, then nobody, then a new one',
  async (t) => {
    await tune(system, { newUsersPerMinute: 6000, burst: 20, totalActiveUsers: 5000 });
    const fans = await joinFans(system, { count: 900, from: 1000 });
    const called = async () => Number(await redis.client.hget(keys.room, 'promotedTotal'));
    const first = await called();
    await eventually('promoting', async () => (await called()) > first);
    await system.end(dispatchers[0]!, 'SIGKILL');
    const second = await called();
    await eventually(
      'the other goes on',
      async () => (await called()) > second || (await redis.client.zcard(keys.line)) === 0,
    );
    await system.end(dispatchers[1]!, 'SIGKILL');
    const standing = await readStanding(redis.client, keys);
    t.same(inTwoSets(standing), []);
    t.same(
      notInOne(
        standing,
        fans.map(({ number }) => number),
      ),
      [],
      'everyone is in exactly one set',
    );
    const more = await joinFans(system, { count: 5, from: 3000 });
    const waiting = await redis.client.zcard(keys.line);
    t.ok(waiting >= 5, 'without a dispatcher people still join');
    await start('dispatcher');
    await eventually('a new one goes on', async () => (await redis.client.zcard(keys.line)) === 0, 30_000);
    const records = await readEntries(redis.client, keys);
    t.same(promotedTwice(records), []);
    t.ok(aheadOfRate(records) < 0.01, `never ahead of the rate (${aheadOfRate(records)})`);
    t.same(
      notInOne(
        await readStanding(redis.client, keys),
        [...fans, ...more].map(({ number }) => number),
      ),
      [],
    );
  },
);
