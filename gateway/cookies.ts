// Set-Cookie headers of ours (RFC 6265): HttpOnly, SameSite=Lax, the whole site, Secure where the address is https.

import type { RoomId } from '../kernel/ids.ts';
import type { CookieNames } from '../line/visitor.ts';

type Header = readonly [name: string, value: string];

export const setCookie = (
  names: CookieNames,
  cookie: { name: string; value: string; maxAgeSeconds: number },
): Header => [
  'set-cookie',
  `${cookie.name}=${cookie.value}; Path=/; Max-Age=${cookie.maxAgeSeconds}; HttpOnly; SameSite=Lax${names.secure ? '; Secure' : ''}`,
];

/** Takes a room's receipt and session away from a browser. */
export const clearRoomCookies = (names: CookieNames, room: RoomId): Header[] =>
  [names.receipt(room), names.session(room)].map((name) =>
    setCookie(names, { name, value: '', maxAgeSeconds: 0 }),
  );
