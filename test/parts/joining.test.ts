// Joins in batches: what arrives together goes to Redis together, each visitor with an answer of its own.

import t from 'tap';
import { createJoining, type JoinAsk } from '../../gateway/joining.ts';
import { parsePlaceId, parseRoomId, type RoomId } from '../../kernel/ids.ts';
import { parseEntry } from '../../line/entries.ts';
import { defaultSettings, type Settings } from '../../line/settings.ts';
import { configure, roomKeys } from '../../lua/room.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';

let server: TestRedis;
t.before(async () => {
  server = await startRedis(t);
});

const config = { lineMax: 1000, withheldMax: 2, joinsMax: 100, joinBatchMs: 5 };
const ask = (index: number, over: Partial<JoinAsk> = {}): JoinAsk => ({
  placeId: parsePlaceId(`place${index}`.padEnd(16, '_'))!,
  drawScore: '',
  verdict: 'allow',
  ...over,
});
const open = async (name: string, over: Partial<Settings> = {}): Promise<RoomId> => {
  const room = parseRoomId(name)!;
  await configure.run(server.client, roomKeys(room), {
    nowMs: '',
    version: 1,
    settings: JSON.stringify({ ...defaultSettings, ...over }),
    create: 1,
  });
  return room;
};
const joinCalls = async (): Promise<number> =>
  Number(/cmdstat_evalsha:calls=(\d+)/.exec(await server.client.info('commandstats'))?.[1] ?? 0);

t.test('joins that arrive together are one call, numbered in the order of their arrival', async (t) => {
  const room = await open('together');
  const joining = createJoining({ config, redis: server.client });
  await joining.join(room, 1, ask(0));
  const before = await joinCalls();
  const answers = await Promise.all(
    Array.from({ length: 100 }, (_, index) => joining.join(room, 1, ask(index + 1))),
  );
  t.equal((await joinCalls()) - before, 1);
  t.same(
    answers.map((answer) => ('number' in answer ? answer.number : answer.outcome)),
    Array.from({ length: 100 }, (_, index) => index + 2),
  );
  const [[, flat] = ['', []]] = await server.client.xrevrange(roomKeys(room).joins, '+', '-', 'COUNT', 1);
  t.equal(flat[flat.indexOf('visits') + 1]?.split(',').length, 100, 'the ledger gets one record of them all');
  t.equal(parseEntry(flat), undefined, 'which is no record of the entry stream');
});

t.test('a batch is at most 128: the 129th goes in a call of its own', async (t) => {
  const room = await open('long');
  const joining = createJoining({ config, redis: server.client });
  await joining.join(room, 1, ask(0));
  const before = await joinCalls();
  await Promise.all(Array.from({ length: 129 }, (_, index) => joining.join(room, 1, ask(index + 1))));
  t.equal((await joinCalls()) - before, 2);
});

t.test('each visitor of a batch gets the outcome that is theirs', async (t) => {
  const room = await open('mixed');
  const joining = createJoining({ config: { ...config, lineMax: 2 }, redis: server.client });
  await joining.join(room, 1, ask(1));
  const answers = await Promise.all([
    joining.join(room, 1, ask(1)),
    joining.join(room, 1, ask(2, { verdict: 'block' })),
    joining.join(room, 1, ask(3)),
    joining.join(room, 1, ask(3)),
    joining.join(room, 1, ask(4)),
  ]);
  t.match(answers[0], { outcome: 'held', state: 'waiting', number: 1 });
  t.match(answers[1], { outcome: 'joined', state: 'withheld', number: 2 });
  t.match(answers[2], { outcome: 'joined', state: 'waiting', number: 3 });
  t.match(answers[3], { number: 3 }, 'twice in one batch is one place');
  t.same(answers[4], { outcome: 'full' });
  t.equal(await server.client.zcard(roomKeys(room).line), 2);
  const roomy = createJoining({ config, redis: server.client });
  await Promise.all([5, 6, 7].map((index) => roomy.join(room, 1, ask(index, { verdict: 'tarpit' }))));
  t.equal(
    await server.client.zcard(roomKeys(room).withheld),
    2,
    'the oldest withheld go when it is too many',
  );
});

t.test('two rooms and two sales are never mixed in one call', async (t) => {
  const [one, two] = [await open('one'), await open('two', { sale: 2 })];
  const joining = createJoining({ config, redis: server.client });
  const answers = await Promise.all([
    joining.join(one, 1, ask(1)),
    joining.join(two, 2, ask(1)),
    joining.join(two, 1, ask(2)),
    joining.join(two, 2, ask(3)),
  ]);
  t.same(
    answers.map((answer) => answer.outcome),
    ['joined', 'joined', 'otherSale', 'joined'],
  );
});

t.test('when Redis does not answer, everyone in the batch is told and may ask again', async (t) => {
  const room = await open('gone');
  const client = await server.connect('gone');
  const joining = createJoining({ config, redis: client });
  const lost = [joining.join(room, 1, ask(1)), joining.join(room, 1, ask(2))];
  client.disconnect();
  for (const answer of lost) await t.rejects(answer);
  const back = createJoining({ config, redis: server.client });
  t.match(await back.join(room, 1, ask(1)), { outcome: 'joined', number: 1 });
});
