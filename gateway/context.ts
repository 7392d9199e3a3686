// What an origin is told about a request, whoever carries it: the signed context, and beside it what is readable
// without a key.

import type { RoomId, VisitorId } from '../kernel/ids.ts';
import type { Tokens } from '../kernel/token.ts';
import { contextHeader, signContext } from '../line/context.ts';
import { type Session, sessionIdOf } from '../line/receipt.ts';
import type { Header } from './places.ts';

export const contextHeaders = (
  tokens: Tokens,
  told: {
    visitorId: VisitorId;
    /** That guards the address, if one does. */
    room: RoomId | undefined;
    session: Session | undefined;
  },
): Header[] => {
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
