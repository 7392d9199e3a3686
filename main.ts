// The composition root: reads the configuration, opens the stores, starts the roles named in ANTEROOM_ROLES and
// stops them in reverse. The gateway starts last and stops first, so that nobody is let in to something that is not
// there. Everything a part needs is handed to it here; the public port is put together in app/edge.ts.

import { existsSync } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { createAdmin, ensureFirstOperator } from './admin/admin.ts';
import { addRoles, createFront, openFront } from './app/edge.ts';
import { createStops, type Stops } from './app/stopping.ts';
import { createBookingCore, seedEvent } from './booking-core/booking-core.ts';
import { demoEvent } from './booking-core/demo.ts';
import { createSandbox } from './booking-core/sandbox/sandbox.ts';

import { createDispatcher } from './dispatcher/dispatcher.ts';
import { createLedgerWriter } from './dispatcher/ledger.ts';
import { systemClock } from './kernel/clock.ts';
import { type Config, ConfigFault, readConfig } from './kernel/config.ts';
import { createFetcher } from './kernel/fetch.ts';
import { lockFolder } from './kernel/folder-lock.ts';
import { createLog, type Log } from './kernel/log.ts';
import { createMetrics, createMetricsServer } from './kernel/metrics.ts';
import { removeEmbeddedPostgres, startEmbeddedPostgres } from './kernel/postgres-server.ts';
import { checkRedisSettings, connectRedis, createRedis } from './kernel/redis.ts';
import { startEmbeddedRedis } from './kernel/redis-server.ts';
import { withoutSecret } from './kernel/redis-url.ts';
import type { Role, RoleName } from './kernel/role.ts';
import { createSql, type Sql } from './kernel/sql.ts';
import { createTokens, loadKeys, parseKeys } from './kernel/token.ts';
import { createTracer } from './kernel/trace.ts';
import { openUserTokens } from './kernel/user-token.ts';
import { createRoomStore, ensureRoom, type RoomStore, syncRooms } from './line/rooms.ts';
import { defaultSettings } from './line/settings.ts';
import { createView } from './line/view.ts';
import { cookieNames } from './line/visitor.ts';

const DEMO_ROOM = 'demo';

/** The roles that keep something in SQL; each of them syncs the rooms to Redis when it starts. */
const ROLES_WITH_SQL: readonly RoleName[] = ['dispatcher', 'booking-core', 'admin'];

/** Earlier versions kept an embedded database that PostgreSQL cannot read; starting beside it would hide it. */
const refusePglite = (dataFolder: string): void => {
  const folder = join(dataFolder, 'pgdata');
  if (existsSync(folder))
    throw new Error(
      `${folder} holds the database of an earlier version (PGlite), which this one cannot read. To start without it, move it away, or start anew with \`npm start -- --fresh\`; to keep its rooms and orders, go back to the earlier version.`,
    );
};

const openSql = async (
  options: { config: Config; log: Log },
  stops: Stops,
): Promise<{ sql: Sql; rooms: RoomStore }> => {
  const { config, log } = options;
  let { databaseUrl } = config;
  if (databaseUrl === '') {
    refusePglite(config.dataFolder);
    const embedded = await startEmbeddedPostgres({ folder: join(config.dataFolder, 'postgres'), log });
    stops.add({ name: 'postgres', stop: () => embedded.stop() });
    databaseUrl = embedded.url;
  }
  const sql = await createSql({ config: { ...config, databaseUrl }, log });
  stops.add({ name: 'sql', stop: () => sql.close() });
  const rooms = createRoomStore(sql);
  await rooms.migrate();
  return { sql, rooms };
};

type Running = {
  stop(): Promise<void>;
  /** Reads the certificate again; undefined where there is none. Never rejects: what is wrong goes to the log. */
  renew: (() => Promise<void>) | undefined;
};

/** Whatever happens while stopping, the process is gone by then. */
const STOP_MS_MAX = 58_000;
const run = async (config: Config, options: { fresh: boolean }): Promise<Running> => {
  const clock = systemClock;
  const metrics = createMetrics();
  const tracer = createTracer({
    ...{ config, metrics, roles: config.roles },
    fault: (error) => log.warn('spans-not-sent', { error }),
  });
  const log = createLog({ level: config.logLevel, during: tracer?.ids });
  const stops = createStops({ stopMs: config.stopMs, log });
  const has = (role: RoleName): boolean => config.roles.includes(role);
  const say = (line: string): boolean => process.stdout.write(`${line}\n`);

  let stopping = false;
  let drain = (): void => undefined;
  let renew: (() => Promise<void>) | undefined;

  if (tracer !== undefined) stops.add({ name: 'tracer', stop: () => tracer.stop() });
  /** Not ready first, so that a balancer sends nobody here any more; then everything in reverse. */
  const stop = async (): Promise<void> => {
    stopping = true;
    if (config.drainMs > 0) {
      log.info('draining', { drainMs: config.drainMs });
      drain();
      await new Promise((resolve) => setTimeout(resolve, config.drainMs));
    }
    await stops.all();
  };
  const renewLogged = (renewal: () => Promise<void>) => (): Promise<void> =>
    renewal().catch((error: unknown) =>
      log.error('certificate-refused', { error: error instanceof Error ? error : String(error) }),
    );

  try {
    if (options.fresh && config.redisUrl === '') {
      // Whoever has the folder open would have it pulled away: taking its lock first refuses that.
      for (const part of ['redis', 'postgres']) lockFolder(join(config.dataFolder, part))();
      removeEmbeddedPostgres(join(config.dataFolder, 'postgres'));
      for (const part of ['redis', 'pgdata', 'keys', 'sandbox'])
        await rm(join(config.dataFolder, part), { recursive: true, force: true });
      say('Started anew: the data folder was emptied.');
    }
    await mkdir(config.dataFolder, { recursive: true });

    // Stores
    const embedded =
      config.redisUrl === ''
        ? await startEmbeddedRedis({ folder: join(config.dataFolder, 'redis'), log })
        : undefined;
    if (embedded !== undefined) stops.add({ name: 'redis', stop: () => embedded.stop() });
    const redisUrl = embedded?.url ?? config.redisUrl;
    const connect = async (purpose: string, blocking = false) => {
      const client = createRedis({ url: redisUrl, config, log, purpose, blocking, tracer });
      stops.add({ name: `redis-${purpose}`, stop: () => client.disconnect() });
      await connectRedis(client, withoutSecret(redisUrl));
      return client;
    };
    const redis = await connect('main');
    await checkRedisSettings(redis, log);
    const keysText =
      config.keys === '' && embedded !== undefined
        ? await loadKeys(join(config.dataFolder, 'keys'))
        : config.keys;
    const keys = parseKeys(keysText);
    if (keys === undefined)
      throw new Error(
        'ANTEROOM_KEYS is missing or malformed. With a Redis of your own, give all processes the same value; make one with `npm run keys`.',
      );
    // A gateway or a broker faces the internet and needs no database, so it opens none.
    const stored = ROLES_WITH_SQL.some(has) ? await openSql({ config, log }, stops) : undefined;

    // What several roles share
    const here = (port: number): string =>
      `http://${config.host === '0.0.0.0' ? '127.0.0.1' : config.host}:${port}`;
    const tls = config.tlsCert === '' ? undefined : { certFile: config.tlsCert, keyFile: config.tlsKey };
    const publicUrl =
      config.publicUrl ||
      (tls === undefined ? here(config.publicPort) : here(config.publicPort).replace('http:', 'https:'));
    const bookingUrl = config.bookingUrl || here(config.bookingPort);
    const names = cookieNames(publicUrl);
    const tokens = createTokens({ keys, issuer: publicUrl });
    const plainFetcher = createFetcher({
      connectionsMax: config.originConnectionsMax,
      headersTimeoutMs: config.originTimeoutMs,
    });
    const fetcher = tracer?.traced(plainFetcher) ?? plainFetcher;
    stops.add({ name: 'fetcher', stop: () => fetcher.close() });
    const view = createView({ redis, log, everyMs: Math.min(1000, config.snapshotMs) });
    stops.add({ name: 'view', stop: () => view.stop() });
    const roles: Role[] = [];
    const started = (role: Role): void => {
      roles.push(role);
      stops.add({ name: role.name, stop: () => role.stop() });
    };
    const health = createMetricsServer({
      config,
      log,
      metrics,
      roles: () => roles,
      stopping: () => stopping,
    });
    stops.add({ name: 'metrics', stop: () => health.close() });

    // The demo, before anybody looks for it
    const demo =
      config.demo === 'on' || (config.demo === 'auto' && config.redisUrl === '' && config.databaseUrl === '');
    if (stored !== undefined) await syncRooms({ rooms: stored.rooms, redis, log });
    if (stored !== undefined && demo)
      await ensureRoom({
        rooms: stored.rooms,
        redis,
        room: DEMO_ROOM,
        settings: {
          ...defaultSettings,
          title: 'The Long Night — live in concert',
          routes: ['/demo', '/v1/events'],
          newUsersPerMinute: 60,
          burst: 5,
          totalActiveUsers: 100,
        },
      });

    // Roles, in the order they depend on each other
    if (stored !== undefined && has('dispatcher')) {
      const { sql, rooms } = stored;
      // Before the dispatcher, so that it stops after it and writes what that did last.
      if (config.ledger === 'on') {
        const ledger = createLedgerWriter({
          ...{ config, sql, tokens, log, metrics },
          redis: await connect('ledger'),
        });
        stops.add({ name: 'ledger', stop: () => ledger.stop() });
      }
      started(
        await createDispatcher({
          config,
          redis: await connect('dispatcher'),
          reader: await connect('dispatcher-reader', true),
          rooms,
          log,
          metrics,
        }),
      );
    }
    if (stored !== undefined && has('booking-core')) {
      const { sql } = stored;
      const sandbox = createSandbox({ config, log });
      await sandbox.start();
      stops.add({ name: 'sandbox', stop: () => sandbox.stop() });
      started(
        await createBookingCore({
          config,
          sql,
          redis: await connect('booking'),
          tokens,
          log,
          metrics,
          fetcher,
          tracer,
        }),
      );
      if (demo) await seedEvent(sql, redis, demoEvent);
    }
    let firstToken: string | undefined;
    if (stored !== undefined && has('admin')) {
      const { sql, rooms } = stored;
      started(await createAdmin({ config, sql, redis: await connect('admin'), rooms, tokens, log, clock }));
      firstToken = (await ensureFirstOperator(sql, config)).token;
    }
    if (has('gateway') || has('broker')) {
      await view.refresh();
      const edge = { config, publicUrl, view, tokens, clock, log, metrics, tracer };
      if (names.secure && tls === undefined && config.trustedProxies.length === 0)
        log.warn('tls-missing', {
          detail:
            'The public URL is https, but this port speaks plain HTTP and no proxy is trusted. Set ANTEROOM_TLS_CERT, or name the proxy that ends TLS in ANTEROOM_TRUSTED_PROXIES.',
        });
      const front = createFront(edge);
      await addRoles(front, {
        ...edge,
        roles: { gateway: has('gateway'), broker: has('broker') },
        redis,
        connect,
        userTokens: await openUserTokens({ config, log, clock, metrics }),
        bookingUrl,
        stops,
        started,
      });
      drain = () => front.server.drain();
      ({ renew } = await openFront(front, { ...edge, stops }));
    }
    await health.listen();

    log.info('ready', { roles: config.roles });
    if (has('gateway')) say(`\n  The sale      ${publicUrl}${demo ? '/demo' : ''}`);
    if (has('admin')) say(`  Admin         ${config.adminUrl || here(config.adminPort)}`);
    if (firstToken !== undefined) say(`  First token   ${firstToken}   (shown once; sign in with it)`);
    say(`  Metrics       ${here(config.metricsPort)}/metrics\n`);
    return { stop, renew: renew === undefined ? undefined : renewLogged(renew) };
  } catch (error) {
    await stops.all();
    throw error;
  }
};

const main = async (): Promise<void> => {
  const unknown = process.argv.slice(2).filter((argument) => argument !== '--fresh');
  if (unknown.length > 0) throw new Error(`unknown argument ${unknown[0]}; the only one is --fresh`);
  const { stop, renew } = await run(readConfig(process.env), { fresh: process.argv.includes('--fresh') });
  let stopping = false;
  const end = (): void => {
    if (stopping) {
      process.stdout.write('Stopping at once: the second signal.\n');
      process.exit(1);
    }
    stopping = true;
    process.stdout.write('Stopping…\n');
    setTimeout(() => {
      process.stderr.write('Stopping took too long.\n');
      process.exit(1);
    }, STOP_MS_MAX).unref();
    stop().then(
      () => process.exit(0),
      () => process.exit(1),
    );
  };
  process.on('SIGINT', end);
  process.on('SIGTERM', end);
  // Without a certificate it keeps its usual meaning: the terminal is gone, and so are we.
  if (renew !== undefined) process.on('SIGHUP', () => void renew());
};

main().catch((error: unknown) => {
  const cause =
    error instanceof Error && error.cause instanceof Error ? `\n  because: ${error.cause.message}` : '';
  process.stderr.write(
    `${error instanceof ConfigFault || error instanceof Error ? error.message : String(error)}${cause}\n`,
  );
  process.exit(1);
});
