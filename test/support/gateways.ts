// Gateways put together by app/edge.ts, as main.ts does it, in the test's own process: each with its own port, connections, view and
// memory, all on one Redis and one set of keys, in front of an origin that says what reached it. The room is opened
// and moved by its scripts, so that a test decides when somebody's turn comes.

import { createServer as createOrigin } from 'node:http';
import type { AddressInfo } from 'node:net';
import { addRoles, createFront } from '../../app/edge.ts';
import { createStops } from '../../app/stopping.ts';
import { createSurveyor } from '../../dispatcher/measure.ts';
import type { Overload } from '../../gateway/overload.ts';
import { createSessions, type Sessions } from '../../gateway/sessions.ts';
import { type Clock, systemClock } from '../../kernel/clock.ts';
import { readConfig } from '../../kernel/config.ts';
import type { Server } from '../../kernel/http.ts';
import { parseRoomId, type RoomId } from '../../kernel/ids.ts';
import { roomsKey } from '../../kernel/keys.ts';
import { silentLog } from '../../kernel/log.ts';
import { createMetrics, type Metrics } from '../../kernel/metrics.ts';
import { createTokens, generateKey, parseKeys, type Tokens } from '../../kernel/token.ts';
import type { UserTokens } from '../../kernel/user-token.ts';
import { readSession, type Session, signSession } from '../../line/receipt.ts';
import { defaultSettings, type Settings } from '../../line/settings.ts';
import type { Snapshot } from '../../line/snapshot.ts';
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
    ANTEROOM_PORT: '0',
    ANTEROOM_TRUSTED_PROXIES: '127.0.0.1',
    ANTEROOM_ORIGIN_TIMEOUT_MS: '60000',
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
    const metrics = createMetrics({ processMetrics: false });
    const view = createView({ redis: client, log: silentLog, everyMs: 200 });
    await view.refresh();
    const parts = { config, publicUrl, view, tokens, clock: systemClock, log: silentLog, metrics };
    const front = createFront({ ...parts, probe: options.probe ?? { lagMs: () => 0 } });
    const { server, overload } = front;
    const { route } = server;
    server.route = (method, pattern, run, more) => {
      options.registered?.(method, pattern);
      route(method, pattern, run, more);
    };
    const stops = createStops({ stopMs: config.stopMs, log: silentLog });
    t.teardown(async () => {
      await server.close(100);
      await stops.all();
      view.stop();
    });
    await addRoles(front, {
      ...parts,
      roles: { gateway: true, broker: options.streams === true },
      redis: client,
      connect: (purpose, blocking = false) => redis.connect(purpose, { blocking }),
      userTokens: options.users,
      limitsClock: options.clock ?? systemClock,
      bookingUrl: origin,
      stops,
      started: ({ name, stop }) => stops.add({ name, stop }),
    });
    const { port } = await server.listen();
    views.push(view);
    allMetrics.push(metrics);
    overloads.push(overload);
    servers.push(server);
    bases.push(`http://127.0.0.1:${port}`);
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
        let taken: Snapshot | undefined;
        // A refresh joins the one under way, which may have read what was there before.
        await eventually('a snapshot is taken, and every gateway knows it', async () => {
          taken ??= await surveyor.measure(room);
          if (taken === undefined) return false;
          const { atMs } = taken;
          await Promise.all(views.map((view) => view.refresh()));
          return views.every((view) => (view.of(room)?.atMs ?? 0) >= atMs);
        });
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
