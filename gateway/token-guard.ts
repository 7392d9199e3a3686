// Tokens that fail. Checking the signature of a user JWT takes some 200 µs, so whoever sends forged ones costs more
// than anybody else; and only failures say who does. They are counted by address apart from everything else: people
// behind the same address who show no token, or one that is known to be good, are not concerned.

import { addressPrefix } from '../kernel/address.ts';
import type { Clock } from '../kernel/clock.ts';
import type { Config } from '../kernel/config.ts';
import type { Metrics } from '../kernel/metrics.ts';
import type { TokenGuard } from '../line/identify.ts';
import { bucketOf } from '../lua/limit.ts';
import { costs, createLocalLimiter, limitRefusal } from './limits.ts';

/** Local to a process: what it protects is the time of this process. */
export const createTokenGuard = (options: {
  config: Pick<Config, 'addressPerSecond' | 'addressBurst'>;
  clock: Clock;
  metrics: Metrics;
}): TokenGuard => {
  const { config, clock, metrics } = options;
  const bucket = bucketOf({ perSecond: config.addressPerSecond, burst: config.addressBurst });
  const limiter = createLocalLimiter(bucket);
  const keyOf = (address: string): string => addressPrefix(address, { v4: 32, v6: 64 });
  return {
    before(address) {
      const seen = limiter.look(keyOf(address), costs.failedToken, clock.monotonicMs());
      if (seen.outcome === 'taken') return;
      metrics.inc('limited_total', { by: 'tokens' });
      throw limitRefusal({ ...seen, limit: 'tokens' }, bucket);
    },
    failed: (address) => void limiter.take(keyOf(address), costs.failedToken, clock.monotonicMs()),
  };
};
