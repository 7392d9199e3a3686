// Promises of the room scripts that a random walk does not name: each on a real Redis, with its own clock.

import t from 'tap';
import { type PlaceId, parsePlaceId, parseRoomId, type RoomId } from '../../kernel/ids.ts';
import { parseEntry } from '../../line/entries.ts';
import { defaultSettings, type Settings } from '../../line/settings.ts';
import * as scripts from '../../lua/room.ts';
import { UnknownOutcome } from '../../lua/script.ts';
import { joinOne, lookOne } from '../support/one.ts';
import { lastPromoted } from '../support/promoted.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';

let server: TestRedis;
t.before(async () => {
  server = await startRedis(t);
});

let counter = 0;
const T0 = 1_800_000_000_000;
const VISITOR = 'a:AAAAAAAAAAAAAAAAAAAAAA';
const place = (name: string): PlaceId => parsePlaceId(name.padEnd(16, '_'))!;

/** A room of its own for each test, with the scripts bound to it. */
const open = async (over: Partial<Settings> = {}) => {
  counter += 1;
  const room: RoomId = parseRoomId(`room-${counter}`)!;
  const keys = scripts.roomKeys(room);
  const redis = server.client;
  let version = 1;
  const configure = (more: Partial<Settings>, create: 0 | 1 = 0, nowMs = T0) =>
    scripts.configure.run(redis, keys, {
      nowMs,
      version: version++,
      settings: JSON.stringify({ ...defaultSettings, ...over, ...more }),
      create,
    });
  const created = await configure({}, 1);
  t.equal(created.outcome, 'created');
  const join = (
    name: string,
    options: {
      nowMs?: number;
      verdict?: string;
      sale?: number;
      draw?: number | '';
      lineMax?: number;
      withheldMax?: number;
    } = {},
  ) =>
    joinOne(redis, keys, {
      nowMs: options.nowMs ?? T0,
      sale: options.sale ?? 1,
      placeId: place(name),
      drawScore: options.draw ?? '',
      verdict: options.verdict ?? 'allow',
      lineMax: options.lineMax ?? 1000,
      withheldMax: options.withheldMax ?? 1000,
    });
  const promote = (nowMs: number, max = 500) =>
    scripts.promote.run(redis, keys, { nowMs, promoteMax: max, examineMax: 500 });
  const look = (name: string) => lookOne(redis, keys, place(name));
  const reap = (nowMs: number) => scripts.reap.run(redis, keys, { nowMs, reapMax: 100, entriesMax: 10_000 });
  const claim = (name: string, number: number, nowMs: number, shownSerial: number | '' = '') =>
    scripts.claim.run(redis, keys, { nowMs, placeId: place(name), number, shownSerial, visitor: VISITOR });
  const redeem = (name: string, number: number, nowMs: number, serial: number) =>
    scripts.redeem.run(redis, keys, {
      nowMs,
      sale: 1,
      placeId: place(name),
      number,
      serial,
      visitor: VISITOR,
    });
  const line = () => redis.zrange(keys.line, '0', '-1');
  return { room, keys, redis, configure, join, promote, look, reap, claim, redeem, line, place };
};

t.test('Q5: a hundred first joins at once give one place and a hundred equal answers', async (t) => {
  const { join, redis, keys } = await open();
  const answers = await Promise.all(Array.from({ length: 100 }, () => join('one')));
  t.equal(new Set(answers.map((answer) => 'number' in answer && answer.number)).size, 1);
  t.equal(await redis.zcard(keys.line), 1);
  t.equal(await redis.hget(keys.room, 'nextNumber'), '1');
});

t.test('Q10: a room that is not there answers unknown to everything, and lets nobody in', async (t) => {
  const redis = server.client;
  const keys = scripts.roomKeys(parseRoomId('nowhere')!);
  const placeId = place('x');
  const answers = await Promise.all([
    joinOne(redis, keys, { nowMs: '', placeId }),
    lookOne(redis, keys, placeId),
    scripts.here.run(redis, keys, { nowMs: '', placeIds: [placeId] }),
    scripts.promote.run(redis, keys, { nowMs: '', promoteMax: 1, examineMax: 1 }),
    scripts.claim.run(redis, keys, { nowMs: '', placeId, number: 1, shownSerial: '', visitor: VISITOR }),
    scripts.redeem.run(redis, keys, { nowMs: '', sale: 1, placeId, number: 1, serial: 1, visitor: VISITOR }),
    scripts.renew.run(redis, keys, { nowMs: '', placeId, number: 1 }),
    scripts.end.run(redis, keys, { nowMs: '', placeId, number: 1, reason: 'x' }),
    scripts.leave.run(redis, keys, { nowMs: '', placeId }),
    scripts.reap.run(redis, keys, { nowMs: '', reapMax: 1, entriesMax: 1 }),
    scripts.release.run(redis, keys, { nowMs: '', placeId }),
    scripts.restore.run(redis, keys, { nowMs: '', sale: 1, placeId, number: 1, score: 1, withheld: 0 }),
    scripts.adopt.run(redis, keys, {
      nowMs: '',
      sale: 1,
      placeId,
      number: 1,
      expiresAtMs: 9e12,
      startedAtMs: 1,
      sessionEpoch: 1,
      serial: 1,
      visitor: VISITOR,
    }),
    scripts.configure.run(redis, keys, { nowMs: '', version: 1, settings: '{}', create: 0 }),
    scripts.notice.run(redis, keys, { nowMs: '', noticeId: 'n', text: 'x', level: 'info' }),
    scripts.measure.run(redis, keys, {
      nowMs: '',
      freshMs: 0,
      listMin: 1,
      listMax: 1,
      listedTo: '-inf',
      scores: [],
    }),
    scripts.snapshot.run(redis, keys, {
      epoch: 1,
      basedOnMs: 0,
      atMs: 1,
      pace: '',
      nearScore: 0,
      json: '{}',
    }),
    scripts.calibrate.run(redis, keys, { seenTotal: 0, p50Factor: 1, p90Factor: 1, right: 0, total: 1 }),
  ]);
  for (const answer of answers) t.equal(answer.outcome, 'unknown');
  t.same(await redis.keys('ar:{nowhere}:*'), []);
});

t.test('joins are refused in words: another sale, not open, closed, rejected, full', async (t) => {
  const one = await open({ opensAt: T0 + 1000 });
  t.same(await one.join('a'), { outcome: 'notOpen', opensAtMs: T0 + 1000 });
  t.equal((await one.join('a', { nowMs: T0 + 1000 })).outcome, 'joined');
  t.same(await one.join('a', { sale: 2 }), { outcome: 'otherSale', sale: 1 });
  const two = await open({ closesAt: T0 });
  t.equal((await two.join('a')).outcome, 'closed');
  const three = await open({ queueingMethod: 'reject' });
  t.equal((await three.join('a')).outcome, 'closed');
  const four = await open();
  t.equal((await four.join('a', { lineMax: 1 })).outcome, 'joined');
  t.equal((await four.join('b', { lineMax: 1 })).outcome, 'full');
  t.equal((await four.join('a', { lineMax: 1 })).outcome, 'held', 'whoever has a place keeps it');
});

t.test(
  'Q15: joins before opening are ordered by lot, those after by arrival, each exactly once',
  async (t) => {
    const { join, line, keys, redis } = await open({
      prequeueStartsAt: T0,
      opensAt: T0 + 1000,
      shuffleAtOpen: true,
    });
    await join('late-lot', { draw: -10 });
    await join('early-lot', { draw: -500 });
    t.match(await join('late-lot', { draw: -10 }), { outcome: 'held', number: 1, score: -10 });
    await join('after', { nowMs: T0 + 1000, draw: -9999 });
    t.same(await line(), [place('early-lot'), place('late-lot'), place('after')]);
    t.equal(await redis.hlen(keys.places), 2, 'only lots need an entry');
  },
);

t.test(
  'the first miss parks, the second ends, and a missed place returns only by an act of its owner',
  async (t) => {
    const { join, promote, look, reap, redis, keys, place } = await open({ claimSeconds: 10 });
    await join('a');
    t.match(await promote(T0), { outcome: 'promoted', promoted: 1 });
    const tokensBefore = Number(await redis.hget(keys.room, 'tokens'));
    t.match(await reap(T0 + 10_001), { missed: 1, finished: 0 });
    t.equal(
      Number(await redis.hget(keys.room, 'tokens')),
      tokensBefore + 60_000,
      'a miss gives its token back',
    );
    t.match(await look('a'), { state: 'parked', missed: true, number: 1 });
    await scripts.here.run(redis, keys, { nowMs: T0 + 11_000, placeIds: [place('a')] });
    t.match(await look('a'), { state: 'parked' }, 'a sign of life is not enough');
    t.match(await join('a', { nowMs: T0 + 12_000 }), { outcome: 'held', state: 'waiting', number: 1 });
    t.match(await promote(T0 + 13_000), { promoted: 1 });
    t.match(await reap(T0 + 30_000), { missed: 0, finished: 1 });
    t.same(await look('a'), { outcome: 'finished', number: 1 });
    t.match(
      await join('a', { nowMs: T0 + 31_000 }),
      { outcome: 'joined', number: 2 },
      'queueing again honestly works',
    );
  },
);

t.test(
  'Q12: one visit has one session; claiming again returns the same, and nothing of a finished visit counts',
  async (t) => {
    const { join, promote, claim, redis, keys, place } = await open();
    await join('a');
    t.equal((await claim('a', 1, T0)).outcome, 'notPromoted');
    await promote(T0);
    const first = await claim('a', 1, T0);
    t.match(first, { outcome: 'claimed' });
    t.same({ ...(await claim('a', 1, T0 + 5000, 1)), outcome: 'claimed' }, first);
    t.equal((await claim('a', 2, T0)).outcome, 'notPromoted', 'another visit has not been promoted');
    t.equal(
      (await scripts.end.run(redis, keys, { nowMs: T0, placeId: place('a'), number: 1, reason: 'purchase' }))
        .outcome,
      'ended',
    );
    t.equal(
      (await scripts.end.run(redis, keys, { nowMs: T0, placeId: place('a'), number: 1, reason: 'purchase' }))
        .outcome,
      'notActive',
    );
    t.equal((await claim('a', 1, T0)).outcome, 'finished');
    t.equal(
      (await scripts.renew.run(redis, keys, { nowMs: T0, placeId: place('a'), number: 1 })).outcome,
      'ended',
    );
    const adopted = await scripts.adopt.run(redis, keys, {
      nowMs: T0,
      sale: 1,
      placeId: place('a'),
      number: 1,
      expiresAtMs: T0 + 9e6,
      startedAtMs: T0,
      sessionEpoch: 0,
      serial: 9,
      visitor: VISITOR,
    });
    t.equal(adopted.outcome, 'finished');
    const restored = await scripts.restore.run(redis, keys, {
      nowMs: T0,
      sale: 1,
      placeId: place('a'),
      number: 1,
      score: 1,
      withheld: 0,
    });
    t.equal(restored.outcome, 'finished');
  },
);

t.test(
  'the newest cookie of a session keeps its serial; anyone else of the visitor takes the session over',
  async (t) => {
    const { join, promote, claim, redis, keys, place } = await open({ sessionSeconds: 100 });
    await join('a');
    await promote(T0);
    const first = await claim('a', 1, T0);
    t.match(first, { outcome: 'claimed', serial: 1, expiresAtMs: T0 + 100_000 });
    const same = { outcome: 'active', expiresAtMs: T0 + 100_000, startedAtMs: T0 };
    t.match(await claim('a', 1, T0 + 1000, 1), { ...same, serial: 1 });
    t.match(await claim('a', 1, T0 + 2000), { ...same, serial: 2 });
    t.match(await claim('a', 1, T0 + 3000, 1), { ...same, serial: 3 }, 'an older cookie is no newest one');
    t.match(await claim('a', 1, T0 + 4000, 3), { ...same, serial: 3 });
    const renewed = await scripts.renew.run(redis, keys, {
      nowMs: T0 + 5000,
      placeId: place('a'),
      number: 1,
    });
    t.match(renewed, { outcome: 'renewed', expiresAtMs: T0 + 105_000 });
    t.match(await claim('a', 1, T0 + 6000, 3), { serial: 3, expiresAtMs: T0 + 105_000 });
    t.equal(
      (await claim('a', 1, T0 + 105_001, 3)).outcome,
      'finished',
      'nothing is given of what has run out',
    );
    const told: unknown[] = [];
    for (const [, flat] of await redis.xrange(keys.entries, '-', '+')) {
      const entry = parseEntry(flat ?? []);
      if (entry?.kind === 'superseded') told.push([entry.serial, entry.visits]);
    }
    const visits = [{ placeId: place('a'), number: 1 }];
    t.same(told, [
      [2, visits],
      [3, visits],
    ]);
  },
);

t.test('a session moves to another host once, and only at the word of its newest pass', async (t) => {
  const { join, promote, claim, redeem, look, redis, keys, place } = await open({ sessionSeconds: 100 });
  await join('a');
  t.same(await redeem('a', 1, T0, 1), { outcome: 'notActive' });
  await promote(T0);
  t.same(await redeem('a', 1, T0, 1), { outcome: 'notActive' });
  await claim('a', 1, T0);
  await claim('a', 1, T0);
  t.same(await redeem('a', 1, T0, 1), { outcome: 'superseded', serial: 2 });
  t.same(await redeem('a', 2, T0, 2), { outcome: 'notActive' }, 'another visit');
  const otherSale = { nowMs: T0, sale: 2, placeId: place('a'), number: 1, serial: 2, visitor: VISITOR };
  t.same(await scripts.redeem.run(redis, keys, otherSale), { outcome: 'otherSale', sale: 1 });
  const moved = await redeem('a', 1, T0 + 1000, 2);
  t.match(moved, { outcome: 'redeemed', expiresAtMs: T0 + 100_000, startedAtMs: T0, serial: 3 });
  t.same(await redeem('a', 1, T0 + 1000, 2), { outcome: 'redeemedBefore' });
  t.match(await claim('a', 1, T0 + 2000), { outcome: 'active', serial: 4 });
  t.same(await redeem('a', 1, T0 + 2000, 4), { outcome: 'redeemedBefore' }, 'a fresh pass changes nothing');
  t.match(await look('a'), { state: 'active', missed: false });
  t.same(await redeem('a', 1, T0 + 100_001, 4), { outcome: 'notActive' }, 'what has run out moves nowhere');
  await scripts.end.run(redis, keys, { nowMs: T0, placeId: place('a'), number: 1, reason: 'x' });
  t.same(await redeem('a', 1, T0, 4), { outcome: 'finished' });
});

t.test(
  'a session is renewed up to its absolute limit, and not when the room says so or it has expired',
  async (t) => {
    const { join, promote, claim, configure, redis, keys, place } = await open({
      sessionSeconds: 100,
      absoluteSessionSeconds: 150,
    });
    await join('a');
    await promote(T0);
    await claim('a', 1, T0);
    const renew = (nowMs: number) =>
      scripts.renew.run(redis, keys, { nowMs, placeId: place('a'), number: 1 });
    t.match(await renew(T0 + 40_000), { outcome: 'renewed', expiresAtMs: T0 + 140_000, startedAtMs: T0 });
    t.match(await renew(T0 + 130_000), { outcome: 'renewed', expiresAtMs: T0 + 150_000 });
    t.equal((await renew(T0 + 150_001)).outcome, 'ended');
    await configure({ sessionRenewal: false });
    t.match(await renew(T0 + 1000), { outcome: 'fixed', expiresAtMs: T0 + 150_000 });
  },
);

t.test('whoever is released stands where an unblocked twin would', async (t) => {
  const { join, line, redis, keys, place, look } = await open();
  await join('a');
  t.match(await join('blocked', { verdict: 'block' }), { outcome: 'joined', state: 'withheld', number: 2 });
  await join('c');
  t.match(
    await join('blocked'),
    { outcome: 'held', state: 'withheld', number: 2 },
    'joining again does not get round it',
  );
  t.match(await look('blocked'), { state: 'withheld' });
  t.match(await scripts.release.run(redis, keys, { nowMs: T0, placeId: place('blocked') }), {
    outcome: 'released',
    score: 2,
  });
  t.equal(
    (await scripts.release.run(redis, keys, { nowMs: T0, placeId: place('blocked') })).outcome,
    'notWithheld',
  );
  t.same(await line(), [place('a'), place('blocked'), place('c')]);
});

t.test('withheld places are bounded, the oldest go', async (t) => {
  const { join, redis, keys } = await open();
  for (const name of ['a', 'b', 'c']) await join(name, { verdict: 'block', withheldMax: 2 });
  t.same(await redis.zrange(keys.withheld, '0', '-1'), [place('b'), place('c')]);
});

t.test('whoever is away is passed over, keeps the score, and returns at a sign of life', async (t) => {
  const { join, promote, line, redis, keys, place, look } = await open({
    graceSeconds: 5,
    newUsersPerMinute: 60,
    burst: 2,
  });
  for (const name of ['away', 'b', 'c']) await join(name);
  await scripts.here.run(redis, keys, { nowMs: T0 + 10_000, placeIds: [place('b'), place('c')] });
  t.match(await promote(T0 + 10_000, 1), { promoted: 1, parked: 1 });
  t.match(await look('b'), { state: 'promoted' });
  t.match(await scripts.here.run(redis, keys, { nowMs: T0 + 10_000, placeIds: [place('away')] }), {
    returned: [place('away')],
  });
  t.same(await line(), [place('away'), place('c')], 'ahead of whoever came later');
  t.match(await look('away'), { score: 1, number: 1 });
});

t.test('when nobody writes presence, nobody is taken to be away', async (t) => {
  const { join, promote } = await open({ graceSeconds: 5 });
  await join('a');
  t.match(await promote(T0 + 3_600_000), { promoted: 1, parked: 0 });
});

t.test('the gate says why it is shut', async (t) => {
  for (const [over, reason] of [
    [{ suspended: true }, 'suspended'],
    [{ queueAll: true }, 'queueAll'],
    [{ opensAt: T0 + 1000, prequeueStartsAt: T0 - 1000 }, 'notOpen'],
  ] as const) {
    const { join, promote } = await open(over);
    await join('a');
    t.same(await promote(T0), { outcome: 'gated', reason });
  }
  const { join, promote, configure } = await open();
  t.same(await promote(T0), { outcome: 'idle' });
  await join('a');
  await configure({ closesAt: T0 + 5000 });
  t.same(await promote(T0 + 6000), { outcome: 'gated', reason: 'closed' });
});

t.test('Q4: the cap counts promoted and active together, and a slot is free at once', async (t) => {
  const { join, promote, claim, redis, keys, place } = await open({
    totalActiveUsers: 2,
    newUsersPerMinute: 6000,
    burst: 100,
  });
  for (const name of ['a', 'b', 'c', 'd']) await join(name);
  t.match(await promote(T0), { promoted: 2 });
  t.same(await promote(T0), { outcome: 'spent', free: 0 });
  await claim('a', 1, T0);
  t.same(await promote(T0), { outcome: 'spent', free: 0 });
  await scripts.end.run(redis, keys, { nowMs: T0, placeId: place('a'), number: 1, reason: 'x' });
  t.match(await promote(T0), { promoted: 1 });
});

t.test('time going back counts as no time passed, a jump forward earns at most the burst', async (t) => {
  const { join, promote } = await open({ newUsersPerMinute: 60, burst: 2 });
  for (let index = 0; index < 10; index += 1) await join(`p${index}`);
  t.match(await promote(T0), { promoted: 2 });
  t.match(await promote(T0 - 3_600_000), { outcome: 'spent' });
  t.match(await promote(T0 - 3_600_000 + 1000), { promoted: 1 }, 'and the second after it counts again');
  t.match(await promote(T0 + 86_400_000), { promoted: 2 });
});

t.test('Q6: a call examines no more than 500, whatever it is asked', async (t) => {
  const { join, redis, keys, promote } = await open({
    newUsersPerMinute: 6_000_000,
    burst: 100_000,
    totalActiveUsers: 100_000,
  });
  await Promise.all(Array.from({ length: 700 }, (_, index) => join(`p${index}`)));
  const done = await scripts.promote.run(redis, keys, {
    nowMs: T0,
    promoteMax: 100_000,
    examineMax: 100_000,
  });
  t.match(done, { promoted: 500, more: true });
  t.match(await promote(T0), { promoted: 200, more: false });
});

t.test('Q16: the reaper reaches the dead behind the living', async (t) => {
  const { redis, keys, reap } = await open();
  const living: (string | number)[] = [];
  for (let index = 0; index < 300; index += 1) living.push(T0 + 1e6 + index, place(`live${index}`));
  await redis.zadd(keys.active, ...living);
  for (let index = 0; index < 150; index += 1) {
    await redis.zadd(keys.active, T0 - 1, place(`dead${index}`));
    await redis.hset(keys.places, place(`dead${index}`), `${index + 1} ${index + 1} 0 1`);
  }
  t.match(await reap(T0), { expired: 100, more: true });
  t.match(await reap(T0), { expired: 50, more: false });
  t.equal(await redis.zcard(keys.active), 300);
});

t.test(
  'after a loss everyone stands again in order, the served go to the back, the admitted stay inside',
  async (t) => {
    const before = await open({ totalActiveUsers: 2 });
    const { redis, keys } = before;
    for (const name of ['served', 'inside', 'c', 'd', 'e']) await before.join(name);
    await before.promote(T0, 1);
    await before.promote(T0 + 60_000, 1);
    const epoch = Number(await redis.hget(keys.room, 'epoch'));
    const session = await before.claim('inside', 2, T0 + 60_000);
    t.ok('expiresAtMs' in session);
    const [head, next] = await redis.hmget(keys.room, 'head', 'nextNumber');
    await redis.del(...Object.values(keys));

    const lost = T0 + 61_000;
    const recovery = {
      nowMs: lost,
      version: 9,
      settings: JSON.stringify({ ...defaultSettings, totalActiveUsers: 2 }),
      head: Number(head),
      nextNumber: Number(next),
      epoch,
      waiting: 3,
      replid: 'a'.repeat(40),
      recoverySeconds: 60,
      remembered: 1,
    };
    t.match(await scripts.recover.run(redis, keys, recovery), { outcome: 'recovered', epoch: lost });
    t.match(await scripts.recover.run(redis, keys, { ...recovery, nowMs: lost + 5 }), {
      outcome: 'known',
      epoch: lost,
    });

    t.same(await before.join('new', { nowMs: lost }), { outcome: 'recovering', untilMs: lost + 60_000 });
    const restore = (name: string, number: number) =>
      scripts.restore.run(redis, keys, {
        nowMs: lost,
        sale: 1,
        placeId: place(name),
        number,
        score: number,
        withheld: 0,
      });
    t.match(await restore('e', 5), { outcome: 'restored' });
    t.match(await restore('c', 3), { outcome: 'restored', number: 3 });
    t.equal((await restore('c', 3)).outcome, 'held');
    t.equal((await restore('served', 1)).outcome, 'passed');
    const adopt = (sessionEpoch: number, serial = 1) =>
      scripts.adopt.run(redis, keys, {
        nowMs: lost,
        sale: 1,
        placeId: place('inside'),
        number: 2,
        expiresAtMs: lost + 100_000,
        startedAtMs: T0,
        sessionEpoch,
        serial,
        visitor: VISITOR,
      });
    t.equal((await adopt(lost)).outcome, 'ended', 'a session of this epoch that is not active has ended');
    t.match(await adopt(epoch), { outcome: 'adopted', overCap: false });
    t.match(await adopt(epoch), { outcome: 'active', serial: 1 });
    t.match(await adopt(epoch, 3), { outcome: 'active', serial: 3 }, 'of two cookies the newer wins');
    t.match(await adopt(epoch, 1), { outcome: 'active', serial: 3 }, 'whichever came first');
    const supersededBy = async () => {
      const serials: number[] = [];
      for (const [, flat] of await redis.xrange(keys.entries, '-', '+')) {
        const entry = parseEntry(flat ?? []);
        if (entry?.kind === 'superseded') serials.push(entry.serial);
      }
      return serials;
    };
    t.same(await supersededBy(), [3], 'and every gateway is told');
    t.match(await redis.hgetall(keys.room), {
      recoverReason: 'lost',
      recoveredAt: String(lost),
      lostWaiting: '3',
      restoredTotal: '2',
      adoptedTotal: '1',
      adoptedOverCapTotal: '0',
      replid: 'a'.repeat(40),
    });
    t.match(
      (await redis.xrange(keys.joins, '-', '+')).map(([, flat]) => flat.join(' ')),
      [
        `kind restored atMs ${lost} visits ${place('e')} 5 withheld  sale 1`,
        `kind restored atMs ${lost} visits ${place('c')} 3 withheld  sale 1`,
      ],
    );
    const entries = (await redis.xrange(keys.entries, '-', '+')).map(([, flat]) => parseEntry(flat));
    t.match(
      entries.filter((entry) => entry?.kind === 'adopted'),
      [{ visits: [{ placeId: place('inside'), number: 2 }] }],
    );
    t.same(await before.promote(lost + 1000), { outcome: 'gated', reason: 'recovering' });
    t.same(await before.line(), [place('c'), place('e')]);
    const after = lost + 60_001;
    const rejoined = await before.join('served', { nowMs: after });
    t.ok(
      rejoined.outcome === 'joined' && rejoined.number > 1_000_000,
      'at the back, with a number after the gap',
    );
    t.match(await before.promote(after, 1), { promoted: 1 });
    t.same((await lastPromoted(before.redis, before.keys)).placeIds, [place('c')]);
  },
);

t.test(
  'Q24: another server with the data of before: counters go on from what is remembered, once however many dispatchers say so',
  async (t) => {
    const { redis, keys, join, promote } = await open({ totalActiveUsers: 100 });
    for (const name of ['a', 'b', 'c', 'd']) await join(name);
    await promote(T0, 1);
    const [first, second, third] = ['1', '2', '3'].map((digit) => digit.repeat(40)) as [
      string,
      string,
      string,
    ];
    const said = (replid: string, more: object = {}) =>
      scripts.reconcile.run(redis, keys, {
        nowMs: T0 + 1000,
        replid,
        replidBefore: '',
        sale: 1,
        head: 2,
        nextNumber: 7,
        epoch: 0,
        waiting: 5,
        snapshotAt: T0,
        olderMs: 5000,
        failoverSeconds: 2,
        recoverySeconds: 60,
        ...more,
      });
    const epoch = Number(await redis.hget(keys.room, 'epoch'));
    await redis.hset(keys.room, 'snapshotAt', T0 - 1000);
    t.same(await said(first), { outcome: 'noted' }, 'the first sight of an id is no failover');
    t.same(await said(first), { outcome: 'known' });
    const before = await redis.hgetall(keys.room);
    t.equal(Number(before.epoch), epoch);

    const done = await said(second, { nowMs: epoch - 10, replidBefore: first });
    t.match(done, { outcome: 'recovered', reason: 'failover', epoch: epoch + 1, untilMs: epoch - 10 + 2000 });
    t.same(await said(second), { outcome: 'known' }, 'a second dispatcher changes nothing');
    t.same(await said(first), { outcome: 'known' }, 'one that lags behind changes nothing back');
    t.match(await redis.hgetall(keys.room), {
      epoch: String(epoch + 1),
      head: '2',
      nextNumber: '1000007',
      tokens: '0',
      replid: second,
      recoverReason: 'failover',
      lostWaiting: '2',
      restoredTotal: '0',
    });
    const last = (await redis.xrevrange(keys.entries, '+', '-', 'COUNT', 1))[0];
    t.match(parseEntry(last?.[1] ?? []), {
      ...{ kind: 'recovering', reason: 'failover', head: 2 },
      limits: { totalActiveUsers: 100 },
    });
    const restarted = await said('4'.repeat(40), { nowMs: epoch + 50, snapshotAt: T0 });
    t.match(restarted, { outcome: 'recovered', reason: 'restart' }, 'a server that comes from no other');
    await redis.hset(keys.room, 'replid', second, 'nextNumber', 1000007, 'epoch', epoch + 1);
    t.same((await promote(epoch + 100, 1)).outcome, 'gated');

    const again = await said(third, { nowMs: epoch + 5000, head: 1, snapshotAt: T0 + 5000, sale: 9 });
    t.match(again, { outcome: 'recovered', reason: 'older', untilMs: epoch + 5000 + 60_000 });
    t.equal(
      await redis.hget(keys.room, 'head'),
      '2',
      'neither a smaller head nor one of another sale counts',
    );
    t.equal(await redis.hget(keys.room, 'nextNumber'), '2000007');
    await redis.del(keys.room);
    t.same(await said(first), { outcome: 'unknown' });
  },
);

t.test('a room that nobody remembers is closed, never open', async (t) => {
  const redis = server.client;
  const keys = scripts.roomKeys(parseRoomId('forgotten')!);
  await scripts.recover.run(redis, keys, {
    nowMs: T0,
    version: 1,
    settings: JSON.stringify(defaultSettings),
    head: 0,
    nextNumber: 0,
    epoch: 0,
    waiting: 0,
    replid: '',
    recoverySeconds: 1,
    remembered: 0,
  });
  t.same(await scripts.promote.run(redis, keys, { nowMs: T0 + 5000, promoteMax: 1, examineMax: 1 }), {
    outcome: 'gated',
    reason: 'suspended',
  });
});

t.test('an older version of the settings never overwrites a newer one', async (t) => {
  const { redis, keys } = await open();
  const settings = JSON.stringify(defaultSettings);
  t.same(await scripts.configure.run(redis, keys, { nowMs: T0, version: 1, settings, create: 0 }), {
    outcome: 'stale',
    version: 1,
  });
  t.same(
    await scripts.configure.run(redis, keys, { nowMs: T0, version: 2, settings, create: 1 }),
    { outcome: 'configured' },
    'making it twice does not empty it',
  );
});

t.test('an outcome that this version does not know is a fault, not a default', async (t) => {
  const { redis, keys } = await open();
  const strange = { ...scripts.look, outcomes: ['unknown'] };
  const bound = await import('../../lua/script.ts').then(({ script }) =>
    script({ ...strange, name: 'room.look' }),
  );
  await t.rejects(bound.run(redis, keys, { placeIds: [place('x')] }), UnknownOutcome);
});

t.test('SCRIPT FLUSH in the middle of everything changes nothing', async (t) => {
  const { join, redis, line } = await open();
  await join('a');
  await redis.script('FLUSH');
  t.match(await join('b'), { outcome: 'joined', number: 2 });
  t.equal((await line()).length, 2);
});

t.test('leaving works from every state and finishes the visit', async (t) => {
  const { join, promote, claim, redis, keys, place, look } = await open({ totalActiveUsers: 5, burst: 1 });
  const leave = (name: string) => scripts.leave.run(redis, keys, { nowMs: T0, placeId: place(name) });
  await join('waits');
  t.same(await leave('waits'), { outcome: 'left', state: 'waiting', number: 1 });
  t.same(await leave('waits'), { outcome: 'none' });
  t.same(await look('waits'), { outcome: 'finished', number: 1 });
  await join('inside');
  await promote(T0);
  t.match(await leave('inside'), { state: 'promoted' });
  await join('again', { nowMs: T0 });
  await promote(T0 + 60_000);
  await claim('again', 3, T0);
  t.match(await leave('again'), { state: 'active', number: 3 });
  await join('held', { verdict: 'block' });
  t.match(await leave('held'), { state: 'withheld' });
  t.equal((await redis.hlen(keys.places)) + (await redis.zcard(keys.here)), 0, 'nothing stays behind');
});
