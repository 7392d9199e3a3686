// The watcher that fault tests lean on: what it must notice, made by hand.

import t from 'tap';
import { type PlaceId, parsePlaceId } from '../../kernel/ids.ts';
import type { EntryRecord } from '../../line/entries.ts';
import { aheadOfRate, inTwoSets, notInOne, promotedTwice, type Standing } from '../support/line-watch.ts';

const place = (letter: string): PlaceId => parsePlaceId(letter.repeat(16))!;
const limits = {
  newUsersPerMinute: 60,
  effectiveBurst: 2,
  totalActiveUsers: 10,
  sale: 1,
  queueingMethod: 'fifo',
};
const made: EntryRecord = { kind: 'settings', atMs: 0, version: 1, isNewSale: false, limits };
const called = (atMs: number, letters: string): EntryRecord => ({
  kind: 'promoted',
  atMs,
  deadlineMs: atMs + 1000,
  visits: [...letters].map((letter, index) => ({ placeId: place(letter), number: index + 1 })),
  parked: [],
  limits,
});
const missed = (atMs: number, letter: string): EntryRecord => ({
  kind: 'missed',
  atMs,
  visits: [{ placeId: place(letter), number: 1 }],
  finished: [],
});

t.test('a visit called twice is noticed, and one that missed its turn may be called again', async (t) => {
  t.same(promotedTwice([called(0, 'a'), called(1, 'b')]), []);
  t.same(promotedTwice([called(0, 'a'), missed(1, 'a'), called(2, 'a')]), []);
  t.same(promotedTwice([called(0, 'a'), called(2, 'a')]), [`${place('a')} 1`]);
});

t.test('one person more than rate and burst allow is noticed', async (t) => {
  t.ok(aheadOfRate([made, called(0, 'ab'), called(1000, 'c')]) <= 0);
  t.equal(aheadOfRate([made, called(0, 'abc')]), 1);
  t.equal(aheadOfRate([made, called(0, 'ab'), called(500, 'c')]), 0.5);
  t.ok(
    aheadOfRate([made, called(0, 'ab'), missed(10, 'a'), called(20, 'a')]) <= 0,
    'a miss gives its token back',
  );
  t.equal(aheadOfRate([made, called(60_000, 'abc')]), 1, 'no more than the burst is saved up');
  const recovering: EntryRecord = {
    kind: 'recovering',
    reason: 'lost',
    atMs: 10,
    untilMs: 20,
    head: 0,
    limits,
  };
  t.ok(aheadOfRate([made, recovering, called(20, 'a')]) > 0.9, 'a recovery leaves nothing');
});

t.test('a place in two sets, and a number in none or in two, are noticed', async (t) => {
  const standing: Standing = {
    sets: new Map([
      ['a', ['line']],
      ['b', ['line', 'promoted']],
    ]),
    numbers: new Map([
      [1, ['line']],
      [2, ['line', 'promoted']],
    ]),
    counts: { line: 2, parked: 0, withheld: 0, promoted: 1, active: 0 },
  };
  t.same(inTwoSets(standing), ['b line+promoted']);
  t.same(notInOne(standing, [1, 2, 3]), ['2: line+promoted', '3: nowhere']);
});
