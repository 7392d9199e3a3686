// What a flood of joins meets: an address beyond its limit is answered from the head of its request alone. Nothing is
// awaited, the body is not read, nobody asks who it is, and the answer is put together from ready pieces. A flood on
// few connections also loses them one after the other, and with each whatever it had sent ahead.

import { problemFrom } from '../kernel/answer.ts';
import type { Config } from '../kernel/config.ts';
import type { Answer } from '../kernel/http.ts';
import { createRecent } from '../kernel/recent.ts';
import type { Refuse } from '../kernel/server.ts';
import { costs, type Limits } from './limits.ts';

/** Answers kept ready, by the time they tell to wait; a flood hears the same few again and again. */
const READY_MAX = 1000;

/** Takes a join of each request from the local limit of its address; those beyond it are refused. */
export const createShedding = (options: {
  config: Pick<Config, 'refusalsPerClose'>;
  limits: Pick<Limits, 'shed' | 'refusal'>;
}): Refuse => {
  const { config, limits } = options;
  const ready = createRecent<number, Answer>(READY_MAX);
  let refusals = 0;
  return (request) => {
    const taken = limits.shed({ address: request.address, cost: costs.join });
    if (taken.outcome === 'taken') return undefined;
    const { retryAfterMs } = taken;
    const answer = ready.get(retryAfterMs) ?? ready.set(retryAfterMs, problemFrom(limits.refusal(taken)));
    refusals += 1;
    // A proxy's connection carries other people's requests as well.
    return { answer, close: refusals % config.refusalsPerClose === 0 && !request.viaProxy };
  };
};
