// Placeholder while bots are written.
import type { Request } from '../kernel/http.ts';
import type { PlaceId, RoomId } from '../kernel/ids.ts';
export type Decision = { verdict: 'allow' | 'challenge' | 'tarpit' | 'block' };
export type Judge = {
  decide(request: Request, room: RoomId): Decision;
  shown(decision: Decision): 'challenge' | 'block' | undefined;
  record(request: Request, room: RoomId, place: { placeId: PlaceId; number: number; decision: Decision }): Promise<void>;
};
export const createJudge = (_: object): Judge => ({ decide: () => ({ verdict: 'allow' }), shown: () => undefined, record: async () => undefined });
