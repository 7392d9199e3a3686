// A private redis-server for one test file: random port, no disk, gone when the test ends.

import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { takePort } from '../../bench/ports.ts';
import { readConfig } from '../../kernel/config.ts';
import { silentLog } from '../../kernel/log.ts';
import { createRedis, type Redis } from '../../kernel/redis.ts';
import { eventually } from './eventually.ts';

type Teardown = { teardown(work: () => unknown): void };

/** Connects once; the client tries again by itself, and a second `connect` would leave it with two attempts. */
const answering = async (client: Redis): Promise<void> => {
  client.connect().catch(() => client.status);
  await eventually(
    'redis answers',
    async () => client.status === 'ready' && (await client.ping()) === 'PONG',
  );
};

export type TestRedis = {
  url: string;
  client: Redis;
  /** Another connection, closed with the test. */
  connect(purpose: string, options?: { blocking?: boolean }): Promise<Redis>;
  /** Kills the server (-9) and starts it again on the same port and folder. */
  kill(): Promise<void>;
  /** Ends it in order, its data written. */
  stop(): Promise<void>;
  start(): Promise<void>;
  /** Where it keeps its append-only file. */
  folder: string;
  port: number;
};

export const startRedis = async (
  t: Teardown,
  options: { appendOnly?: boolean; more?: readonly string[] } = {},
): Promise<TestRedis> => {
  const port = await takePort();
  const folder = mkdtempSync(join(tmpdir(), 'anteroom-redis-'));
  const url = `redis://127.0.0.1:${port}`;
  const config = readConfig({});
  /** Of a test: what it asks may take as long as the machine is busy. A test of that deadline makes its own client. */
  const patient = { ...config, redisCommandTimeoutMs: 30_000 };
  const clients: Redis[] = [];
  let child: ChildProcess | undefined;

  const connect = async (purpose: string, more: { blocking?: boolean } = {}): Promise<Redis> => {
    const client = createRedis({ url, config: patient, log: silentLog, purpose, ...more });
    clients.push(client);
    await answering(client);
    return client;
  };
  const start = async (): Promise<void> => {
    child = spawn(
      'redis-server',
      [
        '--port',
        String(port),
        '--bind',
        '127.0.0.1',
        '--dir',
        folder,
        '--save',
        '',
        '--maxmemory-policy',
        'noeviction',
        '--appendonly',
        options.appendOnly ? 'yes' : 'no',
        '--appendfsync',
        'everysec',
        ...(options.more ?? []),
      ],
      { stdio: 'ignore' },
    );
    const probe = createRedis({ url, config, log: silentLog, purpose: 'probe' });
    await answering(probe);
    probe.disconnect();
  };
  const end = async (signal: NodeJS.Signals): Promise<void> => {
    const running = child;
    if (running === undefined || running.exitCode !== null || running.signalCode !== null) return;
    const gone = new Promise((resolve) => running.once('exit', resolve));
    running.kill(signal);
    await gone;
  };
  t.teardown(async () => {
    for (const client of clients) client.disconnect();
    await end('SIGKILL');
    rmSync(folder, { recursive: true, force: true });
  });
  await start();
  return {
    url,
    client: await connect('test'),
    connect,
    kill: () => end('SIGKILL'),
    stop: () => end('SIGTERM'),
    start,
    folder,
    port,
  };
};
