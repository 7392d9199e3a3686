// Follows Redis streams on a connection of its own. It promises: records in order, from a cursor; after a lost
// connection it goes on from the last record it gave; when the stream was trimmed past the cursor, or has become
// shorter than it (Redis lost data), it says `gap` once and goes on from the present. The caller then looks up
// the state of whatever it holds. A key that is no stream is left out, and looked at again, so that it does not keep
// the others from being read.

import type { Log } from './log.ts';
import type { Redis } from './redis.ts';

export type Follower = {
  /**
   * Begins to follow a stream from the present, or from its first record. Resolves with the cursor once it stands: the id
   * of the last record that will not be given.
   */
  add(key: string, from?: 'present' | 'start'): Promise<string>;
  remove(key: string): void;
  stop(): void;
};

type Id = readonly [ms: number, sequence: number];
const idOf = (text: string): Id => {
  const [ms, sequence] = text.split('-');
  return [Number(ms), Number(sequence)];
};
const before = (a: string, b: string): boolean => {
  const [ams, aseq] = idOf(a);
  const [bms, bseq] = idOf(b);
  return ams < bms || (ams === bms && aseq < bseq);
};

const BLOCK_MS = 1000;
const BATCH = 200;

export const followStreams = (options: {
  /** A client made with `blocking`; used by nobody else. */
  redis: Redis;
  /** Another client, for the looks that must not wait behind the blocked one. */
  lookup: Redis;
  log: Log;
  record(key: string, id: string, flat: string[]): void;
  gap(key: string): void;
}): Follower => {
  const { redis, lookup, log, record, gap } = options;
  const cursors = new Map<string, string>();
  const unreadable = new Set<string>();
  let stopped = false;
  let connectedBefore = true;

  /** The newest id of a stream, `0-0` when there is none. */
  const newest = async (key: string): Promise<string> => {
    const last = await lookup.xrevrange(key, '+', '-', 'COUNT', 1);
    return last[0]?.[0] ?? '0-0';
  };
  const checkGaps = async (): Promise<void> => {
    for (const [key, cursor] of cursors) {
      const last = await newest(key);
      const first = (await lookup.xrange(key, '-', '+', 'COUNT', 1))[0]?.[0];
      const trimmed = cursor !== '0-0' && first !== undefined && before(cursor, first);
      if (before(last, cursor) || trimmed) {
        cursors.set(key, last);
        gap(key);
      }
    }
  };
  /** One that is no stream fails every read of all of them. */
  const leaveOut = async (): Promise<void> => {
    for (const key of [...cursors.keys(), ...unreadable]) {
      const type = await lookup.type(key);
      const isReadable = type === 'stream' || type === 'none';
      if (isReadable === cursors.has(key)) continue;
      if (isReadable) {
        unreadable.delete(key);
        cursors.set(key, await newest(key));
        gap(key);
      } else {
        cursors.delete(key);
        unreadable.add(key);
        log.error('stream-unreadable', { key, type });
      }
    }
  };
  const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
  const loop = async (): Promise<void> => {
    let quiet = 0;
    while (!stopped) {
      if (cursors.size === 0 && unreadable.size === 0) {
        await pause(50);
        continue;
      }
      try {
        if (unreadable.size > 0) await leaveOut();
        if (cursors.size === 0) {
          await pause(BLOCK_MS);
          continue;
        }
        if (!connectedBefore || quiet >= 2) {
          await checkGaps();
          connectedBefore = true;
          quiet = 0;
        }
        const keys = [...cursors.keys()];
        const ids = keys.map((key) => cursors.get(key) ?? '$');
        const reply = await redis.xread('COUNT', BATCH, 'BLOCK', BLOCK_MS, 'STREAMS', ...keys, ...ids);
        if (reply === null) quiet += 1;
        for (const [key, records] of reply ?? [])
          for (const [id, flat] of records) {
            if (!cursors.has(key)) break;
            cursors.set(key, id);
            record(key, id, flat ?? []);
          }
      } catch (error) {
        if (stopped) return;
        if (error instanceof Error && error.message.startsWith('WRONGTYPE')) {
          await leaveOut().catch(() => undefined); // Redis has gone meanwhile, which the next read will say.
          continue;
        }
        if (connectedBefore)
          log.warn('stream-lost', { error: error instanceof Error ? error : String(error) });
        connectedBefore = false;
        await pause(200);
      }
    }
  };
  void loop();

  return {
    async add(key, from = 'present') {
      const cursor = cursors.get(key) ?? (from === 'start' ? '0-0' : await newest(key));
      if (!cursors.has(key)) cursors.set(key, cursor);
      return cursor;
    },
    remove: (key) => {
      unreadable.delete(key);
      cursors.delete(key);
    },
    stop: () => {
      stopped = true;
      redis.disconnect();
    },
  };
};
