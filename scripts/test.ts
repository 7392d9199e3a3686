// Runs the tests and ends with each failed test and the total of tests: `N passed, N failed`.
//   npm test                    all tiers but slow
//   npm test -- rules parts     some tiers
//   npm test -- test/rules/gate.test.ts …   some files
//   --shuffle                   files in random order, as ANTEROOM_SEED says, or a new one
//   --second-chance             as .ci/run does: files of system and browser that fail run once more, alone
//                               (scripts/verdict.ts)
//
// Each file is a program that writes TAP, and runs as one: `node FILE`, some at a time. tap's own runner would parse
// every assertion again and watch every child, which took a third of the time.

import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, mkdtempSync, readdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { silentLog } from '../kernel/log.ts';
import { removeEmbeddedPostgres, startEmbeddedPostgres } from '../kernel/postgres-server.ts';
import { type Report, readReport } from './tap-report.ts';
import { told, verdictOf } from './verdict.ts';

/** `jobs` is how many files of a tier run at the same time, beside those of others. */
type Tier = { folder: string; jobs: number; mercy: boolean };

// Many files of system and browser wait for something most of the time, so more run than there are cores.
const JOBS = availableParallelism() + 2;
const TIERS: Record<string, Tier> = {
  rules: { folder: 'test/rules', jobs: JOBS, mercy: false },
  browser: { folder: 'test/browser', jobs: 1, mercy: true },
  system: { folder: 'test/system', jobs: JOBS, mercy: true },
  parts: { folder: 'test/parts', jobs: JOBS, mercy: false },
  slow: { folder: 'test/slow', jobs: 1, mercy: false },
};
/** In this order, and what is slowest to end before the rest. */
const DEFAULT_TIERS = ['rules', 'browser', 'system', 'parts'];
/** A file has deadlines of its own (tap's, and those of its tests); this is for one that hangs beyond them. */
const FILE_MS_MAX = 40 * 60_000;
/** Seconds for a file that sets no time of its own. */
const TAP_TIMEOUT = '300';

type File = { path: string; tier: Tier };

const filesIn = (tier: Tier): File[] =>
  readdirSync(tier.folder, { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith('.test.ts'))
    .sort()
    .map((path) => ({ path: join(tier.folder, path), tier }));

/** Runs one file, says how it went, and answers what happened. */
const runFile = async (path: string): Promise<Report> => {
  const startMs = performance.now();
  // tap first, so that tsx need not look at each of its files.
  const child = spawn(process.execPath, ['--import=tap', '--import=tsx/esm', path], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, TAP_TIMEOUT },
  });
  const hung = setTimeout(() => child.kill('SIGKILL'), FILE_MS_MAX);
  const exited = new Promise<number | string>((resolve, reject) => {
    child.once('error', reject).once('exit', (code, signal) => resolve(signal ?? code ?? 1));
  });
  const lines = [`# Subtest: ${path}`];
  for await (const line of createInterface({ input: child.stdout })) lines.push(`    ${line}`);
  const code = await exited;
  clearTimeout(hung);
  const report = readReport([...lines, `${code === 0 ? 'ok' : 'not ok'} 1 - ${path}`]);
  if (report.passed + report.skipped + report.failures.length === 0)
    report.failures.push({ file: path, test: '', message: 'the file holds no test' });
  const seconds = ((performance.now() - startMs) / 1000).toFixed(1);
  console.log(`${report.failures.length === 0 ? 'ok' : 'not ok'} ${path} ${seconds} s`);
  return report;
};

/** Runs files side by side, each tier no more at a time than it may; the reports are in the order of the files. */
const runAll = async (files: readonly File[], jobs: number): Promise<Map<File, Report>> => {
  const reports = new Map<File, Report>();
  const waiting = [...files];
  const running = new Map<Tier, number>();
  const worker = async (): Promise<void> => {
    for (;;) {
      const index = waiting.findIndex(({ tier }) => (running.get(tier) ?? 0) < tier.jobs);
      const [file] = index < 0 ? [] : waiting.splice(index, 1);
      if (file === undefined) return;
      running.set(file.tier, (running.get(file.tier) ?? 0) + 1);
      reports.set(file, await runFile(file.path));
      running.set(file.tier, running.get(file.tier)! - 1);
    }
  };
  await Promise.all(Array.from({ length: jobs }, worker));
  return reports;
};

/** A random order that can be had again by the seed it prints: that of the hashes of seed and path. */
const shuffled = (files: readonly File[]): File[] => {
  const { ANTEROOM_SEED: given = '' } = process.env;
  const seed = given === '' ? Math.floor(Math.random() * 2 ** 31) : Number(given);
  console.log(`ANTEROOM_SEED=${seed}`);
  const keyed = files.map((file) => ({
    file,
    key: createHash('sha256').update(`${seed} ${file.path}`).digest('hex'),
  }));
  return keyed.sort((one, other) => (one.key < other.key ? -1 : 1)).map(({ file }) => file);
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

/** Runs the files, and answers the exit code. */
const runAndTell = async (files: readonly File[], isMerciful: boolean): Promise<number> => {
  const startMs = performance.now();
  const reports = await runAll(files, JOBS);
  const { total, flaky } = await verdictOf(
    files.map((file) => ({ path: file.path, hasMercy: file.tier.mercy, report: reports.get(file)! })),
    { again: isMerciful ? runFile : undefined, say: (line) => console.log(line) },
  );
  if (total.failures.length > 0) console.log('\nFailed:');
  for (const failure of total.failures) console.log(told(failure));
  for (const path of flaky) console.log(`flaky: ${path}`);
  const skipped = total.skipped > 0 ? `, ${total.skipped} skipped` : '';
  console.log(`${Math.round((performance.now() - startMs) / 1000)} s`);
  console.log(`${total.passed} passed, ${total.failures.length} failed${skipped}`);
  return total.failures.length > 0 || total.passed === 0 ? 1 : 0;
};

const main = async (): Promise<number> => {
  const args = process.argv.slice(2);
  const options = new Set(args.filter((arg) => arg.startsWith('--')));
  const unknown = [...options].find((option) => !['--shuffle', '--second-chance'].includes(option));
  if (unknown !== undefined) throw new Error(`unknown option ${unknown}: --shuffle, --second-chance`);
  const named = args.filter((arg) => !arg.startsWith('--'));
  const tierOf = (path: string): Tier =>
    Object.values(TIERS).find(({ folder }) => path.startsWith(`${folder}/`)) ?? TIERS.slow!;
  const listed = (named.length === 0 ? DEFAULT_TIERS : named).flatMap((name) =>
    name in TIERS ? filesIn(TIERS[name]!) : [{ path: name, tier: tierOf(name) }],
  );
  const files = options.has('--shuffle') ? shuffled(listed) : listed;
  // Rules need none, and are what `npm run check` runs at each save.
  const server = files.every(({ tier }) => tier === TIERS.rules) ? undefined : await startServer();
  if (server !== undefined) process.env.TEST_POSTGRES_URL = server.url;
  try {
    return await runAndTell(files, options.has('--second-chance'));
  } finally {
    await server?.stop();
  }
};

process.exitCode = await main();
