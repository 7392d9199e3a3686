// What is for sale: events, their sections, and how a seat is named. Pure, except for reading and seeding the two
// tables. A section is one string with a character a seat and `|` between rows, so a seat is an offset in it; a
// quantity area is a single row of numbered places whose numbers nobody is shown.

import type { EventId, RoomId } from '../kernel/ids.ts';
import type { Sql } from '../kernel/sql.ts';

export type Section = {
  id: string;
  name: string;
  kind: 'seated' | 'area';
  rows: number;
  perRow: number;
  priceMinor: number;
};

export type SaleEvent = {
  id: EventId;
  /** The waiting room that stands before its sale: only its sessions may hold and order. */
  room: RoomId;
  name: string;
  venue: string;
  startsAt: Date;
  currency: string;
  sections: readonly Section[];
  /** Raised by PostgreSQL with each change of what is asked for; 1 before the first. */
  version: number;
};

/** A, B, … Z, AA, AB, … as on the rows of a hall. */
export const rowName = (row: number): string =>
  row < 26
    ? String.fromCharCode(65 + row)
    : rowName(Math.floor(row / 26) - 1) + String.fromCharCode(65 + (row % 26));

export const emptyMap = ({ rows, perRow }: Pick<Section, 'rows' | 'perRow'>): string =>
  Array.from({ length: rows }, () => 'f'.repeat(perRow)).join('|');

/** `C12`, or the bare number in an area. */
export const labelOf = (section: Section, offset: number): string => {
  const number = (offset % (section.perRow + 1)) + 1;
  return section.kind === 'area'
    ? String(number)
    : `${rowName(Math.floor(offset / (section.perRow + 1)))}${number}`;
};

/** The offset of `C12`; undefined when there is no such seat. Seats of an area cannot be chosen. */
export const offsetOf = (section: Section, label: string): number | undefined => {
  const match = /^([A-Z]{1,3})([1-9]\d{0,4})$/.exec(label);
  if (match === null || section.kind === 'area') return undefined;
  const row = [...match[1]!].reduce((sum, letter) => sum * 26 + letter.charCodeAt(0) - 64, 0) - 1;
  const number = Number(match[2]);
  if (row >= section.rows || number > section.perRow) return undefined;
  return row * (section.perRow + 1) + number - 1;
};

export const sectionOf = (event: SaleEvent, id: string): Section | undefined =>
  event.sections.find((section) => section.id === id);

/** `45.00 EUR`. Minor units are hundredths in every currency we price in. */
export const priceText = (amountMinor: number, currency: string): string =>
  `${Math.floor(amountMinor / 100)}.${String(amountMinor % 100).padStart(2, '0')} ${currency}`;

/** Between two looks for names that are not known. */
const LOOKS_APART_MS = 100;

export type Inventory = {
  /** Undefined for an event nobody has created. As it was at the last look: every pass of the reconciler is one. */
  find(id: EventId): Promise<SaleEvent | undefined>;
  all(): Promise<SaleEvent[]>;
};

type EventRow = {
  id: EventId;
  version: number;
  room: RoomId;
  name: string;
  venue: string;
  starts_at: Date;
  currency: string;
};
type SectionRow = {
  event: string;
  id: string;
  name: string;
  kind: 'seated' | 'area';
  rows: number;
  per_row: number;
  price_minor: number;
};

export const createInventory = (sql: Sql): Inventory => {
  const known = new Map<EventId, SaleEvent>();
  const all = async (): Promise<SaleEvent[]> => {
    const events = await sql.query<EventRow>(
      'SELECT id, version, room, name, venue, starts_at, currency FROM booking_events ORDER BY starts_at, id',
    );
    const sections = await sql.query<SectionRow>('SELECT * FROM booking_sections ORDER BY event, position');
    for (const row of events)
      known.set(row.id, {
        id: row.id,
        room: row.room || (row.id as string as RoomId), // Of the same form.
        version: row.version,
        name: row.name,
        venue: row.venue,
        startsAt: new Date(row.starts_at),
        currency: row.currency,
        sections: sections
          .filter(({ event }) => event === row.id)
          .map(({ id, name, kind, rows, per_row, price_minor }) => ({
            id,
            name,
            kind,
            rows,
            perRow: per_row,
            priceMinor: price_minor,
          })),
      });
    return [...known.values()];
  };
  // An unknown name is looked for before it is called unknown, by a look that began after it was asked for; everybody
  // who asks meanwhile waits for the same one, and looks keep apart, whatever strangers type.
  let next: Promise<unknown> | undefined;
  const nextLook = (): Promise<unknown> => {
    next ??= new Promise((resolve) => setTimeout(resolve, LOOKS_APART_MS)).then(() => {
      next = undefined;
      return all();
    });
    return next;
  };
  return {
    all,
    async find(id) {
      if (!known.has(id)) await nextLook();
      return known.get(id);
    },
  };
};

/** Creates an event with its sections unless it exists. Safe to repeat; an existing event is left as it is. */
export const createEvent = async (sql: Sql, event: SaleEvent): Promise<{ outcome: 'created' | 'exists' }> =>
  sql.transaction(async (tx) => {
    const fresh = await tx.query(
      'INSERT INTO booking_events (id, room, name, venue, starts_at, currency) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING RETURNING id',
      [event.id, event.room, event.name, event.venue, event.startsAt.toISOString(), event.currency],
    );
    if (fresh.length === 0) return { outcome: 'exists' };
    for (const [position, section] of event.sections.entries())
      await tx.query(
        'INSERT INTO booking_sections (event, id, name, kind, rows, per_row, price_minor, position) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)',
        [
          event.id,
          section.id,
          section.name,
          section.kind,
          section.rows,
          section.perRow,
          section.priceMinor,
          position,
        ],
      );
    return { outcome: 'created' };
  });
