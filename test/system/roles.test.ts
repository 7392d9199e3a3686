// Each role as a process of its own, on one Redis and one PostgreSQL, and the same path through all of them.

import t from 'tap';
import { takePort } from '../../bench/ports.ts';
import { eventually } from '../support/eventually.ts';
import { Fan } from '../support/fan.ts';
import { startPostgres } from '../support/postgres.ts';
import { startRedis } from '../support/redis.ts';
import { tune } from '../support/sale.ts';
import { createSystem, UNHURRIED } from '../support/system.ts';

t.setTimeout(600_000);

t.test('five processes, one role each, take a fan from arrival to a paid seat', async (t) => {
  const redis = await startRedis(t);
  const postgres = await startPostgres(t);
  const system = await createSystem(t, {
    ANTEROOM_REDIS_URL: redis.url,
    ANTEROOM_DATABASE_URL: postgres.url,
    ANTEROOM_LOG_LEVEL: 'warn',
  });
  const start = async (roles: string) => system.start({ roles, metricsPort: await takePort() });
  await start('booking-core');
  await start('admin');
  await start('dispatcher');
  const broker = await start('broker');
  await start('gateway');
  await tune(system, UNHURRIED);

  // Gateway and broker share the port, and either may take a connection: a balancer would split them by path. Here
  // the fan asks again until the right one answers, as the kernel spreads connections over both.
  const fan = new Fan({ base: system.base, index: 1 });
  const until = async (what: string, ask: () => Promise<{ status: number }>, status: number) =>
    eventually(what, async () => (await ask()).status === status);
  await until('joined', () => fan.join(), 200);
  let claim = '';
  await eventually('the broker tells the fan', async () => {
    const turn = await fan.wait('sse');
    claim = 'claim' in turn ? turn.claim : '';
    return claim !== '';
  });
  await until('claimed', () => fan.claim(claim), 200);
  const ask = (method: string, path: string, key: string, body: unknown) =>
    fan.ask(method, path, { headers: { 'idempotency-key': key }, body });
  let held = await ask('POST', '/v1/events/demo/holds', 'hold-0001', { section: 'balcony', count: 2 });
  await eventually('held', async () => {
    if (held.status !== 201)
      held = await ask('POST', '/v1/events/demo/holds', 'hold-0001', { section: 'balcony', count: 2 });
    return held.status === 201;
  });
  const order = { holdId: held.json.id, payment: { method: 'card', token: 'ok' } };
  let paid = await ask('POST', '/v1/orders', 'order-001', order);
  await eventually('paid', async () => {
    if (paid.json.state !== 'paid') paid = await ask('POST', '/v1/orders', 'order-001', order);
    return paid.json.state === 'paid';
  });
  await until('the slot is free', () => fan.ask('GET', '/v1/events/demo'), 429);

  const seen = await fetch(`${system.admin}/v1/rooms/demo`, {
    // The last request: who stops next is asked for no connection that it keeps.
    headers: { authorization: `Bearer ${system.operatorToken}`, connection: 'close' },
  });
  t.equal(seen.status, 200);
  t.equal(await system.end(broker, 'SIGTERM'), 0, 'a role stops cleanly');
});
