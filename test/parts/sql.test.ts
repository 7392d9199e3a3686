// What kernel/sql.ts promises, on a real PostgreSQL.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import t, { type Test } from 'tap';
import { readConfig } from '../../kernel/config.ts';
import { Refusal } from '../../kernel/errors.ts';
import { silentLog } from '../../kernel/log.ts';
import { createSql, isDuplicate, migrate, type Sql, SqlUnavailable } from '../../kernel/sql.ts';
import { eventually } from '../support/eventually.ts';
import { startOwnPostgres } from '../support/postgres.ts';

const folder = mkdtempSync(join(tmpdir(), 'anteroom-sql-'));
t.teardown(() => rmSync(folder, { recursive: true, force: true }));

const contract = async (t: Test, sql: Sql): Promise<void> => {
  const list = mkdtempSync(join(folder, 'migrations-'));
  writeFileSync(
    join(list, '001-first.sql'),
    'CREATE TABLE things (id bigint PRIMARY KEY, name text, tags int[]); INSERT INTO things VALUES (1, $$one$$, $${1,2}$$);',
  );
  const from = { name: 'contract', folder: pathToFileURL(`${list}/`) };
  t.same((await migrate(sql, from)).applied, ['001-first.sql'], 'a migration runs');
  t.same((await migrate(sql, from)).applied, [], 'and runs once');
  writeFileSync(join(list, '002-second.sql'), 'ALTER TABLE things ADD COLUMN more jsonb');
  const both = await Promise.all([migrate(sql, from), migrate(sql, from)]);
  t.same(
    both.flatMap(({ applied }) => applied),
    ['002-second.sql'],
    'two starters, one application',
  );

  const rows = await sql.query(
    'SELECT id, tags, 9007199254740993::bigint AS huge FROM things WHERE id = $1',
    [1],
  );
  t.same(rows, [{ id: 1, tags: [1, 2], huge: 9007199254740993n }], 'a bigint is a number while it is safe');
  await sql.query('INSERT INTO things SELECT unnest($1::bigint[]), $2', [[2, 3], 'many']);
  await sql.query('UPDATE things SET more = $1::jsonb WHERE id = 2', [JSON.stringify({ a: [1] })]);
  t.same(await sql.query('SELECT more FROM things WHERE id = 2'), [{ more: { a: [1] } }]);

  await t.rejects(
    sql.transaction(async (tx) => {
      await tx.query('DELETE FROM things');
      throw new Error('on purpose');
    }),
    { message: 'on purpose' },
  );
  t.same(await sql.query('SELECT count(*) AS n FROM things'), [{ n: 3 }], 'a throw rolls back');
  const error = await sql
    .query('INSERT INTO things (id) VALUES ($1)', [1])
    .catch((caught: unknown) => caught);
  t.equal(isDuplicate(error), true, 'a duplicate can be told from other faults');
  const counted = await Promise.all(
    Array.from({ length: 20 }, () =>
      sql.transaction(async (tx) => {
        await tx.query('UPDATE things SET id = id + 100 WHERE id >= 100 OR id = 3');
        return (await tx.query('SELECT max(id) AS top FROM things'))[0]?.top;
      }),
    ),
  );
  t.equal(new Set(counted).size, 20, 'transactions that meet do not see each other');
};

t.test(
  'migrations, values and transactions keep the contract; gone, the database is SqlUnavailable; back, it is used again',
  async (t) => {
    const postgres = await startOwnPostgres(t);
    const sql = await postgres.connect();
    await contract(t, sql);
    await postgres.kill();
    const error = await sql.query('SELECT 1').catch((caught: unknown) => caught);
    t.ok(error instanceof SqlUnavailable && error instanceof Refusal);
    t.equal(error instanceof Refusal && error.code, 'database-unavailable');
    await t.rejects(
      sql.transaction((tx) => tx.query('SELECT 1')),
      SqlUnavailable,
    );
    await postgres.start();
    await eventually('the pool has recovered', async () => (await sql.query('SELECT 1')).length === 1);
  },
);

t.test('an address where nobody answers is a sentence an operator can act on', async (t) => {
  const config = { ...readConfig({}), databaseUrl: 'postgresql://x@127.0.0.1:1/x' };
  await t.rejects(createSql({ config, log: silentLog }), /correct ANTEROOM_DATABASE_URL/);
});
