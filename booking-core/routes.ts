// The HTTP interface of booking-core for programs: seats, holds, orders, refunds, webhooks. Every change asks for
// the visitor context that the gateway signed, holds and orders also for a session in it.

import type { Config } from '../kernel/config.ts';
import { Refusal } from '../kernel/errors.ts';
import { type Answer, type EventStream, json, type Server } from '../kernel/http.ts';
import type { EventId, VisitorId } from '../kernel/ids.ts';
import type { Log } from '../kernel/log.ts';
import type { Metrics } from '../kernel/metrics.ts';
import { orUnavailable, type Redis } from '../kernel/redis.ts';
import type { Tokens } from '../kernel/token.ts';
import type { Hold, HoldState } from '../lua/booking.ts';
import { eventOfHold, findHold, holdIdOf, releaseHold, takeHold, viewHold, type Wish } from './holds.ts';
import type { Inventory, SaleEvent } from './inventory.ts';
import type { Orders } from './orders.ts';
import type { PaymentProvider } from './payment.ts';
import {
  findEvent,
  findEventOfHold,
  type Inside,
  insideFor,
  readBody,
  readInside,
  readKey,
  readPayment,
  readVisitors,
  readWish,
} from './reading.ts';
import type { SeatFeed } from './seat-feed.ts';
import type { Settlement } from './settle.ts';

const ORDER_ID = /^[0-9A-Z]{13}$/;

export type RouteParts = {
  config: Pick<Config, 'holdSeconds' | 'seatsPerVisitor'>;
  redis: Redis;
  tokens: Tokens;
  log: Log;
  inventory: Inventory;
  orders: Orders;
  settlement: Settlement;
  provider: PaymentProvider;
  feed: SeatFeed;
  /** Redis has no seats: someone has to write them. */
  seatsLost: () => void;
};

/** A hold, or the refusal that says why not; shared with the page's forms. */
export const createHolding = (
  parts: Pick<RouteParts, 'config' | 'redis' | 'seatsLost'> & { metrics?: Metrics },
) => {
  const { config, redis, seatsLost, metrics } = parts;
  const gone = (state: HoldState): Refusal =>
    new Refusal(state === 'confirmed' ? 'order-state' : 'hold-expired');
  /** A hold from before the price changed, asked for again: nobody can pay for it. One that is being paid stays. */
  const priceChanged = async (event: SaleEvent, holdId: string, fence: Hold): Promise<Refusal> => {
    if (fence.state !== 'held') return new Refusal('order-state');
    await orUnavailable(releaseHold(redis, event.id, { holdId, fence, cause: 'visitor' }));
    return new Refusal('price-changed');
  };
  return {
    async take(
      event: SaleEvent,
      { visitorId, visit }: Inside,
      key: string,
      wish: Wish,
    ): Promise<{ holdId: string; hold: Hold; fresh: boolean }> {
      const count = 'count' in wish ? wish.count : wish.offsets.length;
      if (count > config.seatsPerVisitor)
        throw new Refusal('seat-limit', { extra: { limit: config.seatsPerVisitor } });
      const holdId = holdIdOf(event.id, visitorId, key);
      const taken = await orUnavailable(takeHold(parts, { event, visitorId, visit, holdId, wish }));
      metrics?.inc('holds_total', { outcome: taken.outcome });
      switch (taken.outcome) {
        case 'held':
        case 'repeated':
          if (taken.hold.saleVersion !== event.version) throw await priceChanged(event, holdId, taken.hold);
          return { holdId, hold: taken.hold, fresh: taken.outcome === 'held' };
        case 'rebuilding':
          seatsLost();
          throw new Refusal('rebuilding');
        case 'conflict':
          throw new Refusal('idempotency-conflict');
        case 'ended':
          throw gone(taken.state);
        case 'limit':
          throw new Refusal('seat-limit', { extra: { limit: config.seatsPerVisitor } });
        case 'cooling':
          throw new Refusal('hold-cooling', { extra: { retryAfterMs: taken.retryAfterMs } });
        case 'none':
          throw new Refusal('seats-none-together');
        case 'taken':
          throw new Refusal('seats-taken');
        case 'unknown':
          throw new Refusal('bad-field', { detail: '`section` is not one of this event' });
      }
    },
    /** Gives a hold back. One with an order stays: the order decides. */
    async release(event: EventId, holdId: string, visitors: readonly VisitorId[]): Promise<void> {
      // Who it is of has to be known only where the asker is several; of somebody else the script refuses it.
      const hold = visitors.length > 1 ? await orUnavailable(findHold(redis, event, holdId)) : undefined;
      const visitorId = visitors.find((each) => each === hold?.visitorId) ?? visitors[0]!; // There is one at least.
      const { outcome, ...rest } = await orUnavailable(
        releaseHold(redis, event, { holdId, visitorId, cause: 'visitor' }),
      );
      switch (outcome) {
        case 'rebuilding':
          seatsLost();
          throw new Refusal('rebuilding');
        case 'missing':
          throw new Refusal('hold-missing');
        case 'foreign':
          throw new Refusal('not-yours');
        case 'ordered':
          throw new Refusal('order-state');
        case 'ended':
          // Given back twice is given back; a sale is not undone this way.
          if ('state' in rest && rest.state === 'confirmed') throw new Refusal('order-state');
      }
    },
  };
};

export type Holding = ReturnType<typeof createHolding>;

/** What was written down of an order: it itself, or the problem that ended it. */
const answered = ({ status, body }: { status: number; body: unknown }): Answer =>
  status < 400
    ? json(status, body, status === 202 ? [['retry-after', '1']] : [])
    : {
        status,
        headers: [
          ['content-type', 'application/problem+json'],
          ['cache-control', 'no-store'],
        ],
        body: JSON.stringify(body),
      };

const viewEvent = (event: SaleEvent, seatsPerVisitor: number) => ({
  id: event.id,
  name: event.name,
  venue: event.venue,
  startsAt: event.startsAt.toISOString(),
  currency: event.currency,
  seatsPerVisitor,
  sections: event.sections,
});

export const addRoutes = (server: Server, parts: RouteParts & { holding: Holding }): void => {
  const { config, redis, tokens, log, inventory, orders, settlement, provider, feed, holding } = parts;

  const orderIdOf = (text: string | undefined): string => {
    if (text === undefined || !ORDER_ID.test(text)) throw new Refusal('bad-id');
    return text;
  };
  const redisNowMs = async (): Promise<number> => {
    const [seconds, micros] = await orUnavailable(redis.time());
    return Number(seconds) * 1000 + Math.floor(Number(micros) / 1000);
  };

  server.route('GET', '/v1/events/:event', async ({ params }) =>
    json(200, viewEvent(await findEvent(inventory, params.event), config.seatsPerVisitor)),
  );

  server.route('GET', '/v1/events/:event/seats', async ({ params }) => {
    const event = await findEvent(inventory, params.event);
    const seats = await orUnavailable(feed.now(event.id));
    if (seats === undefined) {
      parts.seatsLost();
      throw new Refusal('rebuilding');
    }
    return json(200, { event: event.id, version: seats.version, maps: Object.fromEntries(seats.maps) });
  });

  server.route('GET', '/v1/events/:event/seats/events', async ({ params }) => {
    const event = await findEvent(inventory, params.event);
    let mine: EventStream | undefined;
    return {
      stream: true,
      headers: [
        ['content-type', 'text/event-stream; charset=utf-8'],
        ['cache-control', 'no-store'],
      ],
      open(stream) {
        mine = stream;
        feed.join(event.id, stream).catch((error: unknown) => {
          log.warn('seat-feed-late', { error });
          stream.end();
        });
      },
      closed() {
        if (mine !== undefined) feed.leave(event.id, mine);
      },
    };
  });

  server.route('POST', '/v1/events/:event/holds', async (request) => {
    const inside = readInside(tokens, request);
    const key = readKey(request.header('idempotency-key'));
    const event = await findEvent(inventory, request.params.event);
    const wish = readWish(event, readBody(request, ['section', 'seats', 'count']));
    const { holdId, hold, fresh } = await holding.take(event, insideFor(inside, event), key, wish);
    const nowMs = await redisNowMs();
    return json(201, viewHold({ event, section: wish.section, holdId }, hold, nowMs), [
      ['idempotency-replayed', fresh ? 'false' : 'true'],
    ]);
  });

  server.route('DELETE', '/v1/holds/:hold', async (request) => {
    const visitors = readVisitors(tokens, request);
    const holdId = request.params.hold ?? '';
    const event = eventOfHold(holdId);
    if (event === undefined) throw new Refusal('hold-missing');
    await holding.release(event, holdId, visitors);
    return { status: 204, headers: [['cache-control', 'no-store']] };
  });

  server.route('POST', '/v1/orders', async (request) => {
    const inside = readInside(tokens, request);
    const key = readKey(request.header('idempotency-key'));
    const { holdId, payment } = readBody(request, ['holdId', 'payment']);
    if (typeof holdId !== 'string') throw new Refusal('bad-field', { detail: '`holdId` is a hold of yours' });
    const token = readPayment(payment);
    const event = await findEventOfHold(inventory, holdId);
    return answered(await orders.place({ ...insideFor(inside, event), key, holdId, token }));
  });

  server.route('GET', '/v1/orders', async (request) => {
    return json(200, { orders: await orders.list(readVisitors(tokens, request)) });
  });

  server.route('GET', '/v1/orders/:order', async (request) => {
    const visitors = readVisitors(tokens, request);
    return json(200, await orders.find(orderIdOf(request.params.order), visitors));
  });

  server.route('POST', '/v1/orders/:order/refunds', async (request) => {
    const visitors = readVisitors(tokens, request);
    const key = readKey(request.header('idempotency-key'));
    const orderId = orderIdOf(request.params.order);
    if (request.body.length > 0) readBody(request, []);
    return answered(await orders.refund({ visitors, orderId, key }));
  });

  server.route('POST', '/v1/payments/:provider/webhook', async (request) => {
    if (request.params.provider !== provider.name) throw new Refusal('not-found');
    const read = provider.readWebhook((name) => request.header(name), request.body, Date.now());
    if (read.outcome === 'forged') throw new Refusal('token-invalid');
    // 200 for whatever is signed, also what we do not know: the provider must not send it again for ever. Only
    // while PostgreSQL is gone it gets a 503, because then it should.
    if (read.outcome === 'ignored') return json(200, { outcome: 'ignored' });
    const { outcome, amountMinor, currency } = read.charge;
    const isWhole = outcome !== 'succeeded' || (amountMinor !== undefined && currency !== undefined);
    // Good news without an amount is no news: the provider is asked what it took.
    const charge = isWhole ? read.charge : await provider.lookup(read.reference);
    const settled = await settlement.settle(read.reference, charge);
    if (settled.order !== undefined) await orders.follow(settled.order);
    return json(200, { outcome: settled.outcome });
  });
};
