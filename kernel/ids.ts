// The identities everyone shares, branded so that a bare string is never taken for one of them.
// Parsing happens once, at the edge; inside, the type is the proof. Every parser answers undefined for
// anything that is not exactly in form, and never throws.

declare const brand: unique symbol;
type Branded<T, Name extends string> = T & { readonly [brand]: Name };

/** 1–32 of a–z, 0–9 and `-`, not beginning or ending with `-`. Appears in keys, paths, cookies and labels. */
export type RoomId = Branded<string, 'RoomId'>;
/** 16 characters of base64url: the first 96 bits of an HMAC over room, sale and visitor. */
export type PlaceId = Branded<string, 'PlaceId'>;
/** `a:` + 22 characters (anonymous cookie) or `u:` + 43 characters (hash of a verified `sub`). Never personal. */
export type VisitorId = Branded<string, 'VisitorId'>;
/** What is sold: 1–64 of a–z, 0–9 and `-`. */
export type EventId = Branded<string, 'EventId'>;

const ROOM = /^[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?$/;
const PLACE = /^[A-Za-z0-9_-]{16}$/;
const VISITOR = /^(?:a:[A-Za-z0-9_-]{22}|u:[A-Za-z0-9_-]{43})$/;
const EVENT = /^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$/;

// Each cast below follows a full match of the form the brand stands for.
export const parseRoomId = (text: unknown): RoomId | undefined =>
  typeof text === 'string' && ROOM.test(text) ? (text as RoomId) : undefined;
export const parsePlaceId = (text: unknown): PlaceId | undefined =>
  typeof text === 'string' && PLACE.test(text) ? (text as PlaceId) : undefined;
export const parseVisitorId = (text: unknown): VisitorId | undefined =>
  typeof text === 'string' && VISITOR.test(text) ? (text as VisitorId) : undefined;
export const parseEventId = (text: unknown): EventId | undefined =>
  typeof text === 'string' && EVENT.test(text) ? (text as EventId) : undefined;

/** For logs: enough to follow one visitor through a minute of lines, not enough to use anywhere. */
export const shortened = (id: string): string => (id.length <= 6 ? id : `${id.slice(0, 6)}…`);
