// Who was let in, read from the entry stream of a room while it grows: it is trimmed, so it is followed and not asked
// for at the end.

import { fieldsOf, parseEntry } from '../line/entries.ts';
import type { BenchRedis, Reply } from './redis.ts';
import type { BenchRoom } from './room.ts';
import { pause } from './system.ts';

const EVERY_MS = 200;
const RECORDS_MAX = 1000;

export type Admitted = { atMs: number; deadlineMs: number };
export type Followed = {
  /** By place, as often as it was promoted last. */
  admitted: ReadonlyMap<string, Admitted>;
  counts: { promoted: number; parked: number; missed: number };
  /** Reads what is still there, and ends. */
  stop(): Promise<void>;
};

const textsOf = (reply: Reply | undefined): string[] => (Array.isArray(reply) ? reply.map(String) : []);

export const followEntries = (redis: BenchRedis, room: BenchRoom): Followed => {
  const admitted = new Map<string, Admitted>();
  const counts = { promoted: 0, parked: 0, missed: 0 };
  let after = '0';
  let stopping = false;
  const readOnce = async (): Promise<number> => {
    const reply = await redis.wire.ask([
      'XRANGE',
      room.key('entries'),
      `(${after}`,
      '+',
      'COUNT',
      RECORDS_MAX,
    ]);
    const records = Array.isArray(reply) ? reply : [];
    for (const record of records) {
      const [id, flat] = Array.isArray(record) ? record : [];
      after = String(id);
      const fields = textsOf(flat);
      const entry = parseEntry(fields);
      if (entry === undefined) throw new Error(`an unknown record: ${fieldsOf(fields).get('kind')}`);
      if (entry.kind === 'missed') counts.missed += entry.visits.length;
      if (entry.kind !== 'promoted') continue;
      counts.promoted += entry.visits.length;
      counts.parked += entry.parked.length;
      for (const { placeId } of entry.visits)
        admitted.set(placeId, { atMs: entry.atMs, deadlineMs: entry.deadlineMs });
    }
    return records.length;
  };
  const running = (async () => {
    while (!stopping) {
      if ((await readOnce()) < RECORDS_MAX) await pause(EVERY_MS);
    }
    while ((await readOnce()) > 0);
  })();
  return {
    admitted,
    counts,
    async stop() {
      stopping = true;
      await running;
    },
  };
};

/** The value below which a share of them lie. */
export const quantile = (values: readonly number[], share: number): number => {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
};
