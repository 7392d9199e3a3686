// What a gateway stops doing when it cannot do everything: newcomers first, holders of live sessions never. It looks
// at itself ten times a second (how late the event loop is, how many connections are open, how many requests wait)
// and says a level; kernel/http.ts asks `refuse` for each request while the level is above 0.
//
//   0  nothing is refused
//   1  newcomers: their pages, joins, polls and streams
//   2  also polls of those whose turn is far away
//   3  everything but live sessions, claims, and what frees places
//
// Three pure functions decide: `levelOf` (a measurement), `nextState` (when the level changes) and `shedFrom` (who is
// refused from which level on). Who somebody is comes from signed cookies and receipts alone, so a refusal asks nobody.

import { createHash } from 'node:crypto';
import type { Clock } from '../kernel/clock.ts';
import type { Config } from '../kernel/config.ts';
import { type Answer, type Guard, type Load, problem, type Request } from '../kernel/http.ts';
import { parseRoomId, type RoomId } from '../kernel/ids.ts';
import type { Log } from '../kernel/log.ts';
import type { Metrics } from '../kernel/metrics.ts';
import { isPlainPath } from '../kernel/path.ts';
import type { Tokens } from '../kernel/token.ts';
import { RECEIPT_HEADER, readReceipt, readSession } from '../line/receipt.ts';
import { hostOf } from '../line/routes.ts';
import type { Snapshot } from '../line/snapshot.ts';
import type { View } from '../line/view.ts';
import { type CookieNames, readVisitor } from '../line/visitor.ts';
import { isOpenPath } from './gate.ts';

// The level

export type Level = 0 | 1 | 2 | 3;
export type Measured = Load & { lagMs: number };
export type LoadLimits = { lagMs: number; requests: number; connectionsMax: number };

/**
 * Shares of the connections at which a level begins. They are near the top because a process full of streams is in
 * order: 19,000 of 19,700 are 96 %. What lies above is kept for those who are inside.
 */
const CONNECTION_SHARES = [0.97, 0.98, 0.99] as const;
/** Lateness and waiting requests have no top, so a level is a multiple of the limit. */
const MULTIPLES = [1, 2, 4] as const;

/** The level that one measurement asks for; `share` of each limit (1: the limits themselves). */
export const levelOf = (measured: Measured, limits: LoadLimits, share = 1): Level => {
  let level: Level = 0;
  for (const next of [1, 2, 3] as const) {
    const multiple = MULTIPLES[next - 1]! * share;
    // Of connections only the top matters, so coming down is measured from there too.
    const connections = limits.connectionsMax * (CONNECTION_SHARES[next - 1]! - (1 - share) / 10);
    if (
      measured.lagMs >= limits.lagMs * multiple ||
      measured.requests >= limits.requests * multiple ||
      measured.connections >= connections
    )
      level = next;
  }
  return level;
};

export type LoadState = {
  level: Level;
  /** The last measurements of lateness, newest last. */
  lags: readonly number[];
  /** Since when the load asks for less than the level; undefined while it does not. */
  calmSinceMs: number | undefined;
};
export const calmState: LoadState = { level: 0, lags: [], calmSinceMs: undefined };

/** Samples that must all be late: about a second, so that one pause (garbage, a burst of promotions) sheds nobody. */
export const LAGS = 8;
/** So long must the load be below four fifths of a level's limits before it goes down, by one. */
export const CALM_MS = 3000;
const CALM_SHARE = 0.8;

/** Up at once, as far as it takes; down one level at a time, after a calm. */
export const nextState = (
  state: LoadState,
  measured: Measured,
  limits: LoadLimits,
  nowMs: number,
): LoadState => {
  const lags = [...state.lags, measured.lagMs].slice(-LAGS);
  const steady = { ...measured, lagMs: lags.length < LAGS ? 0 : Math.min(...lags) };
  const up = levelOf(steady, limits);
  if (up >= state.level) return { level: up, lags, calmSinceMs: undefined };
  const isCalm = levelOf(steady, limits, CALM_SHARE) < state.level;
  if (!isCalm) return { level: state.level, lags, calmSinceMs: undefined };
  const calmSinceMs = state.calmSinceMs ?? nowMs;
  if (nowMs - calmSinceMs < CALM_MS) return { level: state.level, lags, calmSinceMs };
  // Above 0 here, because something below it was asked for.
  return { level: (state.level - 1) as Level, lags, calmSinceMs: nowMs };
};

// Who is refused

/** What a request wants. `kept`: leaving, ends of sessions, webhooks, keys; refusing those would cost more. */
export type Wanted = 'page' | 'join' | 'poll' | 'stream' | 'claim' | 'other' | 'kept';
/** Who asks: with a live session, near the head, further back (or known and without a receipt), or nobody yet. */
export type Who = 'session' | 'near' | 'far' | 'newcomer';

/**
 * The first level at which it is refused; undefined: never. A claim makes a session of a turn that has come; refused,
 * the turn would be lost, and there are never more of them than the rate lets in.
 */
export const shedFrom = (wanted: Wanted, who: Who): Level | undefined => {
  if (who === 'session' || wanted === 'kept') return undefined;
  if (who === 'newcomer' && wanted !== 'other') return 1;
  if (wanted === 'claim') return undefined;
  if (who === 'far' && wanted === 'poll') return 2;
  return 3;
};

const WANTED: Readonly<Record<string, Wanted>> = {
  'POST /v1/rooms/:room/places': 'join',
  'GET /v1/rooms/:room/places/me': 'poll',
  'DELETE /v1/rooms/:room/places/me': 'kept',
  'GET /v1/rooms/:room/events': 'stream',
  'GET /v1/rooms/:room/socket': 'stream',
  'POST /v1/rooms/:room/pass': 'claim',
  'POST /v1/rooms/:room/sessions': 'kept',
  'POST /v1/rooms/:room/sessions/end': 'kept',
  'GET /.well-known/jwks.json': 'kept',
  'GET /rooms/:room': 'page',
  'POST /rooms/:room': 'join',
};

// The answer

/** The first number, and how many seconds are added by lot: those sent away together must not return together. */
const AWAY_SECONDS = 10;
const AWAY_SPREAD_SECONDS = 20;
const STYLE = 'body{font:1.1rem/1.5 system-ui,sans-serif;max-width:32em;margin:20vh auto;padding:0 1em}';
const POLICY = `default-src 'none'; style-src 'sha256-${createHash('sha256').update(STYLE).digest('base64')}'`;

const busyPage = (seconds: number): string =>
  `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">` +
  `<meta http-equiv="refresh" content="${seconds}"><title>One moment</title><style>${STYLE}</style>` +
  `<h1>One moment, please</h1><p>Very many people are arriving right now. This page tries again by itself in a few ` +
  `seconds; reloading it does not make it faster.</p></html>\n`;
const busyPages = Array.from({ length: AWAY_SPREAD_SECONDS }, (_, index) =>
  Buffer.from(busyPage(AWAY_SECONDS + index)),
);

const isBrowser = (request: Request, wanted: Wanted): boolean =>
  wanted === 'page' || (request.header('accept') ?? '').includes('text/html');

const busy = (request: Request, wanted: Wanted): Answer => {
  const index = Math.floor(Math.random() * AWAY_SPREAD_SECONDS);
  const retryAfter = ['retry-after', String(AWAY_SECONDS + index)] as const;
  if (!isBrowser(request, wanted))
    return problem('busy', {
      headers: [retryAfter],
      ...(wanted === 'poll' ? { extra: { pollAfterMs: (AWAY_SECONDS + index) * 1000 } } : {}),
    });
  return {
    status: 503,
    headers: [
      ['content-type', 'text/html; charset=utf-8'],
      ['cache-control', 'no-store'],
      ['content-security-policy', POLICY],
      retryAfter,
    ],
    body: busyPages[index]!,
  };
};

// Measuring

const SAMPLE_MS = 100;

/** How late the timer of the next look comes is how late everything else comes, too. Costs ten calls a second. */
export const createLagProbe = (clock: Clock) => {
  let dueMs = Number.POSITIVE_INFINITY;
  return {
    lagMs(): number {
      const nowMs = clock.monotonicMs();
      const late = Math.max(0, nowMs - dueMs);
      dueMs = nowMs + SAMPLE_MS;
      return late;
    },
  };
};

export type Overload = Guard & {
  /** Begins to look; `load` is that of the server it guards. */
  watch(load: () => Load): void;
  /** One look, as the timer takes it. */
  look(): void;
  stop(): void;
};

export const createOverload = (options: {
  config: Pick<Config, 'overloadLagMs' | 'overloadRequests' | 'connectionsMax' | 'visitorDays' | 'jwtCookie'>;
  view: View;
  tokens: Tokens;
  names: CookieNames;
  clock: Clock;
  log: Log;
  metrics: Metrics;
  /** Of the event loop; a test passes its own. */
  probe?: { lagMs(): number };
}): Overload => {
  const { config, view, tokens, names, clock, log, metrics } = options;
  const probe = options.probe ?? createLagProbe(clock);
  const limits: LoadLimits = {
    lagMs: config.overloadLagMs,
    requests: config.overloadRequests,
    connectionsMax: config.connectionsMax,
  };
  let state = calmState;
  let loadOf: () => Load = () => ({ connections: 0, requests: 0 });
  let isCrowded = false;
  let timer: NodeJS.Timeout | undefined;
  metrics.set('overload_level', {}, 0);

  const look = (): void => {
    const measured = { ...loadOf(), lagMs: probe.lagMs() };
    const before = state.level;
    state = nextState(state, measured, limits, clock.monotonicMs());
    isCrowded = levelOf({ ...measured, lagMs: 0, requests: 0 }, limits) > 0;
    metrics.set('connections_open', {}, measured.connections);
    if (state.level === before) return;
    metrics.set('overload_level', {}, state.level);
    log.warn('overload', { level: state.level, ...measured, lagMs: Math.round(measured.lagMs) });
  };

  const holdsSession = (request: Request, room: RoomId, { settings }: Snapshot): boolean => {
    const shown = request.cookie(names.session(room));
    const session = shown === undefined ? undefined : readSession(tokens, shown);
    return (
      session?.room === room && session.sale === settings.sale && session.expiresAtMs > view.redisNowMs()
    );
  };

  const whoAsks = (request: Request, room: RoomId | undefined): Who => {
    const snapshot = room === undefined ? undefined : view.of(room);
    if (room !== undefined && snapshot !== undefined) {
      if (holdsSession(request, room, snapshot)) return 'session';
      const receipt = readReceipt(
        tokens,
        request.cookie(names.receipt(room)) ?? request.header(RECEIPT_HEADER) ?? '',
      );
      if (receipt?.room === room && receipt.sale === snapshot.settings.sale)
        return receipt.score <= snapshot.nearScore ? 'near' : 'far';
    }
    const visitor = readVisitor(tokens, request.cookie(names.visitor), {
      nowMs: view.redisNowMs(),
      lifeDays: config.visitorDays,
    });
    // A token of the customer's costs more to check than a refusal may; whoever shows one is treated as known.
    const isNamed =
      request.header('authorization') !== undefined ||
      (config.jwtCookie !== '' && request.cookie(config.jwtCookie) !== undefined);
    return visitor !== undefined || isNamed ? 'far' : 'newcomer';
  };

  /** For the paths of booking-core that no room guards: a session of any room in front of it. */
  const holdsBookingSession = (request: Request): boolean => {
    for (const [room, snapshot] of view.all())
      if (snapshot.settings.origin === 'booking-core' && holdsSession(request, room, snapshot)) return true;
    return false;
  };

  const guarding = (hostHeader: string | undefined, path: string): RoomId | undefined => {
    const host = hostOf(hostHeader);
    return host === undefined || !isPlainPath(path) ? undefined : view.guarding(host, path)?.room;
  };
  const asked = (request: Request, pattern: string): { wanted: Wanted; who: Who } => {
    if (pattern === '/v1/authorize') {
      // The request in question is another one; a proxy that made this up is refused by the route.
      const path = (request.header('x-original-uri') ?? '').split('?', 1)[0]!;
      const room = guarding(request.header('x-original-host'), path);
      return { wanted: 'other', who: whoAsks(request, room) };
    }
    if (pattern !== 'otherwise') {
      // A HEAD is answered by the route of the GET.
      const method = request.method === 'HEAD' ? 'GET' : request.method;
      const room = parseRoomId(request.params.room);
      return { wanted: WANTED[`${method} ${pattern}`] ?? 'other', who: whoAsks(request, room) };
    }
    if (isOpenPath(request.path)) {
      const isWebhook = request.path.startsWith('/v1/payments/');
      const who = holdsBookingSession(request) ? 'session' : whoAsks(request, undefined);
      return { wanted: isWebhook ? 'kept' : 'other', who };
    }
    const room = guarding(request.header('host'), request.path);
    const isPage =
      room !== undefined &&
      view.of(room)?.settings.queueingMethod !== 'passthrough' &&
      (request.header('accept') ?? '').includes('text/html');
    return { wanted: isPage ? 'page' : 'other', who: whoAsks(request, room) };
  };

  return {
    get level() {
      return state.level;
    },
    refuse(request, pattern) {
      const { wanted, who } = asked(request, pattern);
      const from = shedFrom(wanted, who);
      if (from === undefined || state.level < from) return undefined;
      metrics.inc('shed_total', { level: String(state.level), kind: wanted });
      // Where connections are short, this one is wanted back; else opening another would cost more than it saves.
      return { answer: busy(request, wanted), close: isCrowded };
    },
    look,
    watch(load) {
      loadOf = load;
      // The first look only tells the probe when the next is due.
      look();
      timer = setInterval(look, SAMPLE_MS);
      timer.unref();
    },
    stop() {
      clearInterval(timer);
    },
  };
};
