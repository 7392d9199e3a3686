// The connections a broker holds, by room and place. A visitor may have several (tabs, devices); all of them are told.
// Removing is constant time: the last takes the place of the one that left. There are up to 19,000 of these in a
// process, each for an hour, so one holds numbers and a few references: no closure, no timer, nothing of its request.
//
// The modes of a connection are those of its place: unknown → waiting ⇄ parked → promoted → active → finished, or
// withheld, or none. broker/settling.ts and broker/following.ts change them.

import type { EventStream, Socket, Stream, Upgrade } from '../kernel/http.ts';
import type { PlaceId, RoomId } from '../kernel/ids.ts';
import { closeReason, type Ending, endings } from '../line/endings.ts';
import { type Notice, retryFrame, type Tick, type Transport } from '../line/messages.ts';
import type { Receipt } from '../line/receipt.ts';
import { type Looked, type PlaceState, roomKeys } from '../lua/room.ts';

export type StreamState = PlaceState | 'unknown' | 'none' | 'finished';

/** A room of which this broker holds, or has held, streams. */
export type HeldRoom = {
  readonly room: RoomId;
  readonly keys: ReturnType<typeof roomKeys>;
  readonly all: Connection[];
  readonly byPlace: Map<PlaceId, Connection | Connection[]>;
  readonly life: StreamLife;
  /** The newest record of its entry stream that was read; with the epoch, the id of what is said from now on. */
  offset: string;
  /** What is told alike to all, of the newest snapshot. */
  tick: Tick | undefined;
  /** The gate that everybody was told last. */
  toldGate: string;
  /** A notice that the snapshot does not show yet. */
  notice: Notice | undefined;
  /** The notice, and the state of the line, as told to whoever comes: encoded once for an id of their messages. */
  greeting: { id: string; noticeId: string; tell(connection: Connection): void } | undefined;
  welcome: { id: string; tick: Tick; tell(connection: Connection): void } | undefined;
  /** Settings have this version; until the snapshot shows it, it is read more often. */
  versionWanted: number;
  /** When presence was last written, whole monotonic seconds. */
  saidAtS: number;
};

/** What happens to a connection, told by the two classes below. */
export type StreamLife = {
  opened(connection: Connection): void;
  closed(connection: Connection): void;
  heard(connection: SocketConnection): void;
};

/** Only while a connection opens: what its place was found in, what proves it, and whether that has changed since. */
export type Opening = { receipt: () => Receipt | undefined; found: Looked | undefined; isStale: boolean };

const KEEP = { keep: true } as const;
const NEWEST = { keep: false } as const;
const NEVER_S = -1_000_000;

export abstract class Connection<Link extends EventStream | Socket = EventStream | Socket> {
  readonly room: HeldRoom;
  readonly placeId: PlaceId;
  link: Link | undefined = undefined;
  opening: Opening | undefined;
  state: StreamState = 'unknown';
  number = 0;
  score = 0;
  /** Lowest number of people ahead said so far, and the first; -1 for none. */
  shown = -1;
  joinedAhead = -1;
  /** Which cell of the limit by address it counts in. */
  readonly addressCell: number;
  /** When the user token runs out it was opened with, seconds since 1970; 0 for never. */
  readonly untilS: number;
  /** When its presence was last written, whole monotonic seconds. */
  hereAtS = NEVER_S;
  /** Where it waits in the wheel, and where it stands among those of its room; -1 for nowhere. */
  slot = -1;
  index = -1;

  constructor(made: {
    room: HeldRoom;
    placeId: PlaceId;
    addressCell: number;
    untilS: number;
    receipt: () => Receipt | undefined;
  }) {
    this.room = made.room;
    this.placeId = made.placeId;
    this.addressCell = made.addressCell;
    this.untilS = made.untilS;
    this.opening = { receipt: made.receipt, found: undefined, isStale: false };
  }

  abstract get transport(): Transport;
  /** Ends it: `retryMs` asks the fan back after a while. */
  abstract close(ending: Ending, retryMs?: number): void;

  /** A position gives way to a newer one while the reader is slow; everything else is kept. */
  write(frame: string, isPosition: boolean): void {
    this.link?.write(frame, isPosition ? NEWEST : KEEP);
  }
}

export class SseConnection extends Connection<EventStream> implements Stream {
  get stream(): true {
    return true;
  }
  override get transport(): Transport {
    return 'sse';
  }
  open(link: EventStream): void {
    this.link = link;
    this.room.life.opened(this);
  }
  closed(): void {
    this.room.life.closed(this);
  }
  override close(_ending: Ending, retryMs?: number): void {
    if (retryMs !== undefined) this.write(retryFrame(retryMs), false);
    this.link?.end();
  }
}

export class SocketConnection extends Connection<Socket> implements Upgrade {
  /** How many messages have come. Nothing is said by fans over the socket: joining and claiming are requests. */
  heard = 0;

  get upgrade(): true {
    return true;
  }
  override get transport(): Transport {
    return 'socket';
  }
  open(link: Socket): void {
    this.link = link;
    this.room.life.opened(this);
  }
  message(): void {
    this.heard += 1;
    this.room.life.heard(this);
  }
  closed(): void {
    this.room.life.closed(this);
  }
  override close(ending: Ending, retryMs?: number): void {
    this.link?.end(endings[ending].code, closeReason(ending, retryMs));
  }
}

export type Registry = {
  roomOf(room: RoomId): HeldRoom;
  rooms(): Iterable<HeldRoom>;
  add(connection: Connection): void;
  /** Answers whether it was there. */
  remove(connection: Connection): boolean;
  ofPlace(room: HeldRoom, placeId: PlaceId): readonly Connection[];
  readonly count: number;
  readonly countOf: Readonly<Record<Transport, number>>;
};

const none: readonly Connection[] = [];

export const createRegistry = (life: StreamLife): Registry => {
  const rooms = new Map<RoomId, HeldRoom>();
  const countOf: Record<Transport, number> = { sse: 0, socket: 0 };
  return {
    roomOf(room) {
      let held = rooms.get(room);
      if (held === undefined) {
        held = {
          ...{ room, life, keys: roomKeys(room), all: [], byPlace: new Map() },
          ...{ offset: '0-0', tick: undefined, toldGate: '', notice: undefined },
          ...{ greeting: undefined, welcome: undefined },
          ...{ versionWanted: 0, saidAtS: NEVER_S },
        };
        rooms.set(room, held);
      }
      return held;
    },
    rooms: () => rooms.values(),
    add(connection) {
      const { all, byPlace } = connection.room;
      connection.index = all.push(connection) - 1;
      countOf[connection.transport] += 1;
      const held = byPlace.get(connection.placeId);
      if (held === undefined) byPlace.set(connection.placeId, connection);
      else if (Array.isArray(held)) held.push(connection);
      else byPlace.set(connection.placeId, [held, connection]);
    },
    remove(connection) {
      const { all, byPlace } = connection.room;
      if (all[connection.index] !== connection) return false;
      const last = all.pop()!;
      if (last !== connection) {
        all[connection.index] = last;
        last.index = connection.index;
      }
      connection.index = -1;
      connection.slot = -1;
      countOf[connection.transport] -= 1;
      const held = byPlace.get(connection.placeId);
      if (!Array.isArray(held)) byPlace.delete(connection.placeId);
      else {
        held.splice(held.indexOf(connection), 1);
        if (held.length === 1) byPlace.set(connection.placeId, held[0]!);
      }
      return true;
    },
    ofPlace(room, placeId) {
      const held = room.byPlace.get(placeId);
      if (held === undefined) return none;
      return Array.isArray(held) ? [...held] : [held];
    },
    get count() {
      return countOf.sse + countOf.socket;
    },
    countOf,
  };
};
