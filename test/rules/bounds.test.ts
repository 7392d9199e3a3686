// Anchors are counted in turn, and what is told at the others is never too little, hardly too much and only falls:
// whoever leaves, is promoted, misses a turn, is let stand after all or comes back after a loss. The truth is a
// sorted list.

import t from 'tap';
import { isPoor } from '../../line/anchors.ts';
import { boundsAfter } from '../../line/bounds.ts';
import { aheadOf, lowerBound } from '../../line/position.ts';
import { ANCHORS_MAX, COUNTS_MAX } from '../../line/survey.ts';
import { MeasuredLine } from '../support/measured-line.ts';
import { random, seedOf } from '../support/random.ts';

const seed = seedOf(t, 1);
type Dice = ReturnType<typeof random>;

t.test('what is known of an uncounted score holds the truth, whichever scores are counted', async (t) => {
  const dice = random(seed);
  for (let line = 0; line < 300; line += 1) {
    let standing = Array.from({ length: 200 }, (_, index) => index + 1).filter(() => dice.next() < 0.8);
    const scores = [...new Set(Array.from({ length: 12 }, () => 1 + dice.below(200)))].sort((a, b) => a - b);
    const rank = (score: number): number => lowerBound(standing, score);
    let known = scores.map((score) => ({ score, most: rank(score), least: rank(score) }));
    for (let tick = 0; tick < 12; tick += 1) {
      const told = new Map(known.map(({ score, most }) => [score, most]));
      const gone = dice.pick([0, 0.01, 0.1, 0.5]);
      const from = dice.below(200);
      standing = standing.filter((at) => at < from || dice.next() >= gone);
      // Those who come back ahead of the line stand before all scores that are counted.
      const returned = dice.pick([0, 0, 3]);
      for (let back = 0; back < returned; back += 1) standing.unshift(-10 * tick - back);
      const counted = scores.filter(() => dice.next() < 0.3).map((score) => ({ score, rank: rank(score) }));
      const now = boundsAfter(known, counted, returned);
      if (now === undefined) return t.fail(`line ${line}: nobody came among the others`);
      for (const { score, most, least } of now) {
        if (least > rank(score) || most < rank(score))
          return t.fail(`line ${line}: ${score} has ${rank(score)} before it, not ${least} to ${most}`);
        if (most > told.get(score)! + returned) return t.fail(`line ${line}: ${score} rose`);
      }
      known = now;
    }
    const [first] = known;
    const tooMany = [{ score: first!.score, rank: first!.most + 1 }];
    t.equal(boundsAfter(known, tooMany, 0), undefined, 'more than could be: somebody came among them');
  }
});

/** One second of a sale; answers how many came back, whose positions may rise. */
const second = (line: MeasuredLine, dice: Dice, leave: (line: MeasuredLine, dice: Dice) => void): number => {
  const stand = (set: number[], score: number): void => {
    set.splice(lowerBound(set, score), 0, score);
  };
  const letIn = line.waiting.splice(0, dice.below(60));
  line.passedTotal += letIn.length;
  line.head = Math.max(line.head, letIn.at(-1) ?? line.head);
  for (const score of letIn) if (dice.next() < 0.1) stand(line.parked, score);
  leave(line, dice);
  line.join(dice.below(60));
  let back = 0;
  const came = (field: string, score: number): void => {
    back += 1;
    line.fields.set(field, String(Number(line.fields.get(field) ?? 0) + 1));
    stand(field === 'cameAhead' && dice.next() < 0.5 ? line.parked : line.waiting, score);
  };
  // Turns that are missed, and blocked places that are let stand when their turn has gone by.
  for (let missed = dice.pick([0, 0, 1, 5]); missed > 0; missed -= 1) {
    const score = line.head - dice.below(Math.max(1, line.head));
    if (line.before(score) === line.before(score + 1)) came('cameAhead', score);
  }
  // Let stand after all, or stood up again: among the others.
  for (let places = dice.next() < 0.1 ? 1 + dice.below(40) : 0; places > 0; places -= 1) {
    const score = line.head + 1 + dice.below(line.nextNumber - line.head);
    if (line.before(score) === line.before(score + 1)) came('cameAmong', score);
  }
  return back;
};

const leaving: Record<string, (line: MeasuredLine, dice: Dice) => void> = {
  uniform: (line, dice) => {
    line.waiting = line.waiting.filter(() => dice.next() > 0.0008);
  },
  clumped: (line, dice) => {
    if (dice.next() < 0.5) line.waiting.splice(dice.below(line.waiting.length), 20 + dice.below(400));
  },
  'in one block': (line, dice) => {
    if (dice.next() < 0.05) line.waiting.splice(dice.below(line.waiting.length), line.waiting.length / 10);
  },
};

for (const [kind, leave] of Object.entries(leaving))
  t.test(
    `counted in turn, positions hold and rise only when somebody comes back: leaving ${kind}`,
    async (t) => {
      const dice = random(seed + kind.length);
      const line = new MeasuredLine();
      line.join(60_000);
      line.waiting = line.waiting.filter(() => dice.next() < 0.85);
      line.survey(1000);
      const watched = line.waiting.filter(() => dice.next() < 0.004);
      const told = new Map<number, number>();
      const errors: number[] = [];
      let [rises, tooLow, inexact, inTurn, most] = [0, 0, 0, 0, 0];
      for (let tick = 2; tick < 150; tick += 1) {
        const among = line.fields.get('cameAmong');
        const back = second(line, dice, leave);
        const snapshot = line.survey(1000 * tick);
        if (line.fields.get('cameAmong') === among) {
          most = Math.max(most, line.countsMost);
          if (snapshot.anchors.length > COUNTS_MAX) inTurn += 1;
        }
        watched.push(line.waiting[dice.below(line.waiting.length)]!);
        for (const score of watched) {
          if (line.waiting[lowerBound(line.waiting, score)] !== score) {
            // Whoever comes back later is told anew.
            told.delete(score);
            continue;
          }
          const [now, truth] = [aheadOf(snapshot, score), line.before(score)];
          if (now > (told.get(score) ?? Number.POSITIVE_INFINITY) + back) rises += 1;
          if (now < truth) tooLow += 1;
          if (lowerBound(line.waiting, score) < 1000) inexact += now === truth ? 0 : 1;
          else errors.push((now - truth) / (truth + 1));
          told.set(score, now);
        }
        t.ok(snapshot.anchors.length <= ANCHORS_MAX + 1);
      }
      errors.sort((a, b) => a - b);
      const p99 = errors[Math.floor(errors.length * 0.99)]!;
      t.equal(rises, 0, 'nobody rose by more than came back');
      t.equal(tooLow, 0, 'nobody was promised more than the truth');
      t.equal(inexact, 0, 'the first thousand were exact');
      t.ok(p99 <= 0.005, `p99 ${(p99 * 100).toFixed(3)} %`);
      t.ok(errors.at(-1)! <= 0.015, `at most ${(errors.at(-1)! * 100).toFixed(3)} %`);
      t.ok(most <= COUNTS_MAX, `${most} counted at once, where nobody came among the others`);
      t.ok(inTurn > 20, `${inTurn} snapshots had more anchors than were counted`);
      t.ok(errors.length > 1000, `${errors.length} positions`);
    },
  );

/** Of each block of 3,000 in turn a tenth leaves one by one, and a tenth in a clump. */
const thin = (line: MeasuredLine, dice: Dice): void => {
  const left: number[] = [];
  for (let from = 0; from < line.waiting.length; from += 3000) {
    const block = line.waiting.slice(from, from + 3000).filter(() => dice.next() > 0.1);
    block.splice(dice.below(block.length), block.length / 10);
    left.push(...block);
  }
  line.waiting = left;
};

t.test('a line thinned again and again gets the anchors it needs, and then counts once a second', (t) => {
  const dice = random(seed);
  const line = new MeasuredLine();
  let tick = 0;
  for (const size of [10_000, 100_000, 600_000, 600_000]) {
    line.join(size - line.waiting.length);
    thin(line, dice);
    line.survey(1000 * ++tick);
  }
  for (let settling = 0; settling < 15; settling += 1) line.survey(1000 * ++tick);
  const errors: number[] = [];
  const roundsBefore = line.rounds;
  for (let second = 0; second < 20; second += 1) {
    line.waiting = line.waiting.filter(() => dice.next() > 0.0001);
    const snapshot = line.survey(1000 * ++tick);
    t.ok(line.countsMost <= COUNTS_MAX);
    if (second % 10 === 0) t.notOk(isPoor(snapshot, 500), 'with fewer anchors more counts would not help it');
    for (let index = 1000 + dice.below(500); index < line.waiting.length; index += 1 + dice.below(500))
      errors.push((aheadOf(snapshot, line.waiting[index]!) - index) / (index + 1));
  }
  errors.sort((a, b) => a - b);
  t.ok(line.snapshot!.anchors.length > 500, `${line.snapshot!.anchors.length} anchors`);
  t.ok(line.rounds - roundsBefore <= 22, `${line.rounds - roundsBefore} counts in 20 s`);
  t.ok(errors[0]! >= 0, 'nobody was promised more than the truth');
  t.ok(errors[Math.floor(errors.length * 0.99)]! <= 0.005, `p99 ${errors[Math.floor(errors.length * 0.99)]}`);
  t.ok(errors.at(-1)! <= 0.015, `at most ${errors.at(-1)}`);
  t.end();
});
