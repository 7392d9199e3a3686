// The broker: holds the streams of waiting fans and tells each what concerns them. This file opens streams and turns the
// one timer; who is told what is in telling.ts, where a place stands in settling.ts, what happens in following.ts.
//
// A connection is registered first and looked up second, so nothing falls between. What it costs to come back: a look
// at the place, for which those who come together share a call (three when it has to be stood up again), and, where
// cookie and receipt name two places, a look at each before.

import type { Config } from '../kernel/config.ts';
import { Refusal } from '../kernel/errors.ts';
import type { Answer, Request, Server, Stream, Upgrade } from '../kernel/http.ts';
import { type PlaceId, parseRoomId } from '../kernel/ids.ts';
import type { Log } from '../kernel/log.ts';
import type { Metrics } from '../kernel/metrics.ts';
import type { Redis } from '../kernel/redis.ts';
import type { Role } from '../kernel/role.ts';
import type { Tokens } from '../kernel/token.ts';
import type { Identifier } from '../line/identify.ts';
import type { Looks } from '../line/looks.ts';
import { parseMessageId, retryFrame } from '../line/messages.ts';
import { gateStateOf } from '../line/snapshot.ts';
import type { View } from '../line/view.ts';
import { createAnnouncer } from './announcing.ts';
import {
  type Connection,
  createRegistry,
  type HeldRoom,
  SocketConnection,
  SseConnection,
  type StreamLife,
} from './connections.ts';
import { drainStreams } from './drain.ts';
import { createFollowing } from './following.ts';
import { createStreamLimits } from './limits.ts';
import { createPresence } from './presence.ts';
import { retryMs } from './retry.ts';
import { createSettling } from './settling.ts';
import { createTelling } from './telling.ts';
import { createWheel, SLOT_MS } from './wheel.ts';

export type BrokerConfig = Pick<
  Config,
  | 'streamsMax'
  | 'streamsPerVisitor'
  | 'streamsPerAddress'
  | 'streamsElsewhere'
  | 'streamsDrainMs'
  | 'streamMessagesMax'
  | 'allowedOrigins'
  | 'publicUrl'
>;

/** Whether a page of this origin may open a WebSocket here; those without one are no pages. */
const isOriginAllowed = (config: BrokerConfig, request: Request): boolean => {
  const origin = request.header('origin');
  if (origin === undefined) return true;
  const own =
    config.publicUrl === '' ? `http://${request.header('host') ?? ''}` : new URL(config.publicUrl).origin;
  return origin === own || config.allowedOrigins.includes(origin);
};

/** A piece of a longer text keeps all of it alive; the receipt it came in is a cookie of some 150 bytes. */
const alone = (placeId: PlaceId): PlaceId =>
  // The same characters.
  Buffer.from(placeId, 'latin1').toString('latin1') as PlaceId;

export const createBroker = (options: {
  config: BrokerConfig;
  server: Server;
  redis: Redis;
  reader: Redis;
  looks: Looks;
  view: View;
  tokens: Tokens;
  identifier: Identifier;
  log: Log;
  metrics: Metrics;
}): Role => {
  const { config, server, redis, reader, looks, view, tokens, identifier, log, metrics } = options;
  const life: StreamLife = {
    opened: (connection) => opened(connection),
    closed: (connection) => closed(connection),
    heard: (connection) => {
      if (connection.heard > config.streamMessagesMax) telling.ended(connection, 'tooManyMessages');
    },
  };
  const registry = createRegistry(life);
  const wheel = createWheel<Connection>(performance.now());
  const announcer = createAnnouncer<Connection>();
  const limits = createStreamLimits({ config, registry, metrics });
  const telling = createTelling({ view, tokens, metrics, wheel, announcer });
  const presence = createPresence({ registry, redis, view, log });
  const settling = createSettling({ redis, looks, view, telling, presence, log, metrics });
  const following = createFollowing({
    ...{ redis, reader, registry, telling, settling, presence, view, log },
  });

  const showCounts = (): void => {
    for (const transport of ['sse', 'socket'] as const)
      metrics.set('streams_open', { transport }, registry.countOf[transport]);
  };
  const opened = (connection: Connection): void => {
    // Inside the handshake of a WebSocket nothing may be said yet: what is sent there can cost the connection.
    if (connection.transport === 'socket') setImmediate(() => begin(connection));
    else begin(connection);
  };
  const begin = (connection: Connection): void => {
    const { opening } = connection;
    if (connection.transport === 'sse') connection.write(retryFrame(retryMs()), false);
    telling.noticeTo(connection);
    // Something happened to the place between the look at it and now.
    if (opening?.isStale === true) void settling.lookUp(connection);
    else settling.settle(connection, opening?.found);
  };
  const closed = (connection: Connection): void => {
    connection.link = undefined;
    if (!registry.remove(connection)) return;
    limits.give(connection.addressCell);
  };

  const countResumed = (request: Request, room: HeldRoom): void => {
    const shown = request.header('last-event-id');
    if (shown === undefined || shown === '') return;
    const epoch = parseMessageId(shown)?.epoch;
    const now = telling.tick(room)?.snapshot.epoch;
    metrics.inc('streams_resumed_total', {
      epoch: epoch === undefined ? 'foreign' : epoch === now ? 'same' : 'other',
    });
  };

  /** A connection that is registered and looked up, but not open yet; throws the refusals. */
  const admit = async <C extends Connection>(
    request: Request,
    make: (made: ConstructorParameters<typeof SseConnection>[0]) => C,
  ): Promise<C> => {
    const roomId = parseRoomId(request.params.room);
    if (roomId === undefined) throw new Refusal('bad-id');
    const snapshot = view.of(roomId);
    if (snapshot === undefined) throw new Refusal(view.redisUp() ? 'room-unknown' : 'unavailable');
    limits.whole();
    const identity = await identifier.identify(request, roomId, snapshot);
    if (identity.isNew && identity.receipt() === undefined) throw new Refusal('place-missing');
    const room = registry.roomOf(roomId);
    if (!following.isFollowed(room)) await following.follow(room);
    const placeId = alone(identity.placeId);
    const addressCell = limits.take(room, placeId, request.address);
    const untilS = Math.ceil(identity.userUntilMs / 1000);
    const connection = make({ room, placeId, addressCell, untilS, receipt: identity.receipt });
    registry.add(connection);
    countResumed(request, room);
    try {
      if (connection.opening !== undefined) connection.opening.found = await settling.find(connection);
    } catch (error) {
      // Opened all the same: the fan is told that the line cannot be reached, and it is tried again.
      log.debug('look-failed', { error: error instanceof Error ? error : String(error) });
    }
    return connection;
  };

  /** Whether there is nothing that this stream could ever say. */
  const isOver = ({ opening, room }: Connection): boolean => {
    if (opening === undefined || opening.isStale) return false;
    if (opening.found?.outcome === 'finished') return true;
    const snapshot = view.of(room.room);
    const isClosed = snapshot !== undefined && gateStateOf(snapshot, view.redisNowMs()) === 'closed';
    return opening.found?.outcome === 'none' && isClosed;
  };

  server.route('GET', '/v1/rooms/:room/events', async (request): Promise<Answer | Stream> => {
    const connection = await admit(request, (made) => new SseConnection(made));
    if (!isOver(connection)) return connection;
    closed(connection);
    // The answer that makes an EventSource stop (WHATWG HTML, section 9.2.3).
    return { status: 204, headers: [['cache-control', 'no-store']] };
  });

  server.socket('/v1/rooms/:room/socket', async (request): Promise<Answer | Upgrade> => {
    if (!isOriginAllowed(config, request)) {
      metrics.inc('streams_refused_total', { by: 'origin' });
      throw new Refusal('origin-refused');
    }
    return admit(request, (made) => new SocketConnection(made));
  });

  const due = (connection: Connection, lateMs: number): void => {
    // Closed while everybody in its room was told something in slices, and written down to be told more.
    if (connection.link === undefined) return;
    if (telling.isExpired(connection)) return telling.ended(connection, 'tokenExpired');
    // Nothing is known of the place, or there was none: the state in Redis may be another by now.
    const isOpenQuestion = connection.state === 'unknown' || connection.state === 'none';
    if (isOpenQuestion) void settling.lookUp(connection);
    else telling.due(connection, lateMs);
  };
  view.onRefresh(() => presence.walk(performance.now()));
  const timer = setInterval(() => {
    wheel.turn(performance.now(), due);
    for (const room of registry.rooms()) if (room.all.length > 0) telling.watch(room);
    following.catchUp();
    showCounts();
    void presence.flush();
  }, SLOT_MS);
  metrics.set('streams_draining', {}, 0);
  showCounts();
  server.beforeClose(() => drainStreams({ config, registry, metrics }));

  return {
    name: 'broker',
    async stop() {
      clearInterval(timer);
      announcer.stop();
      settling.stop();
      following.stop();
      for (const room of registry.rooms())
        for (const connection of [...room.all]) connection.close('restarting', retryMs());
    },
    ready: async () => ({ redis: view.redisUp() }),
  };
};
