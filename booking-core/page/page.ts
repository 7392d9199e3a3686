// The sale's page, one's own orders, and the forms for those without JavaScript. The forms do what the JSON routes
// do, with the idempotency key in a hidden field, and always answer with a redirect, so that a reload repeats
// nothing. Another site cannot send them: the browser says where a form comes from.

import { randomBytes } from 'node:crypto';
import { type ErrorCode, errorTable, Refusal, retryAfterSecondsOf, statusOf } from '../../kernel/errors.ts';
import type { Answer, Handler, Request, Server } from '../../kernel/http.ts';
import { type EventId, parseEventId } from '../../kernel/ids.ts';
import { orUnavailable } from '../../kernel/redis.ts';
import { eventOfHold, findHold, viewHold } from '../holds.ts';
import { type SaleEvent, sectionOf } from '../inventory.ts';
import {
  findEvent,
  findEventOfHold,
  insideFor,
  readInside,
  readKey,
  readPayment,
  readVisitors,
  readWish,
} from '../reading.ts';
import type { Holding, RouteParts } from '../routes.ts';
import { type Asset, readAssets, securityPolicy } from './assets.ts';
import { holdPage, orderPage, ordersPage, refusalPage, salePage } from './views.ts';

/** The demo's page shows the demo's event; a shop of one's own uses the JSON routes. */
const EVENT = 'demo';
const ORDER_ID = /^[0-9A-Z]{13}$/;

const page = (status: number, body: string): Answer => ({
  status,
  headers: [
    ['content-type', 'text/html; charset=utf-8'],
    ['cache-control', 'no-store'],
    ['content-security-policy', securityPolicy],
  ],
  body,
});
const seeOther = (location: string): Answer => ({
  status: 303,
  headers: [
    ['location', location],
    ['cache-control', 'no-store'],
  ],
});

/**
 * Browsers say with every form where it comes from (Fetch Metadata, or Origin in older ones). A request that says
 * neither does not come from a page of another site, so there is no visitor to be tricked.
 */
const checkSameOrigin = (request: Request): void => {
  const site = request.header('sec-fetch-site');
  if (site !== undefined) {
    if (site !== 'same-origin' && site !== 'none') throw new Refusal('origin-refused');
    return;
  }
  const origin = request.header('origin');
  if (origin === undefined) return;
  const host = request.header('x-forwarded-host') ?? request.header('host') ?? '';
  if (origin !== `https://${host}` && origin !== `http://${host}`) throw new Refusal('origin-refused');
};

const newKey = (): string => randomBytes(12).toString('base64url');

export const addPage = (server: Server, parts: RouteParts & { holding: Holding }): void => {
  const { config, redis, tokens, log, inventory, orders, feed, holding } = parts;
  const assets = readAssets();

  const saleEvent = (): Promise<SaleEvent> => findEvent(inventory, EVENT);
  /** Refusals of a page are pages; the JSON routes answer problem+json. */
  const asPage =
    (run: (request: Request) => Promise<Answer>, back = '/demo'): Handler =>
    async (request) => {
      try {
        return await run(request);
      } catch (error) {
        if (!(error instanceof Refusal)) throw error;
        const { code } = error;
        if (statusOf(code) >= 500) log.warn('page-refused', { code, error });
        const answer = page(statusOf(code), refusalPage(assets, errorTable[code][1], back));
        const seconds = retryAfterSecondsOf(code);
        return seconds === undefined
          ? answer
          : { ...answer, headers: [...(answer.headers ?? []), ['retry-after', String(seconds)]] };
      }
    };

  for (const { path, type, body } of [assets.script, assets.style] satisfies Asset[])
    server.route('GET', path, () => ({
      status: 200,
      headers: [
        ['content-type', type],
        ['cache-control', 'public, max-age=31536000, immutable'],
      ],
      body,
    }));

  const showSale = asPage(async () => {
    const event = await saleEvent();
    const seats = await orUnavailable(feed.now(event.id));
    if (seats === undefined) parts.seatsLost();
    const free = new Map(
      [...(seats?.maps ?? [])].map(([section, map]) => [section, map.split('f').length - 1]),
    );
    return page(
      200,
      salePage(assets, event, { seatsPerVisitor: config.seatsPerVisitor, free, key: newKey() }),
    );
  });
  server.route('GET', '/demo', showSale);
  server.route('GET', '/demo/', showSale);

  const heldBy = async (request: Request, holdId: string) => {
    const visitors = readVisitors(tokens, request);
    const event = await findEventOfHold(inventory, holdId);
    const [hold, [seconds]] = await orUnavailable(
      Promise.all([findHold(redis, event.id, holdId), redis.time()]),
    );
    if (hold === undefined) throw new Refusal('hold-missing');
    if (!visitors.includes(hold.visitorId)) throw new Refusal('not-yours');
    const section = sectionOf(event, hold.section);
    const nowMs = Number(seconds) * 1000;
    if (
      section === undefined ||
      hold.expiresAtMs <= nowMs ||
      (hold.state !== 'held' && hold.state !== 'ordered')
    )
      throw new Refusal('hold-expired');
    return { event, view: viewHold({ event, section, holdId }, hold, nowMs) };
  };
  server.route(
    'GET',
    '/demo/hold/:hold',
    asPage(async (request) => {
      const { event, view } = await heldBy(request, request.params.hold ?? '');
      return page(200, holdPage(assets, event, view, { key: newKey() }));
    }),
  );

  const takeHold = async (request: Request, form: URLSearchParams): Promise<Answer> => {
    const inside = readInside(tokens, request);
    const key = readKey(form.get('key') ?? undefined);
    const event = await saleEvent();
    const section = form.get('section') ?? '';
    const wish = readWish(event, { section, count: Number(form.get('count')) });
    // One page holds a form for each section, all with the key of that page: the section makes it one a wish.
    const { holdId } = await holding.take(event, insideFor(inside, event), `${key}-${section}`, wish);
    return seeOther(`/demo/hold/${holdId}`);
  };
  const pay = async (request: Request, form: URLSearchParams, holdId: string): Promise<Answer> => {
    const inside = readInside(tokens, request);
    const key = readKey(form.get('key') ?? undefined);
    const token = readPayment({ method: 'card', token: form.get('card') });
    const sold = await findEventOfHold(inventory, holdId);
    const answer = await orders.place({ ...insideFor(inside, sold), key, holdId, token });
    if (answer.status < 300) {
      const { id } = answer.body as { id: string }; // An OrderView: what place answers below 300.
      return seeOther(`/demo/orders/${id}`);
    }
    const { code } = answer.body as { code: ErrorCode }; // A problem: what place answers otherwise.
    const { event, view } = await heldBy(request, holdId);
    return page(
      answer.status,
      holdPage(assets, event, view, { key: newKey(), message: errorTable[code][1] }),
    );
  };
  const release = async (request: Request, holdId: string, event: EventId | undefined): Promise<Answer> => {
    if (event === undefined) throw new Refusal('hold-missing');
    await holding.release(event, holdId, readVisitors(tokens, request));
    return seeOther('/demo');
  };
  server.route(
    'POST',
    '/demo/book',
    asPage(async (request) => {
      checkSameOrigin(request);
      if (!/^application\/x-www-form-urlencoded\s*(?:;|$)/i.test(request.header('content-type') ?? ''))
        throw new Refusal('wrong-type');
      const form = new URLSearchParams(request.body.toString('utf8'));
      const holdId = form.get('hold') ?? '';
      switch (form.get('step')) {
        case 'hold':
          return takeHold(request, form);
        case 'pay':
          return pay(request, form, holdId);
        case 'release':
          return release(request, holdId, parseEventId(eventOfHold(holdId)));
        default:
          throw new Refusal('bad-field');
      }
    }),
  );

  server.route(
    'GET',
    '/demo/orders',
    asPage(async (request) =>
      page(200, ordersPage(assets, await orders.list(readVisitors(tokens, request)))),
    ),
  );
  server.route(
    'GET',
    '/demo/orders/:order',
    asPage(async (request) => {
      const visitors = readVisitors(tokens, request);
      const orderId = request.params.order ?? '';
      if (!ORDER_ID.test(orderId)) throw new Refusal('bad-id');
      const order = await orders.find(orderId, visitors);
      return page(200, orderPage(assets, order, await orders.holdOf(orderId)));
    }, '/demo/orders'),
  );
};
