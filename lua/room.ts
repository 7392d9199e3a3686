// The scripts of a room as typed functions. Each is one transition of the line; the file below lua/room/ has its
// contract. Replies are read here and become unions of outcomes.

import type { RoomId, VisitorId } from '../kernel/ids.ts';
import { type RoomKeyName, roomKey } from '../kernel/keys.ts';
import { type Reply, script, UnknownOutcome } from './script.ts';

const names = [
  'room',
  'line',
  'parked',
  'withheld',
  'promoted',
  'active',
  'places',
  'finished',
  'here',
  'entries',
  'joins',
  'snapshot',
  'decisions',
] as const satisfies readonly RoomKeyName[];

/** Every key of a room by its name; a script takes those it declares. */
export const roomKeys = (room: RoomId): Record<RoomKeyName, string> => {
  const keys: Partial<Record<RoomKeyName, string>> = {};
  for (const name of names) keys[name] = roomKey(room, name);
  // `names` has every RoomKeyName; the record is complete.
  return keys as Record<RoomKeyName, string>;
};

export type PlaceState = 'waiting' | 'parked' | 'withheld' | 'promoted' | 'active';
/** A place as a script reports it. `untilMs` is the claim deadline or session expiry, 0 where there is none. */
export type HeldPlace = {
  state: PlaceState;
  number: number;
  score: number;
  untilMs: number;
  epoch: number;
  missed: boolean;
};

const count = (reply: Reply, index: number): number => Number(reply[index]);
// The script contract (header and binding test) fixes which words stand at this position.
const stateAt = (reply: Reply, index: number): PlaceState => String(reply[index]) as PlaceState;
const idsAt = (reply: Reply, index: number): string[] =>
  Array.isArray(reply[index]) ? reply[index].map(String) : [];

type Unknown = { outcome: 'unknown' };
type OtherSale = { outcome: 'otherSale'; sale: number };

/** What became of one visitor of a batch. */
export type JoinOutcome =
  | ({ outcome: 'held' } & HeldPlace)
  | { outcome: 'recovering'; untilMs: number }
  | { outcome: 'closed' }
  | { outcome: 'notOpen'; opensAtMs: number }
  | { outcome: 'full' }
  | ({ outcome: 'joined' } & HeldPlace);
export type Joined = Unknown | OtherSale | { outcome: 'answered'; each: JoinOutcome[] };

/** `at` is one outcome of join: its word and what the header of join.lua says follows it, or a number alone. */
const joinOutcome = (at: Reply | number, epoch: number): JoinOutcome => {
  if (typeof at === 'number')
    return { outcome: 'joined', state: 'waiting', number: at, score: at, untilMs: 0, epoch, missed: false };
  const [word] = at;
  switch (word) {
    case 'held':
    case 'joined':
      return {
        outcome: word,
        state: stateAt(at, 1),
        number: count(at, 2),
        score: count(at, 3),
        untilMs: word === 'held' ? count(at, 4) : 0,
        epoch,
        missed: false,
      };
    case 'recovering':
      return { outcome: word, untilMs: count(at, 1) };
    case 'notOpen':
      return { outcome: word, opensAtMs: count(at, 1) };
    case 'closed':
    case 'full':
      return { outcome: word };
    default:
      throw new UnknownOutcome('room.join', word);
  }
};

export const JOIN_BATCH_MAX = 128;

export const join = script({
  name: 'room.join',
  keys: ['room', 'line', 'parked', 'withheld', 'promoted', 'active', 'places', 'here', 'joins'],
  args: ['nowMs', 'sale', 'lineMax', 'withheldMax', 'joinsMax', '...visitors'],
  outcomes: ['unknown', 'otherSale', 'answered'],
  read: (reply): Joined => {
    switch (reply[0]) {
      case 'otherSale':
        return { outcome: 'otherSale', sale: count(reply, 1) };
      case 'answered': {
        const epoch = count(reply, 1);
        // The script answers a list here, of numbers and of lists with a word at their head.
        const each = (reply[2] as (Reply | number)[]).map((at) => joinOutcome(at, epoch));
        return { outcome: 'answered', each };
      }
      default:
        return { outcome: 'unknown' };
    }
  },
});

export type Looked =
  | Unknown
  | ({ outcome: 'held' } & HeldPlace)
  | { outcome: 'finished'; number: number }
  | { outcome: 'none'; epoch: number };

/** `at` is one outcome of look: its word and what the header of look.lua says follows it, or a number alone. */
const lookedAt = (at: Reply | number, epoch: number): Looked => {
  if (typeof at === 'number')
    return { outcome: 'held', state: 'waiting', number: at, score: at, untilMs: 0, epoch, missed: false };
  const [word] = at;
  switch (word) {
    case 'held':
      return {
        outcome: 'held',
        state: stateAt(at, 1),
        number: count(at, 2),
        score: count(at, 3),
        untilMs: count(at, 4),
        epoch,
        missed: at[5] === 1,
      };
    case 'finished':
      return { outcome: 'finished', number: count(at, 1) };
    case 'none':
      return { outcome: 'none', epoch };
    default:
      throw new UnknownOutcome('room.look', word);
  }
};

export const LOOK_BATCH_MAX = 128;

export const look = script({
  name: 'room.look',
  keys: ['room', 'line', 'parked', 'withheld', 'promoted', 'active', 'places', 'finished'],
  args: ['...placeIds'],
  outcomes: ['unknown', 'answered'],
  read: (reply): Unknown | { outcome: 'answered'; each: Looked[] } => {
    if (reply[0] !== 'answered') return { outcome: 'unknown' };
    const epoch = count(reply, 1);
    // The script answers a list here, of numbers and of lists with a word at their head.
    return { outcome: 'answered', each: (reply[2] as (Reply | number)[]).map((at) => lookedAt(at, epoch)) };
  },
});

export const here = script({
  name: 'room.here',
  keys: ['room', 'line', 'parked', 'places', 'here'],
  args: ['nowMs', '...placeIds'],
  outcomes: ['unknown', 'noted'],
  read: (reply): Unknown | { outcome: 'noted'; noted: number; returned: string[] } =>
    reply[0] === 'noted'
      ? { outcome: 'noted', noted: count(reply, 1), returned: idsAt(reply, 2) }
      : { outcome: 'unknown' },
});

export type Promoted =
  | Unknown
  | { outcome: 'gated'; reason: string }
  | { outcome: 'idle' }
  | { outcome: 'spent'; free: number }
  | { outcome: 'promoted'; promoted: number; parked: number; more: boolean };

export const promote = script({
  name: 'room.promote',
  keys: ['room', 'line', 'parked', 'promoted', 'active', 'places', 'here', 'entries'],
  args: ['nowMs', 'promoteMax', 'examineMax'],
  outcomes: ['unknown', 'gated', 'idle', 'spent', 'promoted'],
  read: (reply): Promoted => {
    switch (reply[0]) {
      case 'gated':
        return { outcome: 'gated', reason: String(reply[1]) };
      case 'idle':
        return { outcome: 'idle' };
      case 'spent':
        return { outcome: 'spent', free: count(reply, 1) };
      case 'promoted':
        return {
          outcome: 'promoted',
          promoted: count(reply, 1),
          parked: count(reply, 2),
          more: reply[3] === 1,
        };
      default:
        return { outcome: 'unknown' };
    }
  },
});

/** A session: its visit is the caller's. All times are Redis's, in ms. */
export type SessionTimes = {
  number: number;
  expiresAtMs: number;
  startedAtMs: number;
  epoch: number;
  /** Rises each time the session goes to another browser or host; only the newest counts. */
  serial: number;
  /** Who claimed first. */
  visitorId: VisitorId;
};
const timesOf = (reply: Reply): SessionTimes => ({
  number: count(reply, 1),
  expiresAtMs: count(reply, 2),
  startedAtMs: count(reply, 3),
  epoch: count(reply, 4),
  serial: count(reply, 5),
  visitorId: String(reply[6]) as VisitorId, // Written by the scripts from a VisitorId.
});
export type Claimed =
  | Unknown
  | { outcome: 'finished' }
  | ({ outcome: 'active' } & SessionTimes)
  | { outcome: 'notPromoted' }
  | ({ outcome: 'claimed' } & SessionTimes);

export const claim = script({
  name: 'room.claim',
  keys: ['room', 'promoted', 'active', 'places', 'finished', 'entries'],
  args: ['nowMs', 'placeId', 'number', 'shownSerial', 'visitor'],
  outcomes: ['unknown', 'finished', 'active', 'notPromoted', 'claimed'],
  read: (reply): Claimed => {
    switch (reply[0]) {
      case 'active':
      case 'claimed':
        return { outcome: reply[0], ...timesOf(reply) };
      case 'finished':
      case 'notPromoted':
        return { outcome: reply[0] };
      default:
        return { outcome: 'unknown' };
    }
  },
});

export type Redeemed =
  | Unknown
  | OtherSale
  | { outcome: 'finished' | 'notActive' | 'redeemedBefore' }
  | { outcome: 'superseded'; serial: number }
  | ({ outcome: 'redeemed' } & SessionTimes);

export const redeem = script({
  name: 'room.redeem',
  keys: ['room', 'active', 'places', 'finished', 'entries'],
  args: ['nowMs', 'sale', 'placeId', 'number', 'serial', 'visitor'],
  outcomes: ['unknown', 'otherSale', 'finished', 'notActive', 'redeemedBefore', 'superseded', 'redeemed'],
  read: (reply): Redeemed => {
    switch (reply[0]) {
      case 'otherSale':
        return { outcome: 'otherSale', sale: count(reply, 1) };
      case 'superseded':
        return { outcome: 'superseded', serial: count(reply, 1) };
      case 'redeemed':
        return { outcome: 'redeemed', ...timesOf(reply) };
      case 'finished':
      case 'notActive':
      case 'redeemedBefore':
        return { outcome: reply[0] };
      default:
        return { outcome: 'unknown' };
    }
  },
});

export type Renewed =
  | Unknown
  | { outcome: 'ended' }
  | { outcome: 'fixed' | 'renewed'; expiresAtMs: number; startedAtMs: number };

export const renew = script({
  name: 'room.renew',
  keys: ['room', 'active', 'places'],
  args: ['nowMs', 'placeId', 'number'],
  outcomes: ['unknown', 'ended', 'fixed', 'renewed'],
  read: (reply): Renewed => {
    switch (reply[0]) {
      case 'fixed':
      case 'renewed':
        return { outcome: reply[0], expiresAtMs: count(reply, 1), startedAtMs: count(reply, 2) };
      case 'ended':
        return { outcome: 'ended' };
      default:
        return { outcome: 'unknown' };
    }
  },
});

export const end = script({
  name: 'room.end',
  keys: ['room', 'active', 'places', 'finished', 'entries'],
  args: ['nowMs', 'placeId', 'number', 'reason'],
  outcomes: ['unknown', 'notActive', 'ended'],
  read: (reply): { outcome: 'unknown' | 'notActive' | 'ended' } => {
    const word = reply[0];
    return { outcome: word === 'ended' || word === 'notActive' ? word : 'unknown' };
  },
});

export const leave = script({
  name: 'room.leave',
  keys: ['room', 'line', 'parked', 'withheld', 'promoted', 'active', 'places', 'finished', 'here', 'entries'],
  args: ['nowMs', 'placeId'],
  outcomes: ['unknown', 'none', 'left'],
  read: (reply): Unknown | { outcome: 'none' } | { outcome: 'left'; state: PlaceState; number: number } =>
    reply[0] === 'left'
      ? { outcome: 'left', state: stateAt(reply, 1), number: count(reply, 2) }
      : { outcome: reply[0] === 'none' ? 'none' : 'unknown' },
});

export type Reaped = {
  outcome: 'reaped';
  missed: number;
  finished: number;
  expired: number;
  more: boolean;
  /** Places that were due, and of which nobody knows whose they are. */
  unreadable: string[];
};

export const reap = script({
  name: 'room.reap',
  keys: ['room', 'parked', 'promoted', 'active', 'places', 'finished', 'here', 'entries'],
  args: ['nowMs', 'reapMax', 'entriesMax'],
  outcomes: ['unknown', 'reaped'],
  read: (reply): Unknown | Reaped =>
    reply[0] === 'reaped'
      ? {
          outcome: 'reaped',
          missed: count(reply, 1),
          finished: count(reply, 2),
          expired: count(reply, 3),
          more: reply[4] === 1,
          unreadable: Array.isArray(reply[5]) ? reply[5].map(String) : [],
        }
      : { outcome: 'unknown' },
});

export const release = script({
  name: 'room.release',
  keys: ['room', 'line', 'withheld', 'here', 'entries'],
  args: ['nowMs', 'placeId'],
  outcomes: ['unknown', 'notWithheld', 'released'],
  read: (reply): Unknown | { outcome: 'notWithheld' } | { outcome: 'released'; score: number } =>
    reply[0] === 'released'
      ? { outcome: 'released', score: count(reply, 1) }
      : { outcome: reply[0] === 'notWithheld' ? 'notWithheld' : 'unknown' },
});

export type Restored =
  | Unknown
  | OtherSale
  | { outcome: 'finished' | 'held' | 'passed' }
  | ({ outcome: 'restored' } & HeldPlace);

export const restore = script({
  name: 'room.restore',
  keys: ['room', 'line', 'parked', 'withheld', 'promoted', 'active', 'places', 'finished', 'here', 'joins'],
  args: ['nowMs', 'sale', 'placeId', 'number', 'score', 'withheld'],
  outcomes: ['unknown', 'otherSale', 'finished', 'held', 'passed', 'restored'],
  read: (reply): Restored => {
    switch (reply[0]) {
      case 'otherSale':
        return { outcome: 'otherSale', sale: count(reply, 1) };
      case 'finished':
      case 'held':
      case 'passed':
        return { outcome: reply[0] };
      case 'restored':
        return {
          outcome: 'restored',
          state: stateAt(reply, 1),
          number: count(reply, 2),
          score: count(reply, 3),
          untilMs: 0,
          epoch: count(reply, 4),
          missed: false,
        };
      default:
        return { outcome: 'unknown' };
    }
  },
});

export type Adopted =
  | Unknown
  | OtherSale
  | { outcome: 'active'; expiresAtMs: number; serial: number }
  | { outcome: 'finished' | 'ended' }
  | { outcome: 'adopted'; expiresAtMs: number; overCap: boolean };

export const adopt = script({
  name: 'room.adopt',
  keys: ['room', 'line', 'parked', 'active', 'places', 'finished', 'promoted', 'entries'],
  args: [
    'nowMs',
    'sale',
    'placeId',
    'number',
    'expiresAtMs',
    'startedAtMs',
    'sessionEpoch',
    'serial',
    'visitor',
  ],
  outcomes: ['unknown', 'otherSale', 'active', 'finished', 'ended', 'adopted'],
  read: (reply): Adopted => {
    switch (reply[0]) {
      case 'otherSale':
        return { outcome: 'otherSale', sale: count(reply, 1) };
      case 'active':
        return { outcome: 'active', expiresAtMs: count(reply, 1), serial: count(reply, 2) };
      case 'finished':
      case 'ended':
        return { outcome: reply[0] };
      case 'adopted':
        return { outcome: 'adopted', expiresAtMs: count(reply, 1), overCap: reply[2] === 1 };
      default:
        return { outcome: 'unknown' };
    }
  },
});

export const recover = script({
  name: 'room.recover',
  keys: ['room', 'entries'],
  args: [
    'nowMs',
    'version',
    'settings',
    'head',
    'nextNumber',
    'epoch',
    'waiting',
    'replid',
    'recoverySeconds',
    'remembered',
  ],
  outcomes: ['known', 'recovered'],
  read: (reply): { outcome: 'known' | 'recovered'; epoch: number; untilMs: number } => ({
    outcome: reply[0] === 'recovered' ? 'recovered' : 'known',
    epoch: count(reply, 1),
    untilMs: reply[0] === 'recovered' ? count(reply, 2) : 0,
  }),
});

export type Reconciled =
  | Unknown
  | { outcome: 'known' | 'noted' }
  | { outcome: 'recovered'; reason: string; epoch: number; untilMs: number };

export const reconcile = script({
  name: 'room.reconcile',
  keys: ['room', 'line', 'parked', 'entries'],
  args: [
    'nowMs',
    'replid',
    'replidBefore',
    'sale',
    'head',
    'nextNumber',
    'epoch',
    'waiting',
    'snapshotAt',
    'olderMs',
    'failoverSeconds',
    'recoverySeconds',
  ],
  outcomes: ['unknown', 'known', 'noted', 'recovered'],
  read: (reply): Reconciled => {
    switch (reply[0]) {
      case 'recovered':
        return {
          outcome: 'recovered',
          reason: String(reply[1]),
          epoch: count(reply, 2),
          untilMs: count(reply, 3),
        };
      case 'known':
      case 'noted':
        return { outcome: reply[0] };
      default:
        return { outcome: 'unknown' };
    }
  },
});

export type Configured =
  | Unknown
  | { outcome: 'stale'; version: number }
  | { outcome: 'created'; epoch: number }
  | { outcome: 'configured' };

export const configure = script({
  name: 'room.configure',
  keys: [
    'room',
    'line',
    'parked',
    'withheld',
    'promoted',
    'active',
    'places',
    'finished',
    'here',
    'entries',
    'snapshot',
  ],
  args: ['nowMs', 'version', 'settings', 'create'],
  outcomes: ['unknown', 'stale', 'created', 'configured'],
  read: (reply): Configured => {
    switch (reply[0]) {
      case 'stale':
        return { outcome: 'stale', version: count(reply, 1) };
      case 'created':
        return { outcome: 'created', epoch: count(reply, 1) };
      case 'configured':
        return { outcome: 'configured' };
      default:
        return { outcome: 'unknown' };
    }
  },
});

export type Closed =
  | Unknown
  | { outcome: 'running' | 'over' | 'closed' }
  | { outcome: 'emptying'; inside: number };

export const close = script({
  name: 'room.close',
  keys: [
    'room',
    'line',
    'parked',
    'withheld',
    'promoted',
    'active',
    'places',
    'finished',
    'here',
    'entries',
    'joins',
  ],
  args: ['nowMs'],
  outcomes: ['unknown', 'running', 'emptying', 'over', 'closed'],
  read: (reply): Closed => {
    switch (reply[0]) {
      case 'running':
      case 'over':
      case 'closed':
        return { outcome: reply[0] };
      case 'emptying':
        return { outcome: 'emptying', inside: count(reply, 1) };
      default:
        return { outcome: 'unknown' };
    }
  },
});

export const notice = script({
  name: 'room.notice',
  keys: ['room', 'entries'],
  args: ['nowMs', 'noticeId', 'text', 'level'],
  outcomes: ['unknown', 'noticed'],
  read: (reply): { outcome: 'unknown' | 'noticed' } => ({
    outcome: reply[0] === 'noticed' ? 'noticed' : 'unknown',
  }),
});

/** What `measure` counted, as it came: `composeSnapshot` makes a snapshot of it. */
export type Measured = {
  outcome: 'measured';
  atMs: number;
  /** The fields of the room's hash. */
  room: ReadonlyMap<string, string>;
  waiting: number;
  parked: number;
  withheld: number;
  promoted: number;
  active: number;
  /** Scores from the head of the line on, ascending. */
  listed: readonly number[];
  /** Scores of the parked places among those listed, ascending; the last ones when there are too many. */
  between: readonly number[];
  /** Parked places before all of these. */
  parkedBefore: number;
  /** For the first listed, who stand before all of `between`: parked places before each. */
  parkedAt: readonly number[];
  /** How many places, waiting or parked, stand before each of the scores that were asked for. */
  ranks: readonly number[];
  nearScore: string;
};

const scoresAt = (reply: Reply, index: number): number[] =>
  reply[index] === '' ? [] : String(reply[index]).split(' ').map(Number);
const numbersAt = (reply: Reply, index: number): number[] => idsAt(reply, index).map(Number);
const fieldsAt = (reply: Reply, index: number): Map<string, string> => {
  const flat = idsAt(reply, index);
  const fields = new Map<string, string>();
  for (let at = 0; at + 1 < flat.length; at += 2) fields.set(flat[at]!, flat[at + 1]!);
  return fields;
};

export const measure = script({
  name: 'room.measure',
  keys: ['room', 'line', 'parked', 'withheld', 'promoted', 'active'],
  args: ['nowMs', 'freshMs', 'listMin', 'listMax', 'listedTo', '...scores'],
  outcomes: ['unknown', 'fresh', 'measured'],
  read: (reply): Unknown | { outcome: 'fresh' } | Measured =>
    reply[0] === 'measured'
      ? {
          outcome: 'measured',
          atMs: count(reply, 1),
          room: fieldsAt(reply, 2),
          waiting: count(reply, 3),
          parked: count(reply, 4),
          withheld: count(reply, 5),
          promoted: count(reply, 6),
          active: count(reply, 7),
          listed: scoresAt(reply, 8),
          between: scoresAt(reply, 9).reverse(),
          parkedBefore: count(reply, 10),
          parkedAt: numbersAt(reply, 11),
          ranks: numbersAt(reply, 12),
          nearScore: String(reply[13]),
        }
      : { outcome: reply[0] === 'fresh' ? 'fresh' : 'unknown' },
});

export const snapshot = script({
  name: 'room.snapshot',
  keys: ['room', 'snapshot'],
  args: ['epoch', 'basedOnMs', 'atMs', 'pace', 'nearScore', 'json'],
  outcomes: ['unknown', 'superseded', 'kept'],
  read: (reply): { outcome: 'unknown' | 'superseded' | 'kept' } => {
    const word = reply[0];
    return { outcome: word === 'kept' || word === 'superseded' ? word : 'unknown' };
  },
});

export const calibrate = script({
  name: 'room.calibrate',
  keys: ['room'],
  args: ['seenTotal', 'p50Factor', 'p90Factor', 'right', 'total'],
  outcomes: ['unknown', 'stale', 'calibrated'],
  read: (reply): Unknown | { outcome: 'stale'; total: number } | { outcome: 'calibrated' } => {
    switch (reply[0]) {
      case 'stale':
        return { outcome: 'stale', total: count(reply, 1) };
      case 'calibrated':
        return { outcome: 'calibrated' };
      default:
        return { outcome: 'unknown' };
    }
  },
});
