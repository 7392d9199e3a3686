// A whole Anteroom as a child process with a folder and ports of its own, and the raw floor beside it. The bench
// speaks to both over HTTP and reads their CPU from outside, as an operator would.

import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { takePort } from './ports.ts';

const ROOT = fileURLToPath(new URL('../', import.meta.url));
const READY_MS_MAX = 60_000;
const STOP_MS_MAX = 20_000;

export type Running = { pid: number; base: string; stop(): Promise<void> };
export type RunningSystem = Running & { metrics: string };

export const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

const owned = { children: new Set<ChildProcess>(), folders: new Set<string>(), watched: false };

/**
 * Notes what this run has started. A run that is cut short (Ctrl-C, a deadline of the shell) takes it all along: a
 * line of ten million must not stay in memory with nobody to end it.
 */
export const own = (child: ChildProcess, folder?: string): void => {
  owned.children.add(child);
  child.once('exit', () => owned.children.delete(child));
  if (folder !== undefined) owned.folders.add(folder);
  if (owned.watched) return;
  owned.watched = true;
  process.once('exit', () => {
    for (const left of owned.children) left.kill('SIGKILL');
    for (const left of owned.folders) rmSync(left, { recursive: true, force: true });
  });
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1));
};

/** Ends a child by its own handle: politely, then for sure. */
export const stopChild = async (child: ChildProcess): Promise<void> => {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), STOP_MS_MAX);
  await gone;
  clearTimeout(timer);
};

/** Settings of this shell must not leak in: a bench measures the defaults and what it sets itself. */
const cleanEnvironment = (): Record<string, string> =>
  Object.fromEntries(
    Object.entries(process.env).filter(
      (entry): entry is [string, string] => entry[1] !== undefined && !entry[0].startsWith('ANTEROOM_'),
    ),
  );

export const startSystem = async (settings: Record<string, string> = {}): Promise<RunningSystem> => {
  const folder = mkdtempSync(join(tmpdir(), 'anteroom-bench-'));
  chmodSync(folder, 0o711); // Root's PostgreSQL is somebody else, who has to enter it.
  const port = {
    public: await takePort(),
    admin: await takePort(),
    booking: await takePort(),
    sandbox: await takePort(),
    metrics: await takePort(),
  };
  let written = '';
  const child = spawn(process.execPath, ['--import', 'tsx/esm', 'main.ts'], {
    cwd: ROOT,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      ...cleanEnvironment(),
      ANTEROOM_DATA: folder,
      ANTEROOM_PORT: String(port.public),
      ANTEROOM_ADMIN_PORT: String(port.admin),
      ANTEROOM_BOOKING_PORT: String(port.booking),
      ANTEROOM_SANDBOX_PORT: String(port.sandbox),
      ANTEROOM_METRICS_PORT: String(port.metrics),
      ANTEROOM_LOG_LEVEL: 'warn',
      ...settings,
    },
  });
  own(child, folder);
  const collect = (chunk: Buffer): void => {
    written = (written + chunk.toString('utf8')).slice(-4000);
  };
  child.stdout.on('data', collect);
  child.stderr.on('data', collect);
  const stop = async (): Promise<void> => {
    await stopChild(child);
    rmSync(folder, { recursive: true, force: true });
  };
  const metrics = `http://127.0.0.1:${port.metrics}`;
  const until = performance.now() + READY_MS_MAX;
  for (;;) {
    const status = await fetch(`${metrics}/ready`).then(
      (answer) => answer.status,
      () => 0, // Not listening yet; asked again below until the deadline.
    );
    if (status === 200) break;
    if (child.exitCode !== null || performance.now() > until) {
      await stop();
      throw new Error(`the system did not become ready:\n${written}`);
    }
    await pause(100);
  }
  return { pid: child.pid ?? 0, base: `http://127.0.0.1:${port.public}`, metrics, stop };
};

/** A server of the bench in a process of its own; it prints its port on one line. */
const startBeside = async (file: string, words: readonly string[] = []): Promise<Running> => {
  const child = spawn(process.execPath, ['--import', 'tsx/esm', file, ...words], {
    cwd: ROOT,
    stdio: ['ignore', 'pipe', 'inherit'],
    env: cleanEnvironment(),
  });
  own(child);
  const port = await new Promise<string>((resolve, reject) => {
    child.stdout.once('data', (chunk: Buffer) => resolve(chunk.toString('utf8').trim()));
    child.once('exit', (code) => reject(new Error(`${file} ended with ${code}`)));
  });
  return { pid: child.pid ?? 0, base: `http://127.0.0.1:${port}`, stop: () => stopChild(child) };
};

export const startFloor = (): Promise<Running> => startBeside('bench/floor.ts');
export const startFastifyProxy = (origin: string): Promise<Running> =>
  startBeside('bench/fastify-proxy.ts', [origin]);
export const startFastifyJwt = (secret: string): Promise<Running> =>
  startBeside('bench/fastify-jwt.ts', [secret]);
export const startNaive = (redisPort: number): Promise<Running> =>
  startBeside('bench/naive.ts', [String(redisPort)]);

/** What a process of ours needs to work on a Redis of the bench's: its address and keys that only live here. */
export const onRedis = (url: string): Record<string, string> => ({
  ANTEROOM_REDIS_URL: url,
  ANTEROOM_KEYS: `bench:${randomBytes(32).toString('base64url')}`,
});
