// Claims of a verified user JWT, for rules that ask for them by name. Only those are kept, for as long as the token is
// good: a verification costs some 200 µs, and a request would pay it each time.

import type { Request } from '../kernel/http.ts';
import { createRecent } from '../kernel/recent.ts';
import type { UserTokens } from '../kernel/token.ts';
import { shownUserToken, type TokenGuard } from './identify.ts';

export type Claims = ReadonlyMap<string, readonly string[]>;

export type ClaimsReader = {
  /** The values of these claims; empty when no token is shown, or none that verifies. Throws what the guard throws. */
  of(request: Pick<Request, 'address' | 'header' | 'cookie'>, names: readonly string[]): Promise<Claims>;
};

const NONE: Claims = new Map();
/** A token that is forgotten is verified again. */
const TOKENS_MAX = 10_000;
/** Of one claim: the groups of a member of staff, say. Longer lists are cut, longer texts left out. */
const VALUES_MAX = 32;
const VALUE_CHARS_MAX = 200;

/** Texts, numbers and truth values as text; a list as its items; anything else has no value to compare. */
export const claimValues = (claim: unknown): string[] =>
  (Array.isArray(claim) ? claim : [claim])
    .slice(0, VALUES_MAX)
    .filter((value) => ['string', 'number', 'boolean'].includes(typeof value))
    .map(String)
    .filter((text) => text.length <= VALUE_CHARS_MAX);

export const createClaimsReader = (options: {
  users: UserTokens | undefined;
  guard: TokenGuard;
  jwtCookie: string;
  nowMs: () => number;
}): ClaimsReader => {
  const { users, guard, jwtCookie, nowMs } = options;
  const known = createRecent<string, { claims: Claims; expiresAtMs: number }>(TOKENS_MAX);
  return {
    async of(request, names) {
      const token = users === undefined ? undefined : shownUserToken(request, jwtCookie);
      if (users === undefined || token === undefined) return NONE;
      const kept = known.get(token);
      if (kept !== undefined && kept.expiresAtMs > nowMs() && names.every((name) => kept.claims.has(name)))
        return kept.claims;
      guard.before(request.address);
      const read = await users.verify(token);
      if (read === undefined) {
        guard.failed(request.address);
        return NONE;
      }
      const claims = new Map(kept?.claims);
      for (const name of names) claims.set(name, claimValues(read.claim(name)));
      known.set(token, { claims, expiresAtMs: read.expiresAtMs });
      return claims;
    },
  };
};
