// Gateways put together as main.ts does it, in the test's own process: each with its own port, connections, view and
// memory, all on one Redis and one set of keys, in front of an origin that says what reached it. The room is opened
// and moved by its scripts, so that a test decides when somebody's turn comes.

import { createServer as createOrigin } from 'node:http';
import type { AddressInfo } from 'node:net';
import { createRuleBook } from '../../bots/rules.ts';
import { createBroker } from '../../broker/broker.ts';
import { createSurveyor } from '../../dispatcher/measure.ts';
import { createGateway } from '../../gateway/gateway.ts';
import { createJudge } from '../../gateway/judging.ts';
import { createLimits, tollOf } from '../../gateway/limits.ts';
import { createOverload, type Overload } from '../../gateway/overload.ts';
import { securityHeaders } from '../../gateway/security-headers.ts';
import { createSessions, type Sessions } from '../../gateway/sessions.ts';
import { type Clock, systemClock } from '../../kernel/clock.ts';
import { readConfig } from '../../kernel/config.ts';
import { withCors } from '../../kernel/cors.ts';
import { createFetcher } from '../../kernel/fetch.ts';
import { createServer, type Server } from '../../kernel/http.ts';
import { parseRoomId, type RoomId } from '../../kernel/ids.ts';
import { roomsKey } from '../../kernel/keys.ts';
import { silentLog } from '../../kernel/log.ts';
import { createMetrics, type Metrics } from '../../kernel/metrics.ts';
import { createTokens, generateKey, parseKeys, type Tokens } from '../../kernel/token.ts';
import type { UserTokens } from '../../kernel/user-token.ts';
import { createClaimsReader } from '../../line/claims.ts';
import { createIdentifier } from '../../line/identify.ts';
import { createLooks } from '../../line/looks.ts';
import { readSession, type Session, signSession } from '../../line/receipt.ts';
import { defaultSettings, type Settings } from '../../line/settings.ts';
import { createUsers } from '../../line/users.ts';
import { createView, type View } from '../../line/view.ts';
import { cookieNames } from '../../line/visitor.ts';
import * as scripts from '../../lua/room.ts';
import { eventually } from './eventually.ts';
import { Fan } from './fan.ts';
import { startRedis, type TestRedis } from './redis.ts';

type Teardown = { teardown(work: () => unknown): void };
type Keys = ReturnType<typeof scripts.roomKeys>;

export const PUBLIC_URL = 'http://tickets.test';

export type Room = {
  room: RoomId;
  keys: Keys;
  path: string;
  promote(): Promise<void>;
  /** Changes settings while the line stands, as an operator would. */
  change(settings: Partial<Settings>): Promise<void>;
  /** Counts the line anew; every gateway knows it then. */
  measure(): Promise<void>;
  /** Moves a session back in time, as if `seconds` had passed; answers its cookie as it would have been signed. */
  age(cookie: string, seconds: number): Promise<string>;
  session(cookie: string | undefined): Session;
};

export type Gateways = {
  redis: TestRedis;
  tokens: Tokens;
  bases: string[];
  /** Of each gateway. */
  metrics: Metrics[];
  servers: Server[];
  /** What each gateway refuses for lack of room. It looks at itself only when a test says so. */
  overloads: Overload[];
  /** What the origin was asked, newest last. */
  seen: { path: string; headers: Record<string, string | string[] | undefined> }[];
  /** What a gateway remembers of sessions, alone and without a stream. */
  memory(): Promise<{ sessions: Sessions; view: View }>;
  open(name: string, settings?: Partial<Settings>): Promise<Room>;
  fan(room: Room, gateway?: number): Fan;
  /** A fan whose turn has come and who has claimed at the first gateway. */
  inside(room: Room): Promise<{ fan: Fan; claim: Record<string, unknown>; cookie: string }>;
};

const startOrigin = async (t: Teardown, seen: Gateways['seen']): Promise<string> => {
  const origin = createOrigin((request, response) => {
    seen.push({ path: request.url ?? '', headers: request.headers });
    if (request.url?.endsWith('/bought')) response.setHeader('anteroom-session', 'end');
    response.end('inside');
  });
  await new Promise<void>((resolve) => origin.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    origin.closeAllConnections();
    origin.close();
  });
  // `listen` on a port was awaited, so the address is one of TCP.
  return `http://127.0.0.1:${(origin.address() as AddressInfo).port}`;
};

export const startGateways = async (
  t: Teardown,
  options: {
    count: number;
    users?: UserTokens;
    env?: Record<string, string>;
    publicUrl?: string;
    streams?: boolean;
    /** Told of every route as it is registered. */
    registered?: (method: string, pattern: string) => void;
    /** How late the event loop is said to be. */
    probe?: { lagMs(): number };
    /** Of the limits; one that stands gives nothing back, however slow the machine. */
    clock?: Clock;
  },
): Promise<Gateways> => {
  const redis = await startRedis(t);
  const seen: Gateways['seen'] = [];
  const origin = await startOrigin(t, seen);
  const config = readConfig({
    ANTEROOM_VISITOR_PER_SECOND: '100000',
    ANTEROOM_VISITOR_BURST: '100000',
    ANTEROOM_ADDRESS_PER_SECOND: '100000',
    ANTEROOM_ADDRESS_BURST: '100000',
    ...options.env,
  });
  const keys = parseKeys(generateKey('t'))!;
  const publicUrl = options.publicUrl ?? PUBLIC_URL;
  const tokens = createTokens({ keys, issuer: publicUrl });
  const names = cookieNames(publicUrl);
  const views: View[] = [];
  const bases: string[] = [];
  const allMetrics: Metrics[] = [];
  const overloads: Overload[] = [];
  const servers: Server[] = [];

  const start = async (): Promise<void> => {
    const client = await redis.connect('gateway');
    const reader = await redis.connect('gateway-reader', { blocking: true });
    const log = silentLog;
    const metrics = createMetrics({ processMetrics: false });
    const view = createView({ redis: client, log, everyMs: 200 });
    await view.refresh();
    const overload = createOverload({
      ...{ config, view, tokens, names, clock: systemClock, log, metrics },
      probe: options.probe ?? { lagMs: () => 0 },
    });
    const plain = createServer({
      guard: overload,
      name: 'public',
      host: '127.0.0.1',
      port: 0,
      log,
      bodyBytesMax: config.bodyBytesMax,
      slowReaderMs: config.slowReaderMs,
      slowReaderBytesMax: config.slowReaderBytesMax,
      slowReaders: {
        dropped: (bytes) => metrics.inc('dropped_bytes_total', {}, bytes),
        cut: () => metrics.inc('slow_readers_total', {}),
      },
      messageBytesMax: config.streamMessageBytesMax,
      trustedProxies: ['127.0.0.1'],
      headers: securityHeaders(names),
      tunnelBytesMax: config.socketMessageBytesMax,
    });
    const server = withCors(plain, { origins: config.allowedOrigins, prefix: '/v1/rooms/' });
    const { route } = server;
    server.route = (method, pattern, run, more) => {
      options.registered?.(method, pattern);
      route(method, pattern, run, more);
    };
    const fetcher = createFetcher({
      connectionsMax: 32,
      headersTimeoutMs: 60_000,
      breaker: { failuresMax: config.originFailuresMax, restMs: config.originRestMs },
    });
    const nowMs = (): number => view.redisNowMs();
    const limits = createLimits({ config, redis: client, clock: options.clock ?? systemClock, metrics });
    const users =
      options.users === undefined
        ? undefined
        : createUsers({
            tokens: options.users,
            cookie: config.jwtCookie,
            tokensMax: config.userTokensMax,
            toll: tollOf(limits),
            ...{ nowMs, metrics },
          });
    const looks = createLooks(client);
    const identifier = createIdentifier({
      ...{ looks, tokens, users, names, nowMs },
      visitorDays: config.visitorDays,
    });
    if (options.streams === true) {
      const broker = createBroker({
        config: { ...config, publicUrl: PUBLIC_URL },
        ...{ server, redis: client, looks, view, tokens, identifier, log, metrics },
        reader: await redis.connect('broker-reader', { blocking: true }),
      });
      t.teardown(() => broker.stop());
    }
    const gateway = createGateway({
      level: () => overload.level,
      config,
      server,
      redis: client,
      reader,
      looks,
      view,
      tokens,
      identifier,
      names,
      limits,
      judge: createJudge({
        config,
        redis: client,
        rules: createRuleBook({ log }),
        clock: systemClock,
        log,
        metrics,
      }),
      claims: createClaimsReader(users),
      fetcher,
      publicUrl,
      bookingUrl: origin,
      log,
      metrics,
    });
    const { port } = await server.listen();
    views.push(view);
    allMetrics.push(metrics);
    overloads.push(overload);
    servers.push(server);
    bases.push(`http://127.0.0.1:${port}`);
    t.teardown(async () => {
      await gateway.stop();
      await server.close(100);
      await fetcher.close();
      view.stop();
    });
  };
  for (let index = 0; index < options.count; index += 1) await start();

  const open = async (name: string, settings: Partial<Settings> = {}): Promise<Room> => {
    const room = parseRoomId(name)!;
    const roomKeys = scripts.roomKeys(room);
    const path = `/shop-${name}`;
    const full = { ...defaultSettings, title: name, routes: [path], origin, newUsersPerMinute: 60_000 };
    let version = 0;
    let current: Partial<Settings> = { ...full, burst: 1000, totalActiveUsers: 1000, ...settings };
    const configure = async (change: Partial<Settings>): Promise<void> => {
      current = { ...current, ...change };
      version += 1;
      await scripts.configure.run(redis.client, roomKeys, {
        nowMs: '',
        version,
        settings: JSON.stringify(current),
        create: version === 1 ? 1 : 0,
      });
    };
    await configure({});
    const surveyor = createSurveyor({
      config: { snapshotMs: 0 },
      redis: redis.client,
      metrics: createMetrics({ processMetrics: false }),
    });
    await surveyor.measure(room);
    await redis.client.sadd(roomsKey, room);
    await eventually(`every gateway knows ${name}`, async () => {
      await Promise.all(views.map((view) => view.refresh()));
      return views.every((view) => view.of(room) !== undefined);
    });
    const session = (cookie: string | undefined): Session => readSession(tokens, cookie ?? '')!;
    return {
      room,
      keys: roomKeys,
      path,
      session,
      change: configure,
      async promote() {
        await scripts.promote.run(redis.client, roomKeys, { nowMs: '', promoteMax: 500, examineMax: 500 });
      },
      async measure() {
        await surveyor.measure(room);
        await Promise.all(views.map((view) => view.refresh()));
      },
      async age(cookie, seconds) {
        const old = session(cookie);
        const expiresAtMs = old.expiresAtMs - seconds * 1000;
        const startedAtMs = old.startedAtMs - seconds * 1000;
        const entry = (await redis.client.hget(roomKeys.places, old.placeId)) ?? '';
        const [number, score, flags, , serial] = entry.split(' ');
        await redis.client.zadd(roomKeys.active, expiresAtMs, old.placeId);
        await redis.client.hset(
          roomKeys.places,
          old.placeId,
          `${number} ${score} ${flags} ${startedAtMs} ${serial}`,
        );
        return signSession(tokens, { ...old, expiresAtMs, startedAtMs });
      },
    };
  };

  let fans = 0;
  const fan = ({ room }: Room, gateway = 0): Fan => {
    fans += 1;
    return new Fan({ base: bases[gateway]!, room, index: fans });
  };
  const inside = async (room: Room) => {
    const entering = fan(room);
    await entering.join();
    await room.promote();
    const claimed = await entering.claim();
    if (claimed.status !== 200) throw new Error(`claim answered ${claimed.status}: ${claimed.text}`);
    const cookie = entering.cookies.get(names.session(room.room));
    return { fan: entering, claim: claimed.json, cookie: cookie! };
  };

  const memory = async () => {
    const view = createView({ redis: redis.client, log: silentLog, everyMs: 60_000 });
    t.teardown(() => view.stop());
    await view.refresh();
    return { view, sessions: createSessions({ redis: redis.client, view, tokens }) };
  };

  return { redis, tokens, bases, metrics: allMetrics, servers, overloads, seen, memory, open, fan, inside };
};

/** The same browser at another gateway: its cookies go along. */
export const elsewhere = (fan: Fan, base: string): Fan => {
  const same = new Fan({ base, room: fan.room, index: 0 });
  for (const [name, value] of fan.cookies) same.cookies.set(name, value);
  same.number = fan.number;
  return same;
};
