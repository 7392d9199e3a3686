// Positions: exact for the first thousand, within half a percent beyond (p99, never above 1.5 %), and never rising,
// even for those who poll and of whom nobody remembers what they were told. The truth is a sorted list.

import t from 'tap';
import { createSurveyor } from '../../dispatcher/measure.ts';
import { readConfig } from '../../kernel/config.ts';
import { parseRoomId } from '../../kernel/ids.ts';
import { createMetrics } from '../../kernel/metrics.ts';
import type { Redis } from '../../kernel/redis.ts';
import { isCoarse, planAnchors } from '../../line/anchors.ts';
import { cadenceMs } from '../../line/cadence.ts';
import { aheadOf, lowerBound } from '../../line/position.ts';
import { defaultSettings } from '../../line/settings.ts';
import { parseSnapshot, type Snapshot, snapshotText } from '../../line/snapshot.ts';
import { ANCHORS_MAX } from '../../line/survey.ts';
import {
  configure,
  snapshot as keep,
  measure,
  promote,
  reap,
  release,
  restore,
  roomKeys,
} from '../../lua/room.ts';
import { MeasuredLine } from '../support/measured-line.ts';
import { random, seedOf } from '../support/random.ts';
import { startRedis } from '../support/redis.ts';

type Dice = ReturnType<typeof random>;
const seed = seedOf(t, 1);

const lots = (dice: Dice, count: number): number[] => {
  const drawn = new Set<number>();
  while (drawn.size < count) drawn.add(-1 - Math.floor(dice.next() * 2 ** 40));
  return [...drawn].sort((a, b) => a - b);
};
/** A fifth of the line leaves: each by itself, in clumps of dozens to hundreds, or in blocks. */
const leavers: Record<string, (scores: number[], dice: Dice) => number[]> = {
  uniform: (scores, dice) => scores.filter(() => dice.next() < 0.8),
  clumped: (scores, dice) => {
    let left = 0;
    return scores.filter(() => {
      left = left > 0 ? left - 1 : dice.next() < 0.0009 ? 50 + dice.below(500) : 0;
      return left === 0 || dice.next() < 0.1;
    });
  },
  blocks: (scores) => scores.filter((_, index) => Math.floor((index * 20) / scores.length) % 5 !== 2),
};
const lineOf = (kind: string, dice: Dice, count: number): MeasuredLine => {
  const line = new MeasuredLine();
  if (kind.startsWith('lots')) {
    line.waiting = lots(dice, count / 2);
    line.nextNumber = line.waiting.length;
    line.join(count / 2);
    line.waiting = leavers.uniform!(line.waiting, dice);
  } else {
    line.join(count);
    line.waiting = leavers[kind]!(line.waiting, dice);
  }
  return line;
};

/** Relative errors beyond the first thousand, ascending, and how many of the first thousand are not exact. */
const errorsOf = (snapshot: Snapshot, line: MeasuredLine): { errors: number[]; inexact: number } => {
  const errors: number[] = [];
  let inexact = 0;
  line.waiting.forEach((score, index) => {
    const truth = line.before(score);
    const told = aheadOf(snapshot, score);
    if (index >= 1000) errors.push(Math.abs(told - truth) / (truth + 1));
    else if (told !== truth) inexact += 1;
  });
  return { errors: errors.sort((a, b) => a - b), inexact };
};
const p99 = (sorted: readonly number[]): number => sorted[Math.floor(sorted.length * 0.99)] ?? 0;

for (const kind of ['uniform', 'clumped', 'blocks', 'lots'])
  t.test(`exact for the first thousand, within 0.5 % beyond: a fifth has left, ${kind}`, async (t) => {
    for (const count of [2000, 10_000, 100_000, 300_000]) {
      const line = lineOf(kind, random(seed + count), count);
      const snapshot = line.survey(1000);
      const { errors, inexact } = errorsOf(snapshot, line);
      t.equal(inexact, 0, `${count}: the first thousand`);
      t.ok(p99(errors) <= 0.005, `${count}: p99 ${(p99(errors) * 100).toFixed(3)} %`);
      t.ok((errors.at(-1) ?? 0) <= 0.015, `${count}: at most ${((errors.at(-1) ?? 0) * 100).toFixed(3)} %`);
      t.ok(snapshot.anchors.length <= ANCHORS_MAX + 102, `${count}: ${snapshot.anchors.length} anchors`);
    }
  });

/** A second of a sale: some enter or are parked, some leave, some come back, some join. */
const second = (line: MeasuredLine, kind: string, dice: Dice, away: Set<number>): void => {
  const gone = line.waiting.splice(0, 150 + dice.below(100));
  line.passedTotal += gone.length;
  line.head = Math.max(line.head, gone.at(-1) ?? line.head);
  for (const score of gone)
    if (dice.next() < 0.2) {
      line.parked.splice(lowerBound(line.parked, score), 0, score);
      away.add(score);
    }
  for (let back = dice.below(25); back > 0 && line.parked.length > 0; back -= 1) {
    const score = line.parked.splice(dice.below(line.parked.length), 1)[0]!;
    line.waiting.splice(lowerBound(line.waiting, score), 0, score);
  }
  if (kind === 'clumped') line.waiting.splice(dice.below(line.waiting.length), dice.below(150));
  else if (kind === 'blocks' && dice.next() < 0.04)
    line.waiting.splice(dice.below(line.waiting.length), line.waiting.length / 10);
  else line.waiting = line.waiting.filter(() => dice.next() > 0.001);
  line.join(dice.below(kind === 'clumped' ? 250 : 30));
};

for (const kind of ['uniform', 'clumped', 'blocks', 'lots'])
  t.test(`over a whole sale no poll is ever told a higher position: ${kind}`, async (t) => {
    const dice = random(seed + kind.length);
    const line = new MeasuredLine();
    if (kind === 'lots') {
      line.waiting = lots(dice, 15_000);
      line.nextNumber = 15_000;
      line.join(10_000);
    } else line.join(kind === 'clumped' ? 5000 : 30_000);
    const away = new Set<number>();
    const told = new Map<number, number>();
    const watched: number[] = [];
    let [rises, inexact, tooLow, worst, anchorsMost] = [0, 0, 0, 0, 0];
    const seconds = 250;
    for (let tick = 0; tick < seconds && line.waiting.length > 500; tick += 1) {
      second(line, kind, dice, away);
      const snapshot = line.survey(1000 * (tick + 1));
      anchorsMost = Math.max(anchorsMost, snapshot.anchors.length);
      for (let more = 0; more < 10; more += 1) watched.push(line.waiting[dice.below(line.waiting.length)]!);
      // Somebody who joins right after this snapshot.
      watched.push(snapshot.nextNumber + 1 + dice.below(3));
      for (const score of watched) {
        // Whoever was away when the turn came has a reason to see another number.
        if (away.has(score)) continue;
        const index = lowerBound(line.waiting, score);
        if (line.waiting[index] !== score && score <= snapshot.nextNumber) continue;
        const now = aheadOf(snapshot, score);
        if (now > (told.get(score) ?? Number.POSITIVE_INFINITY)) rises += 1;
        told.set(score, now);
        if (score > snapshot.nextNumber) continue;
        const truth = line.before(score);
        if (index < 1000 && now !== truth) inexact += 1;
        if (score > 0 && now < truth) tooLow += 1;
        worst = Math.max(worst, Math.abs(now - truth) / (truth + 1));
      }
    }
    t.equal(rises, 0, 'no position rose');
    t.equal(inexact, 0, 'the first thousand were exact');
    t.equal(tooLow, 0, 'nobody with a number was promised more than the truth');
    t.ok(worst <= 0.015, `at most ${(worst * 100).toFixed(2)} % off`);
    t.ok(anchorsMost <= ANCHORS_MAX + 102, `${anchorsMost} anchors at most`);
    t.ok(told.size > 200, `${told.size} watched`);
  });

t.test(
  'places that come back in numbers may raise positions, and what is told follows the truth',
  async (t) => {
    const dice = random(seed);
    const line = new MeasuredLine();
    line.waiting = lots(dice, 20_000);
    line.nextNumber = 20_000;
    line.survey(1000);
    const all = line.waiting;
    line.waiting = all.filter((_, index) => index % 3 > 0);
    line.survey(2000);
    line.waiting = all;
    const snapshot = line.survey(3000);
    const { errors, inexact } = errorsOf(snapshot, line);
    t.equal(inexact, 0);
    t.ok(p99(errors) <= 0.015, `p99 ${(p99(errors) * 100).toFixed(2)} %`);
  },
);

t.test('a line in which nobody left needs no anchors, and is exact to its end', async (t) => {
  const line = new MeasuredLine();
  line.join(50_000);
  const snapshot = line.survey(1000);
  t.equal(snapshot.anchors.length, 0);
  t.equal(errorsOf(snapshot, line).errors.at(-1), 0);
  t.same(planAnchors(snapshot, ANCHORS_MAX), []);
  t.notOk(isCoarse(snapshot, ANCHORS_MAX));
});

t.test('too few anchors make all intervals coarser alike', async (t) => {
  const line = lineOf('uniform', random(seed), 100_000);
  const snapshot = line.survey(1000);
  const fresh = { ...snapshot, anchors: [], ranks: [] };
  t.ok(planAnchors(fresh, 40).length <= 40);
  t.ok(planAnchors(fresh, 40).length >= 20);
});

t.test('Q19: nobody is told a position older than the cadence and a snapshot', async (t) => {
  for (const eta of [0, 59, 60, 61, 300, 1200, 1e6, undefined]) t.ok(cadenceMs(eta) <= 30_000, `${eta}`);
  t.ok(readConfig({}).snapshotMs <= 1000, 'a snapshot each second');
});

// --- On Redis -----------------------------------------------------------------------------------------------------
const server = await startRedis(t);
let rooms = 0;

/** A room of a real Redis that holds this line, and a surveyor whose clock the test moves. */
const roomOf = async (redis: Redis, line: MeasuredLine, over: object = {}) => {
  rooms += 1;
  const room = parseRoomId(`positions-${rooms}`)!;
  const keys = roomKeys(room);
  let nowMs = 1_800_000_000_000;
  const settings = JSON.stringify({ ...defaultSettings, ...over });
  await configure.run(redis, keys, { nowMs, version: 1, settings, create: 1 });
  await redis.hset(keys.room, { nextNumber: line.nextNumber, passedTotal: 0 });
  for (const [key, scores] of [
    [keys.line, line.waiting],
    [keys.parked, line.parked],
  ] as const)
    for (let from = 0; from < scores.length; from += 2000) {
      const chunk = scores.slice(from, from + 2000).flatMap((score) => [score, `p${score}`.padEnd(16, '_')]);
      await redis.zadd(key, ...chunk);
    }
  const surveyor = createSurveyor({
    config: { snapshotMs: 1000 },
    redis,
    metrics: createMetrics({ processMetrics: false }),
    nowMs: () => nowMs,
  });
  return {
    room,
    keys,
    survey: async (ms = 1000) => {
      nowMs += ms;
      return surveyor.measure(room);
    },
  };
};

t.test('the script counts what the sorted lists say, waiting, parked and lots', async (t) => {
  const dice = random(seed);
  const line = lineOf('lots', dice, 12_000);
  line.parked = line.waiting.splice(300, 2300).filter((_, index) => index < 2250 || index > 2290);
  line.waiting = [...line.parked.splice(100, 3), ...line.waiting].sort((a, b) => a - b);
  const { keys } = await roomOf(server.client, line);
  const scores = [line.waiting[2100]!, -1, 0, 1, 4000, line.nextNumber + 1].sort((a, b) => a - b);
  for (const listedTo of ['-inf', 2000]) {
    const counted = await measure.run(server.client, keys, {
      nowMs: 1_800_000_002_000,
      freshMs: 0,
      listMin: 1100,
      listMax: 2000,
      listedTo,
      scores,
    });
    const { room: _, ...expected } = line.measure(
      scores,
      typeof listedTo === 'number' ? listedTo : Number.NEGATIVE_INFINITY,
      1_800_000_002_000,
    );
    t.match(counted, { ...expected, nearScore: /^-?\d+$/ });
  }
});

for (const kind of ['uniform', 'clumped', 'lots'])
  t.test(`through Redis: 100,000 places, a fifth has left, ${kind}`, async (t) => {
    const line = lineOf(kind, random(seed), 100_000);
    const { survey, keys } = await roomOf(server.client, line);
    const snapshot = (await survey())!;
    const { errors, inexact } = errorsOf(snapshot, line);
    t.equal(inexact, 0);
    t.ok(p99(errors) <= 0.005, `p99 ${(p99(errors) * 100).toFixed(3)} %`);
    t.ok(errors.at(-1)! <= 0.015);
    const text = await server.client.get(keys.snapshot);
    t.same(parseSnapshot(text ?? ''), snapshot, 'what is kept reads as what was made');
    t.equal(text, snapshotText(snapshot));
    t.equal(await survey(100), undefined, 'a fresh one is not taken again');
  });

t.test('of two snapshots measured after the same predecessor the first stays', async (t) => {
  const line = new MeasuredLine();
  line.join(10);
  const { survey, keys } = await roomOf(server.client, line);
  const first = (await survey())!;
  const late = { epoch: first.epoch, basedOnMs: 0, atMs: first.atMs + 1, pace: '', nearScore: 0, json: '{}' };
  t.same(await keep.run(server.client, keys, late), { outcome: 'superseded' });
  t.same(await keep.run(server.client, keys, { ...late, basedOnMs: first.atMs, epoch: 1 }), {
    outcome: 'superseded',
  });
  t.equal((await survey())?.waiting, 10);
});

t.test('another dispatcher goes on where the first one stopped, and nobody sees a number rise', async (t) => {
  const line = lineOf('lots', random(seed), 20_000);
  const one = await roomOf(server.client, line);
  const before = (await one.survey())!;
  const other = createSurveyor({
    config: { snapshotMs: 1000 },
    redis: server.client,
    metrics: createMetrics({ processMetrics: false }),
    nowMs: () => before.atMs + 1000,
  });
  const after = (await other.measure(one.room))!;
  t.equal(line.waiting.filter((score) => aheadOf(after, score) > aheadOf(before, score)).length, 0);
  t.equal(await one.survey(), undefined, 'the first sees a fresh one');
  t.ok(await one.survey(), 'and goes on from it');
});

t.test(
  'those who come back are counted again, by whichever dispatcher, and raise positions at once',
  async (t) => {
    const dice = random(seed);
    const line = lineOf('uniform', dice, 40_000);
    line.head = 0;
    const { room, keys, survey } = await roomOf(server.client, line);
    const redis = server.client;
    await redis.hset(keys.room, { head: 0 });
    const idOf = (score: number): string => `p${score}`.padEnd(16, '_');
    let lastMs = 0;
    const others = createSurveyor({
      config: { snapshotMs: 0 },
      redis,
      metrics: createMetrics({ processMetrics: false }),
      nowMs: () => lastMs + 1,
    });
    const agrees = async (what: string): Promise<void> => {
      // Two dispatchers, in turn: the second knows nothing but what the first kept.
      for (const snapshot of [await survey(), await others.measure(room)]) {
        if (snapshot === undefined) throw new Error(`${what}: no snapshot`);
        lastMs = snapshot.atMs;
        const { errors, inexact } = errorsOf(snapshot, line);
        t.equal(inexact, 0, what);
        t.ok(errors.at(-1)! <= 0.015, `${what}: ${errors.at(-1)}`);
        t.equal(
          line.waiting.filter((score) => aheadOf(snapshot, score) < line.before(score)).length,
          0,
          what,
        );
      }
    };
    await agrees('nobody came');
    const stand = async (
      set: number[],
      score: number,
      act: () => Promise<{ outcome: string }>,
      outcome: string,
    ) => {
      set.splice(lowerBound(set, score), 0, score);
      t.equal((await act()).outcome, outcome);
    };
    const gone = Array.from({ length: 40_000 }, (_, index) => index + 1).filter(
      (score) => line.waiting[lowerBound(line.waiting, score)] !== score,
    );
    const nowMs = 1_800_000_000_000;
    for (const score of gone.slice(1000, 1300)) {
      await redis.zadd(keys.withheld, score, idOf(score));
      await stand(
        line.waiting,
        score,
        () => release.run(redis, keys, { nowMs, placeId: idOf(score) }),
        'released',
      );
    }
    await agrees('released among them');
    for (const score of gone.slice(3000, 3400))
      await stand(
        line.waiting,
        score,
        () =>
          restore.run(redis, keys, {
            ...{ nowMs, sale: 1, placeId: idOf(score), number: score, score, withheld: 0 },
          }),
        'restored',
      );
    await agrees('restored');
    await promote.run(redis, keys, { nowMs: nowMs + 1000, promoteMax: 500, examineMax: 500 });
    const called = Number(await redis.zcard(keys.promoted));
    t.ok(called > 0);
    line.parked = line.waiting.splice(0, called);
    line.head = line.parked.at(-1)!;
    const reaped = await reap.run(redis, keys, { nowMs: nowMs + 1e7, reapMax: 500, entriesMax: 1000 });
    t.match(reaped, { outcome: 'reaped', missed: called });
    t.equal(Number(await redis.hget(keys.room, 'cameAhead')), called, 'ahead of all who wait');
    await agrees('missed their turn');
  },
);

/** Commands the server ran, those inside scripts included. */
const commandsOf = async (redis: Redis): Promise<number> =>
  [...(await redis.info('commandstats')).matchAll(/calls=(\d+)/g)].reduce((sum, [, n]) => sum + Number(n), 0);

t.test('Q18: the commands of a snapshot do not grow with those who wait', async (t) => {
  const used: number[] = [];
  for (const count of [3000, 30_000, 300_000]) {
    const line = lineOf('uniform', random(seed), count);
    const { survey } = await roomOf(server.client, line);
    await survey();
    const from = await commandsOf(server.client);
    t.ok(await survey());
    used.push((await commandsOf(server.client)) - from);
  }
  t.ok(
    used.every((commands) => commands < ANCHORS_MAX + 40),
    `${used.join(', ')} commands`,
  );
});

t.test('a new sale and a lost epoch start anew', async (t) => {
  const line = lineOf('lots', random(seed), 20_000);
  const { survey, keys } = await roomOf(server.client, line);
  await survey();
  await server.client.hset(keys.room, 'epoch', 5);
  const after = (await survey())!;
  t.equal(after.epoch, 5);
  t.equal(errorsOf(after, line).inexact, 0);
});

t.test('a snapshot says what a loss cost, whether the sale is over, and who is near in a draw', async (t) => {
  const line = new MeasuredLine();
  line.join(10);
  const { survey, keys } = await roomOf(server.client, line);
  const none = { reason: '', recoveredAt: 0, lostWaiting: 0, restored: 0, adopted: 0, adoptedOverCap: 0 };
  t.same((await survey())!.recovery, none);
  await server.client.hset(keys.room, {
    recoverReason: 'lost',
    recoveredAt: 7,
    lostWaiting: 6,
    restoredTotal: 5,
    adoptedTotal: 4,
    adoptedOverCapTotal: 3,
    over: 1,
    queueingMethod: 'random',
  });
  const now = (await survey())!;
  const recovery = {
    reason: 'lost',
    recoveredAt: 7,
    lostWaiting: 6,
    restored: 5,
    adopted: 4,
    adoptedOverCap: 3,
  };
  t.match(now, { over: true, recovery, nearScore: Number.MAX_SAFE_INTEGER });
  t.equal(await server.client.hget(keys.room, 'nearScore'), String(Number.MAX_SAFE_INTEGER));
  const crowd = lineOf('uniform', random(seed), 30_000);
  const many = await roomOf(server.client, crowd);
  await server.client.hset(many.keys.room, 'queueingMethod', 'random');
  t.equal((await many.survey())!.nearScore, Number.MIN_SAFE_INTEGER, 'too many to keep present');
});

t.test('whatever the ranks say, the scores to count at are found, ascending, each once', (t) => {
  const dice = random(seed);
  const ascending = (scores: readonly number[]): boolean =>
    scores.every((score, index) => Number.isInteger(score) && (index === 0 || score > scores[index - 1]!));
  // The first is one that the simulator met: an anchor that stood there twice, with nothing between.
  const degenerate = { anchors: [8, 8, 40], ranks: [5, 5, 6] };
  for (let round = 0; round < 2000; round += 1) {
    const scores = Array.from({ length: dice.below(6) }, () => dice.below(60) - dice.pick([0, 0, 50]));
    const anchors = round === 0 ? degenerate.anchors : [...scores].sort((a, b) => a - b);
    const ranks = round === 0 ? degenerate.ranks : anchors.map(() => dice.below(40));
    const first = dice.pick([[], [7], [1, 2, 7]]);
    const ranked = {
      ...{ first, between: [], parkedBefore: 0, parkedAt: [], anchors, ranks, unsure: ranks },
      ...{
        listedTo: first.at(-1) ?? Number.NEGATIVE_INFINITY,
        waiting: dice.below(50),
        parked: dice.below(5),
      },
      nextNumber: dice.pick([0, 8, 60, 1_000_060]),
    };
    if (!ascending(planAnchors(ranked, ANCHORS_MAX)))
      t.fail(`${JSON.stringify(ranked)} gives ${planAnchors(ranked, ANCHORS_MAX).join()}`);
    isCoarse(ranked, ANCHORS_MAX);
  }
  t.end();
});
