// Set-Cookie headers of ours (RFC 6265): HttpOnly, SameSite=Lax, the whole site, Secure where the address is https.

import type { RoomId, VisitorId } from '../kernel/ids.ts';
import type { Tokens } from '../kernel/token.ts';
import { type CookieNames, signVisitor } from '../line/visitor.ts';

type Header = readonly [name: string, value: string];

export const setCookie = (
  names: CookieNames,
  cookie: { name: string; value: string; maxAgeSeconds: number },
): Header => [
  'set-cookie',
  `${cookie.name}=${cookie.value}; Path=/; Max-Age=${cookie.maxAgeSeconds}; HttpOnly; SameSite=Lax${names.secure ? '; Secure' : ''}`,
];

/**
 * A visitor's cookie, for whoever showed none. A verified user gets none: who they are is said by their token each
 * time, and a cookie would go on saying it when that has ended.
 */
export const visitorCookies = (
  { names, tokens, visitorDays }: { names: CookieNames; tokens: Tokens; visitorDays: number },
  visitor: VisitorId,
  nowMs: number,
): Header[] =>
  visitor.startsWith('a:')
    ? [
        setCookie(names, {
          name: names.visitor,
          value: signVisitor(tokens, visitor, nowMs),
          maxAgeSeconds: visitorDays * 86_400,
        }),
      ]
    : [];

/** Takes a room's receipt and session away from a browser. */
export const clearRoomCookies = (names: CookieNames, room: RoomId): Header[] =>
  [names.receipt(room), names.session(room)].map((name) =>
    setCookie(names, { name, value: '', maxAgeSeconds: 0 }),
  );
