// The snapshot of a room: what everybody may know of the line at one instant, measured once by lua/room/snapshot
// and read by all. It is small (some 20 KB at any length of line) and carries the room's settings.

import { defaultSettings, parseSettings, type Settings } from './settings.ts';

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
  /** People who left the head of the line in the last minute. */
  perMinute: number;
  /** Places with a score up to this are near their turn and are kept present. */
  nearScore: number;
  promotedTotal: number;
  recoveringUntil: number;
  notice: { id: string; text: string; level: string };
  /** Parked places with a score below the first waiting one. */
  parkedBefore: number;
  /** Scores of the first 1,000 waiting, ascending. */
  first: readonly number[];
  /** Scores of parked places among those, ascending. */
  between: readonly number[];
  /** Fixed scores, ascending, and how many places (waiting or parked) stand before each. */
  anchors: readonly number[];
  ranks: readonly number[];
  settings: Settings;
};

const numbers = (text: unknown): number[] =>
  typeof text === 'string' && text !== '' ? text.split(' ').map(Number) : [];

/** Reads the JSON of lua/room/snapshot; undefined when it is not that (a newer or broken writer). */
export const parseSnapshot = (json: string): Snapshot | undefined => {
  let raw: Record<string, unknown>;
  let settingsRaw: unknown;
  try {
    raw = JSON.parse(json) as Record<string, unknown>; // Checked field by field below.
    settingsRaw = JSON.parse(String(raw.settings));
  } catch {
    return undefined; // Not JSON: nobody can read it, and the next tick replaces it.
  }
  const settings = parseSettings(settingsRaw, defaultSettings);
  if (settings.outcome !== 'ok' || typeof raw.atMs !== 'number' || typeof raw.epoch !== 'number')
    return undefined;
  const number = (name: string): number => Number(raw[name] ?? 0);
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
      id: String(raw.noticeId ?? ''),
      text: String(raw.noticeText ?? ''),
      level: String(raw.noticeLevel ?? ''),
    },
    parkedBefore: number('parkedBefore'),
    first: numbers(raw.first),
    between: numbers(raw.between),
    anchors,
    ranks,
    settings: settings.settings,
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
  snapshot: Pick<Snapshot, 'settings' | 'recoveringUntil'>,
  nowMs: number,
): GateState => {
  const { settings } = snapshot;
  if (settings.queueingMethod === 'passthrough') return 'passthrough';
  if (settings.closesAt > 0 && nowMs >= settings.closesAt) return 'closed';
  if (nowMs < snapshot.recoveringUntil) return 'recovering';
  if (settings.suspended) return 'suspended';
  if (nowMs < settings.opensAt) return 'notOpen';
  return settings.queueAll ? 'queueAll' : 'open';
};
