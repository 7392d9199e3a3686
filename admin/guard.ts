// Who is asking. Scripts send their token as `Authorization: Bearer`; the page trades it once for a signed cookie
// that scripts in the page cannot read. A cookie is sent by the browser whoever made the page, so a request that
// changes something by cookie must also come from our own page (Sec-Fetch-Site, or Origin in older browsers).

import type { Clock } from '../kernel/clock.ts';
import { Refusal } from '../kernel/errors.ts';
import { type Answer, json, type Request } from '../kernel/http.ts';
import type { Log } from '../kernel/log.ts';
import type { Tokens } from '../kernel/token.ts';
import { readBody, readText } from './input.ts';
import { createFailureLimiter } from './limiter.ts';
import type { Operator, OperatorStore } from './operators.ts';

const COOKIE = 'ar_admin';
const SIGNED_IN_MS = 12 * 3600 * 1000;

export type Guard = {
  /** The operator behind a request. Throws token-missing, token-invalid, origin-refused or too-many-requests. */
  identify(request: Request): Promise<Operator>;
  /** Trades a token for the cookie. */
  signIn(request: Request): Promise<Answer>;
  signOut(request: Request): Answer;
};

export const createGuard = (options: {
  operators: OperatorStore;
  tokens: Tokens;
  clock: Clock;
  log: Log;
  /** The address operators use; https makes the cookie Secure. Empty: told by the Host header. */
  adminUrl: string;
}): Guard => {
  const { operators, tokens, clock, log, adminUrl } = options;
  const limiter = createFailureLimiter(clock);
  const secure = adminUrl.startsWith('https:') ? '; Secure' : '';
  const attributes = `Path=/; HttpOnly; SameSite=Strict${secure}`;

  const isOwnPage = (request: Request): boolean => {
    const site = request.header('sec-fetch-site');
    if (site !== undefined) return site === 'same-origin';
    const origin = request.header('origin');
    if (origin === undefined || !URL.canParse(origin)) return false;
    if (adminUrl !== '' && URL.canParse(adminUrl) && new URL(adminUrl).origin === origin) return true;
    return new URL(origin).host === request.header('host');
  };

  const byToken = async (request: Request, token: string): Promise<Operator> => {
    if (limiter.isFull(request.address)) throw new Refusal('too-many-requests');
    const operator = await operators.byToken(token);
    if (operator !== undefined) return operator;
    limiter.failed(request.address);
    log.warn('sign-in-refused', { address: request.address });
    throw new Refusal('token-invalid');
  };

  const byCookie = async (request: Request, cookie: string): Promise<Operator> => {
    const [purpose, id, expiresAtMs] = tokens.verify('operator-csrf', cookie) ?? [];
    if (purpose !== 'signed-in' || typeof id !== 'string' || typeof expiresAtMs !== 'number')
      throw new Refusal('token-invalid');
    if (expiresAtMs <= clock.nowMs()) throw new Refusal('token-invalid');
    if (request.method !== 'GET' && request.method !== 'HEAD' && !isOwnPage(request))
      throw new Refusal('origin-refused');
    const operator = await operators.byId(id);
    if (operator === undefined) throw new Refusal('token-invalid');
    return operator;
  };

  return {
    async identify(request) {
      const header = request.header('authorization');
      if (header !== undefined) {
        const token = /^Bearer ([A-Za-z0-9_-]{1,100})$/i.exec(header)?.[1];
        // Not in the form of a token, so no guess: refused, and not counted.
        if (token === undefined) throw new Refusal('token-invalid');
        return byToken(request, token);
      }
      const cookie = request.cookie(COOKIE);
      if (cookie === undefined || cookie === '') throw new Refusal('token-missing');
      return byCookie(request, cookie);
    },
    async signIn(request) {
      if (!isOwnPage(request)) throw new Refusal('origin-refused');
      const fields = readBody(request, { known: ['token'] });
      const operator = await byToken(request, readText(fields, 'token', { min: 1, max: 100 }));
      const signed = tokens.sign('operator-csrf', [
        'signed-in',
        operator.id,
        Math.floor(clock.nowMs() + SIGNED_IN_MS),
      ]);
      log.info('signed-in', { operator: operator.id, role: operator.role });
      return json(200, { id: operator.id, name: operator.name, role: operator.role }, [
        ['set-cookie', `${COOKIE}=${signed}; ${attributes}; Max-Age=${SIGNED_IN_MS / 1000}`],
      ]);
    },
    signOut(request) {
      if (!isOwnPage(request)) throw new Refusal('origin-refused');
      return { status: 204, headers: [['set-cookie', `${COOKIE}=; ${attributes}; Max-Age=0`]] };
    },
  };
};
