// The sale that a first start shows: two seated sections and a quantity area, so that each kind can be tried.

import type { EventId, RoomId } from '../kernel/ids.ts';
import type { SaleEvent } from './inventory.ts';

export const demoEvent: SaleEvent = {
  id: 'demo' as EventId, // One of a–z, as EventId asks.
  room: 'demo' as RoomId, // The same.
  name: 'The Long Night — live in concert',
  venue: 'Harbour Hall',
  startsAt: new Date('2027-06-19T18:30:00Z'),
  currency: 'EUR',
  version: 1,
  sections: [
    { id: 'stalls', name: 'Stalls', kind: 'seated', rows: 10, perRow: 20, priceMinor: 6500 },
    { id: 'balcony', name: 'Balcony', kind: 'seated', rows: 6, perRow: 18, priceMinor: 4500 },
    { id: 'standing', name: 'Standing', kind: 'area', rows: 1, perRow: 150, priceMinor: 3500 },
  ],
};
