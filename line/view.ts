// What a process knows of all rooms: the newest snapshot of each, read about once a second whatever the number
// of visitors, and Redis's time. It keeps what it knew when Redis cannot be reached or has lost a room: that
// memory is what recovery starts from, and what keeps a room closed instead of unguarded.

import { parseRoomId, type RoomId } from '../kernel/ids.ts';
import { roomKey, roomsKey } from '../kernel/keys.ts';
import type { Log } from '../kernel/log.ts';
import { orElse, type Redis } from '../kernel/redis.ts';
import { type Guarded, indexRoutes } from './routes.ts';
import { parseSnapshot, type Snapshot } from './snapshot.ts';

export type View = {
  of(room: RoomId): Snapshot | undefined;
  all(): ReadonlyMap<RoomId, Snapshot>;
  /** The room that guards this host (as hostOf answers it) and path, and by which prefix. */
  guarding(host: string, path: string): Guarded | undefined;
  /** Redis's clock, from the last read and the time since. */
  redisNowMs(): number;
  /** Whether the last read succeeded. */
  redisUp(): boolean;
  refresh(): Promise<void>;
  onRefresh(listen: () => void): void;
  stop(): void;
};

export const createView = (options: { redis: Redis; log: Log; everyMs: number }): View => {
  const { redis, log, everyMs } = options;
  const snapshots = new Map<RoomId, Snapshot>();
  const texts = new Map<RoomId, string>();
  const listeners: (() => void)[] = [];
  let routes = indexRoutes([]);
  let routesFrom = '';
  let offsetMs = 0;
  let up = false;
  let running: Promise<void> | undefined;

  /** A snapshot comes each second and room; routes change once in a sale. */
  const indexAnew = (): void => {
    const all = [...snapshots].map(([room, { settings }]) => [room, settings.routes] as const);
    const from = JSON.stringify(all);
    if (from !== routesFrom) routes = indexRoutes(all);
    routesFrom = from;
  };

  /** A key of one room that holds something else is no reason to know nothing of the others. */
  const textOf = (room: RoomId): Promise<string | null> =>
    orElse<string | null>(
      () => redis.get(roomKey(room, 'snapshot')),
      ({ message }) => message,
    );

  const read = async (): Promise<void> => {
    try {
      const [names, time] = await Promise.all([redis.smembers(roomsKey), redis.time()]);
      offsetMs = Number(time[0]) * 1000 + Math.floor(Number(time[1]) / 1000) - Date.now();
      const rooms = new Set(names.map(parseRoomId).filter((room): room is RoomId => room !== undefined));
      for (const room of snapshots.keys()) rooms.add(room);
      const found = await Promise.all([...rooms].map(async (room) => [room, await textOf(room)] as const));
      for (const [room, text] of found) {
        if (text === null || text === texts.get(room)) continue;
        texts.set(room, text);
        const snapshot = parseSnapshot(text);
        // What was known of the room goes on being known, as when it is lost.
        if (snapshot === undefined) log.warn('snapshot-unreadable', { room });
        else snapshots.set(room, snapshot);
      }
      indexAnew();
      up = true;
    } catch (error) {
      if (up) log.warn('view-stale', { error: error instanceof Error ? error : String(error) });
      up = false;
    }
    for (const listen of listeners) listen();
  };
  const refresh = (): Promise<void> => {
    running ??= read().finally(() => {
      running = undefined;
    });
    return running;
  };
  const timer = setInterval(() => void refresh(), everyMs);

  return {
    of: (room) => snapshots.get(room),
    all: () => snapshots,
    guarding: (host, path) => routes.guarding(host, path),
    redisNowMs: () => Date.now() + offsetMs,
    redisUp: () => up,
    refresh,
    onRefresh: (listen) => void listeners.push(listen),
    stop: () => clearInterval(timer),
  };
};
