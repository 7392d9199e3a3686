// The result of a run of tap, read from its raw output (https://testanything.org/tap-version-14-specification.html):
// it counts tests, which are promises, and not the assertions inside them.

export type Failure = {
  file: string;
  /** The names of the tests around it and its own, outermost first; empty where the file itself failed. */
  test: string;
  /** What tap says of the first failed assertion, or of the file. */
  message: string;
};
export type Report = { passed: number; skipped: number; failures: Failure[] };

type Open = { indent: number; name: string; tests: number; failed: boolean; message: string[] };

const MESSAGE_LINES_MAX = 40;
const NO_MESSAGE = 'no assertion failed: what the file wrote stands above';
const SUBTEST = /^( *)# Subtest: (.*)$/;
const RESULT = /^( *)(not ok|ok) \d+(?: - )?(.*)$/;
const SKIPPED = / # SKIP\b/i;

/**
 * A test is a subtest without subtests in it, or one that fails although all of those passed. A file that fails
 * without a failed test in it (it could not be loaded, it ran out of time) counts as one failure.
 */
export const readReport = (lines: readonly string[]): Report => {
  const report: Report = { passed: 0, skipped: 0, failures: [] };
  const open: Open[] = [];
  /** Collects the diagnosis of a failed assertion, until the line that ends its block. */
  let diagnosis: { into: string[]; end: string } | undefined;

  const ended = (test: Open, isOk: boolean, isSkipped: boolean): void => {
    const around = open.at(-1);
    const isFile = around === undefined;
    if (!isFile) around.tests += 1;
    if (!isOk && !test.failed) {
      const [file, ...names] = [...open.map(({ name }) => name), test.name];
      report.failures.push({
        file: file!,
        test: names.join(' > '),
        message: test.message.join('\n') || NO_MESSAGE,
      });
    } else if (!isFile && isSkipped) report.skipped += 1;
    else if (!isFile && isOk && test.tests === 0) report.passed += 1;
    if (!isOk && !isFile) around.failed = true;
  };

  for (const line of lines) {
    if (diagnosis !== undefined) {
      const { into, end } = diagnosis;
      if (line === end) diagnosis = undefined;
      else if (into.length < MESSAGE_LINES_MAX) into.push(line);
      continue;
    }
    const subtest = SUBTEST.exec(line);
    if (subtest !== null) {
      open.push({ indent: subtest[1]!.length, name: subtest[2]!, tests: 0, failed: false, message: [] });
      continue;
    }
    const result = RESULT.exec(line);
    if (result === null) {
      const last = open.at(-1);
      // The block below the first failed assertion of a test.
      if (/^ *---$/.test(line) && last?.message.length === 1)
        diagnosis = { into: last.message, end: line.replace('---', '...') };
      continue;
    }
    const [, blanks, word, name] = result;
    const isSkipped = SKIPPED.test(name!);
    const isOk = word === 'ok' || isSkipped;
    // A process that died has left tests without a result.
    while ((open.at(-1)?.indent ?? 0) > blanks!.length) {
      const cut = open.pop()!;
      if (cut.message.length === 0) cut.message.push('the test did not end');
      ended(cut, false, false);
    }
    const last = open.at(-1);
    if (last !== undefined && last.indent === blanks!.length) {
      open.pop();
      ended(last, isOk, isSkipped);
    } else if (!isOk && last?.message.length === 0) last.message.push(name!);
  }
  return report;
};
