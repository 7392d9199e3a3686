// npm run fuzz:http -- [--seconds N] [--seed S] [--case I]: sends damaged requests to a whole Anteroom. The last line
// says what was found; it ends with 1 when that is anything. `--case` sends one case of a seed again and shows it.

import { runFuzz } from './run.ts';

const numberAfter = (name: string): number | undefined => {
  const at = process.argv.indexOf(name);
  if (at < 0) return undefined;
  const value = Number(process.argv[at + 1]);
  if (!Number.isSafeInteger(value) || value < 0) throw new Error(`${name} wants a whole number`);
  return value;
};

const main = async (): Promise<void> => {
  const seed = numberAfter('--seed') ?? Math.floor(Math.random() * 2 ** 31);
  const seconds = numberAfter('--seconds') ?? 60;
  const only = numberAfter('--case');
  const endings: (() => unknown)[] = [];
  try {
    const tally = await runFuzz(
      { teardown: (work) => endings.unshift(work) },
      { seconds, seed, say: console.log, ...(only === undefined ? {} : { only }) },
    );
    const { connections, requests, proxied, answered, nameless, leftToLibrary, crashes, hangs, misread } =
      tally;
    console.log(
      `connections ${connections}, answers ${answered}, seen by the origin ${proxied}, not judged: ${nameless} with a nameless header, ${leftToLibrary} heads that the library hands to nobody and closes by itself`,
    );
    console.log(`requests ${requests}, crashes ${crashes}, hangs ${hangs}, misread ${misread}, seed ${seed}`);
    if (crashes + hangs + misread > 0 || (only === undefined && proxied === 0)) process.exitCode = 1;
  } finally {
    for (const end of endings) await end();
  }
};

main().catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
