// npm run bench -- NAME [--quick]: numbers that can be repeated. Starts what it measures, compares it in the same
// run, prints a table and writes bench/results/. Margins under 15 % on a shared machine are noise.

import { runFlood } from './flood.ts';
import { runGate } from './gate.ts';
import { runJoin } from './join.ts';
import { runLine10m } from './line10m.ts';
import { readMachine } from './machine.ts';
import { runPosition } from './position.ts';
import { runPromote } from './promote.ts';
import { runProxy } from './proxy.ts';
import { publish, type Row } from './report.ts';
import { runSlow } from './slow.ts';
import { runSse } from './sse.ts';

type Run = (quick: boolean) => Promise<{ rows: Row[]; rounds: Row[]; conditions: string[]; chart?: string }>;

const runs: Readonly<Record<string, Run>> = {
  flood: runFlood,
  gate: runGate,
  join: runJoin,
  position: runPosition,
  line10m: runLine10m,
  promote: runPromote,
  proxy: runProxy,
  slow: runSlow,
  sse: runSse,
};

const main = async (): Promise<void> => {
  const given = process.argv.slice(2);
  const quick = given.includes('--quick');
  const [name = '', ...more] = given.filter((argument) => argument !== '--quick');
  const run = Object.hasOwn(runs, name) ? runs[name] : undefined;
  if (run === undefined || more.length > 0)
    throw new Error(`usage: npm run bench -- ${Object.keys(runs).join('|')} [--quick]`);
  const machine = readMachine();
  const { chart, ...done } = await run(quick);
  const command = `npm run bench -- ${name}${quick ? ' --quick' : ''}`;
  publish({ name, quick, command, at: new Date().toISOString(), machine, ...done }, chart);
};

main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : String(error));
  process.exitCode = 1;
});
