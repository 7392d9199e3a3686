// Holds: seats kept for one visitor for a while. They live in Redis and change only in lua/booking; what is here
// names the wish, chooses the hold's id and shows the result. A hold's id is derived from visitor, event and the
// client's key, so the same request gives the same hold, and nobody can name another visitor's.

import { createHash } from 'node:crypto';
import type { Config } from '../kernel/config.ts';
import { type EventId, parseEventId, type VisitorId } from '../kernel/ids.ts';
import type { Redis } from '../kernel/redis.ts';
import type { Visit } from '../line/context.ts';
import { sessionIdOf } from '../line/receipt.ts';
import { bookingKeys, type Hold, hold, parseHold, release } from '../lua/booking.ts';
import { labelOf, type SaleEvent, type Section } from './inventory.ts';

/** How long an ended hold is remembered, so that repeated and late calls learn how it ended. */
export const KEEP_MS = 600_000;

/** So many holds at once, then one each so often: who takes and gives back all the time keeps seats from others. */
const PACE = { paceBurst: 10, paceMs: 6000 };

/** Seats by their offsets, or any number of them together (in an area: anywhere). */
export type Wish = { section: Section } & ({ offsets: readonly number[] } | { count: number });

/** `event.22 characters`: the id says which event's keys to look in. */
export const holdIdOf = (event: EventId, visitorId: VisitorId, key: string): string =>
  `${event}.${createHash('sha256').update(`${event}\n${visitorId}\n${key}`).digest('base64url').slice(0, 22)}`;

export const eventOfHold = (holdId: string): EventId | undefined => {
  const match = /^([a-z0-9-]{1,64})\.(?:[A-Za-z0-9_-]{22}|late-[A-Z0-9]{13})$/.exec(holdId);
  return match === null ? undefined : parseEventId(match[1]);
};

const fingerprintOf = (wish: Wish): string =>
  createHash('sha256')
    .update(
      JSON.stringify([
        wish.section.id,
        'count' in wish ? wish.count : [...wish.offsets].sort((a, b) => a - b),
      ]),
    )
    .digest('base64url')
    .slice(0, 16);

export const takeHold = (
  { redis, config }: { redis: Redis; config: Pick<Config, 'holdSeconds' | 'seatsPerVisitor'> },
  {
    event,
    visitorId,
    visit,
    holdId,
    wish,
  }: { event: SaleEvent; visitorId: VisitorId; visit: Visit; holdId: string; wish: Wish },
) =>
  hold.run(redis, bookingKeys(event.id), {
    nowMs: '',
    holdId,
    visitor: visitorId,
    visit: sessionIdOf(visit),
    saleVersion: event.version,
    request: fingerprintOf(wish),
    section: wish.section.id,
    limit: config.seatsPerVisitor,
    ttlMs: config.holdSeconds * 1000,
    ...PACE,
    count: 'count' in wish ? wish.count : wish.offsets.length,
    together: wish.section.kind === 'seated' ? 1 : 0,
    offsets: 'count' in wish ? [] : [...wish.offsets].sort((a, b) => a - b),
  });

export const findHold = async (redis: Redis, event: EventId, holdId: string): Promise<Hold | undefined> => {
  const entry = await redis.hget(bookingKeys(event).holds, holdId);
  return entry === null ? undefined : parseHold(entry);
};

/** `visitor` may only end a hold without an order; without a fence the id alone has to match. */
export const releaseHold = (
  redis: Redis,
  event: EventId,
  {
    holdId,
    visitorId = '',
    fence,
    cause,
  }: {
    holdId: string;
    visitorId?: VisitorId | '';
    fence?: { epoch: number; number: number };
    cause: 'visitor' | 'order' | 'refund';
  },
) =>
  release.run(redis, bookingKeys(event), {
    nowMs: '',
    holdId,
    visitor: visitorId,
    epoch: fence?.epoch ?? '',
    number: fence?.number ?? '',
    cause,
    keepMs: KEEP_MS,
  });

/** What a visitor sees of a hold. `expiresInMs` is for a countdown that does not trust the reader's clock. */
export const viewHold = (
  { event, section, holdId }: { event: SaleEvent; section: Section; holdId: string },
  held: Hold,
  nowMs: number,
) => ({
  id: holdId,
  event: event.id,
  section: section.id,
  sectionName: section.name,
  state: held.state,
  seats: held.offsets.map((offset) => labelOf(section, offset)),
  amountMinor: section.priceMinor * held.offsets.length,
  currency: event.currency,
  expiresAt: new Date(held.expiresAtMs).toISOString(),
  expiresInMs: Math.max(0, held.expiresAtMs - nowMs),
});
