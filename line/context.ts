// What the gateway tells an origin about the visitor of a proxied request: one signed header. An origin trusts
// only what verifies, and only for a minute. Empty room and place mean: a request let through without a session
// (one's own orders, payment webhooks).

import {
  type PlaceId,
  parsePlaceId,
  parseRoomId,
  parseVisitorId,
  type RoomId,
  type VisitorId,
} from '../kernel/ids.ts';
import type { Tokens } from '../kernel/token.ts';

export type Context = {
  visitorId: VisitorId;
  /** The visit that the session belongs to; undefined when the request passed without one. */
  visit?: { room: RoomId; placeId: PlaceId; number: number; sale: number };
};

export const contextHeader = 'anteroom-context';
const LIFE_MS = 60_000;

export const signContext = (tokens: Tokens, context: Context, nowMs: number): string => {
  const { visitorId, visit } = context;
  return tokens.sign('context', [
    visitorId,
    visit?.room ?? '',
    visit?.placeId ?? '',
    visit?.number ?? 0,
    visit?.sale ?? 0,
    Math.floor(nowMs),
  ]);
};

export const readContext = (
  tokens: Tokens,
  header: string | undefined,
  nowMs: number,
): Context | undefined => {
  if (header === undefined) return undefined;
  const fields = tokens.verify('context', header);
  if (fields === undefined) return undefined;
  const [visitor, roomText, placeText, number, sale, atMs] = fields;
  const visitorId = parseVisitorId(visitor);
  if (visitorId === undefined || typeof atMs !== 'number' || Math.abs(nowMs - atMs) > LIFE_MS)
    return undefined;
  const room = parseRoomId(roomText);
  const placeId = parsePlaceId(placeText);
  if (room === undefined || placeId === undefined || typeof number !== 'number' || typeof sale !== 'number')
    return { visitorId };
  return { visitorId, visit: { room, placeId, number, sale } };
};
