// The rules of the line a second time, as plainly as they can be said, to be the oracle of the scripts. It knows
// nothing of Redis: a map of places, a bucket, a clock that the caller moves.

export type ModelPlace = {
  state: 'waiting' | 'parked' | 'withheld' | 'promoted' | 'active';
  number: number;
  score: number;
  missed: boolean;
  untilMs: number;
  startedAtMs: number;
  /** Of an active place: rises when its session goes elsewhere. */
  serial?: number;
  /** Who claimed it first. */
  visitor?: string;
  redeemed?: boolean;
};

export type ModelSettings = {
  newUsersPerMinute: number;
  burst: number;
  totalActiveUsers: number;
  sessionSeconds: number;
  absoluteSessionSeconds: number;
  claimSeconds: number;
  graceSeconds: number;
  suspended: boolean;
  queueAll: boolean;
  queueingMethod: 'fifo' | 'random' | 'reject';
  closesAt: number;
  sale: number;
};

const HEAD_AT_START = -1099511627777;

export class LineModel {
  readonly places = new Map<string, ModelPlace>();
  readonly finished = new Map<string, number>();
  readonly here = new Map<string, number>();
  settings: ModelSettings;
  number = 0;
  head = HEAD_AT_START;
  epoch: number;
  isOver = false;
  units: number;
  unitsAtMs: number;
  hereAtMs: number | undefined;
  recoveringUntilMs = 0;

  constructor(settings: ModelSettings, nowMs: number) {
    this.settings = settings;
    this.units = settings.burst * 60_000;
    this.unitsAtMs = nowMs;
    this.epoch = nowMs;
  }

  configure(next: ModelSettings, nowMs: number): string {
    const isNewSale = next.sale !== this.settings.sale;
    this.units = Math.min(
      next.burst * 60_000,
      this.settings.burst * 60_000,
      this.units + Math.max(0, nowMs - this.unitsAtMs) * this.settings.newUsersPerMinute,
    );
    this.unitsAtMs = nowMs;
    this.settings = next;
    if (isNewSale) {
      this.places.clear();
      this.finished.clear();
      this.here.clear();
      this.hereAtMs = undefined;
      this.number = 0;
      this.head = HEAD_AT_START;
    }
    if (isNewSale || next.closesAt === 0 || next.closesAt > nowMs) this.isOver = false;
    return 'configured';
  }

  close(nowMs: number): string {
    const { closesAt } = this.settings;
    if (closesAt === 0 || nowMs < closesAt) return 'running';
    if (this.occupied() > 0) return 'emptying';
    if (this.isOver) return 'over';
    this.places.clear();
    this.finished.clear();
    this.here.clear();
    this.head = this.number;
    this.isOver = true;
    return 'closed';
  }

  /** Redis has lost everything; what is left is what somebody remembers and what visitors hold. */
  recover(memory: { head: number; number: number }, nowMs: number, recoverySeconds: number): void {
    this.places.clear();
    this.finished.clear();
    this.here.clear();
    this.hereAtMs = undefined;
    this.number = memory.number + 1_000_000;
    this.head = memory.head;
    this.epoch = nowMs;
    this.isOver = false;
    this.units = 0;
    this.unitsAtMs = nowMs;
    this.recoveringUntilMs = nowMs + recoverySeconds * 1000;
  }

  adopt(
    placeId: string,
    session: {
      number: number;
      expiresAtMs: number;
      startedAtMs: number;
      epoch: number;
      serial: number;
      visitorId: string;
    },
    nowMs: number,
  ): string {
    const place = this.places.get(placeId);
    if (place?.state === 'active' && place.number === session.number && place.untilMs >= nowMs) {
      if (session.serial > (place.serial ?? 0)) {
        place.serial = session.serial;
        place.visitor = session.visitorId;
      }
      return `active ${place.untilMs} ${place.serial}`;
    }
    if ((this.finished.get(placeId) ?? 0) >= session.number) return 'finished';
    const isInside = place?.state === 'active' || place?.state === 'promoted';
    if (isInside || session.epoch >= this.epoch || session.expiresAtMs < nowMs) return 'ended';
    this.places.set(placeId, {
      state: 'active',
      number: session.number,
      score: session.number,
      missed: false,
      untilMs: session.expiresAtMs,
      startedAtMs: session.startedAtMs,
      serial: session.serial,
      visitor: session.visitorId,
    });
    return `adopted ${session.expiresAtMs}`;
  }

  inState(state: ModelPlace['state']): [string, ModelPlace][] {
    return [...this.places].filter(([, place]) => place.state === state);
  }
  line(): [string, ModelPlace][] {
    return this.inState('waiting').sort(([a, p], [b, q]) => p.score - q.score || (a < b ? -1 : 1));
  }
  occupied(): number {
    return this.inState('promoted').length + this.inState('active').length;
  }

  join(placeId: string, allow: boolean, nowMs: number): string {
    const held = this.places.get(placeId);
    if (held !== undefined) {
      if (held.state === 'parked') held.state = 'waiting';
      if (held.state === 'waiting') this.here.set(placeId, nowMs);
      return `held ${held.state} ${held.number}`;
    }
    if (nowMs < this.recoveringUntilMs) return 'recovering';
    const { closesAt, queueingMethod } = this.settings;
    if (queueingMethod === 'reject' || (closesAt > 0 && nowMs >= closesAt)) return 'closed';
    this.number += 1;
    const state = allow ? 'waiting' : 'withheld';
    this.places.set(placeId, {
      state,
      number: this.number,
      score: this.number,
      missed: false,
      untilMs: 0,
      startedAtMs: 0,
    });
    if (allow) this.here.set(placeId, nowMs);
    return `joined ${state} ${this.number}`;
  }

  hear(placeId: string, nowMs: number): void {
    const place = this.places.get(placeId);
    if (place?.state === 'parked' && !place.missed) place.state = 'waiting';
    if (place?.state === 'waiting') this.here.set(placeId, nowMs);
    this.hereAtMs = nowMs;
  }

  /** `drawn`: whom the script drew, where the room draws; the oracle cannot know that before. */
  promote(promoteMax: number, examineMax: number, nowMs: number, drawn: readonly string[] = []): string {
    const { settings } = this;
    if (settings.suspended) return 'gated suspended';
    if (settings.queueAll) return 'gated queueAll';
    if (nowMs < this.recoveringUntilMs) return 'gated recovering';
    if (settings.closesAt > 0 && nowMs >= settings.closesAt) return 'gated closed';
    const line = this.line();
    const units = Math.min(
      settings.burst * 60_000,
      this.units + Math.max(0, nowMs - this.unitsAtMs) * settings.newUsersPerMinute,
    );
    if (nowMs < this.unitsAtMs) this.unitsAtMs = nowMs;
    if (line.length === 0) return 'idle';
    const budget = Math.min(
      Math.floor(units / 60_000),
      settings.totalActiveUsers - this.occupied(),
      promoteMax,
    );
    if (budget <= 0) return 'spent';
    const graceMs = settings.graceSeconds * 1000;
    const presenceKnown = this.hereAtMs !== undefined && nowMs - this.hereAtMs <= graceMs;
    const promoted: string[] = [];
    let parked = 0;
    const isDrawn = settings.queueingMethod === 'random';
    // A draw is Redis's; the rules only say how many are drawn, and what becomes of each.
    const chosen = isDrawn
      ? drawn.map((placeId): [string, ModelPlace] => {
          const place = this.places.get(placeId);
          if (place?.state !== 'waiting') throw new Error(`${placeId} was drawn and does not wait`);
          return [placeId, place];
        })
      : line.slice(0, Math.min(examineMax, 500, presenceKnown ? 2 * budget + 50 : budget));
    if (isDrawn && new Set(drawn).size !== Math.min(line.length, budget, examineMax, 500))
      return `a draw of ${Math.min(line.length, budget, examineMax, 500)}`;
    for (const [placeId, place] of chosen) {
      if (promoted.length >= budget) break;
      if (!isDrawn) this.head = Math.max(this.head, place.score);
      if (presenceKnown && nowMs - (this.here.get(placeId) ?? 0) > graceMs) {
        place.state = 'parked';
        parked += 1;
      } else {
        place.state = 'promoted';
        place.untilMs = nowMs + settings.claimSeconds * 1000;
        promoted.push(placeId);
      }
      this.here.delete(placeId);
    }
    this.units = units - promoted.length * 60_000;
    this.unitsAtMs = nowMs;
    return `promoted ${promoted.length} ${parked} ${promoted.join(',')}`;
  }

  claim(placeId: string, number: number, shownSerial: number | '', visitor: string, nowMs: number): string {
    const place = this.places.get(placeId);
    if ((this.finished.get(placeId) ?? 0) >= number) return 'finished';
    if (place?.state === 'active' && place.number === number) {
      if (place.untilMs < nowMs) return 'finished';
      if (place.serial !== shownSerial) place.serial = (place.serial ?? 0) + 1;
      return `active ${place.untilMs} ${place.serial} ${place.visitor}`;
    }
    if (place?.state !== 'promoted' || place.number !== number) return 'notPromoted';
    place.state = 'active';
    place.missed = false;
    place.startedAtMs = nowMs;
    place.untilMs =
      nowMs + Math.min(this.settings.sessionSeconds, this.settings.absoluteSessionSeconds) * 1000;
    place.serial = 1;
    place.visitor = visitor;
    return `claimed ${place.untilMs} 1 ${visitor}`;
  }

  redeem(placeId: string, number: number, serial: number, nowMs: number): string {
    const place = this.places.get(placeId);
    if ((this.finished.get(placeId) ?? 0) >= number) return 'finished';
    if (place?.state !== 'active' || place.number !== number || place.untilMs < nowMs) return 'notActive';
    if (place.redeemed) return 'redeemedBefore';
    if (place.serial !== serial) return 'superseded';
    place.redeemed = true;
    place.serial = serial + 1;
    return `redeemed ${place.untilMs} ${place.serial} ${place.visitor}`;
  }

  renew(placeId: string, number: number, nowMs: number): string {
    const place = this.places.get(placeId);
    if (place?.state !== 'active' || place.number !== number || place.untilMs < nowMs) return 'ended';
    const latest = place.startedAtMs + this.settings.absoluteSessionSeconds * 1000;
    place.untilMs = Math.max(place.untilMs, Math.min(nowMs + this.settings.sessionSeconds * 1000, latest));
    return `renewed ${place.untilMs}`;
  }

  private finish(placeId: string, number: number): void {
    this.places.delete(placeId);
    this.here.delete(placeId);
    this.finished.set(placeId, number);
  }

  end(placeId: string, number: number): string {
    const place = this.places.get(placeId);
    if (place?.state !== 'active' || place.number !== number) return 'notActive';
    this.finish(placeId, number);
    return 'ended';
  }

  leave(placeId: string): string {
    const place = this.places.get(placeId);
    if (place === undefined) return 'none';
    this.finish(placeId, place.number);
    return `left ${place.state} ${place.number}`;
  }

  release(placeId: string, nowMs: number): string {
    const place = this.places.get(placeId);
    if (place?.state !== 'withheld') return 'notWithheld';
    place.state = 'waiting';
    this.here.set(placeId, nowMs);
    return 'released';
  }

  reap(reapMax: number, nowMs: number): string {
    const due = (state: 'promoted' | 'active') =>
      this.inState(state)
        .filter(([, place]) => place.untilMs < nowMs)
        .sort(([a, p], [b, q]) => p.untilMs - q.untilMs || (a < b ? -1 : 1))
        .slice(0, reapMax);
    const late = due('promoted');
    const expired = due('active');
    let missed = 0;
    for (const [placeId, place] of late)
      if (place.missed) this.finish(placeId, place.number);
      else {
        place.state = 'parked';
        place.missed = true;
        place.untilMs = 0;
        missed += 1;
      }
    for (const [placeId, place] of expired) this.finish(placeId, place.number);
    this.units = Math.min(this.settings.burst * 60_000, this.units + late.length * 60_000);
    return `reaped ${missed} ${late.length - missed} ${expired.length}`;
  }

  restore(placeId: string, number: number, score: number, nowMs: number): string {
    if ((this.finished.get(placeId) ?? 0) >= number) return 'finished';
    if (this.places.has(placeId)) return 'held';
    if (score <= this.head) return 'passed';
    this.places.set(placeId, { state: 'waiting', number, score, missed: false, untilMs: 0, startedAtMs: 0 });
    this.number = Math.max(this.number, number);
    this.here.set(placeId, nowMs);
    return 'restored';
  }
}
