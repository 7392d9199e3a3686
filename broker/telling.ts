// What is said to whom, and when next. One connection is told by `state`, `position`, `promoted`, `ended`; everyone in
// a room by `notice`, `gate` and `endAll`, whose frame is encoded once for each transport. Whoever opens is told the
// present state first, so nothing that was said before they came is ever repeated to them.

import type { Metrics } from '../kernel/metrics.ts';
import type { Tokens } from '../kernel/token.ts';
import { cadenceMs, firstSpreadMs, HEARTBEAT_MS, spreadMs } from '../line/cadence.ts';
import type { Ending } from '../line/endings.ts';
import {
  frameOf,
  type Message,
  messageId,
  type Notice,
  positionFrame,
  standingOf,
  type Tick,
  tickOf,
} from '../line/messages.ts';
import { signClaim } from '../line/receipt.ts';
import type { View } from '../line/view.ts';
import type { Announcer } from './announcing.ts';
import type { Connection, HeldRoom } from './connections.ts';
import { SLOT_MS, type Wheel } from './wheel.ts';

/** A room that no snapshot is known of yet is looked at again so soon. */
const UNSEEN_MS = 1000;
/** After the gate has changed everybody's position follows within this. */
const AFTER_GATE_MS = 1500;

export type Telling = {
  /** What is told to all alike; undefined while nothing is known of the room. Read anew when the snapshot is. */
  tick(room: HeldRoom): Tick | undefined;
  state(connection: Connection, state: string): void;
  /** The state of a place that waits, then where it stands; `first`: the first time on this stream. */
  waiting(connection: Connection, first?: boolean): void;
  promoted(connection: Connection, deadlineMs: number): void;
  missed(connection: Connection): void;
  /** Says why and closes. */
  ended(connection: Connection, ending: Ending): void;
  /** Whether the user token that it was opened with has run out. */
  isExpired(connection: Connection): boolean;
  /** What is due: a position, or the state again as a sign of life. Says how late it was. */
  due(connection: Connection, lateMs: number): void;
  /** The notice of the room, to one who opens. */
  noticeTo(connection: Connection): void;
  notice(room: HeldRoom, notice: Notice): void;
  endAll(room: HeldRoom, ending: Ending): void;
  /** Looks at a room: tells everybody when its gate is not what they were told last. */
  watch(room: HeldRoom): void;
  /** Comes back to this connection after a while, and not after its token has run out. */
  later(connection: Connection, delayMs: number): void;
};

/** What of the gate matters to those who wait; the time of opening may be moved while it is not there yet. */
const gateText = ({ gate, snapshot }: Tick): string =>
  gate === 'notOpen' ? `notOpen ${snapshot.settings.opensAt}` : gate;

/** Withheld fans see a line that moves like everyone's; only staff know. */
const isInLine = ({ state }: Connection): boolean =>
  state === 'waiting' || state === 'withheld' || state === 'parked';

export const createTelling = (options: {
  view: View;
  tokens: Tokens;
  metrics: Metrics;
  wheel: Wheel<Connection>;
  announcer: Announcer<Connection>;
}): Telling => {
  const { view, tokens, metrics, wheel, announcer } = options;
  const late = metrics.observer('position_late_seconds', {});

  const later = (connection: Connection, delayMs: number): void => {
    const leftMs =
      connection.untilS === 0 ? delayMs : Math.max(0, connection.untilS * 1000 - view.redisNowMs());
    wheel.schedule(connection, Math.min(delayMs, leftMs));
  };
  const tick = (room: HeldRoom): Tick | undefined => {
    const snapshot = view.of(room.room);
    if (snapshot !== undefined && room.tick?.snapshot !== snapshot)
      room.tick = tickOf(snapshot, view.redisNowMs());
    return room.tick;
  };
  const idOf = (room: HeldRoom): string => messageId(tick(room)?.snapshot.epoch ?? 0, room.offset);

  const send = (connection: Connection, message: Message): void => {
    // Still opening: whatever is said now is looked up again when it is open.
    if (connection.link === undefined) {
      if (connection.opening !== undefined) connection.opening.isStale = true;
      return;
    }
    connection.write(frameOf(connection.transport, message, idOf(connection.room)), false);
    metrics.inc('frames_total', { type: message.type });
  };
  /** The same message for many: encoded when it is first needed, once for each transport. */
  const sharing = (room: HeldRoom, message: Message) => {
    const id = idOf(room);
    const frames: { sse?: string; socket?: string } = {};
    return (connection: Connection): void => {
      if (connection.link === undefined) return send(connection, message);
      const { transport } = connection;
      frames[transport] ??= frameOf(transport, message, id);
      connection.write(frames[transport], false);
      metrics.inc('frames_total', { type: message.type });
    };
  };

  const stateOfLine = ({ snapshot, gate }: Tick): Message => {
    const { opensAt } = snapshot.settings;
    const opening = gate === 'notOpen' ? { opensAtMs: opensAt } : {};
    return { type: 'state', data: { state: 'waiting', gate, ...opening } };
  };

  const position = (connection: Connection, first: boolean): void => {
    const now = tick(connection.room);
    if (now === undefined) return later(connection, UNSEEN_MS);
    const { transport } = connection;
    // Before opening nobody has a position that means anything, and a draw must not show one.
    if (now.gate === 'notOpen') {
      if (!first) send(connection, stateOfLine(now));
      return later(connection, spreadMs(HEARTBEAT_MS, Math.random()));
    }
    let nextMs: number;
    if (now.drawn !== undefined) {
      nextMs = cadenceMs(undefined);
      connection.write(now.drawn[transport], true);
    } else {
      const standing = standingOf(now, connection.score, connection.shown, connection.joinedAhead);
      connection.shown = standing.ahead;
      if (connection.joinedAhead < 0) connection.joinedAhead = standing.ahead;
      nextMs = standing.nextMs;
      connection.write(positionFrame(now, standing, transport), true);
    }
    metrics.inc('frames_total', { type: 'position' });
    later(connection, (first ? firstSpreadMs : spreadMs)(nextMs, Math.random()));
  };

  const ended = (connection: Connection, ending: Ending): void => {
    send(connection, { type: 'ended', data: { reason: ending } });
    if (connection.link === undefined) return;
    connection.state = 'finished';
    metrics.inc('streams_ended_total', { ending });
    connection.close(ending);
  };

  const state = (connection: Connection, word: string): void =>
    send(connection, { type: 'state', data: { state: word } });

  return {
    tick,
    later,
    state,
    waiting(connection, first = false) {
      const { room } = connection;
      const now = tick(room);
      if (now !== undefined) {
        const id = idOf(room);
        // When a process is lost its fans come all at once, and are told the same.
        if (room.welcome?.id !== id || room.welcome.tick !== now)
          room.welcome = { id, tick: now, tell: sharing(room, stateOfLine(now)) };
        room.welcome.tell(connection);
        if (room.toldGate === '') room.toldGate = gateText(now);
      }
      position(connection, first);
    },
    promoted(connection, deadlineMs) {
      const { room, placeId, number } = connection;
      const snapshot = view.of(room.room);
      const sale = snapshot?.settings.sale ?? 1;
      const epoch = snapshot?.epoch ?? 0;
      const claimToken = signClaim(tokens, { room: room.room, sale, placeId, number, deadlineMs, epoch });
      const serverNowMs = view.redisNowMs();
      send(connection, { type: 'promoted', data: { claimToken, deadlineMs, serverNowMs, number } });
      // A dead peer must still be noticed while it is its turn.
      later(connection, HEARTBEAT_MS);
    },
    missed(connection) {
      connection.state = 'none';
      send(connection, { type: 'ended', data: { reason: 'missed' } });
      later(connection, HEARTBEAT_MS);
    },
    ended,
    isExpired: ({ untilS }) => untilS > 0 && view.redisNowMs() >= untilS * 1000,
    due(connection, lateMs) {
      if (!isInLine(connection)) {
        // Nothing new to say: the state again is the heartbeat.
        state(connection, connection.state);
        return later(connection, HEARTBEAT_MS);
      }
      late(lateMs / 1000);
      position(connection, false);
    },
    noticeTo(connection) {
      const { room } = connection;
      const notice = room.notice ?? view.of(room.room)?.notice;
      if (notice === undefined || notice.text === '') return;
      const id = idOf(room);
      // Thousands may come at once, and it is long: whoever comes between two records gets the same text.
      if (room.greeting?.id !== id || room.greeting.noticeId !== notice.id)
        room.greeting = { id, noticeId: notice.id, tell: sharing(room, { type: 'notice', data: notice }) };
      room.greeting.tell(connection);
    },
    notice(room, notice) {
      room.notice = notice;
      announcer.announce(room.all, sharing(room, { type: 'notice', data: notice }));
    },
    endAll(room, ending) {
      announcer.announce(room.all, (connection) => ended(connection, ending));
    },
    watch(room) {
      const seen = tick(room);
      if (seen === undefined) return;
      const { notice } = seen.snapshot;
      if (room.notice?.id === notice.id && room.notice.text === notice.text) room.notice = undefined;
      const now = tickOf(seen.snapshot, view.redisNowMs());
      if (now.gate !== seen.gate) room.tick = now;
      const told = gateText(now);
      if (room.toldGate === '' || told === room.toldGate) return;
      room.toldGate = told;
      const tell = sharing(room, stateOfLine(now));
      announcer.announce(room.all, (connection) => {
        if (!isInLine(connection)) return;
        tell(connection);
        later(connection, SLOT_MS + Math.random() * AFTER_GATE_MS);
      });
    },
  };
};
