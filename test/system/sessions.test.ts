// One session seen by two gateways in processes of their own, each with a port: whatever ends it at one, or takes it
// over, is known at the other.

import t from 'tap';
import { takePort } from '../../bench/ports.ts';
import { eventually } from '../support/eventually.ts';
import { Fan } from '../support/fan.ts';
import { elsewhere } from '../support/gateways.ts';
import { startRedis } from '../support/redis.ts';
import { tune } from '../support/sale.ts';
import { createSystem, UNHURRIED } from '../support/system.ts';

t.setTimeout(600_000);

t.test('a session taken over, moved or ended by a purchase is refused by every gateway', async (t) => {
  const redis = await startRedis(t);
  const system = await createSystem(t, {
    ANTEROOM_REDIS_URL: redis.url,
    ANTEROOM_LOG_LEVEL: 'warn',
    ANTEROOM_PUBLIC_URL: 'http://tickets.test',
    ANTEROOM_VISITOR_BURST: '10000',
    ANTEROOM_VISITOR_PER_SECOND: '10000',
  });
  await system.start();
  const port = await takePort();
  await system.start({
    roles: 'gateway',
    metricsPort: await takePort(),
    env: {
      ANTEROOM_PORT: String(port),
      ANTEROOM_BOOKING_URL: `http://127.0.0.1:${system.ports.booking}`,
      ANTEROOM_DATA: `${system.folder}/second`,
      ANTEROOM_DEMO: 'off',
    },
  });
  const second = `http://127.0.0.1:${port}`;
  const path = '/v1/events/demo';
  const statusAt = async (fan: Fan, base: string) => (await elsewhere(fan, base).ask('GET', path)).status;
  const everywhere = (what: string, fan: Fan, status: number) =>
    eventually(what, async () => {
      const seen = await Promise.all([statusAt(fan, system.base), statusAt(fan, second)]);
      return seen.every((one) => one === status);
    });

  await tune(system, UNHURRIED);
  const phone = new Fan({ base: system.base, index: 1 });
  await phone.join();
  const turn = await phone.wait('poll');
  t.equal((await phone.claim('claim' in turn ? turn.claim : '')).status, 200);
  await everywhere('the phone is inside', phone, 200);

  const laptop = elsewhere(phone, second);
  laptop.cookies.delete('ar_s_demo');
  const claimed = await laptop.claim();
  t.equal(claimed.status, 200, claimed.text);
  await everywhere('the laptop is inside', laptop, 200);
  await everywhere('the phone is not', phone, 429);

  const shop = new Fan({ base: second, index: 2 });
  const pass = { body: { pass: claimed.json.pass }, headers: { host: 'shop.test' } };
  t.equal((await shop.ask('POST', '/v1/rooms/demo/sessions', pass)).status, 201);
  await everywhere('it has moved to the other host', shop, 200);
  await everywhere('and away from the laptop', laptop, 429);

  const keyed = (key: string, body: unknown) => ({ headers: { 'idempotency-key': key }, body });
  const held = await shop.ask('POST', `${path}/holds`, keyed('hold-0001', { section: 'stalls', count: 1 }));
  t.equal(held.status, 201, held.text);
  const order = { holdId: held.json.id, payment: { method: 'card', token: 'ok' } };
  const paid = await shop.ask('POST', '/v1/orders', keyed('order-0001', order));
  t.ok([200, 201, 202].includes(paid.status), paid.text);
  await everywhere('the purchase ended it', shop, 429);
  t.equal((await shop.ask('POST', '/v1/rooms/demo/sessions', pass)).json.code, 'place-finished');
});
