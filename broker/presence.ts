// Who is there: the lease `here` of those whose turn is near, written in batches, and the return of those who were
// passed over while they were away. A lease is renewed each third of the grace, so a broker that is killed leaves
// nobody present for longer than the grace.

import { type PlaceId, parsePlaceId } from '../kernel/ids.ts';
import type { Log } from '../kernel/log.ts';
import type { Redis } from '../kernel/redis.ts';
import type { View } from '../line/view.ts';
import { here } from '../lua/room.ts';
import type { HeldRoom, Registry } from './connections.ts';

/** Places named in one `here` call. */
const HERE_MAX = 500;

export type Presence = {
  /** Says soon that this place was heard from. */
  soon(room: HeldRoom, placeId: PlaceId): void;
  /** Walks each room after every read of the snapshots, and renews the leases that are due. */
  walk(nowMs: number): void;
  /** Writes what there is to write, unless it is being written. Never rejects. */
  flush(): Promise<void>;
};

export const createPresence = (options: {
  registry: Registry;
  redis: Redis;
  view: View;
  log: Log;
}): Presence => {
  const { registry, redis, view, log } = options;
  const returning = new Map<HeldRoom, Set<PlaceId>>();
  let isWriting = false;

  const setOf = (room: HeldRoom): Set<PlaceId> => {
    let set = returning.get(room);
    if (set === undefined) {
      set = new Set();
      returning.set(room, set);
    }
    return set;
  };

  /**
   * Where nobody is near, a call without names says that presence is known all the same: otherwise a lump of ghosts at
   * the head would be let in one by one, and everyone behind them would wait for each to miss their turn.
   */
  const walkRoom = (room: HeldRoom, nowS: number): void => {
    const snapshot = view.of(room.room);
    if (snapshot === undefined || room.all.length === 0) return;
    const leaseS = snapshot.settings.graceSeconds / 3;
    const { nearScore } = snapshot;
    const isQuiet = nowS - room.saidAtS >= leaseS;
    for (const connection of room.all) {
      if (connection.state !== 'waiting' && connection.state !== 'parked') continue;
      if (isQuiet && room.saidAtS !== nowS) {
        room.saidAtS = nowS;
        setOf(room);
      }
      if (connection.score > nearScore || nowS - connection.hereAtS < leaseS) continue;
      connection.hereAtS = nowS;
      setOf(room).add(connection.placeId);
    }
  };

  const write = async (room: HeldRoom, ids: readonly PlaceId[]): Promise<void> => {
    for (let from = 0; from === 0 || from < ids.length; from += HERE_MAX) {
      const done = await here.run(redis, room.keys, {
        nowMs: '',
        placeIds: ids.slice(from, from + HERE_MAX),
      });
      if (done.outcome !== 'noted') continue;
      for (const text of done.returned) {
        const placeId = parsePlaceId(text);
        if (placeId === undefined) continue;
        for (const connection of registry.ofPlace(room, placeId))
          if (connection.state === 'parked') connection.state = 'waiting';
      }
    }
  };

  return {
    soon: (room, placeId) => void setOf(room).add(placeId),
    walk(nowMs) {
      const nowS = Math.floor(nowMs / 1000);
      for (const room of registry.rooms()) walkRoom(room, nowS);
    },
    async flush() {
      if (isWriting || returning.size === 0) return;
      isWriting = true;
      try {
        for (const [room, set] of returning) {
          returning.delete(room);
          await write(room, [...set]);
        }
      } catch (error) {
        // Presence is renewed every third of the grace, so the next walk repeats it in time.
        log.debug('here-failed', { error: error instanceof Error ? error : String(error) });
      } finally {
        isWriting = false;
      }
    },
  };
};
