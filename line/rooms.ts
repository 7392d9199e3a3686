// The master copy of the rooms, in SQL: settings with their version, and what is remembered of the line for the
// day Redis loses its data. Admin writes settings, dispatchers write memories; both read here. Promises: a save
// over a version the editor has not seen is refused, and a memory is never replaced by an older one.

import type { RoomId } from '../kernel/ids.ts';
import { parseRoomId } from '../kernel/ids.ts';
import { roomsKey } from '../kernel/keys.ts';
import type { Log } from '../kernel/log.ts';
import { orElse, type Redis } from '../kernel/redis.ts';
import { migrate, type Row, type Sql } from '../kernel/sql.ts';
import { configure, roomKeys } from '../lua/room.ts';
import { readStoredSettings, type Settings, type SettingsFault } from './settings.ts';

export type RoomRow = {
  room: RoomId;
  settings: Settings;
  version: number;
  createdAtMs: number;
  /** What this version cannot read of what is stored. */
  faults: readonly SettingsFault[];
};
/**
 * `head` and `nextNumber` as the last snapshot had them, and the sale and epoch they belong to; with them, since
 * that is kept, when it was measured (Redis's clock) and how many stood in line, parked ones included.
 */
export type RoomMemory = {
  sale: number;
  head: number;
  nextNumber: number;
  epoch: number;
  atMs?: number;
  waiting?: number;
};
/** A connection or a transaction: whoever may run one statement. */
export type Queries = Pick<Sql, 'query'>;

export type RoomStore = {
  migrate(): Promise<void>;
  /** At most `ROOMS_MAX`, by name. */
  list(): Promise<RoomRow[]>;
  get(room: RoomId): Promise<RoomRow | undefined>;
  create(
    room: RoomId,
    settings: Settings,
    within?: Queries,
  ): Promise<{ outcome: 'exists' } | { outcome: 'created'; row: RoomRow }>;
  /** Writes what has changed, and leaves the rest as it is stored, whichever version wrote it. */
  save(
    room: RoomId,
    change: { changed: Partial<Settings>; seenVersion: number },
    within?: Queries,
  ): Promise<{ outcome: 'missing' | 'conflict' } | { outcome: 'saved'; row: RoomRow }>;
  /** Writes nothing when what is remembered is newer: of a later sale or epoch, or with a higher next number. */
  remember(room: RoomId, memory: RoomMemory): Promise<void>;
  /** Undefined means: this room was never configured in Redis. */
  memoryOf(room: RoomId): Promise<RoomMemory | undefined>;
};

/** Every process looks at every room each tick; more of them belong on another installation. */
export const ROOMS_MAX = 500;

const rowOf = (row: Row): RoomRow => ({
  room: row.id as RoomId, // Checked where it was created.
  ...readStoredSettings(row.settings),
  version: Number(row.version),
  createdAtMs: Number(row.created_ms),
});

const COLUMNS = 'id, settings, version, (extract(epoch FROM created_at) * 1000)::bigint AS created_ms';

export const createRoomStore = (sql: Sql): RoomStore => ({
  async migrate() {
    await migrate(sql, { name: 'rooms', folder: new URL('./sql/', import.meta.url) });
  },
  async list() {
    const rows = await sql.query(`SELECT ${COLUMNS} FROM rooms ORDER BY id LIMIT $1`, [ROOMS_MAX]);
    return rows.filter(({ id }) => parseRoomId(id) !== undefined).map(rowOf);
  },
  async get(room) {
    const rows = await sql.query(`SELECT ${COLUMNS} FROM rooms WHERE id = $1`, [room]);
    return rows[0] === undefined ? undefined : rowOf(rows[0]);
  },
  async create(room, settings, within = sql) {
    const rows = await within.query(
      `INSERT INTO rooms (id, settings, sale) VALUES ($1, $2::text::jsonb, $3)
       ON CONFLICT (id) DO NOTHING RETURNING ${COLUMNS}`,
      [room, JSON.stringify(settings), settings.sale],
    );
    return rows[0] === undefined ? { outcome: 'exists' } : { outcome: 'created', row: rowOf(rows[0]) };
  },
  async save(room, { changed, seenVersion }, within = sql) {
    const rows = await within.query(
      `UPDATE rooms SET settings = settings || $2::text::jsonb, sale = coalesce($3, sale), version = version + 1
       WHERE id = $1 AND version = $4 RETURNING ${COLUMNS}`,
      [room, JSON.stringify(changed), changed.sale ?? null, seenVersion],
    );
    if (rows[0] !== undefined) return { outcome: 'saved', row: rowOf(rows[0]) };
    const there = await within.query('SELECT 1 AS one FROM rooms WHERE id = $1', [room]);
    return { outcome: there.length === 0 ? 'missing' : 'conflict' };
  },
  async remember(room, memory) {
    await sql.query(
      `UPDATE rooms SET memory = $2::text::jsonb WHERE id = $1 AND (memory IS NULL OR
         (coalesce((memory->>'sale')::numeric, 0), (memory->>'epoch')::numeric, (memory->>'nextNumber')::numeric)
           <= ($3::numeric, $4::numeric, $5::numeric))`,
      [room, JSON.stringify(memory), memory.sale, memory.epoch, memory.nextNumber],
    );
  },
  async memoryOf(room) {
    const rows = await sql.query('SELECT memory FROM rooms WHERE id = $1 AND memory IS NOT NULL', [room]);
    if (rows[0] === undefined) return undefined;
    // Only `remember` writes this column, and it writes a RoomMemory.
    return rows[0].memory as RoomMemory;
  },
});

/** The head of a line that nobody has left yet: below every score, as lua/room/configure sets it. */
export const HEAD_AT_START = -1_099_511_627_777;

/**
 * Brings Redis to the version that SQL has. A room that was never in Redis is made there; one that was and is gone
 * answers `lost`, and making it again is the dispatcher's work (lua/room/recover), because only the dispatcher
 * knows where the line stood.
 */
export const applyRoom = async (options: {
  rooms: RoomStore;
  redis: Redis;
  row: RoomRow;
}): Promise<'created' | 'configured' | 'current' | 'lost'> => {
  const { rooms, redis, row } = options;
  const memory = await rooms.memoryOf(row.room);
  const done = await configure.run(redis, roomKeys(row.room), {
    nowMs: '',
    version: row.version,
    settings: JSON.stringify(row.settings),
    create: memory === undefined ? 1 : 0,
  });
  await redis.sadd(roomsKey, row.room);
  switch (done.outcome) {
    case 'created':
      await rooms.remember(row.room, {
        sale: row.settings.sale,
        head: HEAD_AT_START,
        nextNumber: 0,
        epoch: done.epoch,
      });
      return 'created';
    case 'configured':
      return 'configured';
    case 'stale':
      return 'current';
    default:
      return 'lost';
  }
};

/**
 * Brings every room of SQL into effect; safe at any time and from any number of processes. One that cannot be is said,
 * and the others are.
 */
export const syncRooms = async (options: { rooms: RoomStore; redis: Redis; log: Log }): Promise<void> => {
  for (const row of await options.rooms.list()) {
    if (row.faults.length > 0)
      options.log.warn('settings-unreadable', { room: row.room, version: row.version, faults: row.faults });
    await orElse<unknown>(
      () => applyRoom({ ...options, row }),
      (error) => options.log.error('room-not-applied', { room: row.room, error }),
    );
  }
};

/** Makes a room unless it exists; the settings of one that exists are left as their operators set them. */
export const ensureRoom = async (options: {
  rooms: RoomStore;
  redis: Redis;
  room: string;
  settings: Settings;
}): Promise<void> => {
  const { rooms, redis, settings } = options;
  const room = parseRoomId(options.room);
  if (room === undefined) throw new Error(`${options.room} is not a room name`);
  await rooms.create(room, settings);
  const row = await rooms.get(room);
  if (row !== undefined) await applyRoom({ rooms, redis, row });
};
