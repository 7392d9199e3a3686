// Whose place a request speaks for. Identity comes from a verified user token, a signed visitor cookie or a signed
// receipt (given, in a cookie, or in a header where cookies do not come along), never from anything else in the
// request. When several are shown, the one that holds a place wins; when several hold one, the place that is furthest
// on (docs/decisions/0010-who-a-request-speaks-for.md).

import { Refusal } from '../kernel/errors.ts';
import type { Request } from '../kernel/http.ts';
import type { PlaceId, RoomId, VisitorId } from '../kernel/ids.ts';
import { createMac } from '../kernel/mac.ts';
import { orUnavailable } from '../kernel/redis.ts';
import type { Tokens } from '../kernel/token.ts';
import type { Looked } from '../lua/room.ts';
import type { Looks } from './looks.ts';
import { claimsPlace, RECEIPT_HEADER, type Receipt, readReceipt } from './receipt.ts';
import type { Snapshot } from './snapshot.ts';
import type { Users } from './users.ts';
import { type CookieNames, newVisitor, placeIdOf, readVisitor } from './visitor.ts';

export type Identity = {
  visitor: VisitorId;
  /** The request showed nobody: this visitor was made up for it. */
  isNew: boolean;
  /** The visitor cookie is missing or older than a day: set it. */
  renewCookie: boolean;
  placeId: PlaceId;
  /** The receipt of this place, if a true one was shown; checked when it is asked for, because it hardly ever is. */
  receipt: () => Receipt | undefined;
  /** The place as it was found, when it had to be looked up to decide. */
  looked: Looked | undefined;
  /** When the user token runs out that this was decided by, in ms since 1970; 0 where there was none. */
  userUntilMs: number;
};

/** What stands before the check of a signature, which costs some 200 µs: told of every token that fails. */
export type TokenGuard = {
  /** Throws a Refusal for whoever has failed too often. */
  before(address: string): void;
  failed(address: string): void;
};

export type Identifier = {
  /**
   * The visitor alone, for requests that go to an origin. Undefined when the request shows none. Where the origin has
   * a sign-in of its own, a token that is not for us is no fault (`foreignTokens`): the header is passed on to it.
   */
  visitorOf(request: Request, options: { foreignTokens: boolean }): Promise<VisitorId | undefined>;
  identify(request: Request, room: RoomId, snapshot: Snapshot, given?: Receipt): Promise<Identity>;
};

const usableIn = (room: RoomId, sale: number, receipt: Receipt | undefined): Receipt | undefined =>
  receipt?.room === room && receipt.sale === sale ? receipt : undefined;

const noReceipt = (): undefined => undefined;
const readLater =
  (tokens: Tokens, text: string, room: RoomId, sale: number): (() => Receipt | undefined) =>
  () =>
    usableIn(room, sale, readReceipt(tokens, text));

type Held = Looked & { outcome: 'held' };

/**
 * Who is inside goes before whoever may come in, those before whoever waits, and withheld places come last. Among
 * equals the lower score. `untilMs` decides nothing: a turn about to pass is still a turn.
 */
const STATE_RANK: Record<Held['state'], number> = {
  active: 0,
  promoted: 1,
  waiting: 2,
  parked: 2,
  withheld: 3,
};
const isFurther = (a: Held, b: Held): boolean =>
  STATE_RANK[a.state] === STATE_RANK[b.state] ? a.score < b.score : STATE_RANK[a.state] < STATE_RANK[b.state];

export const createIdentifier = (options: {
  looks: Looks;
  tokens: Tokens;
  /** Undefined where the configuration names no keys of user tokens: then nobody is a verified user. */
  users: Users | undefined;
  names: CookieNames;
  visitorDays: number;
  nowMs: () => number;
}): Identifier => {
  const { looks, tokens, users, names, visitorDays, nowMs } = options;
  const salt = createMac(tokens.derive('place-salt'));

  const anonymousOf = (request: Request) =>
    readVisitor(tokens, request.cookie(names.visitor), { nowMs: nowMs(), lifeDays: visitorDays });

  return {
    async visitorOf(request, { foreignTokens }) {
      try {
        const user = await users?.userOf(request, { lenient: true });
        if (user !== undefined) return user;
      } catch (error) {
        if (!(foreignTokens && error instanceof Refusal)) throw error;
      }
      return anonymousOf(request)?.visitor;
    },

    async identify(request, room, snapshot, given) {
      const { identity, sale } = snapshot.settings;
      const verified =
        identity === 'anonymous'
          ? undefined
          : await users?.verifiedOf(request, { lenient: identity === 'optional' });
      const user = verified?.visitor;
      const userUntilMs = verified?.expiresAtMs ?? 0;
      if (identity === 'required' && user === undefined) throw new Refusal('token-missing');
      const cookie = anonymousOf(request);
      const receiptText = request.cookie(names.receipt(room)) ?? request.header(RECEIPT_HEADER);
      const visitor = user ?? cookie?.visitor ?? newVisitor();
      const isNew = user === undefined && cookie === undefined;
      const renewCookie = user === undefined && (cookie === undefined || cookie.stale);
      const own = placeIdOf(salt, { room, sale, visitor });
      const shown = receiptText === undefined ? noReceipt : readLater(tokens, receiptText, room, sale);
      // The usual one is of the visitor's own place: nothing hangs on it but what is restored when Redis has lost that.
      const isOwn =
        given === undefined &&
        receiptText !== undefined &&
        claimsPlace(receiptText, { room, sale, placeId: own });
      const receipt = isOwn ? undefined : (usableIn(room, sale, given) ?? shown());
      const proof = isOwn ? shown : () => receipt;
      const proved = isOwn ? own : receipt?.placeId;
      // In a room that asks for a verified user, only that user's own place counts.
      if (identity === 'required')
        return {
          visitor,
          isNew,
          renewCookie,
          placeId: own,
          receipt: proved === own ? proof : noReceipt,
          looked: undefined,
          userUntilMs,
        };
      // Somebody new, mostly: there is one place it can be.
      if (receipt === undefined && (user === undefined || cookie === undefined))
        return {
          visitor,
          isNew,
          renewCookie,
          placeId: own,
          receipt: proved === own ? proof : noReceipt,
          looked: undefined,
          userUntilMs,
        };
      const candidates = new Set<PlaceId>([own]);
      if (receipt !== undefined) candidates.add(receipt.placeId);
      if (user !== undefined && cookie !== undefined)
        candidates.add(placeIdOf(salt, { room, sale, visitor: cookie.visitor }));
      let placeId = own;
      let looked: Looked | undefined;
      if (candidates.size > 1) {
        let best: Held | undefined;
        const found = await Promise.all(
          [...candidates].map(async (candidate) => ({
            candidate,
            found: await orUnavailable(looks.at(room, candidate)),
          })),
        );
        for (const { candidate, found: one } of found) {
          if (one.outcome !== 'held' || (best !== undefined && !isFurther(one, best))) continue;
          best = one;
          placeId = candidate;
        }
        looked = best;
        // Nobody holds a place: a receipt is the better claim, because it may restore one.
        if (best === undefined && receipt !== undefined) placeId = receipt.placeId;
      }
      return {
        visitor,
        isNew,
        renewCookie,
        placeId,
        receipt: proved === placeId ? proof : noReceipt,
        looked,
        userUntilMs,
      };
    },
  };
};
