// Plain JavaScript, because worker threads load it too, before anything that reads TypeScript.
// Loaded into a server before everything else (`--import`): on SIGUSR2 it collects its garbage and adds one line to
// the file that BENCH_HEAP_FILE names: heap, external memory and RSS in bytes. Nothing else is changed.

import { appendFileSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { isMainThread } from 'node:worker_threads';

const file = process.env.BENCH_HEAP_FILE;
if (isMainThread && file !== undefined) {
  setFlagsFromString('--expose-gc');
  const gc = runInNewContext('gc');
  process.on('SIGUSR2', () => {
    if (typeof gc === 'function') gc();
    const { heapUsed, external, rss } = process.memoryUsage();
    appendFileSync(file, `${heapUsed} ${external} ${rss}\n`);
  });
}
