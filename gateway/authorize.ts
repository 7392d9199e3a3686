// Auth mode: the gate's decision for a proxy that carries the bytes itself (nginx `auth_request`, HAProxy). The proxy
// describes the request it holds in three headers and sends the client's own along (Cookie, Accept, Authorization):
//
//   X-Original-URI      path and query as they came, not repaired      X-Original-Host     the Host that came
//   X-Original-Method   GET, POST, …
//
// Answers: 204 go on, with headers for the origin and at most one Set-Cookie (nginx before 1.23 passes one on); 401
// wait, with `Anteroom-Wait`, where the waiting page is; anything else is a fault and means: do not go on. One set of
// names and no other is read: were there two, a client could send the one that its proxy does not overwrite. And all
// three must be there, for a proxy that forgets one would have every request judged as something it is not.

import type { Config } from '../kernel/config.ts';
import { problemOf, Refusal } from '../kernel/errors.ts';
import { type Answer, type Handler, prepared, type Request } from '../kernel/http.ts';
import type { RoomId } from '../kernel/ids.ts';
import { isPlainPath, isPlainQuery } from '../kernel/path.ts';
import type { Tokens } from '../kernel/token.ts';
import type { Identifier } from '../line/identify.ts';
import type { View } from '../line/view.ts';
import type { CookieNames } from '../line/visitor.ts';
import type { Admission, Admitted } from './admission.ts';
import { createStrangers, createToldAgain, sessionHeaders } from './context.ts';
import type { Limits } from './limits.ts';
import { sessionCookie } from './passes.ts';
import type { Header } from './places.ts';

const NO_STORE: Header = ['cache-control', 'no-store'];
/** A name or an address with an optional port; two Hosts, joined by a comma, are neither. */
const HOST = /^(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?$/;
/** A proxy may let through methods that the gateway itself does not carry. */
const METHOD = /^[A-Z]{1,20}$/;

type Original = { host: string; path: string; query: string; method: string };

const read = (request: Request, name: string, form: RegExp): string => {
  const value = request.header(name) ?? '';
  if (!form.test(value))
    throw new Refusal('bad-header', {
      detail: `\`${name}\` is missing or malformed; the proxy must set it.`,
    });
  return value;
};

const originalOf = (request: Request): Original => {
  const host = read(request, 'x-original-host', HOST);
  const method = read(request, 'x-original-method', METHOD);
  const uri = read(request, 'x-original-uri', /^\//);
  const mark = uri.indexOf('?');
  const path = mark < 0 ? uri : uri.slice(0, mark);
  const query = mark < 0 ? '' : uri.slice(mark + 1);
  if (!isPlainPath(path) || !isPlainQuery(query)) throw new Refusal('bad-path');
  return { host, path, query, method };
};

/** Where to wait. After a GET one comes back to where one wanted to go; another method has nothing to come back to. */
const waitingAddress = (room: RoomId, { path, query, method }: Original): string => {
  const page = `/rooms/${room}`;
  if (method !== 'GET' && method !== 'HEAD') return page;
  return `${page}?returnTo=${encodeURIComponent(query === '' ? path : `${path}?${query}`)}`;
};

const waitAnswer = (room: RoomId, page: string): Answer => ({
  status: 401,
  headers: [['content-type', 'application/problem+json'], NO_STORE, ['anteroom-wait', page]],
  body: JSON.stringify(
    problemOf('admission-required', { extra: { room, page, join: `/v1/rooms/${room}/places` } }),
  ),
});

const GO_ON = prepared({ status: 204, headers: [NO_STORE] });

export const createAuthorize = (options: {
  config: Config;
  admission: Admission;
  identifier: Identifier;
  limits: Pick<Limits, 'inside' | 'refusal'>;
  tokens: Tokens;
  names: CookieNames;
  view: View;
}): Handler => {
  const { admission, limits, tokens, names, view } = options;
  const strangerOf = createStrangers(options);
  const goOn = (headers: readonly Header[]): Answer => ({ status: 204, headers: [NO_STORE, ...headers] });
  const told = createToldAgain((session) => prepared(goOn(sessionHeaders(tokens, session))));

  /** A room that lets everybody through. */
  const tellStranger = async (request: Request, room: RoomId): Promise<Answer> => {
    const { headers, cookies } = await strangerOf(request, { room, foreignTokens: true });
    return goOn([...headers, ...cookies]);
  };

  const conclude = (request: Request, original: Original, decision: Admitted): Answer | Promise<Answer> => {
    const { room } = decision;
    // What no room guards is none of our business here: the proxy has an origin for it, whether or not we have.
    if (room === undefined) return GO_ON;
    if (decision.act !== 'proxy') return waitAnswer(room, waitingAddress(room, original));
    // Whatever is let by a rule is nobody's visit: it shows no one, and is given nothing.
    if (decision.bypass !== undefined) return GO_ON;
    const { session, cookie } = decision;
    if (session === undefined) return tellStranger(request, room);
    const taken = limits.inside(request.address);
    if (taken.outcome === 'refused') throw limits.refusal(taken);
    return cookie === undefined
      ? told(session)
      : goOn([...sessionHeaders(tokens, session), sessionCookie(names, session, cookie, view.redisNowMs())]);
  };

  return (request) => {
    if (!request.viaProxy)
      throw new Refusal('proxy-unknown', {
        detail: 'Name the address of the proxy in `ANTEROOM_TRUSTED_PROXIES`.',
      });
    const original = originalOf(request);
    const { host, path, method } = original;
    const decision = admission.decide({ host, path, method, request, bookingBehind: false });
    // A session that is known is answered at once: nothing is awaited, so nothing has to be told if its client leaves.
    return 'then' in decision
      ? decision.then((decided) => conclude(request, original, decided))
      : conclude(request, original, decision);
  };
};
