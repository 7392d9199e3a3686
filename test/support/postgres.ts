// A PostgreSQL for one test file: a database of its own, with all tables, on the server that scripts/test.ts has
// started for the whole run; or a server of its own, for a test that kills it and for a file that is run alone. It is
// the PostgreSQL that comes with us, so nothing has to be installed.

import { randomBytes } from 'node:crypto';
import { chmodSync, mkdtempSync } from 'node:fs';
import { migrateAdmin } from '../../admin/operators.ts';
import { migrateBooking } from '../../booking-core/booking-core.ts';
import { type Child, hasEnded } from '../../kernel/child.ts';
import { readConfig } from '../../kernel/config.ts';
import { silentLog } from '../../kernel/log.ts';
import { openPostgresFolder, removeEmbeddedPostgres } from '../../kernel/postgres-server.ts';
import { createSql, type Sql } from '../../kernel/sql.ts';
import { createRoomStore } from '../../line/rooms.ts';

type Teardown = { teardown(work: () => unknown): void };

/** Another database of a server. */
const databaseOf = (serverUrl: string, name: string): string => {
  const url = new URL(serverUrl);
  url.pathname = `/${name}`;
  return url.href;
};

/** Of a test: what it asks may take as long as the machine is busy. */
const connectTo = (databaseUrl: string, databasePoolMax: number): Promise<Sql> =>
  createSql({
    config: { ...readConfig({}), databaseUrl, databasePoolMax, databaseTimeoutMs: 60_000 },
    log: silentLog,
  });

/** The database every other is a copy of; the first who wants it makes it, and the others wait. */
const makeTemplate = async (server: Sql, serverUrl: string): Promise<void> => {
  const there = await server.query(`SELECT FROM pg_database WHERE datname = 'migrated'`);
  if (there.length > 0) return;
  await server.query('CREATE DATABASE migrating');
  const sql = await connectTo(databaseOf(serverUrl, 'migrating'), 1);
  await createRoomStore(sql).migrate();
  await migrateBooking(sql);
  await migrateAdmin(sql);
  await sql.close();
  await server.query('ALTER DATABASE migrating RENAME TO migrated');
};

const cloneOn = async (serverUrl: string): Promise<string> => {
  // One connection, so that the lock is taken and given back on the same.
  const server = await connectTo(serverUrl, 1);
  try {
    await server.query('SELECT pg_advisory_lock(1)');
    await makeTemplate(server, serverUrl);
    await server.query('SELECT pg_advisory_unlock(1)');
    const name = `test_${randomBytes(6).toString('hex')}`;
    await server.query(`CREATE DATABASE ${name} TEMPLATE migrated`);
    return databaseOf(serverUrl, name);
  } finally {
    await server.close();
  }
};

export type TestPostgres = {
  url: string;
  /** A pool of its own, closed with the test. */
  connect(options?: { poolMax?: number }): Promise<Sql>;
};

/** A server of its own; it ends like one that crashes, and starts again on the same data. */
export type OwnPostgres = TestPostgres & { kill(): Promise<void>; start(): Promise<void> };

const withPools = (t: Teardown, url: string): TestPostgres => ({
  url,
  connect: async ({ poolMax = 16 } = {}) => {
    const sql = await connectTo(url, poolMax);
    t.teardown(() => sql.close());
    return sql;
  },
});

export const startOwnPostgres = async (t: Teardown): Promise<OwnPostgres> => {
  // /tmp and not tmpdir(): its path is a socket path, too. Root's server is somebody else, who has to enter it.
  const folder = mkdtempSync('/tmp/anteroom-pg-');
  chmodSync(folder, 0o711);
  const settings = ['fsync=off', 'max_connections=80'];
  const opened = await openPostgresFolder({ folder, log: silentLog, settings });
  let child: Child | undefined;
  const kill = async (): Promise<void> => {
    if (child === undefined || hasEnded(child)) return;
    child.process.kill('SIGQUIT'); // "Immediate shutdown": no checkpoint, recovery at the next start.
    await child.gone;
  };
  const start = async (): Promise<void> => {
    child = await opened.start();
  };
  t.teardown(async () => {
    await kill();
    opened.release();
    removeEmbeddedPostgres(folder);
  });
  await start();
  return { ...withPools(t, await cloneOn(opened.url)), kill, start };
};

export const startPostgres = async (t: Teardown): Promise<TestPostgres> => {
  const shared = process.env.TEST_POSTGRES_URL;
  return shared === undefined ? startOwnPostgres(t) : withPools(t, await cloneOn(shared));
};
