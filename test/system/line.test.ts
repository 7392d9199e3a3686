// Promises of the line that only show over HTTP, on a whole system: identity, clocks, rooms beside each other, the
// end of a sale as a fan sees it.

import t from 'tap';
import { takePort } from '../../bench/ports.ts';
import { parseRoomId, type RoomId } from '../../kernel/ids.ts';
import { roomKeys } from '../../lua/room.ts';
import { openStream, type TestStream } from '../support/client.ts';
import { eventually } from '../support/eventually.ts';
import { Fan } from '../support/fan.ts';
import { startPostgres } from '../support/postgres.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';
import { tune as tuneDemo } from '../support/sale.ts';
import { createSystem, type System, UNHURRIED } from '../support/system.ts';

t.setTimeout(900_000);
let redis: TestRedis;
let system: System;
t.before(async () => {
  redis = await startRedis(t);
  system = await createSystem(t, {
    ANTEROOM_REDIS_URL: redis.url,
    ANTEROOM_LOG_LEVEL: 'error',
    ANTEROOM_VISITOR_BURST: '10000',
    ANTEROOM_VISITOR_PER_SECOND: '10000',
  });
  await system.start();
});

const operator = async (method: string, path: string, body?: object) => {
  const answer = await fetch(`${system.admin}${path}`, {
    method,
    headers: { authorization: `Bearer ${system.operatorToken}`, 'content-type': 'application/json' },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  return {
    status: answer.status,
    body: (await answer.json()) as { version?: number; preview?: { confirm: string } },
  };
};
/** Changes settings as an operator would, the second look included. */
const tune = async (room: string, change: object): Promise<void> => {
  const { version } = (await operator('GET', `/v1/rooms/${room}`)).body;
  let done = await operator('PATCH', `/v1/rooms/${room}`, { ...change, version });
  const { preview } = done.body;
  if (preview !== undefined)
    done = await operator('PATCH', `/v1/rooms/${room}`, { ...change, version, confirm: preview.confirm });
  if (done.status !== 200) throw new Error(`tuning answered ${done.status}: ${JSON.stringify(done.body)}`);
};
const makeRoom = async (name: string, settings: object = {}): Promise<RoomId> => {
  const made = await operator('POST', '/v1/rooms', {
    room: name,
    title: name,
    routes: [`/${name}`],
    ...UNHURRIED,
    ...settings,
  });
  if (made.status !== 201)
    throw new Error(`making a room answered ${made.status}: ${JSON.stringify(made.body)}`);
  await eventually('the room is known to the gateway', async () => {
    const seen = await fetch(`${system.base}/v1/rooms/${name}`);
    return seen.status === 200;
  });
  return parseRoomId(name)!;
};
let people = 1000;
const fanOf = (room: string): Fan => new Fan({ base: system.base, index: people++, room });
const listen = (fan: Fan): Promise<TestStream> =>
  openStream(`${system.base}/v1/rooms/${fan.room}/events`, {
    headers: fan.headers({ accept: 'text/event-stream' }),
  });
const event = async (
  stream: TestStream,
  wanted: (type: string, data: Record<string, unknown>) => boolean,
) => {
  for (;;) {
    const next = await stream.next();
    if (next === undefined) throw new Error('the stream ended');
    const data: Record<string, unknown> = JSON.parse(next.data ?? '{}');
    if (wanted(next.event ?? '', data)) return data;
  }
};

t.test('Q9: reload, second tab and a second device with one identity are one place', async (t) => {
  await makeRoom('devices', { queueAll: true });
  const phone = fanOf('devices');
  const number = (await phone.join()).json.number;
  t.type(number, 'number');
  t.equal((await phone.join()).json.number, number, 'a reload joins again');
  const tab = fanOf('devices');
  for (const [name, value] of phone.cookies) tab.cookies.set(name, value);
  t.equal((await tab.join()).json.number, number, 'a second tab');
  const streams = [await listen(phone), await listen(tab)];
  for (const stream of streams) {
    const told = await event(stream, (type) => type === 'position');
    t.equal(told.position, 1, 'both tabs are told the same');
  }
  for (const stream of streams) stream.close();
  t.equal(
    (await phone.ask('GET', '/v1/rooms/devices/places/me')).json.number,
    number,
    'a cut keeps the place',
  );
  // Another device knows nothing but the receipt that was shown on the first.
  const receipt = String((await phone.join()).json.receipt);
  const laptop = fanOf('devices');
  const moved = await laptop.ask('POST', '/v1/rooms/devices/places', { body: { receipt } });
  t.equal(moved.json.number, number, 'the receipt brings the place along');
  t.equal(await redis.client.zcard(roomKeys(parseRoomId('devices')!).line), 1);
});

t.test('Q17: a broker whose fans are all far from their turn says that presence is known', async (t) => {
  const room = await makeRoom('ghosts', { suspended: true, newUsersPerMinute: 60, graceSeconds: 30 });
  const keys = roomKeys(room);
  const ghosts = Array.from({ length: 1000 }, (_, index) => [index + 1, `ghost${index}`.padEnd(16, '_')]);
  await redis.client.zadd(keys.line, ...ghosts.flat());
  await redis.client.hset(keys.room, 'nextNumber', ghosts.length);
  const nearScore = async () => Number(await redis.client.hget(keys.room, 'nearScore'));
  await eventually('the line is measured', async () => (await nearScore()) < ghosts.length);
  const fan = fanOf('ghosts');
  const { number } = (await fan.join()).json;
  const stream = await listen(fan);
  await event(stream, (type) => type === 'position');
  const heardAt = async () => Number((await redis.client.hget(keys.room, 'hereAt')) ?? 0);
  await eventually('presence is known', async () => (await heardAt()) > 0);
  t.ok(Number(number) > (await nearScore()), `${number} is far behind those near their turn`);
  const first = await heardAt();
  await eventually('and stays so', async () => (await heardAt()) > first);
  // So the ghosts are passed over, and the fan behind all of them is called at once.
  // (The stream stands for all of this: how long a place outlives its fan's last word is not what is asked here.)
  await tune('ghosts', { suspended: false, totalActiveUsers: 10, graceSeconds: 600 });
  await event(stream, (type) => type === 'promoted');
  t.equal(await redis.client.zcard(keys.parked), ghosts.length, 'no ghost was called');
  stream.close();
});

t.test('200 parallel joins of one visitor are one place, and every answer says so', async (t) => {
  const room = await makeRoom('parallel', { queueAll: true });
  const visitor = fanOf('parallel');
  const { number } = (await visitor.join()).json;
  await visitor.ask('DELETE', '/v1/rooms/parallel/places/me');
  visitor.cookies.delete('ar_r_parallel');
  const answers = await Promise.all(Array.from({ length: 200 }, () => visitor.join()));
  const numbers = new Set(answers.map((answer) => answer.json.number));
  t.equal(numbers.size, 1, [...numbers].join());
  t.ok(Number([...numbers][0]) > Number(number));
  t.ok(answers.every((answer) => answer.status === 201 || answer.status === 200));
  t.equal(await redis.client.zcard(roomKeys(room).line), 1);
});

t.test('a receipt of a finished visit stands nobody up again; its owner queues anew', async (t) => {
  await makeRoom('finished', { queueAll: true });
  const fan = fanOf('finished');
  const first = (await fan.join()).json;
  t.equal((await fan.ask('DELETE', '/v1/rooms/finished/places/me')).status, 204);
  const again = await fan.ask('POST', '/v1/rooms/finished/places', { body: { receipt: first.receipt } });
  t.equal(again.status, 201);
  t.ok(Number(again.json.number) > Number(first.number), 'a new number at the back');
});

t.test('a score in the request is refused, wherever it is put', async (t) => {
  const room = await makeRoom('scores', { queueAll: true });
  await fanOf('scores').join();
  const fan = fanOf('scores');
  const given = await fan.ask('POST', '/v1/rooms/scores/places', { body: { score: -5 } });
  t.match(given, { status: 400, json: { code: 'bad-field' } });
  await fan.ask('POST', '/v1/rooms/scores/places?score=-5&number=0', {
    body: {},
    headers: { score: '-5', 'x-score': '-5', 'anteroom-score': '-5' },
  });
  const line = await redis.client.zrange(roomKeys(room).line, '0', '-1', 'WITHSCORES');
  t.same([line[1], line[3]], ['1', '2'], 'by arrival all the same');
});

t.test('Q21: one visitor stands in two rooms at once, and a crash in one locks nobody out', async (t) => {
  await makeRoom('left');
  await makeRoom('right', { queueAll: true });
  const fan = fanOf('left');
  const left = await fan.join();
  const right = await fan.ask('POST', '/v1/rooms/right/places', { body: {} });
  t.match([left.status, right.status], [201, 201]);
  t.equal((await fan.ask('GET', '/v1/rooms/right/places/me')).json.state, 'waiting');
  const turn = await fan.wait('sse');
  t.equal((await fan.claim('claim' in turn ? turn.claim : '')).status, 200, 'inside of one');
  t.equal((await fan.ask('GET', '/v1/rooms/right/places/me')).json.state, 'waiting', 'waiting in the other');
  t.equal((await fan.ask('GET', '/right')).status, 429, 'one session opens one door');
});

t.test('Q22: only a POST joins: GET, HEAD, prefetch and prerender do nothing', async (t) => {
  const room = await makeRoom('reading', { queueAll: true });
  for (const method of ['GET', 'HEAD'])
    for (const path of ['/reading', '/rooms/reading', '/v1/rooms/reading', '/v1/rooms/reading/places/me'])
      for (const purpose of ['', 'prefetch', 'prefetch;prerender'])
        await fanOf('reading').ask(method, path, {
          headers: { accept: 'text/html', ...(purpose === '' ? {} : { 'sec-purpose': purpose }) },
        });
  t.equal(await redis.client.hget(roomKeys(room).room, 'nextNumber'), '0');
  t.equal(await redis.client.exists(roomKeys(room).line), 0);
});

t.test('Q23: a stream that vanishes heals by itself: the next promotion is told', async (t) => {
  const room = await makeRoom('healing', { queueAll: true, totalActiveUsers: 5 });
  const fan = fanOf('healing');
  await fan.join();
  const stream = await listen(fan);
  await event(stream, (type) => type === 'position');
  await redis.client.del(roomKeys(room).entries);
  await tune('healing', { queueAll: false });
  const told = await event(stream, (type) => type === 'promoted');
  t.type(told.claimToken, 'string');
  stream.close();
});

t.test('a sale that is over ends for everyone: streams, polls, joins and the page', async (t) => {
  const room = await makeRoom('ending', { queueAll: true });
  const [streaming, polling] = [fanOf('ending'), fanOf('ending')];
  await streaming.join();
  await polling.join();
  const stream = await listen(streaming);
  await event(stream, (type) => type === 'position');
  await tune('ending', { closesAt: Date.now() });
  const ended = await event(stream, (type) => type === 'ended');
  t.equal(ended.reason, 'closed');
  t.equal(await stream.next(), undefined, 'and the stream is closed');
  await eventually('whoever polls is told too', async () => {
    const poll = await polling.ask('GET', '/v1/rooms/ending/places/me');
    return poll.status === 403 && poll.json.code === 'room-closed';
  });
  t.match(await fanOf('ending').join(), { status: 403, json: { code: 'room-closed' } });
  const page = await polling.ask('GET', '/rooms/ending', { headers: { accept: 'text/html' } });
  t.match(page.text, /This sale has closed/);
  t.equal(await redis.client.exists(roomKeys(room).line), 0, 'and the line is gone');
});

t.test(
  'a new sale in the same room sends everyone to the start, and old tokens are worth nothing',
  async (t) => {
    await makeRoom('again', { totalActiveUsers: 1 });
    const [inside, waiting] = [fanOf('again'), fanOf('again')];
    await inside.join();
    await waiting.join();
    const turn = await inside.wait('poll');
    t.equal((await inside.claim('claim' in turn ? turn.claim : '')).status, 200);
    const receipt = String((await waiting.join()).json.receipt);
    const stream = await listen(waiting);
    await event(stream, (type) => type === 'position');
    await tune('again', { sale: 2, queueAll: true });
    t.equal((await event(stream, (type) => type === 'ended')).reason, 'newSale');
    await eventually(
      'the session of the old sale opens nothing',
      async () => (await inside.ask('GET', '/again')).status === 429,
    );
    // A gateway that has not seen the new sale yet says to ask again.
    let answer = await waiting.ask('POST', '/v1/rooms/again/places', { body: { receipt } });
    await eventually('the new sale is seen', async () => {
      if (answer.status === 503)
        answer = await waiting.ask('POST', '/v1/rooms/again/places', { body: { receipt } });
      return answer.status !== 503;
    });
    t.match(answer, { status: 400, json: { code: 'receipt-invalid' } });
    waiting.cookies.delete('ar_r_again');
    t.match(await waiting.join(), { status: 201, json: { number: 1 } });
  },
);

t.test('when the line is taken away everyone is told to go in, and does', async (t) => {
  await makeRoom('through', { queueAll: true });
  const fan = fanOf('through');
  await fan.join();
  const stream = await listen(fan);
  await event(stream, (type) => type === 'position');
  await tune('through', { queueingMethod: 'passthrough' });
  await event(stream, (type, data) => type === 'state' && data.gate === 'passthrough');
  stream.close();
  t.not((await fan.ask('GET', '/through')).status, 429);
});

t.test(
  'Q14: gateways whose clocks are ten minutes wrong change nothing: order is arrival at Redis',
  async (t) => {
    const store = await startRedis(t);
    const postgres = await startPostgres(t);
    const skewed = await createSystem(t, {
      ANTEROOM_REDIS_URL: store.url,
      ANTEROOM_DATABASE_URL: postgres.url,
      ANTEROOM_LOG_LEVEL: 'error',
    });
    await skewed.start({ roles: 'dispatcher,admin,booking-core' });
    const bases: string[] = [];
    for (const clock of ['+10m', '-10m']) {
      const port = await takePort();
      await skewed.start({
        roles: 'gateway,broker',
        metricsPort: await takePort(),
        clock,
        env: { ANTEROOM_PORT: String(port) },
      });
      bases.push(`http://127.0.0.1:${port}`);
    }
    await tuneDemo(skewed, UNHURRIED);
    const fans: Fan[] = [];
    for (let index = 0; index < 20; index += 1) {
      const fan = new Fan({ base: bases[index % 2]!, index });
      t.equal((await fan.join()).status, 201);
      fans.push(fan);
    }
    const numbers = fans.map((fan) => Number(fan.number));
    t.same(
      numbers,
      [...numbers].sort((a, b) => a - b),
      'numbered as they came, whichever gateway took them',
    );
    // Whoever joined at the gateway of yesterday claims and enters at the gateway of tomorrow, and the other way round.
    for (const fan of fans.slice(0, 2)) {
      const turn = await fan.wait('sse');
      const other = new Fan({ base: bases.find((base) => base !== fan.base)!, index: 99 });
      for (const [name, value] of fan.cookies) other.cookies.set(name, value);
      t.equal((await other.claim('claim' in turn ? turn.claim : '')).status, 200);
      t.equal((await other.ask('GET', '/v1/events/demo')).status, 200, 'inside at the other gateway');
      for (const [name, value] of other.cookies) fan.cookies.set(name, value);
      t.equal((await fan.ask('GET', '/v1/events/demo')).status, 200, 'and at its own');
    }
    const expiries = await store.client.zrange(
      roomKeys(parseRoomId('demo')!).active,
      '0',
      '-1',
      'WITHSCORES',
    );
    const [seconds] = await store.client.time();
    for (const expiry of [expiries[1], expiries[3]]) {
      const left = Number(expiry) / 1000 - Number(seconds);
      // Ten minutes less, or more, would be the clock of a gateway; nothing here takes as long.
      const { sessionSeconds } = UNHURRIED;
      t.ok(
        left > sessionSeconds - 600 && left <= sessionSeconds + 1,
        `a session of ${sessionSeconds} s has ${Math.round(left)} s left by Redis's clock`,
      );
    }
  },
);
