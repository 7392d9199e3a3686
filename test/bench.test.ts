// The arithmetic of the benches: a number that is published must be able to come out bad.

import t from 'tap';
import { chartSvg, spread } from '../bench/chart.ts';
import { paceOf } from '../bench/paced.ts';
import { placeIdOf } from '../bench/room.ts';
import { parsePlaceId } from '../kernel/ids.ts';

const promotionsOf = (...records: readonly (readonly [atMs: number, ...numbers: number[]])[]) =>
  records.map(([atMs, ...numbers]) => ({
    atMs,
    visits: numbers.map((number) => ({ placeId: parsePlaceId(placeIdOf(number))!, number })),
    parked: [],
  }));
// Sixty a minute is one a second.
const window = { fromMs: 0, untilMs: 10_000, ratePerMinute: 60 };

t.test('a pace counts who went in after its first record, over the time between records', async (t) => {
  const pace = paceOf(promotionsOf([1000, 1], [2000, 2], [3000, 3], [20_000, 4]), window);
  t.same(pace, { admitted: 2, seconds: 2, bucketMax: 1, repeats: 0, inversions: 0 });
});

t.test('a pace shows a window with more than rate times time and burst', async (t) => {
  t.equal(paceOf(promotionsOf([1000, 1, 2, 3], [1500, 4]), window).bucketMax, 3.5);
});

t.test('a pace shows who went in twice and who went in out of order', async (t) => {
  const pace = paceOf(promotionsOf([1000, 5], [2000, 5, 3]), window);
  t.equal(pace.repeats, 1);
  t.equal(pace.inversions, 1);
});

t.test('made-up places have the form of a place, and no two are the same', async (t) => {
  const ids = Array.from({ length: 10_000 }, (_, index) => placeIdOf(index * 977));
  t.equal(new Set(ids).size, ids.length);
  t.ok(ids.every((id) => parsePlaceId(id) !== undefined));
});

t.test('labels of a chart keep their distance, whatever the order they are given in', async (t) => {
  t.same(spread([50, 10, 12], 10), [50, 10, 20]);
  t.same(spread([10, 10, 10], 5), [10, 15, 20]);
});

t.test('a chart shows each value and lets no text become markup', async (t) => {
  const svg = chartSvg({
    title: 'a < b',
    note: '"quoted"',
    x: { label: 'size', ticks: ['1', '2'] },
    y: { label: 'µs' },
    series: [{ name: 'one & two', colour: '#000', values: [12, 3456] }],
  });
  t.match(svg, />12</);
  t.match(svg, />3,460</);
  t.match(svg, 'a &#60; b');
  t.match(svg, 'one &#38; two');
  t.notMatch(svg, 'a < b');
});
