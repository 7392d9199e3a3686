// Follows the entry streams of the rooms that this broker holds streams of, and tells exactly those whom a record is
// about. A notification is a hint, the state in Redis is the truth: after a gap everybody is looked up again.

import type { PlaceId, RoomId } from '../kernel/ids.ts';
import { roomKey } from '../kernel/keys.ts';
import type { Log } from '../kernel/log.ts';
import type { Redis } from '../kernel/redis.ts';
import { followStreams } from '../kernel/stream.ts';
import { type EntryRecord, parseEntry } from '../line/entries.ts';
import type { View } from '../line/view.ts';
import type { Connection, HeldRoom, Registry } from './connections.ts';
import type { Presence } from './presence.ts';
import type { Settling } from './settling.ts';
import type { Telling } from './telling.ts';

/** A dispatcher shows new settings in its next snapshot; where none runs, there is nothing to wait for. */
const HURRY_MS = 3000;

export type Following = {
  /** Begins to follow a room; once it resolves nothing that happens there is missed. */
  follow(room: HeldRoom): Promise<void>;
  isFollowed(room: HeldRoom): boolean;
  /** Asks for the snapshot while it is older than settings that have been heard of. */
  catchUp(): void;
  stop(): void;
};

export const createFollowing = (options: {
  redis: Redis;
  reader: Redis;
  registry: Registry;
  telling: Telling;
  settling: Settling;
  presence: Presence;
  view: View;
  log: Log;
}): Following => {
  const { redis, reader, registry, telling, settling, presence, view, log } = options;
  const rooms = new Map<string, HeldRoom>();
  let hurryUntilMs = 0;

  const act = (room: HeldRoom, entry: EntryRecord): void => {
    const each = (places: readonly { placeId: PlaceId }[], tell: (connection: Connection) => void): void => {
      for (const { placeId } of places)
        for (const connection of registry.ofPlace(room, placeId)) tell(connection);
    };
    switch (entry.kind) {
      case 'promoted':
        for (const { placeId, number } of entry.visits)
          for (const connection of registry.ofPlace(room, placeId)) {
            connection.state = 'promoted';
            connection.number = number;
            telling.promoted(connection, entry.deadlineMs);
          }
        for (const placeId of entry.parked)
          if (registry.ofPlace(room, placeId).length > 0) presence.soon(room, placeId);
        return;
      case 'missed':
        each(entry.visits, telling.missed);
        each(entry.finished, (connection) => telling.ended(connection, 'finished'));
        return;
      case 'ended':
        return each(entry.visits, (connection) => telling.ended(connection, 'finished'));
      case 'left':
        return each(entry.visits, (connection) => telling.ended(connection, 'left'));
      case 'released':
        for (const placeId of entry.places)
          for (const connection of registry.ofPlace(room, placeId)) void settling.lookUp(connection);
        return;
      case 'notice':
        return telling.notice(room, { id: entry.id, text: entry.text, level: entry.level });
      case 'settings':
        room.versionWanted = entry.version;
        hurryUntilMs = performance.now() + HURRY_MS;
        if (entry.isNewSale) telling.endAll(room, 'newSale');
        return void view.refresh();
      case 'over':
        return telling.endAll(room, 'closed');
      case 'recovering':
        room.notice = undefined;
        return void settling.lookUpAll(room);
      case 'adopted':
      case 'superseded':
      case 'clock':
    }
  };

  const follower = followStreams({
    redis: reader,
    lookup: redis,
    log,
    gap(key) {
      const room = rooms.get(key);
      if (room === undefined) return;
      room.notice = undefined;
      void settling.lookUpAll(room);
    },
    record(key, id, flat) {
      const room = rooms.get(key);
      const entry = parseEntry(flat);
      if (room === undefined || entry === undefined) return;
      room.offset = id;
      act(room, entry);
    },
  });

  const streamOf = (room: RoomId): string => roomKey(room, 'entries');
  return {
    isFollowed: (room) => rooms.has(streamOf(room.room)),
    async follow(room) {
      const key = streamOf(room.room);
      const offset = await follower.add(key);
      if (rooms.has(key)) return;
      room.offset = offset;
      rooms.set(key, room);
    },
    catchUp() {
      if (performance.now() > hurryUntilMs) return;
      for (const room of rooms.values()) {
        const version = view.of(room.room)?.version ?? 0;
        if (version < room.versionWanted) void view.refresh();
      }
    },
    stop: () => follower.stop(),
  };
};
