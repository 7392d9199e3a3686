// The client of a Redis behind Sentinel, on real servers started from the files in deploy/redis.

import t from 'tap';
import { takePort } from '../../../bench/ports.ts';
import { readConfig } from '../../../kernel/config.ts';
import { createLog, silentLog } from '../../../kernel/log.ts';
import { checkRedisSettings, connectRedis, createRedis } from '../../../kernel/redis.ts';
import { followStreams } from '../../../kernel/stream.ts';
import { eventually } from '../../support/eventually.ts';
import { startFaultProxy } from '../../support/fault-proxy.ts';
import { type Sentinels, startSentinels } from '../../support/sentinel.ts';

t.setTimeout(120_000);
const config = readConfig({});
let redis: Sentinels;
t.before(async () => {
  redis = await startSentinels(t);
});

t.test(
  'the files in deploy/redis set what the line needs, and the start says when one is missing',
  async (t) => {
    const heard: Record<string, unknown>[] = [];
    const log = createLog({ level: 'debug', write: (line) => heard.push(JSON.parse(line)) });
    const client = createRedis({ url: redis.url, config, log, purpose: 'test' });
    t.teardown(() => client.disconnect());
    await connectRedis(client, 'the sentinels');
    await checkRedisSettings(client, log);
    for (const node of await redis.replicas()) await checkRedisSettings(node.client, log);
    t.same(heard, [], 'nothing to say');
    const primary = await redis.primary();
    await primary.client.config('SET', 'min-replicas-to-write', '0');
    await checkRedisSettings(client, log);
    t.match(heard, [{ event: 'redis-setting', name: 'min-replicas-to-write', value: '0', wanted: '1' }]);
    await primary.client.config('SET', 'min-replicas-to-write', '1');
  },
);

t.test(
  'a primary that hangs is left for the new one, by callers and by blocked readers, and no line goes to stderr but ours',
  async (t) => {
    const client = createRedis({ url: redis.url, config, log: silentLog, purpose: 'caller' });
    const reader = createRedis({ url: redis.url, config, log: silentLog, purpose: 'reader', blocking: true });
    t.teardown(() => client.disconnect());
    await connectRedis(client, 'the sentinels');
    await connectRedis(reader, 'the sentinels');
    const records: string[] = [];
    const follower = followStreams({
      redis: reader,
      lookup: client,
      log: silentLog,
      record: (_key, _id, flat) => records.push(flat.join(' ')),
      gap: () => undefined,
    });
    t.teardown(() => follower.stop());
    await follower.add('ar:test:stream');
    await client.xadd('ar:test:stream', '*', 'n', 'before');
    await eventually('it is read', () => records.includes('n before'));
    const said: string[] = [];
    const print = console.error;
    console.error = (...words: unknown[]) => void said.push(words.join(' '));
    t.teardown(() => {
      console.error = print;
    });

    const old = await redis.primary();
    old.pause();
    await t.rejects(client.set('ar:test:a', '1'), 'a command to a hung server fails at its deadline');
    const next = await redis.waitForFailover(old);
    await eventually('the caller writes to the new primary', async () => {
      await client.set('ar:test:a', '2');
      return (await next.client.get('ar:test:a')) === '2';
    });
    await eventually('the reader reads there', async () => {
      await client.xadd('ar:test:stream', '*', 'n', 'after');
      return records.includes('n after');
    });

    old.resume();
    await redis.waitForReplica(old);
    await eventually(
      'the old primary has taken over what the new one has',
      async () => (await old.client.get('ar:test:a')) === '2',
    );
    // Each sentinel tells of the switch when it hears of it, and each time the client looks for the primary anew.
    await eventually('it is written where the sentinels say', async () => {
      await client.set('ar:test:a', '3');
      return (await (await redis.primary()).client.get('ar:test:a')) === '3';
    });
    // A sentinel that goes away is no event for us.
    await redis.sentinels[0]!.kill();
    await eventually('it is written all the same', async () => (await client.set('ar:test:a', '4')) === 'OK');
    client.disconnect(true);
    await eventually(
      'it connects by the sentinels that are left',
      async () => (await client.get('ar:test:a')) === '4',
    );
    t.same(said, []);
    await redis.sentinels[0]!.start();
  },
);

t.test('told of the failover while it already asks for the new primary, a client is not ended', async (t) => {
  // Slow ways to the sentinels, so that asking takes as long as not asking; many clients, so that one would meet it.
  const proxies = await Promise.all(
    redis.sentinels.map(({ port }) => startFaultProxy(t, { port, seed: port })),
  );
  const url = `redis+sentinel://${proxies.map(({ port }) => `127.0.0.1:${port}`).join(',')}/${redis.name}`;
  const clients = await Promise.all(
    Array.from({ length: 12 }, async (_, index) => {
      const client = createRedis({ url, config, log: silentLog, purpose: `many-${index}` });
      t.teardown(() => client.disconnect());
      await connectRedis(client, 'the proxies');
      return client;
    }),
  );
  // Every detector has subscribed before the ways become slow.
  for (const { client } of redis.sentinels)
    await eventually('the detectors listen', async () => {
      const listed = String(await client.call('CLIENT', 'LIST'));
      return listed.split('\n').filter((line) => / sub=1 /.test(line) && !/ flags=S/.test(line)).length >= 12;
    });
  for (const proxy of proxies) proxy.set({ kind: 'latency', ms: 120 });
  const old = await redis.primary();
  await old.kill();
  const next = await redis.waitForFailover(old);
  for (const client of clients)
    await eventually(
      `${client.options.connectionName} writes to the new primary`,
      async () => (await client.set('ar:test:many', '1')) === 'OK',
      20_000,
    );
  await old.start();
  await redis.waitForReplica(old);
  t.equal(await next.client.get('ar:test:many'), '1');
});

t.test('no sentinel reachable at start: a sentence without the secret, within seconds', async (t) => {
  const ports = [await takePort(), await takePort()];
  const url = `redis+sentinel://:hunter2@127.0.0.1:${ports[0]},127.0.0.1:${ports[1]}/anteroom`;
  const client = createRedis({ url, config, log: silentLog, purpose: 'test' });
  await t.rejects(connectRedis(client, 'these sentinels'), {
    message: 'Redis at these sentinels cannot be reached. Start it, or correct ANTEROOM_REDIS_URL.',
  });
});
