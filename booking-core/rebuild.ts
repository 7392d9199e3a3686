// Redis's map of an event follows PostgreSQL. `rebuild` writes it anew when Redis has none, under a raised epoch, so
// that whatever was held before is fenced off; `repairDrift` compares the two and corrects what differs, and only if
// nothing moved between its look and its write.

import type { EventId } from '../kernel/ids.ts';
import type { Log } from '../kernel/log.ts';
import type { Redis } from '../kernel/redis.ts';
import type { Sql } from '../kernel/sql.ts';
import { type Audited, audit, bookingKeys, formatHold, type Hold, load, repair } from '../lua/booking.ts';
import { emptyMap, type SaleEvent } from './inventory.ts';
import { LEASE_MS, type OrderRow } from './settle.ts';

/** Orders read at once, and those written at once. */
const PAGE_MAX = 5000;
const PART_MAX = 500;
/** A rebuild that has not been heard of for so long is taken to have died. */
const PATIENCE_MS = 10_000;

type Tx = Pick<Sql, 'query'>;
type LiveRow = OrderRow & { seats: number[] };

const LIVE = `
  SELECT o.*, ARRAY(SELECT s.seat FROM order_seats s WHERE s.order_id = o.id ORDER BY s.seat) AS seats
  FROM orders o WHERE o.event = $1 AND o.state IN ('paying', 'paid')`;
const live = (tx: Tx, event: EventId) => tx.query<LiveRow>(LIVE, [event]);
/** A page of them, so that neither a statement nor an answer grows with the sale. */
const livePage = (tx: Tx, event: EventId, after: string) =>
  tx.query<LiveRow>(`${LIVE} AND o.id > $2 ORDER BY o.id LIMIT ${PAGE_MAX}`, [event, after]);

const holdOf = (order: LiveRow): Hold => ({
  state: order.state === 'paid' ? 'confirmed' : 'ordered',
  epoch: order.fence_epoch,
  number: order.fence_number,
  visitorId: order.visitor,
  section: order.section,
  expiresAtMs: 0,
  request: 'order',
  offsets: order.seats,
  visit: '',
  saleVersion: order.sale_version,
});

const CHARACTER = { held: 'h', ordered: 'h', confirmed: 's' } as const;
const characterOf = (hold: Hold): 'h' | 's' | undefined =>
  hold.state in CHARACTER ? CHARACTER[hold.state as keyof typeof CHARACTER] : undefined; // `in` has checked it.

/** The maps as the holds say they must be. */
const mapsFrom = (event: SaleEvent, holds: Iterable<Hold>): Map<string, string> => {
  const maps = new Map(
    event.sections.map((section) => [section.id, Buffer.from(emptyMap(section), 'latin1')]),
  );
  for (const hold of holds) {
    const character = characterOf(hold);
    const map = maps.get(hold.section);
    if (character === undefined || map === undefined) continue;
    // A place that is not in the map (a section that was made smaller) is in nobody's way.
    for (const offset of hold.offsets) if (offset < map.length) map.write(character, offset, 'latin1');
  }
  return new Map([...maps].map(([section, map]) => [section, map.toString('latin1')]));
};

/**
 * Writes the event into Redis from PostgreSQL, in parts. `stale`: someone else has done so meanwhile, and later;
 * `busy`: someone is about it.
 */
export const rebuild = async (
  { sql, redis, log }: { sql: Sql; redis: Redis; log: Pick<Log, 'info'> },
  event: SaleEvent,
): Promise<'stale' | 'busy' | 'loaded'> => {
  const step = async (phase: 'look' | 'begin' | 'part' | 'end', epoch: number, rest: readonly string[]) =>
    (
      await load.run(redis, bookingKeys(event.id), {
        ...{ nowMs: '', phase, epoch, patienceMs: PATIENCE_MS, leaseMs: LEASE_MS, rest },
      })
    ).outcome;
  // Before the epoch is raised: a rebuild that is under way would write one that no order is taken for.
  const looked = await step('look', 0, []);
  if (looked === 'stale' || looked === 'busy') return looked;

  const { epoch, orders } = await sql.transaction(async (tx) => {
    const [raised] = await tx.query<{ epoch: number }>(
      'UPDATE booking_events SET epoch = epoch + 1 WHERE id = $1 RETURNING epoch',
      [event.id],
    );
    const read: LiveRow[] = [];
    for (let page = await livePage(tx, event.id, ''); page.length > 0; ) {
      read.push(...page);
      page = await livePage(tx, event.id, page.at(-1)!.id);
    }
    return { epoch: raised?.epoch ?? 0, orders: read };
  });
  const holds = new Map(orders.map((order) => [order.hold_id, holdOf(order)]));
  let outcome = await step('begin', epoch, [...mapsFrom(event, holds.values())].flat());
  const entries = [...holds];
  for (let from = 0; from < entries.length && outcome !== 'stale'; from += PART_MAX)
    outcome = await step(
      'part',
      epoch,
      entries.slice(from, from + PART_MAX).flatMap(([id, hold]) => [id, formatHold(hold)]),
    );
  if (outcome !== 'stale') outcome = await step('end', epoch, []);
  log.info('seats-rebuilt', { booked: event.id, epoch, orders: orders.length, outcome });
  return outcome === 'loaded' ? 'loaded' : 'stale';
};

export type Drift = readonly [kind: 'seat' | 'hold' | 'holder', name: string, value: string];

/** What must change in Redis so that it agrees with PostgreSQL and with itself. Pure. */
export const driftOf = (event: SaleEvent, seen: Audited, orders: readonly LiveRow[]): Drift[] => {
  const drift: Drift[] = [];
  const holds = new Map(seen.holds);
  const claimed = new Map<string, string>(); // section:offset → hold id, of live orders
  const byHold = new Map(orders.map((order) => [order.hold_id, order]));
  for (const order of orders) {
    const wanted = holdOf(order);
    const found = holds.get(order.hold_id);
    for (const offset of order.seats) claimed.set(`${order.section}:${offset}`, order.hold_id);
    if (found?.state === wanted.state && found.number === wanted.number && found.epoch === wanted.epoch)
      continue;
    const mended = { ...wanted, expiresAtMs: found?.expiresAtMs ?? 0 };
    holds.set(order.hold_id, mended);
    drift.push(['hold', order.hold_id, formatHold(mended)]);
  }
  for (const [id, hold] of seen.holds) {
    if (byHold.has(id) || characterOf(hold) === undefined) continue;
    const beaten = hold.offsets.some((offset) => claimed.has(`${hold.section}:${offset}`));
    // Sold without a paid order is a refund whose step was lost; anything in the way of an order gives way.
    // A hold marked `ordered` without an order is left: its order may be being written, and its lease ends it.
    if (!beaten && hold.state !== 'confirmed') continue;
    holds.delete(id);
    drift.push(['hold', id, '']);
  }
  for (const [section, map] of mapsFrom(event, holds.values())) {
    const shown = seen.maps.get(section) ?? '';
    for (let offset = 0; offset < map.length; offset++)
      if (map[offset] !== shown[offset]) drift.push(['seat', `${section}:${offset}`, map[offset]!]);
  }
  const holders = new Map<string, number>();
  for (const hold of holds.values())
    if (characterOf(hold) !== undefined)
      holders.set(hold.visitorId, (holders.get(hold.visitorId) ?? 0) + hold.offsets.length);
  for (const visitor of new Set([...holders.keys(), ...seen.holders.keys()])) {
    const count = holders.get(visitor) ?? 0;
    if (count !== (seen.holders.get(visitor) ?? 0)) drift.push(['holder', visitor, String(count)]);
  }
  return drift;
};

const TRIES_MAX = 5;
/** Corrections of one call; the next pass brings the rest. */
const DRIFT_MAX = 1000;

/** Compares once and corrects; `rebuilding` when Redis has nothing to compare with. */
export const repairDrift = async (
  { sql, redis, log }: { sql: Sql; redis: Redis; log: Log },
  event: SaleEvent,
): Promise<
  | { outcome: 'rebuilding' }
  /** `holds` as they were seen last. */
  | { outcome: 'busy' | 'agreed'; repaired: number; holds: ReadonlyMap<string, Hold> }
> => {
  const keys = bookingKeys(event.id);
  let holds: ReadonlyMap<string, Hold> = new Map();
  for (let tries = 0; tries < TRIES_MAX; tries++) {
    const seen = await audit.run(redis, keys, { nowMs: '' });
    if (seen.outcome === 'rebuilding') return { outcome: 'rebuilding' };
    holds = seen.holds;
    // What a newer version holds seats by cannot be compared: it is left to that one.
    if ([...seen.holds.values()].some(({ state }) => state === 'unknown')) {
      log.warn('holds-unknown', { booked: event.id });
      return { outcome: 'agreed', repaired: 0, holds };
    }
    const drift = driftOf(event, seen, await live(sql, event.id)).slice(0, DRIFT_MAX);
    if (drift.length === 0) return { outcome: 'agreed', repaired: 0, holds };
    const { outcome } = await repair.run(redis, keys, {
      nowMs: '',
      epoch: seen.epoch,
      version: seen.version,
      leaseMs: LEASE_MS,
      triples: drift.flat(),
    });
    if (outcome === 'rebuilding') return { outcome };
    if (outcome === 'repaired') {
      log.warn('seats-repaired', { booked: event.id, count: drift.length, first: drift[0]?.slice(0, 2) });
      return { outcome: 'agreed', repaired: drift.length, holds };
    }
  }
  return { outcome: 'busy', repaired: 0, holds };
};
