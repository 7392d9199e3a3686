// The public port put together: what guards it, what is read on it, and the roles that answer on it, the gateway and
// the broker. main.ts and the tests (test/support/gateways.ts) use it alike, so what is tested is what ships.

import { createRuleBook } from '../bots/rules.ts';
import { createBroker } from '../broker/broker.ts';
import { createGateway } from '../gateway/gateway.ts';
import { createJudge } from '../gateway/judging.ts';
import { createLimits, tollOf } from '../gateway/limits.ts';
import { createOverload, type Overload } from '../gateway/overload.ts';
import { securityHeaders } from '../gateway/security-headers.ts';
import type { Clock } from '../kernel/clock.ts';
import type { Config } from '../kernel/config.ts';
import { withCors } from '../kernel/cors.ts';
import { connectionsAllowed } from '../kernel/descriptors.ts';
import { createFetcher } from '../kernel/fetch.ts';
import { createServer, type Server } from '../kernel/http.ts';
import type { Log } from '../kernel/log.ts';
import type { Metrics } from '../kernel/metrics.ts';
import type { Redis } from '../kernel/redis.ts';
import type { Role } from '../kernel/role.ts';
import { checkCertificate } from '../kernel/tls.ts';
import type { Tokens } from '../kernel/token.ts';
import type { Tracer } from '../kernel/trace.ts';
import type { UserTokens } from '../kernel/user-token.ts';
import { createClaimsReader } from '../line/claims.ts';
import { createIdentifier } from '../line/identify.ts';
import { createLooks } from '../line/looks.ts';
import { createUsers } from '../line/users.ts';
import type { View } from '../line/view.ts';
import { type CookieNames, cookieNames } from '../line/visitor.ts';
import type { Stops } from './stopping.ts';

/** Sending streams elsewhere may take so much longer than planned, on a busy machine. */
const LEAVE_LATE_MS = 1500;
/** A new connection has this long to send its first request. */
const LINGER_MS = 250;

/** What a process has before it opens its public port. */
export type EdgeParts = {
  config: Config;
  /** As browsers see it; cookie names and issuers follow from it. */
  publicUrl: string;
  view: View;
  tokens: Tokens;
  clock: Clock;
  log: Log;
  metrics: Metrics;
  tracer?: Tracer | undefined;
};

export type Front = { server: Server; overload: Overload; names: CookieNames };

/** The server of the public port and what sheds load before it; no routes yet, and nothing listens. */
export const createFront = (parts: EdgeParts & { probe?: { lagMs(): number } }): Front => {
  const { config, publicUrl, view, tokens, clock, log, metrics, tracer, probe } = parts;
  const names = cookieNames(publicUrl);
  const connectionsMax = connectionsAllowed(config.connectionsMax, log);
  const overload = createOverload({
    config: { ...config, connectionsMax },
    view,
    tokens,
    names,
    clock,
    log,
    metrics,
    ...(probe === undefined ? {} : { probe }),
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
    ...(config.tlsCert === '' ? {} : { tls: { certFile: config.tlsCert, keyFile: config.tlsKey } }),
    guard: overload,
    headers: securityHeaders(names),
    tracer,
    observer: (seen) => metrics.observer('request_seconds', seen),
    tunnelBytesMax: config.socketMessageBytesMax,
  });
  return {
    server: withCors(plain, { origins: config.allowedOrigins, prefix: '/v1/rooms/' }),
    overload,
    names,
  };
};

/** Adds the routes of the roles to the server; each role is `started`, and what they need goes to `stops`. */
export const addRoles = async (
  front: Front,
  parts: EdgeParts & {
    roles: { gateway: boolean; broker: boolean };
    redis: Redis;
    /** A connection of its own; `blocking` for reads that wait. */
    connect(purpose: string, blocking?: boolean): Promise<Redis>;
    userTokens: UserTokens | undefined;
    bookingUrl: string;
    stops: Stops;
    started(role: Role): void;
    /** Of the limits; a test's may stand still. */
    limitsClock?: Clock;
  },
): Promise<void> => {
  const { server, overload, names } = front;
  const { config, publicUrl, view, tokens, clock, log, metrics, tracer, redis, connect, stops } = parts;
  const limits = createLimits({ config, redis, clock: parts.limitsClock ?? clock, metrics });
  const nowMs = (): number => view.redisNowMs();
  const users =
    parts.userTokens === undefined
      ? undefined
      : createUsers({
          tokens: parts.userTokens,
          cookie: config.jwtCookie,
          tokensMax: config.userTokensMax,
          toll: tollOf(limits),
          nowMs,
          metrics,
        });
  const looks = createLooks(redis);
  const { visitorDays } = config;
  const identifier = createIdentifier({ looks, tokens, users, names, nowMs, visitorDays });
  const shared = { server, redis, looks, view, tokens, identifier, log, metrics };
  if (parts.roles.broker) {
    const reader = await connect('broker-reader', true);
    parts.started(createBroker({ ...shared, config: { ...config, publicUrl }, reader }));
  }
  if (!parts.roles.gateway) return;
  const origins = createFetcher({
    connectionsMax: config.originConnectionsMax,
    waitingMax: config.originWaitingMax,
    lastingMax: config.originStreamsMax,
    headersTimeoutMs: config.originTimeoutMs,
    connectTimeoutMs: config.originConnectMs,
    bodyTimeoutMs: config.originBodyMs,
    breaker: { failuresMax: config.originFailuresMax, restMs: config.originRestMs },
  });
  stops.add({ name: 'origins', stop: () => origins.close() });
  parts.started(
    createGateway({
      ...shared,
      level: () => overload.level,
      config,
      reader: await connect('gateway-reader', true),
      names,
      limits,
      judge: createJudge({ config, redis, rules: createRuleBook({ log }), clock, log, metrics }),
      claims: createClaimsReader(users),
      fetcher: tracer?.traced(origins) ?? origins,
      publicUrl,
      bookingUrl: parts.bookingUrl,
    }),
  );
};

/** Opens the port, last of all. `renew` reads the certificate again; undefined where there is none. */
export const openFront = async (
  { server, overload }: Front,
  { config, log, stops }: EdgeParts & { stops: Stops },
): Promise<{ renew: (() => Promise<void>) | undefined }> => {
  await server.listen();
  overload.watch(() => server.load());
  stops.add({ name: 'overload', stop: () => overload.stop() });
  // Requests under way get nearly all of the time that a part has to stop; what is left is for hanging up.
  const graceMs = Math.max(config.stopMs / 2, config.stopMs - 1000);
  stops.add({
    name: 'public',
    withinMs: config.stopMs + config.streamsDrainMs + LEAVE_LATE_MS,
    stop: () => server.close(graceMs, { lingerMs: LINGER_MS }),
  });
  if (config.tlsCert === '') return { renew: undefined };
  const tell = (): void =>
    log.info('certificate', checkCertificate({ certFile: config.tlsCert, keyFile: config.tlsKey }));
  tell();
  return {
    renew: async () => {
      await server.renewCertificate();
      tell();
    },
  };
};
