// Each room's work apart from the others': what fails for one room is said with its room and command, waits ever
// longer before it is tried again, and holds up nobody else. Where Redis itself is away nothing is of one room: that is
// thrown on, and whoever ticks waits for all of them.

import type { RoomId } from '../kernel/ids.ts';
import type { Log } from '../kernel/log.ts';
import type { Metrics } from '../kernel/metrics.ts';
import { isServerFault } from '../kernel/redis.ts';

export const PAUSE_MS = 500;
/** Not long: whoever waits in that room waits as well. */
export const PAUSE_MS_MAX = 8000;

export type Turns = {
  /** What `work` answers; undefined where it failed, or is not tried yet. */
  attempt<T>(room: RoomId, command: string, work: () => Promise<T>): Promise<T | undefined>;
  /** What does not work, as `demo room.reap`. */
  failing(): string[];
  /** Everything is tried at once again: after a connection was made anew, what failed before says little. */
  reset(): void;
};

type Failing = { room: RoomId; tries: number; untilMs: number };

export const createTurns = (options: { log: Log; metrics: Metrics; nowMs?: () => number }): Turns => {
  const { log, metrics, nowMs = () => performance.now() } = options;
  const failing = new Map<string, Failing>();

  const nameOf = (room: RoomId, command: string): string => `${room} ${command}`;

  const worked = (room: RoomId, command: string): void => {
    if (!failing.delete(nameOf(room, command))) return;
    if (![...failing.values()].some((other) => other.room === room)) metrics.set('room_failing', { room }, 0);
    log.info('room-well', { room, command });
  };
  const failed = (room: RoomId, command: string, error: unknown): void => {
    const tries = (failing.get(nameOf(room, command))?.tries ?? 0) + 1;
    const pauseMs = Math.min(PAUSE_MS_MAX, PAUSE_MS * 2 ** (tries - 1));
    failing.set(nameOf(room, command), { room, tries, untilMs: nowMs() + pauseMs });
    metrics.set('room_failing', { room }, 1);
    log.error('room-failing', {
      ...{ room, command, tries, pauseMs },
      error: error instanceof Error ? error : String(error),
    });
  };

  return {
    async attempt(room, command, work) {
      const waits = failing.get(nameOf(room, command));
      if (waits !== undefined && waits.untilMs > nowMs()) return undefined;
      try {
        const done = await work();
        worked(room, command);
        return done;
      } catch (error) {
        if (isServerFault(error)) throw error;
        failed(room, command, error);
        return undefined;
      }
    },
    failing: () => [...failing.keys()],
    reset() {
      for (const each of failing.values()) each.untilMs = Number.NEGATIVE_INFINITY;
    },
  };
};
