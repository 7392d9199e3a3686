// Where the gateway asks bots for a verdict and writes down what was not let through, for the people who review
// it. The verdict is decided from the request alone; the line only sees in which set a place stands.

import { factsOf } from '../bots/facts.ts';
import { createHistory } from '../bots/history.ts';
import { type Decision, judge as judgeFacts } from '../bots/judge.ts';
import type { RuleBook } from '../bots/rules.ts';
import type { Config } from '../kernel/config.ts';
import type { Request } from '../kernel/http.ts';
import type { PlaceId, RoomId } from '../kernel/ids.ts';
import { roomKey } from '../kernel/keys.ts';
import { type Log, shortenedAddress } from '../kernel/log.ts';
import type { Metrics } from '../kernel/metrics.ts';
import type { Redis } from '../kernel/redis.ts';

export type Judge = {
  decide(request: Request, room: RoomId): Decision;
  /** What a fan may be told of it: a tarpit is not mentioned. */
  shown(decision: Decision): 'challenge' | 'block' | undefined;
  record(
    request: Request,
    room: RoomId,
    place: { placeId: PlaceId; number: number; decision: Decision },
  ): Promise<void>;
};
