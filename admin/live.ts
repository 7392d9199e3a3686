// The numbers of every room, second by second: read straight from the sets in Redis (so they are right even when
// no dispatcher runs), kept for a quarter of an hour for the chart, and pushed to whoever watches.

import type { Clock } from '../kernel/clock.ts';
import type { EventStream, Stream } from '../kernel/http.ts';
import { parseRoomId, type RoomId } from '../kernel/ids.ts';
import { roomsKey } from '../kernel/keys.ts';
import type { Log } from '../kernel/log.ts';
import { orElse, type Redis } from '../kernel/redis.ts';
import type { Calibration } from '../line/eta.ts';
import { readStoredSettings } from '../line/settings.ts';
import { type GateState, gateStateOf } from '../line/snapshot.ts';
import { roomKeys } from '../lua/room.ts';

export type Live = {
  atMs: number;
  version: number;
  waiting: number;
  parked: number;
  withheld: number;
  promoted: number;
  active: number;
  head: number;
  nextNumber: number;
  promotedTotal: number;
  promotedLastMinute: number;
  state: GateState;
  newUsersPerMinute: number;
  totalActiveUsers: number;
  notice: { text: string; level: string };
  /** The last recovery of the room, whether it still runs or is over; undefined where there was none. */
  recovery: Recovery | undefined;
  /** Estimates of waiting times that became known, and how many of them held, as in line/calibration.ts. */
  calibration: Pick<Calibration, 'right' | 'total'>;
};
export type Recovery = {
  reason: string;
  recoveredAtMs: number;
  untilMs: number;
  /** Places that were remembered and not there when it began. */
  lostWaiting: number;
  restored: number;
  adopted: number;
  adoptedOverCap: number;
};
/** One second of the chart. */
export type Sample = { atMs: number; waiting: number; active: number; promotedTotal: number };

const RECOVERY_FIELDS = [
  'recoverReason',
  'recoveredAt',
  'recoveringUntil',
  'lostWaiting',
  'restoredTotal',
  'adoptedTotal',
  'adoptedOverCapTotal',
] as const;
const recoveryOf = (fields: readonly (string | null)[]): Recovery | undefined => {
  const [reason, ...rest] = fields;
  if (typeof reason !== 'string') return undefined;
  const [recoveredAtMs = 0, untilMs = 0, lostWaiting = 0, restored = 0, adopted = 0, adoptedOverCap = 0] =
    rest.map((field) => Number(field ?? 0));
  return { reason, recoveredAtMs, untilMs, lostWaiting, restored, adopted, adoptedOverCap };
};

/** Reads one room; undefined while Redis does not know it. Six commands, none of which grows with the line. */
export const readLive = async (
  redis: Redis,
  room: RoomId,
): Promise<Omit<Live, 'promotedLastMinute'> | undefined> => {
  const keys = roomKeys(room);
  const [fields, waiting, parked, withheld, promoted, active, time] = await Promise.all([
    redis.hmget(
      keys.room,
      'settings',
      'version',
      'head',
      'nextNumber',
      'promotedTotal',
      'recoveringUntil',
      'suspended',
      'noticeText',
      'noticeLevel',
      'etaRight',
      'etaTotal',
      ...RECOVERY_FIELDS,
    ),
    redis.zcard(keys.line),
    redis.zcard(keys.parked),
    redis.zcard(keys.withheld),
    redis.zcard(keys.promoted),
    redis.zcard(keys.active),
    redis.time(),
  ]);
  const [settingsText, version, head, nextNumber, promotedTotal, recoveringUntil, suspended, ...rest] =
    fields;
  const [text, level, right, total] = rest;
  const recovery = recoveryOf(fields.slice(-RECOVERY_FIELDS.length));
  if (typeof settingsText !== 'string') return undefined;
  const stored = readStoredSettings(JSON.parse(settingsText));
  // A room that nobody remembered is recovered suspended whatever its settings say; the hash has the last word.
  const settings = { ...stored.settings, suspended: suspended === '1' };
  const atMs = Number(time[0]) * 1000 + Math.floor(Number(time[1]) / 1000);
  return {
    atMs,
    version: Number(version),
    waiting,
    parked,
    withheld,
    promoted,
    active,
    head: Number(head ?? 0),
    nextNumber: Number(nextNumber ?? 0),
    promotedTotal: Number(promotedTotal ?? 0),
    state: gateStateOf({ settings, recoveringUntil: Number(recoveringUntil ?? 0) }, atMs),
    newUsersPerMinute: settings.newUsersPerMinute,
    totalActiveUsers: settings.totalActiveUsers,
    notice: { text: text ?? '', level: level ?? '' },
    recovery,
    calibration: { right: Number(right ?? 0), total: Number(total ?? 0) },
  };
};

const SAMPLE_MS = 1000;
const HISTORY_MS = 15 * 60 * 1000;
const SAMPLES_MAX = HISTORY_MS / SAMPLE_MS + 5;
/** A watcher is asked to come back, and to prove again who it is, after this long. */
const WATCH_MS = 5 * 60 * 1000;
const WATCHERS_MAX = 200;

export type Monitor = {
  /** The last reading; reads anew for a room that has none yet. Throws when Redis cannot be reached. */
  of(room: RoomId): Promise<Live | undefined>;
  history(room: RoomId, minutes: number): Sample[];
  /** An event stream of `live` events; undefined when too many watch. */
  watch(room: RoomId): Stream | undefined;
  /** Whether the last pass succeeded. */
  up(): boolean;
  stop(): Promise<void>;
};

export const createMonitor = (options: {
  redis: Redis;
  clock: Clock;
  log: Log;
  /** Called after each pass with what was read, for whoever compares it with SQL. */
  onPass?: (seen: ReadonlyMap<RoomId, Live>) => Promise<void>;
}): Monitor => {
  const { redis, clock, log, onPass } = options;
  const latest = new Map<RoomId, Live>();
  const rings = new Map<RoomId, Sample[]>();
  const watchers = new Map<EventStream, { room: RoomId; untilMs: number }>();
  let watching = 0;
  let up = true;
  let stopped = false;
  let wake: () => void = () => undefined;

  const minuteOf = (room: RoomId, now: { atMs: number; promotedTotal: number }): number => {
    const ring = rings.get(room) ?? [];
    const first = ring.find((sample) => sample.atMs >= now.atMs - 60_000);
    // After a loss of Redis the counter begins again; a negative rate would be nonsense.
    return first === undefined ? 0 : Math.max(0, now.promotedTotal - first.promotedTotal);
  };

  /** Why a room could not be read, as it was said last. */
  const told = new Map<RoomId, string>();

  const read = async (room: RoomId): Promise<Live | undefined> => {
    const raw = await readLive(redis, room);
    if (raw === undefined) {
      latest.delete(room);
      return undefined;
    }
    const live = { ...raw, promotedLastMinute: minuteOf(room, raw) };
    told.delete(room);
    latest.set(room, live);
    return live;
  };

  /** A room that cannot be read is shown as one of which nothing is known; the log says why, once. */
  const unreadable =
    (room: RoomId) =>
    (error: Error): undefined => {
      latest.delete(room);
      if (told.get(room) !== error.message) log.error('room-unreadable', { room, error });
      told.set(room, error.message);
    };

  const push = (): void => {
    const frames = new Map<RoomId, string>();
    for (const [stream, { room, untilMs }] of watchers) {
      if (clock.monotonicMs() > untilMs) {
        stream.end();
        continue;
      }
      let frame = frames.get(room);
      if (frame === undefined) {
        const live = up ? latest.get(room) : undefined;
        frame =
          live === undefined
            ? 'event: unavailable\ndata: {}\n\n'
            : `event: live\ndata: ${JSON.stringify(live)}\n\n`;
        frames.set(room, frame);
      }
      stream.write(frame);
    }
  };

  const pass = async (): Promise<void> => {
    const names = (await redis.smembers(roomsKey)).map(parseRoomId);
    const rooms = names.filter((room): room is RoomId => room !== undefined);
    await Promise.all(rooms.map((room) => orElse(() => read(room), unreadable(room))));
    for (const room of latest.keys()) if (!rooms.includes(room)) latest.delete(room);
    for (const [room, { atMs, waiting, active, promotedTotal }] of latest) {
      const ring = rings.get(room) ?? [];
      ring.push({ atMs, waiting, active, promotedTotal });
      if (ring.length > SAMPLES_MAX) ring.splice(0, ring.length - SAMPLES_MAX);
      rings.set(room, ring);
    }
  };

  const loop = async (): Promise<void> => {
    while (!stopped) {
      const begun = clock.monotonicMs();
      try {
        await pass();
        if (!up) log.info('monitor-back');
        up = true;
      } catch (error) {
        if (up) log.warn('monitor-blind', { error: error instanceof Error ? error : String(error) });
        up = false;
      }
      push();
      try {
        if (up) await onPass?.(latest);
      } catch (error) {
        log.warn('monitor-sync-failed', { error: error instanceof Error ? error : String(error) });
      }
      await new Promise<void>((resolve) => {
        wake = resolve;
        setTimeout(resolve, Math.max(50, SAMPLE_MS - (clock.monotonicMs() - begun)));
      });
    }
  };
  const running = loop();

  return {
    of: (room) => read(room),
    history(room, minutes) {
      const ring = rings.get(room) ?? [];
      const from = (ring.at(-1)?.atMs ?? 0) - minutes * 60_000;
      return ring.filter((sample) => sample.atMs >= from);
    },
    watch(room) {
      if (watching >= WATCHERS_MAX) return undefined;
      watching += 1;
      let opened: EventStream | undefined;
      return {
        stream: true,
        open(stream) {
          opened = stream;
          watchers.set(stream, { room, untilMs: clock.monotonicMs() + WATCH_MS });
          const live = latest.get(room);
          stream.write(
            `retry: 1000\n${live === undefined ? ':\n\n' : `event: live\ndata: ${JSON.stringify(live)}\n\n`}`,
          );
        },
        closed() {
          watching -= 1;
          if (opened !== undefined) watchers.delete(opened);
        },
      };
    },
    up: () => up,
    async stop() {
      stopped = true;
      for (const stream of watchers.keys()) stream.end();
      wake();
      await running;
    },
  };
};
