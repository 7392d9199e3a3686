// Estimates of waiting times: what is told, and that nine in ten turns come before the far end, whatever the sale
// does. Simulated sales run one after the other in one room, which learns from each.

import t from 'tap';
import { parseRoomId } from '../../kernel/ids.ts';
import { settleEstimates } from '../../line/calibration.ts';
import { etaOf, initialCalibration } from '../../line/eta.ts';
import { paceAfter, paceText, parsePace } from '../../line/pace.ts';
import { calibrate, roomKeys } from '../../lua/room.ts';
import { MeasuredLine } from '../support/measured-line.ts';
import { random, seedOf } from '../support/random.ts';
import { startRedis } from '../support/redis.ts';
import { runSale, type Sale } from '../support/simulated-sale.ts';

const seed = seedOf(t, 1);
type Dice = ReturnType<typeof random>;
const from = (dice: Dice, low: number, high: number): number => low + dice.below(high - low);

const plain: Sale = {
  places: 3000,
  settings: { newUsersPerMinute: 300, totalActiveUsers: 10_000 },
  noShows: 0.1,
  sessionSeconds: 120,
  joinsPerSecond: 0,
  leaving: 0,
  changes: [],
};
const rate = (newUsersPerMinute: number, totalActiveUsers = 10_000) => ({
  newUsersPerMinute,
  totalActiveUsers,
});

const sales: Record<string, (dice: Dice) => Sale> = {
  'a steady rate': (dice) => ({
    ...plain,
    places: from(dice, 500, 6000),
    settings: rate(from(dice, 100, 600)),
    joinsPerSecond: dice.next() * 2,
  }),
  'rates that change': (dice) => ({
    ...plain,
    changes: [1, 2, 3].map((turn) => ({
      atSecond: turn * from(dice, 60, 200),
      settings: { newUsersPerMinute: from(dice, 100, 600) },
    })),
  }),
  'no-shows up to a half': (dice) => ({
    ...plain,
    noShows: dice.next() * 0.5,
    settings: rate(from(dice, 200, 600), from(dice, 200, 1000)),
  }),
  'sessions that end when they like': (dice) => ({
    ...plain,
    places: from(dice, 500, 3000),
    settings: { ...rate(600, from(dice, 50, 400)), sessionSeconds: 600 },
    sessionSeconds: from(dice, 60, 300),
  }),
  suspensions: (dice) => ({
    ...plain,
    changes: [1, 2].flatMap((turn) => {
      const atSecond = turn * from(dice, 80, 200);
      return [
        { atSecond, settings: { suspended: true } },
        { atSecond: atSecond + from(dice, 20, 60), settings: { suspended: false } },
      ];
    }),
  }),
  leavers: (dice) => ({ ...plain, leaving: dice.next() * 0.001 }),
  'short lines': (dice) => ({
    ...plain,
    places: from(dice, 50, 300),
    settings: rate(from(dice, 30, 120)),
    joinsPerSecond: dice.next(),
  }),
  'long lines': (dice) => ({ ...plain, places: 20_000, settings: rate(1200, from(dice, 1000, 4000)) }),
};

t.test('over all sales the far end holds nine times in ten, and the middle half of the time', async (t) => {
  const sums = new Map<string, { right: number; total: number; ratios: number[] }>();
  let calibration = initialCalibration;
  for (let round = 0; round < 8; round += 1)
    for (const [name, make] of Object.entries(sales)) {
      const dice = random(seed + round * 1000 + name.length);
      const done = runSale(make(dice), dice, calibration, 900);
      calibration = done.calibration;
      const sum = sums.get(name) ?? { right: 0, total: 0, ratios: [] };
      sums.set(name, sum);
      sum.right += done.right;
      sum.total += done.total;
      sum.ratios.push(...done.p50Errors);
    }
  const shareOf = ({ right, total }: { right: number; total: number }): number => right / total;
  for (const [name, sum] of sums) {
    const middle = [...sum.ratios].sort((a, b) => a - b)[sum.ratios.length >> 1]!;
    t.comment(
      `${name}: ${(shareOf(sum) * 100).toFixed(1)} % of ${sum.total}, p50 off by ×${middle.toFixed(2)}`,
    );
    t.ok(sum.total > 100, `${name}: ${sum.total} estimates settled`);
    t.ok(shareOf(sum) > 0.75, `${name}: ${(shareOf(sum) * 100).toFixed(1)} %`);
    t.ok(middle > 0.8 && middle < 1.2, `${name}: the middle is off by ×${middle.toFixed(2)}`);
  }
  const all = { right: calibration.right, total: calibration.total };
  t.ok(
    shareOf(all) >= 0.88 && shareOf(all) <= 0.92,
    `all: ${(shareOf(all) * 100).toFixed(2)} % of ${all.total}`,
  );
});

t.test('Q19: at a steady rate the middle is within a fifth of the time it takes', async (t) => {
  for (const newUsersPerMinute of [60, 300, 1200]) {
    const sale = { ...plain, noShows: 0, settings: rate(newUsersPerMinute, 1_000_000) };
    const { p50Errors } = runSale(sale, random(seed), initialCalibration, 600);
    const sorted = p50Errors.sort((a, b) => a - b);
    const [low, high] = [
      sorted[Math.floor(sorted.length * 0.05)]!,
      sorted[Math.floor(sorted.length * 0.95)]!,
    ];
    t.ok(
      sorted.length > 10 && low >= 0.8 && high <= 1.2,
      `${newUsersPerMinute}: ×${low.toFixed(2)} to ×${high.toFixed(2)}`,
    );
  }
});

t.test('no time is told while the line is kept, and what was told is withdrawn', async (t) => {
  const line = new MeasuredLine();
  line.join(100);
  const open = line.survey(1000);
  t.ok(etaOf(open, 50, true));
  t.equal(etaOf(open, 50, false), undefined);
  const estimate = { score: 90, p50AtMs: 1500, p90AtMs: 1600, is50Known: false };
  t.match(settleEstimates([estimate], { ...open, atMs: 2000 }, initialCalibration), {
    open: [],
    calibration: { right: 0, total: 1 },
  });
  for (const kept of [{ suspended: true }, { queueAll: true }, { opensAt: 9000 }, { closesAt: 500 }]) {
    const snapshot = { ...open, atMs: 2000, settings: { ...open.settings, ...kept } };
    t.same(settleEstimates([estimate], snapshot, initialCalibration), {
      open: [],
      calibration: initialCalibration,
    });
  }
});

t.test('an estimate settles once: in time when the head passed, late when the far end did', async (t) => {
  const line = new MeasuredLine();
  line.join(100);
  const snapshot = { ...line.survey(1000), atMs: 10_000, head: 50 };
  const made = { p50AtMs: 9000, p90AtMs: 20_000, is50Known: false };
  const passed = settleEstimates([{ ...made, score: 50 }], snapshot, initialCalibration);
  t.match(passed, { open: [], calibration: { right: 1, total: 1 } });
  t.ok(passed.calibration.p90Factor < initialCalibration.p90Factor);
  const waits = settleEstimates([{ ...made, score: 51 }], snapshot, initialCalibration);
  t.same(waits.open, [{ ...made, score: 51, is50Known: true }]);
  t.ok(waits.calibration.p50Factor > initialCalibration.p50Factor);
  const again = settleEstimates(waits.open, snapshot, waits.calibration);
  t.same(again, waits, 'the middle counts once');
  const late = settleEstimates([{ ...made, p90AtMs: 9500, score: 51 }], snapshot, initialCalibration);
  t.match(late, { open: [], calibration: { right: 0, total: 1 } });
  t.ok(late.calibration.p90Factor > initialCalibration.p90Factor);
});

t.test('time in which the line could not move says nothing about its speed', async (t) => {
  let pace = paceAfter(undefined, { atMs: 0, passed: 0, moving: true });
  for (let second = 1; second <= 60; second += 1)
    pace = paceAfter(pace, { atMs: second * 1000, passed: second * 5, moving: true });
  t.ok(Math.abs(pace.perMinute - 300) < 1);
  const paused = paceAfter(pace, { atMs: 600_000, passed: 300, moving: false });
  t.equal(paused.perMinute, pace.perMinute);
  t.equal(
    paceAfter(paused, { atMs: 1000, passed: 300, moving: true }).perMinute,
    pace.perMinute,
    'a clock that went back',
  );
  t.equal(paceAfter(pace, { atMs: 61_000, passed: 2, moving: true }).weight, 0, 'a counter that began again');
  const read = parsePace(paceText(pace))!;
  t.ok(Math.abs(read.perMinute - pace.perMinute) < 0.01 && read.passed === 300);
  for (const text of [undefined, '', 'x', '1 2 3', '1 2 x 4']) t.equal(parsePace(text), undefined);
});

t.test('what was learnt is kept once, whoever learnt it', async (t) => {
  const { client } = await startRedis(t);
  const keys = roomKeys(parseRoomId('learns')!);
  const learnt = { seenTotal: 0, p50Factor: 1.1, p90Factor: 1.7, right: 9, total: 10 };
  t.same(await calibrate.run(client, keys, learnt), { outcome: 'unknown' });
  await client.hset(keys.room, 'epoch', 1);
  t.same(await calibrate.run(client, keys, learnt), { outcome: 'calibrated' });
  t.same(await calibrate.run(client, keys, learnt), { outcome: 'stale', total: 10 });
  t.match(await client.hgetall(keys.room), { etaP90Factor: '1.7', etaRight: '9', etaTotal: '10' });
});
