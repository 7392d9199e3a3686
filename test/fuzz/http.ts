// npm run fuzz:http -- [--seconds N] [--seed S] [--behind nginx|haproxy] [--case I]: sends damaged requests to a whole
// Anteroom. The last line says what was found; it ends with 1 when that is anything. `--case` sends one case of a seed
// again and shows it.

import { startFuzz, WAYS } from './run.ts';

const numberAfter = (name: string): number | undefined => {
  const at = process.argv.indexOf(name);
  if (at < 0) return undefined;
  const value = Number(process.argv[at + 1]);
  if (!Number.isSafeInteger(value) || value < 0) throw new Error(`${name} wants a whole number`);
  return value;
};

const wayAsked = () => {
  const at = process.argv.indexOf('--behind');
  const way = WAYS.find((one) => one === (at < 0 ? 'straight' : process.argv[at + 1]));
  if (way === undefined) throw new Error('--behind wants nginx or haproxy');
  return way;
};

const main = async (): Promise<void> => {
  const seed = numberAfter('--seed') ?? Math.floor(Math.random() * 2 ** 31);
  const seconds = numberAfter('--seconds') ?? 60;
  const only = numberAfter('--case');
  const way = wayAsked();
  const endings: (() => unknown)[] = [];
  try {
    const { run } = await startFuzz({ teardown: (work) => endings.unshift(work) }, console.log);
    const tally = await run({ way, until: { seconds }, seed, ...(only === undefined ? {} : { only }) });
    const { requests, crashes, hangs, misread, pauses } = tally;
    const longestMs = Math.max(0, ...pauses.map(({ fromMs, untilMs }) => untilMs - fromMs));
    console.log(
      `connections ${tally.connections}, answers ${tally.answered}, seen by the origin ${tally.proxied}, not judged: ${tally.nameless} with a nameless header, ${tally.leftToLibrary} heads that the library hands to nobody and closes by itself`,
    );
    console.log(
      `pauses ${pauses.length}, the longest ${(longestMs / 1000).toFixed(1)} s; cases that were slow and were sent again ${tally.repeated}`,
    );
    console.log(
      `requests ${requests}, crashes ${crashes}, hangs ${hangs}, misread ${misread}, seed ${seed}${way === 'straight' ? '' : `, behind ${way}`}`,
    );
    if (crashes + hangs + misread > 0 || (only === undefined && tally.proxied === 0)) process.exitCode = 1;
  } finally {
    for (const end of endings) await end();
  }
};

main().catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
