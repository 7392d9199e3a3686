// What an origin is told about a request, whoever carries it: the signed context, and beside it what is readable
// without a key.

import type { RoomId, VisitorId } from '../kernel/ids.ts';
import { createRecent } from '../kernel/recent.ts';
import type { Tokens } from '../kernel/token.ts';
import { contextHeader, signContext } from '../line/context.ts';
import { type Session, sessionIdOf } from '../line/receipt.ts';
import type { Header } from './places.ts';

type Told = {
  visitorId: VisitorId;
  /** That guards the address, if one does. */
  room: RoomId | undefined;
  session: Session | undefined;
};

export const contextHeaders = (tokens: Tokens, told: Told): Header[] => {
  const { visitorId, room, session } = told;
  const passed = room === undefined ? { visitorId } : { visitorId, room };
  const context = session === undefined ? passed : { visitorId, visit: session };
  return [
    [contextHeader, signContext(tokens, context, Date.now())],
    ['anteroom-visitor', visitorId],
    ['anteroom-room', session?.room ?? room ?? ''],
    // What the origin names when it ends the session later, from its own side.
    ['anteroom-session-id', session === undefined ? '' : sessionIdOf(session)],
  ];
};

/**
 * What was told of a session is told again for so long: a page is many requests, and a signature costs as much as a
 * tenth of carrying one. An origin believes a context for a minute, so it always has fifty seconds left.
 */
const TOLD_AGAIN_MS = 10_000;
const TOLD_MAX = 50_000;
/** By the session and the visitor cookie that were shown. Both are looked at each time; only the signing is spared. */
type Kept<T> = { visitorCookie: string; atMs: number; value: T };

export type ToldAgain<T> = {
  /** What was told lately of this session to whoever showed this visitor cookie. */
  recall(session: Session, visitorCookie: string | undefined): T | undefined;
  /** `atMs` is when it was signed. */
  keep(session: Session, visitorCookie: string, value: T, atMs: number): void;
};

export const createToldAgain = <T>(): ToldAgain<T> => {
  const kept = createRecent<Session, Kept<T>>(TOLD_MAX);
  return {
    recall(session, visitorCookie) {
      const before = kept.get(session);
      if (before === undefined || before.visitorCookie !== visitorCookie) return undefined;
      return Math.abs(Date.now() - before.atMs) < TOLD_AGAIN_MS ? before.value : undefined;
    },
    keep: (session, visitorCookie, value, atMs) => void kept.set(session, { visitorCookie, atMs, value }),
  };
};
