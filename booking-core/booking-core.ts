// booking-core: seats, holds, orders, payments. A role with a listener of its own, reached through the gateway and
// trusting only the context the gateway signed. Holds live in Redis, orders and money in PostgreSQL; the parts are
// put together here, and nothing is decided here.

import type { Config } from '../kernel/config.ts';
import type { Fetcher } from '../kernel/fetch.ts';
import { createServer } from '../kernel/http.ts';
import type { Log } from '../kernel/log.ts';
import type { Metrics } from '../kernel/metrics.ts';
import type { Redis } from '../kernel/redis.ts';
import type { Role } from '../kernel/role.ts';
import { migrate, type Sql } from '../kernel/sql.ts';
import type { Tokens } from '../kernel/token.ts';
import type { Tracer } from '../kernel/trace.ts';
import { bookingKeys } from '../lua/booking.ts';
import { createEvent, createInventory, type SaleEvent } from './inventory.ts';
import { createOrders } from './orders.ts';
import { createOutbox } from './outbox.ts';
import { addPage } from './page/page.ts';
import { createSandboxProvider } from './payment.ts';
import { rebuild } from './rebuild.ts';
import { createReconciler } from './reconcile.ts';
import { addRoutes, createHolding } from './routes.ts';
import { createSeatFeed } from './seat-feed.ts';
import { createSettlement } from './settle.ts';

export const migrateBooking = (sql: Sql): Promise<unknown> =>
  migrate(sql, { name: 'booking-core', folder: new URL('./sql/', import.meta.url) });

/** Creates an event and writes its seats into Redis, unless both are there. Safe to repeat, and at once. */
export const seedEvent = async (sql: Sql, redis: Redis, event: SaleEvent, log?: Log): Promise<void> => {
  await migrateBooking(sql);
  await createEvent(sql, event);
  if ((await redis.hget(bookingKeys(event.id).seats, 'ready')) === '1') return;
  const found = (await createInventory(sql).all()).find(({ id }) => id === event.id);
  const quiet = { info: () => undefined };
  if (found !== undefined) await rebuild({ sql, redis, log: log ?? quiet }, found);
};

export const createBookingCore = async (options: {
  config: Config;
  sql: Sql;
  redis: Redis;
  tokens: Tokens;
  log: Log;
  metrics?: Metrics;
  fetcher: Fetcher;
  tracer?: Tracer | undefined;
}): Promise<Role> => {
  const { config, sql, redis, tokens, metrics, fetcher } = options;
  const log = options.log.with({ role: 'booking-core' });
  await migrateBooking(sql);

  const inventory = createInventory(sql);
  const provider = createSandboxProvider({ config, fetcher, log });
  const settlement = createSettlement({ config, sql, redis, log, provider, ...(metrics ? { metrics } : {}) });
  const outbox = createOutbox({ sql, redis, log, reclaim: settlement.reclaim });
  const orders = createOrders({ config, sql, redis, log, inventory, provider, settlement, outbox });
  const feed = createSeatFeed({ redis, log });
  const reconciler = createReconciler({
    config,
    sql,
    redis,
    log,
    inventory,
    provider,
    settlement,
    outbox,
    ...(metrics ? { metrics } : {}),
  });

  // The first request that finds no seats starts the rebuild, so that nobody waits for the next pass.
  let rebuilding: Promise<unknown> | undefined;
  const seatsLost = (): void => {
    rebuilding ??= reconciler
      .compareAll()
      .catch((error: unknown) => log.warn('reconcile-failed', { part: 'compare', error }))
      .finally(() => {
        rebuilding = undefined;
      });
  };

  const server = createServer({
    name: 'booking-core',
    host: config.host,
    port: config.bookingPort,
    exclusive: true,
    log,
    bodyBytesMax: config.bodyBytesMax,
    slowReaderMs: config.slowReaderMs,
    // The gateway is the only caller, and the fan's address is of no interest here.
    trustedProxies: [],
    // Its logs and spans are part of the gateway's requests.
    idsFrom: 'anyone',
    tracer: options.tracer,
    headers: [
      ['x-content-type-options', 'nosniff'],
      ['referrer-policy', 'same-origin'],
    ],
  });
  const holding = createHolding({ config, redis, seatsLost, ...(metrics ? { metrics } : {}) });
  const parts = {
    config,
    redis,
    tokens,
    log,
    inventory,
    orders,
    settlement,
    provider,
    feed,
    seatsLost,
    holding,
  };
  addRoutes(server, parts);
  addPage(server, parts);
  await server.listen();
  reconciler.start();

  const answers = async (work: Promise<unknown>): Promise<boolean> => {
    const late = new Promise<boolean>((resolve) => setTimeout(resolve, 800, false).unref());
    return Promise.race([
      work.then(
        () => true,
        () => false,
      ),
      late,
    ]);
  };
  return {
    name: 'booking-core',
    async stop() {
      feed.stop();
      await Promise.all([server.close(config.stopMs / 2), reconciler.stop()]);
      await rebuilding;
    },
    async ready() {
      const [redisAnswers, sqlAnswers] = await Promise.all([
        answers(redis.ping()),
        answers(sql.query('SELECT 1')),
      ]);
      return { redis: redisAnswers, sql: sqlAnswers };
    },
  };
};
