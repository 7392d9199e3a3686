// Where the gateway asks bots for a verdict, and writes down what was not let through for the people who review it.
// The verdict comes from the request alone; the line only sees in which set a place stands.

import { factsOf } from '../bots/facts.ts';
import { createHistory } from '../bots/history.ts';
import { type Decision, judge } from '../bots/judge.ts';
import type { RuleBook } from '../bots/rules.ts';
import { addressPrefix } from '../kernel/address.ts';
import type { Clock } from '../kernel/clock.ts';
import type { Config } from '../kernel/config.ts';
import type { Request } from '../kernel/http.ts';
import type { PlaceId, RoomId } from '../kernel/ids.ts';
import { roomKey } from '../kernel/keys.ts';
import type { Log } from '../kernel/log.ts';
import type { Metrics } from '../kernel/metrics.ts';
import type { Redis } from '../kernel/redis.ts';

export type Judge = {
  /** Judges a join; counts it for its network. */
  decide(request: Request, room: RoomId): Decision;
  /** The verdict on any other request, which counts for nothing. */
  look(request: Pick<Request, 'address' | 'flatHeaders'>): Decision['verdict'];
  /** What its owner may be told: a tarpit is not mentioned. */
  shown(decision: Decision): 'challenge' | 'block' | undefined;
  /** What a withheld place may be told later, from the decision that was written down. */
  shownLater(room: RoomId, placeId: PlaceId): 'challenge' | 'block' | undefined;
  record(
    request: Request,
    room: RoomId,
    place: { placeId: PlaceId; number: number; decision: Decision },
  ): Promise<void>;
};

/** Verdicts of withheld places this gateway has seen, so that a status can be answered without judging again. */
const SHOWN_MAX = 20_000;

export const createJudge = (options: {
  config: Pick<Config, 'decisionsMax'>;
  redis: Redis;
  rules: RuleBook;
  clock: Clock;
  log: Log;
  metrics: Metrics;
}): Judge => {
  const { config, redis, rules, clock, log, metrics } = options;
  const history = createHistory();
  const told = new Map<string, 'challenge' | 'block' | undefined>();
  const networkOf = (request: Pick<Request, 'address'>): string =>
    addressPrefix(request.address, { v4: 24, v6: 48 });
  const shown = (decision: Decision) =>
    decision.verdict === 'challenge' || decision.verdict === 'block' ? decision.verdict : undefined;
  return {
    decide(request, room) {
      const network = networkOf(request);
      const facts = factsOf(
        { headers: request.flatHeaders, addressPrefix: network },
        history.count(network, clock.nowMs()),
      );
      const decision = judge(facts, rules.current());
      metrics.inc('verdicts_total', { room, verdict: decision.verdict });
      return decision;
    },
    look(request) {
      const network = networkOf(request);
      const recent = history.recent(network, clock.nowMs());
      const facts = factsOf({ headers: request.flatHeaders, addressPrefix: network }, recent);
      return judge(facts, rules.current()).verdict;
    },
    shown,
    shownLater: (room, placeId) => told.get(`${room}/${placeId}`),
    async record(request, room, { placeId, number, decision }) {
      if (told.size >= SHOWN_MAX) told.clear();
      told.set(`${room}/${placeId}`, shown(decision));
      const fields = {
        at: String(Math.floor(clock.nowMs())),
        placeId,
        number: String(number),
        verdict: decision.verdict,
        weight: String(decision.weight),
        reasons: JSON.stringify(decision.reasons),
        agent: (request.header('user-agent') ?? '').slice(0, 200),
        address: networkOf(request),
      };
      try {
        await redis.xadd(
          roomKey(room, 'decisions'),
          'MAXLEN',
          '~',
          config.decisionsMax,
          '*',
          ...Object.entries(fields).flat(),
        );
      } catch (error) {
        // The place is withheld all the same; only its record for review is missing, and that is said here.
        log.error('decision-not-written', {
          ...request.ids,
          room,
          verdict: decision.verdict,
          error: error instanceof Error ? error : String(error),
        });
      }
    },
  };
};
