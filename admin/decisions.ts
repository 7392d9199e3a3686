// What security staff see and do: the decisions that were not `allow`, newest first, with their reasons in words,
// and giving a withheld place back where an unblocked twin would stand. The gateway writes the records; what
// stands in them came from strangers and is passed on as plain text.

import type { Clock } from '../kernel/clock.ts';
import { Refusal } from '../kernel/errors.ts';
import { json } from '../kernel/http.ts';
import { parsePlaceId, parseRoomId, type RoomId } from '../kernel/ids.ts';
import type { Log } from '../kernel/log.ts';
import { orElse, orUnavailable, type Redis } from '../kernel/redis.ts';
import type { Sql } from '../kernel/sql.ts';
import type { RoomStore } from '../line/rooms.ts';
import { release, roomKeys } from '../lua/room.ts';
import { appendAudit } from './audit.ts';
import { readBody, readInteger, readQuery, readRoom } from './input.ts';
import type { AdminHandler } from './rooms.ts';

export type DecisionRow = {
  decision: string;
  room: string;
  at: number;
  placeId: string;
  number: number;
  verdict: string;
  weight: number;
  reasons: { check: string; words: string }[];
  agent: string;
  addressPrefix: string;
  /** Whether the place still stands apart; false once released, left or promoted. */
  withheld: boolean;
};

const LIMIT_MAX = 200;
const REASONS_MAX = 20;
/** A filter looks through at most this many records of a room before it gives what it has found. */
const EXAMINED_MAX = 2000;
const PAGE = 250;
const DECISION = /^([a-z0-9-]{1,32})\.(\d{1,16}-\d{1,10})$/;
const VERDICTS = ['challenge', 'tarpit', 'block'];

/** `[{check, words}]` from JSON that another process wrote; anything else is left out. */
const reasonsOf = (text: string): { check: string; words: string }[] => {
  let raw: unknown;
  try {
    raw = JSON.parse(text);
  } catch {
    return []; // A record of another version: the verdict is still worth showing.
  }
  if (!Array.isArray(raw)) return [];
  return raw.slice(0, REASONS_MAX).flatMap((reason: unknown) => {
    if (typeof reason !== 'object' || reason === null) return [];
    const check = 'check' in reason ? String(reason.check) : '';
    const words = 'words' in reason ? String(reason.words) : check;
    return [{ check: check.slice(0, 60), words: words.slice(0, 300) }];
  });
};

const rowOf = (room: RoomId, id: string, flat: readonly string[]): Omit<DecisionRow, 'withheld'> => {
  const fields = new Map<string, string>();
  for (let index = 0; index + 1 < flat.length; index += 2) fields.set(flat[index]!, flat[index + 1]!);
  const text = (name: string, charsMax: number): string => (fields.get(name) ?? '').slice(0, charsMax);
  return {
    decision: `${room}.${id}`,
    room,
    at: Number(fields.get('at') ?? id.split('-')[0]),
    placeId: text('placeId', 16),
    number: Number(fields.get('number') ?? 0),
    verdict: text('verdict', 20),
    weight: Number(fields.get('weight') ?? 0),
    reasons: reasonsOf(fields.get('reasons') ?? '[]'),
    agent: text('agent', 400),
    addressPrefix: text('address', 60),
  };
};

export const createDecisionRoutes = (options: {
  sql: Sql;
  redis: Redis;
  rooms: RoomStore;
  clock: Clock;
  log: Log;
}) => {
  const { sql, redis, rooms, clock, log } = options;

  const read = async (
    room: RoomId,
    { verdict, limit, before }: { verdict: string; limit: number; before: string },
  ): Promise<Omit<DecisionRow, 'withheld'>[]> => {
    const found: Omit<DecisionRow, 'withheld'>[] = [];
    let from = before === '' ? '+' : `(${before}`;
    for (let examined = 0; examined < EXAMINED_MAX && found.length < limit; examined += PAGE) {
      const records = await redis.xrevrange(roomKeys(room).decisions, from, '-', 'COUNT', PAGE);
      for (const [id, flat] of records) {
        const row = rowOf(room, id, flat);
        if ((verdict === '' || row.verdict === verdict) && found.length < limit) found.push(row);
      }
      const last = records.at(-1);
      if (last === undefined || records.length < PAGE) break;
      from = `(${last[0]}`;
    }
    return found;
  };

  const withStates = (rows: Omit<DecisionRow, 'withheld'>[]): Promise<DecisionRow[]> =>
    Promise.all(
      rows.map(async (row) => {
        const room = parseRoomId(row.room);
        const score = room === undefined ? null : await redis.zscore(roomKeys(room).withheld, row.placeId);
        return { ...row, withheld: score !== null };
      }),
    );

  const list: AdminHandler = async (request) => {
    const query = readQuery(request, ['room', 'verdict', 'limit', 'before']);
    const limit = readInteger(query, 'limit', { min: 1, max: LIMIT_MAX, fallback: 50 });
    const verdict = query.get('verdict') ?? '';
    if (verdict !== '' && !VERDICTS.includes(verdict))
      throw new Refusal('bad-field', { detail: `verdict must be one of ${VERDICTS.join(', ')}` });
    const name = query.get('room');
    const beforeMatch = DECISION.exec(query.get('before') ?? '');
    if (query.has('before') && (beforeMatch === null || beforeMatch[1] !== name))
      throw new Refusal('bad-field', { detail: 'before must be a decision of the room that is asked for' });
    const asked = name === undefined ? (await rooms.list()).map((row) => row.room) : [readRoom(name)];
    if (name !== undefined && (await rooms.get(asked[0]!)) === undefined) throw new Refusal('room-unknown');
    const before = beforeMatch?.[2] ?? '';
    const rows = await orUnavailable(
      Promise.all(
        asked.map((room) =>
          orElse(
            () => read(room, { verdict, limit, before }),
            (error) => {
              log.warn('decisions-unreadable', { room, error });
              return [];
            },
          ),
        ),
      ).then((lists) =>
        withStates(
          lists
            .flat()
            .sort((a, b) => b.at - a.at)
            .slice(0, limit),
        ),
      ),
    );
    return json(200, { decisions: rows });
  };

  const releaseOne: AdminHandler = async (request, operator) => {
    readBody(request, { known: [], emptyAllowed: true });
    const match = DECISION.exec(request.params.decision ?? '');
    const room = parseRoomId(match?.[1]);
    const id = match?.[2];
    if (room === undefined || id === undefined)
      throw new Refusal('bad-id', { detail: 'a decision is `<room>.<milliseconds>-<count>`' });
    const record = (await orUnavailable(redis.xrange(roomKeys(room).decisions, id, id)))[0];
    const row = record === undefined ? undefined : rowOf(room, record[0], record[1]);
    const placeId = parsePlaceId(row?.placeId);
    if (row === undefined || placeId === undefined) throw new Refusal('decision-missing');
    // Released inside the transaction: without a line in the audit trail nobody is let go. Run again after a
    // failed commit, the script answers notWithheld, which is then what is recorded.
    const done = await sql.transaction(async (tx) => {
      const released = await orUnavailable(release.run(redis, roomKeys(room), { nowMs: '', placeId }));
      if (released.outcome === 'unknown') throw new Refusal('unavailable');
      await appendAudit(
        tx,
        {
          operator: operator.name,
          action: 'decision.release',
          room,
          detail: {
            operatorId: operator.id,
            decision: row.decision,
            number: row.number,
            verdict: row.verdict,
            outcome: released.outcome,
          },
        },
        { nowMs: clock.nowMs(), log },
      );
      return released;
    });
    return json(200, { decision: row.decision, number: row.number, outcome: done.outcome });
  };

  return { list, releaseOne };
};
