// Sends every stream elsewhere when this process stops: evenly over a time, because whoever leaves comes back at another
// process, and all at once would be a wave of handshakes and look-ups. Each is also told to wait a random while before
// it comes back, which blurs the edges of the batches; so no second sees more than twice the even rate.

import type { Config } from '../kernel/config.ts';
import type { Metrics } from '../kernel/metrics.ts';
import type { Connection, Registry } from './connections.ts';
import { retryMs } from './retry.ts';

/** Few streams need no long drain: others can take so many a second at any time. */
const PER_SECOND = 1000;
const SLICE_EVERY_MS = 50;
/** Beside the plan: timers come late on a busy machine, and streams that are still opening are the server's to close. */
const LATE_MS_MAX = 1000;

/** How many leave in each slice, so that `count` are gone after `drainMs` at the latest. */
export const leavePlan = (count: number, drainMs: number): { perSlice: number; everyMs: number } => {
  const slices = Math.max(1, Math.floor(drainMs / SLICE_EVERY_MS));
  const gentle = (PER_SECOND * SLICE_EVERY_MS) / 1000;
  return {
    perSlice: Math.max(gentle, Math.ceil(count / slices)),
    everyMs: drainMs === 0 ? 0 : SLICE_EVERY_MS,
  };
};

export const drainStreams = async (options: {
  config: Pick<Config, 'streamsDrainMs'>;
  registry: Registry;
  metrics: Metrics;
}): Promise<void> => {
  const { config, registry, metrics } = options;
  const { perSlice, everyMs } = leavePlan(registry.count, config.streamsDrainMs);
  const leave = (connection: Connection): void => {
    metrics.inc('streams_ended_total', { ending: 'restarting' });
    connection.close('restarting', retryMs());
  };
  const untilMs = performance.now() + config.streamsDrainMs + LATE_MS_MAX;
  while (registry.count > 0 && performance.now() < untilMs) {
    let left = perSlice;
    for (const room of registry.rooms()) {
      if (left === 0) break;
      // A copy from the end, since each that is closed takes itself out.
      const some = room.all.slice(-left);
      for (const connection of some) leave(connection);
      left -= some.length;
    }
    metrics.set('streams_draining', {}, registry.count);
    if (registry.count === 0) return;
    await new Promise((resolve) => setTimeout(resolve, everyMs));
  }
};
