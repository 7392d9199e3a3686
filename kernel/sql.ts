// One small interface over PostgreSQL. pg is imported here and nowhere else.
//
// Promises: every statement has a deadline; a database that cannot be reached is SqlUnavailable, which a route
// answers as `database-unavailable`; a bigint is a number while it is safe.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { type Chance, systemChance } from './clock.ts';
import type { Config } from './config.ts';
import { Refusal } from './errors.ts';
import type { Log } from './log.ts';

export type Row = Record<string, unknown>;

export type Sql = {
  /** Runs one statement with $1… parameters. Throws SqlUnavailable when the database cannot be reached. */
  query<R extends Row = Row>(text: string, values?: readonly unknown[]): Promise<R[]>;
  /** Runs `work` in one transaction; a throw rolls back. Retries serialisation failures and deadlocks ≤ 3 times. */
  transaction<T>(work: (sql: Pick<Sql, 'query'>) => Promise<T>): Promise<T>;
  /** Waits for what is under way. Safe to call twice. */
  close(): Promise<void>;
};

/** The database cannot be reached or did not answer in time. What was asked may or may not have happened. */
export class SqlUnavailable extends Refusal {
  constructor(cause: unknown) {
    super('database-unavailable', { cause });
    this.name = 'SqlUnavailable';
  }
}

/** SQLSTATE of an error (PostgreSQL, appendix A), or the system's own code; '' when it has none. */
export const sqlStateOf = (error: unknown): string =>
  error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : '';

/** A unique constraint was violated. */
export const isDuplicate = (error: unknown): boolean => sqlStateOf(error) === '23505';

// Classes 08 (connection), 53 (resources) and 57 (shut down, starting up, statement cancelled by its deadline).
// pg reports a lost socket, a full pool and its own read timeout without a SQLSTATE.
const isUnavailable = (error: unknown): boolean => {
  const code = sqlStateOf(error);
  if (/^(?:08|53|57)/.test(code) || /^E[A-Z]+$/.test(code)) return true;
  return (
    error instanceof Error &&
    code === '' &&
    /timeout|Connection terminated|connection error|pool after calling end|not queryable/i.test(error.message)
  );
};

const isRepeatable = (error: unknown): boolean => ['40001', '40P01'].includes(sqlStateOf(error));
const TRIES_MAX = 4;

const safely = async <T>(work: Promise<T>): Promise<T> => {
  try {
    return await work;
  } catch (error) {
    throw isUnavailable(error) ? new SqlUnavailable(error) : error;
  }
};

/** Runs `once` again, after a short random pause, when it lost against another transaction. */
const repeated = async <T>(once: () => Promise<T>, chance: Chance): Promise<T> => {
  for (let tries = 1; ; tries++) {
    try {
      return await once();
    } catch (error) {
      if (tries >= TRIES_MAX || !isRepeatable(error)) throw error;
      await new Promise((resolve) => setTimeout(resolve, chance() * 20 * tries));
    }
  }
};

const INT8 = 20;
const readInt8 = (text: string): number | bigint => {
  const value = BigInt(text);
  return value >= BigInt(Number.MIN_SAFE_INTEGER) && value <= BigInt(Number.MAX_SAFE_INTEGER)
    ? Number(value)
    : value;
};

type SqlConfig = Pick<Config, 'databaseUrl' | 'databasePoolMax' | 'databaseTimeoutMs'>;

/** Connects to `databaseUrl`, or throws with a sentence an operator can act on. */
export const createSql = async (options: { config: SqlConfig; log: Log; chance?: Chance }): Promise<Sql> => {
  const { config, log, chance = systemChance } = options;
  const pool = new pg.Pool({
    connectionString: config.databaseUrl,
    max: config.databasePoolMax,
    connectionTimeoutMillis: config.databaseTimeoutMs,
    idle_in_transaction_session_timeout: config.databaseTimeoutMs * 2,
    statement_timeout: config.databaseTimeoutMs,
    // A little later than the server's own deadline, for a server that no longer answers at all.
    query_timeout: config.databaseTimeoutMs + 500,
    keepAlive: true,
    application_name: 'anteroom',
    types: {
      getTypeParser: (oid: number, format?: 'text' | 'binary') =>
        oid === INT8 && format !== 'binary' ? readInt8 : pg.types.getTypeParser(oid, format),
    },
  });
  // An idle connection that breaks is replaced at its next use; without a listener it would end the process.
  pool.on('error', (error) => log.warn('database-connection-lost', { error }));

  let closed: Promise<void> | undefined;
  const sql: Sql = {
    async query<R extends Row>(text: string, values: readonly unknown[] = []) {
      const result = await safely(pool.query<R>(text, [...values]));
      return result.rows;
    },
    transaction: (work) =>
      repeated(async () => {
        const client = await safely(pool.connect());
        let broken = false;
        // While it is ours the pool does not listen, and an unheard error would end the process. What was asked on
        // this connection fails by itself.
        const lost = (error: Error): void => {
          broken = true;
          log.warn('database-connection-lost', { error });
        };
        client.on('error', lost);
        try {
          await safely(client.query('BEGIN'));
          const done = await work({
            query: async <R extends Row>(text: string, values: readonly unknown[] = []) =>
              (await safely(client.query<R>(text, [...values]))).rows,
          });
          await safely(client.query('COMMIT'));
          return done;
        } catch (error) {
          broken ||= error instanceof SqlUnavailable;
          // A connection that failed is thrown away below, which rolls back; a sound one is asked to.
          if (!broken)
            await client.query('ROLLBACK').catch((cause: unknown) => {
              broken = true;
              log.warn('database-rollback-failed', { error: cause });
            });
          throw error;
        } finally {
          client.off('error', lost);
          client.release(broken);
        }
      }, chance),
    close: () => {
      closed ??= pool.end();
      return closed;
    },
  };
  try {
    await sql.query('SELECT 1');
  } catch (cause) {
    await pool.end();
    throw new Error('PostgreSQL cannot be reached. Start it, or correct ANTEROOM_DATABASE_URL.', { cause });
  }
  return sql;
};

/**
 * Brings the tables of one role up to date: every `NNN-what.sql` in `folder` that is not yet recorded runs once, in
 * order, each in a transaction of its own. Any number of processes may start together: an advisory lock lets one
 * through at a time. A file that was applied must never change; the next number says what is different.
 */
export const migrate = async (
  sql: Sql,
  { name, folder }: { name: string; folder: URL },
): Promise<{ applied: string[] }> => {
  const path = fileURLToPath(folder);
  const files = readdirSync(path)
    .filter((file) => /^\d{3}-[a-z0-9-]+\.sql$/.test(file))
    .sort();
  const applied: string[] = [];
  for (const file of files)
    await sql.transaction(async (tx) => {
      // Any number will do as long as all migrations of this product use the same.
      await tx.query('SELECT pg_advisory_xact_lock(4711001)');
      await tx.query(
        'CREATE TABLE IF NOT EXISTS migrations (role text, file text, at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (role, file))',
      );
      const fresh = await tx.query(
        'INSERT INTO migrations (role, file) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING file',
        [name, file],
      );
      if (fresh.length === 0) return;
      await tx.query(readFileSync(join(path, file), 'utf8'));
      applied.push(file);
    });
  return { applied };
};
