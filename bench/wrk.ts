// The same load by wrk (Debian's package), for plain GETs: a client of a few microseconds a request, so that on a machine
// with one core for the servers it is the servers that are the limit. It tells statuses only as "2xx or 3xx" and "other".

import { spawn } from 'node:child_process';
import type { Load, LoadResult } from './load.ts';
import { cpuSecondsOf } from './machine.ts';

const LOOK_MS = 50;
const MS_OF = { us: 0.001, ms: 1, s: 1000, m: 60_000 } as const;
type Unit = keyof typeof MS_OF;

const numberIn = (text: string, pattern: RegExp): number => Number(pattern.exec(text)?.[1] ?? 0);

/** What `wrk --latency` prints: `status` stands for all answers when none, or every one, is other than 2xx and 3xx. */
export const readWrk = (text: string, status: number): LoadResult => {
  const answers = numberIn(text, /(\d+) requests in/);
  const [, p99 = '0', unit = 'ms'] = /99%\s+([\d.]+)(us|ms|s|m)\b/.exec(text) ?? [];
  const [, took = '0', tookUnit = 's'] = /requests in ([\d.]+)(us|ms|s|m)\b/.exec(text) ?? [];
  const errors = /Socket errors: (.*)/.exec(text)?.[1];
  if (errors !== undefined || answers === 0) throw new Error(`wrk: ${errors ?? text}`);
  const others = numberIn(text, /Non-2xx or 3xx responses: (\d+)/);
  const right = status < 400 ? answers - others : others;
  return {
    answers,
    seconds: (Number(took) * MS_OF[tookUnit as Unit]) / 1000, // The pattern takes these units alone.
    p99Ms: Number(p99) * MS_OF[unit as Unit],
    statuses: new Map([[status, right], ...(right === answers ? [] : [[0, answers - right] as const])]),
  };
};

export const runWrk = (
  load: Load,
  options: { connections: number; seconds: number; status: number },
): Promise<LoadResult & { cpuSeconds: number }> => {
  const { base, path, headers } = load;
  const lines = Object.entries(headers).flatMap(([name, value]) => ['-H', `${name}: ${value}`]);
  const { connections, seconds, status } = options;
  const child = spawn(
    'wrk',
    ['-t1', `-c${connections}`, `-d${seconds}s`, '--latency', ...lines, `${base}${path}`],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  let text = '';
  child.stdout.on('data', (chunk: Buffer) => {
    text += chunk.toString('utf8');
  });
  let cpuSeconds = 0;
  // Its own CPU, as last seen: it ends by itself, and nothing is known of it afterwards.
  const looking = setInterval(() => {
    if (child.pid !== undefined) cpuSeconds = Math.max(cpuSeconds, cpuSecondsOf(child.pid));
  }, LOOK_MS);
  return new Promise((resolve, reject) => {
    child.once('error', () => {
      clearInterval(looking);
      reject(new Error('wrk is missing; `scripts/setup --bench` installs it'));
    });
    child.once('exit', () => clearInterval(looking));
    child.once('close', () => {
      try {
        resolve({ ...readWrk(text, status), cpuSeconds });
      } catch (error) {
        reject(error);
      }
    });
  });
};
