// A primary, two replicas and three sentinels as real processes, started from the files in deploy/redis, with
// ports, folders and times of the test. Everything ends with the test, stopped servers too.

import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { takePort } from '../../bench/ports.ts';
import { readConfig } from '../../kernel/config.ts';
import { silentLog } from '../../kernel/log.ts';
import { createRedis, type Redis } from '../../kernel/redis.ts';
import { eventually } from './eventually.ts';

type Teardown = { teardown(work: () => unknown): void };

export type Node = {
  port: number;
  url: string;
  pid: number;
  client: Redis;
  /** SIGSTOP and SIGCONT: it hangs, and TCP still takes what is sent to it. */
  pause(): void;
  resume(): void;
  kill(): Promise<void>;
  /** Starts it again with the file it had, as Sentinel has rewritten it. */
  start(): Promise<void>;
};

export type Sentinels = {
  url: string;
  name: string;
  /** Whoever the sentinels call primary at this moment. */
  primary(): Promise<Node>;
  /** The others. */
  replicas(): Promise<Node[]>;
  sentinels: readonly Node[];
  /** Resolves with the new primary once most sentinels name another than `before` and it takes writes. */
  waitForFailover(before: Node): Promise<Node>;
  /** Resolves once `node` is a replica in sync. */
  waitForReplica(node: Node): Promise<void>;
};

const NAME = 'anteroom';
/** Long enough that a busy machine is not taken for a dead one. */
const DOWN_AFTER_MS = 2000;
const FAILOVER_TIMEOUT_MS = 3000;

/** One of the files people copy, with some of its lines replaced; a line that is not there is a fault of the test. */
const deployed = (file: string, replaced: Record<string, string>): string => {
  let text = readFileSync(new URL(`../../deploy/redis/${file}`, import.meta.url), 'utf8');
  for (const [directive, value] of Object.entries(replaced)) {
    const line = new RegExp(`^${directive} .*$`, 'm');
    if (!line.test(text)) throw new Error(`deploy/redis/${file} has no line ${directive}`);
    text = text.replace(line, `${directive} ${value}`);
  }
  return text;
};

export const startSentinels = async (t: Teardown): Promise<Sentinels> => {
  const folder = mkdtempSync(join(tmpdir(), 'anteroom-sentinel-'));
  const config = readConfig({});
  const children = new Set<ChildProcess>();
  const clients: Redis[] = [];
  t.teardown(async () => {
    for (const client of clients) client.disconnect();
    for (const child of children) {
      if (child.exitCode !== null || child.signalCode !== null) continue;
      const gone = new Promise((resolve) => child.once('exit', resolve));
      child.kill('SIGKILL');
      await gone;
    }
    rmSync(folder, { recursive: true, force: true });
  });

  const open = async (options: { port: number; text: string; more: string[] }): Promise<Node> => {
    const { port, text, more } = options;
    const dir = join(folder, String(port));
    mkdirSync(dir);
    const file = join(dir, 'redis.conf');
    writeFileSync(file, text.replace(/^dir .*$/m, `dir ${dir}`));
    let child: ChildProcess;
    const client = createRedis({
      url: `redis://127.0.0.1:${port}`,
      config,
      log: silentLog,
      purpose: 'test-node',
    });
    clients.push(client);
    const run = (): void => {
      child = spawn('redis-server', [file, ...more], { stdio: 'ignore' });
      children.add(child);
    };
    const answers = () =>
      eventually(
        `redis on ${port} answers`,
        async () => client.status === 'ready' && (await client.ping()) === 'PONG',
      );
    run();
    client.connect().catch(() => client.status);
    await answers();
    return {
      port,
      url: `redis://127.0.0.1:${port}`,
      get pid() {
        return child.pid ?? 0;
      },
      client,
      pause: () => void child.kill('SIGSTOP'),
      resume: () => void child.kill('SIGCONT'),
      async kill() {
        const gone = new Promise((resolve) => child.once('exit', resolve));
        child.kill('SIGKILL');
        await gone;
      },
      async start() {
        run();
        await answers();
      },
    };
  };

  const [first, second, third] = [await takePort(), await takePort(), await takePort()];
  const nodes: Node[] = [
    await open({ port: first, text: deployed('redis-primary.conf', { port: String(first) }), more: [] }),
  ];
  for (const port of [second, third])
    nodes.push(
      await open({
        port,
        text: deployed('redis-replica.conf', { port: String(port), replicaof: `127.0.0.1 ${first}` }),
        more: ['--repl-diskless-sync-delay', '0'],
      }),
    );
  const info = async (node: Node): Promise<string> => node.client.info('replication');
  const waitForReplica = (node: Node): Promise<void> =>
    eventually(
      `${node.port} is a replica in sync`,
      async () => /role:slave[\s\S]*master_link_status:up/.test(await info(node)),
      30_000,
    );
  for (const node of nodes.slice(1)) await waitForReplica(node);
  await eventually('the primary has both', async () => /connected_slaves:2/.test(await info(nodes[0]!)));

  const sentinels: Node[] = [];
  for (let index = 0; index < 3; index += 1) {
    const port = await takePort();
    const text = deployed('sentinel.conf', {
      port: String(port),
      [`sentinel monitor ${NAME}`]: `127.0.0.1 ${first} 2`,
      [`sentinel down-after-milliseconds ${NAME}`]: String(DOWN_AFTER_MS),
      [`sentinel failover-timeout ${NAME}`]: String(FAILOVER_TIMEOUT_MS),
    });
    const node = await open({ port, text, more: ['--sentinel'] });
    // They find each other, and an old primary that came back, sooner than they would in earnest.
    await node.client.call('SENTINEL', 'DEBUG', 'publish-period', '500', 'info-period', '1000');
    sentinels.push(node);
  }
  const fields = async (node: Node): Promise<Map<string, string>> => {
    const reply = await node.client.call('SENTINEL', 'MASTER', NAME);
    const flat = Array.isArray(reply) ? reply.map(String) : Object.entries(Object(reply)).flat().map(String);
    const found = new Map<string, string>();
    for (let index = 0; index + 1 < flat.length; index += 2) found.set(flat[index]!, flat[index + 1]!);
    return found;
  };
  await eventually(
    'the sentinels know everybody',
    async () => {
      for (const node of sentinels) {
        const known = await fields(node);
        if (known.get('num-slaves') !== '2' || known.get('num-other-sentinels') !== '2') return false;
      }
      return true;
    },
    20_000,
  );

  /** The port most sentinels name; undefined while they differ. */
  const named = async (): Promise<number | undefined> => {
    const votes = new Map<number, number>();
    for (const node of sentinels) {
      if (node.client.status !== 'ready') continue;
      const reply = await node.client.call('SENTINEL', 'get-master-addr-by-name', NAME);
      const port = Array.isArray(reply) ? Number(reply[1]) : 0;
      votes.set(port, (votes.get(port) ?? 0) + 1);
    }
    return [...votes].find(([, count]) => count >= 2)?.[0];
  };
  const primary = async (): Promise<Node> => {
    const port = await named();
    const node = nodes.find((one) => one.port === port);
    if (node === undefined) throw new Error('the sentinels do not agree on a primary');
    return node;
  };
  return {
    url: `redis+sentinel://${sentinels.map((node) => `127.0.0.1:${node.port}`).join(',')}/${NAME}`,
    name: NAME,
    primary,
    async replicas() {
      const first = await primary();
      return nodes.filter((node) => node !== first);
    },
    sentinels,
    async waitForFailover(before) {
      let found: Node | undefined;
      await eventually(
        'another server is the primary and takes writes',
        async () => {
          const node = await primary();
          if (node === before || !/role:master/.test(await info(node))) return false;
          await node.client.set('ar:test:writable', '1');
          found = node;
          return true;
        },
        40_000,
      );
      // `eventually` ended because `found` was set.
      return found!;
    },
    waitForReplica,
  };
};
