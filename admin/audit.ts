// What operators did, as a chain of hashes: each row's hash covers the row and the hash before it, so a row that
// is changed, taken out or put in breaks every hash after it, and a cut at the end shows against `audit_head`.
// The chain is written in the same transaction as the change it tells of. Whoever can rewrite the whole table can
// rewrite the chain too; therefore each hash also goes to the log, which lives elsewhere.

import { createHash } from 'node:crypto';
import { canonical } from '../kernel/canonical.ts';
import type { Log } from '../kernel/log.ts';
import type { Row, Sql } from '../kernel/sql.ts';
import type { Queries } from '../line/rooms.ts';

export type AuditEntry = {
  operator: string;
  action: string;
  /** Empty when the action concerns no room. */
  room: string;
  detail: Record<string, unknown>;
};
export type AuditRow = AuditEntry & { seq: number; atMs: number; hash: string };
export type AuditVerdict =
  | { outcome: 'intact'; rows: number; hash: string }
  | { outcome: 'broken'; seq: number; says: string };

const PAGE = 1000;

const hashOf = (previous: string, row: Omit<AuditRow, 'hash'>): string =>
  createHash('sha256')
    .update(`${previous}\n`)
    .update(canonical([row.seq, row.atMs, row.operator, row.action, row.room, row.detail]))
    .digest('hex');

const rowOf = (row: Row): AuditRow & { previous: string } => ({
  seq: Number(row.seq),
  atMs: Number(row.at_ms),
  operator: String(row.operator),
  action: String(row.action),
  room: String(row.room),
  // A jsonb column that only `append` writes, always an object.
  detail: row.detail as Record<string, unknown>,
  previous: String(row.prev_hash),
  hash: String(row.hash),
});

/** Adds one row at the end of the chain; call it inside the transaction of the change. Waits for other writers. */
export const appendAudit = async (
  tx: Queries,
  entry: AuditEntry,
  { nowMs, log }: { nowMs: number; log: Log },
): Promise<void> => {
  const head = (await tx.query('SELECT seq, hash FROM audit_head FOR UPDATE'))[0];
  if (head === undefined)
    throw new Error('the table audit_head is empty: the audit trail has been tampered with');
  const previous = String(head.hash);
  const row = { ...entry, seq: Number(head.seq) + 1, atMs: Math.floor(nowMs) };
  const hash = hashOf(previous, row);
  await tx.query(
    `INSERT INTO audit (seq, at_ms, operator, action, room, detail, prev_hash, hash)
     VALUES ($1, $2, $3, $4, $5, $6::text::jsonb, $7, $8)`,
    [row.seq, row.atMs, row.operator, row.action, row.room, JSON.stringify(row.detail), previous, hash],
  );
  await tx.query('UPDATE audit_head SET seq = $1, hash = $2', [row.seq, hash]);
  log.info('audit', { seq: row.seq, action: row.action, room: row.room, hash });
};

/** Newest first. `before` is a seq, for the next page. */
export const listAudit = async (
  sql: Queries,
  { room, before, limit }: { room: string; before: number; limit: number },
): Promise<AuditRow[]> => {
  const rows = await sql.query(
    `SELECT * FROM audit WHERE ($1 = '' OR room = $1) AND seq < $2 ORDER BY seq DESC LIMIT $3`,
    [room, before, limit],
  );
  return rows.map((row) => {
    const { previous: _, ...shown } = rowOf(row);
    return shown;
  });
};

/** Walks the whole chain, a page at a time. */
export const verifyAudit = async (sql: Pick<Sql, 'query'>): Promise<AuditVerdict> => {
  // The head is read first: rows added while we walk are then after the end that is checked.
  const head = (await sql.query('SELECT seq, hash FROM audit_head'))[0];
  const end = Number(head?.seq ?? 0);
  let previous = '';
  let seq = 0;
  for (;;) {
    const rows = await sql.query('SELECT * FROM audit WHERE seq > $1 AND seq <= $2 ORDER BY seq LIMIT $3', [
      seq,
      end,
      PAGE,
    ]);
    for (const row of rows.map(rowOf)) {
      if (row.seq !== seq + 1) return { outcome: 'broken', seq: seq + 1, says: 'a row is missing' };
      if (row.previous !== previous || row.hash !== hashOf(previous, row))
        return { outcome: 'broken', seq: row.seq, says: 'a row was changed' };
      previous = row.hash;
      seq = row.seq;
    }
    if (rows.length < PAGE) break;
  }
  if (head === undefined || seq !== end || previous !== String(head.hash))
    return { outcome: 'broken', seq: seq + 1, says: 'the end of the chain is missing' };
  const beyond = await sql.query('SELECT seq FROM audit WHERE seq < 1 LIMIT 1');
  if (beyond.length > 0) return { outcome: 'broken', seq: 0, says: 'a row stands before the first' };
  return { outcome: 'intact', rows: seq, hash: previous };
};
