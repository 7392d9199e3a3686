// The ledger of a sale as a file to publish: one line that says whose it is, then the rows as they were written, then
// a signed head over the last of them, so that every download ends with a signature. Sent piece by piece; a ledger of
// any length takes the memory of a few pieces.

import { createHash } from 'node:crypto';
import type { Clock } from '../kernel/clock.ts';
import { Refusal } from '../kernel/errors.ts';
import { json } from '../kernel/http.ts';
import type { RoomId } from '../kernel/ids.ts';
import type { Sql } from '../kernel/sql.ts';
import type { Tokens } from '../kernel/token.ts';
import { chained, FORMAT, type LedgerHeader, parseLedgerRow } from '../line/ledger.ts';
import { createLedgerStore, type LedgerStore } from '../line/ledger-store.ts';
import type { RoomRow, RoomStore } from '../line/rooms.ts';
import { drawSeed } from '../line/visitor.ts';
import { readRoom } from './input.ts';
import type { AdminHandler } from './rooms.ts';

type Ending = { rows: number; line: string | undefined };

/**
 * How an export ends: with its last row when that is a signed head, else with one more that is signed now. It stands
 * in no chain but that of the file, and the next rows that are written take its number.
 */
const endingOf = async (options: {
  store: LedgerStore;
  tokens: Tokens;
  room: RoomId;
  sale: number;
  nowMs: number;
}): Promise<Ending> => {
  const { store, tokens, room, sale } = options;
  const last = await store.lastLine(room, sale);
  if (last === undefined) throw new Refusal('ledger-missing');
  const row = parseLedgerRow(JSON.parse(last));
  if (row === undefined) throw new Error(`the ledger of room ${room}, sale ${sale} ends with something else`);
  if (row.kind === 'head') return { rows: row.seq, line: undefined };
  const { seq, hash } = row;
  const atMs = Math.floor(options.nowMs);
  const jws = await tokens.signLedgerHead({ room, sale, seq, hash, atMs });
  return { rows: seq + 1, line: chained(row, { kind: 'head', atMs, jws }).line };
};

async function* bytesOf(lines: AsyncIterable<string>): AsyncGenerator<Uint8Array> {
  for await (const text of lines) yield Buffer.from(text);
}

export const createLedgerRoutes = (options: { sql: Sql; rooms: RoomStore; tokens: Tokens; clock: Clock }) => {
  const { sql, rooms, tokens, clock } = options;
  const store = createLedgerStore(sql);
  const drawKey = tokens.derive('draw');

  const find = async (name: string | undefined): Promise<RoomRow> => {
    const row = await rooms.get(readRoom(name));
    if (row === undefined) throw new Refusal('room-unknown');
    return row;
  };

  /** The draw of a sale, with its seed. Until the room opens nobody may see an order (line/visitor.ts). */
  const drawOf = async ({ room, settings }: RoomRow, sale: number): Promise<LedgerHeader['draw']> => {
    const isNow = settings.sale === sale;
    const opensAt = isNow && settings.shuffleAtOpen ? settings.opensAt : await store.drawOf(room, sale);
    if (opensAt === undefined) return undefined;
    if (clock.nowMs() < opensAt) throw new Refusal('ledger-sealed');
    const seed = drawSeed(drawKey, { room, sale, opensAt });
    return {
      opensAt,
      commitment: createHash('sha256').update(seed).digest('hex'),
      seed: seed.toString('hex'),
    };
  };

  const list: AdminHandler = async (request) => {
    const { room, settings } = await find(request.params.room);
    return json(200, { room, sale: settings.sale, sales: await store.sales(room) });
  };

  const download: AdminHandler = async (request) => {
    const row = await find(request.params.room);
    const { room } = row;
    const text = request.params.sale ?? '';
    if (!/^[1-9]\d{0,6}$/.test(text)) throw new Refusal('bad-id');
    const sale = Number(text);
    const draw = await drawOf(row, sale);
    const { rows, line } = await endingOf({ store, tokens, room, sale, nowMs: clock.nowMs() });
    const header: LedgerHeader = {
      ledger: FORMAT,
      room,
      sale,
      rows,
      opensAt: row.settings.sale === sale ? row.settings.opensAt : 0,
      jwks: await tokens.jwks(),
      ...(draw === undefined ? {} : { draw }),
    };
    const whole = async function* (): AsyncGenerator<string> {
      yield `${JSON.stringify(header)}\n`;
      yield* store.read(room, sale, line === undefined ? rows : rows - 1);
      if (line !== undefined) yield `${line}\n`;
    };
    return {
      status: 200,
      headers: [
        ['content-type', 'application/x-ndjson; charset=utf-8'],
        ['cache-control', 'no-store'],
        ['content-disposition', `attachment; filename="anteroom-${room}-sale-${sale}.ndjson"`],
      ],
      body: bytesOf(whole()),
    };
  };

  return { list, download };
};
