// The gate: what happens to a request that is not one of our own. A pure decision over facts; the caller fetches
// the facts before and acts after. Fails closed: whatever is guarded and shows no live session gets the waiting
// page, by any path, method, host or token.

import type { RoomId } from '../kernel/ids.ts';

/** Parts of booking-core that need no session: one's own orders and their page, and payment webhooks. */
export const openBookingPaths = [
  '/v1/orders',
  '/v1/holds',
  '/v1/payments',
  '/demo/orders',
  '/demo/assets',
] as const;

export type GateFacts = {
  path: string;
  /** The room whose route matches, if any. */
  room: RoomId | undefined;
  method: string;
  acceptsHtml: boolean;
  /** The guarding room lets everyone through without a line. */
  passthrough: boolean;
  admitted: boolean;
  hasDefaultOrigin: boolean;
};

export type GateDecision =
  | { act: 'proxy'; to: 'room' | 'booking-core' | 'default' }
  | { act: 'waitingPage' }
  | { act: 'refuse'; code: 'session-required' | 'not-found' };

const below = (path: string, prefix: string): boolean => path === prefix || path.startsWith(`${prefix}/`);

export const isOpenPath = (path: string): boolean => openBookingPaths.some((prefix) => below(path, prefix));

export const decide = (facts: GateFacts): GateDecision => {
  if (isOpenPath(facts.path)) return { act: 'proxy', to: 'booking-core' };
  if (facts.room === undefined)
    return facts.hasDefaultOrigin ? { act: 'proxy', to: 'default' } : { act: 'refuse', code: 'not-found' };
  if (facts.passthrough || facts.admitted) return { act: 'proxy', to: 'room' };
  const page = facts.acceptsHtml && (facts.method === 'GET' || facts.method === 'HEAD');
  return page ? { act: 'waitingPage' } : { act: 'refuse', code: 'session-required' };
};
