// Which origins are being left in peace, as a metric by room and a line in the log for each change. Looked at whenever
// the view is refreshed, so once a second.

import type { Config } from '../kernel/config.ts';
import type { Fetcher } from '../kernel/fetch.ts';
import type { Log } from '../kernel/log.ts';
import type { Metrics } from '../kernel/metrics.ts';
import type { View } from '../line/view.ts';

/** The label of what no room guards. */
const DEFAULT = 'default';

export const watchOrigins = (options: {
  config: Pick<Config, 'defaultOrigin'>;
  fetcher: Pick<Fetcher, 'stateOf'>;
  view: View;
  /** Where the requests of a room go. */
  originOf: (settings: { origin: string }) => string;
  metrics: Metrics;
  log: Log;
}): void => {
  const { config, fetcher, view, metrics, log } = options;
  const resting = new Set<string>();
  const note = (room: string, origin: string): void => {
    const rests = fetcher.stateOf(origin) !== 'closed';
    metrics.set('origin_resting', { room }, rests ? 1 : 0);
    if (rests === resting.has(room)) return;
    if (rests) resting.add(room);
    else resting.delete(room);
    log.warn(rests ? 'origin-away' : 'origin-back', { room });
  };
  view.onRefresh(() => {
    for (const [room, { settings }] of view.all()) note(room, options.originOf(settings));
    if (config.defaultOrigin !== '') note(DEFAULT, config.defaultOrigin);
  });
};
