// The published ledger of a sale: what happened to its line, one event a row, each row chained to the one before.
// From it anybody can recompute order, rate and cap (line/ledger-check.ts). Pure: rows, their text and their hash.
//
//   row n   {"atMs":…,"kind":"joined","seq":n,"visits":[["placeId",number],…],"hash":"…"}
//   hash n  base64url(SHA-256(hash n-1 ‖ canonical JSON of row n without its hash))
//   hash 0  base64url(SHA-256("anteroom-ledger\n1\n" room "\n" sale))
//
// A chain alone proves little: whoever alters a row can make the chain again. Therefore a row of kind `head`
// stands in it at least once a minute, a signature over the hash before it.

import { createHash } from 'node:crypto';
import { canonical } from '../kernel/canonical.ts';
import { parsePlaceId } from '../kernel/ids.ts';
import { type KeySet, parseKeySet } from '../kernel/token.ts';
import type { Limits } from './entries.ts';

/** The score is there where it is not the number (a draw). */
export type LedgerVisit = readonly [placeId: string, number: number, score?: number];
export type GapReason = 'began' | 'trimmed' | 'lost';

/** Adding a kind: here, `SHAPES` below, `take` in ledger-check.ts, `factOf` in dispatcher/ledger.ts. */
export type LedgerFact =
  | { kind: 'joined'; visits: LedgerVisit[]; withheld?: string[] }
  /** A place stood up again from its receipt. */
  | { kind: 'restored'; visits: LedgerVisit[]; withheld?: string[] }
  | { kind: 'promoted'; visits: LedgerVisit[]; parked?: string[]; deadlineMs: number }
  /** `finished` missed for the second time; `visits` are parked. */
  | { kind: 'missed'; visits: LedgerVisit[]; finished?: LedgerVisit[] }
  | { kind: 'ended'; visits: LedgerVisit[]; reason: string }
  | { kind: 'left'; visits: LedgerVisit[]; state: string }
  | { kind: 'released'; places: string[] }
  | { kind: 'adopted'; visits: LedgerVisit[] }
  | { kind: 'settings'; version: number; limits: Limits }
  /** Rows of before there were reasons have none. */
  | { kind: 'recovering'; reason?: string; untilMs: number; limits: Limits }
  | { kind: 'over' }
  /** Redis's clock went back from `wasMs`: time is counted from here again, so that nothing is earned twice. */
  | { kind: 'clock'; wasMs: number }
  /**
   * Something happened that nobody wrote down. `began`: the ledger was switched on during the sale; `trimmed`: so
   * many records were thrown away before they could be read; `lost`: Redis lost its newest data.
   */
  | { kind: 'gap'; stream: 'joins' | 'entries'; reason: GapReason; records: number }
  /** What the room had when the ledger had caught up after a gap: rate and cap can be followed again from here. */
  | { kind: 'resumed'; limits: Limits; inside: number; tokens: number; tokensAt: number }
  | { kind: 'head'; jws: string };
export type LedgerEvent = { atMs: number } & LedgerFact;
export type LedgerRow = LedgerEvent & { seq: number; hash: string };
/** The end of a chain. */
export type ChainEnd = { seq: number; hash: string };

export const FORMAT = 1;
const digest = (text: string): string => createHash('sha256').update(text).digest('base64url');

/** The end of a chain without rows. */
export const chainStart = (room: string, sale: number): ChainEnd => ({
  seq: 0,
  hash: digest(`anteroom-ledger\n${FORMAT}\n${room}\n${sale}`),
});

/** One more row, as the line of text that is kept and published. */
export const chained = (end: ChainEnd, event: LedgerEvent): { line: string; end: ChainEnd } => {
  const seq = end.seq + 1;
  const text = canonical({ ...event, seq });
  const hash = digest(end.hash + text);
  return { line: `${text.slice(0, -1)},"hash":"${hash}"}`, end: { seq, hash } };
};

const HASH_END = /^,"hash":"([A-Za-z0-9_-]{43})"}$/;
const HASH_END_CHARS = ',"hash":""}'.length + 43;

/**
 * The end of the chain after a line, and the hash the line itself claims. The hash is taken over the line as it
 * stands, so it says nothing yet about what the line means. Undefined when the line has no hash at its end.
 */
export const chainAfter = (end: ChainEnd, line: string): { end: ChainEnd; claims: string } | undefined => {
  const claims = HASH_END.exec(line.slice(-HASH_END_CHARS))?.[1];
  if (claims === undefined) return undefined;
  const hash = digest(`${end.hash}${line.slice(0, -HASH_END_CHARS)}}`);
  return { end: { seq: end.seq + 1, hash }, claims };
};

/** The first line of an export. `rows` says how many follow, so that a download that broke off is noticed. */
export type LedgerHeader = {
  ledger: typeof FORMAT;
  room: string;
  sale: number;
  rows: number;
  opensAt: number;
  jwks: KeySet;
  /** `seed` once the room has opened; both in hex. */
  draw?: { opensAt: number; commitment: string; seed: string };
};

type Parts = Record<string, unknown>;
const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && Number(value) >= 0;
const isText = (value: unknown): value is string => typeof value === 'string';
const isObject = (value: unknown): value is Parts =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const isVisit = (value: unknown): value is LedgerVisit =>
  Array.isArray(value) &&
  (value.length === 2 || (value.length === 3 && Number.isSafeInteger(value[2]))) &&
  parsePlaceId(value[0]) !== undefined &&
  isCount(value[1]);
const areVisits = (value: unknown): value is LedgerVisit[] => Array.isArray(value) && value.every(isVisit);
const arePlaces = (value: unknown): value is string[] =>
  Array.isArray(value) && value.every((place) => parsePlaceId(place) !== undefined);
const isLimits = (value: unknown): value is Limits =>
  isObject(value) &&
  isCount(value.newUsersPerMinute) &&
  isCount(value.effectiveBurst) &&
  isCount(value.totalActiveUsers) &&
  isCount(value.sale) &&
  isText(value.queueingMethod);
const orMissing = (check: (value: unknown) => boolean, value: unknown): boolean =>
  value === undefined || check(value);

/** What a row of each kind must have besides seq, atMs, kind and hash. */
const SHAPES: Record<LedgerFact['kind'], (row: Parts) => boolean> = {
  joined: (row) => areVisits(row.visits) && orMissing(arePlaces, row.withheld),
  restored: (row) => areVisits(row.visits) && orMissing(arePlaces, row.withheld),
  promoted: (row) => areVisits(row.visits) && orMissing(arePlaces, row.parked) && isCount(row.deadlineMs),
  missed: (row) => areVisits(row.visits) && orMissing(areVisits, row.finished),
  ended: (row) => areVisits(row.visits) && isText(row.reason),
  left: (row) => areVisits(row.visits) && isText(row.state),
  released: (row) => arePlaces(row.places),
  adopted: (row) => areVisits(row.visits),
  settings: (row) => isCount(row.version) && isLimits(row.limits),
  recovering: (row) => orMissing(isText, row.reason) && isCount(row.untilMs) && isLimits(row.limits),
  over: () => true,
  clock: (row) => isCount(row.wasMs),
  gap: (row) => isText(row.stream) && isText(row.reason) && isCount(row.records),
  resumed: (row) =>
    isLimits(row.limits) && isCount(row.inside) && Number.isSafeInteger(row.tokens) && isCount(row.tokensAt),
  head: (row) => isText(row.jws),
};

/** The kind of a row that is none of ours: a newer version may have written it. */
export const unknownKind = (input: unknown): string | undefined =>
  isObject(input) &&
  isText(input.kind) &&
  /^[A-Za-z]{1,40}$/.test(input.kind) &&
  !Object.hasOwn(SHAPES, input.kind)
    ? input.kind
    : undefined;

/** A row somebody gave; undefined when it has not the form of one. */
export const parseLedgerRow = (input: unknown): LedgerRow | undefined => {
  if (!isObject(input) || !isCount(input.seq) || !isCount(input.atMs) || !isText(input.hash))
    return undefined;
  if (!isText(input.kind) || !Object.hasOwn(SHAPES, input.kind)) return undefined;
  // `hasOwn` has checked the kind; its own check below makes the rest a row of that kind.
  return SHAPES[input.kind as LedgerFact['kind']](input) ? (input as LedgerRow) : undefined;
};

const HEX_32 = /^[0-9a-f]{64}$/;

/** The first line of an export; undefined when it is none of this format. */
export const parseLedgerHeader = (input: unknown): LedgerHeader | undefined => {
  if (!isObject(input) || input.ledger !== FORMAT || !isText(input.room)) return undefined;
  const { room, sale, rows, opensAt, draw } = input;
  const jwks = parseKeySet(input.jwks);
  if (!isCount(sale) || !isCount(rows) || !isCount(opensAt) || jwks === undefined) return undefined;
  const header = { ledger: FORMAT, room, sale, rows, opensAt, jwks } as const;
  if (draw === undefined) return header;
  if (!isObject(draw) || !isCount(draw.opensAt) || !isText(draw.commitment) || !isText(draw.seed))
    return undefined;
  if (!HEX_32.test(draw.commitment) || !HEX_32.test(draw.seed)) return undefined;
  return { ...header, draw: { opensAt: draw.opensAt, commitment: draw.commitment, seed: draw.seed } };
};
