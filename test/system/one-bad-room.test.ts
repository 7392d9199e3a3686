// One room that cannot be read is that room's trouble: whatever a hand, a bug or another version left in Redis, people
// of every other room go on being let in, staff see which room it is and what fails, and it goes on once it is mended.

import t from 'tap';
import { parseRoomId, type RoomId } from '../../kernel/ids.ts';
import { roomKeys } from '../../lua/room.ts';
import { eventually } from '../support/eventually.ts';
import { Fan } from '../support/fan.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';
import { createSystem, type System, UNHURRIED } from '../support/system.ts';

t.setTimeout(900_000);

let redis: TestRedis;
let system: System;
let fans = 0;
const headers = () => ({
  authorization: `Bearer ${system.operatorToken}`,
  'content-type': 'application/json',
});
// Redis answers them in no order that could be relied on: several, so that some stand behind the bad one.
const GOOD = ['alpha', 'beta', 'gamma', 'delta'];
const BAD = parseRoomId('bad')!;

t.before(async () => {
  redis = await startRedis(t);
  system = await createSystem(t, { ANTEROOM_REDIS_URL: redis.url, ANTEROOM_LOG_LEVEL: 'info' });
  await system.start();
  for (const room of [...GOOD, BAD]) {
    const made = await fetch(`${system.admin}/v1/rooms`, {
      method: 'POST',
      headers: headers(),
      body: JSON.stringify({
        ...{ room, title: room, routes: [`/${room}`], origin: 'booking-core', ...UNHURRIED },
        ...{ newUsersPerMinute: 60_000, burst: 1000, totalActiveUsers: 1000 },
      }),
    });
    if (made.status !== 201) throw new Error(`${room}: ${made.status} ${await made.text()}`);
  }
  for (const room of [...GOOD, BAD])
    await eventually(
      `${room} is known`,
      async () => (await fetch(`${system.base}/v1/rooms/${room}`)).status === 200,
    );
});

const newFan = (room: string): Fan => {
  fans += 1;
  return new Fan({ base: system.base, index: fans, room });
};
const enter = async (room: string): Promise<Fan> => {
  const fan = newFan(room);
  const joined = await fan.join();
  if (joined.status !== 201) throw new Error(`${room}: the join answered ${joined.status}: ${joined.text}`);
  const turn = await fan.wait('sse');
  const claimed = await fan.claim('claim' in turn ? turn.claim : '');
  if (claimed.status !== 200)
    throw new Error(`${room}: the claim answered ${claimed.status}: ${claimed.text}`);
  return fan;
};
const ready = async () =>
  (await (await fetch(`http://127.0.0.1:${system.ports.metrics}/ready`)).json()) as {
    ready: boolean;
    failing?: string[];
  };
const othersGoOn = async () => {
  for (const room of GOOD) await enter(room);
};

/** Keys of the bad room with something else in them, put back afterwards. */
const spoil = async (key: string, value: () => Promise<unknown>) => {
  const was = await redis.client.dumpBuffer(key);
  await redis.client.del(key);
  await value();
  return async () => {
    await redis.client.del(key);
    if (was !== null) await redis.client.restore(key, 0, was);
  };
};

const keysOf = (room: RoomId) => roomKeys(room);
const kinds: Record<string, { what: RegExp | undefined; spoilt: () => Promise<() => Promise<unknown>> }> = {
  'a line that is no line': {
    what: /^dispatcher bad room\.promote$/,
    spoilt: () => spoil(keysOf(BAD).line, () => redis.client.set(keysOf(BAD).line, 'x')),
  },
  'presence that is none': {
    what: /^dispatcher bad room\./,
    spoilt: () => spoil(keysOf(BAD).here, () => redis.client.set(keysOf(BAD).here, 'x')),
  },
  'places that are a list': {
    what: /^dispatcher bad room\./,
    spoilt: () => spoil(keysOf(BAD).places, () => redis.client.rpush(keysOf(BAD).places, 'x')),
  },
  'a stream of entries that is a text': {
    what: /^dispatcher bad room\./,
    spoilt: () => spoil(keysOf(BAD).entries, () => redis.client.set(keysOf(BAD).entries, 'x')),
  },
  'settings in words': {
    what: /^dispatcher bad room\./,
    spoilt: async () => {
      const was = await redis.client.hget(keysOf(BAD).room, 'totalActiveUsers');
      await redis.client.hset(keysOf(BAD).room, 'totalActiveUsers', 'many');
      return () => redis.client.hset(keysOf(BAD).room, 'totalActiveUsers', was ?? '');
    },
  },
  'a snapshot that is a list': {
    what: undefined, // The next one takes its place.
    spoilt: () => spoil(keysOf(BAD).snapshot, () => redis.client.rpush(keysOf(BAD).snapshot, 'x')),
  },
  'a snapshot that nobody can read': {
    what: undefined,
    spoilt: () => spoil(keysOf(BAD).snapshot, () => redis.client.set(keysOf(BAD).snapshot, '{"atMs":1}')),
  },
};

for (const [kind, { what, spoilt }] of Object.entries(kinds))
  t.test(`${kind}: the other rooms go on, it is named, and goes on when it is mended`, async (t) => {
    await enter('bad');
    const mend = await spoilt();
    // Somebody has to want something of the room for a fault of it to show.
    await newFan('bad').join();
    if (what !== undefined)
      await eventually('it is named', async () =>
        ((await ready()).failing ?? []).some((each) => what.test(each)),
      );
    t.equal((await ready()).ready, true, 'nobody is taken out of rotation for it');
    await othersGoOn();
    const listed = await fetch(`${system.admin}/v1/rooms`, { headers: headers() });
    t.equal(listed.status, 200, 'staff see their rooms');
    t.equal(
      (await fetch(`${system.admin}/v1/decisions`, { headers: headers() })).status,
      200,
      'and decisions',
    );
    await mend();
    await eventually('it is well', async () => (await ready()).failing === undefined);
    await enter('bad');
  });

t.test('a place of which nobody knows whose it is holds up nobody, and is named', async () => {
  const { placeId } = await (async () => {
    await enter('bad');
    const [id] = await redis.client.zrevrange(keysOf(BAD).active, 0, 0);
    return { placeId: id! };
  })();
  const expiring = await enter('bad');
  const [other] = (await redis.client.zrevrange(keysOf(BAD).active, 0, -1)).filter((id) => id !== placeId);
  await redis.client.hdel(keysOf(BAD).places, placeId);
  await redis.client.zadd(keysOf(BAD).active, 1, placeId, 2, other!);
  await eventually('the one behind it has ended', async () => {
    const state = await redis.client.zscore(keysOf(BAD).active, other!);
    return state === null;
  });
  await eventually('it is said', () => system.output().includes('"event":"places-unreadable"'));
  await expiring.ask('GET', '/bad');
  await othersGoOn();
});
