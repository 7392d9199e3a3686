// The proofs that a visitor keeps: the receipt of a place, the claim token that comes with "your turn", and the
// session. Each is a compact HMAC of its own kind. A withheld place's receipt looks the same and is signed with
// another key, so that its owner cannot tell and we still know.

import { type PlaceId, parsePlaceId, parseRoomId, type RoomId } from '../kernel/ids.ts';
import type { Field, Tokens } from '../kernel/token.ts';

export type Receipt = {
  room: RoomId;
  sale: number;
  placeId: PlaceId;
  number: number;
  score: number;
  epoch: number;
  withheld: boolean;
};
export type Session = {
  room: RoomId;
  sale: number;
  placeId: PlaceId;
  number: number;
  expiresAtMs: number;
  startedAtMs: number;
  epoch: number;
  /** Rises when the session goes to another browser or host; a cookie with a lower one admits nobody. */
  serial: number;
};
export type Claim = {
  room: RoomId;
  sale: number;
  placeId: PlaceId;
  number: number;
  deadlineMs: number;
  epoch: number;
};

export const signReceipt = (tokens: Tokens, r: Receipt): string =>
  tokens.sign(r.withheld ? 'receipt-withheld' : 'receipt', [
    r.room,
    r.sale,
    r.placeId,
    r.number,
    r.score,
    r.epoch,
  ]);
export const signSession = (tokens: Tokens, s: Session): string =>
  tokens.sign('session', [
    s.room,
    s.sale,
    s.placeId,
    s.number,
    s.expiresAtMs,
    s.startedAtMs,
    s.epoch,
    s.serial,
  ]);
/** The name of a session in passes, headers and the interface that ends it. */
export const sessionIdOf = (visit: { placeId: PlaceId; number: number }): string =>
  `${visit.placeId}.${visit.number}`;
export const parseSessionId = (text: string): { placeId: PlaceId; number: number } | undefined => {
  const [, place, number] = /^([^.]+)\.([1-9]\d{0,14})$/.exec(text) ?? [];
  const placeId = parsePlaceId(place);
  return placeId === undefined ? undefined : { placeId, number: Number(number) };
};
export const signClaim = (tokens: Tokens, c: Claim): string =>
  tokens.sign('claim', [c.room, c.sale, c.placeId, c.number, c.deadlineMs, c.epoch]);

/** Room, sale, placeId and number stand first in all three; the rest are whole numbers. */
const readVisit = (fields: Field[] | undefined, length: number) => {
  if (fields === undefined || fields.length !== length) return undefined;
  const [roomText, sale, placeText, number, ...rest] = fields;
  const room = parseRoomId(roomText);
  const placeId = parsePlaceId(placeText);
  if (room === undefined || placeId === undefined || typeof sale !== 'number' || typeof number !== 'number')
    return undefined;
  const numbers = rest.filter((field): field is number => typeof field === 'number');
  return numbers.length === rest.length ? { room, sale, placeId, number, rest: numbers } : undefined;
};

export const readReceipt = (tokens: Tokens, text: string): Receipt | undefined => {
  const honest = tokens.verify('receipt', text);
  const read = readVisit(honest ?? tokens.verify('receipt-withheld', text), 6);
  if (read === undefined) return undefined;
  const { rest, ...visit } = read;
  return { ...visit, score: rest[0]!, epoch: rest[1]!, withheld: honest === undefined };
};
export const readSession = (tokens: Tokens, text: string): Session | undefined => {
  const read = readVisit(tokens.verify('session', text), 8);
  if (read === undefined) return undefined;
  const { rest, ...visit } = read;
  return { ...visit, expiresAtMs: rest[0]!, startedAtMs: rest[1]!, epoch: rest[2]!, serial: rest[3]! };
};
export const readClaim = (tokens: Tokens, text: string): Claim | undefined => {
  const read = readVisit(tokens.verify('claim', text), 6);
  if (read === undefined) return undefined;
  const { rest, ...visit } = read;
  return { ...visit, deadlineMs: rest[0]!, epoch: rest[1]! };
};
