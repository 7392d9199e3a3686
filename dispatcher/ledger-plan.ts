// How the records of two streams become the rows of one ledger. Pure: what was read goes in, rows come out.
//
// Joins and entries are separate streams, and Redis gives them no common order. This one is used: an entry comes
// after every join that is not younger than it (by `atMs`), and after every join whose number is not above the
// numbers it names. The first is what people expect to see; the second holds even when Redis's clock was set back,
// because numbers are given in order: nobody is ever promoted before the row of their join. Whole sales stay
// together: the joins of a sale come before the settings that end it and after those that begin it.

import type { EntryRecord, Limits, Visit } from '../line/entries.ts';
import type { LedgerEvent, LedgerVisit } from '../line/ledger.ts';

export type JoinRecord = {
  kind: 'joined' | 'restored';
  atMs: number;
  sale: number;
  visits: LedgerVisit[];
  withheld: string[];
};
export type Read<R> = { id: string; record: R };

/** A record that this version does not know is undefined; its cursor moves on all the same. */
export type Step =
  | { from: 'joins'; id: string; record: JoinRecord | undefined }
  | { from: 'entries'; id: string; record: EntryRecord | undefined };

const saleOf = (record: EntryRecord | undefined): number | undefined =>
  record?.kind === 'settings' || record?.kind === 'recovering' ? record.limits.sale : undefined;

const highestNumberIn = (record: EntryRecord | undefined): number => {
  if (record === undefined || !('visits' in record)) return 0;
  let highest = 0;
  for (const { number } of record.visits) highest = Math.max(highest, number);
  if (record.kind === 'missed') for (const { number } of record.finished) highest = Math.max(highest, number);
  return highest;
};

const joinIsFirst = (
  join: JoinRecord | undefined,
  entry: EntryRecord | undefined,
  sale: number | undefined,
): boolean => {
  if (join === undefined) return true;
  if (entry === undefined) return false;
  // Redis was empty when it was written, so every join there is came later.
  if (entry.kind === 'recovering' && entry.reason === 'lost') return false;
  const next = saleOf(entry);
  if (join.sale !== sale) return false;
  if (next !== undefined && next !== sale) return true;
  if (join.atMs <= entry.atMs) return true;
  return join.kind === 'joined' && (join.visits[0]?.[1] ?? 0) <= highestNumberIn(entry);
};

/**
 * The records in the order of the ledger, as far as it is certain: a stream that was not read to its end may still
 * hold what comes first. `sale` is that of the ledger's end; undefined before the first row.
 */
export const mergeRecords = (options: {
  joins: readonly Read<JoinRecord | undefined>[];
  entries: readonly Read<EntryRecord | undefined>[];
  joinsAreAll: boolean;
  entriesAreAll: boolean;
  sale: number | undefined;
}): Step[] => {
  const { joins, entries, joinsAreAll, entriesAreAll } = options;
  const steps: Step[] = [];
  let sale = options.sale;
  for (let j = 0, e = 0; ; ) {
    const join = joins[j];
    const entry = entries[e];
    if ((join === undefined && !joinsAreAll) || (entry === undefined && !entriesAreAll)) return steps;
    if (join !== undefined && (entry === undefined || joinIsFirst(join.record, entry.record, sale))) {
      steps.push({ from: 'joins', ...join });
      sale = join.record?.sale ?? sale;
      j += 1;
    } else if (entry !== undefined) {
      steps.push({ from: 'entries', ...entry });
      sale = saleOf(entry.record) ?? sale;
      e += 1;
    } else return steps;
  }
};

const visitOf = ({ placeId, number, score }: Visit): LedgerVisit =>
  score === undefined ? [placeId, number] : [placeId, number, score];
const some = <T>(list: readonly T[]): T[] | undefined => (list.length > 0 ? [...list] : undefined);
const areWhole = (limits: Limits): boolean =>
  Number.isSafeInteger(
    limits.newUsersPerMinute + limits.effectiveBurst + limits.totalActiveUsers + limits.sale,
  );

/** The sale a step belongs to, when its record says so. */
export const saleOfStep = (step: Step): number | undefined =>
  step.from === 'joins' ? step.record?.sale : saleOf(step.record);

/** The row of a record; undefined for one that says nothing of order, rate or cap. */
export const eventOf = (step: Step): LedgerEvent | undefined => {
  if (step.record === undefined) return undefined;
  if (step.from === 'joins') {
    const { kind, atMs, visits, withheld } = step.record;
    const held = some(withheld);
    return { kind, atMs, visits, ...(held === undefined ? {} : { withheld: held }) };
  }
  const { record } = step;
  const { atMs } = record;
  switch (record.kind) {
    case 'promoted': {
      const parked = some(record.parked);
      const { kind, deadlineMs } = record;
      return { kind, atMs, deadlineMs, visits: record.visits.map(visitOf), ...(parked ? { parked } : {}) };
    }
    case 'missed': {
      const finished = some(record.finished.map(visitOf));
      return { kind: 'missed', atMs, visits: record.visits.map(visitOf), ...(finished ? { finished } : {}) };
    }
    case 'ended':
      return { kind: 'ended', atMs, visits: record.visits.map(visitOf), reason: record.reason };
    case 'left':
      return { kind: 'left', atMs, visits: record.visits.map(visitOf), state: record.state };
    case 'released':
      return { kind: 'released', atMs, places: record.places };
    case 'adopted':
      return { kind: 'adopted', atMs, visits: record.visits.map(visitOf) };
    case 'settings':
      // A record of an older version without its limits: the ledger says how things stand when it has caught up.
      if (!areWhole(record.limits)) return undefined;
      return { kind: 'settings', atMs, version: record.version, limits: record.limits };
    case 'recovering':
      if (!areWhole(record.limits)) return undefined;
      return {
        ...{ kind: 'recovering', atMs, reason: record.reason },
        ...{ untilMs: record.untilMs, limits: record.limits },
      };
    case 'over':
      return { kind: 'over', atMs };
    case 'clock':
      return { kind: 'clock', atMs, wasMs: record.wasMs };
    case 'notice':
    case 'superseded':
      return undefined;
  }
};
