// Which history of Redis the line lives in, and what to do when it changes. Redis acknowledges a write before its
// replicas have it, so a replica that takes over may lack the last second, and a server that starts again may lack
// more. Nothing in the data says so; the replication id does: it is another one after every failover and restart.
// Each room keeps the id it was last seen under (lua/room/reconcile). The dispatchers ask for it once a second, and
// before anything else on a new connection, because what they remember is the measure of what is missing, and a
// snapshot of the new server must not replace it first.
//
// A primary that had replicas and has had none for an hour also takes a new id. That costs the line
// `failoverSeconds` without promotions and nothing else.

import type { Config } from '../kernel/config.ts';
import type { RoomId } from '../kernel/ids.ts';
import { roomsKey } from '../kernel/keys.ts';
import type { Log } from '../kernel/log.ts';
import type { Metrics } from '../kernel/metrics.ts';
import type { Redis } from '../kernel/redis.ts';
import { HEAD_AT_START, type RoomMemory, type RoomStore } from '../line/rooms.ts';
import type { Snapshot } from '../line/snapshot.ts';
import { reconcile, recover, roomKeys } from '../lua/room.ts';
import type { Turns } from './turns.ts';

const CHECK_EVERY_MS = 1000;
/** By recover.lua: more than anybody can have been given since what is remembered was measured. */
const NUMBERS_SKIPPED = 1_000_000;
/**
 * A failover loses about a second, and the last snapshot is a second old when it comes. Data that is behind by more
 * was restored from somewhere: whoever was promoted meanwhile needs the whole recovery time to come back.
 */
const OLDER_MS = 5000;

/**
 * What is remembered after a snapshot. Within an epoch and a sale head and number only grow; a smaller one was read
 * from a server that lacks something, and the larger is what was promised.
 */
export const memoryAfter = (
  before: RoomMemory | undefined,
  read: Pick<Snapshot, 'head' | 'nextNumber' | 'epoch' | 'atMs' | 'waiting' | 'parked' | 'settings'>,
): RoomMemory => {
  const { sale } = read.settings;
  const same = before !== undefined && before.epoch === read.epoch && before.sale === sale;
  return {
    head: same ? Math.max(before.head, read.head) : read.head,
    nextNumber: same ? Math.max(before.nextNumber, read.nextNumber) : read.nextNumber,
    epoch: read.epoch,
    sale,
    atMs: read.atMs,
    waiting: read.waiting + read.parked,
  };
};

/** The memory as text without its time, so that a room in which nothing happens is not written again. */
export const textOf = ({ atMs: _, ...memory }: RoomMemory): string => JSON.stringify(memory);

export type ReplicationId = {
  id: string;
  /** Of the primary that it was a replica of; empty where it was none. */
  before: string;
};

/** The ids in the answer to INFO replication; undefined on a replica, where they are those of another server. */
export const replicationIn = (info: string): ReplicationId | undefined => {
  const field = (name: string) => new RegExp(`^${name}:([0-9a-f]{40})\\r?$`, 'm').exec(info)?.[1];
  const id = field('master_replid');
  if (!/^role:master\r?$/m.test(info) || id === undefined) return undefined;
  const before = field('master_replid2') ?? '';
  return { id, before: /^0+$/.test(before) ? '' : before };
};

export type Replication = {
  /**
   * Compares the replication id with the one each room was last seen under; asks Redis at most once a second. Answers
   * whether a room may be touched: not before it was compared, where that can be done at all.
   */
  check(rooms: Iterable<RoomId>): Promise<(room: RoomId) => boolean>;
  /** Makes a lost room again. Only rooms somebody remembers: a room nobody remembers stays closed. */
  recover(room: RoomId): Promise<void>;
};

export const createReplication = (options: {
  config: Pick<Config, 'recoverySeconds' | 'failoverSeconds'>;
  redis: Redis;
  rooms: RoomStore;
  memories: Map<RoomId, RoomMemory>;
  turns: Turns;
  log: Log;
  metrics: Metrics;
}): Replication => {
  const { config, redis, rooms: store, memories, turns, log, metrics } = options;
  /** The id, and the rooms that were compared with it on this connection. */
  let replid: ReplicationId = { id: '', before: '' };
  let checked = new Set<RoomId>();
  let askedAtMs = Number.NEGATIVE_INFINITY;
  let forbidden = false;
  redis.on('close', () => {
    askedAtMs = Number.NEGATIVE_INFINITY;
    checked = new Set();
  });

  /** Undefined where INFO is forbidden or the server is no primary: then nothing is known, and nothing is done. */
  const askReplid = async (): Promise<ReplicationId | undefined> => {
    try {
      return replicationIn(await redis.info('replication'));
    } catch (error) {
      if (!(error instanceof Error) || !/^(NOPERM|ERR unknown command)/.test(error.message)) throw error;
      if (!forbidden) log.warn('replication-unknown', { error });
      forbidden = true;
      return undefined;
    }
  };

  const reconcileRoom = async (room: RoomId): Promise<void> => {
    const memory = memories.get(room);
    const done = await reconcile.run(redis, roomKeys(room), {
      nowMs: '',
      replid: replid.id,
      replidBefore: replid.before,
      sale: memory?.sale ?? 0,
      head: memory?.head ?? HEAD_AT_START,
      nextNumber: memory?.nextNumber ?? 0,
      epoch: memory?.epoch ?? 0,
      waiting: memory?.waiting ?? 0,
      snapshotAt: memory?.atMs ?? 0,
      olderMs: OLDER_MS,
      failoverSeconds: config.failoverSeconds,
      recoverySeconds: config.recoverySeconds,
    });
    checked.add(room);
    if (done.outcome !== 'recovered') return;
    metrics.inc('recoveries_total', { room, reason: done.reason });
    log.warn('room-recovered', { room, reason: done.reason, head: memory?.head, untilMs: done.untilMs });
  };

  return {
    async check(rooms) {
      const nowMs = performance.now();
      if (nowMs - askedAtMs >= CHECK_EVERY_MS && !forbidden) {
        const found = await askReplid();
        if (found === undefined) return () => true;
        if (found.id !== replid.id) checked = new Set();
        replid = found;
        askedAtMs = nowMs;
      }
      if (replid.id === '') return () => true;
      for (const room of rooms)
        if (!checked.has(room)) await turns.attempt(room, 'room.reconcile', () => reconcileRoom(room));
      return (room) => checked.has(room);
    },

    async recover(room) {
      const memory = memories.get(room);
      // Not being able to ask for this room is its own trouble: the others are there.
      const row = await store.get(room).catch((cause: unknown) => {
        throw new Error('PostgreSQL cannot be asked for the settings of the room', { cause });
      });
      if (memory === undefined || row === undefined) return;
      // What was remembered of an earlier sale says nothing about the line of this one.
      const ofThisSale = memory.sale === row.settings.sale;
      const done = await recover.run(redis, roomKeys(room), {
        nowMs: '',
        version: row.version,
        settings: JSON.stringify(row.settings),
        head: ofThisSale ? memory.head : HEAD_AT_START,
        nextNumber: ofThisSale ? memory.nextNumber : 0,
        epoch: memory.epoch,
        waiting: memory.waiting ?? 0,
        replid: replid.id,
        recoverySeconds: config.recoverySeconds,
        remembered: 1,
      });
      await redis.sadd(roomsKey, room);
      if (done.outcome !== 'recovered') return;
      // Were the data lost once more before the next snapshot, the numbers skipped now must not be given again.
      memories.set(room, {
        ...memory,
        sale: row.settings.sale,
        epoch: done.epoch,
        head: ofThisSale ? memory.head : HEAD_AT_START,
        nextNumber: (ofThisSale ? memory.nextNumber : 0) + NUMBERS_SKIPPED,
      });
      metrics.inc('recoveries_total', { room, reason: 'lost' });
      log.warn('room-recovered', { room, reason: 'lost', head: memory.head, untilMs: done.untilMs });
    },
  };
};
