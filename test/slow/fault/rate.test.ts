// Q2: any number of dispatchers admit together what the rate says, for a minute of real time. The rate is computed
// anew from the entry stream alone, over every window there is; the watchers of the dispatchers say the same.

import t from 'tap';
import { createDispatcher } from '../../../dispatcher/dispatcher.ts';
import { readConfig } from '../../../kernel/config.ts';
import { parseRoomId } from '../../../kernel/ids.ts';
import { roomsKey } from '../../../kernel/keys.ts';
import { silentLog } from '../../../kernel/log.ts';
import { createMetrics } from '../../../kernel/metrics.ts';
import { createRoomStore } from '../../../line/rooms.ts';
import { defaultSettings } from '../../../line/settings.ts';
import { JOIN_BATCH_MAX, join, configure as put, roomKeys } from '../../../lua/room.ts';
import { eventually } from '../../support/eventually.ts';
import { promotedTwice, readEntries } from '../../support/line-watch.ts';
import { startPostgres } from '../../support/postgres.ts';
import { startRedis } from '../../support/redis.ts';

t.setTimeout(150_000);

const ROOM = parseRoomId('rate')!;
const keys = roomKeys(ROOM);
const PER_MINUTE = 6000;
/** A second's worth: while the machine stalls for less, no token is lost. */
const BURST = 100;
const WAITING = 12_000;
const MINUTE_MS = 60_000;
const DISPATCHERS = 3;

type Calls = { atMs: number; count: number }[];

/** By how many the worst window of all exceeds rate · t + burst; at most 0 when none does. */
const worstExcess = (calls: Calls): number => {
  let worst = Number.NEGATIVE_INFINITY;
  for (let from = 0; from < calls.length; from += 1) {
    let inWindow = 0;
    for (let to = from; to < calls.length; to += 1) {
      inWindow += calls[to]!.count;
      const tMs = calls[to]!.atMs - calls[from]!.atMs;
      worst = Math.max(worst, inWindow - (PER_MINUTE * tMs) / MINUTE_MS - BURST);
    }
  }
  return worst;
};

t.test('the reckoning sees one person too many in one window', async (t) => {
  const even = Array.from({ length: 50 }, (_, index) => ({ atMs: 1000 + index * 1000, count: 100 }));
  t.equal(worstExcess(even), 0);
  even[30]!.count += 1;
  t.equal(worstExcess(even), 1);
});

t.test('Q2: three dispatchers at 100/s admit together 100/s, and never more in any window', async (t) => {
  const server = await startRedis(t);
  const redis = server.client;
  const postgres = await startPostgres(t);
  const rooms = createRoomStore(await postgres.connect());
  await rooms.migrate();
  const settings = {
    ...{ ...defaultSettings, newUsersPerMinute: PER_MINUTE, burst: BURST },
    ...{ totalActiveUsers: WAITING, claimSeconds: 3600, suspended: true },
  };
  const configure = (version: number, suspended: boolean) =>
    put.run(redis, keys, {
      ...{ nowMs: '', version, create: 1 },
      settings: JSON.stringify({ ...settings, suspended }),
    });
  await rooms.create(ROOM, settings);
  await configure(1, true);
  await redis.sadd(roomsKey, ROOM);
  for (let joined = 0; joined < WAITING; joined += JOIN_BATCH_MAX)
    await join.run(redis, keys, {
      ...{ nowMs: '', sale: 1, lineMax: WAITING + JOIN_BATCH_MAX, withheldMax: 0, joinsMax: 0 },
      visitors: Array.from({ length: JOIN_BATCH_MAX }, (_, index) => [
        `fan${joined + index}`.padEnd(16, '_'),
        ...['', 'allow'],
      ]).flat(),
    });

  const dispatchers = await Promise.all(
    Array.from({ length: DISPATCHERS }, async (_, index) => {
      const metrics = createMetrics({ processMetrics: false });
      const role = await createDispatcher({
        config: readConfig({}),
        redis: await server.connect(`dispatcher-${index}`),
        reader: await server.connect(`reader-${index}`, { blocking: true }),
        ...{ rooms, log: silentLog, metrics },
      });
      const read = async (name: string): Promise<number | undefined> => {
        const found = new RegExp(`^anteroom_${name}(?:\\{.*\\})? (\\d+)$`, 'm').exec(await metrics.text());
        return found === null ? undefined : Number(found[1]);
      };
      return { role, read };
    }),
  );
  let isRunning = true;
  const stop = async () => {
    if (isRunning) await Promise.all(dispatchers.map(({ role }) => role.stop()));
    isRunning = false;
  };
  t.teardown(stop);

  await configure(2, false);
  const calls = async (): Promise<Calls> =>
    (await readEntries(redis, keys)).flatMap((record) =>
      record.kind === 'promoted' ? [{ atMs: record.atMs, count: record.visits.length }] : [],
    );
  // A minute by Redis's clock after the first call, which spends what the bucket held at the start.
  await eventually(
    'a minute of admission is written down',
    async () => {
      const first = (await redis.xrange(keys.entries, '-', '+', 'COUNT', 10)).find(([, flat]) =>
        flat.includes('promoted'),
      );
      const [last] = await redis.xrevrange(keys.entries, '+', '-', 'COUNT', 1);
      const atOf = (id: string | undefined) => Number(id?.split('-')[0]);
      await new Promise((resolve) => setTimeout(resolve, 250));
      return atOf(last?.[0]) - atOf(first?.[0]) > MINUTE_MS;
    },
    2 * MINUTE_MS,
  );
  for (const { read } of dispatchers)
    t.ok(((await read('tick_seconds_count')) ?? 0) > 100, 'each dispatcher ticked all the while');

  const seen = await calls();
  const firstMs = seen[0]!.atMs;
  let inMinute = 0;
  for (const { atMs, count } of seen.slice(1)) if (atMs <= firstMs + MINUTE_MS) inMinute += count;
  const worst = worstExcess(seen);
  const shares = await Promise.all(dispatchers.map(({ read }) => read('promoted_total')));
  t.comment(
    `${inMinute} in the minute after the first call, in ${seen.length} calls; shares ${shares.join(' ')}`,
  );
  t.comment(`the fullest window holds ${-worst} fewer than rate · t + burst`);
  t.ok(Math.abs(inMinute - PER_MINUTE) <= 0.02 * PER_MINUTE, `${inMinute} were let in in a minute`);
  t.ok(worst <= 0, `no window holds more than rate · t + burst (${worst})`);
  t.same(promotedTwice(await readEntries(redis, keys)), []);

  // The watchers found nothing, and not because they slept: a record that breaks a promise reaches each of them.
  const counters = ['overshoot_total', 'duplicate_promotion_total', 'inversion_total'] as const;
  await configure(3, true);
  const first = (await readEntries(redis, keys)).find((record) => record.kind === 'promoted');
  if (first?.kind !== 'promoted') throw new Error('nobody was promoted');
  const { placeId, number } = first.visits[0]!;
  // Late enough that the rate would allow one more.
  const atMs = (seen.at(-1)?.atMs ?? 0) + 1000;
  for (const { read } of dispatchers)
    for (const name of counters) t.equal((await read(name)) ?? 0, 0, `${name} stays 0`);
  await redis.xadd(
    ...([keys.entries, '*', 'kind', 'promoted', 'atMs', atMs, 'deadlineMs', atMs] as const),
    ...(['visits', `${placeId} ${number}`, 'parked', '', 'newUsersPerMinute', PER_MINUTE] as const),
    ...(['effectiveBurst', BURST, 'totalActiveUsers', WAITING, 'queueingMethod', 'fifo'] as const),
  );
  for (const { read } of dispatchers) {
    await eventually(
      'the watcher has read to the end',
      async () => (await read('duplicate_promotion_total')) === 1,
    );
    t.equal((await read('overshoot_total')) ?? 0, 0, 'the rate would have allowed it');
    t.equal(await read('inversion_total'), 1, 'it was the first number of all');
  }
  await stop();
});
