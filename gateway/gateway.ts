// The edge. It puts the routes of the public port together: places, passes, status, the waiting page, and for
// everything else the gate and the proxy. It holds no state of the line; what it decides, it decides in gate.ts.

import { createHash } from 'node:crypto';
import type { Config } from '../kernel/config.ts';
import { Refusal } from '../kernel/errors.ts';
import type { Fetcher } from '../kernel/fetch.ts';
import type { FlatHeaders } from '../kernel/head.ts';
import { type Answer, json, type Request, type Server, type Tunnel } from '../kernel/http.ts';
import type { RoomId } from '../kernel/ids.ts';
import { roomKey } from '../kernel/keys.ts';
import type { Log } from '../kernel/log.ts';
import type { Metrics } from '../kernel/metrics.ts';
import type { Redis } from '../kernel/redis.ts';
import type { Role } from '../kernel/role.ts';
import { followStreams } from '../kernel/stream.ts';
import type { Tokens } from '../kernel/token.ts';
import type { ClaimsReader } from '../line/claims.ts';
import { parseEntry } from '../line/entries.ts';
import type { Identifier } from '../line/identify.ts';
import type { Looks } from '../line/looks.ts';
import { createOpenApi } from '../line/openapi.ts';
import type { Session } from '../line/receipt.ts';
import { gateStateOf, type Snapshot } from '../line/snapshot.ts';
import type { View } from '../line/view.ts';
import { type CookieNames, drawSeed } from '../line/visitor.ts';
import { end, roomKeys } from '../lua/room.ts';
import { type Admitted, createAdmission } from './admission.ts';
import { createAuthorize } from './authorize.ts';
import { createStrangers, createToldAgain, sessionHeaders } from './context.ts';
import { readFields } from './fields.ts';
import type { Judge } from './judging.ts';
import type { Limits } from './limits.ts';
import { createPageRoutes, framed } from './pages.ts';
import { createPasses, sessionCookie } from './passes.ts';
import { createPlaces, type Header } from './places.ts';
import { createProxy } from './proxy.ts';
import { watchOrigins } from './resting.ts';
import { createSessions } from './sessions.ts';
import { createShedding } from './shedding.ts';
import { createTunnels } from './tunnels.ts';

export type GatewayOptions = {
  config: Config;
  server: Server;
  redis: Redis;
  reader: Redis;
  looks: Looks;
  view: View;
  tokens: Tokens;
  identifier: Identifier;
  names: CookieNames;
  limits: Limits;
  judge: Judge;
  claims: ClaimsReader;
  fetcher: Fetcher;
  publicUrl: string;
  bookingUrl: string;
  log: Log;
  metrics: Metrics;
  /** The level of overload, 0 to 3. */
  level?: () => number;
};

export const createGateway = (options: GatewayOptions): Role => {
  const { config, server, redis, view, tokens, names, fetcher, log, metrics } = options;
  const sessions = createSessions({ redis, view, tokens });
  const places = createPlaces({ ...options, sessions });
  const passes = createPasses({ ...options, places, sessions });
  const proxy = createProxy({ fetcher, metrics });
  const tunnels = createTunnels({ config, sessions, view, metrics, log });
  const admission = createAdmission({
    ...options,
    sessions,
    hasDefaultOrigin: config.defaultOrigin !== '',
  });
  const proto = options.publicUrl.startsWith('https:') ? 'https' : 'http';
  const pages = createPageRoutes({ ...options, places });
  const drawKey = tokens.derive('draw');
  let stopping = false;

  const ended = (room: RoomId, visit: { placeId: string; number: number }): void => {
    sessions.ended(room, visit);
    tunnels.ended(room, visit);
  };
  const doubt = (): void => {
    sessions.doubt();
    tunnels.doubt();
  };

  // Ends of sessions, and of older cookies, arrive by the stream, within a second, at every gateway.
  const followed = new Set<RoomId>();
  const roomByKey = new Map<string, RoomId>();
  const follower = followStreams({
    redis: options.reader,
    lookup: redis,
    log,
    gap: () => doubt(),
    record: (key, _id, flat) => {
      const entry = parseEntry(flat);
      const room = roomByKey.get(key);
      if (entry === undefined || room === undefined) return;
      if (entry.kind === 'recovering') doubt();
      if (entry.kind === 'settings' || entry.kind === 'over') void view.refresh();
      if (entry.kind === 'ended' || entry.kind === 'left')
        for (const visit of entry.visits) ended(room, visit);
      if (entry.kind === 'superseded')
        for (const visit of entry.visits) {
          sessions.superseded(room, visit, entry.serial);
          tunnels.superseded(room, visit, entry.serial);
        }
    },
  });
  const followRooms = (): void => {
    for (const room of view.all().keys()) {
      if (followed.has(room)) continue;
      followed.add(room);
      const key = roomKey(room, 'entries');
      roomByKey.set(key, room);
      follower.add(key).then(
        // Whatever was seen before the cursor stood may have ended unheard.
        doubt,
        (error: unknown) => {
          followed.delete(room);
          log.debug('follow-failed', { error: error instanceof Error ? error : String(error) });
        },
      );
    }
  };
  view.onRefresh(followRooms);
  followRooms();

  // Places and passes

  server.route(
    'POST',
    '/v1/rooms/:room/places',
    async (request) => {
      const at = places.roomOf(request);
      const told = await places.join(request, at, readFields(request, { receipt: 'text' }));
      return json(told.created ? 201 : 200, told.status, told.headers);
    },
    { refuse: createShedding(options) },
  );
  server.route('GET', '/v1/rooms/:room/places/me', async (request) => {
    const told = await places.status(request, places.roomOf(request));
    return json(200, told.status, told.headers);
  });
  server.route('DELETE', '/v1/rooms/:room/places/me', async (request) => ({
    status: 204,
    headers: await places.leave(request, places.roomOf(request)),
  }));
  passes.register(server);

  // What everyone may know

  const publicStatus = (room: RoomId, snapshot: Snapshot) => {
    const { settings } = snapshot;
    const nowMs = view.redisNowMs();
    const seed = settings.shuffleAtOpen
      ? drawSeed(drawKey, { room, sale: settings.sale, opensAt: settings.opensAt })
      : undefined;
    return {
      room,
      title: settings.title,
      gate: gateStateOf(snapshot, nowMs),
      waiting: snapshot.waiting,
      perMinute: Math.round(snapshot.perMinute),
      sale: settings.sale,
      opensAtMs: settings.opensAt,
      closesAtMs: settings.closesAt,
      ...(seed === undefined
        ? {}
        : {
            draw: {
              commitment: createHash('sha256').update(seed).digest('hex'),
              ...(nowMs >= settings.opensAt ? { seed: seed.toString('hex') } : {}),
            },
          }),
    };
  };
  server.route('GET', '/v1/rooms/:room', (request) => {
    const { room, snapshot } = places.roomOf(request);
    return {
      status: 200,
      headers: [
        ['content-type', 'application/json; charset=utf-8'],
        ['cache-control', 'public, max-age=1'],
      ],
      body: JSON.stringify(publicStatus(room, snapshot)),
    };
  });
  server.route('GET', '/.well-known/jwks.json', async () => ({
    status: 200,
    headers: [
      ['content-type', 'application/json; charset=utf-8'],
      ['cache-control', 'public, max-age=300'],
    ],
    body: JSON.stringify(await tokens.jwks()),
  }));
  const openApi = JSON.stringify(createOpenApi());
  server.route('GET', '/v1/openapi.json', () => ({
    status: 200,
    headers: [
      ['content-type', 'application/json; charset=utf-8'],
      ['cache-control', 'public, max-age=300'],
    ],
    body: openApi,
  }));
  pages.register(server);
  server.route('GET', '/v1/authorize', createAuthorize({ ...options, admission }));

  // Everything else

  const roomOrigin = ({ origin }: { origin: string }): string =>
    origin === 'booking-core' ? options.bookingUrl : origin;
  const originOf = (to: 'room' | 'booking-core' | 'default', snapshot: Snapshot | undefined): string => {
    if (to === 'default') return config.defaultOrigin;
    return to === 'booking-core' || snapshot === undefined
      ? options.bookingUrl
      : roomOrigin(snapshot.settings);
  };
  watchOrigins({ config, fetcher, view, originOf: roomOrigin, metrics, log });

  type Carried = Admitted & { act: 'proxy' };
  type Identity = { context: FlatHeaders; setCookies: Header[] };
  const NOBODY: Identity = { context: [], setCookies: [] };
  const contexts = createToldAgain<FlatHeaders>((session) => sessionHeaders(tokens, session).flat());

  const strangers = createStrangers(options);
  const strangerOf = async (request: Request, { room, to, snapshot }: Carried): Promise<Identity> => {
    const isOurOwn = to === 'booking-core' || snapshot?.settings.origin === 'booking-core';
    const { headers, cookies } = await strangers(request, { room, foreignTokens: !isOurOwn });
    return { context: headers.flat(), setCookies: cookies };
  };

  /** Who is inside. Their session says by itself who that is; whatever else they show is for nobody. */
  const insiderOf = (session: Session, { cookie, others }: Carried): Identity => ({
    context: others.length > 0 ? sessionHeaders(tokens, session, others).flat() : contexts(session),
    setCookies: cookie === undefined ? [] : [sessionCookie(names, session, cookie, view.redisNowMs())],
  });

  const identityOf = (request: Request, decision: Carried): Identity | Promise<Identity> => {
    const { session, to, bypass } = decision;
    // Whatever is let by a rule is nobody's visit: it shows no one, and is given nothing.
    if (to === 'default' || bypass !== undefined) return NOBODY;
    return session === undefined ? strangerOf(request, decision) : insiderOf(session, decision);
  };

  /** The origin has answered already: its answer goes out, whatever becomes of the slot. */
  const endByOrigin = async (request: Request, session: Session, answer: Answer): Promise<Answer> => {
    ended(session.room, session);
    try {
      const { placeId, number } = session;
      await end.run(redis, roomKeys(session.room), { nowMs: '', placeId, number, reason: 'origin' });
    } catch (error) {
      log.warn('end-not-written', {
        ...request.ids,
        room: session.room,
        error: error instanceof Error ? error : String(error),
      });
    }
    return answer;
  };

  const carry = (request: Request, decision: Carried, identity: Identity): Promise<Answer | Tunnel> => {
    const { to, snapshot, session, prefix } = decision;
    const strip = snapshot?.settings.stripPrefix === true ? prefix : '';
    const proxied = {
      request,
      origin: originOf(to, snapshot),
      path: strip === '' ? request.path : request.path.slice(strip.length) || '/',
      context: identity.context,
      setCookies: identity.setCookies,
      proto,
      timeoutMs: config.originTimeoutMs,
      session,
    } as const;
    if (request.asksSocket === true) return tunnels.pass(proxied);
    return proxy(proxied).then(({ answer, endSession }) =>
      endSession && session !== undefined ? endByOrigin(request, session, answer) : answer,
    );
  };

  const act = (request: Request, decision: Admitted): Answer | Promise<Answer | Tunnel> => {
    switch (decision.act) {
      case 'refuse': {
        const { code, room } = decision;
        throw new Refusal(
          code,
          room === undefined ? {} : { extra: { room, join: `/v1/rooms/${room}/places` } },
        );
      }
      case 'waitingPage':
        return pages.waitingPage(request, decision.room, decision.snapshot);
      case 'proxy': {
        if (decision.session !== undefined) {
          const taken = options.limits.inside(request.address);
          if (taken.outcome === 'refused') throw options.limits.refusal(taken);
        }
        const identity = identityOf(request, decision);
        return 'then' in identity
          ? identity.then((found) => carry(request, decision, found))
          : carry(request, decision, identity);
      }
    }
  };

  const pass = (request: Request): Answer | Promise<Answer | Tunnel> => {
    if (stopping) throw new Refusal('overloaded');
    const decision = admission.decide({
      host: request.header('host'),
      path: request.path,
      method: request.method,
      request,
      bookingBehind: true,
    });
    return 'then' in decision ? decision.then((decided) => act(request, decided)) : act(request, decision);
  };

  server.otherwise(framed(pass), { bodyBytesMax: config.proxyBodyBytesMax, isStreamed: true });

  return {
    name: 'gateway',
    async stop() {
      stopping = true;
      follower.stop();
      await options.limits.stop();
      tunnels.stop();
    },
    ready: async () => ({ redis: view.redisUp() }),
  };
};
