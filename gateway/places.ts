// A place over HTTP: join, look, leave, claim. Each is one script on the line, framed by what must hold around it:
// limits first, then identity, then the verdict, and only then Redis. The answers carry everything a page needs.

import type { Config } from '../kernel/config.ts';
import { Refusal } from '../kernel/errors.ts';
import type { Request } from '../kernel/http.ts';
import { parseRoomId, type RoomId } from '../kernel/ids.ts';
import type { Metrics } from '../kernel/metrics.ts';
import { orUnavailable, type Redis } from '../kernel/redis.ts';
import type { Tokens } from '../kernel/token.ts';
import { pollAfterMs } from '../line/cadence.ts';
import type { Identifier, Identity } from '../line/identify.ts';
import type { Looks } from '../line/looks.ts';
import { type DrawnMessage, type PositionMessage, positionMessage } from '../line/messages.ts';
import {
  type Receipt,
  readClaim,
  readReceipt,
  readSession,
  type Session,
  signClaim,
  signReceipt,
  signSession,
} from '../line/receipt.ts';
import { gateStateOf, type Snapshot } from '../line/snapshot.ts';
import type { View } from '../line/view.ts';
import { type CookieNames, drawScore, drawSeed } from '../line/visitor.ts';
import type { HeldPlace } from '../lua/room.ts';
import { adopt, claim, here, type Looked, leave, restore, roomKeys } from '../lua/room.ts';
import { clearRoomCookies, setCookie, visitorCookies } from './cookies.ts';
import { createJoining } from './joining.ts';
import type { Judge } from './judging.ts';
import { costs, type LimitOutcome, type Limits } from './limits.ts';
import type { Sessions } from './sessions.ts';

export type Header = readonly [name: string, value: string];

/** What a fan is told about their place; the JSON of join and status. */
export type PlaceStatus = {
  state: 'waiting' | 'parked' | 'withheld' | 'promoted' | 'active' | 'finished' | 'none';
  gate: string;
  verdict?: 'challenge' | 'block';
  number?: number;
  receipt?: string;
  claimToken?: string;
  claimDeadlineMs?: number;
  opensAtMs?: number;
  serverNowMs: number;
  pollAfterMs: number;
  notice?: { id: string; text: string; level: string };
  missed?: boolean;
} & Partial<PositionMessage> &
  Partial<DrawnMessage> & { peopleAhead?: number };

export type Told = { status: PlaceStatus; headers: Header[]; created: boolean };

/** A room that exists, with its newest snapshot. */
export type At = { room: RoomId; snapshot: Snapshot };

export type Places = {
  roomOf(request: Request): At;
  /** For a request that has been through `limits.shed` already. */
  join(request: Request, at: At, given: { receipt?: string }): Promise<Told>;
  status(request: Request, at: At): Promise<Told>;
  leave(request: Request, at: At): Promise<Header[]>;
  claim(
    request: Request,
    at: At,
    given: { claim?: string },
  ): Promise<{ session: Session; headers: Header[] }>;
};

const YEAR_SECONDS = 31_536_000;

export const createPlaces = (options: {
  config: Pick<Config, 'lineMax' | 'withheldMax' | 'joinsMax' | 'joinBatchMs' | 'visitorDays'>;
  redis: Redis;
  looks: Looks;
  view: View;
  tokens: Tokens;
  identifier: Identifier;
  names: CookieNames;
  limits: Limits;
  judge: Judge;
  sessions: Pick<Sessions, 'hasEnded'>;
  metrics: Metrics;
  /** What the process refuses for lack of room, 0 to 3: polls are further apart then. */
  level?: () => number;
}): Places => {
  const { config, redis, looks, view, tokens, identifier, names, limits, judge, sessions, metrics } = options;
  const drawKey = tokens.derive('draw');
  const joining = createJoining({ config, redis });

  const roomOf = (request: Request): At => {
    const room = parseRoomId(request.params.room);
    if (room === undefined) throw new Refusal('bad-id');
    const snapshot = view.of(room);
    if (snapshot === undefined) throw new Refusal(view.redisUp() ? 'room-unknown' : 'unavailable');
    return { room, snapshot };
  };

  const unlessRefused = (taken: LimitOutcome): void => {
    if (taken.outcome === 'refused') throw limits.refusal(taken);
  };
  /** Somebody who was made up a moment ago counts as the stranger they are. */
  const limit = async ({ address }: Request, identity: Identity, cost: number): Promise<void> =>
    unlessRefused(
      identity.isNew
        ? await limits.take({ address, cost })
        : await limits.takeKnown({ address, visitorId: identity.visitor, cost }),
    );

  const { visitorDays } = config;
  const visitorCookie = (identity: Identity): Header[] =>
    identity.renewCookie
      ? visitorCookies({ names, tokens, visitorDays }, identity.visitor, view.redisNowMs())
      : [];

  /** The receipt of a place, as cookie and text. A draw keeps its score to itself before opening. */
  const receiptOf = (room: RoomId, snapshot: Snapshot, identity: Identity, place: HeldPlace): string =>
    signReceipt(tokens, {
      room,
      sale: snapshot.settings.sale,
      placeId: identity.placeId,
      number: place.number,
      score: place.score,
      epoch: place.epoch,
      withheld: place.state === 'withheld',
    } satisfies Receipt);

  const tell = (
    room: RoomId,
    snapshot: Snapshot,
    identity: Identity,
    place: HeldPlace,
    verdict?: 'challenge' | 'block',
  ): Told => {
    const nowMs = view.redisNowMs();
    const gate = gateStateOf(snapshot, nowMs);
    const waiting = place.state === 'waiting' || place.state === 'parked' || place.state === 'withheld';
    const beforeOpening = gate === 'notOpen';
    const told =
      waiting && !beforeOpening ? positionMessage(snapshot, { score: place.score, nowMs }) : undefined;
    const position = told !== undefined && 'ahead' in told ? told : undefined;
    // A receipt with a draw's score would show it before opening; it is given from opening on.
    const receipt = beforeOpening && place.score < 0 ? undefined : receiptOf(room, snapshot, identity, place);
    const headers: Header[] = visitorCookie(identity);
    if (receipt !== undefined)
      headers.push(
        setCookie(names, { name: names.receipt(room), value: receipt, maxAgeSeconds: YEAR_SECONDS / 12 }),
      );
    const status: PlaceStatus = {
      // Whoever is withheld by a tarpit sees a line like everyone's.
      state: place.state === 'withheld' && verdict === undefined ? 'waiting' : place.state,
      gate,
      number: place.number,
      serverNowMs: nowMs,
      pollAfterMs: pollAfterMs(
        position?.etaSeconds?.[0],
        snapshot.settings.claimSeconds,
        options.level?.() ?? 0,
      ),
      ...told,
    };
    if (verdict !== undefined) status.verdict = verdict;
    if (receipt !== undefined) status.receipt = receipt;
    if (position !== undefined) status.peopleAhead = position.ahead;
    if (gate === 'notOpen') status.opensAtMs = snapshot.settings.opensAt;
    if (snapshot.notice.text !== '') status.notice = snapshot.notice;
    if (place.missed) status.missed = true;
    if (place.state === 'promoted') {
      status.claimDeadlineMs = place.untilMs;
      status.claimToken = signClaim(tokens, {
        room,
        sale: snapshot.settings.sale,
        placeId: identity.placeId,
        number: place.number,
        deadlineMs: place.untilMs,
        epoch: place.epoch,
      });
    }
    return { status, headers, created: false };
  };

  const drawOf = (room: RoomId, snapshot: Snapshot, identity: Identity): number | '' => {
    const { shuffleAtOpen, opensAt, sale } = snapshot.settings;
    return shuffleAtOpen ? drawScore(drawSeed(drawKey, { room, sale, opensAt }), identity.placeId) : '';
  };

  const restoreFrom = async (room: RoomId, receipt: Receipt): Promise<void> => {
    if (sessions.hasEnded(room, receipt)) return; // Who gave a place up stands where they joined again.
    const done = await orUnavailable(
      restore.run(redis, roomKeys(room), {
        nowMs: '',
        sale: receipt.sale,
        placeId: receipt.placeId,
        number: receipt.number,
        score: receipt.score,
        withheld: receipt.withheld ? 1 : 0,
      }),
    );
    if (done.outcome === 'restored') metrics.inc('restored_total', { room });
  };

  const givenReceipt = (room: RoomId, snapshot: Snapshot, text: string | undefined): Receipt | undefined => {
    if (text === undefined) return undefined;
    const receipt = readReceipt(tokens, text);
    if (receipt === undefined || receipt.room !== room || receipt.sale !== snapshot.settings.sale)
      throw new Refusal('receipt-invalid');
    return receipt;
  };

  return {
    roomOf,

    async join(request, { room, snapshot }, given) {
      const { address } = request;
      const receipt = givenReceipt(room, snapshot, given.receipt);
      const identity = await identifier.identify(request, room, snapshot, receipt);
      // A visitor made up a moment ago has asked for nothing yet: only the address counts.
      const visitorId = identity.isNew ? {} : { visitorId: identity.visitor };
      unlessRefused(await limits.count({ address, ...visitorId, cost: costs.join }));
      unlessRefused(limits.joinOf(room));
      const shown = identity.looked?.outcome === 'held' ? undefined : identity.receipt();
      if (shown !== undefined) await restoreFrom(room, shown);
      const decision = judge.decide(request, room);
      const joined = await orUnavailable(
        joining.join(room, snapshot.settings.sale, {
          placeId: identity.placeId,
          drawScore: drawOf(room, snapshot, identity),
          verdict: decision.verdict,
        }),
      );
      metrics.inc('joins_total', { room, outcome: joined.outcome });
      switch (joined.outcome) {
        case 'unknown':
        case 'recovering':
          throw new Refusal('room-recovering');
        case 'otherSale':
          await view.refresh();
          throw new Refusal('room-recovering');
        case 'closed':
          throw new Refusal('room-closed');
        case 'notOpen':
          throw new Refusal('room-not-open', { extra: { opensAtMs: joined.opensAtMs } });
        case 'full':
          throw new Refusal('room-full');
        case 'held':
        case 'joined': {
          if (joined.outcome === 'joined' && joined.state === 'withheld')
            await judge.record(request, room, { placeId: identity.placeId, number: joined.number, decision });
          const told = tell(
            room,
            snapshot,
            identity,
            joined,
            joined.state === 'withheld' ? judge.shown(decision) : undefined,
          );
          return { ...told, created: joined.outcome === 'joined' };
        }
      }
    },

    async status(request, { room, snapshot }) {
      const identity = await identifier.identify(request, room, snapshot);
      await limit(request, identity, costs.status);
      const keys = roomKeys(room);
      let found: Looked = identity.looked ?? (await orUnavailable(looks.at(room, identity.placeId)));
      const shown = found.outcome === 'none' ? identity.receipt() : undefined;
      if (shown !== undefined) {
        await restoreFrom(room, shown);
        found = await orUnavailable(looks.at(room, identity.placeId));
      }
      switch (found.outcome) {
        case 'unknown':
          throw new Refusal('room-recovering');
        case 'none':
          // After the close nobody has a place any more, and nobody can get one.
          throw new Refusal(
            gateStateOf(snapshot, view.redisNowMs()) === 'closed' ? 'room-closed' : 'place-missing',
          );
        case 'finished':
          throw new Refusal('place-finished');
        case 'held': {
          const near = found.state === 'waiting' && found.score <= snapshot.nearScore;
          if (near || (found.state === 'parked' && !found.missed))
            await orUnavailable(here.run(redis, keys, { nowMs: '', placeIds: [identity.placeId] }));
          return tell(
            room,
            snapshot,
            identity,
            found,
            found.state === 'withheld' ? judge.shownLater(room, identity.placeId) : undefined,
          );
        }
      }
    },

    async leave(request, { room, snapshot }) {
      const identity = await identifier.identify(request, room, snapshot);
      const done = await orUnavailable(
        leave.run(redis, roomKeys(room), { nowMs: '', placeId: identity.placeId }),
      );
      if (done.outcome === 'unknown') throw new Refusal('room-recovering');
      if (done.outcome === 'none') throw new Refusal('place-missing');
      return clearRoomCookies(names, room);
    },

    async claim(request, { room, snapshot }, given) {
      const identity = await identifier.identify(request, room, snapshot);
      await limit(request, identity, costs.claim);
      const keys = roomKeys(room);
      const { sale } = snapshot.settings;
      const token = given.claim === undefined ? undefined : readClaim(tokens, given.claim);
      if (given.claim !== undefined && (token === undefined || token.room !== room || token.sale !== sale))
        throw new Refusal('token-invalid');
      // A claim token may speak only for the place this request speaks for.
      if (token !== undefined && token.placeId !== identity.placeId) throw new Refusal('not-yours');
      let number = token?.number;
      if (number === undefined) {
        const found = identity.looked ?? (await orUnavailable(looks.at(room, identity.placeId)));
        if (found.outcome === 'finished') throw new Refusal('place-finished');
        if (found.outcome !== 'held')
          throw new Refusal(found.outcome === 'unknown' ? 'room-recovering' : 'place-missing');
        number = found.number;
      }
      const { placeId } = identity;
      // Whoever shows the newest cookie keeps it; anyone else of this visitor takes the session over.
      const shown = readSession(tokens, request.cookie(names.session(room)) ?? '');
      const isShown =
        shown !== undefined &&
        shown.room === room &&
        shown.sale === sale &&
        shown.placeId === placeId &&
        shown.number === number;
      let shownSerial: number | '' = isShown ? shown.serial : '';
      const claimOnce = () =>
        orUnavailable(
          claim.run(redis, keys, { nowMs: '', placeId, number, shownSerial, visitor: identity.visitor }),
        );
      let done = await claimOnce();
      if (done.outcome === 'notPromoted' && token !== undefined && token.deadlineMs >= view.redisNowMs()) {
        // Promoted before Redis lost its data: the signed token stands in for the promotion, but not for a visit of
        // which we know that it is over.
        if (sessions.hasEnded(room, { placeId, number })) throw new Refusal('place-finished');
        const nowMs = view.redisNowMs();
        const adopted = await orUnavailable(
          adopt.run(redis, keys, {
            nowMs: '',
            sale,
            placeId,
            number,
            expiresAtMs: Math.floor(nowMs + snapshot.settings.sessionSeconds * 1000),
            startedAtMs: Math.floor(nowMs),
            sessionEpoch: token.epoch,
            serial: shownSerial || 1,
            visitor: identity.visitor,
          }),
        );
        if (adopted.outcome === 'adopted') {
          shownSerial ||= 1;
          done = await claimOnce();
        }
      }
      metrics.inc('claims_total', { room, outcome: done.outcome });
      switch (done.outcome) {
        case 'unknown':
          throw new Refusal('room-recovering');
        case 'finished':
          throw new Refusal('place-finished');
        case 'notPromoted':
          throw new Refusal('not-your-turn');
        case 'active':
        case 'claimed': {
          const { outcome: _, ...claimed } = done;
          const session: Session = { room, sale, placeId, ...claimed };
          const maxAgeSeconds = Math.max(1, Math.floor((session.expiresAtMs - view.redisNowMs()) / 1000));
          return {
            session,
            headers: [
              // Who takes it over by a receipt alone does not become its visitor: that one has orders, and other places.
              ...visitorCookie(identity),
              setCookie(names, {
                name: names.session(room),
                value: signSession(tokens, session),
                maxAgeSeconds,
              }),
            ],
          };
        }
      }
    },
  };
};
