// The dispatcher: who goes in. Each tick it promotes in every room, reaps what has run out, and once a second
// measures the room for everybody. It decides nothing itself: rate, cap and gate are decided inside the scripts,
// so any number of dispatchers may tick at once and none leads. When Redis has lost a room it is the one that
// makes it again, from SQL and from what it remembers. What fails in one room fails there alone (turns.ts).

import type { Config } from '../kernel/config.ts';
import { parseRoomId, type RoomId } from '../kernel/ids.ts';
import { roomsKey } from '../kernel/keys.ts';
import type { Log } from '../kernel/log.ts';
import type { Metrics } from '../kernel/metrics.ts';
import type { Redis } from '../kernel/redis.ts';
import type { Role } from '../kernel/role.ts';
import type { RoomMemory, RoomStore } from '../line/rooms.ts';
import { close, promote, reap, roomKeys } from '../lua/room.ts';
import { createSurveyor } from './measure.ts';
import { createReplication, memoryAfter, textOf } from './replication.ts';
import { createTurns } from './turns.ts';
import { createWatcher } from './watcher.ts';

const REMEMBER_EVERY_MS = 2000;

export const createDispatcher = async (options: {
  config: Pick<
    Config,
    | 'tickMs'
    | 'snapshotMs'
    | 'promoteMax'
    | 'examineMax'
    | 'reapMax'
    | 'entriesMax'
    | 'recoverySeconds'
    | 'failoverSeconds'
  >;
  redis: Redis;
  /** Another connection, made with `blocking`, for the watcher. */
  reader: Redis;
  rooms: RoomStore;
  log: Log;
  metrics: Metrics;
}): Promise<Role> => {
  const { config, redis, rooms: store, log, metrics } = options;
  const surveyor = createSurveyor({ config, redis, metrics });
  const memories = new Map<RoomId, RoomMemory>();
  const written = new Map<RoomId, string>();
  const watcher = createWatcher({ reader: options.reader, redis, log, metrics });
  const turns = createTurns({ log, metrics });
  redis.on('ready', turns.reset);
  const replication = createReplication({ config, redis, rooms: store, memories, turns, log, metrics });
  let rememberedAt = 0;
  let redisUp = true;
  let stopped = false;

  for (const row of await store.list()) {
    const memory = await store.memoryOf(row.room);
    if (memory !== undefined) memories.set(row.room, memory);
  }

  /**
   * Each call examines a bounded number of places. As long as it says that there are more, it is repeated at once:
   * a lump of people who are away must not keep those behind them waiting. After a tick the other rooms have their
   * turn, and `more` says that this one is not done.
   */
  const promoteAll = async (room: RoomId): Promise<{ isKnown: boolean; isDone: boolean }> => {
    const until = performance.now() + config.tickMs;
    while (performance.now() < until) {
      const done = await promote.run(redis, roomKeys(room), {
        nowMs: '',
        promoteMax: config.promoteMax,
        examineMax: config.examineMax,
      });
      if (done.outcome === 'unknown') return { isKnown: false, isDone: true };
      if (done.outcome !== 'promoted') return { isKnown: true, isDone: true };
      metrics.inc('promoted_total', { room }, done.promoted);
      metrics.inc('parked_total', { room }, done.parked);
      if (!done.more) return { isKnown: true, isDone: true };
    }
    return { isKnown: true, isDone: false };
  };

  const closeSale = async (room: RoomId): Promise<void> => {
    const closed = await close.run(redis, roomKeys(room), { nowMs: '' });
    if (closed.outcome === 'closed') log.info('sale-over', { room });
  };

  const reapRoom = async (room: RoomId): Promise<void> => {
    const reaped = await reap.run(redis, roomKeys(room), {
      nowMs: '',
      reapMax: config.reapMax,
      entriesMax: config.entriesMax,
    });
    if (reaped.outcome !== 'reaped') return;
    metrics.inc('missed_total', { room }, reaped.missed + reaped.finished);
    metrics.inc('reaped_total', { room }, reaped.expired);
    if (reaped.unreadable.length === 0) return;
    metrics.inc('unreadable_total', { room }, reaped.unreadable.length);
    const [first] = reaped.unreadable;
    log.error('places-unreadable', { room, command: 'room.reap', count: reaped.unreadable.length, first });
  };

  /** Answers whether the room needs another look at once. */
  const tickRoom = async (room: RoomId): Promise<boolean> => {
    const begun = performance.now();
    const attempt = <T>(command: string, work: () => Promise<T>) => turns.attempt(room, command, work);
    const promoted = await attempt('room.promote', () => promoteAll(room));
    if (promoted?.isKnown === false) await attempt('room.recover', () => replication.recover(room));
    await attempt('room.reap', () => reapRoom(room));
    metrics.observe('tick_seconds', {}, (performance.now() - begun) / 1000);
    const measured = await attempt('room.measure', () => surveyor.measure(room));
    if (measured !== undefined) {
      memories.set(room, memoryAfter(memories.get(room), measured));
      // Once a second, by whoever measured, and only where a close is set at all: ending a sale is in no hurry.
      if (measured.settings.closesAt > 0) await attempt('room.close', () => closeSale(room));
    }
    return promoted?.isDone === false;
  };

  /** Keeps head and counter in SQL too, so that a restart with an empty Redis still knows them. */
  const remember = async (): Promise<void> => {
    if (performance.now() - rememberedAt < REMEMBER_EVERY_MS) return;
    rememberedAt = performance.now();
    for (const [room, memory] of memories) {
      const text = textOf(memory);
      if (written.get(room) === text) continue;
      await store.remember(room, memory);
      written.set(room, text);
    }
  };

  /** Answers whether a room needs another look at once. */
  const tick = async (): Promise<boolean> => {
    const names = await redis.smembers(roomsKey);
    const known = new Set(names.map(parseRoomId).filter((room): room is RoomId => room !== undefined));
    for (const room of memories.keys()) known.add(room);
    const mayTouch = await replication.check(known);
    let isBusy = false;
    for (const room of known) {
      if (stopped) return false;
      if (!mayTouch(room)) continue;
      await turns.attempt(room, 'watch', () => watcher.follow(room));
      if (await tickRoom(room)) isBusy = true;
    }
    if (!redisUp) log.info('dispatcher-back');
    redisUp = true;
    return isBusy;
  };

  const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
  const loop = async (): Promise<void> => {
    while (!stopped) {
      const begun = performance.now();
      let isBusy = false;
      try {
        isBusy = await tick();
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
      await pause(isBusy ? 0 : Math.max(1, config.tickMs - (performance.now() - begun)));
    }
  };
  const running = loop();

  return {
    name: 'dispatcher',
    async stop() {
      stopped = true;
      watcher.stop();
      await running;
    },
    ready: async () => ({ redis: redisUp }),
    failing: turns.failing,
  };
};
