// The people who may operate, and the tokens they prove it with. A token is `aro_` and 32 random bytes; only its
// SHA-256 is stored, so nobody who reads the table can sign in with what stands there.

import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import type { Config } from '../kernel/config.ts';
import { migrate, type Row, type Sql } from '../kernel/sql.ts';
import type { Queries } from '../line/rooms.ts';

export const operatorRoles = ['viewer', 'operator', 'security', 'admin'] as const;
export type OperatorRole = (typeof operatorRoles)[number];
export type Operator = {
  id: string;
  name: string;
  role: OperatorRole;
  createdAtMs: number;
  disabledAtMs: number;
};

export type OperatorStore = {
  /** The operator whose token this is; undefined for a wrong token and for someone who was disabled. */
  byToken(token: string): Promise<Operator | undefined>;
  byId(id: string): Promise<Operator | undefined>;
  list(): Promise<Operator[]>;
  /** The token is in the answer and nowhere else. */
  create(
    who: { name: string; role: OperatorRole },
    within?: Queries,
  ): Promise<{ operator: Operator; token: string }>;
  /** Undefined when there is none. Doing it twice keeps the first time. */
  disable(id: string, within?: Queries): Promise<Operator | undefined>;
};

const TOKEN = /^aro_[A-Za-z0-9_-]{43}$/;
const LIST_MAX = 200;
const COLUMNS = `id, name, role, token_hash,
  (extract(epoch FROM created_at) * 1000)::bigint AS created_ms,
  coalesce((extract(epoch FROM disabled_at) * 1000)::bigint, 0) AS disabled_ms`;

const hashOf = (token: string): string => createHash('sha256').update(token).digest('hex');
const generateToken = (): string => `aro_${randomBytes(32).toString('base64url')}`;

const operatorOf = (row: Row): Operator => ({
  id: String(row.id),
  name: String(row.name),
  // The table's CHECK allows these words only.
  role: String(row.role) as OperatorRole,
  createdAtMs: Number(row.created_ms),
  disabledAtMs: Number(row.disabled_ms),
});

const insert = async (
  sql: Queries,
  who: { name: string; role: OperatorRole },
  token: string,
): Promise<Operator> => {
  const rows = await sql.query(
    `INSERT INTO operators (id, name, role, token_hash) VALUES ($1, $2, $3, $4) RETURNING ${COLUMNS}`,
    [randomBytes(9).toString('base64url'), who.name, who.role, hashOf(token)],
  );
  return operatorOf(rows[0]!);
};

export const migrateAdmin = async (sql: Sql): Promise<void> => {
  await migrate(sql, { name: 'admin', folder: new URL('./sql/', import.meta.url) });
};

export const createOperatorStore = (sql: Sql): OperatorStore => ({
  async byToken(token) {
    if (!TOKEN.test(token)) return undefined;
    const hash = hashOf(token);
    const rows = await sql.query(
      `SELECT ${COLUMNS} FROM operators WHERE token_hash = $1 AND disabled_at IS NULL`,
      [hash],
    );
    const found = rows[0];
    // The index has compared hashes, whose bytes nobody can steer; the last word is a comparison in constant time.
    if (found === undefined || !timingSafeEqual(Buffer.from(String(found.token_hash)), Buffer.from(hash)))
      return undefined;
    return operatorOf(found);
  },
  async byId(id) {
    const rows = await sql.query(`SELECT ${COLUMNS} FROM operators WHERE id = $1 AND disabled_at IS NULL`, [
      id,
    ]);
    return rows[0] === undefined ? undefined : operatorOf(rows[0]);
  },
  async list() {
    const rows = await sql.query(`SELECT ${COLUMNS} FROM operators ORDER BY created_at, id LIMIT $1`, [
      LIST_MAX,
    ]);
    return rows.map(operatorOf);
  },
  async create(who, within = sql) {
    const token = generateToken();
    return { operator: await insert(within, who, token), token };
  },
  async disable(id, within = sql) {
    const rows = await within.query(
      `UPDATE operators SET disabled_at = coalesce(disabled_at, now()) WHERE id = $1 RETURNING ${COLUMNS}`,
      [id],
    );
    return rows[0] === undefined ? undefined : operatorOf(rows[0]);
  },
});

/**
 * Makes the first operator when there is none. `token` is in the answer only when it was generated here, so that
 * it can be printed once. Two processes that start together make one operator.
 */
export const ensureFirstOperator = async (
  sql: Sql,
  config: Pick<Config, 'operatorToken'>,
): Promise<{ token?: string }> => {
  await migrateAdmin(sql);
  if (config.operatorToken !== '' && !TOKEN.test(config.operatorToken))
    throw new Error(
      'ANTEROOM_OPERATOR_TOKEN must be `aro_` followed by 32 random bytes in base64url (43 characters).',
    );
  return sql.transaction(async (tx) => {
    await tx.query('LOCK TABLE operators IN EXCLUSIVE MODE');
    const some = await tx.query('SELECT 1 AS one FROM operators LIMIT 1');
    if (some.length > 0) return {};
    const token = config.operatorToken === '' ? generateToken() : config.operatorToken;
    await insert(tx, { name: 'First operator', role: 'admin' }, token);
    return config.operatorToken === '' ? { token } : {};
  });
};
