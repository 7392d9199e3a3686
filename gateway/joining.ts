// Joins that arrive together go to Redis together: those of a few milliseconds in one call, in the order of their
// arrival, each with an outcome of its own. A batch is one unit of failure; join is safe twice, so whoever was in a
// batch that failed simply asks again. What a batch saves is the price of a call, most of what a join costs Redis.

import type { Config } from '../kernel/config.ts';
import type { PlaceId, RoomId } from '../kernel/ids.ts';
import type { Redis } from '../kernel/redis.ts';
import { JOIN_BATCH_MAX, type JoinOutcome, join, roomKeys } from '../lua/room.ts';

export type JoinAsk = { placeId: PlaceId; drawScore: number | ''; verdict: string };
export type JoinAnswer = { outcome: 'unknown' } | { outcome: 'otherSale'; sale: number } | JoinOutcome;

export type Joining = {
  /** Rejects when Redis did not answer: nothing is known then, and the same ask may be made again. */
  join(room: RoomId, sale: number, ask: JoinAsk): Promise<JoinAnswer>;
};

type Pending = JoinAsk & { resolve: (answer: JoinAnswer) => void; reject: (error: unknown) => void };
type Batch = { room: RoomId; sale: number; asks: Pending[]; timer: NodeJS.Timeout };

export const createJoining = (options: {
  config: Pick<Config, 'lineMax' | 'withheldMax' | 'joinsMax' | 'joinBatchMs'>;
  redis: Redis;
}): Joining => {
  const { config, redis } = options;
  const open = new Map<RoomId, Batch>();

  const send = async ({ room, sale, asks, timer }: Batch): Promise<void> => {
    clearTimeout(timer);
    open.delete(room);
    const visitors: (string | number)[] = [];
    for (const { placeId, drawScore, verdict } of asks) visitors.push(placeId, drawScore, verdict);
    try {
      const done = await join.run(redis, roomKeys(room), {
        nowMs: '',
        sale,
        lineMax: config.lineMax,
        withheldMax: config.withheldMax,
        joinsMax: config.joinsMax,
        visitors,
      });
      for (const [index, ask] of asks.entries())
        ask.resolve(done.outcome === 'answered' ? done.each[index]! : done);
    } catch (error) {
      for (const ask of asks) ask.reject(error);
    }
  };

  return {
    join: (room, sale, ask) =>
      new Promise((resolve, reject) => {
        let batch = open.get(room);
        // A batch speaks for one sale; whoever comes with another number begins the next one.
        if (batch !== undefined && batch.sale !== sale) {
          void send(batch);
          batch = undefined;
        }
        if (batch === undefined) {
          const begun: Batch = {
            room,
            sale,
            asks: [],
            timer: setTimeout(() => void send(begun), config.joinBatchMs),
          };
          open.set(room, begun);
          batch = begun;
        }
        batch.asks.push({ ...ask, resolve, reject });
        if (batch.asks.length >= JOIN_BATCH_MAX) void send(batch);
      }),
  };
};
