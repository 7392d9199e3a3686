// The records of a room's entry stream, as the scripts write them and as the roles read them.

import { type PlaceId, parsePlaceId } from '../kernel/ids.ts';

export type Visit = { placeId: PlaceId; number: number };
export type EntryRecord =
  | { kind: 'promoted'; atMs: number; deadlineMs: number; visits: Visit[]; parked: PlaceId[] }
  | { kind: 'missed'; atMs: number; visits: Visit[]; finished: Visit[] }
  | { kind: 'ended'; atMs: number; visits: Visit[]; reason: string }
  | { kind: 'left'; atMs: number; visits: Visit[]; state: string }
  | { kind: 'released'; atMs: number; places: PlaceId[] }
  | { kind: 'notice'; atMs: number; id: string; text: string; level: string }
  | { kind: 'settings'; atMs: number; version: number }
  | { kind: 'recovering'; atMs: number; untilMs: number };

const placesIn = (text: string | undefined): PlaceId[] =>
  (text ?? '')
    .split(',')
    .map(parsePlaceId)
    .filter((id): id is PlaceId => id !== undefined);

const visitsIn = (text: string | undefined): Visit[] => {
  const visits: Visit[] = [];
  for (const part of (text ?? '').split(',')) {
    const [place, number] = part.split(' ');
    const placeId = parsePlaceId(place);
    if (placeId !== undefined) visits.push({ placeId, number: Number(number) });
  }
  return visits;
};

/** One record from its flat fields; undefined for a kind this version does not know. */
export const parseEntry = (flat: readonly string[]): EntryRecord | undefined => {
  const fields = new Map<string, string>();
  for (let index = 0; index + 1 < flat.length; index += 2) fields.set(flat[index]!, flat[index + 1]!);
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
      return { kind, atMs, version: Number(fields.get('version')) };
    case 'recovering':
      return { kind, atMs, untilMs: Number(fields.get('untilMs')) };
    default:
      return undefined;
  }
};
