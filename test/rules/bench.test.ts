// The arithmetic of the benches: a number that is published must be able to come out bad.

import t from 'tap';
import { chartSvg, spread } from '../../bench/chart.ts';
import { paceOf } from '../../bench/paced.ts';
import { placeIdOf } from '../../bench/room.ts';
import { readWrk } from '../../bench/wrk.ts';
import { parsePlaceId } from '../../kernel/ids.ts';

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

t.test(
  'what wrk prints is read with its units, and an answer of another kind or a fault is seen',
  async (t) => {
    // As wrk 4.1.0 prints it.
    const said = (more: string, p99 = '7.32ms') => `Running 4s test @ http://127.0.0.1:1/demo
  Latency Distribution
     50%    2.61ms
     99%    ${p99}
  95276 requests in 4.01s, 18.81MB read
${more}Requests/sec:  23819.00
`;
    t.match(readWrk(said(''), 204), { answers: 95_276, seconds: 4.01, p99Ms: 7.32 });
    t.same([...readWrk(said(''), 204).statuses], [[204, 95_276]]);
    t.equal(readWrk(said('', '850.00us'), 200).p99Ms, 0.85);
    t.equal(readWrk(said('', '1.25s'), 200).p99Ms, 1250);
    const refused = said('  Non-2xx or 3xx responses: 95000\n');
    t.same(
      [...readWrk(refused, 200).statuses],
      [
        [200, 276],
        [0, 95_000],
      ],
    );
    t.same(
      [...readWrk(refused, 429).statuses],
      [
        [429, 95_000],
        [0, 276],
      ],
    );
    t.throws(() => readWrk(said('  Socket errors: connect 0, read 3, write 0, timeout 0\n'), 200), /read 3/);
    t.throws(() => readWrk('unable to connect', 200), /unable to connect/);
  },
);

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
