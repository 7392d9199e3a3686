// A Redis that is there and will not do as it is asked: full, read-only, loading, busy, slow, asleep; connections
// killed and scripts forgotten. Each time a defined answer, and all is well by itself when it is over.

import t, { type Test } from 'tap';
import { takePort } from '../../../bench/ports.ts';
import { parseRoomId } from '../../../kernel/ids.ts';
import { roomKeys } from '../../../lua/room.ts';
import { eventually } from '../../support/eventually.ts';
import type { Fan } from '../../support/fan.ts';
import { ledgerVerifies } from '../../support/ledger-verdict.ts';
import { inTwoSets, notInOne, promotedTwice, readEntries, readStanding } from '../../support/line-watch.ts';
import { startPostgres } from '../../support/postgres.ts';
import { startRedis, type TestRedis } from '../../support/redis.ts';
import { joinFans, newFan, tune, untilAnswered, untilRefused, untilWell } from '../../support/sale.ts';
import { createSystem, type System } from '../../support/system.ts';

t.setTimeout(240_000);
const keys = roomKeys(parseRoomId('demo')!);

let redis: TestRedis;
let system: System;
let fans: Fan[];
let exits = 0;
t.before(async () => {
  redis = await startRedis(t, { appendOnly: true, more: ['--enable-debug-command', 'yes'] });
  const postgres = await startPostgres(t);
  system = await createSystem(t, {
    ANTEROOM_REDIS_URL: redis.url,
    ANTEROOM_DATABASE_URL: postgres.url,
    ANTEROOM_LOG_LEVEL: 'error',
    ANTEROOM_REDIS_TIMEOUT_MS: '1000',
  });
  for (const roles of ['admin,dispatcher', 'gateway,broker']) {
    const child = await system.start({ roles, metricsPort: await takePort() });
    child.once('exit', () => {
      exits += 1;
    });
  }
  await tune(system, { suspended: true });
  fans = await joinFans(system, { count: 60, from: 0 });
});
// Whatever happened in a scenario, the record of the sale is whole and true.
const scenario = (name: string, work: (t: Test) => Promise<void>) =>
  t.test(name, async (t) => {
    await work(t);
    await ledgerVerifies(t, system);
  });

/** After each: the process lives, joins go on, everyone stands where they stood. */
const allIsWell = async (t: Test): Promise<void> => {
  const { fan, tookMs } = await untilWell(system);
  t.comment(`joins go on after ${tookMs} ms`);
  fans.push(fan);
  for (const one of [fans[0]!, fans[30]!]) {
    const status = await untilAnswered('status', () => one.ask('GET', '/v1/rooms/demo/places/me'));
    t.match(status, { status: 200, json: { number: one.number, state: 'waiting' } });
  }
  const standing = await readStanding(redis.client, keys);
  t.same(inTwoSets(standing), []);
  t.same(
    notInOne(
      standing,
      fans.map(({ number }) => number),
    ),
    [],
  );
  t.equal(exits, 0);
};

scenario('-OOM: a full Redis refuses new places and throws none away', async (t) => {
  await redis.client.config('SET', 'maxmemory', '1');
  await untilRefused(t, system);
  await redis.client.config('SET', 'maxmemory', '0');
  await allIsWell(t);
});

scenario('-READONLY and -MASTERDOWN: a server that became a replica is not written to', async (t) => {
  const nowhere = await takePort();
  await redis.client.replicaof('127.0.0.1', nowhere);
  await untilRefused(t, system);
  await redis.client.config('SET', 'replica-serve-stale-data', 'no');
  await untilRefused(t, system);
  await redis.client.config('SET', 'replica-serve-stale-data', 'yes');
  await redis.client.replicaof('NO', 'ONE');
  await allIsWell(t);
});

scenario('-LOADING: a server that reads its file back is waited for', async (t) => {
  await redis.client.call('DEBUG', 'POPULATE', '3000', 'ar:test:ballast', '200');
  await redis.client.config('SET', 'loading-process-events-interval-bytes', '1024');
  await redis.client.config('SET', 'key-load-delay', '2000');
  const side = await redis.connect('side');
  const reloaded = side.call('DEBUG', 'RELOAD').catch((error: Error) => error);
  await untilRefused(t, system);
  await reloaded;
  await eventually(
    'it has loaded',
    async () => /loading:0/.test(await redis.client.info('persistence')),
    60_000,
  );
  await redis.client.config('SET', 'key-load-delay', '0');
  await allIsWell(t);
});

scenario('-BUSY: a script that does not end stops the line and nothing else', async (t) => {
  await redis.client.config('SET', 'busy-reply-threshold', '100');
  const side = await redis.connect('side');
  const looping = side.eval('while true do end', 0).catch((error: Error) => error);
  await untilRefused(t, system);
  await eventually('it is killed', async () => (await redis.client.script('KILL')) === 'OK');
  await looping;
  await allIsWell(t);
});

scenario('a hang of 10 s: refused meanwhile, and well when it is over', async (t) => {
  const side = await redis.connect('side');
  const asleep = side.call('DEBUG', 'SLEEP', '10').catch((error: Error) => error);
  await untilRefused(t, system);
  const page = await newFan(system).ask('GET', '/demo', { headers: { accept: 'text/html' } });
  t.ok(page.status === 200 || page.status === 503, 'a page, not a crash');
  await asleep;
  await eventually('it answers', async () => (await redis.client.ping()) === 'PONG', 20_000);
  await allIsWell(t);
});

scenario('CLIENT PAUSE: what was held is refused or done, never both', async (t) => {
  await redis.client.call('CLIENT', 'PAUSE', '3000', 'ALL');
  await untilRefused(t, system);
  await allIsWell(t);
});

scenario('SCRIPT FLUSH and CLIENT KILL while people join: everyone gets a place', async (t) => {
  const joining = joinFans(system, { count: 100, from: 3000 });
  let done = false;
  const joined = joining.finally(() => {
    done = true;
  });
  while (!done) {
    await redis.client.script('FLUSH');
    await redis.client.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
    await Promise.race([joined, new Promise((resolve) => setTimeout(resolve, 300))]);
  }
  const more = await joined;
  t.equal(new Set(more.map(({ number }) => number)).size, 100);
  fans.push(...more);
  await allIsWell(t);
  t.same(promotedTwice(await readEntries(redis.client, keys)), []);
});
