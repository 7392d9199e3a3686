// What scripts/test.ts reads from the output of tap. The raw output below is of tap 21, shortened.

import t from 'tap';
import { readReport } from '../../scripts/tap-report.ts';

const RAW = `TAP version 14
# Subtest: test/parts/one.test.ts
    # Subtest: a promise kept
        ok 1 - first
        ok 2 - second
        1..2
    ok 1 - a promise kept # time=1.2ms
    # Subtest: a promise broken
        not ok 1 - should be equal
          ---
          diff: |
            -1
            +not ok 2 - this stands inside a diagnosis
            ...
            +not ok 3 - and so does this
          ...
        not ok 2 - and another
          ---
          at: elsewhere
          ...
        1..2
    not ok 2 - a promise broken # time=3ms
    # Subtest: several
        # Subtest: in one
            ok 1 - x
            1..1
        ok 1 - in one # time=1ms
        # Subtest: in two
            not ok 1 - socket hang up
              ---
              code: ECONNRESET
              ...
            1..1
        not ok 2 - in two # time=1ms
        1..2
    not ok 3 - several # time=3ms
    # Subtest: not here
        1..0 # SKIP only on Linux
    ok 4 - not here # SKIP only on Linux
    1..4
not ok 1 - test/parts/one.test.ts # time=10ms
  ---
  exitCode: 1
  ...
# Subtest: test/parts/two.test.ts
    1..0 # no tests found
not ok 2 - test/parts/two.test.ts # time=10ms
1..2
`;

t.test('tests are counted, not assertions, and each failure is told with its first message', async (t) => {
  const { passed, skipped, failures } = readReport(RAW.split('\n'));
  t.equal(passed, 2, 'a promise kept, and in one');
  t.equal(skipped, 1);
  t.same(
    failures.map(({ file, test }) => [file, test]),
    [
      ['test/parts/one.test.ts', 'a promise broken'],
      ['test/parts/one.test.ts', 'several > in two'],
      ['test/parts/two.test.ts', ''],
    ],
  );
  t.match(failures[0]?.message, /^should be equal\n +diff/);
  t.match(failures[0]?.message, 'and so does this');
  t.notMatch(failures[0]?.message, 'elsewhere');
  t.match(failures[1]?.message, 'ECONNRESET');
});

t.test('a file that fails by itself is one failure, though all its tests passed', async (t) => {
  const kept = RAW.slice(0, RAW.indexOf('    # Subtest: a promise broken'));
  const raw = `${kept}    1..1\n    # time=1ms\nnot ok 1 - test/parts/one.test.ts # time=1ms\n`;
  const report = readReport(raw.split('\n'));
  t.equal(report.passed, 1);
  t.same(
    report.failures.map(({ file, test }) => [file, test]),
    [['test/parts/one.test.ts', '']],
  );
});

t.test(
  'a process that dies in the middle of a test fails that test, and the others still count',
  async (t) => {
    const kept = RAW.slice(0, RAW.indexOf('        ok 2 - second'));
    const raw = `${kept}not ok 1 - test/parts/one.test.ts # time=1ms\n${RAW.slice(RAW.indexOf('# Subtest: test/parts/two'))}`;
    const { passed, failures } = readReport(raw.split('\n'));
    t.equal(passed, 0);
    t.same(
      failures.map(({ file, test, message }) => [file, test, message]),
      [
        ['test/parts/one.test.ts', 'a promise kept', 'the test did not end'],
        ['test/parts/two.test.ts', '', 'no assertion failed: what the file wrote stands above'],
      ],
    );
  },
);
