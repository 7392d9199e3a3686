// What the gateway tells an origin about the visitor of a request: one signed header. An origin trusts only what
// verifies, and only for a minute. It is signed with a key of the guarding room alone, so that an origin which is not
// ours can be given that key (`npm run keys -- context <room>`) and learns nothing with which to speak for another
// room, or to make a session. Who checks by that key: client/origin.js; who by the master keys: booking-core.
// Empty place means: let through without a session (a room without a line, one's own orders, payment webhooks);
// empty room as well: no room guards the address.

import {
  type PlaceId,
  parsePlaceId,
  parseRoomId,
  parseVisitorId,
  type RoomId,
  type VisitorId,
} from '../kernel/ids.ts';
import type { Field, Tokens } from '../kernel/token.ts';

export type Visit = { room: RoomId; placeId: PlaceId; number: number; sale: number };
export type Context = {
  visitorId: VisitorId;
  /** The visit that the session belongs to; undefined when the request passed without one. */
  visit?: Visit;
  /** The room that let the request pass without a session. */
  room?: RoomId;
};

export const contextHeader = 'anteroom-context';
/** Between the contexts of one who has sessions in several rooms; only booking-core is ever told of more than one. */
export const CONTEXT_SEPARATOR = ',';
const LIFE_MS = 60_000;

export const signContext = (tokens: Tokens, context: Context, nowMs: number): string => {
  const { visitorId, visit } = context;
  const room = visit?.room ?? context.room ?? '';
  return tokens.sign(
    'context',
    [visitorId, room, visit?.placeId ?? '', visit?.number ?? 0, visit?.sale ?? 0, Math.floor(nowMs)],
    room,
  );
};

const roomTextOf = (fields: readonly Field[]): string => String(fields[1] ?? '');

export const readContext = (
  tokens: Tokens,
  header: string | undefined,
  nowMs: number,
): Context | undefined => {
  if (header === undefined) return undefined;
  const fields = tokens.verify('context', header, roomTextOf);
  if (fields === undefined) return undefined;
  const [visitor, roomText, placeText, number, sale, atMs] = fields;
  const visitorId = parseVisitorId(visitor);
  if (visitorId === undefined || typeof atMs !== 'number' || Math.abs(nowMs - atMs) > LIFE_MS)
    return undefined;
  const room = parseRoomId(roomText);
  if (room === undefined) return { visitorId };
  const placeId = parsePlaceId(placeText);
  if (placeId === undefined || typeof number !== 'number' || typeof sale !== 'number')
    return { visitorId, room };
  return { visitorId, visit: { room, placeId, number, sale } };
};

/** What an origin needs to check contexts of a room. Good for nothing else, and for no other room. */
export const contextKeys = (tokens: Tokens, room: RoomId): string => tokens.exportKeys('context', room);
