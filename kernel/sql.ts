// One small interface over PostgreSQL: `pg` when there is an address, PGlite in a worker thread when there is
// none, the same SQL for both. pg and PGlite are imported here (and in the worker beside it) and nowhere else.

export type Row = Record<string, unknown>;

export type Sql = {
  /** Runs one statement with $1… parameters. Throws SqlUnavailable when the database cannot be reached. */
  query<R extends Row = Row>(text: string, values?: readonly unknown[]): Promise<R[]>;
  /** Runs `work` in one transaction; a throw rolls back. Retries serialisation failures and deadlocks ≤ 3 times. */
  transaction<T>(work: (sql: Pick<Sql, 'query'>) => Promise<T>): Promise<T>;
  close(): Promise<void>;
};
