// Looks in batches: places asked about together are looked up together, each with the answer it would have had alone.

import t from 'tap';
import { type PlaceId, parsePlaceId, parseRoomId, type RoomId } from '../../kernel/ids.ts';
import { createLooks } from '../../line/looks.ts';
import { defaultSettings } from '../../line/settings.ts';
import * as scripts from '../../lua/room.ts';
import { joinOne, lookOne } from '../support/one.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';

let server: TestRedis;
t.before(async () => {
  server = await startRedis(t);
});

const place = (name: string): PlaceId => parsePlaceId(name.padEnd(16, '_'))!;
const open = async (name: string) => {
  const room = parseRoomId(name)!;
  const keys = scripts.roomKeys(room);
  const settings = { ...defaultSettings, totalActiveUsers: 2, burst: 2, newUsersPerMinute: 60_000 };
  await scripts.configure.run(server.client, keys, {
    ...{ nowMs: '', version: 1, create: 1 },
    settings: JSON.stringify(settings),
  });
  const join = (who: string, verdict = 'allow') =>
    joinOne(server.client, keys, { nowMs: '', placeId: place(who), verdict });
  return { room, keys, join };
};
const calls = async (): Promise<number> =>
  Number(/cmdstat_evalsha:calls=(\d+)/.exec(await server.client.info('commandstats'))?.[1] ?? 0);

t.test('each place of a batch is found in the state it has, in one call', async (t) => {
  const { room, keys, join } = await open('states');
  const { client } = server;
  for (const who of ['active', 'promoted', 'over', 'waiting', 'parked', 'missed']) await join(who);
  await join('withheld', 'block');
  await scripts.promote.run(client, keys, { nowMs: '', promoteMax: 2, examineMax: 500 });
  await scripts.claim.run(client, keys, {
    nowMs: '',
    placeId: place('active'),
    number: 1,
    shownSerial: '',
    visitor: 'a:AAAAAAAAAAAAAAAAAAAAAA',
  });
  await scripts.leave.run(client, keys, { nowMs: '', placeId: place('over') });
  // As promote and reap set them aside: with the score, the second also with a miss.
  for (const who of ['parked', 'missed'])
    await client.zadd(keys.parked, (await client.zscore(keys.line, place(who)))!, place(who));
  await client.zrem(keys.line, place('parked'), place('missed'));
  await client.hset(keys.places, place('missed'), '6 6 1 0');

  const names = [
    'missed',
    'stranger',
    'active',
    'waiting',
    'over',
    'promoted',
    'withheld',
    'parked',
    'waiting',
  ];
  const looks = createLooks(client);
  await lookOne(client, keys, place('active'));
  const before = await calls();
  const found = await Promise.all(names.map((who) => looks.at(room, place(who))));
  t.equal((await calls()) - before, 1);
  t.same(
    found.map((one) => ('state' in one ? [one.state, one.number, one.score, one.missed] : one.outcome)),
    [
      ['parked', 6, 6, true],
      'none',
      ['active', 1, 1, false],
      ['waiting', 4, 4, false],
      'finished',
      ['promoted', 2, 2, false],
      ['withheld', 7, 7, false],
      ['parked', 5, 5, false],
      ['waiting', 4, 4, false],
    ],
  );
  const until = async (key: string, who: string): Promise<number> =>
    Number(await client.zscore(key, place(who)));
  t.match(found[2], { untilMs: await until(keys.active, 'active') });
  t.match(found[5], { untilMs: await until(keys.promoted, 'promoted') });
  for (const [index, who] of names.entries())
    t.same(found[index], await lookOne(client, keys, place(who)), `${who}: as it is told alone`);
});

t.test('a place that returned with an older score is told with number and score', async (t) => {
  const { room, keys, join } = await open('scores');
  await join('drawn');
  await server.client.zadd(keys.line, -5, place('drawn'));
  await server.client.hset(keys.places, place('drawn'), '1 -5 0 0');
  t.match(await createLooks(server.client).at(room, place('drawn')), {
    state: 'waiting',
    number: 1,
    score: -5,
  });
});

t.test('a batch is at most 128, and rooms do not share one', async (t) => {
  const one = await open('first');
  const other = await open('second');
  await one.join('p0');
  await other.join('q0');
  const looks = createLooks(server.client);
  await looks.at(one.room, place('p0'));
  const before = await calls();
  const ask = (room: RoomId, who: string) => looks.at(room, place(who));
  const found = await Promise.all([
    ...Array.from({ length: 129 }, (_, index) => ask(one.room, `p${index % 128}`)),
    ask(other.room, 'q0'),
  ]);
  t.equal((await calls()) - before, 3);
  t.equal(found.filter(({ outcome }) => outcome === 'held').length, 3, 'who is there, in each of the three');
  t.match(found[129], { outcome: 'held', number: 1 });
  t.same(await ask(parseRoomId('nowhere')!, 'p0'), { outcome: 'unknown' });
});

t.test('a call that fails is the failure of each who was in it, and of nobody after', async (t) => {
  const { room, keys, join } = await open('failing');
  await join('p0');
  const looks = createLooks(server.client);
  await server.client.set(keys.places, 'no hash');
  const failed = await Promise.allSettled([looks.at(room, place('p0')), looks.at(room, place('p1'))]);
  t.same(
    failed.map(({ status }) => status),
    ['rejected', 'rejected'],
  );
  await server.client.del(keys.places);
  t.match(await looks.at(room, place('p0')), { outcome: 'held', number: 1 });
});
