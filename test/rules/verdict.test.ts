// What scripts/test.ts makes of files that failed, and of those that passed when they ran once more.

import t from 'tap';
import type { Report } from '../../scripts/tap-report.ts';
import { type Ran, verdictOf } from '../../scripts/verdict.ts';

const passed: Report = { passed: 3, skipped: 1, failures: [] };
const failed = (file: string): Report => ({
  passed: 2,
  skipped: 0,
  failures: [{ file, test: 'a promise', message: 'should be equal' }],
});
const ran = (path: string, hasMercy: boolean, report: Report): Ran => ({ path, hasMercy, report });

t.test('only files with mercy run once more, and a pass then is told with its first failure', async (t) => {
  const said: string[] = [];
  const asked: string[] = [];
  const { total, flaky } = await verdictOf(
    [
      ran('parts/a', false, failed('parts/a')),
      ran('system/b', true, failed('system/b')),
      ran('c', true, passed),
    ],
    {
      again: async (path) => {
        asked.push(path);
        return passed;
      },
      say: (line) => void said.push(line),
    },
  );
  t.same([asked, flaky], [['system/b'], ['system/b']]);
  t.same(
    total.failures.map(({ file }) => file),
    ['parts/a'],
    'the file without mercy has failed',
  );
  t.same([total.passed, total.skipped], [2 + 3 + 3, 2], 'each file counts once, as it ran last');
  t.match(said.join('\n'), /flaky: system\/b\nsystem\/b > a promise\nshould be equal/);
});

t.test('a second failure fails the run, and so does a first without a second chance', async (t) => {
  const files = [ran('system/b', true, failed('system/b'))];
  const say = (): void => undefined;
  const twice = await verdictOf(files, { again: async (path) => failed(path), say });
  t.same([twice.total.failures.length, twice.flaky], [1, []]);
  t.equal((await verdictOf(files, { again: undefined, say })).total.failures.length, 1);
});

t.test('two flaky files pass, a third fails the run', async (t) => {
  const files = ['a', 'b', 'c'].map((path) => ran(path, true, failed(path)));
  const options = { again: async () => passed, say: () => undefined };
  t.same((await verdictOf(files.slice(0, 2), options)).total.failures, []);
  t.match((await verdictOf(files, options)).total.failures, [
    { file: 'a b c', message: '3 files are flaky' },
  ]);
});
