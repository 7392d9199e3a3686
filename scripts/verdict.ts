// What a run of files comes to. A second chance is given only where the machine has a say: whole processes and
// browsers. A pass on the second try is reported (`flaky: FILE`, with its first failure), and more than two such files
// still fail the run.

import type { Failure, Report } from './tap-report.ts';

const FLAKY_FILES_MAX = 2;

export type Ran = { path: string; hasMercy: boolean; report: Report };

/** A failure as people read it: where it is, and what tap says of it. */
export const told = ({ file, test, message }: Failure): string =>
  `${['', file, test].filter((part) => part !== '').join(' > ')}\n${message}\n`;

/** Adds the reports up, in their order. `again` runs a file alone; left out, there is no second chance. */
export const verdictOf = async (
  ran: readonly Ran[],
  options: { again: ((path: string) => Promise<Report>) | undefined; say(line: string): void },
): Promise<{ total: Report; flaky: string[] }> => {
  const { again, say } = options;
  const total: Report = { passed: 0, skipped: 0, failures: [] };
  const flaky: string[] = [];
  for (const { path, hasMercy, report: first } of ran) {
    let report = first;
    if (again !== undefined && hasMercy && first.failures.length > 0) {
      say(`\nonce more, alone: ${path}`);
      report = await again(path);
      if (report.failures.length === 0) {
        flaky.push(path);
        say(`flaky: ${path}`);
        for (const failure of first.failures) say(told(failure));
      }
    }
    total.passed += report.passed;
    total.skipped += report.skipped;
    total.failures.push(...report.failures);
  }
  if (flaky.length > FLAKY_FILES_MAX)
    total.failures.push({ file: flaky.join(' '), test: '', message: `${flaky.length} files are flaky` });
  return { total, flaky };
};
