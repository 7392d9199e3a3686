// Whose place a request speaks for. Identity comes from a verified user token, a signed visitor cookie or a signed
// receipt, never from anything else in the request. When several are shown, the one that holds a place wins.

import { Refusal } from '../kernel/errors.ts';
import type { Request } from '../kernel/http.ts';
import type { PlaceId, RoomId, VisitorId } from '../kernel/ids.ts';
import { createMac } from '../kernel/mac.ts';
import { orUnavailable, type Redis } from '../kernel/redis.ts';
import type { Tokens, UserTokens } from '../kernel/token.ts';
import { type Looked, look, roomKeys } from '../lua/room.ts';
import { type Receipt, readReceipt } from './receipt.ts';
import type { Snapshot } from './snapshot.ts';
import { type CookieNames, newVisitor, placeIdOf, readVisitor, userVisitor } from './visitor.ts';

export type Identity = {
  visitor: VisitorId;
  /** The request showed nobody: this visitor was made up for it. */
  isNew: boolean;
  /** The visitor cookie is missing or older than a day: set it. */
  renewCookie: boolean;
  placeId: PlaceId;
  receipt: Receipt | undefined;
  /** The place as it was found, when it had to be looked up to decide. */
  looked: Looked | undefined;
};

/** What stands before the check of a signature, which costs some 200 µs: told of every token that fails. */
export type TokenGuard = {
  /** Throws a Refusal for whoever has failed too often. */
  before(address: string): void;
  failed(address: string): void;
};

export type Identifier = {
  /** The visitor alone, for requests that concern no room. Undefined when the request shows none. */
  visitorOf(request: Request): Promise<VisitorId | undefined>;
  identify(request: Request, room: RoomId, snapshot: Snapshot, given?: Receipt): Promise<Identity>;
};

/** The user JWT a request shows, not verified yet. */
export const shownUserToken = (
  request: Pick<Request, 'header' | 'cookie'>,
  jwtCookie: string,
): string | undefined => {
  const bearer = /^Bearer ([A-Za-z0-9._-]+)$/.exec(request.header('authorization') ?? '')?.[1];
  return bearer ?? (jwtCookie === '' ? undefined : request.cookie(jwtCookie));
};

export const createIdentifier = (options: {
  redis: Redis;
  tokens: Tokens;
  users: UserTokens | undefined;
  guard: TokenGuard;
  names: CookieNames;
  jwtCookie: string;
  visitorDays: number;
  nowMs: () => number;
}): Identifier => {
  const { redis, tokens, users, guard, names, jwtCookie, visitorDays, nowMs } = options;
  const salt = createMac(tokens.derive('place-salt'));
  const verified = new Map<string, { visitor: VisitorId; expiresAtMs: number }>();
  const VERIFIED_MAX = 50_000;

  const userOf = async (request: Request): Promise<VisitorId | undefined> => {
    if (users === undefined) return undefined;
    const token = shownUserToken(request, jwtCookie);
    if (token === undefined) return undefined;
    const known = verified.get(token);
    if (known !== undefined && known.expiresAtMs > nowMs()) return known.visitor;
    const { address } = request;
    guard.before(address);
    const read = await users.verify(token);
    const visitor = read === undefined ? undefined : userVisitor(read.subject);
    if (read === undefined) guard.failed(address);
    if (read === undefined || visitor === undefined) throw new Refusal('token-invalid');
    if (verified.size >= VERIFIED_MAX) verified.clear();
    verified.set(token, { visitor, expiresAtMs: read.expiresAtMs });
    return visitor;
  };
  const anonymousOf = (request: Request) =>
    readVisitor(tokens, request.cookie(names.visitor), { nowMs: nowMs(), lifeDays: visitorDays });

  return {
    visitorOf: async (request) => (await userOf(request)) ?? anonymousOf(request)?.visitor,

    async identify(request, room, snapshot, given) {
      const { identity, sale } = snapshot.settings;
      const user = identity === 'anonymous' ? undefined : await userOf(request);
      if (identity === 'required' && user === undefined) throw new Refusal('token-missing');
      const cookie = anonymousOf(request);
      const fromCookie = readReceipt(tokens, request.cookie(names.receipt(room)) ?? '');
      const usable = (receipt: Receipt | undefined) =>
        receipt !== undefined && receipt.room === room && receipt.sale === sale ? receipt : undefined;
      const receipt = usable(given) ?? usable(fromCookie);

      const visitor = user ?? cookie?.visitor ?? newVisitor();
      const isNew = user === undefined && cookie === undefined;
      const renewCookie = user === undefined && (cookie === undefined || cookie.stale);
      const own = placeIdOf(salt, { room, sale, visitor });
      // In a room that asks for a verified user, only that user's own place counts.
      if (identity === 'required')
        return {
          visitor,
          isNew,
          renewCookie,
          placeId: own,
          receipt: receipt?.placeId === own ? receipt : undefined,
          looked: undefined,
        };
      const candidates = new Set<PlaceId>([own]);
      if (receipt !== undefined) candidates.add(receipt.placeId);
      if (user !== undefined && cookie !== undefined)
        candidates.add(placeIdOf(salt, { room, sale, visitor: cookie.visitor }));
      let placeId = own;
      let looked: Looked | undefined;
      if (candidates.size > 1) {
        for (const candidate of candidates) {
          const found = await orUnavailable(look.run(redis, roomKeys(room), { placeId: candidate }));
          if (found.outcome !== 'held') continue;
          placeId = candidate;
          looked = found;
          break;
        }
        // Nobody holds a place: a receipt is the better claim, because it may restore one.
        if (looked === undefined && receipt !== undefined) placeId = receipt.placeId;
      }
      return {
        visitor,
        isNew,
        renewCookie,
        placeId,
        receipt: receipt?.placeId === placeId ? receipt : undefined,
        looked,
      };
    },
  };
};
