// The composition root: reads the configuration, opens the stores, starts the roles named in ANTEROOM_ROLES and
// stops them in reverse. The gateway starts last and stops first, so that nobody is let in to something that is
// not there. Everything a part needs is handed to it here.

import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { createAdmin, ensureFirstOperator } from './admin/admin.ts';
import { createBookingCore, seedEvent } from './booking-core/booking-core.ts';
import { demoEvent } from './booking-core/demo.ts';
import { createSandbox } from './booking-core/sandbox/sandbox.ts';

import { createRuleBook } from './bots/rules.ts';

import { createBroker } from './broker/broker.ts';
import { createDispatcher } from './dispatcher/dispatcher.ts';
import { createLedgerWriter } from './dispatcher/ledger.ts';
import { createGateway } from './gateway/gateway.ts';
import { createJudge } from './gateway/judging.ts';
import { createLimits, tollOf } from './gateway/limits.ts';
import { createOverload } from './gateway/overload.ts';
import { securityHeaders } from './gateway/security-headers.ts';
import { systemClock } from './kernel/clock.ts';
import { type Config, ConfigFault, readConfig } from './kernel/config.ts';
import { withCors } from './kernel/cors.ts';
import { connectionsAllowed } from './kernel/descriptors.ts';
import { createFetcher } from './kernel/fetch.ts';
import { lockFolder } from './kernel/folder-lock.ts';
import { createServer } from './kernel/http.ts';
import { createLog, type Log } from './kernel/log.ts';
import { createMetrics, createMetricsServer } from './kernel/metrics.ts';
import { checkRedisSettings, connectRedis, createRedis } from './kernel/redis.ts';
import { startEmbeddedRedis } from './kernel/redis-server.ts';
import { withoutSecret } from './kernel/redis-url.ts';
import type { Role, RoleName } from './kernel/role.ts';
import { createSql, type Sql } from './kernel/sql.ts';
import { checkCertificate } from './kernel/tls.ts';
import { createTokens, loadKeys, parseKeys } from './kernel/token.ts';
import { createTracer } from './kernel/trace.ts';
import { openUserTokens } from './kernel/user-token.ts';
import { createClaimsReader } from './line/claims.ts';
import { createIdentifier } from './line/identify.ts';
import { createLooks } from './line/looks.ts';
import { createRoomStore, ensureRoom, type RoomStore, syncRooms } from './line/rooms.ts';
import { defaultSettings } from './line/settings.ts';
import { createUsers } from './line/users.ts';
import { createView } from './line/view.ts';
import { cookieNames } from './line/visitor.ts';

const DEMO_ROOM = 'demo';

/** The roles that keep something in SQL; each of them syncs the rooms to Redis when it starts. */
const ROLES_WITH_SQL: readonly RoleName[] = ['dispatcher', 'booking-core', 'admin'];

const openSql = async (options: { config: Config; log: Log }): Promise<{ sql: Sql; rooms: RoomStore }> => {
  const sql = await createSql(options);
  const rooms = createRoomStore(sql);
  await rooms.migrate();
  return { sql, rooms };
};

type Stop = { name: string; stop(): Promise<unknown> | unknown; withinMs?: number };
type Running = {
  stop(): Promise<void>;
  /** Reads the certificate again; undefined where there is none. Never rejects: what is wrong goes to the log. */
  renew: (() => Promise<void>) | undefined;
};

/** Whatever happens while stopping, the process is gone by then. */
const STOP_MS_MAX = 58_000;
/** Sending streams elsewhere may take so much longer than planned, on a busy machine. */
const LEAVE_LATE_MS = 1500;
/** A connection that has just come has so long to say what it wants. */
const LINGER_MS = 250;

/** A deadline for one step of stopping, so that nothing can keep the process for ever. */
const within = async (ms: number, work: Promise<unknown>): Promise<boolean> => {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<boolean>((resolve) => {
    timer = setTimeout(() => resolve(false), ms);
  });
  const done = await Promise.race([work.then(() => true), late]);
  clearTimeout(timer);
  return done;
};

const run = async (config: Config, options: { fresh: boolean }): Promise<Running> => {
  const clock = systemClock;
  const metrics = createMetrics();
  const tracer = createTracer({
    ...{ config, metrics, roles: config.roles },
    fault: (error) => log.warn('spans-not-sent', { error }),
  });
  const log = createLog({ level: config.logLevel, during: tracer?.ids });
  const stops: Stop[] = [];
  const has = (role: RoleName): boolean => config.roles.includes(role);
  const say = (line: string): boolean => process.stdout.write(`${line}\n`);

  let stopping = false;
  let drain = (): void => undefined;
  let renewCertificate: (() => Promise<void>) | undefined;

  const stopAll = async (): Promise<void> => {
    for (const { name, stop, withinMs } of stops.reverse()) {
      try {
        if (!(await within(withinMs ?? config.stopMs, Promise.resolve(stop()))))
          log.warn('stop-late', { part: name });
      } catch (error) {
        log.error('stop-failed', { part: name, error: error instanceof Error ? error : String(error) });
      }
    }
  };

  if (tracer !== undefined) stops.push({ name: 'tracer', stop: () => tracer.stop() });
  /** Not ready first, so that a balancer sends nobody here any more; then everything in reverse. */
  const stop = async (): Promise<void> => {
    stopping = true;
    if (config.drainMs > 0) {
      log.info('draining', { drainMs: config.drainMs });
      drain();
      await new Promise((resolve) => setTimeout(resolve, config.drainMs));
    }
    await stopAll();
  };
  const renewLogged = (renewal: () => Promise<void>) => (): Promise<void> =>
    renewal().catch((error: unknown) =>
      log.error('certificate-refused', { error: error instanceof Error ? error : String(error) }),
    );

  try {
    if (options.fresh && config.redisUrl === '') {
      // Whoever has the folder open would have it pulled away: taking its lock first refuses that.
      lockFolder(join(config.dataFolder, 'redis'))();
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
    if (embedded !== undefined) stops.push({ name: 'redis', stop: () => embedded.stop() });
    const redisUrl = embedded?.url ?? config.redisUrl;
    const connect = async (purpose: string, blocking = false) => {
      const client = createRedis({ url: redisUrl, config, log, purpose, blocking, tracer });
      stops.push({ name: `redis-${purpose}`, stop: () => client.disconnect() });
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
    const stored = ROLES_WITH_SQL.some(has) ? await openSql({ config, log }) : undefined;
    if (stored !== undefined) stops.push({ name: 'sql', stop: () => stored.sql.close() });

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
    stops.push({ name: 'fetcher', stop: () => fetcher.close() });
    const view = createView({ redis, log, everyMs: Math.min(1000, config.snapshotMs) });
    stops.push({ name: 'view', stop: () => view.stop() });
    const roles: Role[] = [];
    const started = (role: Role): void => {
      roles.push(role);
      stops.push({ name: role.name, stop: () => role.stop() });
    };
    const health = createMetricsServer({
      config,
      log,
      metrics,
      roles: () => roles,
      stopping: () => stopping,
    });
    stops.push({ name: 'metrics', stop: () => health.close() });

    // The demo, before anybody looks for it
    const demo =
      config.demo === 'on' || (config.demo === 'auto' && config.redisUrl === '' && config.databaseUrl === '');
    if (stored !== undefined) await syncRooms({ rooms: stored.rooms, redis });
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
        stops.push({ name: 'ledger', stop: () => ledger.stop() });
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
      stops.push({ name: 'sandbox', stop: () => sandbox.stop() });
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
      if (names.secure && tls === undefined && config.trustedProxies.length === 0)
        log.warn('tls-missing', {
          detail:
            'The public URL is https, but this port speaks plain HTTP and no proxy is trusted. Set ANTEROOM_TLS_CERT, or name the proxy that ends TLS in ANTEROOM_TRUSTED_PROXIES.',
        });
      const connectionsMax = connectionsAllowed(config.connectionsMax, log);
      const overload = createOverload({
        config: { ...config, connectionsMax },
        ...{ view, tokens, names, clock, log, metrics },
      });
      const plain = createServer({
        name: 'public',
        host: config.host,
        port: config.publicPort,
        log,
        bodyBytesMax: config.bodyBytesMax,
        slowReaderMs: config.slowReaderMs,
        slowReaderBytesMax: config.slowReaderBytesMax,
        slowReaders: {
          dropped: (bytes) => metrics.inc('dropped_bytes_total', {}, bytes),
          cut: () => metrics.inc('slow_readers_total', {}),
        },
        messageBytesMax: config.streamMessageBytesMax,
        trustedProxies: config.trustedProxies,
        connectionsMax,
        ...(tls === undefined ? {} : { tls }),
        guard: overload,
        headers: securityHeaders(names),
        tracer,
        observer: (seen) => metrics.observer('request_seconds', seen),
        tunnelBytesMax: config.socketMessageBytesMax,
      });
      const server = withCors(plain, { origins: config.allowedOrigins, prefix: '/v1/rooms/' });
      const limits = createLimits({ config, redis, clock, metrics });
      const nowMs = (): number => view.redisNowMs();
      const userTokens = await openUserTokens({ config, log, clock, metrics });
      const users =
        userTokens === undefined
          ? undefined
          : createUsers({
              tokens: userTokens,
              cookie: config.jwtCookie,
              tokensMax: config.userTokensMax,
              toll: tollOf(limits),
              ...{ nowMs, metrics },
            });
      const looks = createLooks(redis);
      const identifier = createIdentifier({
        ...{ looks, tokens, users, names, nowMs },
        visitorDays: config.visitorDays,
      });
      if (has('broker'))
        started(
          createBroker({
            config: { ...config, publicUrl },
            server,
            redis,
            reader: await connect('broker-reader', true),
            looks,
            view,
            tokens,
            identifier,
            log,
            metrics,
          }),
        );
      if (has('gateway')) {
        const origins = createFetcher({
          connectionsMax: config.originConnectionsMax,
          waitingMax: config.originWaitingMax,
          lastingMax: config.originStreamsMax,
          headersTimeoutMs: config.originTimeoutMs,
          connectTimeoutMs: config.originConnectMs,
          bodyTimeoutMs: config.originBodyMs,
          breaker: { failuresMax: config.originFailuresMax, restMs: config.originRestMs },
        });
        stops.push({ name: 'origins', stop: () => origins.close() });
        const judge = createJudge({ config, redis, rules: createRuleBook({ log }), clock, log, metrics });
        started(
          createGateway({
            level: () => overload.level,
            config,
            server,
            redis,
            reader: await connect('gateway-reader', true),
            looks,
            view,
            tokens,
            identifier,
            names,
            limits,
            judge,
            claims: createClaimsReader(users),
            fetcher: tracer?.traced(origins) ?? origins,
            publicUrl,
            bookingUrl,
            log,
            metrics,
          }),
        );
      }
      await server.listen();
      overload.watch(() => server.load());
      drain = () => server.drain();
      if (tls !== undefined) {
        log.info('certificate', checkCertificate(tls));
        renewCertificate = async () => {
          await server.renewCertificate();
          log.info('certificate', checkCertificate(tls));
        };
      }
      stops.push({ name: 'overload', stop: () => overload.stop() });
      // Requests under way get nearly all of the time that a part has to stop; what is left is for hanging up.
      const graceMs = Math.max(config.stopMs / 2, config.stopMs - 1000);
      stops.push({
        name: 'public',
        withinMs: config.stopMs + config.streamsDrainMs + LEAVE_LATE_MS,
        stop: () => server.close(graceMs, { lingerMs: LINGER_MS }),
      });
    }
    await health.listen();

    log.info('ready', { roles: config.roles });
    if (has('gateway')) say(`\n  The sale      ${publicUrl}${demo ? '/demo' : ''}`);
    if (has('admin')) say(`  Admin         ${config.adminUrl || here(config.adminPort)}`);
    if (firstToken !== undefined) say(`  First token   ${firstToken}   (shown once; sign in with it)`);
    say(`  Metrics       ${here(config.metricsPort)}/metrics\n`);
    return { stop, renew: renewCertificate === undefined ? undefined : renewLogged(renewCertificate) };
  } catch (error) {
    await stopAll();
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
