// Honest sales made up from a seed: a line that keeps its own rules, told as the events of a ledger. Small on
// purpose and written apart from the checker: a queue that is sorted each time, a bucket, a set of those inside.

import type { PlaceId } from '../../kernel/ids.ts';
import { parsePlaceId } from '../../kernel/ids.ts';
import type { KeySet, Tokens } from '../../kernel/token.ts';
import type { Limits } from '../../line/entries.ts';
import { chained, chainStart, FORMAT, type LedgerEvent, type LedgerVisit } from '../../line/ledger.ts';
import { drawScore } from '../../line/visitor.ts';
import { random } from './random.ts';

type Someone = { place: PlaceId; number: number; score: number; missed: boolean };
export const placeOf = (count: number): PlaceId => parsePlaceId(`p${String(count).padStart(15, '0')}`)!;
export const T0 = 1_800_000_000_000;

export const honestSale = (seed: number, options: { steps: number; drawSeed?: Buffer }): LedgerEvent[] => {
  const dice = random(seed);
  const events: LedgerEvent[] = [];
  let now = T0;
  let limits: Limits = {
    newUsersPerMinute: 60 + dice.below(600),
    effectiveBurst: 3 + dice.below(10),
    totalActiveUsers: 5 + dice.below(20),
    sale: 1,
    queueingMethod: 'fifo',
  };
  let version = 1;
  let units = limits.effectiveBurst * 60_000;
  let unitsAt = now;
  let numbers = 0;
  let people = 0;
  let lost = false;
  const line: Someone[] = [];
  const parked: Someone[] = [];
  const withheld: Someone[] = [];
  const inside: Someone[] = [];
  const away: Someone[] = []; // Known only by their receipts after a loss.
  const visit = ({ place, number, score }: Someone): LedgerVisit =>
    score === number ? [place, number] : [place, number, score];
  const take = (from: Someone[]): Someone | undefined => from.splice(dice.below(from.length), 1)[0];

  const joinSome = (drawn: boolean): void => {
    const fresh: Someone[] = [];
    const held: string[] = [];
    for (let count = 1 + dice.below(5); count > 0; count -= 1) {
      numbers += 1;
      people += 1;
      const place = placeOf(people);
      const score = drawn && options.drawSeed ? drawScore(options.drawSeed, place) : numbers;
      const one = { place, number: numbers, score, missed: false };
      fresh.push(one);
      if (dice.below(8) === 0) {
        withheld.push(one);
        held.push(place);
      } else line.push(one);
    }
    events.push({
      ...{ kind: 'joined', atMs: now, visits: fresh.map(visit) },
      ...(held.length > 0 ? { withheld: held } : {}),
    });
  };
  const promoteSome = (): void => {
    line.sort((a, b) => a.score - b.score);
    units = Math.min(limits.effectiveBurst * 60_000, units + (now - unitsAt) * limits.newUsersPerMinute);
    unitsAt = now;
    const budget = Math.min(Math.floor(units / 60_000), limits.totalActiveUsers - inside.length);
    if (budget <= 0 || line.length === 0) {
      // The script writes nothing then, and keeps its bucket as it was: what it earned is counted later.
      return;
    }
    const gone: Someone[] = [];
    const passed: string[] = [];
    while (gone.length < budget && line.length > 0) {
      const one = line.shift()!;
      if (dice.below(6) === 0) {
        parked.push(one);
        passed.push(one.place);
      } else gone.push(one);
    }
    units -= gone.length * 60_000;
    inside.push(...gone);
    events.push({
      ...{ kind: 'promoted', atMs: now, deadlineMs: now + 60_000, visits: gone.map(visit) },
      ...(passed.length > 0 ? { parked: passed } : {}),
    });
  };
  const missSome = (): void => {
    const one = take(inside);
    if (one === undefined) return;
    if (one.missed) events.push({ kind: 'missed', atMs: now, visits: [], finished: [visit(one)] });
    else {
      parked.push({ ...one, missed: true });
      events.push({ kind: 'missed', atMs: now, visits: [visit(one)] });
    }
    units = Math.min(limits.effectiveBurst * 60_000, units + 60_000);
  };
  const leaveSome = (): void => {
    const [state, from] = dice.pick([
      ['waiting', line],
      ['parked', parked],
      ['active', inside],
      ['withheld', withheld],
    ] as const);
    const one = take(from);
    if (one !== undefined) events.push({ kind: 'left', atMs: now, visits: [visit(one)], state });
  };
  const tune = (): void => {
    const next = {
      ...limits,
      newUsersPerMinute: 30 + dice.below(900),
      effectiveBurst: 1 + dice.below(12),
      totalActiveUsers: 3 + dice.below(25),
    };
    units = Math.min(
      next.effectiveBurst * 60_000,
      limits.effectiveBurst * 60_000,
      units + (now - unitsAt) * limits.newUsersPerMinute,
    );
    unitsAt = now;
    limits = next;
    version += 1;
    events.push({ kind: 'settings', atMs: now, version, limits });
  };
  const loseAll = (): void => {
    away.push(...line.splice(0), ...parked.splice(0));
    withheld.length = 0;
    const before = inside.splice(0);
    units = 0;
    unitsAt = now;
    numbers += 1_000_000;
    lost = true;
    events.push({ kind: 'recovering', reason: 'lost', atMs: now, untilMs: now, limits });
    for (const one of before)
      if (dice.below(2) === 0) {
        inside.push(one);
        events.push({ kind: 'adopted', atMs: now, visits: [visit(one)] });
      }
  };

  events.push({ kind: 'settings', atMs: now, version, limits });
  for (let count = 0; count < 3; count += 1) joinSome(true);
  for (let step = 0; step < options.steps; step += 1) {
    now += dice.below(4) === 0 ? 0 : dice.below(900);
    switch (dice.below(10)) {
      case 0:
      case 1:
      case 2:
        joinSome(false);
        break;
      case 3:
      case 4:
      case 5:
        promoteSome();
        break;
      case 6: {
        const back = take(parked);
        if (back !== undefined) line.push(back);
        const one = dice.below(2) === 0 ? take(inside) : undefined;
        if (one !== undefined)
          events.push({ kind: 'ended', atMs: now, visits: [visit(one)], reason: 'order' });
        break;
      }
      case 7:
        missSome();
        break;
      case 8:
        if (dice.below(3) === 0) leaveSome();
        else {
          const one = take(withheld);
          if (one !== undefined) {
            line.push(one);
            events.push({ kind: 'released', atMs: now, places: [one.place] });
          }
        }
        break;
      default:
        if (dice.below(12) === 0) loseAll();
        else if (dice.below(3) === 0) tune();
        else if (lost) {
          const one = take(away);
          if (one !== undefined) {
            line.push(one);
            events.push({ kind: 'restored', atMs: now, visits: [visit(one)] });
          }
        }
    }
  }
  events.push({ kind: 'over', atMs: now });
  return events;
};

/** The events as an export, with a signed head after each `headEvery` rows and at the end. */
export const exported = async (
  events: readonly LedgerEvent[],
  options: { tokens: Tokens; jwks: KeySet; headEvery?: number; drawSeed?: Buffer; commitment?: string },
): Promise<string[]> => {
  const { tokens, jwks, headEvery = 20 } = options;
  let end = chainStart('demo', 1);
  const lines: string[] = [];
  const add = (event: LedgerEvent): void => {
    const next = chained(end, event);
    lines.push(next.line);
    end = next.end;
  };
  for (const [index, event] of events.entries()) {
    add(event);
    if ((index + 1) % headEvery !== 0 && index !== events.length - 1) continue;
    const jws = await tokens.signLedgerHead({ room: 'demo', sale: 1, ...end, atMs: event.atMs });
    add({ kind: 'head', atMs: event.atMs, jws });
  }
  const draw =
    options.drawSeed === undefined
      ? {}
      : {
          draw: { opensAt: T0, commitment: options.commitment ?? '', seed: options.drawSeed.toString('hex') },
        };
  const header = { ledger: FORMAT, room: 'demo', sale: 1, rows: lines.length, opensAt: T0, jwks, ...draw };
  return [JSON.stringify(header), ...lines];
};
