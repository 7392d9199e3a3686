// Sessions as the gate knows them. A cookie is checked locally; Redis is asked once, at first sight of a visit or of
// a newer cookie of it; afterwards a bounded map answers, and the entry stream says which visits have ended and which
// cookies have been superseded. While Redis is gone the room's `whenRedisIsGone` decides: `closed` refuses, `bounded`
// honours sessions seen before until they expire.
//
// A visit is in one of three modes here: unknown, live, ended. It stands in the map before Redis is asked, so that news
// from the stream that overtakes the answer is not lost. What is known carries the age it was learnt in; a gap in the
// stream begins a new age, in which Redis is asked again. Whoever has ended here is then only looked up, never taken
// back: a Redis that lost its data would not know better.

import { Refusal } from '../kernel/errors.ts';
import type { RoomId } from '../kernel/ids.ts';
import { createRecent } from '../kernel/recent.ts';
import type { Redis } from '../kernel/redis.ts';
import type { Tokens } from '../kernel/token.ts';
import { readSession, type Session, signSession } from '../line/receipt.ts';
import type { Snapshot } from '../line/snapshot.ts';
import type { View } from '../line/view.ts';
import { adopt, renew, roomKeys } from '../lua/room.ts';

export type Admission =
  | { outcome: 'admitted'; session: Session; cookie: string | undefined }
  | { outcome: 'none' };

type Visit = { placeId: string; number: number };

export type Sessions = {
  /**
   * As `admit`, where nothing has to be asked: of the sessions that are known. Undefined: call `admit`. A cookie's
   * session is the same object as long as it is remembered, so that others may keep what they know of it by it.
   */
  admitKnown(room: RoomId, snapshot: Snapshot, cookie: string | undefined): Admission | undefined;
  /** Whether this cookie admits to the room now; `cookie` is its renewed value when it should be replaced. */
  admit(room: RoomId, snapshot: Snapshot, cookie: string | undefined): Promise<Admission>;
  /** Whether the session a cookie was read from still admits, however old that cookie is. May ask Redis. */
  isLive(session: Session): Promise<boolean>;
  /** Whether the end of this visit was heard of: no proof brings it back, also where Redis has forgotten. */
  hasEnded(room: RoomId, visit: Visit): boolean;
  /** Said by the entry stream, or by whoever ended it here. */
  ended(room: RoomId, visit: Visit): void;
  /** Said by the entry stream: cookies of this visit with a lower serial admit nobody. */
  superseded(room: RoomId, visit: Visit, serial: number): void;
  /** After a gap in the stream: every session is asked for again. */
  doubt(): void;
};

type Known = {
  mode: 'unknown' | 'live' | 'ended';
  age: number;
  /** How often an end was heard of since the visit was last found live. */
  ends: number;
  /** The highest that is known; only a cookie that carries it admits. */
  serial: number;
  renewing: boolean;
};

/** As the epoch of a session it says: signed in the present one, so not to be adopted. */
const NOT_BEFORE_ANY_LOSS = Number.MAX_SAFE_INTEGER;

/** What is forgotten is asked for again. */
const VISITS_MAX = 100_000;
/** A cookie whose MAC was good stays good: what it says is kept, so that it is not checked with each request. */
const COOKIES_MAX = 50_000;
/** What a cookie says, and the name of its visit, which is looked up with each request. */
type Read = { session: Session; key: string };
const NONE: Admission = { outcome: 'none' };

export const createSessions = (options: { redis: Redis; view: View; tokens: Tokens }): Sessions => {
  const { redis, view, tokens } = options;
  const visits = createRecent<string, Known>(VISITS_MAX);
  const cookies = createRecent<string, Read>(COOKIES_MAX);
  let age = 0;
  const keyOf = (room: RoomId, visit: Visit) => `${room}/${visit.placeId}/${visit.number}`;
  const knownOrNew = (key: string): Known =>
    visits.get(key) ?? visits.set(key, { mode: 'unknown', age, ends: 0, serial: 0, renewing: false });

  /** What a cookie says, when it is ours, of this room's present sale, and has not run out. */
  const readOf = (room: RoomId, snapshot: Snapshot, cookie: string): Read | undefined => {
    let read = cookies.get(cookie);
    if (read === undefined) {
      const session = readSession(tokens, cookie);
      if (session === undefined) return undefined;
      read = cookies.set(cookie, { session, key: keyOf(session.room, session) });
    }
    const { session } = read;
    const ofSale = session.room === room && session.sale === snapshot.settings.sale;
    return ofSale && session.expiresAtMs > view.redisNowMs() ? read : undefined;
  };
  const isSeen = (session: Session, state: Known): boolean =>
    state.mode === 'live' && state.age === age && session.serial <= state.serial;

  const end = (state: Known): void => {
    state.mode = 'ended';
    state.age = age;
    state.ends += 1;
  };

  /** The session must be active in Redis, or may be adopted after a loss of data. */
  const ask = async (session: Session, state: Known): Promise<void> => {
    const { room, sale, placeId, number, expiresAtMs, startedAtMs, epoch, serial, visitorId } = session;
    const asked = { age, ends: state.ends };
    const done = await adopt.run(redis, roomKeys(room), {
      nowMs: '',
      sale,
      placeId,
      number,
      expiresAtMs,
      startedAtMs,
      sessionEpoch: asked.ends > 0 ? NOT_BEFORE_ANY_LOSS : epoch,
      serial,
      visitor: visitorId,
    });
    if (done.outcome === 'unknown') throw new Refusal('room-recovering');
    if (state.ends !== asked.ends) return; // News has overtaken this answer.
    switch (done.outcome) {
      case 'active':
      case 'adopted':
        state.mode = 'live';
        state.age = asked.age;
        state.ends = 0;
        state.serial = Math.max(state.serial, done.outcome === 'active' ? done.serial : serial);
        return;
      case 'otherSale':
      case 'finished':
      case 'ended':
        end(state);
    }
  };

  const renewed = async (session: Session, state: Known): Promise<Admission> => {
    state.renewing = true;
    try {
      const done = await renew.run(redis, roomKeys(session.room), {
        nowMs: '',
        placeId: session.placeId,
        number: session.number,
      });
      if (done.outcome === 'ended') {
        end(state);
        return { outcome: 'none' };
      }
      if (done.outcome !== 'renewed' || done.expiresAtMs <= session.expiresAtMs)
        return { outcome: 'admitted', session, cookie: undefined };
      const longer = { ...session, expiresAtMs: done.expiresAtMs };
      return { outcome: 'admitted', session: longer, cookie: signSession(tokens, longer) };
    } finally {
      state.renewing = false;
    }
  };

  /** Past the middle of its life, while the absolute limit leaves something to gain. */
  const isToBeRenewed = (session: Session, { settings }: Snapshot, nowMs: number): boolean =>
    settings.sessionRenewal &&
    session.expiresAtMs - nowMs < settings.sessionSeconds * 500 &&
    session.expiresAtMs < session.startedAtMs + settings.absoluteSessionSeconds * 1000;

  return {
    admitKnown(room, snapshot, cookie) {
      if (cookie === undefined) return NONE;
      const read = readOf(room, snapshot, cookie);
      if (read === undefined) return NONE;
      if (!view.redisUp()) return undefined;
      const { session, key } = read;
      const state = knownOrNew(key);
      if (state.mode === 'ended' && state.age === age) return NONE;
      if (!isSeen(session, state)) return undefined;
      if (session.serial < state.serial) return NONE;
      if (!state.renewing && isToBeRenewed(session, snapshot, view.redisNowMs())) return undefined;
      return { outcome: 'admitted', session, cookie: undefined };
    },
    async admit(room, snapshot, cookie) {
      const read = cookie === undefined ? undefined : readOf(room, snapshot, cookie);
      if (read === undefined) return NONE;
      const { session, key } = read;
      const state = knownOrNew(key);
      if (state.mode === 'ended' && state.age === age) return NONE;
      const seen = isSeen(session, state);
      const bounded = snapshot.settings.whenRedisIsGone === 'bounded';
      if (!view.redisUp() && !(bounded && seen)) throw new Refusal('unavailable');
      if (!seen) {
        try {
          await ask(session, state);
        } catch (cause) {
          throw cause instanceof Refusal ? cause : new Refusal('unavailable', { cause });
        }
      }
      if (state.mode !== 'live' || session.serial < state.serial) return NONE;
      if (isToBeRenewed(session, snapshot, view.redisNowMs()) && !state.renewing && view.redisUp()) {
        try {
          return await renewed(session, state);
        } catch {
          // The session is still good until its expiry; the next request tries again.
          return { outcome: 'admitted', session, cookie: undefined };
        }
      }
      return { outcome: 'admitted', session, cookie: undefined };
    },
    async isLive(session) {
      const state = knownOrNew(keyOf(session.room, session));
      if (state.age !== age || state.mode === 'unknown') await ask(session, state);
      return state.mode === 'live' && session.serial >= state.serial;
    },
    hasEnded: (room, visit) => visits.get(keyOf(room, visit))?.mode === 'ended',
    ended(room, visit) {
      end(knownOrNew(keyOf(room, visit)));
    },
    superseded(room, visit, serial) {
      const state = knownOrNew(keyOf(room, visit));
      state.serial = Math.max(state.serial, serial);
    },
    doubt() {
      age += 1;
    },
  };
};
