// The messages a fan receives, one shape for SSE, WebSocket and polling, and how each is written on the wire. What an
// example of each looks like, and when it comes, is in the table at the end; docs/reference/messages.md is made from it.

import { cadenceMs } from './cadence.ts';
import type { Ending } from './endings.ts';
import { type EtaSeconds, etaOf, speedOf } from './eta.ts';
import { aheadOf } from './position.ts';
import { gateStateOf, isOrderDrawn, type Snapshot } from './snapshot.ts';

export type PositionMessage = {
  /** In line, from 1. Counts everyone ahead, parked included. */
  position: number;
  ahead: number;
  waiting: number;
  etaSeconds?: EtaSeconds;
  perMinute: number;
  /** 0 at joining, 1 at the turn. */
  progress: number;
  nextMs: number;
};
/** Where each admission is drawn by lot nobody stands before anybody: how many wait is all there is to tell. */
export type DrawnMessage = { order: 'drawn'; waiting: number; perMinute: number; nextMs: number };

export type Notice = { id: string; text: string; level: string };
/** Why nothing more comes. `missed`: the turn passed; the stream stays, and joining again stands in line again. */
export type EndReason = Ending | 'missed';

export type Message =
  | { type: 'position'; data: PositionMessage | DrawnMessage }
  | { type: 'state'; data: { state: string; gate?: string; opensAtMs?: number } }
  | {
      type: 'promoted';
      data: { claimToken: string; deadlineMs: number; serverNowMs: number; number: number };
    }
  | { type: 'notice'; data: Notice }
  | { type: 'ended'; data: { reason: EndReason } };

export type Transport = 'sse' | 'socket';

/**
 * What everyone is told alike from one snapshot and gate, worked out once however many are told: `shared` is the part
 * of a position frame that is the same for all, already encoded, and `drawn` the whole frame where it is.
 */
export type Tick = {
  snapshot: Snapshot;
  gate: string;
  moving: boolean;
  perMinute: number;
  shared: string;
  drawn: { message: DrawnMessage; sse: string; socket: string } | undefined;
};

export const tickOf = (snapshot: Snapshot, nowMs: number): Tick => {
  const gate = gateStateOf(snapshot, nowMs);
  const moving = gate === 'open';
  const perMinute = moving ? Math.round(speedOf(snapshot)) : 0;
  const { waiting } = snapshot;
  const shared = `,"waiting":${waiting},"perMinute":${perMinute}`;
  const tick: Tick = { snapshot, gate, moving, perMinute, shared, drawn: undefined };
  if (isOrderDrawn(snapshot)) {
    const message: DrawnMessage = { order: 'drawn', waiting, perMinute, nextMs: cadenceMs(undefined) };
    const told: Message = { type: 'position', data: message };
    tick.drawn = { message, sse: sseFrame(told), socket: socketFrame(told) };
  }
  return tick;
};

/** Where somebody stands, in the numbers that are theirs alone. */
export type Standing = { ahead: number; eta: EtaSeconds | undefined; permille: number; nextMs: number };

/**
 * For someone at `score`. `shown` is the lowest number of people ahead said so far and `joinedAhead` the first (below
 * zero: none yet): a position never rises by itself.
 */
export const standingOf = (tick: Tick, score: number, shown: number, joinedAhead: number): Standing => {
  const { snapshot, moving } = tick;
  const now = aheadOf(snapshot, score);
  const ahead = shown >= 0 && shown < now ? shown : now;
  const eta = etaOf(snapshot, ahead, moving);
  const from = Math.max(joinedAhead, ahead) + 1;
  return {
    ahead,
    eta,
    permille: Math.round((1 - (ahead + 1) / from) * 1000),
    nextMs: Math.round(cadenceMs(eta?.[0])),
  };
};

/** `progress` in the digits of a JSON number: writing an integer costs a fifth of writing a fraction. */
const progressText = (permille: number): string => {
  if (permille >= 1000) return '1';
  return permille === 0 ? '0' : `0.${String(permille).padStart(3, '0')}`;
};

/**
 * A position frame, put together from what is shared and five numbers. It is most of what a broker sends, and a third
 * of the price of an object that is made to be turned into JSON. A test holds it against `positionMessage`.
 */
export const positionFrame = (tick: Tick, standing: Standing, transport: Transport): string => {
  const { ahead, eta, permille, nextMs } = standing;
  const open = transport === 'sse' ? 'event: position\ndata: {"position":' : '{"type":"position","position":';
  const close = transport === 'sse' ? '}\n\n' : '}';
  const waitText = eta === undefined ? '' : `,"etaSeconds":[${eta[0]},${eta[1]}]`;
  return `${open}${ahead + 1},"ahead":${ahead}${tick.shared}${waitText},"progress":${progressText(permille)},"nextMs":${nextMs}${close}`;
};

/** The same as an object, for polls. */
export const positionMessage = (
  snapshot: Snapshot,
  at: { score: number; shown?: number | undefined; joinedAhead?: number | undefined; nowMs: number },
): PositionMessage | DrawnMessage => {
  const tick = tickOf(snapshot, at.nowMs);
  if (tick.drawn !== undefined) return tick.drawn.message;
  const { ahead, eta, permille, nextMs } = standingOf(tick, at.score, at.shown ?? -1, at.joinedAhead ?? -1);
  const { waiting } = snapshot;
  const { perMinute } = tick;
  const message: PositionMessage = {
    position: ahead + 1,
    ...{ ahead, waiting, perMinute, nextMs },
    progress: permille / 1000,
  };
  if (eta !== undefined) message.etaSeconds = eta;
  return message;
};

/** A server-sent event (WHATWG HTML, section 9.2). JSON has no raw newline, so one data line is enough. */
export const sseFrame = (message: Message, id?: string): string =>
  `${id === undefined ? '' : `id: ${id}\n`}event: ${message.type}\ndata: ${JSON.stringify(message.data)}\n\n`;

export const socketFrame = (message: Message, id?: string): string =>
  JSON.stringify({ type: message.type, ...(id === undefined ? {} : { id }), ...message.data });

export const frameOf = (transport: Transport, message: Message, id?: string): string =>
  transport === 'sse' ? sseFrame(message, id) : socketFrame(message, id);

/** Before what a stream says first: how long an EventSource waits before it comes again. */
export const retryFrame = (retryMs: number): string => `retry: ${retryMs}\n\n`;

/**
 * An id is the epoch of the room and the place in its entry stream (`epoch-milliseconds-sequence`): what the sender knew
 * when it said so. Whoever comes back is told the present state first, whatever id they bring, so an id is never an
 * order to repeat anything; it says how old the last thing is that was heard.
 */
export const messageId = (epoch: number, offset: string): string => `${epoch}-${offset}`;

const ID = /^(\d{1,15})-(\d{1,15})-\d{1,10}$/;
/** The `Last-Event-ID` of whoever comes back; undefined for anything that is not ours, of any length. */
export const parseMessageId = (text: string | undefined): { epoch: number; atMs: number } | undefined => {
  const read = text === undefined || text.length > 44 ? null : ID.exec(text);
  return read === null ? undefined : { epoch: Number(read[1]), atMs: Number(read[2]) };
};

type Documented = { [T in Message['type']]: { when: string; has: string; example: Message & { type: T } } };

/** Each message: when it comes, what is in it, and one as it may come. */
export const messageTable: Documented = {
  state: {
    when: 'First on every stream whose place is not promoted; again when the gate of the room changes, and as a sign of life where there is nothing else to say.',
    has: '`state`: `waiting`, `active`, `none` (no place here: join), `recovering` or `unavailable` (the place is safe, and looked for again by itself). `gate` says what keeps the line: `open` (it moves), `suspended`, `notOpen` (with `opensAtMs`), `queueAll`, `recovering`, `closed`, `passthrough`.',
    example: { type: 'state', data: { state: 'waiting', gate: 'open' } },
  },
  position: {
    when: 'To everyone who waits: each second within a minute of the turn, up to 25 s apart far back. The next comes within `nextMs`.',
    has: '`position` counts from 1, `ahead` from 0; `etaSeconds` is a range (half are in before the first, nine in ten before the second) and missing while the line does not move; `perMinute` is the speed, so that a page can move on by itself; `progress` runs from 0 to 1. Where admission is drawn by lot there is `order: "drawn"` and no position. Carries no id, and only the newest is kept for a reader who is slow.',
    example: {
      type: 'position',
      data: {
        position: 412,
        ahead: 411,
        waiting: 52_310,
        perMinute: 600,
        progress: 0.871,
        nextMs: 1050,
        etaSeconds: [42, 58],
      },
    },
  },
  promoted: {
    when: 'It is their turn. Never dropped; said again by the stream that is opened next, until it is claimed or missed.',
    has: '`claimToken` is what `POST …/pass` takes, until `deadlineMs` on the clock that `serverNowMs` shows (milliseconds since 1970). `number` is that of the visit.',
    example: {
      type: 'promoted',
      data: {
        claimToken: 'MQ.ZGVtbw.1.…',
        deadlineMs: 1_795_276_860_000,
        serverNowMs: 1_795_276_800_000,
        number: 51_234,
      },
    },
  },
  notice: {
    when: 'The organisers say something to the room; the present one is said on every stream that opens.',
    has: '`id`, `text` (plain; empty: the notice was taken away) and `level` (`info`, `warn`, `bad`).',
    example: { type: 'notice', data: { id: 'n1', text: 'Doors open at 19:00.', level: 'info' } },
  },
  ended: {
    when: 'Nothing more will come for this visit; the stream closes after it, but for `missed`. A place that is finished is answered 204 after that, so that an EventSource stops.',
    has: '`reason`: `missed` (the turn passed; join again to stand in line again), or one of the endings below.',
    example: { type: 'ended', data: { reason: 'finished' } },
  },
};
