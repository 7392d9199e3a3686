// A deployment as in a sale: a Redis of the bench's, the dispatcher in a process of its own, and any number of gateway
// and broker processes on one port; and fans with places that are really in the line, whose cookies and receipts are
// signed with the bench's own keys. Ten thousand joins over HTTP would measure joins.

import { createMac } from '../kernel/mac.ts';
import { createTokens, parseKeys } from '../kernel/token.ts';
import { signReceipt } from '../line/receipt.ts';
import type { Settings } from '../line/settings.ts';
import { cookieNames, newVisitor, placeIdOf, signVisitor } from '../line/visitor.ts';
import { browserHeaders } from './fan.ts';
import type { HolderOptions } from './holder.ts';
import { takePort } from './ports.ts';
import { type BenchRedis, pipeline, type Reply, startRedis } from './redis.ts';
import { type BenchRoom, createRoom, JOIN_BATCH } from './room.ts';
import { outcomeOf } from './script.ts';
import { onRedis, pause, type RunningSystem, startSystem } from './system.ts';

const SEEN_MS_MAX = 30_000;

export type Line = {
  room: BenchRoom;
  /** Of the nth fan, whose number is n + 1: the place, and the header line that shows who they are. */
  places: readonly string[];
  cookies: readonly string[];
  /** What a holder of these fans needs besides a port. */
  events: Pick<HolderOptions, 'path' | 'headers'>;
  socket: Pick<HolderOptions, 'path' | 'headers' | 'mode'>;
};

export type LineOptions = {
  name: string;
  settings: Partial<Settings>;
  fans: number;
  /** Nobody is let in until `release`, while the settings promise a speed all the same. */
  held?: boolean;
};

export type Fleet = {
  redis: BenchRedis;
  core: RunningSystem;
  /** The port all of them share unless told otherwise. */
  port: number;
  startBroker(port?: number, settings?: Record<string, string>): Promise<RunningSystem>;
  /** Makes a room and joins so many fans, one after the other. */
  createLine(options: LineOptions): Promise<Line>;
  stop(): Promise<void>;
};

/** Tokens owed for years: the rate lets nobody in. 0: from now on it does. */
const OWED = -1e15;
export const hold = async (redis: BenchRedis, room: BenchRoom): Promise<void> => {
  await redis.wire.ask(['HSET', room.key('room'), 'tokens', OWED]);
};
export const release = async (redis: BenchRedis, room: BenchRoom): Promise<void> => {
  await redis.wire.ask(['HSET', room.key('room'), 'tokens', 0]);
};

export const startFleet = async (options: { appendOnly: boolean }): Promise<Fleet> => {
  const stops: (() => Promise<void>)[] = [];
  const stop = async (): Promise<void> => {
    for (const one of stops.splice(0).reverse()) await one();
  };
  try {
    const redis = await startRedis(options);
    stops.push(redis.stop);
    const port = await takePort();
    const given = onRedis(redis.url);
    const keys = parseKeys(given.ANTEROOM_KEYS ?? '');
    if (keys === undefined) throw new Error('the keys of the bench have a form that is not known any more');
    const shared = { ...given, ANTEROOM_DEMO: 'off', ANTEROOM_PUBLIC_URL: `http://127.0.0.1:${port}` };
    const core = await startSystem({ ...shared, ANTEROOM_ROLES: 'dispatcher,booking-core,admin' });
    stops.push(core.stop);
    const tokens = createTokens({ keys, issuer: shared.ANTEROOM_PUBLIC_URL });
    const salt = createMac(tokens.derive('place-salt'));
    const names = cookieNames(shared.ANTEROOM_PUBLIC_URL);

    const joinAll = async (room: BenchRoom, places: readonly string[]): Promise<number> => {
      let epoch = 0;
      let next = 0;
      const take = (reply: Reply): void => {
        const [word, inEpoch, outcomes] = outcomeOf(reply);
        if (word !== 'answered' || !Array.isArray(outcomes)) throw new Error(`room.join answered ${word}`);
        for (const number of outcomes) {
          next += 1;
          if (number !== next) throw new Error(`fan ${next} was answered ${JSON.stringify(number)}`);
        }
        epoch = Number(inEpoch);
      };
      const calls = function* () {
        for (let from = 0; from < places.length; from += JOIN_BATCH)
          yield room.joinCall(places.slice(from, from + JOIN_BATCH));
      };
      await pipeline(redis.wire, calls(), { under: 16, take });
      return epoch;
    };

    return {
      redis,
      core,
      port,
      stop,
      async startBroker(own = port, settings = {}) {
        const broker = await startSystem({
          ...shared,
          ANTEROOM_ROLES: 'gateway,broker',
          ANTEROOM_PORT: String(own),
          ...settings,
        });
        stops.push(broker.stop);
        return broker;
      },
      async createLine({ name, settings, fans, held = false }) {
        const room = await createRoom(redis.wire, { name, settings });
        if (held) await hold(redis, room);
        const roomId = name as Parameters<typeof placeIdOf>[1]['room']; // The bench's own names are in form.
        const visitors = Array.from({ length: fans }, newVisitor);
        const places = visitors.map((visitor) => placeIdOf(salt, { room: roomId, sale: 1, visitor }));
        const epoch = await joinAll(room, places);
        const nowMs = Date.now();
        const cookies = places.map((placeId, index) => {
          const number = index + 1;
          const visit = { room: roomId, sale: 1, placeId, number, score: number, epoch, withheld: false };
          return `cookie: ${names.visitor}=${signVisitor(tokens, visitors[index]!, nowMs)}; ${names.receipt(roomId)}=${signReceipt(tokens, visit)}`;
        });
        // A broker finds its fans' room in a snapshot, and there is one once the dispatcher has looked.
        const until = performance.now() + SEEN_MS_MAX;
        while ((await redis.wire.ask(['EXISTS', room.key('snapshot')])) !== 1) {
          if (performance.now() > until) throw new Error('the dispatcher did not measure the room');
          await pause(100);
        }
        await pause(2500);
        const headers = browserHeaders;
        return {
          room,
          places,
          cookies,
          events: { path: `/v1/rooms/${name}/events`, headers },
          socket: { path: `/v1/rooms/${name}/socket`, headers, mode: 'ws' },
        };
      },
    };
  } catch (error) {
    await stop();
    throw error;
  }
};
