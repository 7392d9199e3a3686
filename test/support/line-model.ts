// The rules of the line a second time, as plainly as they can be said, to be the oracle of the scripts. It knows
// nothing of Redis: a map of places, a bucket, a clock that the caller moves.

export type ModelPlace = {
  state: 'waiting' | 'parked' | 'withheld' | 'promoted' | 'active';
  number: number;
  score: number;
  missed: boolean;
  untilMs: number;
  startedAtMs: number;
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
};

export class LineModel {
  readonly places = new Map<string, ModelPlace>();
  readonly finished = new Map<string, number>();
  readonly here = new Map<string, number>();
  settings: ModelSettings;
  number = 0;
  head = -1099511627777;
  units: number;
  unitsAtMs: number;
  hereAtMs: number | undefined;
  recoveringUntilMs = 0;

  constructor(settings: ModelSettings, nowMs: number) {
    this.settings = settings;
    this.units = settings.burst * 60_000;
    this.unitsAtMs = nowMs;
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

  promote(promoteMax: number, examineMax: number, nowMs: number): string {
    const { settings } = this;
    if (settings.suspended) return 'gated suspended';
    if (nowMs < this.recoveringUntilMs) return 'gated recovering';
    const line = this.line();
    if (line.length === 0) return 'idle';
    const units = Math.min(
      settings.burst * 60_000,
      this.units + Math.max(0, nowMs - this.unitsAtMs) * settings.newUsersPerMinute,
    );
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
    for (const [placeId, place] of line.slice(0, Math.min(examineMax, 500))) {
      if (promoted.length >= budget) break;
      this.head = Math.max(this.head, place.score);
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

  claim(placeId: string, number: number, nowMs: number): string {
    const place = this.places.get(placeId);
    if ((this.finished.get(placeId) ?? 0) >= number) return 'finished';
    if (place?.state === 'active' && place.number === number) return `active ${place.untilMs}`;
    if (place?.state !== 'promoted' || place.number !== number) return 'notPromoted';
    place.state = 'active';
    place.missed = false;
    place.startedAtMs = nowMs;
    place.untilMs =
      nowMs + Math.min(this.settings.sessionSeconds, this.settings.absoluteSessionSeconds) * 1000;
    return `claimed ${place.untilMs}`;
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
