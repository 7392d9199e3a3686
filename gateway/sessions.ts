// Sessions as the gate knows them. A cookie is checked locally; Redis is asked once, at first sight; afterwards a
// bounded map answers, and the entry stream says which visits have ended. While Redis is gone the room's
// `whenRedisIsGone` decides: `closed` refuses, `bounded` honours sessions seen before until they expire.

import { Refusal } from '../kernel/errors.ts';
import type { RoomId } from '../kernel/ids.ts';
import type { Redis } from '../kernel/redis.ts';
import type { Tokens } from '../kernel/token.ts';
import { readSession, type Session, signSession } from '../line/receipt.ts';
import type { Snapshot } from '../line/snapshot.ts';
import type { View } from '../line/view.ts';
import { adopt, renew, roomKeys } from '../lua/room.ts';

export type Admission =
  | { outcome: 'admitted'; session: Session; cookie: string | undefined }
  | { outcome: 'none' };

export type Sessions = {
  /** Whether this cookie admits to the room now; `cookie` is its renewed value when it should be replaced. */
  admit(room: RoomId, snapshot: Snapshot, cookie: string | undefined): Promise<Admission>;
  /** Said by the entry stream. */
  ended(room: RoomId, visit: { placeId: string; number: number }): void;
  /** Forgets what was seen, after a gap in the stream: every session is asked for again. */
  forget(): void;
};

type Known = { ended: boolean; renewing: boolean };

/** Two generations of this size; when the newer is full, the older is dropped and asked for again. */
const GENERATION_MAX = 100_000;

export const createSessions = (options: { redis: Redis; view: View; tokens: Tokens }): Sessions => {
  const { redis, view, tokens } = options;
  let newer = new Map<string, Known>();
  let older = new Map<string, Known>();
  const keyOf = (room: RoomId, visit: { placeId: string; number: number }) =>
    `${room}/${visit.placeId}/${visit.number}`;

  const known = (key: string): Known | undefined => {
    const recent = newer.get(key);
    if (recent !== undefined) return recent;
    const old = older.get(key);
    if (old !== undefined) remember(key, old);
    return old;
  };
  const remember = (key: string, value: Known): void => {
    if (newer.size >= GENERATION_MAX) {
      older = newer;
      newer = new Map();
    }
    newer.set(key, value);
  };

  /** First sight: the session must be active in Redis, or may be adopted after a loss of data. */
  const firstSight = async (session: Session): Promise<Known> => {
    const { room, sale, placeId, number, expiresAtMs, startedAtMs, epoch } = session;
    const done = await adopt.run(redis, roomKeys(room), {
      nowMs: '',
      sale,
      placeId,
      number,
      expiresAtMs,
      startedAtMs,
      sessionEpoch: epoch,
    });
    if (done.outcome === 'unknown') throw new Refusal('room-recovering');
    const live = done.outcome === 'active' || done.outcome === 'adopted';
    return { ended: !live, renewing: false };
  };

  const renewed = async (session: Session, state: Known): Promise<Admission> => {
    state.renewing = true;
    try {
      const done = await renew.run(redis, roomKeys(session.room), {
        nowMs: '',
        placeId: session.placeId,
        number: session.number,
      });
      if (done.outcome !== 'renewed') return { outcome: 'admitted', session, cookie: undefined };
      const longer = { ...session, expiresAtMs: done.expiresAtMs };
      return { outcome: 'admitted', session: longer, cookie: signSession(tokens, longer) };
    } finally {
      state.renewing = false;
    }
  };

  return {
    async admit(room, snapshot, cookie) {
      if (cookie === undefined) return { outcome: 'none' };
      const session = readSession(tokens, cookie);
      if (session === undefined || session.room !== room || session.sale !== snapshot.settings.sale)
        return { outcome: 'none' };
      const nowMs = view.redisNowMs();
      if (session.expiresAtMs <= nowMs) return { outcome: 'none' };
      const key = keyOf(room, session);
      let state = known(key);
      const bounded = snapshot.settings.whenRedisIsGone === 'bounded';
      if (!view.redisUp() && !(bounded && state !== undefined)) throw new Refusal('unavailable');
      if (state === undefined) {
        try {
          state = await firstSight(session);
        } catch (cause) {
          throw cause instanceof Refusal ? cause : new Refusal('unavailable', { cause });
        }
        remember(key, state);
      }
      if (state.ended) return { outcome: 'none' };
      const { sessionSeconds, sessionRenewal } = snapshot.settings;
      const left = session.expiresAtMs - nowMs;
      if (sessionRenewal && !state.renewing && left < sessionSeconds * 500 && view.redisUp()) {
        try {
          return await renewed(session, state);
        } catch {
          // The session is still good until its expiry; the next request tries again.
          return { outcome: 'admitted', session, cookie: undefined };
        }
      }
      return { outcome: 'admitted', session, cookie: undefined };
    },
    ended(room, visit) {
      const key = keyOf(room, visit);
      const state = known(key);
      if (state !== undefined) state.ended = true;
      else remember(key, { ended: true, renewing: false });
    },
    forget() {
      newer = new Map();
      older = new Map();
    },
  };
};
