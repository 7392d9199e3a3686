// Brings a connection to the state its place has in Redis, which is the truth, and tells it. A place that Redis has lost
// is stood up again from what the connection knows, or from the receipt it came with.

import type { Log } from '../kernel/log.ts';
import type { Metrics } from '../kernel/metrics.ts';
import type { Redis } from '../kernel/redis.ts';
import { HEARTBEAT_MS } from '../line/cadence.ts';
import type { Looks } from '../line/looks.ts';
import type { View } from '../line/view.ts';
import { type HeldPlace, type Looked, restore } from '../lua/room.ts';
import type { Connection, HeldRoom } from './connections.ts';
import type { Presence } from './presence.ts';
import type { Telling } from './telling.ts';

/** Connections looked up at once after a gap, so that ten thousand do not become one stall. */
const RELOOK_BATCH = 200;
/** What Redis has lost, or cannot say, is asked for again so soon, and by lot up to twice that. */
const AGAIN_MS = 1000;

export type Settling = {
  /** Where its place is: one command, three when it has to be stood up again. Rejects when Redis does not answer. */
  find(connection: Connection): Promise<Looked>;
  /** Tells an open connection what was found; undefined: Redis did not answer. */
  settle(connection: Connection, found: Looked | undefined): void;
  /** Both, and never rejects. */
  lookUp(connection: Connection): Promise<void>;
  lookUpAll(room: HeldRoom): Promise<void>;
  stop(): void;
};

export const createSettling = (options: {
  redis: Redis;
  looks: Looks;
  view: View;
  telling: Telling;
  presence: Presence;
  log: Log;
  metrics: Metrics;
}): Settling => {
  const { redis, looks, view, telling, presence, log, metrics } = options;
  let stopped = false;

  const find = async (connection: Connection): Promise<Looked> => {
    const { room, placeId, number, score } = connection;
    const found = await looks.at(room.room, placeId);
    if (found.outcome !== 'none') return found;
    const isKnown = number > 0;
    const proof = isKnown
      ? { number, score, withheld: connection.state === 'withheld' }
      : connection.opening?.receipt();
    if (proof === undefined) return found;
    const restored = await restore.run(redis, room.keys, {
      nowMs: '',
      sale: view.of(room.room)?.settings.sale ?? 1,
      placeId,
      number: proof.number,
      score: proof.score,
      withheld: proof.withheld ? 1 : 0,
    });
    if (restored.outcome === 'restored') metrics.inc('restored_total', { room: room.room });
    return looks.at(room.room, placeId);
  };

  const settleHeld = (connection: Connection, place: HeldPlace): void => {
    const first = connection.opening !== undefined;
    connection.opening = undefined;
    connection.number = place.number;
    connection.score = place.score;
    connection.state = place.state;
    if (place.state === 'promoted') return telling.promoted(connection, place.untilMs);
    if (place.state === 'active') {
      telling.state(connection, 'active');
      return telling.later(connection, HEARTBEAT_MS);
    }
    if (place.state === 'parked') {
      if (place.missed) return telling.missed(connection);
      presence.soon(connection.room, connection.placeId);
    }
    telling.waiting(connection, first);
  };

  const settle = (connection: Connection, found: Looked | undefined): void => {
    if (connection.link === undefined) return;
    if (found === undefined || found.outcome === 'unknown') {
      // Redis does not answer, or has lost the room and nobody has made it again yet.
      connection.state = 'unknown';
      telling.state(connection, found === undefined ? 'unavailable' : 'recovering');
      return telling.later(connection, AGAIN_MS * (1 + Math.random()));
    }
    if (found.outcome === 'held') return settleHeld(connection, found);
    if (found.outcome === 'finished') return telling.ended(connection, 'finished');
    connection.opening = undefined;
    connection.state = 'none';
    telling.state(connection, 'none');
    telling.later(connection, HEARTBEAT_MS);
  };

  const lookUp = async (connection: Connection): Promise<void> => {
    let found: Looked | undefined;
    try {
      found = await find(connection);
    } catch (error) {
      log.debug('look-failed', { error: error instanceof Error ? error : String(error) });
    }
    settle(connection, found);
  };

  return {
    find,
    settle,
    lookUp,
    async lookUpAll(room) {
      const held = [...room.all];
      for (let from = 0; from < held.length && !stopped; from += RELOOK_BATCH)
        await Promise.all(held.slice(from, from + RELOOK_BATCH).map(lookUp));
    },
    stop() {
      stopped = true;
    },
  };
};
