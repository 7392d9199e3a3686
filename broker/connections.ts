// The connections a broker holds, found by room and place. A visitor may have several (tabs, devices); all of
// them are told. Removing is constant time: the last takes the place of the one that left.

import type { PlaceId, RoomId } from '../kernel/ids.ts';
import type { Receipt } from '../line/receipt.ts';
import type { PlaceState } from '../lua/room.ts';

/** What an SSE stream and a WebSocket have in common. */
export type Sink = {
  send(frame: string, keep: boolean): void;
  end(): void;
  /** Ends it because this process stops: the fan is to come back, to another one. */
  leave(): void;
};

export type Connection = {
  readonly room: RoomId;
  readonly placeId: PlaceId;
  readonly kind: 'sse' | 'socket';
  readonly receipt: Receipt | undefined;
  sink: Sink | undefined;
  /** Where the place stands as far as this broker knows; `unknown` until it was looked up. */
  state: PlaceState | 'unknown' | 'none' | 'finished';
  number: number;
  score: number;
  /** Lowest number of people ahead said so far, and the first. */
  shown: number | undefined;
  joinedAhead: number | undefined;
  gate: string;
  /** When its presence was last written, monotonic ms. */
  hereAtMs: number;
  slot: number;
  index: number;
};

export type Connections = {
  add(connection: Connection): void;
  remove(connection: Connection): void;
  ofPlace(room: RoomId, placeId: PlaceId): readonly Connection[];
  /** Every connection; do not add or remove while walking. */
  all(): readonly Connection[];
};

const none: readonly Connection[] = [];

export const createConnections = (): Connections => {
  const everyone: Connection[] = [];
  const byPlace = new Map<string, Connection | Connection[]>();
  const keyOf = (room: RoomId, placeId: PlaceId): string => `${room}/${placeId}`;
  return {
    add(connection) {
      connection.index = everyone.push(connection) - 1;
      const key = keyOf(connection.room, connection.placeId);
      const held = byPlace.get(key);
      if (held === undefined) byPlace.set(key, connection);
      else if (Array.isArray(held)) held.push(connection);
      else byPlace.set(key, [held, connection]);
    },
    remove(connection) {
      if (everyone[connection.index] !== connection) return;
      const last = everyone.pop()!;
      if (last !== connection) {
        everyone[connection.index] = last;
        last.index = connection.index;
      }
      connection.index = -1;
      connection.slot = -1;
      const key = keyOf(connection.room, connection.placeId);
      const held = byPlace.get(key);
      if (!Array.isArray(held)) byPlace.delete(key);
      else {
        held.splice(held.indexOf(connection), 1);
        if (held.length === 1) byPlace.set(key, held[0]!);
      }
    },
    ofPlace(room, placeId) {
      const held = byPlace.get(keyOf(room, placeId));
      if (held === undefined) return none;
      return Array.isArray(held) ? [...held] : [held];
    },
    all: () => everyone,
  };
};
