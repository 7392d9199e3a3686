// The snapshot of a room: what everybody may know of the line at one instant, measured once for all and read by
// all. It is small (some 20 KB at any length of line) and carries the room's settings. `composeSnapshot` makes one
// of what lua/room/measure counted and of the snapshot before; it is pure, so any dispatcher goes on from any other.

import type { Measured } from '../lua/room.ts';
import { needsTail } from './anchors.ts';
import { type Bounds, boundsAfter } from './bounds.ts';
import { type Calibration, initialCalibration } from './eta.ts';
import { type Pace, paceAfter, paceText, parsePace } from './pace.ts';
import { aheadOf, firstKnot, type Knot, lowerBound } from './position.ts';
import { readStoredSettings, type Settings } from './settings.ts';

/** What a loss of Redis's data cost and what came back, since the room was last made again. */
export type Recovery = {
  reason: string;
  /** Milliseconds since 1970; 0 means never. */
  recoveredAt: number;
  lostWaiting: number;
  restored: number;
  adopted: number;
  adoptedOverCap: number;
};

export type Snapshot = {
  atMs: number;
  epoch: number;
  version: number;
  waiting: number;
  parked: number;
  withheld: number;
  promoted: number;
  active: number;
  /** Free slots under the cap; negative while adoptions stand above it. */
  free: number;
  head: number;
  nextNumber: number;
  /** People who leave the head of the line in a minute, measured; 0 while too little has been seen. */
  perMinute: number;
  /** Places with a score up to this are near their turn and are kept present. */
  nearScore: number;
  promotedTotal: number;
  recoveringUntil: number;
  notice: { id: string; text: string; level: string };
  /** The sale is over and the line is gone. */
  over: boolean;
  recovery: Recovery;
  /** How well the estimates of waiting times have held so far. */
  calibration: Calibration;
  /** Parked places before all of `between`. */
  parkedBefore: number;
  /** For the first of `first`, where they stand before all of `between`: parked places before each. */
  parkedAt: readonly number[];
  /** Scores of the first 1,000 waiting, ascending; a few more where a place came back at the head. */
  first: readonly number[];
  /** Scores of parked places among those, ascending. */
  between: readonly number[];
  /** Fixed scores, ascending, and how many places (waiting or parked) are told to stand before each. */
  anchors: readonly number[];
  ranks: readonly number[];
  /** How many more than told may stand before each (lots that are held back), and by how many that may be too many. */
  held: readonly number[];
  unsure: readonly number[];
  /** Places that came back so far: among those who wait, and ahead of them all. */
  cameAmong: number;
  cameAhead: number;
  /** Every place up to this score was listed one by one. */
  listedTo: number;
  settings: Settings;
};

/** Places whose position is exact. */
export const FIRST_MAX = 1000;
/** Lots listed behind them: more than a straight line between two anchors there can err by. */
const LOTS_BEHIND = 100;
/** How many to list after `before`: where no lot waits, nobody behind the exact ones is needed. */
export const listMinAfter = (before: Snapshot | undefined): number =>
  before !== undefined && (before.first[0] ?? -1) >= 0 ? FIRST_MAX : FIRST_MAX + LOTS_BEHIND;
/** Lists grow by places that come back at the head; so far and no further. */
export const LIST_MAX = 2 * FIRST_MAX;

/** In a room that draws each admission by lot, everybody may be next; up to so many all are kept present. */
const DRAWN_NEAR_MAX = 20_000;
const EVERYONE = Number.MAX_SAFE_INTEGER;
const NOBODY = Number.MIN_SAFE_INTEGER;

/** Until the sale opens nobody is told a position, and while it is drawn lots come between others. */
export const isDrawing = ({ atMs, settings }: Pick<Snapshot, 'atMs' | 'settings'>): boolean =>
  settings.shuffleAtOpen && atMs < settings.opensAt;

const isDrawn = (method: string): boolean => method === 'random';
/** Whether each admission is drawn by lot, so that a position in line means nothing. */
export const isOrderDrawn = (snapshot: Pick<Snapshot, 'settings'>): boolean =>
  isDrawn(snapshot.settings.queueingMethod);

const nearScoreOf = (measured: Measured): number => {
  if (!isDrawn(measured.room.get('queueingMethod') ?? '')) return Number(measured.nearScore);
  return measured.waiting <= DRAWN_NEAR_MAX ? EVERYONE : NOBODY;
};

/** The speed is the rate's when the rate is what limits; a changed rate then changes it at once. */
const pacedAnew = (pace: Pace | undefined, before: Snapshot | undefined, newUsersPerMinute: number) => {
  const old = before?.settings.newUsersPerMinute ?? newUsersPerMinute;
  if (pace === undefined || old === newUsersPerMinute || pace.perMinute < 0.8 * old) return pace;
  return { ...pace, perMinute: (pace.perMinute * newUsersPerMinute) / old };
};

/** What was told at a lot before it was counted here; a rise beyond this share has a reason (places came back). */
const HELD_SHARE = 0.015;
const HELD_PLACES = 8;
const heldAt = (before: Snapshot | undefined, score: number, rank: number): number => {
  if (before === undefined || score >= 0 || before.waiting + before.parked === 0) return rank;
  const told = aheadOf(before, score);
  return rank > told * (1 + HELD_SHARE) + HELD_PLACES ? rank : Math.min(told, rank);
};

const isOfLine = (before: Snapshot | undefined, epoch: number, settings: Settings): before is Snapshot =>
  before?.epoch === epoch && before.settings.sale === settings.sale;

/** The snapshot before, if what people were told then still binds: same line, and positions were told at all. */
export const bindingOf = (
  before: Snapshot | undefined,
  epoch: number,
  settings: Settings,
): Snapshot | undefined =>
  isOfLine(before, epoch, settings) && before.atMs >= settings.opensAt ? before : undefined;

/** What was counted before, if it says something of this line now: no lots have been drawn since. */
const groundOf = (ground: Snapshot | undefined, epoch: number, settings: Settings): Snapshot | undefined =>
  isOfLine(ground, epoch, settings) && !isDrawing(ground) && !isDrawing({ atMs: ground.atMs, settings })
    ? ground
    : undefined;

type Lists = Pick<Snapshot, 'first' | 'between' | 'parkedBefore' | 'parkedAt' | 'listedTo'>;

/** Who is listed one by one, and up to which score. */
const listsOf = (measured: Measured, before: Snapshot | undefined): Lists => {
  const { listed, between, parkedBefore, parkedAt } = measured;
  const nextNumber = Number(measured.room.get('nextNumber'));
  const exactBefore = before?.first[before.first.length - 1] ?? Number.NEGATIVE_INFINITY;
  let exact = Math.min(FIRST_MAX, listed.length);
  while (exact < listed.length && (listed[exact]! >= 0 || listed[exact]! <= exactBefore)) exact += 1;
  const end = listed[listed.length - 1];
  const listedTo = end === undefined || listed.length === measured.waiting ? nextNumber : end;
  return { first: listed.slice(0, exact), between, parkedBefore, parkedAt, listedTo };
};

/** The scores to count, and those of the last snapshot's anchors that stay without being counted. */
export type Plan = { counted: readonly number[]; kept: readonly number[] };

const knotsCounted = (measured: Measured, { counted }: Plan): Knot[] =>
  counted.map((score, index) => ({ score, rank: measured.ranks[index]! }));

/**
 * What is known at all anchors of `ground`, the snapshot or the count before, and of `plan`. Undefined where places
 * came back among the others since, or where `ground` was another line's.
 */
const boundsOn = (ground: Snapshot, measured: Measured, plan: Plan, lists: Lists): Bounds[] | undefined => {
  const field = (name: string): number => Number(measured.room.get(name) ?? 0);
  if (ground.unsure.length !== ground.anchors.length || field('cameAmong') !== ground.cameAmong)
    return undefined;
  const returned = field('cameAhead') - ground.cameAhead;
  const before: Bounds[] = ground.anchors.map((score, index) => {
    const most = ground.ranks[index]! + ground.held[index]!;
    return { score, most, least: most - ground.unsure[index]! };
  });
  const isBehind = ({ score }: { score: number }): boolean => score > lists.listedTo;
  const counted = knotsCounted(measured, plan).filter(isBehind);
  const wanted = new Set([...plan.kept, ...plan.counted]);
  const known = before.filter((at) => wanted.has(at.score) && isBehind(at));
  // The end of both lists is as good as counted.
  const curve = { ...lists, anchors: [], ranks: [] };
  const [endBefore, end] = [firstKnot(ground), firstKnot(curve)];
  if (end !== undefined) counted.push(end);
  if (end !== undefined && endBefore !== undefined && endBefore.score <= end.score) {
    known.push({ score: endBefore.score, most: endBefore.rank, least: endBefore.rank });
    counted.push({ score: endBefore.score, rank: aheadOf(curve, endBefore.score) });
  }
  const head = field('head');
  if (returned < 0 || (returned > 0 && known.some(({ score }) => score <= head))) return undefined;
  return boundsAfter(known, counted, returned)?.filter((at) => wanted.has(at.score) && isBehind(at));
};

type Told = Pick<Snapshot, 'anchors' | 'ranks' | 'held' | 'unsure'>;

/** The anchors and what is told at them, by what is known there. */
const toldAt = (
  measured: Measured,
  bounds: readonly Bounds[],
  lists: Lists,
  before: Snapshot | undefined,
): Told => {
  const { listed, parkedBefore, between } = measured;
  const { listedTo, first } = lists;
  const nextNumber = Number(measured.room.get('nextNumber'));
  const anchors: number[] = [];
  const ranks: number[] = [];
  const held: number[] = [];
  const unsure: number[] = [];
  const add = ({ score, most, least }: Bounds): void => {
    // Rounding and holding back never make a curve fall from one score to the next.
    const rank = Math.max(heldAt(before, score, most), ranks[ranks.length - 1] ?? 0);
    anchors.push(score);
    ranks.push(rank);
    held.push(most - rank);
    unsure.push(most - least);
  };
  const addCounted = (score: number, rank: number): void => add({ score, most: rank, least: rank });
  for (let index = first.length; index < listed.length; index += 1)
    addCounted(listed[index]!, index + parkedBefore + lowerBound(between, listed[index]!));
  for (const at of bounds) if (at.score > listedTo) add(at);
  const { waiting, parked } = measured;
  if (
    anchors[anchors.length - 1] !== nextNumber + 1 &&
    (listedTo === nextNumber || needsTail({ ...lists, anchors, ranks, nextNumber, waiting, parked }))
  )
    addCounted(nextNumber + 1, waiting + parked);
  return { anchors, ranks, held, unsure };
};

export type Composed = { snapshot: Snapshot; basedOnMs: number; pace: string };

/**
 * The snapshot of what was counted as planned, after `before` (undefined: none, or of another process that is
 * gone). Anchors that were not counted are known from `ground`: `before`, or a count since that nobody saw.
 * Undefined when the settings in Redis are none; `uncounted` when not all that is kept is known.
 */
export const composeSnapshot = (
  measured: Measured,
  plan: Plan,
  { before, ground }: { before: Snapshot | undefined; ground: Snapshot | undefined },
): Composed | 'uncounted' | undefined => {
  const { room, atMs } = measured;
  const settings = settingsOf(room.get('settings'));
  if (settings === undefined) return undefined;
  const field = (name: string): number => Number(room.get(name) ?? 0);
  const epoch = field('epoch');
  const recoveringUntil = field('recoveringUntil');
  const over = room.has('over');
  const moving = measured.waiting > 0 && gateStateOf({ settings, recoveringUntil, over }, atMs) === 'open';
  const same = before?.epoch === epoch ? before : undefined;
  const earlier = pacedAnew(parsePace(room.get('pace')), same, settings.newUsersPerMinute);
  const pace = paceAfter(earlier, { atMs, passed: field('passedTotal'), moving });
  const initial = initialCalibration;
  const binding = bindingOf(before, epoch, settings);
  const lists = listsOf(measured, binding);
  const firm = groundOf(ground, epoch, settings);
  const known = firm === undefined ? undefined : boundsOn(firm, measured, plan, lists);
  if (known === undefined && plan.kept.length > 0) return 'uncounted';
  const bounds =
    known ?? knotsCounted(measured, plan).map(({ score, rank }) => ({ score, most: rank, least: rank }));
  const snapshot: Snapshot = {
    atMs,
    epoch,
    version: field('version'),
    waiting: measured.waiting,
    parked: measured.parked,
    withheld: measured.withheld,
    promoted: measured.promoted,
    active: measured.active,
    free: field('totalActiveUsers') - measured.active - measured.promoted,
    head: field('head'),
    nextNumber: field('nextNumber'),
    perMinute: pace.weight < WEIGHT_MIN ? 0 : pace.perMinute,
    nearScore: nearScoreOf(measured),
    promotedTotal: field('promotedTotal'),
    recoveringUntil,
    notice: {
      id: room.get('noticeId') ?? '',
      text: room.get('noticeText') ?? '',
      level: room.get('noticeLevel') ?? '',
    },
    over,
    recovery: {
      reason: room.get('recoverReason') ?? '',
      recoveredAt: field('recoveredAt'),
      lostWaiting: field('lostWaiting'),
      restored: field('restoredTotal'),
      adopted: field('adoptedTotal'),
      adoptedOverCap: field('adoptedOverCapTotal'),
    },
    calibration: {
      p50Factor: Number(room.get('etaP50Factor') ?? initial.p50Factor),
      p90Factor: Number(room.get('etaP90Factor') ?? initial.p90Factor),
      right: field('etaRight'),
      total: field('etaTotal'),
    },
    ...lists,
    ...toldAt(measured, bounds, lists, binding),
    cameAmong: field('cameAmong'),
    cameAhead: field('cameAhead'),
    settings,
  };
  return { snapshot, basedOnMs: field('snapshotAt'), pace: paceText(pace) };
};
/** Some five seconds of a line that moves; before, the settings say more than what was seen. */
const WEIGHT_MIN = 0.05;

const LISTS = ['first', 'between', 'parkedAt', 'anchors', 'ranks', 'held', 'unsure'] as const;

/** Lists as text: a third of the time to read, and a quarter less to send, than JSON arrays. */
export const snapshotText = (snapshot: Snapshot): string => {
  const lists: Record<string, string> = {};
  for (const name of LISTS) lists[name] = snapshot[name].join(' ');
  return JSON.stringify({ ...snapshot, ...lists });
};

const numbers = (text: unknown): number[] =>
  typeof text === 'string' && text !== '' ? text.split(' ').map(Number) : [];
const settingsOf = (input: unknown): Settings | undefined => {
  let raw: unknown = input;
  try {
    if (typeof input === 'string') raw = JSON.parse(input);
  } catch {
    return undefined; // Not JSON: no settings of ours.
  }
  return typeof raw === 'object' && raw !== null ? readStoredSettings(raw).settings : undefined;
};
const objectOf = (value: unknown): Record<string, unknown> =>
  // Any object may be read by name; each field is converted by its reader.
  typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
const numberIn = (raw: Record<string, unknown>, name: string, missing = 0): number =>
  Number(raw[name] ?? missing);

/** Reads what `snapshotText` wrote, of this version or another; undefined when it is not that. */
export const parseSnapshot = (json: string): Snapshot | undefined => {
  let raw: Record<string, unknown>;
  try {
    raw = objectOf(JSON.parse(json));
  } catch {
    return undefined; // Not JSON: nobody can read it, and the next tick replaces it.
  }
  const settings = settingsOf(raw.settings);
  if (settings === undefined || typeof raw.atMs !== 'number' || typeof raw.epoch !== 'number')
    return undefined;
  const number = (name: string): number => numberIn(raw, name);
  const notice = objectOf(raw.notice);
  const recovery = objectOf(raw.recovery);
  const calibration = objectOf(raw.calibration);
  const anchors = numbers(raw.anchors);
  const ranks = numbers(raw.ranks);
  if (anchors.length !== ranks.length) return undefined;
  return {
    atMs: raw.atMs,
    epoch: raw.epoch,
    version: number('version'),
    waiting: number('waiting'),
    parked: number('parked'),
    withheld: number('withheld'),
    promoted: number('promoted'),
    active: number('active'),
    free: number('free'),
    head: number('head'),
    nextNumber: number('nextNumber'),
    perMinute: number('perMinute'),
    nearScore: number('nearScore'),
    promotedTotal: number('promotedTotal'),
    recoveringUntil: number('recoveringUntil'),
    notice: {
      id: String(notice.id ?? ''),
      text: String(notice.text ?? ''),
      level: String(notice.level ?? ''),
    },
    over: raw.over === true,
    recovery: {
      reason: String(recovery.reason ?? ''),
      recoveredAt: numberIn(recovery, 'recoveredAt'),
      lostWaiting: numberIn(recovery, 'lostWaiting'),
      restored: numberIn(recovery, 'restored'),
      adopted: numberIn(recovery, 'adopted'),
      adoptedOverCap: numberIn(recovery, 'adoptedOverCap'),
    },
    calibration: {
      p50Factor: numberIn(calibration, 'p50Factor', initialCalibration.p50Factor),
      p90Factor: numberIn(calibration, 'p90Factor', initialCalibration.p90Factor),
      right: numberIn(calibration, 'right'),
      total: numberIn(calibration, 'total'),
    },
    parkedBefore: number('parkedBefore'),
    parkedAt: numbers(raw.parkedAt),
    first: numbers(raw.first),
    between: numbers(raw.between),
    anchors,
    ranks,
    // Written by an older version: nothing is known of what is not counted.
    held: numbers(raw.held),
    unsure: numbers(raw.unsure),
    cameAmong: number('cameAmong'),
    cameAhead: number('cameAhead'),
    listedTo: number('listedTo'),
    settings,
  };
};

/** What keeps the line from moving, in one word; `open` when nothing does. */
export type GateState =
  | 'open'
  | 'passthrough'
  | 'suspended'
  | 'notOpen'
  | 'closed'
  | 'recovering'
  | 'queueAll';
export const gateStateOf = (
  snapshot: Pick<Snapshot, 'settings' | 'recoveringUntil'> & { over?: boolean },
  nowMs: number,
): GateState => {
  const { settings } = snapshot;
  if (settings.queueingMethod === 'passthrough') return 'passthrough';
  if (snapshot.over === true || (settings.closesAt > 0 && nowMs >= settings.closesAt)) return 'closed';
  if (nowMs < snapshot.recoveringUntil) return 'recovering';
  if (settings.suspended) return 'suspended';
  if (nowMs < settings.opensAt) return 'notOpen';
  return settings.queueAll ? 'queueAll' : 'open';
};
