// The waiting page and the form for those without JavaScript. Joining is always a POST: opening the page, a
// prefetch or a HEAD changes nothing. Errors of a browser's page load are answered in the page's own style.

import { challenge } from '../kernel/answer.ts';
import { errorTable, Refusal, retryAfterSecondsOf, statusOf } from '../kernel/errors.ts';
import type { Answer, Request, Server } from '../kernel/http.ts';
import { type RoomId, shortened } from '../kernel/ids.ts';
import type { Tokens } from '../kernel/token.ts';
import { gateStateOf, type Snapshot } from '../line/snapshot.ts';
import type { View } from '../line/view.ts';
import type { CookieNames } from '../line/visitor.ts';
import { costs, type Limits } from './limits.ts';
import { type Asset, CLIENT_PATH, createAssets } from './page/assets.ts';
import { pageSecurityPolicy, renderProblemPage, renderWaitingPage, type WaitingView } from './page/page.ts';
import type { At, Header, PlaceStatus, Places } from './places.ts';

const HTML: readonly Header[] = [
  ['content-type', 'text/html; charset=utf-8'],
  ['cache-control', 'no-store'],
  ['content-security-policy', pageSecurityPolicy],
  // No window of another site keeps a handle on this page, and none shows it as its own.
  ['cross-origin-opener-policy', 'same-origin'],
  ['cross-origin-resource-policy', 'same-origin'],
];

/** Only a path of this site, so that nobody is sent elsewhere after the wait. */
const safeReturn = (text: string | undefined, fallback: string): string =>
  text !== undefined && text.length <= 500 && /^\/(?![/\\])[\x21-\x7e]*$/.test(text) ? text : fallback;

const pageOf = (request: Request, error: unknown): Answer => {
  const html = (request.header('accept') ?? '').includes('text/html') && request.method !== 'HEAD';
  if (!html || !(error instanceof Refusal)) throw error;
  const [, title] = errorTable[error.code];
  const retry = retryAfterSecondsOf(error.code, error.extra);
  return {
    status: statusOf(error.code),
    headers: [
      ...HTML,
      ...challenge(error.code),
      ...(retry === undefined ? [] : [['retry-after', String(retry)] as const]),
      ...error.headers,
    ],
    body: renderProblemPage({
      status: statusOf(error.code),
      title,
      requestId: request.id,
      ...(error.detail === undefined ? {} : { detail: error.detail }),
    }),
  };
};

/** Answers errors of a browser's page load, or of a form it sent, with a page; others get problem+json. */
export const framed =
  <T extends object>(run: (request: Request) => T | Promise<T>) =>
  (request: Request): T | Answer | Promise<T | Answer> => {
    try {
      const result = run(request);
      return 'then' in result ? result.then(undefined, (error) => pageOf(request, error)) : result;
    } catch (error) {
      return pageOf(request, error);
    }
  };

const GZIP = /(?:^|,)\s*gzip(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))/i;

const assetAnswer = (
  asset: Asset,
  request: Request,
  life: string,
  headers: readonly Header[] = [],
): Answer => {
  const zipped = GZIP.test(request.header('accept-encoding') ?? '');
  return {
    status: 200,
    headers: [
      ['content-type', asset.contentType],
      ['cache-control', `public, ${life}`],
      ['vary', 'Accept-Encoding'],
      ...(zipped ? [['content-encoding', 'gzip'] as const] : []),
      ...headers,
    ],
    body: zipped ? asset.zipped : asset.body,
  };
};

export const createPageRoutes = (options: {
  places: Places;
  tokens: Tokens;
  view: View;
  names: CookieNames;
  limits: Pick<Limits, 'page' | 'shed' | 'refusal'>;
  publicUrl: string;
}) => {
  const { places, view, names, limits, publicUrl } = options;
  const assets = createAssets();

  const firstRoute = (snapshot: Snapshot): string => {
    const route = snapshot.settings.routes[0] ?? '/';
    return route.slice(route.indexOf('/')) || '/';
  };

  const viewOf = (
    room: RoomId,
    snapshot: Snapshot,
    told: PlaceStatus | undefined,
    returnTo: string,
    reference: string,
  ): WaitingView => {
    const gate = gateStateOf(snapshot, view.redisNowMs());
    const state: WaitingView['state'] =
      told === undefined || told.state === 'none'
        ? gate === 'closed' ||
          gate === 'recovering' ||
          (gate === 'notOpen' && snapshot.settings.prequeueStartsAt === 0)
          ? gate
          : 'new'
        : told.state;
    return {
      room,
      title: snapshot.settings.title,
      state,
      returnTo,
      reference,
      ...(told?.verdict === undefined ? {} : { verdict: told.verdict }),
      ...(told?.missed === true ? { missed: true } : {}),
      ...(gate === 'suspended' ? { suspended: true } : {}),
      nowMs: view.redisNowMs(),
      ...(told?.number === undefined ? {} : { number: told.number }),
      ...(told?.position === undefined ? {} : { position: told.position }),
      ...(told?.order === undefined ? {} : { order: told.order, waiting: told.waiting ?? 0 }),
      ...(told?.etaSeconds === undefined ? {} : { etaSeconds: told.etaSeconds }),
      ...(told?.progress === undefined ? {} : { progress: told.progress }),
      ...(told?.claimDeadlineMs === undefined ? {} : { claimDeadlineMs: told.claimDeadlineMs }),
      ...(gate === 'notOpen' ? { opensAtMs: snapshot.settings.opensAt } : {}),
      ...(snapshot.notice.text === '' ? {} : { notice: snapshot.notice }),
    };
  };

  const page = (status: number, waiting: WaitingView, headers: readonly Header[] = []): Answer => ({
    status,
    headers: [...HTML, ...headers],
    body: renderWaitingPage(waiting),
  });

  const finishedStatus = (): PlaceStatus => ({
    state: 'finished',
    gate: 'open',
    serverNowMs: view.redisNowMs(),
    pollAfterMs: 0,
  });

  /** What this request's place looks like; a visitor without one is told so, never given one. */
  const toldOf = async (
    request: Request,
    at: At,
  ): Promise<{ status: PlaceStatus | undefined; headers: Header[] }> => {
    const shows =
      request.cookie(names.visitor) !== undefined ||
      request.cookie(names.receipt(at.room)) !== undefined ||
      request.header('authorization') !== undefined;
    if (!shows) return { status: undefined, headers: [] };
    try {
      return await places.status(request, at);
    } catch (error) {
      if (error instanceof Refusal && error.code === 'place-finished')
        return { status: finishedStatus(), headers: [] };
      if (
        error instanceof Refusal &&
        [
          'place-missing',
          'room-closed',
          'token-missing',
          'token-invalid',
          'token-expired',
          'sign-in-unavailable',
          'too-many-requests',
          'room-recovering',
          'unavailable',
        ].includes(error.code)
      )
        return { status: undefined, headers: [] };
      throw error;
    }
  };

  const limitPages = (request: Request): void => {
    const taken = limits.page(request.address);
    if (taken.outcome === 'refused') throw limits.refusal(taken);
  };

  const shedJoins = ({ address }: Request): void => {
    const taken = limits.shed({ address, cost: costs.join });
    if (taken.outcome === 'refused') throw limits.refusal(taken);
  };

  const waitingPage = async (request: Request, room: RoomId, snapshot: Snapshot): Promise<Answer> => {
    limitPages(request);
    const told = await toldOf(request, { room, snapshot });
    const target = request.query === '' ? request.path : `${request.path}?${request.query}`;
    return page(
      200,
      viewOf(room, snapshot, told.status, safeReturn(target, firstRoute(snapshot)), shortened(request.id)),
      told.headers,
    );
  };

  /** `application/x-www-form-urlencoded`, from this site only. */
  const formOf = (request: Request): URLSearchParams => {
    const origin = request.header('origin');
    const site = request.header('sec-fetch-site');
    const own = [
      `http://${request.header('host')}`,
      `https://${request.header('host')}`,
      new URL(publicUrl).origin,
    ];
    if ((origin !== undefined && origin !== 'null' && !own.includes(origin)) || site === 'cross-site')
      throw new Refusal('origin-refused');
    if (!/^application\/x-www-form-urlencoded\s*(?:;|$)/i.test(request.header('content-type') ?? ''))
      throw new Refusal('wrong-type', { detail: 'Send the form as application/x-www-form-urlencoded.' });
    return new URLSearchParams(request.body.toString('utf8'));
  };

  const seeOther = (location: string, headers: readonly Header[]): Answer => ({
    status: 303,
    headers: [['location', location], ['cache-control', 'no-store'], ...headers],
  });

  const register = (server: Server): void => {
    for (const asset of assets) {
      server.route('GET', asset.path, (request) =>
        assetAnswer(asset, request, 'max-age=31536000, immutable'),
      );
      // A module from another origin is fetched with CORS; this one says nothing about anybody.
      if (asset.name === 'client')
        server.route('GET', CLIENT_PATH, (request) =>
          assetAnswer(asset, request, 'max-age=300', [['access-control-allow-origin', '*']]),
        );
    }
    server.route(
      'GET',
      '/rooms/:room',
      framed(async (request) => {
        const { room, snapshot } = places.roomOf(request);
        limitPages(request);
        const told = await toldOf(request, { room, snapshot });
        const query = new URLSearchParams(request.query);
        return page(
          200,
          viewOf(
            room,
            snapshot,
            told.status,
            safeReturn(query.get('returnTo') ?? undefined, firstRoute(snapshot)),
            shortened(request.id),
          ),
          told.headers,
        );
      }),
    );
    server.route(
      'POST',
      '/rooms/:room',
      framed(async (request) => {
        const { room, snapshot } = places.roomOf(request);
        const form = formOf(request);
        const returnTo = safeReturn(form.get('returnTo') ?? undefined, firstRoute(snapshot));
        const back = `/rooms/${room}?returnTo=${encodeURIComponent(returnTo)}`;
        switch (form.get('act')) {
          case 'join':
            shedJoins(request);
            return seeOther(back, (await places.join(request, { room, snapshot }, {})).headers);
          case 'enter':
            return seeOther(returnTo, (await places.claim(request, { room, snapshot }, {})).headers);
          case 'leave':
            return seeOther(back, await places.leave(request, { room, snapshot }));
          default:
            throw new Refusal('bad-field', { detail: '`act` must be join, enter or leave' });
        }
      }),
    );
  };

  return { register, waitingPage };
};
