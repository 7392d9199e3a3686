// The seats of an event as everyone sees them, and what changes in them, about once a second and only when
// something has changed. One look at Redis serves all readers of a process, however many there are. A frame says
// which version it follows; a reader that missed one asks for the whole again.

import type { EventStream } from '../kernel/http.ts';
import type { EventId } from '../kernel/ids.ts';
import type { Log } from '../kernel/log.ts';
import type { Redis } from '../kernel/redis.ts';
import { bookingKeys, mapsOf } from '../lua/booking.ts';

export type SeatsNow = { version: string; maps: ReadonlyMap<string, string> };

const TICK_MS = 1000;
/** Proxies and phones forget silent connections; a comment keeps this one known. */
const HEARTBEAT_TICKS = 20;
/** Beyond this many changes the whole maps are shorter. */
const CHANGES_MAX = 400;

export const readSeats = async (redis: Redis, event: EventId): Promise<SeatsNow | undefined> => {
  const seats = await redis.hgetall(bookingKeys(event).seats);
  if (seats.ready !== '1') return undefined;
  return { version: `${seats.epoch}.${seats.version}`, maps: mapsOf(new Map(Object.entries(seats))) };
};

/** `[section, offset, character]` for every seat that differs. */
export const changesBetween = (before: SeatsNow, now: SeatsNow): [string, number, string][] => {
  const changes: [string, number, string][] = [];
  for (const [section, map] of now.maps) {
    const old = before.maps.get(section) ?? '';
    if (old === map) continue;
    for (let offset = 0; offset < map.length; offset++)
      if (map[offset] !== old[offset]) changes.push([section, offset, map[offset]!]);
  }
  return changes;
};

const frame = (event: string, id: string, data: unknown): string =>
  `event: ${event}\nid: ${id}\ndata: ${JSON.stringify(data)}\n\n`;
const wholeFrame = ({ version, maps }: SeatsNow): string =>
  frame('seats', version, { version, maps: Object.fromEntries(maps) });

type Feed = { streams: Set<EventStream>; shown: SeatsNow | undefined };

export const createSeatFeed = ({ redis, log }: { redis: Redis; log: Log }) => {
  const feeds = new Map<EventId, Feed>();
  const looks = new Map<EventId, Promise<SeatsNow | undefined>>();
  let ticks = 0;

  /** Undefined while Redis has no map: it is being rebuilt. */
  const now = (event: EventId): Promise<SeatsNow | undefined> => {
    // Whoever asks while a look is under way shares it. Answers come in order on one connection, so nobody who has
    // seen a change answered can be given a look from before it.
    const underWay = looks.get(event);
    if (underWay !== undefined) return underWay;
    const look = readSeats(redis, event).finally(() => looks.delete(event));
    looks.set(event, look);
    return look;
  };

  const publish = async (event: EventId, feed: Feed): Promise<void> => {
    const seats = await now(event);
    const before = feed.shown;
    if (seats === undefined || before?.version === seats.version) return;
    feed.shown = seats;
    const changes = before === undefined ? undefined : changesBetween(before, seats);
    if (before !== undefined && changes?.length === 0) return;
    const text =
      before === undefined || changes === undefined || changes.length > CHANGES_MAX
        ? wholeFrame(seats)
        : frame('changes', seats.version, { from: before.version, version: seats.version, changes });
    for (const stream of feed.streams) stream.write(text);
  };
  const timer = setInterval(() => {
    ticks++;
    for (const [event, feed] of feeds) {
      publish(event, feed).catch((error: unknown) => log.warn('seat-feed-late', { error }));
      if (ticks % HEARTBEAT_TICKS === 0) for (const stream of feed.streams) stream.write(': still here\n\n');
    }
  }, TICK_MS);

  return {
    now,
    /** Shows `stream` the seats and every change from then on. */
    async join(event: EventId, stream: EventStream): Promise<void> {
      const feed = feeds.get(event) ?? { streams: new Set(), shown: undefined };
      feeds.set(event, feed);
      // Registered first and looked up second. The first frame is what the feed has shown, so that the next
      // change follows it.
      feed.streams.add(stream);
      feed.shown ??= await now(event);
      if (feed.shown !== undefined && !stream.closed) stream.write(`retry: 2000\n${wholeFrame(feed.shown)}`);
    },
    leave(event: EventId, stream: EventStream): void {
      const feed = feeds.get(event);
      feed?.streams.delete(stream);
      if (feed?.streams.size === 0) feeds.delete(event);
    },
    stop(): void {
      clearInterval(timer);
      for (const { streams } of feeds.values()) for (const stream of streams) stream.end();
    },
  };
};

export type SeatFeed = ReturnType<typeof createSeatFeed>;
