// Where places stand. Those asked about in one turn of the event loop go to Redis in one call, each with an answer of its
// own: alone a look waits for nobody, and when a whole process of fans comes back at once the price of a call is shared.
// A batch is one unit of failure; looking changes nothing, so whoever was in one that failed may ask again.

import type { PlaceId, RoomId } from '../kernel/ids.ts';
import type { Redis } from '../kernel/redis.ts';
import { LOOK_BATCH_MAX, type Looked, look, roomKeys } from '../lua/room.ts';

export type Looks = {
  /** Rejects when Redis does not answer. */
  at(room: RoomId, placeId: PlaceId): Promise<Looked>;
};

type Ask = { placeId: PlaceId; resolve: (found: Looked) => void; reject: (error: unknown) => void };

export const createLooks = (redis: Redis): Looks => {
  const open = new Map<RoomId, Ask[]>();

  const send = async (room: RoomId, asks: Ask[]): Promise<void> => {
    if (open.get(room) === asks) open.delete(room);
    try {
      const found = await look.run(redis, roomKeys(room), { placeIds: asks.map(({ placeId }) => placeId) });
      for (const [index, ask] of asks.entries())
        ask.resolve(found.outcome === 'answered' ? found.each[index]! : found);
    } catch (error) {
      for (const ask of asks) ask.reject(error);
    }
  };

  return {
    at: (room, placeId) =>
      new Promise((resolve, reject) => {
        let asks = open.get(room);
        if (asks === undefined || asks.length >= LOOK_BATCH_MAX) {
          const begun: Ask[] = [];
          open.set(room, begun);
          setImmediate(() => void send(room, begun));
          asks = begun;
        }
        asks.push({ placeId, resolve, reject });
      }),
  };
};
