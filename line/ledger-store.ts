// The ledgers in SQL: dispatchers add to them, admin reads them. Promises: an end moves only from where its writer
// saw it, in one transaction with the rows, so that any number of writers put each record in once and a crash leaves
// either all of a piece or nothing.

import type { RoomId } from '../kernel/ids.ts';
import { parseRoomId } from '../kernel/ids.ts';
import type { Row, Sql } from '../kernel/sql.ts';

/** A place in a stream: the id of the last record that was written, and how many were added up to it. */
export type StreamCursor = { id: string; count: number };
export type LedgerEnd = {
  room: RoomId;
  sale: number;
  seq: number;
  hash: string;
  headSeq: number;
  headAtMs: number;
  joins: StreamCursor;
  entries: StreamCursor;
  isBehind: boolean;
};
/** Rows of one sale that follow each other, as lines that each end with a line break. */
export type LedgerPiece = { sale: number; firstSeq: number; lastSeq: number; lines: string };

export type LedgerStore = {
  endOf(room: RoomId): Promise<LedgerEnd | undefined>;
  /** Answers false, and writes nothing, when the end is no longer `from`. */
  append(from: LedgerEnd | undefined, to: LedgerEnd, pieces: readonly LedgerPiece[]): Promise<boolean>;
  /** Remembers when a sale that is drawn opens; the seed of its draw is derived from it. */
  noteDraw(room: RoomId, draw: { sale: number; opensAt: number }): Promise<void>;
  /** When a sale that was drawn opened; undefined when it was not drawn. */
  drawOf(room: RoomId, sale: number): Promise<number | undefined>;
  /** The sales of a room that have a ledger, newest first, at most 100. */
  sales(room: RoomId): Promise<number[]>;
  /** The newest row, without its line break; undefined when there is no ledger. */
  lastLine(room: RoomId, sale: number): Promise<string | undefined>;
  /** The text of the rows up to `lastSeq`, a few pieces at a time. */
  read(room: RoomId, sale: number, lastSeq: number): AsyncGenerator<string>;
};

const PIECES_AT_ONCE = 4;

const endFrom = (row: Row): LedgerEnd => {
  const room = parseRoomId(row.room);
  if (room === undefined) throw new Error('the table ledger_ends has a room that is not a room name');
  return {
    room,
    sale: Number(row.sale),
    seq: Number(row.seq),
    hash: String(row.hash),
    headSeq: Number(row.head_seq),
    headAtMs: Number(row.head_at_ms),
    joins: { id: String(row.joins_id), count: Number(row.joins_count) },
    entries: { id: String(row.entries_id), count: Number(row.entries_count) },
    isBehind: row.is_behind === true,
  };
};

const COLUMNS =
  'sale, seq, hash, head_seq, head_at_ms, joins_id, joins_count, entries_id, entries_count, is_behind';
const valuesOf = (end: LedgerEnd): unknown[] => [
  ...[end.room, end.sale, end.seq, end.hash, end.headSeq, end.headAtMs],
  ...[end.joins.id, end.joins.count, end.entries.id, end.entries.count, end.isBehind],
];

export const createLedgerStore = (sql: Sql): LedgerStore => ({
  async endOf(room) {
    const rows = await sql.query(`SELECT room, ${COLUMNS} FROM ledger_ends WHERE room = $1`, [room]);
    return rows[0] === undefined ? undefined : endFrom(rows[0]);
  },
  append: (from, to, pieces) =>
    sql.transaction(async (tx) => {
      // Either statement locks the room's row until the end of the transaction.
      const moved =
        from === undefined
          ? await tx.query(
              `INSERT INTO ledger_ends (room, ${COLUMNS})
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
               ON CONFLICT (room) DO NOTHING RETURNING room`,
              valuesOf(to),
            )
          : await tx.query(
              `UPDATE ledger_ends SET (${COLUMNS}) =
                 ROW ($2::integer, $3::bigint, $4::text, $5::bigint, $6::bigint, $7::text, $8::bigint, $9::text,
                   $10::bigint, $11::boolean)
               WHERE room = $1 AND sale = $12 AND seq = $13 AND hash = $14 AND joins_id = $15 AND entries_id = $16
               RETURNING room`,
              [...valuesOf(to), from.sale, from.seq, from.hash, from.joins.id, from.entries.id],
            );
      if (moved.length === 0) return false;
      for (const { sale, firstSeq, lastSeq, lines } of pieces)
        await tx.query(
          'INSERT INTO ledger (room, sale, first_seq, last_seq, lines) VALUES ($1, $2, $3, $4, $5)',
          [to.room, sale, firstSeq, lastSeq, lines],
        );
      return true;
    }),
  async noteDraw(room, { sale, opensAt }) {
    await sql.query(
      `INSERT INTO ledger_draws (room, sale, opens_at_ms) VALUES ($1, $2, $3)
       ON CONFLICT (room, sale) DO UPDATE SET opens_at_ms = $3`,
      [room, sale, opensAt],
    );
  },
  async drawOf(room, sale) {
    const rows = await sql.query('SELECT opens_at_ms FROM ledger_draws WHERE room = $1 AND sale = $2', [
      room,
      sale,
    ]);
    return rows[0] === undefined ? undefined : Number(rows[0].opens_at_ms);
  },
  async sales(room) {
    const rows = await sql.query(
      'SELECT DISTINCT sale FROM ledger WHERE room = $1 ORDER BY sale DESC LIMIT 100',
      [room],
    );
    return rows.map((row) => Number(row.sale));
  },
  async lastLine(room, sale) {
    const rows = await sql.query(
      'SELECT lines FROM ledger WHERE room = $1 AND sale = $2 ORDER BY first_seq DESC LIMIT 1',
      [room, sale],
    );
    return rows[0] === undefined ? undefined : String(rows[0].lines).trimEnd().split('\n').at(-1);
  },
  async *read(room, sale, lastSeq) {
    for (let after = 0; after < lastSeq; ) {
      const rows = await sql.query(
        `SELECT last_seq, lines FROM ledger WHERE room = $1 AND sale = $2 AND first_seq > $3 AND last_seq <= $4
         ORDER BY first_seq LIMIT ${PIECES_AT_ONCE}`,
        [room, sale, after, lastSeq],
      );
      if (rows.length === 0) return;
      for (const row of rows) yield String(row.lines);
      after = Number(rows.at(-1)?.last_seq);
    }
  },
});
