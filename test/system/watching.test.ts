// What an operator sees of a whole system, and what must never be seen: every metric of the table moves, spans of a
// join and of a proxied request have the right parents, what people send stands in no log, metric or span, and every
// answer carries its headers. One started system for all of it; the tests build on each other, in this order.

import { readFileSync } from 'node:fs';
import t from 'tap';
import { createLimits } from '../../gateway/limits.ts';
import { LAGS } from '../../gateway/overload.ts';
import { securityHeaders } from '../../gateway/security-headers.ts';
import { systemClock } from '../../kernel/clock.ts';
import { readConfig } from '../../kernel/config.ts';
import { parseRoomId } from '../../kernel/ids.ts';
import { createMetrics, type MetricName, metricPrefix, metricTable } from '../../kernel/metrics.ts';
import { createUsers } from '../../line/users.ts';
import { bookingKeys } from '../../lua/booking.ts';
import { JOIN_BATCH_MAX, join, roomKeys } from '../../lua/room.ts';
import { CheckedFan, openApi } from '../support/api-check.ts';
import { openStream } from '../support/client.ts';
import { type Collector, startCollector } from '../support/collector.ts';
import { eventually } from '../support/eventually.ts';
import { Fan, type FanAnswer } from '../support/fan.ts';
import { startGateways } from '../support/gateways.ts';
import { keyPair, startIssuer, userToken } from '../support/issuer.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';
import { tune } from '../support/sale.ts';
import { createSystem, type System, UNHURRIED } from '../support/system.ts';

t.setTimeout(900_000);
const keys = roomKeys(parseRoomId('demo')!);
let redis: TestRedis;
let collector: Collector;
let system: System;
const fans: CheckedFan[] = [];
const fan = (): CheckedFan => {
  const made = new CheckedFan({ base: system.base, index: fans.length + 1 });
  fans.push(made);
  return made;
};
const keyed = (key: string, body?: unknown) => ({ headers: { 'idempotency-key': key }, body });
const metricsText = async () => (await fetch(`http://127.0.0.1:${system.ports.metrics}/metrics`)).text();

/** The highest value among the series of a metric; of a histogram, how many values it has seen. */
const valueIn = (text: string, name: MetricName): number => {
  const shown = `${metricPrefix}${name}${metricTable[name].kind === 'histogram' ? '_count' : ''}`;
  const values = [...text.matchAll(new RegExp(`^${shown}(?:{[^}]*})? (\\S+)$`, 'gm'))].map(([, value]) =>
    Number(value),
  );
  return Math.max(0, ...values);
};
const shownOf = async (name: MetricName) => valueIn(await metricsText(), name);
const moves = (name: MetricName) => eventually(`${name} moves`, async () => (await shownOf(name)) > 0);

/** Somebody who has come in. */
const enter = async (): Promise<CheckedFan> => {
  const one = fan();
  await one.join();
  const turn = await one.wait('sse');
  const claimed = await one.claim('claim' in turn ? turn.claim : '');
  if (claimed.status !== 200) throw new Error(`the claim answered ${claimed.status}: ${claimed.text}`);
  return one;
};

t.before(async () => {
  redis = await startRedis(t);
  collector = await startCollector(t);
  system = await createSystem(t, {
    ANTEROOM_REDIS_URL: redis.url,
    ANTEROOM_OTLP_URL: collector.url,
    ANTEROOM_LOG_LEVEL: 'debug',
    ANTEROOM_PUBLIC_URL: 'https://tickets.test',
    ANTEROOM_GATEWAY_URL: '',
    ANTEROOM_RECOVERY_SECONDS: '1',
    ANTEROOM_RECONCILE_MS: '300',
    ANTEROOM_VISITOR_BURST: '60',
  });
  await system.start();
  await tune(system, { ...UNHURRIED, newUsersPerMinute: 60_000, burst: 1000, totalActiveUsers: 1000 });
});

t.test('a join and a proxied request are spans of one trace each, with their scripts below', async (t) => {
  const one = await enter();
  await eventually('the join has come', () =>
    collector.spans.some((span) => span.name === 'POST /v1/rooms/:room/places'),
  );
  const joined = collector.spans.find((span) => span.name === 'POST /v1/rooms/:room/places')!;
  t.match(joined, {
    kind: 2,
    attributes: { 'http.response.status_code': '201', 'anteroom.server': 'public' },
  });
  await eventually('and its script', () =>
    collector.spans.some((span) => span.name === 'room.join' && span.parentSpanId === joined.spanId),
  );

  const [trace, parent] = ['4bf92f3577b34da6a3ce929d0e0e4736', '00f067aa0ba902b7'];
  const held = await one.ask('POST', '/v1/events/demo/holds', {
    body: { section: 'stalls', count: 1 },
    headers: {
      'idempotency-key': 'hold-0001',
      'x-request-id': 'proxy-request-1',
      traceparent: `00-${trace}-${parent}-01`,
    },
  });
  t.equal(held.status, 201, held.text);
  t.equal(held.headers['x-request-id'], 'proxy-request-1');
  const ofTrace = () => collector.spans.filter((span) => span.traceId === trace);
  const named = (name: string, server?: string) =>
    ofTrace().find(
      (span) => span.name === name && (server === undefined || span.attributes['anteroom.server'] === server),
    );
  const wanted = () => [
    named('POST otherwise', 'public'),
    named('POST'),
    named('POST /v1/events/:event/holds', 'booking-core'),
    named('booking.hold'),
  ];
  await eventually('all of it has come', () => wanted().every((span) => span !== undefined));
  const [atGateway, carried, atBooking, script] = wanted().map((span) => span!);
  t.equal(atGateway!.parentSpanId, parent);
  t.equal(carried!.parentSpanId, atGateway!.spanId);
  t.equal(atBooking!.parentSpanId, carried!.spanId);
  t.equal(script!.parentSpanId, atBooking!.spanId);
  for (const span of [atGateway, atBooking])
    t.equal(span!.attributes['anteroom.request_id'], 'proxy-request-1', 'one request, one id');
  t.equal(held.json.state, 'held');

  const order = { holdId: held.json.id, payment: { method: 'card', token: 'ok' } };
  const paid = await one.ask('POST', '/v1/orders', keyed('order-0001', order));
  t.ok([201, 202].includes(paid.status), paid.text);
  await eventually('it is paid', async () => {
    const found = await one.ask('GET', `/v1/orders/${paid.json.id}`);
    return found.json.state === 'paid';
  });
  await one.ask('GET', '/v1/orders');
  const back = await one.ask('POST', `/v1/orders/${paid.json.id}/refunds`, keyed('refund-0001'));
  t.equal(back.status, 201, back.text);
});

t.test('answers of booking-core keep to the document, too', async (t) => {
  const one = await enter();
  const path = '/v1/events/demo';
  await one.ask('GET', path);
  await one.ask('GET', `${path}/seats`);
  await one.ask('GET', '/v1/events/nothing');
  const hold = (key: string, body: unknown) => one.ask('POST', `${path}/holds`, keyed(key, body));
  const held = await hold('hold-0002', { section: 'stalls', count: 2 });
  await hold('hold-0002', { section: 'stalls', count: 2 });
  await hold('hold-0002', { section: 'stalls', count: 1 });
  await hold('hold-0003', { section: 'nowhere', count: 1 });
  await hold('hold-0003', { section: 'stalls', count: 99 });
  await hold('no', { section: 'stalls', count: 1 });
  await one.ask(
    'POST',
    '/v1/orders',
    keyed('order-0002', { holdId: 'none', payment: { method: 'card', token: 'ok' } }),
  );
  await one.ask(
    'POST',
    '/v1/orders',
    keyed('order-0003', { holdId: held.json.id, payment: { method: 'card', token: 'declined' } }),
  );
  await one.ask('DELETE', `/v1/holds/${held.json.id}`);
  await one.ask('DELETE', '/v1/holds/none');
  await one.ask('GET', '/v1/orders/0000000000000');
  await one.ask('GET', '/v1/orders/no');
  await fan().ask('GET', path);
  await one.ask('POST', '/v1/payments/sandbox/webhook', { body: {} });
  t.same(
    fans.flatMap((each) => each.faults),
    [],
  );
  const seen = new Set(fans.flatMap((each) => [...each.seen]));
  for (const what of [
    'event 200',
    'event 429 session-required',
    'seats 200',
    'hold 201',
    'hold 422 idempotency-conflict',
    'hold 400 bad-field',
    'hold 409 seat-limit',
    'hold 400 idempotency-key-missing',
    'order 404 hold-missing',
    'order 402 payment-declined',
    'refund 201',
    'release 204',
    'release 404 hold-missing',
    'oneOrder 404 order-missing',
    'oneOrder 400 bad-id',
    'oneOrder 200',
    'orders 200',
    'webhook 401 token-invalid',
  ])
    t.ok(
      seen.has(what),
      `${what} of ${[...seen].filter((one) => one.startsWith(what.split(' ')[0]!)).join(', ')}`,
    );
});

/** What people send that is theirs alone. */
const CANARY = 'canary7f3a9';

t.test('what people send stands in no log, metric or span', async (t) => {
  const [one, before] = [await enter(), collector.spans.length];
  const cookie = [...one.cookies].map(([name, value]) => `${name}=${value}`).join('; ');
  const query = `?token=${CANARY}query&returnTo=/${CANARY}`;
  let asked = 0;
  const ask = async (base: string, method: string, path: string, raw: string, type: string) => {
    for (const cookies of [
      `theirs=${CANARY}cookie; ar_v=${CANARY}visitor; ar_s_demo=${CANARY}`,
      `${cookie}; theirs=${CANARY}`,
    ]) {
      asked += 1;
      const answer = await fetch(base + path, {
        method,
        redirect: 'manual',
        headers: {
          cookie: cookies,
          authorization: `Bearer ${CANARY}bearer`,
          'x-forwarded-for': '203.0.113.77',
          'x-own': `${CANARY}header`,
          'user-agent': `${CANARY}agent`,
          'idempotency-key': `${CANARY}key`,
          'content-type': type,
          accept: 'text/html',
        },
        signal: AbortSignal.timeout(60_000),
        ...(method === 'GET' || method === 'DELETE' ? {} : { body: raw }),
      });
      // A stream would go on for ever.
      await answer.body?.cancel();
    }
  };
  const bodies = [
    [`{"${CANARY}": "${CANARY}body"}`, 'application/json'],
    [`${CANARY}body`, 'application/json'],
    [
      `{"receipt":"${CANARY}","claim":"${CANARY}","pass":"${CANARY}","session":"${CANARY}"}`,
      'application/json',
    ],
    [`act=${CANARY}&returnTo=/${CANARY}`, 'application/x-www-form-urlencoded'],
  ] as const;
  const pathOf = (template: string) =>
    template.replace(/\{(\w+)\}/g, (_, name) => (/room|event/.test(name) ? 'demo' : CANARY));
  for (const [template, methods] of Object.entries(openApi.paths))
    for (const method of Object.keys(methods))
      for (const [raw, type] of method === 'post' ? bodies : bodies.slice(0, 1))
        await ask(system.base, method.toUpperCase(), pathOf(template) + query, raw, type);
  for (const path of [
    `/demo${query}`,
    `/demo/${CANARY}`,
    `/${CANARY}`,
    `/rooms/${CANARY}`,
    `/v1/rooms/${CANARY}`,
  ])
    for (const method of ['GET', 'POST', 'PUT']) await ask(system.base, method, path, ...bodies[0]);
  const booking = `http://127.0.0.1:${system.ports.booking}`;
  for (const path of ['/v1/events/demo/holds', '/v1/orders', `/v1/orders/${CANARY}`])
    for (const method of ['GET', 'POST'])
      for (const [raw, type] of bodies) await ask(booking, method, path + query, raw, type);
  for (const path of ['/v1/rooms', '/v1/rooms/demo', '/login', `/v1/decisions/${CANARY}/release`])
    for (const method of ['GET', 'POST', 'PATCH'])
      for (const [raw, type] of bodies) await ask(system.admin, method, path + query, raw, type);
  await eventually('its spans have come', () => collector.spans.length > before + asked / 2);

  const shown = { log: system.output(), metrics: await metricsText(), spans: collector.bodies.join('\n') };
  t.match(shown.log, 'sign-in-refused', 'there was something to say');
  const own = [...one.cookies.values()].filter((value) => value.length > 20);
  t.ok(own.length >= 3, 'visitor, receipt and session');
  for (const [where, text] of Object.entries(shown)) {
    const around = text.indexOf(CANARY);
    t.equal(around, -1, `${where}: ${text.slice(Math.max(0, around - 300), around + 60)}`);
    for (const secret of [...own, system.operatorToken, system.keys.split(':').at(-1)!])
      t.notOk(text.includes(secret), `${where} holds no cookie, token or key`);
  }
  t.notOk(shown.spans.includes('203.0.113'), 'nor does a span hold an address');
});

t.test('every answer carries the headers that keep browsers from harm', async (t) => {
  const html = { headers: { accept: 'text/html' } };
  const one = new Fan({ base: system.base, index: 5000 });
  await one.join();
  const page = await one.ask('GET', '/demo', html);
  const asset = /(?:src|href)="(\/rooms\/_\/[^"]+)"/.exec(page.text)?.[1];
  const pages = [page, await one.ask('GET', '/rooms/demo', html), await one.ask('GET', '/rooms/none', html)];
  const personal = [
    ...pages,
    await one.join(),
    await one.ask('GET', '/v1/rooms/demo/places/me'),
    await one.claim('forged'),
    await one.ask('GET', '/v1/events/demo'),
    await one.ask('GET', '/nothing'),
  ];
  const open = [
    await one.ask('GET', '/v1/rooms/demo'),
    await one.ask('GET', '/.well-known/jwks.json'),
    await one.ask('GET', '/v1/openapi.json'),
    await one.ask('GET', asset ?? ''),
  ];
  for (const { status, headers } of [...personal, ...open])
    t.match(
      headers,
      {
        'x-content-type-options': 'nosniff',
        'referrer-policy': 'same-origin',
        'strict-transport-security': /^max-age=\d{7,}/,
        'x-request-id': /./,
      },
      String(status),
    );
  for (const { headers } of pages) {
    const policy = String(headers['content-security-policy']);
    t.match(policy, "default-src 'none'");
    t.match(policy, "frame-ancestors 'self'");
    t.match(policy, "base-uri 'none'");
    t.notMatch(policy, /unsafe-|\*|https?:/, 'nothing inline, nothing from elsewhere');
    t.match(headers, {
      'cross-origin-opener-policy': 'same-origin',
      'cross-origin-resource-policy': 'same-origin',
    });
  }
  t.notMatch(page.text, / on\w+="|<script(?![^>]* src=)|style="/, 'the page keeps to its policy');
  for (const { status, headers } of personal) t.match(headers['cache-control'], 'no-store', String(status));
  for (const { headers } of open) t.match(headers['cache-control'], /^public, max-age=\d+/);
  t.match(open[3]!.headers['cache-control'], 'immutable');
  for (const cookie of [page, ...personal].flatMap(({ headers }) => headers['set-cookie'] ?? []))
    t.match(
      cookie,
      /^__Host-ar_.*; HttpOnly.*; Secure|^__Host-ar_.*; Secure.*; HttpOnly/,
      String(cookie.split('=')[0]),
    );
  const plain = securityHeaders({ secure: false }).map(([name]) => name);
  t.notOk(
    plain.includes('strict-transport-security'),
    'where there is no https nobody is told to insist on it',
  );
});

t.test('every metric of the table moves', { timeout: 900_000 }, async (t) => {
  // Moved by everything above: traffic, and the dispatcher's ordinary work.
  const already = () => undefined;
  const inside = async () => {
    const one = await enter();
    const number = one.number;
    const [placeId] = await redis.client.zrevrange(keys.active, 0, 0);
    return { one, number, placeId: placeId! };
  };
  /** A record that nobody promised, in the stream that the watcher reads. */
  const forge = async (visits: string, more: { totalActiveUsers: number }) => {
    const { time } = { time: Date.now() + 60_000 };
    await redis.client.xadd(
      ...([
        keys.entries,
        '*',
        'kind',
        'promoted',
        'atMs',
        time,
        'deadlineMs',
        time,
        'visits',
        visits,
      ] as const),
      ...(['parked', '', 'newUsersPerMinute', 60, 'effectiveBurst', 1] as const),
      ...(['totalActiveUsers', more.totalActiveUsers, 'queueingMethod', 'fifo'] as const),
    );
  };
  /** A crowd of nobody; `name` has five letters. */
  const ghosts = async (name: string) => {
    for (let from = 0; from < 3000; from += JOIN_BATCH_MAX) {
      const visitors: (string | number)[] = [];
      for (let index = from; index < from + JOIN_BATCH_MAX; index += 1)
        visitors.push(`${name}${String(index).padStart(11, '0')}`, '', 'allow');
      await join.run(redis.client, keys, {
        ...{ nowMs: '', sale: 1, lineMax: 1_000_000, withheldMax: 1000, joinsMax: 100_000, visitors },
      });
    }
  };
  let shed = '';
  /** Moved in a piece of their own, which says so itself. */
  const APART = [
    'room_failing',
    ...['limits_local_total', 'user_keys_total', 'user_tokens_total', 'overload_level', 'shed_total'],
    ...['origin_resting', 'tunnels_open'],
    ...[
      'streams_refused_total',
      'streams_ended_total',
      'streams_resumed_total',
      'streams_draining',
      'position_late_seconds',
      'dropped_bytes_total',
      'slow_readers_total',
    ],
  ];
  const movesIn = (file: string, name: MetricName) =>
    t.match(readFileSync(new URL(`../${file}`, import.meta.url), 'utf8'), `${metricPrefix}${name}`);
  const scenarios: Record<MetricName, () => unknown> = {
    request_seconds: already,
    joins_total: already,
    claims_total: already,
    verdicts_total: already,
    proxied_total: already,
    promoted_total: already,
    places: already,
    tick_seconds: already,
    snapshot_seconds: already,
    redis_up: already,
    frames_total: already,
    holds_total: already,
    orders_total: already,
    refunds_total: already,
    // A bank that takes its time.
    payments_open: async () => {
      const { one } = await inside();
      const hold = { section: 'stalls', count: 1 };
      const held = await one.ask('POST', '/v1/events/demo/holds', keyed('hold-0009', hold));
      const order = { holdId: held.json.id, payment: { method: 'card', token: 'late:3600' } };
      t.equal((await one.ask('POST', '/v1/orders', keyed('order-0009', order))).status, 202);
    },
    // A hand in Redis, or another version: what cannot be read is named, and nobody else waits for it.
    unreadable_total: async () => {
      const { placeId } = await inside();
      await redis.client.hset(keys.places, placeId, 'nonsense');
      await redis.client.zadd(keys.active, 1, placeId);
    },
    room_failing: async () => {
      await redis.client.del(keys.here);
      await redis.client.set(keys.here, 'no zset');
      await moves('room_failing');
      const ready = await (await fetch(`http://127.0.0.1:${system.ports.metrics}/ready`)).json();
      t.match(ready, { ready: true, failing: [/^dispatcher demo room\./] });
      await redis.client.del(keys.here);
      await eventually('it is well', async () => (await shownOf('room_failing')) === 0);
    },
    spans_total: already,
    streams_open: async () => {
      const one = fan();
      await one.join();
      const stream = await openStream(`${system.base}/v1/rooms/demo/events`, {
        headers: one.headers({ accept: 'text/event-stream' }),
      });
      t.teardown(() => stream.close());
    },
    limited_total: async () => {
      const one = fan();
      await one.join();
      // Many at a time: one after the other they may be slower than the limit gives back.
      await eventually('somebody asks too often', async () => {
        const asked: Promise<FanAnswer>[] = [];
        for (let index = 0; index < 70; index += 1) asked.push(one.ask('GET', '/v1/rooms/demo/places/me'));
        return (await Promise.all(asked)).some(({ status }) => status === 429);
      });
    },
    bypassed_total: async () => {
      await tune(system, { bypass: [{ name: 'open', paths: ['/demo/open'] }] });
      // What an origin answers there is not ours to describe.
      const stranger = new Fan({ base: system.base, index: 1 });
      await eventually('it is open', async () => (await stranger.ask('GET', '/demo/open')).status !== 429);
    },
    restored_total: async () => {
      await tune(system, { suspended: true });
      const one = fan();
      const told = await one.join();
      const [placeId] = await redis.client.zrevrange(keys.line, 0, 0);
      await redis.client.zrem(keys.line, placeId!);
      const again = await one.join();
      t.equal(again.json.number, told.json.number, 'the receipt brings the place back');
      await tune(system, { suspended: false });
    },
    // A session whose time is over, and a turn that nobody took.
    reaped_total: async () => {
      const { placeId } = await inside();
      await redis.client.zadd(keys.active, 1, placeId);
    },
    missed_total: async () => {
      await fan().join();
      await eventually('it is promoted', async () => (await redis.client.zcard(keys.promoted)) > 0);
      for (const placeId of await redis.client.zrange(keys.promoted, '0', '-1'))
        await redis.client.zadd(keys.promoted, 1, placeId);
    },
    // A crowd that does not move, and of which nobody is heard from: anchors beyond the listed first thousand, an
    // estimate for those far back, and when the line moves again they are passed over.
    anchors: async () => {
      // While the line stands nobody is examined, and so nobody of them is passed over before they were counted.
      await tune(system, {
        ...{ newUsersPerMinute: 600, burst: 10, suspended: true },
        // Of the crowd nobody claims, and their turns are to pass.
        ...{ graceSeconds: 5, claimSeconds: 10 },
      });
      await ghosts('ghost');
      // Some leave out of the middle: where nobody has, numbers say where one stands and there are no anchors.
      await redis.client.zremrangebyrank(keys.line, 1500, 1800);
    },
    eta_settled_total: async () => {
      // A stream of a moment ago may have said that presence is known, and nobody of the crowd is there.
      await redis.client.hdel(keys.room, 'hereAt');
      await tune(system, { suspended: false });
      await eventually('the line is long', async () => (await shownOf('places')) > 1000);
      // Every three seconds somebody's estimate is written down unless it is a matter of seconds; of three in a row one
      // never is (line/calibration.ts spreads them by the golden ratio).
      const taken = await shownOf('snapshot_seconds');
      await eventually(
        'some are written down',
        async () => (await shownOf('snapshot_seconds')) >= taken + 10,
      );
      await tune(system, { newUsersPerMinute: 600_000, burst: 10_000 });
    },
    // Another crowd of which nobody is there, and this time that is known before anyone of them is called.
    parked_total: async () => {
      await tune(system, { suspended: true });
      await ghosts('shade');
      await redis.client.hset(keys.room, 'hereAt', String(Date.now() + 60_000));
      await tune(system, { suspended: false });
    },
    drift_repaired_total: async () => {
      const { seats } = bookingKeys('demo' as never);
      const map = (await redis.client.hget(seats, 'm:stalls')) ?? '';
      t.match(map, 'f');
      await redis.client.hset(seats, 'm:stalls', map.replace('f', 's'));
    },
    duplicate_promotion_total: async () => {
      await eventually('the crowd is gone', async () => (await redis.client.zcard(keys.line)) === 0);
      await tune(system, UNHURRIED);
      const { number, placeId } = await inside();
      await forge(`${placeId} ${number}`, { totalActiveUsers: 100_000 });
    },
    // Somebody with the first number of all, long after others.
    inversion_total: () => forge('forgedplace00004 1', { totalActiveUsers: 100_000 }),
    // Two in one call where one may go, and one more inside than there is room for.
    overshoot_total: async () => {
      await tune(system, { newUsersPerMinute: 60, burst: 1, totalActiveUsers: 1 });
      await forge('forgedplace00001 999999 forgedplace00002 999998', { totalActiveUsers: 1 });
    },
    adopted_over_cap_total: () =>
      redis.client.xadd(
        ...([keys.entries, '*', 'kind', 'adopted', 'atMs', Date.now()] as const),
        ...(['visits', 'forgedplace00003 999997'] as const),
      ),
    // The whole line goes: the dispatcher makes the room again, and the ledger says what it never saw.
    recoveries_total: () => redis.client.flushall(),
    ledger_gaps_total: already,
    connections_open: already,
    // With an origin that is away, and one that speaks WebSocket.
    origin_resting: () => movesIn('parts/tunnel.test.ts', 'origin_resting'),
    tunnels_open: () => movesIn('parts/tunnel.test.ts', 'tunnels_open'),
    streams_refused_total: () => movesIn('parts/broker.test.ts', 'streams_refused_total'),
    streams_ended_total: () => movesIn('parts/broker.test.ts', 'streams_ended_total'),
    streams_resumed_total: () => movesIn('parts/broker.test.ts', 'streams_resumed_total'),
    streams_draining: () => movesIn('parts/broker.test.ts', 'streams_draining'),
    position_late_seconds: () => movesIn('parts/broker.test.ts', 'position_late_seconds'),
    dropped_bytes_total: () => movesIn('parts/http.test.ts', 'dropped_bytes_total'),
    slow_readers_total: () => movesIn('parts/http.test.ts', 'slow_readers_total'),
    // In a gateway of its own, which is told that it is late.
    overload_level: async () => {
      const late = await startGateways(t, { count: 1, probe: { lagMs: () => 10_000 } });
      for (let index = 0; index < LAGS; index += 1) late.overloads[0]!.look();
      const room = await late.open('late', {});
      t.equal((await late.fan(room).join()).status, 503);
      shed = await late.metrics[0]!.text();
      t.ok(valueIn(shed, 'overload_level') > 0, 'overload_level');
    },
    shed_total: () => t.ok(valueIn(shed, 'shed_total') > 0, 'shed_total'),
    // By the pieces themselves: this system has no site whose users sign in.
    user_keys_total: async () => {
      const metrics = createMetrics({ processMetrics: false });
      await (await startIssuer(t, [(await keyPair('m')).jwk])).ring({ metrics }).load();
      t.ok(valueIn(await metrics.text(), 'user_keys_total') > 0, 'user_keys_total');
    },
    user_tokens_total: async () => {
      const metrics = createMetrics({ processMetrics: false });
      const key = await keyPair('m');
      const token = await userToken(key, 'somebody');
      const users = createUsers({
        ...{ tokens: (await startIssuer(t, [key.jwk])).tokens(), cookie: '', tokensMax: 10, metrics },
        ...{ toll: () => undefined, nowMs: Date.now },
      });
      const header = (name: string) => (name === 'authorization' ? `Bearer ${token}` : undefined);
      t.equal(await users.tokenOf({ address: '192.0.2.9', header, cookie: () => undefined }), token);
      t.ok(valueIn(await metrics.text(), 'user_tokens_total') > 0, 'user_tokens_total');
    },
    // Without Redis, too: a system without Redis answers nothing that could be asked here.
    limits_local_total: async () => {
      const metrics = createMetrics({ processMetrics: false });
      const away = await redis.connect('away');
      away.disconnect();
      const limits = createLimits({ config: readConfig({}), redis: away, clock: systemClock, metrics });
      for (let index = 0; index < 5; index += 1) await limits.take({ address: '192.0.2.9', cost: 1 });
      t.ok(valueIn(await metrics.text(), 'limits_local_total') > 0, 'limits_local_total');
    },
  };
  t.same(Object.keys(scenarios).sort(), Object.keys(metricTable).sort(), 'each metric has its scenario');
  // In the order in which they stand above: some need what the one before has left.
  for (const [name, move] of Object.entries(scenarios)) {
    await move();
    // The keys were just compared with the table.
    if (!APART.includes(name)) await moves(name as MetricName);
    t.pass(name);
  }
  t.same(
    fans.flatMap((each) => each.faults),
    [],
    'and all the while every answer kept to the document',
  );
});
