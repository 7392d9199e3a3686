// Recomputes a sale from its ledger, row by row: who stood where, what the rate and the cap allowed. It follows the
// scripts (lua/room) exactly, in their own units, and knows nothing of files, chains or signatures.
//
// What it does not know it does not claim. A place that was parked may have come back without a record, so it holds
// nobody up; after a gap everything known before is `unsure`, and rate and cap rest until a `resumed` or `settings`
// row says how things stood. Memory is about 120 bytes for each place that waits or is inside, nothing for others.

import { parsePlaceId } from '../kernel/ids.ts';
import { type Limits, recoveryReasonOf } from './entries.ts';
import type { LedgerEvent, LedgerFact, LedgerVisit } from './ledger.ts';
import { drawScore } from './visitor.ts';

type RowOf<K extends LedgerFact['kind']> = Extract<LedgerFact, { kind: K }>;

export type LedgerSummary = {
  rows: number;
  /** Visits that joined; someone who came twice counts twice. */
  joined: number;
  promoted: number;
  drawn: number;
  busiestMinute: { promoted: number; perMinute: number; burst: number };
  fullest: { inside: number; cap: number };
  adopted: number;
  adoptedOverCap: number;
  gaps: { seq: number; stream: string; reason: string; records: number }[];
  losses: number;
  /** Times Redis came back with other data than before, and the places that were known then and are not sure since. */
  recoveries: { seq: number; reason: string; unsure: number }[];
  /** Promotions whose order was not checked, because the room let people in at random. */
  atRandom: number;
  /** Promotions that came while rate and cap could not be known. */
  unmeasured: number;
  clockWentBack: number;
  isOver: boolean;
  firstAtMs: number;
  lastAtMs: number;
};

const WAITING = 1;
const PARKED = 2;
const WITHHELD = 3;
const INSIDE = 4;
/** Known from before a gap: may be anywhere now. */
const UNSURE = 5;
const STATE_WORDS = ['gone', 'waiting', 'parked', 'withheld', 'inside', 'unsure'] as const;

/** A millisecond earns newUsersPerMinute of these; a promotion costs this many (lua/room/promote). */
const TOKEN = 60_000;

const clockOf = (atMs: number): string => new Date(atMs).toISOString().slice(11, 23);
const thousands = (value: number): string => value.toLocaleString('en-US');

/**
 * The places there are, as columns: ten million of them as objects would not fit. `at` finds the index of a place;
 * a removed index is used again.
 */
const createPlaces = () => {
  const indexes = new Map<string, number>();
  const free: number[] = [];
  /** Indexes that were ever used. */
  let used = 0;
  let numbers = new Float64Array(1024);
  let scores = new Float64Array(1024);
  let sinceMs = new Float64Array(1024);
  let states = new Uint8Array(1024);
  const grown = <A extends Float64Array | Uint8Array>(old: A, to: A): A => {
    to.set(old);
    return to;
  };
  const spare = (): number => {
    const index = free.pop() ?? used++;
    if (index === numbers.length) {
      numbers = grown(numbers, new Float64Array(index * 2));
      scores = grown(scores, new Float64Array(index * 2));
      sinceMs = grown(sinceMs, new Float64Array(index * 2));
      states = grown(states, new Uint8Array(index * 2));
    }
    return index;
  };
  return {
    at: (place: string): number | undefined => indexes.get(place),
    /** Looks through all of them: for the one sentence that ends a check. */
    name(index: number): string {
      for (const [place, at] of indexes) if (at === index) return place;
      return '';
    },
    number: (index: number): number => numbers[index]!,
    score: (index: number): number => scores[index]!,
    since: (index: number): number => sinceMs[index]!,
    state: (index: number): number => states[index]!,
    setState(index: number, state: number): void {
      states[index] = state;
    },
    put(place: string, entry: { number: number; score: number; atMs: number; state: number }): number {
      let index = indexes.get(place);
      if (index === undefined) {
        index = spare();
        indexes.set(place, index);
      }
      numbers[index] = entry.number;
      scores[index] = entry.score;
      sinceMs[index] = entry.atMs;
      states[index] = entry.state;
      return index;
    },
    remove(place: string): void {
      const index = indexes.get(place);
      if (index === undefined) return;
      indexes.delete(place);
      states[index] = 0;
      free.push(index);
    },
    each(see: (index: number) => void): void {
      for (const index of indexes.values()) see(index);
    },
    clear(): void {
      indexes.clear();
      free.length = 0;
      used = 0;
      states.fill(0);
    },
  };
};
type Places = ReturnType<typeof createPlaces>;

/**
 * The waiting places, lowest score first: a binary heap. Whoever stops waiting stays in it until they come to the
 * top, where `lowest` sees that the place is no longer waiting with that number. In a plain line scores only rise,
 * so adding costs O(1).
 */
const createWaiting = (places: Places) => {
  let scores: number[] = [];
  let numbers: number[] = [];
  let indexes: number[] = [];
  const swap = (a: number, b: number): void => {
    [scores[a], scores[b]] = [scores[b]!, scores[a]!];
    [numbers[a], numbers[b]] = [numbers[b]!, numbers[a]!];
    [indexes[a], indexes[b]] = [indexes[b]!, indexes[a]!];
  };
  const removeTop = (): void => {
    const last = scores.length - 1;
    swap(0, last);
    scores.pop();
    numbers.pop();
    indexes.pop();
    for (let at = 0; ; ) {
      const left = 2 * at + 1;
      if (left >= last) return;
      const least = left + 1 < last && scores[left + 1]! < scores[left]! ? left + 1 : left;
      if (scores[at]! <= scores[least]!) return;
      swap(at, least);
      at = least;
    }
  };
  return {
    add(index: number): void {
      let at = scores.length;
      scores.push(places.score(index));
      numbers.push(places.number(index));
      indexes.push(index);
      while (at > 0) {
        const above = (at - 1) >> 1;
        if (scores[above]! <= scores[at]!) return;
        swap(above, at);
        at = above;
      }
    },
    /** The index of the place that is first in line. */
    lowest(): number | undefined {
      while (scores.length > 0) {
        const index = indexes[0]!;
        if (places.state(index) === WAITING && places.number(index) === numbers[0]) return index;
        removeTop();
      }
      return undefined;
    },
    clear(): void {
      scores = [];
      numbers = [];
      indexes = [];
    },
  };
};

export type LedgerCheck = {
  /** What is wrong with this row, in one sentence; undefined when nothing is. */
  take(row: LedgerEvent & { seq: number }): { seq: number; says: string } | undefined;
  /** What is still wrong when no more rows come. */
  finish(): { seq: number; says: string } | undefined;
  summary(): LedgerSummary;
};

/** `seed` is that of the draw, when there was one. */
export const createLedgerCheck = (options: { seed: Buffer | undefined }): LedgerCheck => {
  const places = createPlaces();
  const waiting = createWaiting(places);
  /** Visits a new join came before the end of, in the same millisecond of two streams. */
  const unended = new Map<string, { number: number; state: number; seq: number; atMs: number }>();
  const restoredNumbers = new Map<number, string>();
  /** Promotions of the last minute, oldest first. */
  let minute: { atMs: number; count: number }[] = [];
  let minuteSum = 0;
  let limits: Limits | undefined;
  let tokens = 0;
  let tokensAt = 0;
  /** How many are promoted or active; undefined while nobody can know. */
  let inside: number | undefined = 0;
  let highestNumber = 0;
  let lastNotedAt = 0;
  /** After a gap there may be places nobody wrote down; after a loss, places may be stood up again. */
  let mayBeUnknown = false;
  let lostBefore = false;
  let row: LedgerEvent & { seq: number } = { seq: 0, atMs: 0, kind: 'over' };
  const seen: LedgerSummary = {
    rows: 0,
    joined: 0,
    promoted: 0,
    drawn: 0,
    busiestMinute: { promoted: 0, perMinute: 0, burst: 0 },
    fullest: { inside: 0, cap: 0 },
    adopted: 0,
    adoptedOverCap: 0,
    gaps: [],
    losses: 0,
    recoveries: [],
    atRandom: 0,
    unmeasured: 0,
    clockWentBack: 0,
    isOver: false,
    firstAtMs: 0,
    lastAtMs: 0,
  };

  const named = (place: string, number: number): string => `number ${thousands(number)} (${place})`;
  const addInside = (count: number): void => {
    if (inside === undefined) return;
    inside += count;
    if (limits !== undefined && inside > seen.fullest.inside)
      seen.fullest = { inside, cap: limits.totalActiveUsers };
  };

  /** The score a visit stands with, or what is wrong with it. Below zero only a draw puts anybody. */
  const wrongScore = ([place, number, score = number]: LedgerVisit): string | undefined => {
    if (score === number) return undefined;
    const placeId = parsePlaceId(place);
    if (placeId === undefined || score >= 0)
      return `${named(place, number)} stands at ${score}, which is neither the number nor a lot`;
    if (options.seed === undefined)
      return `${named(place, number)} has a lot, but the export has no seed of a draw`;
    seen.drawn += 1;
    const lot = drawScore(options.seed, placeId);
    return lot === score ? undefined : `the lot of ${named(place, number)} is ${lot} and not ${score}`;
  };

  const takeJoined = ({ visits, withheld = [] }: RowOf<'joined'>): string | undefined => {
    const held = new Set(withheld);
    // A later closing time opens a sale again that was over (lua/room/configure).
    seen.isOver = false;
    for (const visit of visits) {
      const [place, number, score = number] = visit;
      if (number <= highestNumber)
        return `number ${thousands(number)} was given after number ${thousands(highestNumber)}`;
      highestNumber = number;
      const faulty = wrongScore(visit);
      if (faulty !== undefined) return faulty;
      const index = places.at(place);
      const state = index === undefined ? 0 : places.state(index);
      // The two streams have no common order within a millisecond: the end of the old visit may be the next row.
      if (index !== undefined && (state === WAITING || state === PARKED || state === INSIDE))
        unended.set(place, { number: places.number(index), state, seq: row.seq, atMs: row.atMs });
      const next = held.has(place) ? WITHHELD : WAITING;
      const put = places.put(place, { number, score, atMs: row.atMs, state: next });
      if (next === WAITING) waiting.add(put);
      seen.joined += 1;
    }
    return undefined;
  };

  const takeRestored = ({ visits, withheld = [] }: RowOf<'restored'>): string | undefined => {
    for (const visit of visits) {
      const [place, number, score = number] = visit;
      const faulty = wrongScore(visit);
      if (faulty !== undefined) return faulty;
      const index = places.at(place);
      const state = index === undefined ? 0 : places.state(index);
      // The oldest withheld places are dropped without a record, and may be stood up again.
      const wasDropped = index !== undefined && state === WITHHELD && places.number(index) === number;
      if (!lostBefore && !wasDropped)
        return `${named(place, number)} was stood up again although nothing had been lost`;
      if (state === WAITING || state === PARKED || state === INSIDE)
        return `${named(place, number)} was stood up again while ${STATE_WORDS[state]}`;
      const other = restoredNumbers.get(number);
      if (other !== undefined && other !== place)
        return `number ${thousands(number)} was stood up again for two places, ${other} and ${place}`;
      restoredNumbers.set(number, place);
      const next = withheld.includes(place) ? WITHHELD : WAITING;
      const put = places.put(place, { number, score, atMs: row.atMs, state: next });
      if (next === WAITING) waiting.add(put);
    }
    return undefined;
  };

  /** Says why this place cannot be let in now; the order is looked at for the whole row. */
  const wrongEntrant = ([place, number, score = number]: LedgerVisit): string | undefined => {
    const index = places.at(place);
    if (index === undefined)
      return mayBeUnknown ? undefined : `${named(place, number)} went in without having joined`;
    const state = places.state(index);
    if (state === UNSURE) return undefined;
    if (places.number(index) !== number)
      return `${place} went in as number ${thousands(number)} but holds number ${thousands(places.number(index))}`;
    if (places.score(index) !== score)
      return `${named(place, number)} went in with the score ${score} but stood at ${places.score(index)}`;
    if (state === INSIDE) return `${named(place, number)} went in twice in one visit`;
    if (state === WITHHELD) return `${named(place, number)} went in while withheld`;
    return undefined;
  };

  const accrue = (): void => {
    if (limits === undefined) return;
    const earned = Math.max(0, row.atMs - tokensAt) * limits.newUsersPerMinute;
    tokens = Math.min(limits.effectiveBurst * TOKEN, tokens + earned);
    tokensAt = row.atMs;
  };
  const wrongBudget = (count: number): string | undefined => {
    if (limits === undefined) {
      if (count > 0) seen.unmeasured += count;
      return undefined;
    }
    accrue();
    const allowed = Math.floor(tokens / TOKEN);
    if (count > allowed)
      return `${thousands(count)} went in at ${clockOf(row.atMs)}, when the rate of ${thousands(limits.newUsersPerMinute)} a minute allowed ${thousands(allowed)}`;
    tokens -= count * TOKEN;
    if (inside !== undefined && count > 0 && inside + count > limits.totalActiveUsers)
      return `${thousands(count)} went in at ${clockOf(row.atMs)} on top of ${thousands(inside)} inside, above the cap of ${thousands(limits.totalActiveUsers)}`;
    return undefined;
  };
  const noteMinute = (count: number): void => {
    if (limits === undefined || count === 0) return;
    minute.push({ atMs: row.atMs, count });
    minuteSum += count;
    let old = 0;
    while (old < minute.length && minute[old]!.atMs <= row.atMs - 60_000) minuteSum -= minute[old++]!.count;
    minute = old > 0 ? minute.slice(old) : minute;
    if (minuteSum > seen.busiestMinute.promoted)
      seen.busiestMinute = {
        promoted: minuteSum,
        perMinute: limits.newUsersPerMinute,
        burst: limits.effectiveBurst,
      };
  };

  const wrongOrder = (visits: readonly LedgerVisit[]): string | undefined => {
    if (limits?.queueingMethod === 'random') {
      seen.atRandom += visits.length;
      return undefined;
    }
    const first = waiting.lowest();
    if (first === undefined) return undefined;
    for (const [place, number, score = number] of visits)
      if (score > places.score(first))
        return `${named(place, number)} went in at ${clockOf(row.atMs)} before ${named(places.name(first), places.number(first))}, who was waiting since ${clockOf(places.since(first))}`;
    return undefined;
  };

  const takePromoted = ({ visits, parked = [] }: RowOf<'promoted'>): string | undefined => {
    for (const place of parked) {
      const index = places.at(place);
      if (index === undefined) {
        if (!mayBeUnknown) return `${place} was passed over without having joined`;
      } else if (places.state(index) === INSIDE) return `${place} was passed over while inside`;
      else places.setState(index, PARKED);
    }
    for (const visit of visits) {
      const faulty = wrongEntrant(visit);
      if (faulty !== undefined) return faulty;
      const [place, number, score = number] = visit;
      places.put(place, { number, score, atMs: row.atMs, state: INSIDE });
    }
    const faulty = wrongOrder(visits) ?? wrongBudget(visits.length);
    if (faulty !== undefined) return faulty;
    noteMinute(visits.length);
    addInside(visits.length);
    seen.promoted += visits.length;
    return undefined;
  };

  /**
   * The end of a visit, of one of the states named. Answers the place's index when the visit is the one it holds now,
   * `late` when it was replaced by a join of the same millisecond, or what is wrong.
   */
  const endOf = ([place, number]: LedgerVisit, from: readonly number[]): string | number | 'late' => {
    const old = unended.get(place);
    if (old !== undefined && old.number === number) {
      unended.delete(place);
      if (old.state === INSIDE) addInside(-1);
      return 'late';
    }
    const index = places.at(place);
    if (index === undefined) {
      if (!mayBeUnknown) return `${named(place, number)} ended without having joined`;
      if (from.includes(INSIDE)) addInside(-1);
      return 'late';
    }
    const state = places.state(index);
    if (state === UNSURE) {
      if (from.includes(INSIDE)) addInside(-1);
      return index;
    }
    if (places.number(index) !== number)
      return `${place} ended as number ${thousands(number)} but holds number ${thousands(places.number(index))}`;
    if (!from.includes(state))
      return `${named(place, number)} is said to have ended otherwise, but was ${STATE_WORDS[state]}`;
    if (state === INSIDE) addInside(-1);
    return index;
  };
  const isFault = (ended: string | number): ended is string => typeof ended === 'string' && ended !== 'late';

  const takeMissed = ({ visits, finished = [] }: RowOf<'missed'>): string | undefined => {
    for (const visit of visits) {
      const ended = endOf(visit, [INSIDE]);
      if (isFault(ended)) return ended;
      if (typeof ended === 'number') places.setState(ended, PARKED);
    }
    for (const visit of finished) {
      const ended = endOf(visit, [INSIDE]);
      if (isFault(ended)) return ended;
      if (typeof ended === 'number') places.remove(visit[0]);
    }
    // A miss gives its token back at once and earns nothing (lua/room/reap).
    if (limits !== undefined)
      tokens = Math.min(limits.effectiveBurst * TOKEN, tokens + (visits.length + finished.length) * TOKEN);
    return undefined;
  };

  const takeEnded = (visits: readonly LedgerVisit[], from: readonly number[]): string | undefined => {
    for (const visit of visits) {
      const ended = endOf(visit, from);
      if (isFault(ended)) return ended;
      if (typeof ended === 'number') places.remove(visit[0]);
    }
    return undefined;
  };
  const LEFT_FROM: Record<string, readonly number[]> = {
    waiting: [WAITING, PARKED],
    parked: [PARKED],
    withheld: [WITHHELD],
    promoted: [INSIDE],
    active: [INSIDE],
  };

  const takeReleased = (released: readonly string[]): string | undefined => {
    for (const place of released) {
      const index = places.at(place);
      if (index === undefined) {
        if (mayBeUnknown) continue;
        return `${place} was released without having joined`;
      }
      const state = places.state(index);
      if (state !== WITHHELD && state !== UNSURE)
        return `${place} was released, but was ${STATE_WORDS[state]} and not withheld`;
      places.setState(index, WAITING);
      waiting.add(index);
    }
    return undefined;
  };

  const takeAdopted = (visits: readonly LedgerVisit[]): string | undefined => {
    for (const [place, number, score = number] of visits) {
      if (!lostBefore) return `${named(place, number)} was taken back inside although nothing had been lost`;
      const index = places.at(place);
      if (index !== undefined && places.state(index) === INSIDE)
        return `${named(place, number)} was taken back inside twice`;
      places.put(place, { number, score, atMs: row.atMs, state: INSIDE });
      addInside(1);
      seen.adopted += 1;
      if (inside !== undefined && limits !== undefined && inside > limits.totalActiveUsers)
        seen.adoptedOverCap += 1;
    }
    return undefined;
  };

  const takeSettings = (next: Limits): undefined => {
    if (limits === undefined) tokens = next.effectiveBurst * TOKEN;
    // What was earned so far counts at the old rate and burst, then the new burst clamps it (lua/room/configure).
    else
      tokens = Math.min(
        next.effectiveBurst * TOKEN,
        limits.effectiveBurst * TOKEN,
        tokens + Math.max(0, row.atMs - tokensAt) * limits.newUsersPerMinute,
      );
    tokensAt = row.atMs;
    limits = next;
  };

  const forgetAll = (): void => {
    places.clear();
    waiting.clear();
    unended.clear();
  };

  /** What was known may be so or not. */
  const doubtAll = (): number => {
    let count = 0;
    places.each((index) => {
      if (places.state(index) !== UNSURE) count += 1;
      places.setState(index, UNSURE);
    });
    waiting.clear();
    unended.clear();
    inside = undefined;
    return count;
  };

  const takeGap = ({ stream, reason, records }: RowOf<'gap'>): undefined => {
    seen.gaps.push({ seq: row.seq, stream, reason, records });
    mayBeUnknown = true;
    if (reason !== 'trimmed') lostBefore = true;
    // Numbers of the lost second may have been given again.
    if (reason === 'lost') highestNumber = 0;
    if (stream === 'joins' && reason === 'trimmed') return;
    doubtAll();
    limits = undefined;
  };

  const takeRecovering = ({ reason, limits: next }: RowOf<'recovering'>): undefined => {
    if (recoveryReasonOf(reason) === 'lost') {
      // Redis was empty: from here on everything is on record again, from nobody on.
      forgetAll();
      seen.losses += 1;
      mayBeUnknown = false;
      inside = 0;
    }
    // What was written down last may not have happened: in Redis's data it has not.
    else seen.recoveries.push({ seq: row.seq, reason: recoveryReasonOf(reason), unsure: doubtAll() });
    lostBefore = true;
    limits = next;
    tokens = 0;
    tokensAt = row.atMs;
  };

  const takeFact = (): string | undefined => {
    switch (row.kind) {
      case 'joined':
        return takeJoined(row);
      case 'restored':
        return takeRestored(row);
      case 'promoted':
        return takePromoted(row);
      case 'missed':
        return takeMissed(row);
      case 'ended':
        return takeEnded(row.visits, [INSIDE]);
      case 'left':
        return takeEnded(row.visits, LEFT_FROM[row.state] ?? []);
      case 'released':
        return takeReleased(row.places);
      case 'adopted':
        return takeAdopted(row.visits);
      case 'settings':
        return takeSettings(row.limits);
      case 'recovering':
        return takeRecovering(row);
      case 'over':
        forgetAll();
        seen.isOver = true;
        return undefined;
      case 'clock':
        tokensAt = row.atMs;
        return undefined;
      case 'gap':
        return takeGap(row);
      case 'resumed':
        ({ limits, inside, tokens, tokensAt } = row);
        return undefined;
      case 'head':
        return undefined;
    }
  };

  /** A visit that was replaced and whose end did not follow within its millisecond. */
  const overdue = (nowMs: number): { seq: number; says: string } | undefined => {
    for (const [place, { number, state, seq, atMs }] of unended)
      if (atMs !== nowMs)
        return { seq, says: `${named(place, number)} joined again while ${STATE_WORDS[state]}` };
    return undefined;
  };

  return {
    take(next) {
      row = next;
      seen.rows += 1;
      if (next.kind !== 'head') {
        const late = unended.size > 0 ? overdue(next.atMs) : undefined;
        if (late !== undefined) return late;
        if (next.atMs < lastNotedAt) seen.clockWentBack += 1;
        lastNotedAt = next.atMs;
        seen.firstAtMs ||= next.atMs;
        seen.lastAtMs = next.atMs;
      }
      const says = takeFact();
      return says === undefined ? undefined : { seq: next.seq, says };
    },
    finish: () => overdue(-1),
    summary: () => ({ ...seen }),
  };
};
