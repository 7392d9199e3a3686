// How many streams there may be: of one visitor, of one address, of the process. Checked before a stream is opened,
// counted from the moment it is let in, so that a thousand at once are not all let in by the same look.
//
// Addresses are counted in 65,536 cells by a keyed hash instead of one entry an address: with 19,000 fans at 19,000
// addresses a Map would cost more than the streams' own records. Two addresses that share a cell share its limit, which
// is far above what either needs; whoever wanted to share somebody's cell on purpose would have to know the key.

import { randomInt } from 'node:crypto';
import { addressPrefix } from '../kernel/address.ts';
import type { Config } from '../kernel/config.ts';
import { Refusal } from '../kernel/errors.ts';
import type { PlaceId } from '../kernel/ids.ts';
import type { Metrics } from '../kernel/metrics.ts';
import type { HeldRoom, Registry } from './connections.ts';

const CELLS = 65_536;
/** Whoever is refused comes back between these, so that they do not come back together. */
const RETRY_MS = 2000;
const RETRY_SPREAD_MS = 8000;

/** FNV-1a (RFC 9923) with a secret start. */
export const cellOf = (address: string, seed: number): number => {
  const text = addressPrefix(address, { v4: 32, v6: 64 });
  let hash = seed;
  for (let index = 0; index < text.length; index += 1)
    hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193);
  return (hash ^ (hash >>> 16)) & (CELLS - 1);
};

export type StreamLimits = {
  /** Throws `streams-full` when the process holds as many as it may. */
  whole(): void;
  /**
   * Checks the limits of process, visitor and address, counts one more of the address, and answers the cell to give
   * back; throws the refusals. The visitor's streams are counted by the registry.
   */
  take(room: HeldRoom, placeId: PlaceId, address: string): number;
  give(cell: number): void;
};

export const createStreamLimits = (options: {
  config: Pick<Config, 'streamsMax' | 'streamsPerVisitor' | 'streamsPerAddress' | 'streamsElsewhere'>;
  registry: Registry;
  metrics: Metrics;
}): StreamLimits => {
  const { config, registry, metrics } = options;
  const counts = new Uint32Array(CELLS);
  const seed = randomInt(2 ** 31);
  const refuse = (code: 'streams-full' | 'too-many-streams', by: string, extra = {}): never => {
    metrics.inc('streams_refused_total', { by });
    const retryAfterMs = Math.round(RETRY_MS + Math.random() * RETRY_SPREAD_MS);
    throw new Refusal(code, { extra: { retryAfterMs, ...extra } });
  };
  const whole = (): void => {
    const { streamsElsewhere: elsewhere } = config;
    if (registry.count >= config.streamsMax)
      refuse('streams-full', 'process', elsewhere === '' ? {} : { elsewhere });
  };
  return {
    whole,
    take(room, placeId, address) {
      whole();
      if (registry.ofPlace(room, placeId).length >= config.streamsPerVisitor)
        refuse('too-many-streams', 'visitor');
      const cell = cellOf(address, seed);
      if (counts[cell]! >= config.streamsPerAddress) refuse('too-many-streams', 'address');
      counts[cell]! += 1;
      return cell;
    },
    give(cell) {
      counts[cell]! -= 1;
    },
  };
};
