// Which verified user a request speaks for. A user JWT costs a public-key check once; until it expires, or its key is
// taken out of the customer's set, a bounded memory answers. It holds hashes and never a token.
//
// Only what has been verified is remembered, so no flood of forgeries can push anybody out. Requests that bring the
// same token at the same time wait for one check. Whoever shows tokens that are no good pays for them with the rate of
// their address, and once that is used up nothing of theirs is checked that is not known.

import { hash } from 'node:crypto';
import { Refusal } from '../kernel/errors.ts';
import type { Request } from '../kernel/http.ts';
import type { VisitorId } from '../kernel/ids.ts';
import type { Metrics } from '../kernel/metrics.ts';
import { createRecent } from '../kernel/recent.ts';
import type { UserTokenRead, UserTokens } from '../kernel/user-token.ts';
import { userVisitor } from './visitor.ts';

/**
 * What a token that is not known costs its address, in requests. The price of a forgery is asked for before the look at
 * it and given back to whoever was honest: asked for afterwards, a thousand at once would be looked at before the first
 * has paid. A crowd behind one address may have a third of its burst under way at a time.
 */
export const TOKEN_DEPOSIT = 3;
const RETURNED: Record<UserTokenRead['outcome'] | 'overloaded', number> = {
  verified: TOKEN_DEPOSIT,
  unavailable: TOKEN_DEPOSIT,
  overloaded: TOKEN_DEPOSIT,
  // Found out without a public key, and nobody's fault; but it is a request.
  expired: TOKEN_DEPOSIT - 1,
  invalid: 0,
};
/** Checks under way at once in one process: about two seconds of a core. */
const CHECKS_MAX = 10_000;

/** Takes a cost, in requests, from the address of a request, or gives it back below zero; throws `too-many-requests`. */
export type Toll = (request: Pick<Request, 'address'>, cost: number) => void;

export type Users = {
  /**
   * The user, or undefined when the request shows no token. Throws `token-expired`, `token-invalid` (with what is
   * wrong), `sign-in-unavailable`, `too-many-requests` and `overloaded`. With `lenient` a token that stands in a
   * cookie and is no good counts as none: a browser sends its cookies long after anybody thought of them.
   */
  userOf(request: Request, options?: { lenient?: boolean }): Promise<VisitorId | undefined>;
  /** The same, and when the token runs out: for what outlives the request. */
  verifiedOf(request: Request, options?: { lenient?: boolean }): Promise<Verified | undefined>;
  /** The token that speaks for the request, verified; undefined when none does. Throws as `userOf` when it is too much. */
  tokenOf(request: Pick<Request, 'address' | 'header' | 'cookie'>): Promise<string | undefined>;
  /** Whether there is a token to look at. */
  shows(request: Shown): boolean;
  /** Tokens in memory, for tests. */
  size(): number;
};

/** Who a token speaks for, and until when. */
export type Verified = { visitor: VisitorId; expiresAtMs: number };

type Shown = Pick<Request, 'address' | 'header' | 'cookie'>;
type Known = { visitor: VisitorId; expiresAtMs: number; keyId: string };
type Judged = ({ outcome: 'user' } & Verified) | { outcome: 'refused'; refusal: Refusal };

export const createUsers = (options: {
  tokens: UserTokens;
  /** Cookie that may carry the token besides the Authorization header; empty for none. */
  cookie: string;
  tokensMax: number;
  checksMax?: number;
  toll: Toll;
  nowMs: () => number;
  metrics: Metrics;
}): Users => {
  const { tokens, cookie, tokensMax, checksMax = CHECKS_MAX, toll, nowMs, metrics } = options;
  const memory = createRecent<string, Known>(tokensMax / 2);
  const checking = new Map<string, Promise<UserTokenRead>>();
  const counted = (outcome: string): void => metrics.inc('user_tokens_total', { outcome });

  const recall = (key: string): Known | undefined => {
    const known = memory.get(key);
    const isGood = known !== undefined && known.expiresAtMs > nowMs() && tokens.trusts(known.keyId);
    return isGood ? known : undefined;
  };

  const refused = (code: 'token-expired' | 'sign-in-unavailable' | 'overloaded'): Judged => ({
    outcome: 'refused',
    refusal: new Refusal(code),
  });

  const judge = async (request: Shown, token: string): Promise<Judged> => {
    const key = hash('sha256', token, 'base64url');
    const known = recall(key);
    if (known !== undefined) {
      counted('known');
      return { outcome: 'user', visitor: known.visitor, expiresAtMs: known.expiresAtMs };
    }
    toll(request, TOKEN_DEPOSIT);
    let check = checking.get(key);
    if (check === undefined) {
      if (checking.size >= checksMax) {
        counted('overloaded');
        toll(request, -RETURNED.overloaded);
        return refused('overloaded');
      }
      check = tokens.verify(token, nowMs()).finally(() => checking.delete(key));
      checking.set(key, check);
    }
    const read = await check;
    counted(read.outcome);
    if (RETURNED[read.outcome] > 0) toll(request, -RETURNED[read.outcome]);
    if (read.outcome === 'unavailable') return refused('sign-in-unavailable');
    if (read.outcome === 'verified') {
      const user = userVisitor(read.subject);
      // A hash in base64url is in the form of a visitor by construction.
      if (user === undefined) throw new Error('the subject of a user token is not in the form of a visitor');
      const { expiresAtMs, keyId } = read;
      memory.set(key, { visitor: user, expiresAtMs, keyId });
      return { outcome: 'user', visitor: user, expiresAtMs };
    }
    if (read.outcome === 'expired') return refused('token-expired');
    return {
      outcome: 'refused',
      refusal: new Refusal('token-invalid', { detail: `The token was refused: ${read.why}.` }),
    };
  };

  /** The first token that is good; else the first refusal that counts. */
  const found = async (
    request: Shown,
    lenient: boolean,
  ): Promise<(Verified & { token: string }) | Refusal | undefined> => {
    const header = /^Bearer +(\S+)$/i.exec(request.header('authorization') ?? '')?.[1];
    const inCookie = cookie === '' ? undefined : request.cookie(cookie);
    // The header first: whoever sets it means it. It may also be for the origin and no JWT of ours, and then the
    // cookie still speaks.
    let first: Refusal | undefined;
    for (const token of [header, inCookie]) {
      if (token === undefined || token === '') continue;
      const judged = await judge(request, token);
      if (judged.outcome === 'user')
        return { visitor: judged.visitor, expiresAtMs: judged.expiresAtMs, token };
      const isHabit = lenient && token === inCookie && judged.refusal.code !== 'overloaded';
      if (!isHabit) first ??= judged.refusal;
    }
    return first;
  };

  const verifiedOf: Users['verifiedOf'] = async (request, { lenient = false } = {}) => {
    const done = await found(request, lenient);
    if (done instanceof Refusal) throw done;
    return done;
  };

  return {
    shows: (request) =>
      request.header('authorization') !== undefined ||
      (cookie !== '' && request.cookie(cookie) !== undefined),
    size: () => memory.size,
    verifiedOf,
    userOf: async (request, more) => (await verifiedOf(request, more))?.visitor,
    async tokenOf(request) {
      const done = await found(request, true);
      if (!(done instanceof Refusal)) return done?.token;
      if (done.code === 'overloaded') throw done;
      return undefined;
    },
  };
};
