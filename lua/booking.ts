// Bindings of lua/booking: the life of a hold, written once. `held` → `ordered` (an order exists or is being
// written) → `confirmed`; `held` also ends as `released` (by its visitor) or `expired`, `ordered` as `expired` or
// back to `held`, and a refund turns `confirmed` into `refunded`. Seats are free, held or sold exactly as the entries of
// their holds say; nothing else changes a map, except load and repair from PostgreSQL.

import type { EventId, VisitorId } from '../kernel/ids.ts';
import { bookingKey } from '../kernel/keys.ts';
import { type Reply, script } from './script.ts';

export const holdStates = ['held', 'ordered', 'confirmed', 'released', 'expired', 'refunded'] as const;
/** `unknown`: a newer version knows what it means; here nothing is done about it. */
export type HoldState = (typeof holdStates)[number] | 'unknown';

/** The fence is (epoch, number): what acts on a hold later must show both. */
export type Hold = {
  state: HoldState;
  epoch: number;
  number: number;
  visitorId: VisitorId;
  section: string;
  /** By Redis's clock; counts while the state is `held`. */
  expiresAtMs: number;
  /** Says what was asked for, so that the same id with another wish is a conflict. */
  request: string;
  /** Places of the seats in the section's map, ascending from 0, row separators counted. */
  offsets: number[];
  /** The id of the session that holds (line/receipt.ts); empty where it is an order that does. */
  visit: string;
  /** The version of the event's sale, its prices first of all, that the visitor was shown. */
  saleVersion: number;
};

const stateOf = (word: unknown): HoldState => holdStates.find((known) => known === word) ?? 'unknown';

/** `state|epoch|number|visitor|section|expiresAtMs|request|offset,offset|visit|saleVersion` as the scripts read and write it. */
export const parseHold = (entry: string): Hold => {
  const [state, epoch, number, visitor, section, expiresAtMs, request, offsets, visit, sale] =
    entry.split('|');
  return {
    state: stateOf(state),
    epoch: Number(epoch),
    number: Number(number),
    visitorId: visitor as VisitorId, // Written by hold.lua from a VisitorId.
    section: section ?? '',
    expiresAtMs: Number(expiresAtMs),
    request: request ?? '',
    offsets: (offsets ?? '').split(',').filter(Boolean).map(Number),
    visit: visit ?? '',
    saleVersion: Number(sale ?? 1), // None in an entry from before there were versions.
  };
};
export const formatHold = (hold: Hold): string =>
  [
    hold.state,
    hold.epoch,
    hold.number,
    hold.visitorId,
    hold.section,
    hold.expiresAtMs,
    hold.request,
    hold.offsets.join(','),
    hold.visit,
    hold.saleVersion,
  ].join('|');

export const bookingKeys = (event: EventId) => ({
  seats: bookingKey(event, 'seats'),
  holds: bookingKey(event, 'holds'),
  expiries: bookingKey(event, 'expiries'),
  holders: bookingKey(event, 'holders'),
  pace: bookingKey(event, 'pace'),
});

const ALL = ['seats', 'holds', 'expiries', 'holders'] as const;
const PACED = [...ALL, 'pace'] as const;
const THREE = ['seats', 'holds', 'expiries'] as const;
/** A word of `words`: script.ts has checked that the reply is one of the outcomes. */
const wordOf = <W extends string>(reply: Reply): { outcome: W } => ({ outcome: reply[0] as W });
const entryOf = (reply: Reply): Hold => parseHold(String(reply[1]));

type Held =
  | { outcome: 'cooling'; retryAfterMs: number }
  | { outcome: 'rebuilding' | 'conflict' | 'unknown' | 'limit' | 'taken' | 'none' }
  | { outcome: 'ended'; state: HoldState }
  | { outcome: 'held' | 'repeated'; hold: Hold };

export const hold = script({
  name: 'booking.hold',
  keys: PACED,
  args: [
    'nowMs',
    'holdId',
    'visitor',
    'visit',
    'saleVersion',
    'request',
    'section',
    'limit',
    'ttlMs',
    'paceMs',
    'paceBurst',
    'count',
    'together',
    '...offsets',
  ],
  outcomes: [
    'rebuilding',
    'conflict',
    'ended',
    'repeated',
    'unknown',
    'limit',
    'cooling',
    'taken',
    'none',
    'held',
  ],
  read: (reply): Held => {
    switch (reply[0]) {
      case 'held':
      case 'repeated':
        return { outcome: reply[0], hold: entryOf(reply) };
      case 'ended':
        return { outcome: 'ended', state: stateOf(reply[1]) };
      case 'cooling':
        return { outcome: 'cooling', retryAfterMs: Number(reply[1]) };
      default:
        return wordOf<'rebuilding' | 'conflict' | 'unknown' | 'limit' | 'taken' | 'none'>(reply);
    }
  },
});

type Ordered =
  | { outcome: 'rebuilding' | 'missing' | 'foreign' | 'late' }
  | { outcome: 'ended'; state: HoldState }
  | { outcome: 'ordered'; hold: Hold };

export const order = script({
  name: 'booking.order',
  keys: THREE,
  args: ['nowMs', 'holdId', 'visitor', 'leaseMs'],
  outcomes: ['rebuilding', 'missing', 'foreign', 'ended', 'late', 'ordered'],
  read: (reply): Ordered => {
    switch (reply[0]) {
      case 'ordered':
        return { outcome: 'ordered', hold: entryOf(reply) };
      case 'ended':
        return { outcome: 'ended', state: stateOf(reply[1]) };
      default:
        return wordOf<'rebuilding' | 'missing' | 'foreign' | 'late'>(reply);
    }
  },
});

/** An ended hold says with which word it ended. */
type Ended<W extends string> = { outcome: W } | { outcome: 'ended'; state: HoldState };
const readEnded = <W extends string>(reply: Reply): Ended<W> =>
  reply[0] === 'ended' ? { outcome: 'ended', state: stateOf(reply[1]) } : wordOf<W>(reply);

export const reopen = script({
  name: 'booking.reopen',
  keys: THREE,
  args: ['holdId', 'epoch', 'number'],
  outcomes: ['rebuilding', 'missing', 'fenced', 'ended', 'held'],
  read: readEnded<'rebuilding' | 'missing' | 'fenced' | 'held'>,
});

export const confirm = script({
  name: 'booking.confirm',
  keys: THREE,
  args: ['holdId', 'epoch', 'number'],
  outcomes: ['rebuilding', 'missing', 'fenced', 'ended', 'confirmed'],
  read: readEnded<'rebuilding' | 'missing' | 'fenced' | 'confirmed'>,
});

/** `cause`: `visitor` (only a hold without an order), `order` (its order has ended unpaid) or `refund`. */
export const release = script({
  name: 'booking.release',
  keys: ALL,
  args: ['nowMs', 'holdId', 'visitor', 'epoch', 'number', 'cause', 'keepMs'],
  outcomes: ['rebuilding', 'missing', 'foreign', 'fenced', 'ended', 'ordered', 'released'],
  read: readEnded<'rebuilding' | 'missing' | 'foreign' | 'fenced' | 'ordered' | 'released'>,
});

type Expired =
  | { outcome: 'rebuilding' }
  | { outcome: 'expired'; count: number; more: boolean; ordered: string[] };

export const expire = script({
  name: 'booking.expire',
  keys: PACED,
  args: ['nowMs', 'expireMax', 'keepMs', 'leaseMs'],
  outcomes: ['rebuilding', 'expired'],
  read: (reply): Expired =>
    reply[0] === 'rebuilding'
      ? { outcome: 'rebuilding' }
      : {
          outcome: 'expired',
          count: Number(reply[1]),
          more: reply[2] === 1,
          ordered: reply.slice(3).map(String),
        },
});

/** `rest`: of `begin` section and map, of `part` hold id and entry, by turns. */
export const load = script({
  name: 'booking.load',
  keys: ALL,
  args: ['nowMs', 'phase', 'epoch', 'patienceMs', 'leaseMs', '...rest'],
  outcomes: ['stale', 'busy', 'free', 'begun', 'added', 'loaded'],
  read: wordOf<'stale' | 'busy' | 'free' | 'begun' | 'added' | 'loaded'>,
});

/** A flat list of pairs, as HGETALL gives inside a script. */
const pairsOf = (value: unknown): Map<string, string> => {
  const pairs = new Map<string, string>();
  if (Array.isArray(value))
    for (let i = 0; i + 1 < value.length; i += 2) pairs.set(String(value[i]), String(value[i + 1]));
  return pairs;
};

export type Audited = {
  outcome: 'audited';
  nowMs: number;
  epoch: string;
  version: string;
  maps: Map<string, string>;
  holds: Map<string, Hold>;
  holders: Map<string, number>;
};

export const mapsOf = (seats: ReadonlyMap<string, string>): Map<string, string> =>
  new Map(
    [...seats].flatMap(([field, map]): [string, string][] =>
      field.startsWith('m:') ? [[field.slice(2), map]] : [],
    ),
  );

export const audit = script({
  name: 'booking.audit',
  keys: ['seats', 'holds', 'holders'],
  args: ['nowMs'],
  outcomes: ['rebuilding', 'audited'],
  read: (reply): Audited | { outcome: 'rebuilding' } => {
    if (reply[0] === 'rebuilding') return { outcome: 'rebuilding' };
    const seats = pairsOf(reply[2]);
    return {
      outcome: 'audited',
      nowMs: Number(reply[1]),
      epoch: seats.get('epoch') ?? '',
      version: seats.get('version') ?? '',
      maps: mapsOf(seats),
      holds: new Map([...pairsOf(reply[3])].map(([id, entry]) => [id, parseHold(entry)])),
      holders: new Map([...pairsOf(reply[4])].map(([visitor, count]) => [visitor, Number(count)])),
    };
  },
});

export const repair = script({
  name: 'booking.repair',
  keys: ALL,
  args: ['nowMs', 'epoch', 'version', 'leaseMs', '...triples'],
  outcomes: ['rebuilding', 'changed', 'repaired'],
  read: wordOf<'rebuilding' | 'changed' | 'repaired'>,
});
