// Who is let in: the slots are used by people who are there however many ghosts stand among them, nobody is lost or
// counted twice on any way through the line, an opening in the middle of a storm of joins and a promotion that is
// sent again change nothing. On a real Redis; where time is virtual it goes in through nowMs.

import t from 'tap';
import { parsePlaceId, parseRoomId } from '../../kernel/ids.ts';
import type { Redis } from '../../kernel/redis.ts';
import { defaultSettings, type Settings } from '../../line/settings.ts';
import { drawScore } from '../../line/visitor.ts';
import * as scripts from '../../lua/room.ts';
import { eventually } from '../support/eventually.ts';
import { placeName, runGhostSale, runLumpSale } from '../support/ghost-sale.ts';
import {
  aheadOfRate,
  inTwoSets,
  notInOne,
  promotedTwice,
  readEntries,
  readStanding,
} from '../support/line-watch.ts';
import { lastPromoted } from '../support/promoted.ts';
import { random, seedOf } from '../support/random.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';

let server: TestRedis;
t.before(async () => {
  server = await startRedis(t);
});

const T0 = 1_800_000_000_000;
let counter = 0;

const open = async (over: Partial<Settings>, nowMs: number | '' = T0) => {
  counter += 1;
  const room = parseRoomId(`admission-${counter}`)!;
  const keys = scripts.roomKeys(room);
  const settings = { ...defaultSettings, ...over };
  const configure = (version: number, redis = server.client) =>
    scripts.configure.run(redis, keys, { nowMs, version, settings: JSON.stringify(settings), create: 1 });
  await configure(1);
  const join = async (
    redis: Redis,
    visitors: readonly (readonly [string, number | '', string])[],
    atMs: number | '',
  ) => {
    const done = await scripts.join.run(redis, keys, {
      ...{ nowMs: atMs, sale: 1, lineMax: 10_000_000, withheldMax: 10_000, joinsMax: 100_000 },
      visitors: visitors.flat(),
    });
    if (done.outcome !== 'answered') throw new Error(`the join was answered ${done.outcome}`);
    return done.each;
  };
  return { room, keys, settings, configure, join };
};

const told = (sale: { use: number; useSinceFull: number }): string =>
  `use ${(sale.use * 100).toFixed(2)} %, since the first fill ${(sale.useSinceFull * 100).toFixed(2)} %`;

t.test('Q17: with every second place a ghost, people who are there use 95 % of the slots', async (t) => {
  const dice = random(seedOf(t, 1));
  const cap = 100 + dice.below(101);
  const sale = await open(
    {
      newUsersPerMinute: 1200,
      burst: 50,
      totalActiveUsers: cap,
      graceSeconds: 30,
      opensAt: T0,
      prequeueStartsAt: T0 - 700_000,
    },
    T0 - 600_000,
  );
  const COUNT = 12_800;
  const there = new Set<number>();
  for (let from = 0; from < COUNT; from += 128) {
    const numbers = Array.from({ length: 128 }, (_, index) => from + index + 1);
    for (const number of numbers) if (dice.below(2) === 0) there.add(number);
    await sale.join(
      server.client,
      numbers.map((number) => [placeName(number), '', 'allow']),
      T0 - 600_000,
    );
  }
  const done = await runGhostSale({
    ...{ redis: server.client, room: sale.room, settings: sale.settings, dice },
    ...{ people: [...there].sort((a, b) => a - b), isThere: (number) => there.has(number) },
    ...{ minutes: 6, staySeconds: [20, 60] },
  });
  t.comment(JSON.stringify({ cap, ...done }));
  t.ok(done.useSinceFull >= 0.95, told(done));
  t.ok(done.examinedMost <= 500, `a call examined ${done.examinedMost} places`);
  t.equal(done.peopleParked, 0, 'nobody who was there was passed over');
});

t.test('Q17: a lump of ghosts at the head keeps the people behind it waiting for seconds only', async (t) => {
  const dice = random(seedOf(t, 1));
  const redis = server.client;
  const done = await runLumpSale({
    redis,
    room: parseRoomId('lump')!,
    lump: 40_000,
    people: 3000,
    minutes: 10,
    dice,
  });
  t.comment(JSON.stringify(done));
  t.ok(done.use >= 0.95, told(done));
  t.ok(done.examinedMost <= 500, `a call examined ${done.examinedMost} places`);
});

t.test(
  'Q3: whoever joined stands somewhere or has finished, after every step of a random walk',
  async (t) => {
    const dice = random(seedOf(t, 1));
    const redis = server.client;
    const sale = await open({
      ...{ newUsersPerMinute: 600, burst: 5, totalActiveUsers: 8, graceSeconds: 5 },
      ...{ claimSeconds: 10, sessionSeconds: 30, sessionRenewal: false },
    });
    const { keys } = sale;
    const people = Array.from({ length: 40 }, (_, index) => placeName(index));
    const numbers = new Map<string, number>();
    let nowMs = T0;
    let rejoined = 0;
    // Not ZRANDMEMBER, which follows no seed.
    const someoneOf = async (key: string): Promise<string | undefined> => {
      const placeIds = await redis.zrange(key, '0', '-1');
      return placeIds.length === 0 ? undefined : dice.pick(placeIds);
    };
    const steps: Record<string, () => Promise<unknown>> = {
      join: async () => {
        const asked = Array.from({ length: 1 + dice.below(6) }, () => dice.pick(people));
        const verdicts = ['allow', 'allow', 'allow', 'challenge', 'block'];
        const each = await sale.join(
          redis,
          asked.map((placeId) => [placeId, '', dice.pick(verdicts)] as const),
          nowMs,
        );
        for (const [index, outcome] of each.entries()) {
          if (outcome.outcome !== 'joined') continue;
          const before = numbers.get(asked[index]!);
          if (before !== undefined && before !== outcome.number) rejoined += 1;
          numbers.set(asked[index]!, outcome.number);
        }
      },
      hear: () => {
        const placeIds = people.filter(() => dice.below(2) === 0);
        return scripts.here.run(redis, keys, { nowMs, placeIds });
      },
      promote: () =>
        scripts.promote.run(redis, keys, { nowMs, promoteMax: 500, examineMax: 1 + dice.below(20) }),
      claim: async () => {
        const placeId = await someoneOf(keys.promoted);
        if (placeId === undefined) return;
        await scripts.claim.run(redis, keys, {
          nowMs,
          placeId,
          number: numbers.get(placeId)!,
          shownSerial: '',
          visitor: 'a:AAAAAAAAAAAAAAAAAAAAAA',
        });
      },
      end: async () => {
        const placeId = await someoneOf(keys.active);
        if (placeId === undefined) return;
        await scripts.end.run(redis, keys, { nowMs, placeId, number: numbers.get(placeId)!, reason: 'done' });
      },
      leave: () => scripts.leave.run(redis, keys, { nowMs, placeId: dice.pick(people) }),
      release: async () => {
        const placeId = await someoneOf(keys.withheld);
        if (placeId !== undefined) await scripts.release.run(redis, keys, { nowMs, placeId });
      },
      reap: () => scripts.reap.run(redis, keys, { nowMs, reapMax: 1 + dice.below(10), entriesMax: 1000 }),
    };
    const names = Object.keys(steps);
    const seen = new Set<string>();
    let finishedMost = 0;
    for (let step = 0; step < 1500; step += 1) {
      nowMs += dice.below(1500);
      const name = dice.pick(names);
      await steps[name]!();
      const standing = await readStanding(redis, keys);
      const { line, parked, withheld, promoted, active } = standing.counts;
      // The finished visit of somebody who joined again is history: they stand, and count once.
      const finished = (await redis.hkeys(keys.finished)).filter(
        (placeId) => !standing.sets.has(placeId),
      ).length;
      const sum = line + parked + withheld + promoted + active + finished;
      if (sum !== numbers.size || inTwoSets(standing).length > 0)
        return t.fail(`step ${step} (${name}): ${numbers.size} joined, ${sum} are there`, {
          ...{ counts: standing.counts, finished, inTwo: inTwoSets(standing) },
        });
      const lost = notInOne(standing, [...numbers.values()]);
      if (lost.length > 0)
        return t.fail(`step ${step} (${name}): visits that are not in one place`, { lost });
      for (const [set, count] of Object.entries(standing.counts)) if (count > 0) seen.add(set);
      finishedMost = Math.max(finishedMost, finished);
    }
    t.equal(numbers.size, people.length, 'everyone joined');
    t.same([...seen].sort(), ['active', 'line', 'parked', 'promoted', 'withheld'], 'every set was in use');
    t.ok(finishedMost > 0 && rejoined > 20, `${rejoined} finished visitors joined anew`);
  },
);

t.test(
  'Q15: of a storm of joins in the middle of an opening each has one place, lots before numbers',
  async (t) => {
    const dice = random(seedOf(t, 1));
    const redis = server.client;
    const CLIENTS = 4;
    const clients = await Promise.all(
      Array.from({ length: CLIENTS + 2 }, (_, index) => server.connect(`storm-${index}`)),
    );
    const redisMs = async () => {
      const [seconds, micros] = await redis.time();
      return Number(seconds) * 1000 + Math.floor(Number(micros) / 1000);
    };
    // Redis's own clock throughout: it is what decides on which side of the opening a join falls.
    const sale = await open(
      {
        ...{ newUsersPerMinute: 6_000_000, burst: 300, totalActiveUsers: 1_000_000, claimSeconds: 3600 },
        ...{ opensAt: (await redisMs()) + 3_600_000, prequeueStartsAt: 1, shuffleAtOpen: true },
      },
      '',
    );
    const { keys } = sale;
    const seed = Buffer.from('a seed for this draw');
    const lot = (placeId: string): number => drawScore(seed, parsePlaceId(placeId)!);
    let people = 0;
    const joined = new Map<string, { number: number; score: number }>();
    const faults: string[] = [];
    const outcomes = new Set<string>();
    const ask = async (client: Redis): Promise<void> => {
      const done = await scripts.promote.run(client, keys, { nowMs: '', promoteMax: 500, examineMax: 500 });
      outcomes.add(done.outcome === 'gated' ? done.reason : done.outcome);
    };
    const numbered = (): number => [...joined.values()].filter(({ score }) => score >= 0).length;
    const joinSome = async (client: Redis): Promise<void> => {
      const size = dice.pick([1, 2, 17, 64, 128]);
      // Most are new; some come again, with another client at the same time or from long ago.
      const asked = Array.from({ length: size }, () =>
        placeName(dice.below(4) === 0 && people > 0 ? Math.max(0, people - 1 - dice.below(300)) : people++),
      );
      const each = await sale.join(
        client,
        asked.map((placeId) => [placeId, lot(placeId), 'allow'] as const),
        '',
      );
      for (const [index, one] of each.entries()) {
        const placeId = asked[index]!;
        if (one.outcome !== 'joined' && one.outcome !== 'held') faults.push(`${placeId}: ${one.outcome}`);
        else {
          const known = joined.get(placeId);
          joined.set(placeId, { number: one.number, score: one.score });
          if (known !== undefined && (known.number !== one.number || known.score !== one.score))
            faults.push(
              `${placeId} has ${known.number} at ${known.score}, then ${one.number} at ${one.score}`,
            );
        }
      }
    };
    // Some have joined and nobody went in: only now the opening is told to be near.
    while (joined.size < 200) await joinSome(clients[0]!);
    await ask(clients[CLIENTS]!);
    const opensAt = (await redisMs()) + 1500;
    Object.assign(sale.settings, { opensAt });
    t.equal((await sale.configure(2)).outcome, 'configured');
    const storm = async (client: Redis): Promise<void> => {
      while ((await redisMs()) < opensAt + 700 || numbered() < 200 || !outcomes.has('promoted'))
        await joinSome(client);
    };
    let isStorm = true;
    const admit = async (client: Redis): Promise<void> => {
      while (isStorm) await ask(client);
    };
    const configureTwice = async (client: Redis): Promise<void> => {
      for (let version = 3; version === 3 || (await redisMs()) < opensAt + 500; version += 1) {
        const said = [await sale.configure(version, client), await sale.configure(version, client)];
        if (said[0]?.outcome !== 'configured' || said[1]?.outcome !== 'stale')
          faults.push(`the opening was answered ${said.map(({ outcome }) => outcome).join(', ')}`);
      }
    };
    const admitting = admit(clients[CLIENTS]!);
    await Promise.all([configureTwice(clients[CLIENTS + 1]!), ...clients.slice(0, CLIENTS).map(storm)]);
    isStorm = false;
    await admitting;

    const before = [...joined].filter(([, { score }]) => score < 0);
    t.comment(`${joined.size} joined, ${before.length} of them before the opening`);
    t.same(faults.slice(0, 10), [], 'everyone was told one place, however often they asked');
    t.equal(joined.size, people, 'nobody was left without an answer');
    t.ok(
      before.length > 100 && joined.size - before.length > 100,
      'the opening lay in the middle of the storm',
    );
    t.ok(outcomes.has('notOpen') && outcomes.has('promoted'), 'the line was asked before and after');
    t.same(
      before.filter(([placeId, { score }]) => score !== lot(placeId)),
      [],
      'before the opening lots decide',
    );
    t.same(
      [...joined].filter(([, { number, score }]) => score >= 0 && score !== number),
      [],
      'after it the number does',
    );
    // What the scripts wrote down of each batch: on which side of the opening it fell, and the scores it got.
    const written: string[] = [];
    const wrongSide: string[] = [];
    for (const [, flat] of await redis.xrange(keys.joins, '-', '+')) {
      const field = (name: string) => flat[flat.indexOf(name) + 1] ?? '';
      for (const visit of field('visits').split(',')) {
        const [placeId = '', number, score = number] = visit.split(' ');
        written.push(placeId);
        if (Number(score) < 0 !== Number(field('atMs')) < opensAt) wrongSide.push(visit);
      }
    }
    t.same(wrongSide.slice(0, 10), [], 'a lot before the opening, a number from it on');
    t.equal(written.sort().join(), [...joined.keys()].sort().join(), 'each was given a place once');
    const standing = await readStanding(redis, keys);
    t.same(inTwoSets(standing), []);
    t.same(
      notInOne(
        standing,
        Array.from({ length: people }, (_, index) => index + 1),
      ).slice(0, 10),
      [],
      'numbers from 1 on, each given once',
    );

    const stateOf = async () => {
      const [line, promoted, places] = await Promise.all([
        redis.zrange(keys.line, '0', '-1', 'WITHSCORES'),
        redis.zrange(keys.promoted, '0', '-1', 'WITHSCORES'),
        redis.hgetall(keys.places),
      ]);
      return { line, promoted, places, fields: await redis.hmget(keys.room, 'head', 'nextNumber', 'epoch') };
    };
    const [was] = [await stateOf()];
    for (const outcome of ['configured', 'stale'])
      t.equal((await sale.configure(1_000_000, redis)).outcome, outcome);
    t.same(await stateOf(), was, 'opening again moves nobody');

    await eventually('everyone is promoted', async () => {
      await scripts.promote.run(redis, keys, { nowMs: '', promoteMax: 500, examineMax: 500 });
      return (await redis.zcard(keys.line)) === 0;
    });
    const order = (await readEntries(redis, keys)).flatMap((record) =>
      record.kind === 'promoted' ? record.visits.map(({ number, score = number }) => score) : [],
    );
    t.same(
      order,
      [...joined.values()].map(({ score }) => score).sort((a, b) => a - b),
      'each is called once: all lots, then all numbers',
    );
  },
);

t.test('Q24: a promotion that is sent again has its effect once', async (t) => {
  const dice = random(seedOf(t, 1));
  const redis = server.client;
  for (let round = 0; round < 10; round += 1) {
    const settings = {
      ...{ newUsersPerMinute: dice.pick([59, 600, 6000]), burst: dice.pick([1, 7, 100]) },
      ...{ totalActiveUsers: dice.pick([20, 1000]), claimSeconds: 3600 },
    };
    const once = await open(settings);
    const again = await open(settings);
    const visitors = Array.from({ length: 120 }, (_, index) => [placeName(index), '', 'allow'] as const);
    for (const room of [once, again]) await room.join(redis, visitors, T0);
    let repeats = 0;
    for (let nowMs = T0; nowMs < T0 + 20_000; nowMs += dice.pick([10, 200, 1700])) {
      const ask = { nowMs, promoteMax: 500, examineMax: 500 };
      const [first] = [
        await scripts.promote.run(redis, once.keys, ask),
        await scripts.promote.run(redis, again.keys, ask),
      ];
      for (let more = dice.below(3); more > 0; more -= 1) {
        const done = await scripts.promote.run(redis, again.keys, ask);
        repeats += 1;
        if (done.outcome === 'promoted')
          t.fail(`the second call let in ${done.promoted}`, {
            first,
            ...(await lastPromoted(redis, again.keys)),
          });
      }
      const [one, two] = await Promise.all(
        [once, again].map(({ keys }) => redis.zrange(keys.promoted, '0', '-1', 'WITHSCORES')),
      );
      if (one?.join() !== two?.join()) t.same(two, one, 'the same people, the same deadlines');
    }
    const records = await readEntries(redis, again.keys);
    t.ok(repeats > 0 && records.length > 1);
    t.same(promotedTwice(records), [], 'nobody twice');
    t.ok(aheadOfRate(records) <= 0, 'never ahead of the rate');
    t.same(records, await readEntries(redis, once.keys), 'the same records as if it had been sent once');
  }
});

t.test('Q24: with a full bucket a call that is sent again goes on where the first one stopped', async (t) => {
  const sale = await open({ newUsersPerMinute: 60, burst: 50, totalActiveUsers: 1000 });
  const redis = server.client;
  await sale.join(
    redis,
    Array.from({ length: 100 }, (_, index) => [placeName(index), '', 'allow'] as const),
    T0,
  );
  const send = async () => {
    const done = await scripts.promote.run(redis, sale.keys, {
      nowMs: T0 + 1,
      promoteMax: 20,
      examineMax: 500,
    });
    return done.outcome === 'promoted' ? done.promoted : done.outcome;
  };
  t.same([await send(), await send(), await send(), await send()], [20, 20, 10, 'spent']);
  t.same(
    await redis.zrange(sale.keys.line, '0', '-1'),
    Array.from({ length: 50 }, (_, index) => placeName(50 + index)),
    'each of the first fifty once, the others wait',
  );
});
