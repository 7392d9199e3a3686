// Writes the ledger of every room: about once a second it reads what is new in the room's two streams and puts it
// into SQL as one more piece of the chain. It has a loop, a connection and failures of its own, so that the ticks
// of the dispatcher never wait for it. Any number of processes may do it at once.
//
// One piece goes like this. The end of the chain in SQL says up to which record each stream is written. One MULTI
// reads both streams and looks at the room at one instant, so that what is read is complete up to it in both.
// The records become rows (ledger-plan.ts), and rows and new end are written in one transaction that succeeds only
// while the end is still the one that was read: a record is written once, whoever else writes and whenever somebody
// crashes.
//
// Streams are trimmed, and Redis can lose its newest data. `entries-added` counts every record a stream ever had,
// so a hole shows as a difference; it becomes a `gap` row, which claims nothing.

import type { Config } from '../kernel/config.ts';
import { parseRoomId, type RoomId } from '../kernel/ids.ts';
import { roomsKey } from '../kernel/keys.ts';
import type { Log } from '../kernel/log.ts';
import type { Metrics } from '../kernel/metrics.ts';
import type { Redis } from '../kernel/redis.ts';
import type { Sql } from '../kernel/sql.ts';
import type { Tokens } from '../kernel/token.ts';
import { fieldsOf, type Limits, parseEntry, placesIn, visitsIn } from '../line/entries.ts';
import {
  type ChainEnd,
  chained,
  chainStart,
  type GapReason,
  type LedgerEvent,
  type LedgerVisit,
} from '../line/ledger.ts';
import {
  createLedgerStore,
  type LedgerEnd,
  type LedgerPiece,
  type StreamCursor,
} from '../line/ledger-store.ts';
import { roomKeys } from '../lua/room.ts';
import { eventOf, type JoinRecord, mergeRecords, type Read, saleOfStep } from './ledger-plan.ts';

/** Records of each stream in one piece: 32,000 joins, or at worst 3 MB of entries; a few milliseconds of Redis. */
const READ_MAX = 250;
/** Pieces of one room in one pass; a room that is behind by more does not keep the others waiting. */
const PIECES_MAX = 20;
const HEAD_EVERY_MS = 60_000;

type RawRecord = readonly [id: string, flat: string[]];
/** `records` begins with the one at the cursor, when it is still there. */
type StreamLook = {
  lastId: string;
  firstId: string;
  added: number;
  length: number;
  records: readonly RawRecord[];
};
/** A room at one instant. */
type Cut = {
  timeMs: number;
  joins: StreamLook;
  entries: StreamLook;
  room:
    | { limits: Limits; tokens: number; tokensAt: number; nextNumber: number; drawnAt: number | undefined }
    | undefined;
  inside: number;
};
type Hole = { reason: GapReason; records: number };

const compareIds = (a: string, b: string): number => {
  const [aMs = 0, aSeq = 0] = a.split('-').map(Number);
  const [bMs = 0, bSeq = 0] = b.split('-').map(Number);
  return aMs - bMs || aSeq - bSeq;
};

/** XINFO STREAM as it answers, names and values in turn; an error means that there is no such stream. */
const streamLook = (reply: unknown, range: unknown): StreamLook => {
  const fields = new Map<string, unknown>();
  if (Array.isArray(reply))
    for (let index = 0; index + 1 < reply.length; index += 2)
      fields.set(String(reply[index]), reply[index + 1]);
  else return { lastId: '0-0', firstId: '0-0', added: 0, length: 0, records: [] };
  const added = fields.get('entries-added');
  if (added === undefined)
    throw new Error('the ledger needs Redis 7: XINFO STREAM does not say entries-added');
  const first = fields.get('first-entry');
  return {
    lastId: String(fields.get('last-generated-id')),
    firstId: Array.isArray(first) ? String(first[0]) : '0-0',
    added: Number(added),
    length: Number(fields.get('length')),
    // XRANGE answers pairs of an id and a flat list of texts.
    records: range as readonly RawRecord[],
  };
};

const ROOM_FIELDS = [
  ...['newUsersPerMinute', 'effectiveBurst', 'totalActiveUsers', 'sale', 'queueingMethod'],
  ...['tokens', 'tokensAt', 'nextNumber', 'shuffleAtOpen', 'opensAt'],
];
const roomLook = (reply: unknown): Cut['room'] => {
  if (!Array.isArray(reply) || reply[0] === null) return undefined;
  const [newUsersPerMinute, effectiveBurst, totalActiveUsers, sale] = reply.slice(0, 4).map(Number);
  return {
    // HMGET answers one value for each name it was given.
    limits: {
      newUsersPerMinute: newUsersPerMinute!,
      effectiveBurst: effectiveBurst!,
      totalActiveUsers: totalActiveUsers!,
      sale: sale!,
      queueingMethod: String(reply[4]),
    },
    tokens: Number(reply[5]),
    tokensAt: Number(reply[6]),
    nextNumber: Number(reply[7]),
    drawnAt: reply[8] === '1' ? Number(reply[9]) : undefined,
  };
};

const lookAt = async (
  redis: Redis,
  room: RoomId,
  cursors: { joins: StreamCursor; entries: StreamCursor },
): Promise<Cut> => {
  const keys = roomKeys(room);
  const replies = await redis
    .multi()
    .time()
    .xinfo('STREAM', keys.joins)
    .xinfo('STREAM', keys.entries)
    .hmget(keys.room, ...ROOM_FIELDS)
    .zcard(keys.promoted)
    .zcard(keys.active)
    .xrange(keys.joins, cursors.joins.id, '+', 'COUNT', READ_MAX + 1)
    .xrange(keys.entries, cursors.entries.id, '+', 'COUNT', READ_MAX + 1)
    .exec();
  if (replies === null) throw new Error('Redis refused the look at a room');
  const [time, joins, entries, fields, promoted, active, newJoins, newEntries] = replies;
  for (const [error] of [time, fields, promoted, active, newJoins, newEntries].filter(
    (reply) => reply !== undefined,
  ))
    if (error !== null) throw error;
  for (const reply of [joins, entries])
    if (reply?.[0] && !/no such key/i.test(reply[0].message)) throw reply[0];
  const seconds = Array.isArray(time?.[1]) ? time[1] : [];
  return {
    timeMs: Number(seconds[0]) * 1000 + Math.floor(Number(seconds[1]) / 1000),
    joins: streamLook(joins?.[1], newJoins?.[1]),
    entries: streamLook(entries?.[1], newEntries?.[1]),
    room: roomLook(fields?.[1]),
    inside: Number(promoted?.[1]) + Number(active?.[1]),
  };
};

/** Whatever a foreign hand may have put into the stream, a visit has a place and a number. */
const readJoin = (flat: readonly string[]): JoinRecord | undefined => {
  const fields = fieldsOf(flat);
  const kind = fields.get('kind');
  if (kind !== 'joined' && kind !== 'restored') return undefined;
  const visits = visitsIn(fields.get('visits')).map(
    ({ placeId, number, score }): LedgerVisit =>
      score === undefined ? [placeId, number] : [placeId, number, score],
  );
  const withheld = placesIn(fields.get('withheld'));
  return { kind, atMs: Number(fields.get('atMs')), sale: Number(fields.get('sale')), visits, withheld };
};

type Reading<R> = {
  records: Read<R>[];
  isAll: boolean;
  hole: Hole | undefined;
  /** The count that belongs to the cursor, put right after a loss. */
  count: number;
  /** The stream the cursor stood in is gone; this is another, or none. */
  isAnew: boolean;
};

/**
 * The records after the cursor, and whether something is missing between. The record at the cursor is read again:
 * when it is gone though older ones are there, Redis has lost the newest.
 */
const readingOf = <R>(
  look: StreamLook,
  options: { cursor: StreamCursor; parse: (flat: string[]) => R; isNew: boolean },
): Reading<R> => {
  const { parse, isNew } = options;
  let { cursor } = options;
  let hole: Hole | undefined;
  let isAnew = false;
  const firstIsBehind = look.length > 0 && compareIds(look.firstId, cursor.id) > 0;
  const unwritten = look.added - cursor.count;
  if (look.length === 0 || firstIsBehind) {
    const missing = unwritten - look.length;
    if (missing > 0) {
      hole = { reason: isNew ? 'began' : 'trimmed', records: missing };
      cursor = { ...cursor, count: cursor.count + missing };
    } else if (missing < 0) {
      hole = { reason: 'lost', records: 0 };
      isAnew = true;
      cursor = { id: '0-0', count: look.added - look.length };
    }
  }
  if (look.length === 0) return { records: [], isAll: true, hole, count: cursor.count, isAnew };
  const { records: read } = look;
  const after = read.filter(([id]) => compareIds(id, cursor.id) > 0);
  const isAll = read.length <= READ_MAX;
  if (hole === undefined && cursor.id !== '0-0' && !firstIsBehind && read[0]?.[0] !== cursor.id) {
    hole = { reason: 'lost', records: 0 };
    // How many came after the loss is known when all of them were read; else they belong to the hole too.
    if (!isAll) return { records: [], isAll: true, hole, count: look.added, isAnew };
    cursor = { ...cursor, count: look.added - after.length };
  }
  const records = after.slice(0, READ_MAX).map(([id, flat]) => ({ id, record: parse(flat) }));
  return { records, isAll, hole, count: cursor.count, isAnew };
};

export type LedgerWriter = {
  /** Writes what is there now, of every room; rejects when Redis or SQL cannot be reached. */
  pass(): Promise<void>;
  /** A last pass, then none. */
  stop(): Promise<void>;
};

/** `redis` is a connection of its own. Begins at once. */
export const createLedgerWriter = (options: {
  config: Pick<Config, 'ledgerMs'>;
  redis: Redis;
  sql: Sql;
  tokens: Tokens;
  log: Log;
  metrics: Metrics;
}): LedgerWriter => {
  const { config, redis, tokens, log, metrics } = options;
  const store = createLedgerStore(options.sql);
  /** The draws this process has noted, so that each is written once. */
  const draws = new Map<RoomId, string>();
  let isUp = true;
  let stopped = false;
  let wake: (() => void) | undefined;

  const noteDraw = async (room: RoomId, now: Cut['room']): Promise<void> => {
    if (now?.drawnAt === undefined) return;
    const draw = { sale: now.limits.sale, opensAt: now.drawnAt };
    if (draws.get(room) === JSON.stringify(draw)) return;
    await store.noteDraw(room, draw);
    draws.set(room, JSON.stringify(draw));
  };

  /** Writes one piece of a room. Answers whether there is more to write. */
  const writePiece = async (room: RoomId): Promise<boolean> => {
    const from = await store.endOf(room);
    const isNew = from === undefined;
    const start: StreamCursor = { id: '0-0', count: 0 };
    const cursors = { joins: from?.joins ?? start, entries: from?.entries ?? start };
    const cut = await lookAt(redis, room, cursors);
    await noteDraw(room, cut.room);
    const joins = readingOf(cut.joins, { cursor: cursors.joins, parse: readJoin, isNew });
    const entries = readingOf(cut.entries, { cursor: cursors.entries, parse: parseEntry, isNew });
    // A stream of joins that went while the entries stayed was taken away with its sale (lua/room/close).
    if (joins.hole?.reason === 'lost' && joins.isAnew && entries.hole?.reason !== 'lost')
      joins.hole = joins.count > 0 ? { reason: 'trimmed', records: joins.count } : undefined;
    // Joins that were given while no ledger was kept left no record that could be missed.
    if (isNew && joins.hole === undefined) {
      const first = joins.records[0]?.record?.visits[0]?.[1] ?? Number.POSITIVE_INFINITY;
      const given = cut.room?.nextNumber ?? 0;
      if (given > 0 && first > 1) joins.hole = { reason: 'began', records: 0 };
    }
    const piece = createPiece(room, from, cut);
    const note = (stream: 'joins' | 'entries', atMs: number, { reason, records }: Hole): void => {
      piece.add({ kind: 'gap', atMs, stream, reason, records });
      metrics.inc('ledger_gaps_total', { room });
      log.warn('ledger-gap', { room, stream, reason, records });
    };
    // What is lost was lost before all that is there. Of joins that were trimmed any entry may speak; entries that
    // were trimmed come before the first that was not, and after the joins that one follows.
    if (joins.hole !== undefined) note('joins', cut.timeMs, joins.hole);
    let entriesHole = entries.hole;
    if (entriesHole?.reason === 'lost') {
      note('entries', cut.timeMs, entriesHole);
      entriesHole = undefined;
    }
    const to = { joins: { ...cursors.joins, count: joins.count }, entries: { ...cursors.entries } };
    if (entries.hole?.reason === 'lost') to.entries.count = entries.count;
    if ((joins.isAnew || joins.hole?.reason === 'lost') && joins.records.length === 0)
      to.joins.id = cut.joins.lastId;
    if (entries.hole?.reason === 'lost' && entries.records.length === 0) to.entries.id = cut.entries.lastId;

    const steps = mergeRecords({
      joins: joins.records,
      entries: entries.records,
      joinsAreAll: joins.isAll,
      entriesAreAll: entries.isAll,
      sale: from?.sale,
    });
    let joinsTaken = 0;
    let entriesTaken = 0;
    for (const step of steps) {
      if (step.from === 'joins') joinsTaken += 1;
      else {
        entriesTaken += 1;
        if (entriesHole !== undefined) {
          note('entries', step.record?.atMs ?? cut.timeMs, entriesHole);
          entriesHole = undefined;
          to.entries.count = entries.count;
        }
      }
      await piece.enter(saleOfStep(step), { isAnnounced: step.from === 'entries' });
      const event = eventOf(step);
      if (event !== undefined) piece.add(event);
    }
    const isAll =
      joins.isAll && entries.isAll && steps.length === joins.records.length + entries.records.length;
    if (isAll && entriesHole !== undefined) {
      note('entries', cut.timeMs, entriesHole);
      to.entries.count = entries.count;
    }
    const lastJoin = joins.records[joinsTaken - 1];
    const lastEntry = entries.records[entriesTaken - 1];
    if (lastJoin !== undefined) to.joins = { id: lastJoin.id, count: joins.count + joinsTaken };
    if (lastEntry !== undefined) to.entries = { id: lastEntry.id, count: entries.count + entriesTaken };
    const end = await piece.finish({ isAll, ...to });
    if (end === undefined) return !isAll;
    return (await store.append(from, end, piece.pieces())) && !isAll;
  };

  /** Gathers rows at the end of a room's chain, and begins another chain with another sale. */
  const createPiece = (room: RoomId, from: LedgerEnd | undefined, cut: Cut) => {
    let sale = from?.sale;
    let end: ChainEnd = { seq: from?.seq ?? 0, hash: from?.hash ?? '' };
    let headSeq = from?.headSeq ?? 0;
    let headAtMs = from?.headAtMs ?? 0;
    let isBehind = from?.isBehind ?? false;
    let isOver = false;
    let lines: string[] = [];
    let firstSeq = end.seq + 1;
    const done: LedgerPiece[] = [];

    const begin = (next: number): void => {
      sale = next;
      end = chainStart(room, next);
      firstSeq = 1;
      headSeq = 0;
      headAtMs = 0;
      isOver = false;
    };
    const close = (): void => {
      if (sale !== undefined && lines.length > 0)
        done.push({ sale, firstSeq, lastSeq: end.seq, lines: `${lines.join('\n')}\n` });
      lines = [];
      firstSeq = end.seq + 1;
    };
    const add = (event: LedgerEvent): void => {
      // Only a gap can come before anything that names a sale.
      if (sale === undefined) begin(cut.room?.limits.sale ?? 1);
      const next = chained(end, event);
      end = next.end;
      lines.push(next.line);
      if (event.kind === 'gap' && !(event.stream === 'joins' && event.reason === 'trimmed')) isBehind = true;
      // After a loss everything is on record again. Otherwise some of what is on record may not have happened: how
      // things stand is said once all there is was read.
      if (event.kind === 'recovering') isBehind = event.reason !== 'lost';
      if (event.kind === 'over') isOver = true;
    };
    const sign = async (): Promise<void> => {
      if (sale === undefined || end.seq === headSeq) return;
      const { seq, hash } = end;
      const jws = await tokens.signLedgerHead({ room, sale, seq, hash, atMs: cut.timeMs });
      add({ kind: 'head', atMs: cut.timeMs, jws });
      headSeq = end.seq;
      headAtMs = cut.timeMs;
    };
    return {
      add,
      /** Goes on in this sale. One that nothing has announced was announced in records that are gone. */
      async enter(next: number | undefined, { isAnnounced }: { isAnnounced: boolean }): Promise<void> {
        if (next === undefined || next === sale || !Number.isSafeInteger(next)) return;
        if (sale === undefined) return begin(next);
        if (next < sale) return;
        await sign();
        close();
        begin(next);
        isBehind = false;
        if (!isAnnounced)
          add({ kind: 'gap', atMs: cut.timeMs, stream: 'entries', reason: 'trimmed', records: 0 });
      },
      /** The new end of the chain; undefined when nothing is to be written. */
      async finish(read: {
        isAll: boolean;
        joins: StreamCursor;
        entries: StreamCursor;
      }): Promise<LedgerEnd | undefined> {
        const { room: now, inside, timeMs } = cut;
        if (isBehind && read.isAll && now !== undefined && now.limits.sale === sale) {
          const { limits, tokens: left, tokensAt } = now;
          add({ kind: 'resumed', atMs: timeMs, limits, inside, tokens: left, tokensAt });
          isBehind = false;
        }
        const isDue = timeMs - headAtMs >= HEAD_EVERY_MS || timeMs < headAtMs;
        if (end.seq > headSeq && (isDue || isOver)) await sign();
        close();
        const moved =
          read.joins.id !== from?.joins.id ||
          read.entries.id !== from?.entries.id ||
          read.joins.count !== from?.joins.count ||
          read.entries.count !== from?.entries.count;
        if (sale === undefined || (done.length === 0 && !moved)) return undefined;
        return { room, sale, ...end, headSeq, headAtMs, joins: read.joins, entries: read.entries, isBehind };
      },
      pieces: (): readonly LedgerPiece[] => done,
    };
  };

  const pass = async (): Promise<void> => {
    let failed: unknown;
    for (const name of await redis.smembers(roomsKey)) {
      const room = parseRoomId(name);
      if (room === undefined) continue;
      try {
        for (let piece = 0; piece < PIECES_MAX; piece += 1) if (!(await writePiece(room))) break;
      } catch (error) {
        failed = error; // The other rooms have their turn; what is wrong is said once, by the loop.
      }
    }
    if (failed !== undefined) throw failed;
  };

  const passOrWait = async (): Promise<void> => {
    try {
      await pass();
      if (!isUp) log.info('ledger-back');
      isUp = true;
    } catch (error) {
      if (isUp) log.warn('ledger-waits', { error: error instanceof Error ? error : String(error) });
      isUp = false;
    }
  };
  const loop = async (): Promise<void> => {
    while (!stopped) {
      await passOrWait();
      if (stopped) break;
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, config.ledgerMs);
        wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    await passOrWait();
  };
  const running = loop();

  return {
    pass,
    async stop() {
      stopped = true;
      wake?.();
      await running;
    },
  };
};
