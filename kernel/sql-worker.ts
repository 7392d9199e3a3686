// The thread that PGlite lives in: opens the folder, runs one statement after another, and answers with rows or
// with an error as plain fields. It decides nothing; turns and transactions are kept by kernel/sql.ts.

import { parentPort, workerData } from 'node:worker_threads';
import { PGlite } from '@electric-sql/pglite';

type Asked = { id: number; kind: 'open' | 'query' | 'close'; text: string; values: unknown[] };

// kernel/sql.ts is the only one that starts this thread, and gives it the folder.
const { folder } = workerData as { folder: string };
const port = parentPort;
if (port === null) throw new Error('sql-worker.ts runs as a worker thread only');
let database: PGlite | undefined;

const answer = async ({ kind, text, values }: Asked): Promise<unknown[]> => {
  if (kind === 'open') {
    database = await PGlite.create(folder);
    return [];
  }
  if (database === undefined) throw new Error('the database is not open');
  if (kind === 'close') {
    await database.close();
    return [];
  }
  if (values.length > 0) return (await database.query(text, values)).rows;
  // Without parameters the simple protocol is used, which takes several statements (migrations).
  return (await database.exec(text)).at(-1)?.rows ?? [];
};

// Statements arrive in turns, but the promise chain keeps them in order whatever the other side does.
let last: Promise<void> = Promise.resolve();
port.on('message', (asked: Asked) => {
  last = last.then(async () => {
    try {
      port.postMessage({ id: asked.id, rows: await answer(asked) });
    } catch (error) {
      const code = error instanceof Error && 'code' in error ? String(error.code) : '';
      const message = error instanceof Error ? error.message : String(error);
      port.postMessage({ id: asked.id, error: { message, code } });
    }
  });
});
