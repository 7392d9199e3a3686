// One place through the scripts that take a batch, for tests that speak of one.

import type { Redis } from '../../kernel/redis.ts';
import { type JoinOutcome, join, type Looked, look, type roomKeys } from '../../lua/room.ts';

export type JoinedOne = JoinOutcome | { outcome: 'unknown' } | { outcome: 'otherSale'; sale: number };

export const joinOne = async (
  redis: Redis,
  keys: ReturnType<typeof roomKeys>,
  ask: {
    placeId: string;
    nowMs: number | '';
    sale?: number;
    drawScore?: number | '';
    verdict?: string;
    lineMax?: number;
    withheldMax?: number;
  },
): Promise<JoinedOne> => {
  const done = await join.run(redis, keys, {
    nowMs: ask.nowMs,
    sale: ask.sale ?? 1,
    lineMax: ask.lineMax ?? 1000,
    withheldMax: ask.withheldMax ?? 1000,
    joinsMax: 1000,
    visitors: [ask.placeId, ask.drawScore ?? '', ask.verdict ?? 'allow'],
  });
  return done.outcome === 'answered' ? done.each[0]! : done;
};

export const lookOne = async (
  redis: Redis,
  keys: ReturnType<typeof roomKeys>,
  placeId: string,
): Promise<Looked> => {
  const found = await look.run(redis, keys, { placeIds: [placeId] });
  return found.outcome === 'answered' ? found.each[0]! : found;
};
