// The dispatcher: who goes in. Each tick it promotes in every room, reaps what has run out, and once a second
// measures the room for everybody. It decides nothing itself: rate, cap and gate are decided inside the scripts,
// so any number of dispatchers may tick at once and none leads. When Redis has lost a room it is the one that
// makes it again, from SQL and from what it remembers.

import type { Config } from '../kernel/config.ts';
import { parseRoomId, type RoomId } from '../kernel/ids.ts';
import { roomsKey } from '../kernel/keys.ts';
import type { Log } from '../kernel/log.ts';
import type { Metrics } from '../kernel/metrics.ts';
import type { Redis } from '../kernel/redis.ts';
import type { Role } from '../kernel/role.ts';
import type { RoomStore } from '../line/rooms.ts';
import { parseSnapshot } from '../line/snapshot.ts';
import { promote, reap, recover, roomKeys, snapshot } from '../lua/room.ts';

/** A call examines at most examineMax places; a tick repeats it this often at most, so that ticks stay short. */
const CALLS_PER_TICK_MAX = 20;
const FIRST_MAX = 1000;
const ANCHORS_MAX = 400;
const REMEMBER_EVERY_MS = 2000;

type Memory = { head: number; nextNumber: number; epoch: number };

export const createDispatcher = async (options: {
  config: Pick<
    Config,
    'tickMs' | 'snapshotMs' | 'promoteMax' | 'examineMax' | 'reapMax' | 'entriesMax' | 'recoverySeconds'
  >;
  redis: Redis;
  rooms: RoomStore;
  log: Log;
  metrics: Metrics;
}): Promise<Role> => {
  const { config, redis, rooms: store, log, metrics } = options;
  const memories = new Map<RoomId, Memory>();
  const written = new Map<RoomId, string>();
  let rememberedAt = 0;
  let redisUp = true;
  let stopped = false;

  for (const row of await store.list()) {
    const memory = await store.memoryOf(row.room);
    if (memory !== undefined) memories.set(row.room, memory);
  }

  /** Makes a lost room again. Only rooms somebody remembers: a room nobody remembers stays closed. */
  const recoverRoom = async (room: RoomId): Promise<void> => {
    const memory = memories.get(room);
    const row = await store.get(room);
    if (memory === undefined || row === undefined) return;
    const done = await recover.run(redis, roomKeys(room), {
      nowMs: '',
      version: row.version,
      settings: JSON.stringify(row.settings),
      head: memory.head,
      nextNumber: memory.nextNumber,
      recoverySeconds: config.recoverySeconds,
      remembered: 1,
    });
    await redis.sadd(roomsKey, room);
    if (done.outcome === 'recovered') {
      metrics.inc('recoveries_total', { room });
      log.warn('room-recovered', { room, head: memory.head, untilMs: done.untilMs });
    }
  };

  const promoteAll = async (room: RoomId): Promise<boolean> => {
    for (let call = 0; call < CALLS_PER_TICK_MAX; call += 1) {
      const done = await promote.run(redis, roomKeys(room), {
        nowMs: '',
        promoteMax: config.promoteMax,
        examineMax: config.examineMax,
      });
      if (done.outcome === 'unknown') return false;
      if (done.outcome !== 'promoted') return true;
      metrics.inc('promoted_total', { room }, done.promoted);
      metrics.inc('parked_total', { room }, done.parked);
      if (!done.more) return true;
    }
    return true;
  };

  const measure = async (room: RoomId): Promise<void> => {
    const begun = performance.now();
    const done = await snapshot.run(redis, roomKeys(room), {
      nowMs: '',
      freshMs: Math.floor(config.snapshotMs * 0.9),
      firstMax: FIRST_MAX,
      anchorsMax: ANCHORS_MAX,
    });
    if (done.outcome !== 'snapshot') return;
    const read = parseSnapshot(done.json);
    if (read === undefined) return;
    metrics.observe('snapshot_seconds', {}, (performance.now() - begun) / 1000);
    metrics.set('places', { room, state: 'waiting' }, read.waiting);
    metrics.set('places', { room, state: 'parked' }, read.parked);
    metrics.set('places', { room, state: 'withheld' }, read.withheld);
    metrics.set('places', { room, state: 'promoted' }, read.promoted);
    metrics.set('places', { room, state: 'active' }, read.active);
    memories.set(room, { head: read.head, nextNumber: read.nextNumber, epoch: read.epoch });
  };

  const tickRoom = async (room: RoomId): Promise<void> => {
    const begun = performance.now();
    if (!(await promoteAll(room))) await recoverRoom(room);
    const reaped = await reap.run(redis, roomKeys(room), {
      nowMs: '',
      reapMax: config.reapMax,
      entriesMax: config.entriesMax,
    });
    if (reaped.outcome === 'reaped') {
      metrics.inc('missed_total', { room }, reaped.missed + reaped.finished);
      metrics.inc('reaped_total', { room }, reaped.expired);
    }
    metrics.observe('tick_seconds', {}, (performance.now() - begun) / 1000);
    await measure(room);
  };

  /** Keeps head and counter in SQL too, so that a restart with an empty Redis still knows them. */
  const remember = async (): Promise<void> => {
    if (performance.now() - rememberedAt < REMEMBER_EVERY_MS) return;
    rememberedAt = performance.now();
    for (const [room, memory] of memories) {
      const text = JSON.stringify(memory);
      if (written.get(room) === text) continue;
      await store.remember(room, memory);
      written.set(room, text);
    }
  };

  const tick = async (): Promise<void> => {
    const names = await redis.smembers(roomsKey);
    const known = new Set(names.map(parseRoomId).filter((room): room is RoomId => room !== undefined));
    for (const room of memories.keys()) known.add(room);
    for (const room of known) {
      if (stopped) return;
      await tickRoom(room);
    }
    if (!redisUp) log.info('dispatcher-back');
    redisUp = true;
  };

  const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
  const loop = async (): Promise<void> => {
    while (!stopped) {
      const begun = performance.now();
      try {
        await tick();
      } catch (error) {
        if (redisUp) log.warn('dispatcher-waits', { error: error instanceof Error ? error : String(error) });
        redisUp = false;
      }
      metrics.set('redis_up', {}, redisUp ? 1 : 0);
      try {
        await remember();
      } catch (error) {
        // The line goes on without SQL; only a restart of everything would miss what could not be written.
        log.warn('memory-not-written', { error: error instanceof Error ? error : String(error) });
      }
      await pause(Math.max(1, config.tickMs - (performance.now() - begun)));
    }
  };
  const running = loop();

  return {
    name: 'dispatcher',
    async stop() {
      stopped = true;
      await running;
    },
    ready: async () => ({ redis: redisUp }),
  };
};
