// A line as two sorted lists of scores, measured as lua/room/measure does and surveyed as the dispatcher does, but
// without Redis: whole sales of many thousand places run in a second, and the true rank of everyone is at hand.

import { lowerBound } from '../../line/position.ts';
import { defaultSettings, type Settings } from '../../line/settings.ts';
import { LIST_MAX, listMinAfter, type Snapshot } from '../../line/snapshot.ts';
import { survey } from '../../line/survey.ts';
import type { Measured } from '../../lua/room.ts';

export class MeasuredLine {
  /** Scores, ascending. */
  waiting: number[] = [];
  parked: number[] = [];
  nextNumber = 0;
  passedTotal = 0;
  promoted = 0;
  active = 0;
  head = -1_099_511_627_777;
  settings: Settings = defaultSettings;
  snapshot: Snapshot | undefined;
  fields = new Map<string, string>();
  rounds = 0;
  /** The most scores that one count of the last snapshot asked for. */
  countsMost = 0;

  join(count: number): void {
    for (let joined = 0; joined < count; joined += 1) {
      this.nextNumber += 1;
      this.waiting.push(this.nextNumber);
    }
  }

  /** How many stand before `score`, waiting or parked: the truth. */
  before(score: number): number {
    return lowerBound(this.waiting, score) + lowerBound(this.parked, score);
  }

  measure(scores: readonly number[], listedTo: number, nowMs: number): Measured {
    const { waiting, parked, settings } = this;
    const upTo = lowerBound(waiting, listedTo + 0.5);
    const listed = waiting.slice(0, Math.min(LIST_MAX, Math.max(listMinAfter(this.snapshot), upTo)));
    const last = listed[listed.length - 1];
    const between = parked
      .filter((score) => last !== undefined && score >= listed[0]! && score <= last)
      .slice(-LIST_MAX);
    const parkedTo = last === undefined ? parked.length : lowerBound(parked, last + 0.5);
    const room = new Map([
      ...this.fields,
      ['epoch', '1'],
      ['version', '1'],
      ['nextNumber', String(this.nextNumber)],
      ['passedTotal', String(this.passedTotal)],
      ['promotedTotal', String(this.passedTotal)],
      ['totalActiveUsers', String(settings.totalActiveUsers)],
      ['head', String(this.head)],
      ['recoveringUntil', '0'],
      ['snapshotAt', String(this.snapshot?.atMs ?? 0)],
      ['settings', JSON.stringify(settings)],
    ]);
    return {
      outcome: 'measured',
      atMs: nowMs,
      room,
      waiting: waiting.length,
      parked: parked.length,
      withheld: 0,
      promoted: this.promoted,
      active: this.active,
      listed,
      between,
      parkedBefore: parkedTo - between.length,
      parkedAt:
        parkedTo === between.length
          ? []
          : listed.filter((score) => score <= between[0]!).map((score) => lowerBound(parked, score)),
      ranks: scores.map((score) => this.before(score)),
      nearScore: '0',
    };
  }

  /** The next snapshot, made and kept. */
  survey(nowMs: number): Snapshot {
    const counts = survey(this.snapshot);
    this.countsMost = 0;
    for (let step = counts.next(); ; ) {
      if (step.done === true) {
        if (step.value === undefined) throw new Error('the settings of the model are not valid');
        this.fields.set('pace', step.value.pace);
        this.snapshot = step.value.snapshot;
        return step.value.snapshot;
      }
      const { scores, listedTo } = step.value;
      this.rounds += 1;
      this.countsMost = Math.max(this.countsMost, scores.length);
      step = counts.next(this.measure(scores, Number(listedTo === '-inf' ? -Infinity : listedTo), nowMs));
    }
  }
}
