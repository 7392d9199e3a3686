// Claims of a verified user JWT, for rules that ask for them by name.

import type { Request } from '../kernel/http.ts';
import { readJws } from '../kernel/jws.ts';
import { USER_TOKEN_CHARS_MAX } from '../kernel/user-token.ts';
import type { Users } from './users.ts';

export type Claims = ReadonlyMap<string, readonly string[]>;

export type ClaimsReader = {
  /** The values of these claims; empty when no token is shown, or none that verifies. Throws what `Users.tokenOf` throws. */
  of(request: Pick<Request, 'address' | 'header' | 'cookie'>, names: readonly string[]): Promise<Claims>;
};

const NONE: Claims = new Map();
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

/** `users` verifies; what a token says is read from it afterwards, each time, because such rules are few. */
export const createClaimsReader = (users: Users | undefined): ClaimsReader => ({
  async of(request, names) {
    const token = await users?.tokenOf(request);
    const said = token === undefined ? undefined : readJws(token, USER_TOKEN_CHARS_MAX)?.claims;
    if (said === undefined) return NONE;
    return new Map(
      names.map((name) => [name, claimValues(Object.hasOwn(said, name) ? said[name] : undefined)]),
    );
  },
});
