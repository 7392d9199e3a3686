// The records of a room's entry stream, as the scripts write them and as the roles read them.

import { type PlaceId, parsePlaceId } from '../kernel/ids.ts';

/** A visit; `score` is there where it is not the number (a draw). */
export type Visit = { placeId: PlaceId; number: number; score?: number };
/** The limits that hold from a record on, so that a reader of the stream alone can recompute admission. */
export type Limits = {
  newUsersPerMinute: number;
  effectiveBurst: number;
  totalActiveUsers: number;
  sale: number;
  queueingMethod: string;
};
/**
 * Why Redis's data is another than before. `restart` and `failover`: the last second may be missing; `older`: more may
 * be, it was restored from somewhere; `lost`: nothing was there, and the room was made again.
 */
export const recoveryReasons = ['restart', 'failover', 'older', 'lost'] as const;
export type RecoveryReason = (typeof recoveryReasons)[number];
/** A reason that is missing, or of a newer version: anything may be missing, and nothing is known to be gone. */
export const recoveryReasonOf = (text: unknown): RecoveryReason =>
  recoveryReasons.find((reason) => reason === text) ?? 'older';

export type EntryRecord =
  | {
      kind: 'promoted';
      atMs: number;
      deadlineMs: number;
      visits: Visit[];
      parked: PlaceId[];
      limits: Omit<Limits, 'sale'>;
    }
  | { kind: 'missed'; atMs: number; visits: Visit[]; finished: Visit[] }
  | { kind: 'ended'; atMs: number; visits: Visit[]; reason: string }
  | { kind: 'left'; atMs: number; visits: Visit[]; state: string }
  | { kind: 'released'; atMs: number; places: PlaceId[] }
  | { kind: 'notice'; atMs: number; id: string; text: string; level: string }
  /** `isNewSale`: the sale number was raised, and nobody of the old sale has a place. */
  | { kind: 'settings'; atMs: number; version: number; isNewSale: boolean; limits: Limits }
  | {
      kind: 'recovering';
      reason: RecoveryReason;
      atMs: number;
      untilMs: number;
      head: number;
      limits: Limits;
    }
  /** A session signed before Redis lost its data was taken back. */
  | { kind: 'adopted'; atMs: number; visits: Visit[] }
  /** A session was given to another browser of its visitor: cookies with a lower serial are worth nothing. */
  | { kind: 'superseded'; atMs: number; visits: Visit[]; serial: number }
  /** Redis's clock went back: time is counted from `atMs` again. */
  | { kind: 'clock'; atMs: number; wasMs: number }
  /** The sale is over and the line is gone. */
  | { kind: 'over'; atMs: number };

/** A list of places as the scripts write it: `placeId,placeId`. */
export const placesIn = (text: string | undefined): PlaceId[] =>
  (text ?? '')
    .split(',')
    .map(parsePlaceId)
    .filter((id): id is PlaceId => id !== undefined);

/** A list of visits as the scripts write it: `placeId number[ score],…`. Anything else in it is left out. */
export const visitsIn = (text: string | undefined): Visit[] => {
  const visits: Visit[] = [];
  for (const part of (text ?? '').split(',')) {
    const [place, number, score] = part.split(' ');
    const placeId = parsePlaceId(place);
    if (placeId === undefined) continue;
    visits.push({
      placeId,
      number: Number(number),
      ...(score === undefined ? {} : { score: Number(score) }),
    });
  }
  return visits;
};

const limitsIn = (fields: ReadonlyMap<string, string>): Limits => ({
  newUsersPerMinute: Number(fields.get('newUsersPerMinute')),
  effectiveBurst: Number(fields.get('effectiveBurst')),
  totalActiveUsers: Number(fields.get('totalActiveUsers')),
  sale: Number(fields.get('sale')),
  queueingMethod: fields.get('queueingMethod') ?? 'fifo',
});

/** The fields of a stream record, which Redis answers as names and values in turn. */
export const fieldsOf = (flat: readonly string[]): Map<string, string> => {
  const fields = new Map<string, string>();
  for (let index = 0; index + 1 < flat.length; index += 2) fields.set(flat[index]!, flat[index + 1]!);
  return fields;
};

/** One record from its flat fields; undefined for a kind this version does not know. */
export const parseEntry = (flat: readonly string[]): EntryRecord | undefined => {
  const fields = fieldsOf(flat);
  const atMs = Number(fields.get('atMs'));
  const kind = fields.get('kind');
  const visits = visitsIn(fields.get('visits'));
  switch (kind) {
    case 'promoted':
      return {
        kind,
        atMs,
        deadlineMs: Number(fields.get('deadlineMs')),
        visits,
        parked: placesIn(fields.get('parked')),
        limits: limitsIn(fields),
      };
    case 'missed':
      return { kind, atMs, visits, finished: visitsIn(fields.get('finished')) };
    case 'ended':
      return { kind, atMs, visits, reason: fields.get('reason') ?? '' };
    case 'left':
      return { kind, atMs, visits, state: fields.get('state') ?? '' };
    case 'released':
      return { kind, atMs, places: placesIn(fields.get('places')) };
    case 'notice':
      return {
        kind,
        atMs,
        id: fields.get('noticeId') ?? '',
        text: fields.get('text') ?? '',
        level: fields.get('level') ?? '',
      };
    case 'settings':
      return {
        kind,
        atMs,
        version: Number(fields.get('version')),
        isNewSale: fields.get('isNewSale') === '1',
        limits: limitsIn(fields),
      };
    case 'recovering':
      return {
        kind,
        reason: recoveryReasonOf(fields.get('reason')),
        atMs,
        untilMs: Number(fields.get('untilMs')),
        head: Number(fields.get('head')),
        limits: limitsIn(fields),
      };
    case 'adopted':
      return { kind, atMs, visits };
    case 'superseded':
      return { kind, atMs, visits, serial: Number(fields.get('serial')) };
    case 'clock':
      return { kind, atMs, wasMs: Number(fields.get('wasMs')) };
    case 'over':
      return { kind, atMs };
    default:
      return undefined;
  }
};
