// Reading what a client sent, once, at the edge. Everything wrong with it becomes a refusal that names the field;
// inside, the types are the proof.

import { Refusal } from '../kernel/errors.ts';
import type { Request } from '../kernel/http.ts';
import { parseEventId, type VisitorId } from '../kernel/ids.ts';
import type { Tokens } from '../kernel/token.ts';
import { CONTEXT_SEPARATOR, type Context, contextHeader, readContext, type Visit } from '../line/context.ts';
import { eventOfHold, type Wish } from './holds.ts';
import { type Inventory, offsetOf, type SaleEvent, sectionOf } from './inventory.ts';

const KEY = /^[A-Za-z0-9_-]{8,64}$/;
const TOKEN = /^[A-Za-z0-9_:.-]{1,64}$/;
const SEATS_MAX = 100;

const badField = (detail: string): Refusal => new Refusal('bad-field', { detail });

/** A JSON object with no other fields than `names`. */
export const readBody = (request: Request, names: readonly string[]): Record<string, unknown> => {
  if (!/^application\/json(?:\s*;|$)/i.test(request.header('content-type') ?? ''))
    throw new Refusal('wrong-type');
  let value: unknown;
  try {
    value = JSON.parse(request.body.toString('utf8'));
  } catch {
    // The parser's own words quote the body, which is nobody's business but the sender's.
    throw new Refusal('bad-json');
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new Refusal('bad-json');
  const fields = value as Record<string, unknown>; // An object that is no array, just checked.
  for (const name of Object.keys(fields))
    if (!names.includes(name))
      throw badField(`only ${names.map((known) => `\`${known}\``).join(', ')} are known`);
  return fields;
};

export const readKey = (key: string | undefined): string => {
  if (key === undefined || !KEY.test(key)) throw new Refusal('idempotency-key-missing');
  return key;
};

/**
 * Who asks, as the gateway signed it; nothing else is believed. Several where somebody has sessions in several rooms
 * and asks for what no room guards.
 */
const readContexts = (tokens: Tokens, request: Request): Context[] => {
  const nowMs = Date.now();
  return (request.header(contextHeader) ?? '').split(CONTEXT_SEPARATOR).map((text) => {
    const context = readContext(tokens, text, nowMs);
    if (context === undefined) throw new Refusal('token-invalid');
    return context;
  });
};

/** Everybody whom the asker is, for what is theirs. */
export const readVisitors = (tokens: Tokens, request: Request): VisitorId[] => [
  ...new Set(readContexts(tokens, request).map(({ visitorId }) => visitorId)),
];

export type Inside = { visitorId: VisitorId; visit: Visit };

/** The sessions the asker has, at least one, for what only someone inside may do. */
export const readInside = (tokens: Tokens, request: Request): Inside[] => {
  const inside = readContexts(tokens, request).flatMap(({ visitorId, visit }) =>
    visit === undefined ? [] : [{ visitorId, visit }],
  );
  if (inside.length === 0) throw new Refusal('session-required');
  return inside;
};

/** The one of the room that sells the event: a session of another room has waited in another line. */
export const insideFor = (inside: readonly Inside[], event: SaleEvent): Inside => {
  const one = inside.find(({ visit }) => visit.room === event.room);
  if (one === undefined)
    throw new Refusal('session-other-room', {
      extra: { room: event.room, join: `/v1/rooms/${event.room}/places` },
    });
  return one;
};

export const findEvent = async (inventory: Inventory, id: string | undefined): Promise<SaleEvent> => {
  const eventId = parseEventId(id);
  if (eventId === undefined) throw new Refusal('bad-id');
  const event = await inventory.find(eventId);
  if (event === undefined) throw new Refusal('event-unknown');
  return event;
};

/** The event of a hold, by the hold's id. */
export const findEventOfHold = async (inventory: Inventory, holdId: string): Promise<SaleEvent> => {
  const eventId = eventOfHold(holdId);
  const event = eventId === undefined ? undefined : await inventory.find(eventId);
  if (event === undefined) throw new Refusal('hold-missing');
  return event;
};

/** `{section, seats: ['C12', …]}` or `{section, count}`. */
export const readWish = (event: SaleEvent, fields: Record<string, unknown>): Wish => {
  const section = sectionOf(event, String(fields.section ?? ''));
  if (section === undefined) throw badField('`section` is not one of this event');
  const { seats, count } = fields;
  if ((seats === undefined) === (count === undefined)) throw badField('send either `seats` or `count`');
  if (seats === undefined) {
    if (!Number.isInteger(count) || Number(count) < 1 || Number(count) > SEATS_MAX)
      throw badField(`\`count\` is a whole number from 1 to ${SEATS_MAX}`);
    return { section, count: Number(count) };
  }
  if (!Array.isArray(seats) || seats.length < 1 || seats.length > SEATS_MAX)
    throw badField(`\`seats\` is a list of 1 to ${SEATS_MAX} seats`);
  const offsets = seats.map((label) => (typeof label === 'string' ? offsetOf(section, label) : undefined));
  const known = offsets.filter((offset) => offset !== undefined);
  if (known.length !== offsets.length) throw badField('`seats` has a seat that is not in this section');
  if (new Set(known).size !== known.length) throw badField('`seats` names a seat twice');
  return { section, offsets: known };
};

/** `{method: 'card', token}`: what the provider's own form gave, never a card number. */
export const readPayment = (payment: unknown): string => {
  if (typeof payment !== 'object' || payment === null) throw badField('`payment` is an object');
  const { method, token, ...rest } = payment as Record<string, unknown>; // An object, just checked.
  if (Object.keys(rest).length > 0 || method !== 'card')
    throw badField('`payment` has `method: "card"` and `token`');
  if (typeof token !== 'string' || !TOKEN.test(token))
    throw badField('`payment.token` is what the provider gave');
  return token;
};
