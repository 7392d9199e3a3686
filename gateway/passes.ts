// Sessions over HTTP: the claim that makes one with its pass, the pass that moves it to another host, and its end at
// the word of an origin. A pass names its session, never a new one, so claiming again gives another pass for the same
// session; only one of them is ever redeemed.

import type { Config } from '../kernel/config.ts';
import { Refusal } from '../kernel/errors.ts';
import { type Handler, json, type Request, type Server } from '../kernel/http.ts';
import { type PlaceId, parsePlaceId, type RoomId } from '../kernel/ids.ts';
import { orUnavailable, type Redis } from '../kernel/redis.ts';
import { PASS_LIFE_SECONDS, type Tokens } from '../kernel/token.ts';
import type { Identifier } from '../line/identify.ts';
import { parseSessionId, type Session, sessionIdOf, signSession } from '../line/receipt.ts';
import { readService } from '../line/service.ts';
import type { View } from '../line/view.ts';
import { type CookieNames, newVisitor } from '../line/visitor.ts';
import { end, redeem, roomKeys } from '../lua/room.ts';
import { setCookie, visitorCookies } from './cookies.ts';
import { readFields } from './fields.ts';
import { costs, type Limits } from './limits.ts';
import type { At, Header, Places } from './places.ts';
import type { Sessions } from './sessions.ts';

const secondsLeft = (session: Session, nowMs: number): number =>
  Math.max(1, Math.floor((session.expiresAtMs - nowMs) / 1000));

/** The cookie of a session, as long as the session. */
export const sessionCookie = (names: CookieNames, session: Session, value: string, nowMs: number): Header =>
  setCookie(names, { name: names.session(session.room), value, maxAgeSeconds: secondsLeft(session, nowMs) });

export const createPasses = (options: {
  config: Pick<Config, 'visitorDays'>;
  identifier: Pick<Identifier, 'visitorOf'>;
  redis: Redis;
  view: View;
  tokens: Tokens;
  names: CookieNames;
  limits: Limits;
  places: Places;
  sessions: Sessions;
}) => {
  const { redis, view, tokens, identifier, names, limits, places, sessions } = options;
  const { visitorDays } = options.config;

  const limitAddress = async (request: Request, cost: number): Promise<void> => {
    const taken = await limits.take({ address: request.address, cost });
    if (taken.outcome === 'refused') throw limits.refusal(taken);
  };

  const passOf = (session: Session): Promise<string> => {
    const nowMs = view.redisNowMs();
    return tokens.signPass({
      room: session.room,
      sale: session.sale,
      placeId: session.placeId,
      number: session.number,
      serial: session.serial,
      sessionId: sessionIdOf(session),
      lifeSeconds: Math.min(PASS_LIFE_SECONDS, secondsLeft(session, nowMs)),
      nowMs,
    });
  };

  const publicSession = (session: Session) => ({
    id: sessionIdOf(session),
    room: session.room,
    number: session.number,
    expiresAtMs: session.expiresAtMs,
  });

  const claimPass: Handler = async (request) => {
    const given = readFields(request, { claim: 'text' });
    const { session, headers } = await places.claim(request, places.roomOf(request), given);
    return json(
      200,
      {
        session: publicSession(session),
        pass: await passOf(session),
        expiresAtMs: session.expiresAtMs,
      },
      headers,
    );
  };

  /** Takes a pass to its session, on whatever host of ours it is shown; the pass stands in the body, never in a URL. */
  const redeemPass: Handler = async (request) => {
    const { room, snapshot } = places.roomOf(request);
    const { pass: text } = readFields(request, { pass: 'text' });
    await limitAddress(request, costs.redeem);
    if (text === undefined) throw new Refusal('bad-field', { detail: '`pass` is missing' });
    const pass = await tokens.verifyPass(text, { room, nowMs: view.redisNowMs() });
    if (pass.outcome === 'expired') throw new Refusal('pass-expired');
    const placeId = pass.outcome === 'valid' ? parsePlaceId(pass.placeId) : undefined;
    const { sale } = snapshot.settings;
    if (pass.outcome !== 'valid' || placeId === undefined || pass.sale !== sale)
      throw new Refusal('pass-invalid');
    const { number, serial } = pass;
    const shown = await identifier.visitorOf(request, { foreignTokens: true });
    const visitor = shown ?? newVisitor();
    const done = await orUnavailable(
      redeem.run(redis, roomKeys(room), { nowMs: '', sale, placeId, number, serial, visitor }),
    );
    switch (done.outcome) {
      case 'unknown':
        throw new Refusal('room-recovering');
      case 'otherSale':
        throw new Refusal('pass-invalid');
      case 'finished':
      case 'notActive':
        throw new Refusal('place-finished');
      case 'redeemedBefore':
        throw new Refusal('pass-redeemed');
      case 'superseded':
        throw new Refusal('session-superseded');
      case 'redeemed': {
        const { outcome: _, ...redeemed } = done;
        const session: Session = { room, sale, placeId, ...redeemed };
        const nowMs = view.redisNowMs();
        return json(201, publicSession(session), [
          sessionCookie(names, session, signSession(tokens, session), nowMs),
          // On this host nobody was known yet: it is whose session it is, also when that has ended.
          ...(shown === undefined
            ? visitorCookies({ names, tokens, visitorDays }, session.visitorId, nowMs)
            : []),
        ]);
      }
    }
  };

  /** Refuses whoever shows no service token for this room. Only failures are counted: an origin may end many at once. */
  const authorize = async (request: Request, room: RoomId): Promise<void> => {
    const shown = /^Bearer (\S+)$/i.exec(request.header('authorization') ?? '')?.[1];
    const { outcome } =
      shown === undefined
        ? { outcome: 'missing' as const }
        : readService(tokens, shown, { room, nowMs: view.redisNowMs() });
    if (outcome === 'allowed') return;
    await limitAddress(request, costs.failedToken);
    switch (outcome) {
      case 'missing':
        throw new Refusal('token-missing');
      case 'expired':
        throw new Refusal('token-expired');
      case 'otherRoom':
        throw new Refusal('token-other-room');
      case 'invalid':
        throw new Refusal('token-invalid');
    }
  };

  const visitGiven = (request: Request): { placeId: PlaceId; number: number } => {
    const given = readFields(request, { session: 'text', placeId: 'text', number: 'number' });
    const apart = given.placeId !== undefined || given.number !== undefined;
    if ((given.session !== undefined) === apart)
      throw new Refusal('bad-field', { detail: 'send either `session`, or `placeId` and `number`' });
    if (given.session !== undefined) {
      const visit = parseSessionId(given.session);
      if (visit === undefined) throw new Refusal('bad-field', { detail: '`session` is not a session id' });
      return visit;
    }
    const placeId = parsePlaceId(given.placeId);
    if (placeId === undefined || given.number === undefined)
      throw new Refusal('bad-field', { detail: '`placeId` and `number` belong together' });
    return { placeId, number: given.number };
  };

  const endSession: Handler = async (request) => {
    const { room }: At = places.roomOf(request);
    await authorize(request, room);
    const visit = visitGiven(request);
    const done = await orUnavailable(
      end.run(redis, roomKeys(room), { nowMs: '', ...visit, reason: 'service' }),
    );
    if (done.outcome === 'unknown') throw new Refusal('room-recovering');
    if (done.outcome === 'notActive') throw new Refusal('session-missing');
    sessions.ended(room, visit);
    return { status: 204 };
  };

  return {
    register(server: Server): void {
      server.route('POST', '/v1/rooms/:room/pass', claimPass);
      server.route('POST', '/v1/rooms/:room/sessions', redeemPass);
      server.route('POST', '/v1/rooms/:room/sessions/end', endSession);
    },
  };
};
