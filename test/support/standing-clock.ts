// Time that stands until a test moves it, so that a deadline passes when the test says so and never because the machine
// is slow.

import { type AddressInfo, createServer } from 'node:net';
import type { Clock } from '../../kernel/clock.ts';
import { Refusal } from '../../kernel/errors.ts';
import type { Fetcher } from '../../kernel/fetch.ts';

export type StandingClock = Clock & { advance(ms: number): void };

export const standingClock = (): StandingClock => {
  let atMs = 1_000_000;
  return {
    nowMs: () => atMs,
    monotonicMs: () => atMs,
    advance(ms) {
      atMs += ms;
    },
  };
};

/** For limits, which count by monotonic time: nothing comes back while a test runs. */
export const standing: Clock = { nowMs: () => Date.now(), monotonicMs: () => 1000 };

/**
 * Resolves when a fetcher has looked at everything that is due by now. Its sweep goes through what is under way in the
 * order of its beginning; so a request that begins last, and is late at once, is given up after all others that are late.
 */
export const swept = async (fetcher: Pick<Fetcher, 'send'>): Promise<void> => {
  // Takes connections and says nothing. The fetcher hangs up.
  const silent = createServer((wire) => wire.on('error', () => wire.destroy()));
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
  // Listening on TCP, so the address is not a pipe's name.
  const origin = `http://127.0.0.1:${(silent.address() as AddressInfo).port}`;
  try {
    const ended = fetcher.send({ origin, method: 'GET', path: '/', headers: [], timeoutMs: 0 });
    const how: unknown = await ended.catch((refusal: unknown) => refusal);
    if (!(how instanceof Refusal && how.code === 'origin-timeout'))
      throw new Error('a request that is late was not given up', { cause: how });
  } finally {
    silent.close();
  }
};
