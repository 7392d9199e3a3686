// The one table of Redis keys. Every key of a room carries the hash tag {room}, so one script touches one slot
// and the same code runs on one Redis, on Sentinel and on Redis Cluster. docs/reference/keys.md is generated
// from this table.

import type { EventId, RoomId } from './ids.ts';

type Row = { name: string; type: string; owner: string; life: string; holds: string };

export const keyTable = {
  rooms: { name: 'ar:rooms', type: 'set', owner: 'admin', life: 'for ever', holds: 'the rooms that exist' },
  room: {
    name: 'ar:{r}:room',
    type: 'hash',
    owner: 'lua/room',
    life: 'the room',
    holds: 'settings with their version, counters, budget of the rate, epoch, head',
  },
  line: {
    name: 'ar:{r}:line',
    type: 'zset',
    owner: 'lua/room',
    life: 'the sale',
    holds: 'placeId → score, those waiting',
  },
  parked: {
    name: 'ar:{r}:parked',
    type: 'zset',
    owner: 'lua/room',
    life: 'the sale',
    holds: 'placeId → score, those passed over while away',
  },
  withheld: {
    name: 'ar:{r}:withheld',
    type: 'zset',
    owner: 'lua/room',
    life: 'the sale',
    holds: 'placeId → score, those whose verdict was not allow; bounded',
  },
  promoted: {
    name: 'ar:{r}:promoted',
    type: 'zset',
    owner: 'lua/room',
    life: 'the sale',
    holds: 'placeId → claim deadline, ms',
  },
  active: {
    name: 'ar:{r}:active',
    type: 'zset',
    owner: 'lua/room',
    life: 'the sale',
    holds: 'placeId → session expiry, ms',
  },
  places: {
    name: 'ar:{r}:places',
    type: 'hash',
    owner: 'lua/room',
    life: 'the sale',
    holds:
      'placeId → what the sets cannot say, for the few it concerns: number, score, flags, start, a session’s serial and visitor',
  },
  finished: {
    name: 'ar:{r}:finished',
    type: 'hash',
    owner: 'lua/room',
    life: 'the sale',
    holds: 'placeId → highest finished number',
  },
  here: {
    name: 'ar:{r}:here',
    type: 'zset',
    owner: 'lua/room',
    life: 'trimmed by reap',
    holds: 'placeId → last heard from, ms',
  },
  entries: {
    name: 'ar:{r}:entries',
    type: 'stream',
    owner: 'lua/room',
    life: 'trimmed to ~20,000 records',
    holds: 'promotions, ends, misses, notices, changes of settings',
  },
  joins: {
    name: 'ar:{r}:joins',
    type: 'stream',
    owner: 'lua/room',
    life: 'trimmed to ~10,000 records',
    holds: 'who was given which number and when, for the ledger of the sale',
  },
  snapshot: {
    name: 'ar:{r}:snapshot',
    type: 'string',
    owner: 'lua/room',
    life: 'replaced each tick',
    holds: 'the last snapshot, JSON',
  },
  decisions: {
    name: 'ar:{r}:decisions',
    type: 'stream',
    owner: 'gateway',
    life: 'trimmed to ~10,000 records',
    holds: 'bot decisions that were not allow',
  },
  limit: {
    name: 'ar:l:{key}',
    type: 'string',
    owner: 'lua/limit',
    life: 'until the bucket is full again',
    holds: 'theoretical arrival time of GCRA, ms',
  },
  seats: {
    name: 'ar:b:{event}:seats',
    type: 'hash',
    owner: 'lua/booking',
    life: 'the event',
    holds: 'section → one character a seat, and the fence, epoch and ready mark',
  },
  holds: {
    name: 'ar:b:{event}:holds',
    type: 'hash',
    owner: 'lua/booking',
    life: 'ten minutes beyond the end of the hold; sold ones as long as they are sold',
    holds: 'holdId → state, fence, visitor, section, expiry, request, seats, session, version of the sale',
  },
  expiries: {
    name: 'ar:b:{event}:expiries',
    type: 'zset',
    owner: 'lua/booking',
    life: 'ten minutes beyond the end of the hold',
    holds:
      'holdId → when it is looked at next, ms: its expiry, its lease while ordered, or when it is forgotten',
  },
  holders: {
    name: 'ar:b:{event}:holders',
    type: 'hash',
    owner: 'lua/booking',
    life: 'while the visitor holds or owns seats',
    holds: 'visitor → seats held or bought',
  },
  pace: {
    name: 'ar:b:{event}:pace',
    type: 'zset',
    owner: 'lua/booking',
    life: 'a minute beyond the visitor’s last hold',
    holds: 'visitor → theoretical arrival time of GCRA, ms',
  },
} as const satisfies Record<string, Row>;

export type RoomKeyName =
  | 'room'
  | 'line'
  | 'parked'
  | 'withheld'
  | 'promoted'
  | 'active'
  | 'places'
  | 'finished'
  | 'here'
  | 'entries'
  | 'joins'
  | 'snapshot'
  | 'decisions';
export type BookingKeyName = 'seats' | 'holds' | 'expiries' | 'holders' | 'pace';

export const roomsKey = keyTable.rooms.name;
export const roomKey = (room: RoomId, name: RoomKeyName): string => `ar:{${room}}:${name}`;
export const bookingKey = (event: EventId, name: BookingKeyName): string => `ar:b:{${event}}:${name}`;
/** `tag` groups the keys one script takes together (the widest prefix of an address, or a visitor). */
export const limitKey = (tag: string, rest: string): string => `ar:l:{${tag}}:${rest}`;
