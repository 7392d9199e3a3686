// The broker: holds the streams of waiting fans and tells each what concerns them. A notification is a hint, the
// state in Redis is the truth: a connection is registered first and looked up second, so nothing falls between.
// The modes of a connection are those of its place (unknown → waiting ⇄ parked → promoted → active → finished, or
// withheld); `settle` is the one function that changes them.

import type { Config } from '../kernel/config.ts';
import { Refusal } from '../kernel/errors.ts';
import type { Answer, Request, Server, Stream, Upgrade } from '../kernel/http.ts';
import { type PlaceId, parsePlaceId, parseRoomId, type RoomId } from '../kernel/ids.ts';
import { roomKey } from '../kernel/keys.ts';
import type { Log } from '../kernel/log.ts';
import type { Metrics } from '../kernel/metrics.ts';
import type { Redis } from '../kernel/redis.ts';
import type { Role } from '../kernel/role.ts';
import { followStreams } from '../kernel/stream.ts';
import type { Tokens } from '../kernel/token.ts';
import { parseEntry } from '../line/entries.ts';
import type { Identifier } from '../line/identify.ts';
import { type Message, positionMessage, socketFrame, sseFrame } from '../line/messages.ts';
import { signClaim } from '../line/receipt.ts';
import { gateStateOf } from '../line/snapshot.ts';
import type { View } from '../line/view.ts';
import { type HeldPlace, here, look, restore, roomKeys } from '../lua/room.ts';
import { type Connection, createConnections } from './connections.ts';
import { createWheel, SLOT_MS } from './wheel.ts';

/** Places named in one `here` call. */
const HERE_MAX = 500;
/** Connections looked up at once after a gap, so that ten thousand do not become one stall. */
const RELOOK_BATCH = 200;
/** A stream says something at least this often, so that proxies and dead peers are noticed. */
const HEARTBEAT_MS = 25_000;
/**
 * Streams sent elsewhere when the process stops, each second: 19,000 take ten seconds. All at once would be a wave of
 * as many handshakes and look-ups at whoever is left.
 */
const LEAVE_PER_SECOND = 2000;
const LEAVE_EVERY_MS = 50;
/** Nobody is waited for longer, however many they are. */
const LEAVE_MS_MAX = 20_000;

export const createBroker = (options: {
  config: Pick<Config, 'streamsMax' | 'streamsPerVisitor' | 'allowedOrigins' | 'publicUrl'>;
  server: Server;
  redis: Redis;
  reader: Redis;
  view: View;
  tokens: Tokens;
  identifier: Identifier;
  log: Log;
  metrics: Metrics;
}): Role => {
  const { config, server, redis, view, tokens, identifier, log, metrics } = options;
  const connections = createConnections();
  const wheel = createWheel<Connection>(performance.now());
  const followed = new Set<RoomId>();
  const returning = new Map<RoomId, Set<PlaceId>>();
  const saidAtMs = new Map<RoomId, number>();
  let stopped = false;

  const send = (connection: Connection, message: Message, id?: string): void => {
    const { sink } = connection;
    if (sink === undefined) return;
    const keep = message.type !== 'position';
    sink.send(connection.kind === 'sse' ? sseFrame(message, id) : socketFrame(message, id), keep);
    metrics.inc('frames_total', { type: message.type });
  };

  const sendPosition = (connection: Connection): void => {
    const snapshot = view.of(connection.room);
    if (snapshot === undefined) return wheel.schedule(connection, 1000);
    const nowMs = view.redisNowMs();
    const gate = gateStateOf(snapshot, nowMs);
    if (gate !== connection.gate) {
      connection.gate = gate;
      const { opensAt } = snapshot.settings;
      send(connection, {
        type: 'state',
        data: { state: publicState(connection), gate, ...(gate === 'notOpen' ? { opensAtMs: opensAt } : {}) },
      });
    }
    // Before opening nobody has a position that means anything, and a draw must not show one.
    if (gate === 'notOpen') return wheel.schedule(connection, 5000);
    const data = positionMessage(snapshot, {
      score: connection.score,
      shown: connection.shown,
      joinedAhead: connection.joinedAhead,
      nowMs,
    });
    if ('ahead' in data) {
      connection.shown = data.ahead;
      connection.joinedAhead ??= data.ahead;
    }
    send(connection, { type: 'position', data });
    // A little jitter spreads those who came in one instant.
    wheel.schedule(connection, Math.min(HEARTBEAT_MS, data.nextMs) * (0.9 + Math.random() * 0.2));
  };

  /** Withheld fans see a line that moves like everyone's; only staff know. */
  const publicState = (connection: Connection): string =>
    connection.state === 'withheld' || connection.state === 'parked' ? 'waiting' : connection.state;

  const promoted = (connection: Connection, deadlineMs: number, id?: string): void => {
    const snapshot = view.of(connection.room);
    const claimToken = signClaim(tokens, {
      room: connection.room,
      sale: snapshot?.settings.sale ?? 1,
      placeId: connection.placeId,
      number: connection.number,
      deadlineMs,
      epoch: snapshot?.epoch ?? 0,
    });
    send(
      connection,
      {
        type: 'promoted',
        data: { claimToken, deadlineMs, serverNowMs: view.redisNowMs(), number: connection.number },
      },
      id,
    );
    // A dead peer must still be noticed while it is its turn.
    wheel.schedule(connection, HEARTBEAT_MS);
  };

  /** Brings one connection to the state its place has in Redis, and tells it. */
  const settle = (connection: Connection, place: HeldPlace): void => {
    if (connection.sink === undefined) return;
    connection.number = place.number;
    connection.score = place.score;
    connection.state = place.state;
    switch (place.state) {
      case 'promoted':
        return promoted(connection, place.untilMs);
      case 'active':
        send(connection, { type: 'state', data: { state: 'active' } });
        return wheel.schedule(connection, HEARTBEAT_MS);
      case 'parked':
        if (place.missed) {
          send(connection, { type: 'ended', data: { reason: 'missed' } });
          connection.state = 'none';
          return wheel.schedule(connection, HEARTBEAT_MS);
        }
        returnSoon(connection);
        return sendPosition(connection);
      default:
        return sendPosition(connection);
    }
  };

  const ended = (connection: Connection, reason: string): void => {
    connection.state = 'finished';
    send(connection, { type: 'ended', data: { reason } });
    connection.sink?.end();
  };

  const endAll = (room: RoomId, reason: string): void => {
    for (const connection of [...connections.all()]) if (connection.room === room) ended(connection, reason);
  };

  const returnSoon = (connection: Connection): void => {
    let set = returning.get(connection.room);
    if (set === undefined) {
      set = new Set();
      returning.set(connection.room, set);
    }
    set.add(connection.placeId);
  };

  /** Looks a connection up, restores its place when Redis has lost it, and settles it. */
  const lookUp = async (connection: Connection): Promise<void> => {
    const keys = roomKeys(connection.room);
    const { placeId } = connection;
    let found = await look.run(redis, keys, { placeId });
    const sale = view.of(connection.room)?.settings.sale ?? 1;
    const proof =
      connection.number > 0
        ? { number: connection.number, score: connection.score, withheld: connection.state === 'withheld' }
        : connection.receipt;
    if (found.outcome === 'none' && proof !== undefined) {
      const restored = await restore.run(redis, keys, {
        nowMs: '',
        sale,
        placeId,
        number: proof.number,
        score: proof.score,
        withheld: proof.withheld ? 1 : 0,
      });
      if (restored.outcome === 'restored') metrics.inc('restored_total', { room: connection.room });
      found = await look.run(redis, keys, { placeId });
    }
    switch (found.outcome) {
      case 'held':
        return settle(connection, found);
      case 'finished':
        return ended(connection, 'finished');
      case 'none':
        connection.state = 'none';
        send(connection, { type: 'state', data: { state: 'none' } });
        return wheel.schedule(connection, HEARTBEAT_MS);
      default:
        // Redis has lost the room and nobody has made it again yet: ask once more soon.
        connection.state = 'unknown';
        send(connection, { type: 'state', data: { state: 'recovering' } });
        return wheel.schedule(connection, 1000);
    }
  };
  /** The same, and never rejects: when Redis does not answer the fan is told, and it is tried again soon. */
  const lookUpOrRetry = async (connection: Connection): Promise<void> => {
    try {
      await lookUp(connection);
    } catch (error) {
      log.debug('look-failed', { error: error instanceof Error ? error : String(error) });
      connection.state = 'unknown';
      send(connection, { type: 'state', data: { state: 'unavailable' } });
      if (connection.sink !== undefined) wheel.schedule(connection, 1000 + Math.random() * 1000);
    }
  };

  const relookRoom = async (room: RoomId): Promise<void> => {
    const held = connections.all().filter((connection) => connection.room === room);
    for (let from = 0; from < held.length && !stopped; from += RELOOK_BATCH)
      await Promise.all(held.slice(from, from + RELOOK_BATCH).map(lookUpOrRetry));
  };

  const follower = followStreams({
    redis: options.reader,
    lookup: redis,
    log,
    gap: (key) => {
      const room = roomOfKey(key);
      if (room !== undefined) void relookRoom(room);
    },
    record: (key, id, flat) => {
      const room = roomOfKey(key);
      const entry = parseEntry(flat);
      if (room === undefined || entry === undefined) return;
      switch (entry.kind) {
        case 'promoted':
          for (const visit of entry.visits)
            for (const connection of connections.ofPlace(room, visit.placeId)) {
              connection.state = 'promoted';
              connection.number = visit.number;
              promoted(connection, entry.deadlineMs, `${view.of(room)?.epoch ?? 0}-${id}`);
            }
          for (const placeId of entry.parked)
            for (const connection of connections.ofPlace(room, placeId)) returnSoon(connection);
          return;
        case 'missed':
          for (const visit of entry.visits)
            for (const connection of connections.ofPlace(room, visit.placeId)) {
              connection.state = 'none';
              send(connection, { type: 'ended', data: { reason: 'missed' } });
            }
          for (const visit of entry.finished)
            for (const connection of connections.ofPlace(room, visit.placeId)) ended(connection, 'finished');
          return;
        case 'ended':
          for (const visit of entry.visits)
            for (const connection of connections.ofPlace(room, visit.placeId)) ended(connection, 'finished');
          return;
        case 'left':
          for (const visit of entry.visits)
            for (const connection of connections.ofPlace(room, visit.placeId)) ended(connection, 'left');
          return;
        case 'released':
          for (const placeId of entry.places)
            for (const connection of connections.ofPlace(room, placeId)) void lookUpOrRetry(connection);
          return;
        case 'notice':
          for (const connection of connections.all())
            if (connection.room === room)
              send(connection, {
                type: 'notice',
                data: { id: entry.id, text: entry.text, level: entry.level },
              });
          return;
        case 'settings':
          void view.refresh();
          if (entry.isNewSale) endAll(room, 'newSale');
          return;
        case 'over':
          endAll(room, 'closed');
          return;
        case 'adopted':
        case 'superseded':
        case 'clock':
          return;
        case 'recovering':
          void relookRoom(room);
      }
    },
  });
  const roomOfKey = (key: string): RoomId | undefined => parseRoomId(/^ar:\{(.+)\}:entries$/.exec(key)?.[1]);
  const follow = async (room: RoomId): Promise<void> => {
    if (followed.has(room)) return;
    await follower.add(roomKey(room, 'entries'));
    followed.add(room);
  };

  /**
   * One pass over the connections: tells those whose gate changed, keeps those near their turn present. Where nobody
   * is near, a call without names says that presence is known all the same: otherwise a lump of ghosts at the head
   * would be let in one by one, and everyone behind them would wait for each to miss their turn.
   */
  const sweep = (): void => {
    const nowMs = performance.now();
    const redisNowMs = view.redisNowMs();
    const near = new Map<RoomId, PlaceId[]>();
    for (const connection of connections.all()) {
      const snapshot = view.of(connection.room);
      if (snapshot === undefined || connection.state !== 'waiting') continue;
      if (gateStateOf(snapshot, redisNowMs) !== connection.gate)
        wheel.schedule(connection, SLOT_MS + Math.random() * 900);
      const graceMs = snapshot.settings.graceSeconds * 1000;
      if (nowMs - (saidAtMs.get(connection.room) ?? Number.NEGATIVE_INFINITY) >= graceMs / 3) {
        saidAtMs.set(connection.room, nowMs);
        if (!near.has(connection.room)) near.set(connection.room, []);
      }
      if (connection.score > snapshot.nearScore || nowMs - connection.hereAtMs < graceMs / 3) continue;
      connection.hereAtMs = nowMs;
      const ids = near.get(connection.room) ?? [];
      ids.push(connection.placeId);
      near.set(connection.room, ids);
    }
    for (const [room, ids] of near) {
      const set = returning.get(room) ?? newSet(room);
      for (const id of ids) set.add(id);
    }
  };
  const newSet = (room: RoomId): Set<PlaceId> => {
    const set = new Set<PlaceId>();
    returning.set(room, set);
    return set;
  };
  const writeHere = async (): Promise<void> => {
    for (const [room, set] of returning) {
      const ids = [...set];
      returning.delete(room);
      for (let from = 0; from === 0 || from < ids.length; from += HERE_MAX) {
        const done = await here.run(redis, roomKeys(room), {
          nowMs: '',
          placeIds: ids.slice(from, from + HERE_MAX),
        });
        if (done.outcome !== 'noted') continue;
        for (const text of done.returned) {
          const placeId = parsePlaceId(text);
          if (placeId !== undefined)
            for (const connection of connections.ofPlace(room, placeId))
              if (connection.state === 'parked') connection.state = 'waiting';
        }
      }
    }
  };
  view.onRefresh(sweep);

  const due = (connection: Connection): void => {
    switch (connection.state) {
      case 'unknown':
        void lookUpOrRetry(connection);
        return;
      case 'waiting':
      case 'parked':
      case 'withheld':
        return sendPosition(connection);
      default:
        // Nothing new to say: the state again is the heartbeat.
        send(connection, { type: 'state', data: { state: publicState(connection) } });
        wheel.schedule(connection, HEARTBEAT_MS);
    }
  };
  let writing = false;
  const timer = setInterval(() => {
    wheel.turn(performance.now(), due);
    if (writing || returning.size === 0) return;
    writing = true;
    writeHere()
      .catch((error: unknown) =>
        log.debug('here-failed', { error: error instanceof Error ? error : String(error) }),
      )
      .finally(() => {
        writing = false;
      });
  }, SLOT_MS);

  /** Everything a stream needs before it is opened; throws the refusals. */
  const admit = async (request: Request, kind: 'sse' | 'socket'): Promise<Connection> => {
    const room = parseRoomId(request.params.room);
    if (room === undefined) throw new Refusal('bad-id');
    const snapshot = view.of(room);
    if (snapshot === undefined) throw new Refusal(view.redisUp() ? 'room-unknown' : 'unavailable');
    if (connections.all().length >= config.streamsMax) throw new Refusal('overloaded');
    const identity = await identifier.identify(request, room, snapshot);
    if (identity.renewCookie && identity.receipt === undefined) throw new Refusal('place-missing');
    if (connections.ofPlace(room, identity.placeId).length >= config.streamsPerVisitor)
      throw new Refusal('too-many-streams');
    await follow(room);
    return {
      room,
      placeId: identity.placeId,
      kind,
      receipt: identity.receipt,
      sink: undefined,
      state: 'unknown',
      number: 0,
      score: 0,
      shown: undefined,
      joinedAhead: undefined,
      gate: '',
      hereAtMs: Number.NEGATIVE_INFINITY,
      slot: -1,
      index: -1,
    };
  };
  const opened = (connection: Connection, sink: Connection['sink']): void => {
    connection.sink = sink;
    connections.add(connection);
    metrics.set('streams_open', {}, connections.all().length);
    const notice = view.of(connection.room)?.notice;
    if (notice !== undefined && notice.text !== '') send(connection, { type: 'notice', data: notice });
    void lookUpOrRetry(connection);
  };
  const closed = (connection: Connection): void => {
    connection.sink = undefined;
    connections.remove(connection);
    metrics.set('streams_open', {}, connections.all().length);
  };

  /** Spreads the reconnects of a lost broker over a few seconds. */
  const retryMs = (): number => Math.round(1000 + Math.random() * 3000);

  /** Sends everybody elsewhere, some at a time; whoever leaves meanwhile need not be told. */
  const leaveAll = async (): Promise<void> => {
    const untilMs = performance.now() + LEAVE_MS_MAX;
    while (connections.all().length > 0) {
      const some = connections.all().slice(0, (LEAVE_PER_SECOND * LEAVE_EVERY_MS) / 1000);
      for (const connection of some) connection.sink?.leave();
      if (connections.all().length === 0 || performance.now() > untilMs) return;
      await new Promise((resolve) => setTimeout(resolve, LEAVE_EVERY_MS));
    }
  };
  server.beforeClose(leaveAll);

  server.route('GET', '/v1/rooms/:room/events', async (request): Promise<Answer | Stream> => {
    const connection = await admit(request, 'sse');
    return {
      stream: true,
      open(stream) {
        stream.write(`retry: ${retryMs()}\n\n`, { keep: true });
        opened(connection, {
          send: (frame, keep) => stream.write(frame, { keep }),
          end: () => stream.end(),
          leave() {
            stream.write(`retry: ${retryMs()}\n\n`, { keep: true });
            stream.end();
          },
        });
      },
      closed: () => closed(connection),
    };
  });

  const originAllowed = (request: Request): boolean => {
    const origin = request.header('origin');
    if (origin === undefined) return true;
    const own =
      config.publicUrl === '' ? `http://${request.header('host') ?? ''}` : new URL(config.publicUrl).origin;
    return origin === own || config.allowedOrigins.includes(origin);
  };
  server.socket('/v1/rooms/:room/socket', async (request): Promise<Answer | Upgrade> => {
    if (!originAllowed(request)) throw new Refusal('origin-refused');
    const connection = await admit(request, 'socket');
    return {
      upgrade: true,
      open: (socket) =>
        opened(connection, {
          send: (frame, keep) => socket.write(frame, { keep }),
          end: () => socket.end(1000, 'finished'),
          // RFC 6455's registry: 1012 is "service restart", so come back after a random few seconds.
          leave: () => socket.end(1012, 'restarting'),
        }),
      // Nothing is said by fans over the socket; joining and claiming are requests of their own.
      message: () => undefined,
      closed: () => closed(connection),
    };
  });

  return {
    name: 'broker',
    async stop() {
      stopped = true;
      clearInterval(timer);
      follower.stop();
      for (const connection of [...connections.all()]) connection.sink?.end();
    },
    ready: async () => ({ redis: view.redisUp() }),
  };
};
