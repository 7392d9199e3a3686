// The token of an origin or another service of the operator: it lets its bearer end sessions of one room, or of all
// (`*`). It is an HMAC like our cookies, so nothing has to be stored to check it; taking one back before it expires
// means replacing the key that signed it. `npm run keys -- service <room|*> [days]` makes one.

import { parseRoomId, type RoomId } from '../kernel/ids.ts';
import type { Tokens } from '../kernel/token.ts';

export type ServiceScope = RoomId | '*';
/** A year: whoever forgets to renew it notices once, and a lost one does not open the door for ever. */
export const SERVICE_DAYS_MAX = 366;

export const parseServiceScope = (text: string): ServiceScope | undefined =>
  text === '*' ? '*' : parseRoomId(text);

export const signService = (tokens: Tokens, service: { scope: ServiceScope; expiresAtMs: number }): string =>
  tokens.sign('service', [service.scope, Math.floor(service.expiresAtMs / 1000)]);

export type ServiceRead = { outcome: 'allowed' | 'invalid' | 'expired' | 'otherRoom' };

/** Whether a token lets its bearer act in a room now. */
export const readService = (
  tokens: Tokens,
  token: string,
  at: { room: RoomId; nowMs: number },
): ServiceRead => {
  const fields = tokens.verify('service', token);
  if (fields === undefined || fields.length !== 2) return { outcome: 'invalid' };
  const [scope, expiresAtSeconds] = fields;
  if (typeof scope !== 'string' || typeof expiresAtSeconds !== 'number') return { outcome: 'invalid' };
  if (expiresAtSeconds * 1000 <= at.nowMs) return { outcome: 'expired' };
  return { outcome: scope === '*' || scope === at.room ? 'allowed' : 'otherRoom' };
};
