// What survives: kill -9 of the whole process in the middle of a sale, a Redis that loses everything, a Redis that
// goes away for a while, a Redis that was never there.

import t from 'tap';
import { parseRoomId } from '../../kernel/ids.ts';
import { roomKeys } from '../../lua/room.ts';
import { openStream, type TestStream } from '../support/client.ts';
import { eventually } from '../support/eventually.ts';
import { Fan } from '../support/fan.ts';
import { startRedis } from '../support/redis.ts';
import { createSystem, type System, UNHURRIED } from '../support/system.ts';

t.setTimeout(600_000);
const keys = roomKeys(parseRoomId('demo')!);

const tune = async (system: System, change: object): Promise<void> => {
  const headers = { authorization: `Bearer ${system.operatorToken}`, 'content-type': 'application/json' };
  const { version } = (await (await fetch(`${system.admin}/v1/rooms/demo`, { headers })).json()) as {
    version: number;
  };
  const done = await fetch(`${system.admin}/v1/rooms/demo`, {
    method: 'PATCH',
    headers,
    body: JSON.stringify({ ...change, version }),
  });
  if (done.status !== 200) throw new Error(`tuning answered ${done.status}: ${await done.text()}`);
};

const join = async (system: System, count: number, from = 0): Promise<Fan[]> => {
  const fans: Fan[] = [];
  for (let index = from; index < from + count; index += 1) {
    const fan = new Fan({ base: system.base, index });
    const joined = await fan.join();
    if (joined.status !== 201) throw new Error(`join answered ${joined.status}: ${joined.text}`);
    fans.push(fan);
  }
  return fans;
};

t.test(
  'kill -9 in the middle of a sale with the embedded stores: everyone comes back with the same number, in the same order',
  async (t) => {
    const system = await createSystem(t, { ANTEROOM_LOG_LEVEL: 'warn' }, 'embedded');
    const first = await system.start();
    await tune(system, { ...UNHURRIED, totalActiveUsers: 1 });
    const fans = await join(system, 30);
    const inside = fans.shift()!;
    const turn = await inside.wait('poll');
    t.equal((await inside.claim('claim' in turn ? turn.claim : '')).status, 200);
    const numbers = fans.map((fan) => fan.number);

    await system.end(first, 'SIGKILL');
    await system.start();

    t.equal((await inside.ask('GET', '/v1/events/demo')).status, 200, 'whoever was inside still is');
    let before = 0;
    for (const [index, fan] of fans.entries()) {
      const status = await fan.ask('GET', '/v1/rooms/demo/places/me');
      t.equal(status.json.state, 'waiting', status.text);
      t.equal(status.json.number, numbers[index]);
      t.ok(Number(status.json.position) > before, 'in order');
      before = Number(status.json.position);
    }
    t.equal((await fans[0]!.join()).json.number, numbers[0], 'joining again gives the same place');
  },
);

t.test(
  'FLUSHALL in the middle of a sale: the connected stand again in order, the served do not get in again',
  async (t) => {
    const redis = await startRedis(t);
    const system = await createSystem(t, {
      ANTEROOM_REDIS_URL: redis.url,
      ANTEROOM_LOG_LEVEL: 'warn',
      // As long as it may be: the test says when it is over.
      ANTEROOM_RECOVERY_SECONDS: '600',
    });
    await system.start();
    await tune(system, { ...UNHURRIED, totalActiveUsers: 2, newUsersPerMinute: 100, burst: 5 });
    const [served, inside, ...waiting] = await join(system, 22);
    const turns: string[] = [];
    for (const fan of [served!, inside!]) {
      const turn = await fan.wait('poll');
      turns.push('claim' in turn ? turn.claim : '');
      t.equal((await fan.claim(turns.at(-1))).status, 200);
    }
    const servedCookies = new Map(served!.cookies);
    await tune(system, { suspended: true });
    t.equal((await served!.ask('DELETE', '/v1/rooms/demo/places/me')).status, 204);
    // Who gives a place up and joins again stands at the back; the receipt of the place in front is still a true one.
    const restless = waiting.splice(0, 1)[0]!;
    const inFront = new Fan({ base: system.base, index: 901 });
    inFront.cookies.set('ar_r_demo', restless.cookies.get('ar_r_demo')!);
    t.equal((await restless.ask('DELETE', '/v1/rooms/demo/places/me')).status, 204);
    t.equal((await restless.join()).status, 201);
    waiting.push(restless);
    const streams: TestStream[] = [];
    for (const fan of waiting.slice(0, 15))
      streams.push(
        await openStream(`${system.base}/v1/rooms/demo/events`, {
          headers: fan.headers({ accept: 'text/event-stream' }),
        }),
      );
    for (const stream of streams)
      await eventually('a first position', async () => (await stream.next())?.event === 'position');
    const order = await redis.client.zrange(keys.line, '0', '-1');
    t.equal(order.length, 20);
    await eventually(
      'a snapshot knows the line',
      async () => JSON.parse((await redis.client.get(keys.snapshot)) ?? '{}').waiting === 20,
    );

    await redis.client.flushall();
    t.not((await inside!.ask('GET', '/v1/events/demo')).status, 500);
    await eventually('the connected stand again', async () => (await redis.client.zcard(keys.line)) >= 15);
    const newcomer = new Fan({ base: system.base, index: 900 });
    t.equal((await newcomer.join()).status, 503, 'nobody new joins while the line is being restored');
    t.equal(
      (await inFront.ask('GET', '/v1/rooms/demo/places/me')).status,
      404,
      'a receipt of a place given up is none, before or after',
    );
    for (const fan of waiting.slice(15))
      t.equal(
        (await fan.ask('GET', '/v1/rooms/demo/places/me')).json.state,
        'waiting',
        'a receipt restores a poller',
      );
    t.same(await redis.client.zrange(keys.line, '0', '-1'), order, 'everyone, in the same order');

    await eventually(
      'whoever was inside is inside',
      async () => (await inside!.ask('GET', '/v1/events/demo')).status === 200,
    );
    for (const [name, value] of servedCookies) served!.cookies.set(name, value);
    t.equal(
      (await served!.ask('GET', '/v1/rooms/demo/places/me')).status,
      404,
      'a receipt of someone served is no place',
    );
    t.same(
      [(await served!.claim(turns[0])).json.code, (await served!.ask('GET', '/v1/events/demo')).status],
      ['place-finished', 429],
      'and their claim token no session',
    );
    t.equal((await newcomer.join()).status, 503, 'and until it is over nobody else');
    await redis.client.hset(keys.room, 'recoveringUntil', 1);
    await eventually('recovery is over', async () => (await newcomer.join()).status === 201);
    const again = await served!.join();
    t.ok(
      again.status === 201 && Number(again.json.number) > 1_000_000,
      `served fans queue at the back: ${again.text}`,
    );
    t.equal((await served!.claim()).status, 409);
    t.equal(await redis.client.zrank(keys.line, order[0]!), 0);
    for (const stream of streams) stream.close();
  },
);

t.test(
  'Redis gone for a while: 503 with Retry-After, streams stay, and all goes on without a restart',
  async (t) => {
    // This is about the outage: whatever was answered is in the file, so nothing is lost with -9.
    const redis = await startRedis(t, { appendOnly: true, more: ['--appendfsync', 'always'] });
    const system = await createSystem(t, { ANTEROOM_REDIS_URL: redis.url, ANTEROOM_LOG_LEVEL: 'error' });
    const child = await system.start();
    t.same(await redis.client.config('GET', 'appendfsync'), ['appendfsync', 'always']);
    await tune(system, { ...UNHURRIED, suspended: true });
    const [fan] = await join(system, 1);
    const stream = await openStream(`${system.base}/v1/rooms/demo/events`, {
      headers: fan!.headers({ accept: 'text/event-stream' }),
    });
    await eventually('a first event', async () => (await stream.next()) !== undefined);
    await redis.kill();

    await eventually(
      'joins are refused',
      async () => (await new Fan({ base: system.base, index: 2 }).join()).status === 503,
    );
    const refused = await new Fan({ base: system.base, index: 3 }).join();
    t.ok(Number(refused.headers['retry-after']) > 0);
    t.equal(refused.json.code, 'unavailable');
    const page = await fan!.ask('GET', '/demo', { headers: { accept: 'text/html' } });
    t.ok(page.status === 200 || page.status === 503, 'a page, not a crash');
    t.equal(child.exitCode, null);
    await redis.start();
    await eventually(
      'joins go on',
      async () => (await new Fan({ base: system.base, index: 4 }).join()).status === 201,
    );
    t.equal((await fan!.ask('GET', '/v1/rooms/demo/places/me')).json.number, fan!.number);
    await tune(system, { suspended: false });
    await eventually(
      'the stream that stayed hears its turn',
      async () => (await stream.next())?.event === 'promoted',
    );
    stream.close();
  },
);

t.test('Redis not reachable at start: a sentence and an exit', async (t) => {
  const system = await createSystem(t, { ANTEROOM_REDIS_URL: 'redis://:secret@127.0.0.1:1' });
  await t.rejects(system.start(), /cannot be reached/);
  t.match(
    system.output(),
    /Redis at redis:\/\/127\.0\.0\.1:1 cannot be reached\. Start it, or correct ANTEROOM_REDIS_URL\./,
  );
  t.notMatch(system.output(), /secret/);
});
