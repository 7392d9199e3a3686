// What an origin is told about a request, whoever carries it: the signed context, and beside it what is readable
// without a key.

import type { Config } from '../kernel/config.ts';
import type { Request } from '../kernel/http.ts';
import type { RoomId, VisitorId } from '../kernel/ids.ts';
import { createRecent } from '../kernel/recent.ts';
import type { Tokens } from '../kernel/token.ts';
import { CONTEXT_SEPARATOR, contextHeader, signContext } from '../line/context.ts';
import type { Identifier } from '../line/identify.ts';
import { type Session, sessionIdOf } from '../line/receipt.ts';
import type { View } from '../line/view.ts';
import { type CookieNames, newVisitor } from '../line/visitor.ts';
import { visitorCookies } from './cookies.ts';
import type { Header } from './places.ts';

const headersOf = (context: string, visitorId: VisitorId, room: string, sessionId: string): Header[] => [
  [contextHeader, context],
  ['anteroom-visitor', visitorId],
  ['anteroom-room', room],
  // What the origin names when it ends the session later, from its own side.
  ['anteroom-session-id', sessionId],
];

export type Strangers = (
  request: Request,
  at: {
    /** That guards the address, if one does. */
    room: RoomId | undefined;
    /** The origin may have a sign-in of its own. */
    foreignTokens: boolean;
  },
) => Promise<{ headers: Header[]; cookies: Header[] }>;

/** Of somebody without a session, for the origin and for the browser: without a visitor cookie they are given one. */
export const createStrangers = (options: {
  config: Pick<Config, 'visitorDays'>;
  identifier: Pick<Identifier, 'visitorOf'>;
  tokens: Tokens;
  names: CookieNames;
  view: Pick<View, 'redisNowMs'>;
}): Strangers => {
  const { config, identifier, tokens, names, view } = options;
  const { visitorDays } = config;
  return async (request, { room, foreignTokens }) => {
    const shown = await identifier.visitorOf(request, { foreignTokens });
    const visitorId = shown ?? newVisitor();
    const context = room === undefined ? { visitorId } : { visitorId, room };
    return {
      headers: headersOf(signContext(tokens, context, Date.now()), visitorId, room ?? '', ''),
      cookies:
        shown === undefined
          ? visitorCookies({ names, tokens, visitorDays }, visitorId, view.redisNowMs())
          : [],
    };
  };
};

/**
 * Of a session: it says by itself who asks. Where no room guards the address, one may have sessions of several rooms;
 * booking-core is told of all of them, and takes the one of the room that sells what is asked for.
 */
export const sessionHeaders = (
  tokens: Tokens,
  session: Session,
  others: readonly Session[] = [],
): Header[] => {
  const contexts = [session, ...others].map((visit) =>
    signContext(tokens, { visitorId: visit.visitorId, visit }, Date.now()),
  );
  return headersOf(contexts.join(CONTEXT_SEPARATOR), session.visitorId, session.room, sessionIdOf(session));
};

/**
 * What was told of a session is told again for so long: a page is many requests, and a signature costs as much as a
 * tenth of carrying one. An origin believes a context for a minute, so it always has fifty seconds left.
 */
const TOLD_AGAIN_MS = 10_000;
const TOLD_MAX = 50_000;

/** What was told lately of a session, or else what `tell` says of it now. */
export const createToldAgain = <T>(tell: (session: Session) => T): ((session: Session) => T) => {
  const kept = createRecent<Session, { atMs: number; value: T }>(TOLD_MAX);
  return (session) => {
    const atMs = Date.now();
    const before = kept.get(session);
    if (before !== undefined && Math.abs(atMs - before.atMs) < TOLD_AGAIN_MS) return before.value;
    return kept.set(session, { atMs, value: tell(session) }).value;
  };
};
