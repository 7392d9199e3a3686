// The proofs that a visitor keeps: the receipt of a place, the claim token that comes with "your turn", and the
// session. Each is a compact HMAC of its own kind. A withheld place's receipt looks the same and is signed with
// another key, so that its owner cannot tell and we still know.

import {
  type PlaceId,
  parsePlaceId,
  parseRoomId,
  parseVisitorId,
  type RoomId,
  type VisitorId,
} from '../kernel/ids.ts';
import type { Field, Tokens } from '../kernel/token.ts';

/**
 * Where a page shows its receipt when cookies of ours do not come along: pages of another site, browsers that take no
 * cookies. Never in an address, because addresses are logged.
 */
export const RECEIPT_HEADER = 'place-receipt';

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
  /** Who claimed it. Whatever else a request shows, behind the gate it is this visitor's. */
  visitorId: VisitorId;
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
    s.visitorId,
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

/** Room, sale, placeId and number stand first in all three; whole numbers follow, in a session also its visitor. */
type Visit6 = [room: RoomId, sale: number, placeId: PlaceId, number: number, number, number];
type Visit9 = [...Visit6, number, number, visitor: VisitorId];
// Checked where they are: requests by the thousand pay for every list that is taken apart and made anew.
const isVisit = <V extends Visit6 | Visit9>(
  fields: Field[] | undefined,
  length: V['length'],
): fields is V => {
  if (fields === undefined || fields.length !== length) return false;
  const numbers = Math.min(length, 8);
  for (let index = 1; index < numbers; index += 1)
    if (index !== 2 && typeof fields[index] !== 'number') return false;
  if (length === 9 && parseVisitorId(fields[8]) === undefined) return false;
  return parseRoomId(fields[0]) !== undefined && parsePlaceId(fields[2]) !== undefined;
};

/**
 * Whether a receipt, true or forged, is of this place: said of its text alone, for a tenth of the price of reading it.
 * (RFC 4648: base64 writes three bytes at a time. The one or two that are left over are behind the id.)
 */
export const claimsPlace = (
  text: string,
  { room, sale, placeId }: { room: RoomId; sale: number; placeId: PlaceId },
): boolean => {
  const start = `["${room}",${sale},"${placeId}",`;
  const whole = Buffer.from(start, 'latin1').toString('base64url', 0, start.length - (start.length % 3));
  return text.startsWith(whole, text.indexOf('.') + 1);
};

export const readReceipt = (tokens: Tokens, text: string): Receipt | undefined => {
  const honest = tokens.verify('receipt', text);
  const read = honest ?? tokens.verify('receipt-withheld', text);
  if (!isVisit<Visit6>(read, 6)) return undefined;
  const [room, sale, placeId, number, score, epoch] = read;
  return { room, sale, placeId, number, score, epoch, withheld: honest === undefined };
};
export const readSession = (tokens: Tokens, text: string): Session | undefined => {
  const read = tokens.verify('session', text);
  if (!isVisit<Visit9>(read, 9)) return undefined;
  const [room, sale, placeId, number, expiresAtMs, startedAtMs, epoch, serial, visitorId] = read;
  return { room, sale, placeId, number, expiresAtMs, startedAtMs, epoch, serial, visitorId };
};
export const readClaim = (tokens: Tokens, text: string): Claim | undefined => {
  const read = tokens.verify('claim', text);
  if (!isVisit<Visit6>(read, 6)) return undefined;
  const [room, sale, placeId, number, deadlineMs, epoch] = read;
  return { room, sale, placeId, number, deadlineMs, epoch };
};
