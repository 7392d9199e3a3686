// Whom the last promotion let in and whom it parked, as its record in the entry stream says: the script itself
// answers how many.

import type { PlaceId } from '../../kernel/ids.ts';
import type { Redis } from '../../kernel/redis.ts';
import { parseEntry } from '../../line/entries.ts';
import type { roomKeys } from '../../lua/room.ts';

export const lastPromoted = async (
  redis: Redis,
  keys: ReturnType<typeof roomKeys>,
): Promise<{ placeIds: PlaceId[]; parked: PlaceId[] }> => {
  const [last] = await redis.xrevrange(keys.entries, '+', '-', 'COUNT', 1);
  const record = parseEntry(last?.[1] ?? []);
  if (record?.kind !== 'promoted') throw new Error(`the last record is ${record?.kind}, not a promotion`);
  return { placeIds: record.visits.map(({ placeId }) => placeId), parked: record.parked };
};
