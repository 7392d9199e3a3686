// What operators do to rooms. A change goes to SQL first, in one transaction with its line in the audit trail, and
// then to Redis; when Redis cannot be reached just then, `applied` is false and the change follows by itself.

import { randomBytes } from 'node:crypto';
import type { Clock } from '../kernel/clock.ts';
import { Refusal } from '../kernel/errors.ts';
import { type Answer, json, type Request, type Stream } from '../kernel/http.ts';
import type { RoomId } from '../kernel/ids.ts';
import type { Log } from '../kernel/log.ts';
import { orUnavailable, type Redis } from '../kernel/redis.ts';
import type { Sql } from '../kernel/sql.ts';
import type { Tokens } from '../kernel/token.ts';
import { applyRoom, type RoomRow, type RoomStore } from '../line/rooms.ts';
import { defaultSettings, parseSettings, type Settings, type SettingsFault } from '../line/settings.ts';
import { notice, roomKeys } from '../lua/room.ts';
import { appendAudit } from './audit.ts';
import { readBody, readChoice, readInteger, readQuery, readRoom, readText, readVersion } from './input.ts';
import type { Live, Monitor } from './live.ts';
import type { Operator } from './operators.ts';
import { requireLook } from './rises.ts';

export type AdminHandler = (
  request: Request,
  operator: Operator,
) => Promise<Answer | Stream> | Answer | Stream;

const NOTICE_CHARS_MAX = 280;
export const noticeLevels = ['info', 'warning'] as const;

// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for.
const UNCLEAN = /[\u0000-\u001f\u007f]|\p{Surrogate}/u;

/** Settings from a caller over those in force. Throws settings-invalid with every fault. */
const readSettings = (input: Record<string, unknown>, base: Settings): Settings => {
  const faults: SettingsFault[] = [];
  const parsed = parseSettings(input, base);
  if (parsed.outcome === 'faults')
    faults.push(...parsed.faults.map(({ field, says }) => ({ field: field.slice(0, 60), says })));
  else {
    if (UNCLEAN.test(parsed.settings.title))
      faults.push({ field: 'title', says: 'must not contain control characters' });
    if (parsed.settings.sale < base.sale) faults.push({ field: 'sale', says: 'can only be raised' });
    if (faults.length === 0) return parsed.settings;
  }
  throw new Refusal('settings-invalid', {
    detail: faults
      .slice(0, 5)
      .map(({ field, says }) => `${field} ${says}`)
      .join('; '),
    extra: { faults: faults.slice(0, 50) },
  });
};

/** The fields that differ, with both values: what the audit trail shows. */
const differences = (before: Settings, after: Settings): Record<string, { from: unknown; to: unknown }> => {
  const changed: Record<string, { from: unknown; to: unknown }> = {};
  for (const [name, to] of Object.entries(after)) {
    // Both are whole Settings, so every name of one is a name of the other.
    const from = before[name as keyof Settings];
    if (JSON.stringify(from) !== JSON.stringify(to)) changed[name] = { from, to };
  }
  return changed;
};

export const createRoomRoutes = (options: {
  sql: Sql;
  redis: Redis;
  rooms: RoomStore;
  monitor: Monitor;
  tokens: Tokens;
  clock: Clock;
  log: Log;
}) => {
  const { sql, redis, rooms, monitor, tokens, clock, log } = options;
  const audited = () => ({ nowMs: clock.nowMs(), log });

  const find = async (request: Request): Promise<RoomRow> => {
    const row = await rooms.get(readRoom(request.params.room));
    if (row === undefined) throw new Refusal('room-unknown');
    return row;
  };

  /** Redis may be away; what SQL knows is shown anyway. */
  const liveOf = async (room: RoomId): Promise<Live | null> => {
    try {
      return (await monitor.of(room)) ?? null;
    } catch (error) {
      log.warn('live-unavailable', { room, error: error instanceof Error ? error : String(error) });
      return null;
    }
  };

  const shown = ({ room, version, settings, createdAtMs }: RoomRow) => ({
    room,
    version,
    createdAt: createdAtMs,
    settings,
  });

  const putIntoEffect = async (row: RoomRow): Promise<boolean> => {
    try {
      return (await applyRoom({ rooms, redis, row })) !== 'lost';
    } catch (error) {
      log.warn('settings-not-applied-yet', {
        room: row.room,
        version: row.version,
        error: error instanceof Error ? error : String(error),
      });
      return false;
    }
  };

  const change = async (
    row: RoomRow,
    operator: Operator,
    { settings, seenVersion, action }: { settings: Settings; seenVersion: number; action: string },
  ): Promise<Answer> => {
    const saved = await sql.transaction(async (tx) => {
      const changes = differences(row.settings, settings);
      const changed = Object.fromEntries(Object.entries(changes).map(([name, { to }]) => [name, to]));
      const done = await rooms.save(row.room, { changed, seenVersion }, tx);
      if (done.outcome === 'saved')
        await appendAudit(
          tx,
          {
            operator: operator.name,
            action,
            room: row.room,
            detail: {
              operatorId: operator.id,
              version: done.row.version,
              changes,
            },
          },
          audited(),
        );
      return done;
    });
    if (saved.outcome !== 'saved')
      throw new Refusal(saved.outcome === 'missing' ? 'room-unknown' : 'settings-conflict');
    const applied = await putIntoEffect(saved.row);
    return json(200, { ...shown(saved.row), applied });
  };

  /** suspend and resume: one field, on whatever version stands, because nobody should lose a race to stop a sale. */
  const setSuspended =
    (suspended: boolean): AdminHandler =>
    async (request, operator) => {
      readBody(request, { known: [], emptyAllowed: true });
      for (let tries = 0; tries < 5; tries += 1) {
        const row = await find(request);
        try {
          return await change(row, operator, {
            settings: { ...row.settings, suspended },
            seenVersion: row.version,
            action: suspended ? 'room.suspend' : 'room.resume',
          });
        } catch (error) {
          if (!(error instanceof Refusal && error.code === 'settings-conflict')) throw error;
        }
      }
      throw new Refusal('settings-conflict');
    };

  const list: AdminHandler = async () => {
    const rows = await rooms.list();
    return json(200, {
      rooms: await Promise.all(rows.map(async (row) => ({ ...shown(row), live: await liveOf(row.room) }))),
    });
  };

  const show: AdminHandler = async (request) => {
    const row = await find(request);
    return json(200, { ...shown(row), live: await liveOf(row.room) });
  };

  const create: AdminHandler = async (request, operator) => {
    const { room: name, ...given } = readBody(request, {});
    const room = readRoom(typeof name === 'string' ? name : undefined);
    const settings = readSettings(given, defaultSettings);
    const done = await sql.transaction(async (tx) => {
      const created = await rooms.create(room, settings, tx);
      if (created.outcome === 'created')
        await appendAudit(
          tx,
          {
            operator: operator.name,
            action: 'room.create',
            room,
            detail: { operatorId: operator.id, changes: differences(defaultSettings, settings) },
          },
          audited(),
        );
      return created;
    });
    if (done.outcome === 'exists') throw new Refusal('room-exists');
    return json(201, { ...shown(done.row), applied: await putIntoEffect(done.row) });
  };

  const patch: AdminHandler = async (request, operator) => {
    const row = await find(request);
    const { version: _, confirm, ...given } = readBody(request, {});
    const seenVersion = readVersion({ version: _ });
    if (confirm !== undefined && typeof confirm !== 'string')
      throw new Refusal('bad-field', { detail: 'confirm must be the text from `preview`' });
    if (Object.keys(given).length === 0)
      throw new Refusal('bad-field', { detail: 'send at least one setting to change' });
    const settings = readSettings(given, row.settings);
    if (row.version !== seenVersion) throw new Refusal('settings-conflict');
    requireLook({
      tokens,
      nowMs: clock.nowMs(),
      operatorId: operator.id,
      room: row.room,
      version: row.version,
      before: row.settings,
      after: settings,
      confirm,
    });
    return change(row, operator, { settings, seenVersion, action: 'room.change' });
  };

  const sayNotice: AdminHandler = async (request, operator) => {
    const { room } = await find(request);
    const fields = readBody(request, { known: ['text', 'level'] });
    const text = readText(fields, 'text', { min: 0, max: NOTICE_CHARS_MAX });
    const level = readChoice({ level: 'info', ...fields }, 'level', noticeLevels);
    const noticeId = randomBytes(9).toString('base64url');
    await sql.transaction(async (tx) => {
      await appendAudit(
        tx,
        {
          operator: operator.name,
          action: text === '' ? 'notice.clear' : 'notice.send',
          room,
          detail: { operatorId: operator.id, noticeId, text, level },
        },
        audited(),
      );
      const said = await orUnavailable(
        notice.run(redis, roomKeys(room), { nowMs: '', noticeId, text, level }),
      );
      // Redis has just lost the room; a notice is worth a second try, so nothing is recorded.
      if (said.outcome === 'unknown') throw new Refusal('unavailable');
    });
    return json(201, { noticeId, text, level });
  };

  const history: AdminHandler = async (request) => {
    const minutes = readInteger(readQuery(request, ['minutes']), 'minutes', {
      min: 1,
      max: 15,
      fallback: 15,
    });
    const { room } = await find(request);
    return json(200, { room, samples: monitor.history(room, minutes) });
  };

  const live: AdminHandler = async (request) => {
    const { room } = await find(request);
    const stream = monitor.watch(room);
    if (stream === undefined) throw new Refusal('too-many-streams');
    return stream;
  };

  return {
    list,
    show,
    create,
    patch,
    suspend: setSuspended(true),
    resume: setSuspended(false),
    sayNotice,
    history,
    live,
  };
};
