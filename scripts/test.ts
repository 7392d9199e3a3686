// Runs the tests, tier by tier, and ends with each failed test and the total of tests: `N passed, N failed`.
//   npm test                    all tiers but slow
//   npm test -- rules parts     some tiers
//   npm test -- test/parts/gate.test.ts …   some files
//   --second-chance             as .ci/run does: files of system and browser that fail run once more, alone
//
// A second chance is given only where the machine has a say: whole processes and browsers. A pass on the second try
// is reported (`flaky: FILE`, with its first failure), and more than two such files still fail the run.

import { spawn } from 'node:child_process';
import { chmodSync, mkdtempSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { silentLog } from '../kernel/log.ts';
import { removeEmbeddedPostgres, startEmbeddedPostgres } from '../kernel/postgres-server.ts';
import { type Failure, type Report, readReport } from './tap-report.ts';

type Tier = { folder: string; jobs: number; mercy: boolean };

const TIERS: Record<string, Tier> = {
  rules: { folder: 'test/rules', jobs: 2, mercy: false },
  parts: { folder: 'test/parts', jobs: 2, mercy: false },
  system: { folder: 'test/system', jobs: 2, mercy: true },
  browser: { folder: 'test/browser', jobs: 1, mercy: true },
  slow: { folder: 'test/slow', jobs: 1, mercy: false },
};
const DEFAULT_TIERS = ['rules', 'parts', 'system', 'browser'];
const FLAKY_FILES_MAX = 2;

const filesIn = ({ folder }: Tier): string[] =>
  readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith('.test.ts'))
    .map((path) => join(folder, path))
    .sort();

/** Runs files with tap, says a line for each as it ends, and answers what happened. */
const runTap = async (
  files: readonly string[],
  jobs: number,
  more: readonly string[] = [],
): Promise<Report> => {
  const child = spawn(
    'node_modules/.bin/tap',
    ['run', '--reporter=tap', `--jobs=${jobs}`, ...more, ...files],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  );
  const exited = new Promise<number | null>((resolve, reject) => {
    child.once('error', reject).once('exit', resolve);
  });
  const raw: string[] = [];
  for await (const line of createInterface({ input: child.stdout })) {
    raw.push(line);
    if (/^(not )?ok \d+ - /.test(line)) console.log(line);
  }
  const report = readReport(raw);
  const code = await exited;
  if (code !== 0 && report.failures.length === 0)
    report.failures.push({ file: files.join(' '), test: '', message: `tap ended with ${code}` });
  return report;
};

const tell = ({ file, test, message }: Failure): void =>
  console.log(`${['', file, test].filter((part) => part !== '').join(' > ')}\n${message}\n`);

/** The failures that remain of a tier when each of its failed files has run once more, alone on the machine. */
const secondChance = async (failures: Failure[], flaky: string[]): Promise<Report> => {
  const again: Report = { passed: 0, skipped: 0, failures: [] };
  for (const file of new Set(failures.map((failure) => failure.file))) {
    console.log(`\nonce more, alone: ${file}`);
    const report = await runTap([file], 1);
    again.failures.push(...report.failures);
    if (report.failures.length > 0) continue;
    const first = failures.filter((failure) => failure.file === file);
    again.passed += first.length;
    flaky.push(file);
    console.log(`flaky: ${file}`);
    for (const failure of first) tell(failure);
  }
  return again;
};

/** One server for all files: each takes a database of its own there (test/support/postgres.ts). */
const startServer = async (): Promise<{ url: string; stop(): Promise<void> }> => {
  const folder = mkdtempSync('/tmp/anteroom-tests-');
  chmodSync(folder, 0o711); // Root's PostgreSQL is somebody else, who has to enter it.
  const server = await startEmbeddedPostgres({
    ...{ folder, log: silentLog },
    settings: ['fsync=off', 'max_connections=400'],
  });
  const stop = async (): Promise<void> => {
    await server.stop();
    removeEmbeddedPostgres(folder);
  };
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.once(signal, () => void stop().then(() => process.exit(1)));
  return { url: server.url, stop };
};

const main = async (): Promise<number> => {
  const args = process.argv.slice(2);
  const options = args.filter((arg) => arg.startsWith('--'));
  const named = args.filter((arg) => !arg.startsWith('--'));
  const isMerciful = options.includes('--second-chance');
  const more = options.filter((option) => option !== '--second-chance');
  const total: Report = { passed: 0, skipped: 0, failures: [] };
  const flaky: string[] = [];
  const add = ({ passed, skipped, failures }: Report): void => {
    total.passed += passed;
    total.skipped += skipped;
    total.failures.push(...failures);
  };
  const files = named.filter((name) => !(name in TIERS));
  if (files.length > 0) add(await runTap(files, 1, more));
  for (const name of named.length === 0 ? DEFAULT_TIERS : named.filter((name) => name in TIERS)) {
    const tier = TIERS[name]!;
    const startMs = performance.now();
    console.log(`\n# ${name}`);
    const report = await runTap(filesIn(tier), tier.jobs, more);
    if (isMerciful && tier.mercy && report.failures.length > 0) {
      const again = await secondChance(report.failures, flaky);
      add({ ...again, passed: report.passed + again.passed, skipped: report.skipped });
    } else add(report);
    console.log(`# ${name}: ${Math.round((performance.now() - startMs) / 1000)} s`);
  }
  if (flaky.length > FLAKY_FILES_MAX)
    total.failures.push({ file: flaky.join(' '), test: '', message: `${flaky.length} files are flaky` });
  if (total.failures.length > 0) console.log('\nFailed:');
  for (const failure of total.failures) tell(failure);
  for (const file of flaky) console.log(`flaky: ${file}`);
  const skipped = total.skipped > 0 ? `, ${total.skipped} skipped` : '';
  console.log(`${total.passed} passed, ${total.failures.length} failed${skipped}`);
  return total.failures.length > 0 || total.passed === 0 ? 1 : 0;
};

const server = await startServer();
process.env.TEST_POSTGRES_URL = server.url;
try {
  process.exitCode = await main();
} finally {
  await server.stop();
}
