// The gate: what happens to a request that is not one of our own. A pure decision over facts; the caller fetches
// the facts before and acts after. Fails closed: whatever is guarded and shows no live session gets the waiting
// page, by any path, method, host or token.

import type { RoomId } from '../kernel/ids.ts';
import { isBelow, openBookingPaths } from '../line/routes.ts';

export type GateFacts = {
  /** One of the parts of booking-core that need no session, and booking-core answers here. */
  open: boolean;
  /** The room whose route matches, if any. */
  room: RoomId | undefined;
  method: string;
  acceptsHtml: boolean;
  /** The guarding room lets everyone through without a line. */
  passthrough: boolean;
  /** A rule of the guarding room lets this request by. */
  bypassed: boolean;
  admitted: boolean;
  hasDefaultOrigin: boolean;
};

export type GateDecision =
  | { act: 'proxy'; to: 'room' | 'booking-core' | 'default' }
  | { act: 'waitingPage' }
  | { act: 'refuse'; code: 'session-required' | 'not-found' };

export const isOpenPath = (path: string): boolean => openBookingPaths.some((prefix) => isBelow(path, prefix));

export const decide = (facts: GateFacts): GateDecision => {
  if (facts.open) return { act: 'proxy', to: 'booking-core' };
  if (facts.room === undefined)
    return facts.hasDefaultOrigin ? { act: 'proxy', to: 'default' } : { act: 'refuse', code: 'not-found' };
  if (facts.passthrough || facts.bypassed || facts.admitted) return { act: 'proxy', to: 'room' };
  const page = facts.acceptsHtml && (facts.method === 'GET' || facts.method === 'HEAD');
  return page ? { act: 'waitingPage' } : { act: 'refuse', code: 'session-required' };
};
