// Memory of a gateway that proxies for minutes: a steady, low rate of bodies from 1 KB to 1 MB, down and up, and one
// reader in a hundred who leaves in the middle. Every ten seconds the process collects its garbage and says what it
// holds (heap-told.js). The slope is a least-squares line through the later two thirds: until then caches fill and
// code is compiled.

import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { Agent, request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { browserHeaders, createFan } from './fan.ts';
import { getInside } from './gate.ts';
import { type Row, rounded } from './report.ts';
import { pause, type Running, startFloor, startSystem } from './system.ts';

const PER_SECOND = 250;
const EVERY_MS = 10_000;
const TICK_MS = 10;
const MIB = 1_048_576;
/** Of a hundred requests: how many, and of which size. */
const MIX: readonly (readonly [count: number, bytes: number])[] = [
  [70, 1024],
  [20, 16_384],
  [7, 131_072],
  [3, MIB],
];
const SIZES = MIX.flatMap(([count, bytes]) => Array.from({ length: count }, () => bytes));
/** Enough that a stall of the machine is not a hundred thousand sockets. */
const UNDER_WAY_MAX = 200;
const ANSWER_MS_MAX = 30_000;

type Sample = { atSeconds: number; heap: number; external: number; rss: number; answered: number };

/** Rise of `read` a minute, by least squares. */
export const slopeOf = (samples: readonly Sample[], read: (sample: Sample) => number): number => {
  const meanX = samples.reduce((sum, { atSeconds }) => sum + atSeconds, 0) / samples.length;
  const meanY = samples.reduce((sum, sample) => sum + read(sample), 0) / samples.length;
  let [above, below] = [0, 0];
  for (const sample of samples) {
    above += (sample.atSeconds - meanX) * (read(sample) - meanY);
    below += (sample.atSeconds - meanX) ** 2;
  }
  return (above / below) * 60;
};

export const runSteady = async (
  seconds: number,
): Promise<{ rows: Row[]; rounds: Row[]; conditions: string[] }> => {
  const folder = mkdtempSync(join(tmpdir(), 'anteroom-bench-heap-'));
  const file = join(folder, 'heap');
  const running: Running[] = [];
  const agent = new Agent({ keepAlive: true, maxSockets: 64 });
  let timer: NodeJS.Timeout | undefined;
  try {
    const origin = await startFloor();
    running.unshift(origin);
    const system = await startSystem({
      ANTEROOM_DEMO: 'on',
      ANTEROOM_ROLES: 'gateway,broker,dispatcher,admin',
      ANTEROOM_BOOKING_URL: origin.base,
      NODE_OPTIONS: `--import ${fileURLToPath(new URL('./heap-told.js', import.meta.url))}`,
      BENCH_HEAP_FILE: file,
    });
    running.unshift(system);
    const fan = createFan({ base: system.base, agent });
    await getInside(fan);
    const { port } = new URL(system.base);
    // As a browser would: a session is renewed with an answer, and lasts longer than its first cookie.
    const cookies = new Map(
      fan
        .cookieHeader()
        .split('; ')
        .map((pair): [string, string] => {
          const equals = pair.indexOf('=');
          return [pair.slice(0, equals), pair.slice(equals + 1)];
        }),
    );
    const keepCookies = (set: readonly string[] = []): void => {
      for (const line of set) {
        const equals = line.indexOf('=');
        cookies.set(line.slice(0, equals), line.slice(equals + 1).split(';')[0] ?? '');
      }
    };
    const cookieHeader = (): string => [...cookies].map(([name, value]) => `${name}=${value}`).join('; ');
    const counts = { answered: 0, left: 0, failed: 0, skipped: 0, bytes: 0, underWay: 0 };
    const ask = (index: number): void => {
      if (counts.underWay >= UNDER_WAY_MAX) {
        counts.skipped += 1;
        return;
      }
      const size = SIZES[(index * 37) % SIZES.length]!;
      const isUpload = index % 10 === 9;
      const leaves = index % 100 === 50;
      counts.underWay += 1;
      let isOver = false;
      const over = (how: 'answered' | 'left' | 'failed'): void => {
        if (isOver) return;
        isOver = true;
        counts.underWay -= 1;
        counts[how] += 1;
      };
      const asked = request({
        ...{ host: '127.0.0.1', port, agent, timeout: ANSWER_MS_MAX },
        method: isUpload ? 'POST' : 'GET',
        path: isUpload ? '/demo/v1/upload' : `/demo/v1/bytes/${leaves ? MIB : size}`,
        headers: {
          ...browserHeaders,
          cookie: cookieHeader(),
          ...(isUpload ? { 'content-length': String(size) } : {}),
        },
      });
      asked.on('timeout', () => asked.destroy(new Error('no answer')));
      asked.on('error', () => over(leaves ? 'left' : 'failed'));
      asked.on('response', (answer) => {
        keepCookies(answer.headers['set-cookie']);
        answer.on('error', () => over(leaves ? 'left' : 'failed'));
        answer.on('data', (chunk: Buffer) => {
          counts.bytes += chunk.length;
          if (leaves) asked.destroy();
        });
        answer.on('end', () => over((answer.statusCode ?? 0) < 300 ? 'answered' : 'failed'));
        answer.on('close', () => over(leaves ? 'left' : 'failed'));
      });
      asked.end(isUpload ? Buffer.alloc(size, 120) : undefined);
    };

    const startedMs = performance.now();
    let asked = 0;
    timer = setInterval(() => {
      const due = Math.floor(((performance.now() - startedMs) / 1000) * PER_SECOND);
      // After a stall of the machine what was missed is not made up for.
      asked = Math.max(asked, due - PER_SECOND);
      while (asked < due) ask(asked++);
    }, TICK_MS);
    const samples: Sample[] = [];
    for (let next = EVERY_MS; next <= seconds * 1000; next += EVERY_MS) {
      await pause(Math.max(0, startedMs + next - performance.now()));
      process.kill(system.pid, 'SIGUSR2');
      await pause(1000);
      const [heap = 0, external = 0, rss = 0] =
        readFileSync(file, 'utf8').trim().split('\n').at(-1)?.split(' ').map(Number) ?? [];
      samples.push({ atSeconds: next / 1000, heap, external, rss, answered: counts.answered });
      process.stderr.write(
        `  ${next / 1000} s: heap ${rounded(heap / MIB)}, RSS ${rounded(rss / MIB)} MiB\n`,
      );
    }
    clearInterval(timer);
    // Whatever is refused is no proxying, and a flat line would say nothing.
    if (counts.failed * 100 > counts.answered)
      throw new Error(`${counts.failed} of ${asked} requests failed: nothing was measured`);
    const later = samples.slice(Math.floor(samples.length / 3));
    const range = (read: (sample: Sample) => number): string =>
      `${rounded(Math.min(...later.map(read)) / MIB, 1)} to ${rounded(Math.max(...later.map(read)) / MIB, 1)}`;
    const row = (memory: string, read: (sample: Sample) => number): Row => ({
      memory,
      'MiB, later two thirds': range(read),
      'MiB at the end': rounded((samples.at(-1) === undefined ? 0 : read(samples.at(-1)!)) / MIB, 1),
      'MiB more a minute': rounded(slopeOf(later, read) / MIB, 3),
    });
    return {
      rows: [
        row('heap after a collection', ({ heap }) => heap),
        row('external (buffers) after a collection', ({ external }) => external),
        row('RSS', ({ rss }) => rss),
        {
          proxied: counts.answered,
          seconds,
          'MiB carried down': Math.round(counts.bytes / MIB),
          'readers who left': counts.left,
          failed: counts.failed,
          'not asked: 200 under way': counts.skipped,
        },
      ],
      rounds: samples.map(
        ({ atSeconds, heap, external, rss, answered }): Row => ({
          atSeconds,
          heapMiB: rounded(heap / MIB),
          externalMiB: rounded(external / MIB),
          rssMiB: rounded(rss / MIB),
          answered,
        }),
      ),
      conditions: [
        `${PER_SECOND} requests/s offered through the gate with a known session: 70 % of 1 KB, 20 % of 16 KB, 7 % of 128 KB, 3 % of 1 MB; every tenth an upload, one in a hundred leaves in the middle of 1 MB`,
        'gateway, broker, dispatcher and admin in the one server process; other work may run on the machine',
      ],
    };
  } finally {
    clearInterval(timer);
    agent.destroy();
    for (const one of running) await one.stop();
    rmSync(folder, { recursive: true, force: true });
  }
};
