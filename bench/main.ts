// npm run bench -- NAME [--quick]: numbers that can be repeated. Starts what it measures, compares it in the same
// run, prints a table and writes bench/results/. Margins under 15 % on a shared machine are noise.

import { runAuthorize } from './authorize.ts';
import { runFlood } from './flood.ts';
import { runSse, runWs } from './frames.ts';
import { runGate } from './gate.ts';
import { runIdle } from './idle.ts';
import { runJoin } from './join.ts';
import { runLatency } from './latency.ts';
import { runLine10m } from './line10m.ts';
import { readMachine } from './machine.ts';
import { runPosition } from './position.ts';
import { runPromote } from './promote.ts';
import { runProxy } from './proxy.ts';
import { publish, type Row } from './report.ts';
import { runSlow } from './slow.ts';
import { runSoak, soakPlan } from './soak.ts';
import { runSteady } from './steady.ts';
import { runStorm } from './storm.ts';

/** `words` are the options of one bench alone. */
type Run = (
  quick: boolean,
  words: readonly string[],
) => Promise<{ rows: Row[]; rounds: Row[]; conditions: string[]; chart?: string }>;

/** `--fans 6000 --minutes 1` by name; throws for any other. */
const numbersOf = (words: readonly string[], names: readonly string[]): Record<string, number> => {
  const found: Record<string, number> = {};
  for (let index = 0; index < words.length; index += 2) {
    const [name, value] = [words[index]?.replace(/^--/, '') ?? '', Number(words[index + 1])];
    if (!names.includes(name) || !(value > 0)) throw new Error(`options: --${names.join(' N --')} N`);
    found[name] = value;
  }
  return found;
};
/** Benches that have options besides --quick. */
const WITH_OPTIONS = ['heap', 'soak'];

const runs: Readonly<Record<string, Run>> = {
  authorize: runAuthorize,
  flood: runFlood,
  gate: runGate,
  heap: (quick, words) => runSteady({ seconds: quick ? 60 : 600, ...numbersOf(words, ['seconds']) }.seconds),
  join: runJoin,
  position: runPosition,
  line10m: runLine10m,
  promote: runPromote,
  proxy: runProxy,
  slow: runSlow,
  soak: (quick, words) => runSoak(soakPlan({ quick, ...numbersOf(words, ['fans', 'minutes']) })),
  sse: runSse,
  ws: runWs,
  idle: runIdle,
  storm: runStorm,
  latency: runLatency,
};

const main = async (): Promise<void> => {
  const given = process.argv.slice(2);
  const quick = given.includes('--quick');
  const [name = '', ...more] = given.filter((argument) => argument !== '--quick');
  const run = Object.hasOwn(runs, name) ? runs[name] : undefined;
  if (run === undefined || (more.length > 0 && !WITH_OPTIONS.includes(name)))
    throw new Error(
      `usage: npm run bench -- ${Object.keys(runs).join('|')} [--quick] (heap: [--seconds N]; soak: [--fans N] [--minutes N])`,
    );
  const machine = readMachine();
  const { chart, ...done } = await run(quick, more);
  const command = ['npm run bench --', name, ...(quick ? ['--quick'] : []), ...more].join(' ');
  publish({ name, quick, command, at: new Date().toISOString(), machine, ...done }, chart);
};

main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : String(error));
  process.exitCode = 1;
});
