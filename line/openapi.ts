// The public API as one OpenAPI 3.1 document: what fans' browsers, apps and origins may ask, what comes back, and
// with which codes it is refused. Written once, in the table below; the gateway serves it at /v1/openapi.json,
// `npm run docs` writes it to docs/reference, and tests hold it against the routes there are and the answers they
// give. Adding a route: its row here, its answer in test/parts/openapi.test.ts.

import { type ErrorCode, errorTable, retryAfterSecondsOf, statusOf } from '../kernel/errors.ts';

type Schema = Readonly<Record<string, unknown>>;
type Method = 'get' | 'post' | 'delete';
type Body = { says: string; required?: boolean; type?: string; schema: Schema };
type Reply = {
  says: string;
  schema?: Schema;
  /** Media type; JSON by default. */
  type?: string;
  headers?: Readonly<Record<string, string>>;
};
type Operation = {
  method: Method;
  /** As in the router: `:name` for a segment. */
  path: string;
  id: string;
  tag: 'line' | 'session' | 'public' | 'page' | 'booking';
  says: string;
  more?: string;
  /** Who must show what; none for what everybody may ask. */
  needs?: readonly ('visitor' | 'service' | 'session')[];
  keyed?: true;
  body?: Body;
  query?: Readonly<Record<string, string>>;
  replies: Readonly<Record<number, Reply>>;
  refusals: readonly ErrorCode[];
};

const text = (more: Schema = {}): Schema => ({ type: 'string', ...more });
const whole = (more: Schema = {}): Schema => ({ type: 'integer', ...more });
const count = whole({ minimum: 0 });
const ms = whole({ minimum: 0, description: 'Milliseconds since 1970, by the clock of the line.' });
const flag: Schema = { type: 'boolean' };
const oneOf = (...values: readonly string[]): Schema => ({ type: 'string', enum: values });
const list = (items: Schema): Schema => ({ type: 'array', items });
const ref = (name: keyof typeof schemas): Schema => ({ $ref: `#/components/schemas/${name}` });
/** All members of `needed` are always there, those of `maybe` sometimes. */
const object = (
  needed: Readonly<Record<string, Schema>>,
  maybe: Readonly<Record<string, Schema>> = {},
): Schema => ({ type: 'object', required: Object.keys(needed), properties: { ...needed, ...maybe } });

const roomName = text({ pattern: '^[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?$' });
const placeId = text({ pattern: '^[A-Za-z0-9_-]{16}$' });
const sessionName = text({ pattern: '^[A-Za-z0-9_-]{16}\\.[1-9][0-9]{0,14}$' });
const gate = oneOf('open', 'passthrough', 'suspended', 'notOpen', 'closed', 'recovering', 'queueAll');
const number = whole({
  minimum: 1,
  description: 'The number given at joining: ordered and unique, not dense.',
});
const notice = object({ id: text(), text: text(), level: text() });
const eta: Schema = {
  type: 'array',
  prefixItems: [{ type: 'number' }, { type: 'number' }],
  items: false,
  minItems: 2,
  description: 'Seconds: half of all turns come before the first, nine in ten before the second.',
};
const position = {
  position: whole({ minimum: 1 }),
  ahead: count,
  waiting: count,
  perMinute: count,
  progress: { type: 'number', minimum: 0, maximum: 1 },
  nextMs: count,
  etaSeconds: eta,
};

const schemas = {
  Problem: {
    ...object(
      {
        type: text({ pattern: '^urn:anteroom:error:' }),
        title: text({ description: 'What to do next, in words for people.' }),
        status: whole(),
        code: text({ description: 'Stable; see docs/reference/errors.md.' }),
      },
      {
        detail: text(),
        retryAfterMs: count,
        room: roomName,
        join: text({ description: 'Where to join the line that guards the address.' }),
        opensAtMs: ms,
        limit: count,
        order: text(),
      },
    ),
    description: 'RFC 9457 problem details.',
  },
  Place: {
    ...object(
      {
        state: oneOf('waiting', 'parked', 'withheld', 'promoted', 'active', 'finished', 'none'),
        gate,
        serverNowMs: { type: 'number' },
        pollAfterMs: { type: 'number', minimum: 0 },
      },
      {
        number,
        verdict: oneOf('challenge', 'block'),
        receipt: text({ description: 'Proof of the place. Keep it: shown again, it brings the place back.' }),
        claimToken: text(),
        claimDeadlineMs: ms,
        opensAtMs: ms,
        notice,
        missed: flag,
        peopleAhead: count,
        order: oneOf('drawn'),
        ...position,
      },
    ),
    description: 'Where a visitor stands in the line.',
  },
  Room: object(
    {
      room: roomName,
      title: text(),
      gate,
      waiting: count,
      perMinute: count,
      sale: whole({ minimum: 1 }),
      opensAtMs: ms,
      closesAtMs: ms,
    },
    {
      draw: object(
        { commitment: text({ pattern: '^[0-9a-f]{64}$' }) },
        { seed: text({ pattern: '^[0-9a-f]+$' }) },
      ),
    },
  ),
  Session: object({ id: sessionName, room: roomName, number, expiresAtMs: ms }),
  Claimed: object({
    session: object({ id: sessionName, room: roomName, number, expiresAtMs: ms }),
    pass: text({
      pattern: '^[\\w-]+\\.[\\w-]+\\.[\\w-]+$',
      description: 'A JWT (EdDSA) that names the session.',
    }),
    expiresAtMs: ms,
  }),
  Keys: object({
    keys: list(
      object({ kty: text(), kid: text(), alg: oneOf('EdDSA'), use: oneOf('sig'), crv: text(), x: text() }),
    ),
  }),
  Event: object({
    id: text(),
    name: text(),
    venue: text(),
    startsAt: text({ format: 'date-time' }),
    currency: text(),
    seatsPerVisitor: count,
    sections: list(
      object({
        id: text(),
        name: text(),
        kind: oneOf('seated', 'area'),
        rows: count,
        perRow: count,
        priceMinor: count,
      }),
    ),
  }),
  Seats: object({
    event: text(),
    version: { type: ['integer', 'string'] },
    maps: {
      type: 'object',
      additionalProperties: text(),
      description: 'By section: a letter a seat (`f` is free), `|` between rows.',
    },
  }),
  Hold: object({
    id: text(),
    event: text(),
    section: text(),
    sectionName: text(),
    state: text(),
    seats: list(text()),
    amountMinor: count,
    currency: text(),
    expiresAt: text({ format: 'date-time' }),
    expiresInMs: count,
  }),
  Refund: object({ id: text(), order: text(), amountMinor: count, currency: text() }),
  Order: object({
    id: text(),
    event: text(),
    eventName: text(),
    section: text(),
    sectionName: text(),
    state: oneOf('paying', 'paid', 'failed', 'expired', 'late', 'refunding', 'refunded'),
    seats: list(text()),
    tickets: list(object({ code: text(), seat: text() })),
    amountMinor: count,
    currency: text(),
    createdAt: text({ format: 'date-time' }),
    expiresAt: text({ format: 'date-time' }),
  }),
} as const satisfies Record<string, Schema>;

/** What the server below all routes may say of any request. */
const ANY: readonly ErrorCode[] = ['bad-header', 'bad-path', 'internal'];
const WITH_BODY: readonly ErrorCode[] = ['bad-json', 'bad-field', 'wrong-type', 'body-too-large'];
const OF_ROOM: readonly ErrorCode[] = ['bad-id', 'room-unknown', 'unavailable'];
const OF_VISITOR: readonly ErrorCode[] = ['token-invalid', 'token-missing', 'room-recovering'];
/** What the gateway says of whatever it carries to booking-core, and booking-core of its caller. */
const CARRIED: readonly ErrorCode[] = [
  ...['origin-unreachable', 'origin-timeout', 'overloaded', 'unavailable', 'token-invalid'],
] as const;
const GUARDED: readonly ErrorCode[] = [...CARRIED, 'session-required', 'room-recovering'];
const KEYED: readonly ErrorCode[] = ['idempotency-key-missing', 'idempotency-conflict', 'idempotency-busy'];

const json = (says: string, schema: Schema, headers?: Reply['headers']): Reply => ({
  says,
  schema,
  ...(headers === undefined ? {} : { headers }),
});
const setCookie = { 'Set-Cookie': 'The visitor, the receipt or the session, each in a cookie of its own.' };
const stream = (says: string): Reply => ({ says, type: 'text/event-stream', schema: text() });
const page = (says: string): Reply => ({ says, type: 'text/html', schema: text() });
const STREAM_WORDS =
  'Messages: `state` first, `position` (where one stands, as in Place), `promoted` (`claimToken`, `deadlineMs`), `notice` and `ended` (`reason`); all of them with examples, and the close codes, in docs/reference/messages.md. Of positions only the newest counts.';

const operations: readonly Operation[] = [
  {
    ...{ method: 'post', path: '/v1/rooms/:room/places', id: 'join', tag: 'line' },
    says: 'Join the line, or find one’s place in it again.',
    more: 'Joining twice gives the same place. A receipt brings a place back that the line has lost.',
    needs: ['visitor'],
    body: { says: 'A receipt, if there is one.', schema: object({}, { receipt: text({ maxLength: 4000 }) }) },
    replies: {
      200: json('The place one has already.', ref('Place'), setCookie),
      201: json('A new place.', ref('Place'), setCookie),
    },
    refusals: [
      ...[...OF_ROOM, ...OF_VISITOR, ...WITH_BODY],
      ...(['receipt-invalid', 'room-closed', 'room-not-open', 'room-full', 'too-many-requests'] as const),
    ],
  },
  {
    ...{ method: 'get', path: '/v1/rooms/:room/places/me', id: 'place', tag: 'line' },
    says: 'Where one stands. Ask again after `pollAfterMs`.',
    more: 'Where cookies do not come along, the receipt is shown in the header `Place-Receipt`, here and on streams.',
    needs: ['visitor'],
    replies: { 200: json('The place.', ref('Place'), setCookie) },
    refusals: [
      ...[...OF_ROOM, ...OF_VISITOR],
      ...(['place-missing', 'place-finished', 'room-closed', 'too-many-requests'] as const),
    ],
  },
  {
    ...{ method: 'delete', path: '/v1/rooms/:room/places/me', id: 'leave', tag: 'line' },
    says: 'Give one’s place up.',
    needs: ['visitor'],
    replies: { 204: { says: 'It is given up.', headers: setCookie } },
    refusals: [...OF_ROOM, ...OF_VISITOR, 'place-missing'],
  },
  {
    ...{ method: 'get', path: '/v1/rooms/:room/events', id: 'events', tag: 'line' },
    says: 'What happens to one’s place, as server-sent events.',
    more: STREAM_WORDS,
    needs: ['visitor'],
    replies: {
      200: stream('Each event has its type as `event` and JSON as `data`.'),
      204: { says: 'The visit is over, or the sale: do not ask again. An EventSource stops by itself.' },
    },
    refusals: [...OF_ROOM, ...OF_VISITOR, 'place-missing', 'streams-full', 'too-many-streams'],
  },
  {
    ...{ method: 'get', path: '/v1/rooms/:room/socket', id: 'socket', tag: 'line' },
    says: 'The same over a WebSocket: one JSON text a message, with its type as `type`.',
    more: STREAM_WORDS,
    needs: ['visitor'],
    replies: { 101: { says: 'It is open. Nothing that is sent over it is read.' } },
    refusals: [
      ...[...OF_ROOM, ...OF_VISITOR],
      ...([
        'upgrade-required',
        'origin-refused',
        'place-missing',
        'streams-full',
        'too-many-streams',
      ] as const),
    ],
  },
  {
    ...{ method: 'post', path: '/v1/rooms/:room/pass', id: 'claim', tag: 'session' },
    says: 'Enter, when it is one’s turn: makes the session, and a pass that names it.',
    more: 'Repeated, it gives another pass for the same session.',
    needs: ['visitor'],
    body: {
      says: 'The token that came with `promoted`; without it the line is asked.',
      schema: object({}, { claim: text({ maxLength: 4000 }) }),
    },
    replies: { 200: json('Inside.', ref('Claimed'), setCookie) },
    refusals: [
      ...[...OF_ROOM, ...OF_VISITOR, ...WITH_BODY],
      ...(['not-your-turn', 'not-yours', 'place-missing', 'place-finished', 'too-many-requests'] as const),
    ],
  },
  {
    ...{ method: 'post', path: '/v1/rooms/:room/sessions', id: 'redeem', tag: 'session' },
    says: 'Take a pass to its session on this host, once.',
    body: { says: 'The pass.', required: true, schema: object({ pass: text({ maxLength: 4000 }) }) },
    replies: { 201: json('The session, with its cookie for this host.', ref('Session'), setCookie) },
    refusals: [
      ...[...OF_ROOM, ...WITH_BODY],
      ...(['pass-invalid', 'pass-expired', 'pass-redeemed', 'session-superseded'] as const),
      ...(['place-finished', 'room-recovering', 'too-many-requests'] as const),
    ],
  },
  {
    ...{ method: 'post', path: '/v1/rooms/:room/sessions/end', id: 'end', tag: 'session' },
    says: 'End a session, by the word of an origin. Its slot is free at once.',
    needs: ['service'],
    body: {
      says: 'The session by its id, or by place and number.',
      required: true,
      schema: {
        oneOf: [object({ session: sessionName }), object({ placeId, number })],
      },
    },
    replies: { 204: { says: 'It has ended.' } },
    refusals: [
      ...[...OF_ROOM, ...WITH_BODY],
      ...([
        'token-missing',
        'token-invalid',
        'token-expired',
        'token-other-room',
        'session-missing',
      ] as const),
      ...(['room-recovering', 'too-many-requests'] as const),
    ],
  },
  {
    ...{ method: 'get', path: '/v1/rooms/:room', id: 'room', tag: 'public' },
    says: 'What everybody may know of a room; may be kept for a second.',
    replies: { 200: json('The room.', ref('Room')) },
    refusals: OF_ROOM,
  },
  {
    ...{ method: 'get', path: '/v1/authorize', id: 'authorize', tag: 'session' },
    says: 'What a proxy in front asks that carries the bytes itself: may this request go on?',
    more: 'Only for the addresses in `ANTEROOM_TRUSTED_PROXIES`. The request in question is told by `X-Original-URI`, `X-Original-Method` and `X-Original-Host`, all three required, beside the headers of its client.',
    needs: ['visitor'],
    replies: {
      204: {
        says: 'It may. The headers are for the origin; they are missing where no room guards the address, or a rule lets the request by.',
        headers: {
          'Anteroom-Context': 'Who asks, signed with the key of the room.',
          'Anteroom-Visitor': 'The visitor.',
          'Anteroom-Room': 'The room; empty where the request passed without a session.',
          'Anteroom-Session-Id': 'The session; empty where there is none.',
          'Set-Cookie': 'At most one, for the client: a renewed session, or the visitor.',
        },
      },
    },
    refusals: [
      'admission-required',
      'proxy-unknown',
      'bad-header',
      'bad-path',
      'unavailable',
      'room-recovering',
    ],
  },
  {
    ...{ method: 'get', path: '/.well-known/jwks.json', id: 'keys', tag: 'public' },
    says: 'The public keys of passes and ledgers.',
    replies: { 200: json('A JWK set (RFC 7517).', ref('Keys')) },
    refusals: [],
  },
  {
    ...{ method: 'get', path: '/v1/openapi.json', id: 'openapi', tag: 'public' },
    says: 'This document.',
    replies: { 200: json('It.', { type: 'object' }) },
    refusals: [],
  },
  {
    ...{ method: 'get', path: '/rooms/:room', id: 'page', tag: 'page' },
    says: 'The waiting page, complete without JavaScript. Opening it changes nothing.',
    query: { returnTo: 'Where to go after admission: a path of this site.' },
    replies: { 200: page('The page.') },
    refusals: [...OF_ROOM, 'room-recovering'],
  },
  {
    ...{ method: 'post', path: '/rooms/:room', id: 'act', tag: 'page' },
    says: 'The form of that page: join, enter or leave.',
    needs: ['visitor'],
    body: {
      says: 'What to do, and where to go afterwards.',
      required: true,
      type: 'application/x-www-form-urlencoded',
      schema: object({ act: oneOf('join', 'enter', 'leave') }, { returnTo: text() }),
    },
    replies: {
      303: { says: 'Done; see `Location`.', headers: { ...setCookie, Location: 'The next page.' } },
    },
    refusals: [
      ...[...OF_ROOM, ...OF_VISITOR],
      ...(['bad-field', 'wrong-type', 'body-too-large', 'origin-refused', 'too-many-requests'] as const),
      ...(['room-closed', 'room-not-open', 'room-full'] as const),
      ...(['not-your-turn', 'place-missing', 'place-finished'] as const),
    ],
  },
  {
    ...{ method: 'get', path: '/v1/events/:event', id: 'event', tag: 'booking' },
    says: 'What is sold. This and all below is booking-core, reached through the gateway.',
    needs: ['session'],
    replies: { 200: json('The event.', ref('Event')) },
    refusals: [...GUARDED, 'bad-id', 'event-unknown', 'database-unavailable'],
  },
  {
    ...{ method: 'get', path: '/v1/events/:event/seats', id: 'seats', tag: 'booking' },
    says: 'All seats, as maps.',
    needs: ['session'],
    replies: { 200: json('The maps.', ref('Seats')) },
    refusals: [...GUARDED, 'bad-id', 'event-unknown', 'rebuilding', 'database-unavailable'],
  },
  {
    ...{ method: 'get', path: '/v1/events/:event/seats/events', id: 'seatEvents', tag: 'booking' },
    says: 'Changes of seats, as server-sent events.',
    needs: ['session'],
    replies: { 200: stream('Maps that changed.') },
    refusals: [...GUARDED, 'bad-id', 'event-unknown', 'database-unavailable'],
  },
  {
    ...{ method: 'post', path: '/v1/events/:event/holds', id: 'hold', tag: 'booking' },
    says: 'Hold seats: these, or any number of them together.',
    needs: ['session'],
    keyed: true,
    body: {
      says: 'Which seats.',
      required: true,
      schema: {
        oneOf: [
          object({ section: text(), seats: { ...list(text()), minItems: 1, maxItems: 100 } }),
          object({ section: text(), count: whole({ minimum: 1, maximum: 100 }) }),
        ],
      },
    },
    replies: {
      201: json('They are held.', ref('Hold'), {
        'Idempotency-Replayed': '`true` when they were held before.',
      }),
    },
    refusals: [
      ...[...GUARDED, ...WITH_BODY, ...KEYED.slice(0, 2)],
      ...(['bad-id', 'event-unknown', 'session-other-room', 'hold-cooling', 'price-changed'] as const),
      ...(['seats-taken', 'seats-none-together', 'seat-limit'] as const),
      ...(['hold-expired', 'order-state', 'rebuilding', 'database-unavailable'] as const),
    ],
  },
  {
    ...{ method: 'delete', path: '/v1/holds/:hold', id: 'release', tag: 'booking' },
    says: 'Give held seats back.',
    needs: ['visitor'],
    replies: { 204: { says: 'They are free.' } },
    refusals: [...CARRIED, 'hold-missing', 'not-yours', 'order-state', 'rebuilding'],
  },
  {
    ...{ method: 'post', path: '/v1/orders', id: 'order', tag: 'booking' },
    says: 'Buy what is held.',
    needs: ['session'],
    keyed: true,
    body: {
      says: 'The hold, and what the payment provider’s form gave.',
      required: true,
      schema: object({
        holdId: text(),
        payment: object({ method: oneOf('card'), token: text({ pattern: '^[A-Za-z0-9_:.-]{1,64}$' }) }),
      }),
    },
    replies: {
      201: json('It is paid.', ref('Order')),
      202: json('It is being paid: look again.', ref('Order'), { 'Retry-After': 'Seconds.' }),
    },
    refusals: [
      ...[...GUARDED, ...WITH_BODY, ...KEYED],
      ...(['hold-missing', 'hold-expired', 'not-yours', 'order-state', 'seats-taken'] as const),
      ...([
        'session-other-room',
        'price-changed',
        'payment-declined',
        'payment-returned',
        'rebuilding',
        'database-unavailable',
      ] as const),
    ],
  },
  {
    ...{ method: 'get', path: '/v1/orders', id: 'orders', tag: 'booking' },
    says: 'One’s own orders, the newest 50.',
    needs: ['visitor'],
    replies: { 200: json('They.', object({ orders: list(ref('Order')) })) },
    refusals: [...CARRIED, 'database-unavailable'],
  },
  {
    ...{ method: 'get', path: '/v1/orders/:order', id: 'oneOrder', tag: 'booking' },
    says: 'One order of one’s own.',
    needs: ['visitor'],
    replies: { 200: json('It.', ref('Order')) },
    refusals: [...CARRIED, 'bad-id', 'order-missing', 'not-yours', 'database-unavailable'],
  },
  {
    ...{ method: 'post', path: '/v1/orders/:order/refunds', id: 'refund', tag: 'booking' },
    says: 'Take an order back.',
    needs: ['visitor'],
    keyed: true,
    replies: {
      201: json('The provider is asked for it; the order says when it is done.', ref('Refund')),
    },
    refusals: [
      ...[...CARRIED, ...WITH_BODY, ...KEYED],
      ...(['bad-id', 'order-missing', 'not-yours', 'order-state', 'database-unavailable'] as const),
    ],
  },
  {
    ...{ method: 'post', path: '/v1/payments/:provider/webhook', id: 'webhook', tag: 'booking' },
    says: 'What the payment provider tells, signed by it.',
    body: { says: 'As the provider writes it.', required: true, schema: { type: 'object' } },
    replies: { 200: json('It was read.', object({ outcome: text() })) },
    refusals: [...CARRIED, 'not-found', 'body-too-large', 'database-unavailable'],
  },
];

const PARAMETERS: Record<string, Schema> = {
  room: roomName,
  event: text({ pattern: '^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$' }),
  hold: text(),
  order: text({ pattern: '^[0-9A-Z]{13}$' }),
  provider: text(),
};

const SECURITY: Record<NonNullable<Operation['needs']>[number], readonly Schema[]> = {
  // Anonymous rooms know a visitor by the cookie, others by a user token; a first request shows neither.
  visitor: [{}, { visitorCookie: [] }, { userToken: [] }],
  service: [{ serviceToken: [] }],
  session: [{ sessionCookie: [] }],
};

/** A browser that loads a page gets its refusals as pages, too. */
const problemsOf = (codes: readonly ErrorCode[], isPage: boolean): Record<string, unknown> => {
  const byStatus = new Map<number, Set<ErrorCode>>();
  for (const code of codes) {
    const known = byStatus.get(statusOf(code)) ?? new Set();
    byStatus.set(statusOf(code), known.add(code));
  }
  return Object.fromEntries(
    [...byStatus]
      .sort(([a], [b]) => a - b)
      .map(([status, some]) => {
        const names = [...some].sort();
        const waits = names.some((code) => retryAfterSecondsOf(code) !== undefined);
        return [
          String(status),
          {
            description: names.map((code) => `\`${code}\`: ${errorTable[code][1]}`).join('\n\n'),
            ...(waits
              ? { headers: { 'Retry-After': { description: 'Seconds.', schema: whole({ minimum: 0 }) } } }
              : {}),
            content: {
              'application/problem+json': {
                schema: {
                  allOf: [ref('Problem')],
                  properties: { status: { const: status }, code: { enum: names } },
                },
              },
              ...(isPage ? { 'text/html': { schema: text() } } : {}),
            },
          },
        ];
      }),
  );
};

const replyOf = ({ says, schema, type = 'application/json', headers }: Reply): Schema => ({
  description: says,
  ...(headers === undefined
    ? {}
    : {
        headers: Object.fromEntries(
          Object.entries(headers).map(([name, description]) => [name, { description, schema: text() }]),
        ),
      }),
  ...(schema === undefined ? {} : { content: { [type]: { schema } } }),
});

const operationOf = (operation: Operation): Schema => {
  const { path, id, tag, says, more, needs = [], keyed, body, query = {}, replies, refusals } = operation;
  const parameters = [
    ...[...path.matchAll(/:(\w+)/g)].map(([, name = '']) => ({
      ...{ name, in: 'path', required: true },
      schema: PARAMETERS[name] ?? text(),
    })),
    ...Object.entries(query).map(([name, description]) => ({
      name,
      in: 'query',
      description,
      schema: text(),
    })),
    ...(keyed === true
      ? [
          {
            ...{ name: 'Idempotency-Key', in: 'header', required: true },
            description: 'The same key is the same request, however often it is sent.',
            schema: text({ pattern: '^[A-Za-z0-9_-]{8,64}$' }),
          },
        ]
      : []),
  ];
  return {
    ...{ operationId: id, tags: [tag], summary: says },
    ...(more === undefined ? {} : { description: more }),
    ...(needs.length === 0 ? {} : { security: needs.flatMap((need) => SECURITY[need]) }),
    ...(parameters.length === 0 ? {} : { parameters }),
    ...(body === undefined
      ? {}
      : {
          requestBody: {
            description: body.says,
            required: body.required ?? false,
            content: { [body.type ?? 'application/json']: { schema: body.schema } },
          },
        }),
    responses: {
      ...Object.fromEntries(Object.entries(replies).map(([status, reply]) => [status, replyOf(reply)])),
      ...problemsOf([...ANY, ...refusals], tag === 'page' && operation.method === 'get'),
    },
  };
};

/** `/v1/rooms/:room` in the words of OpenAPI: `/v1/rooms/{room}`. */
export const templateOf = (pattern: string): string => pattern.replace(/:(\w+)/g, '{$1}');

export const createOpenApi = (): Readonly<Record<string, unknown>> => {
  const paths: Record<string, Record<string, Schema>> = {};
  for (const operation of operations) {
    const template = templateOf(operation.path);
    paths[template] = { ...paths[template], [operation.method]: operationOf(operation) };
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'Anteroom',
      version: '1',
      summary: 'A virtual waiting room: join the line, wait, enter.',
      description:
        'Every answer carries `x-request-id`. Refusals are problem details (RFC 9457) with a stable `code`; a method that an address does not take is 405 `wrong-method`.',
      license: { name: 'MIT', identifier: 'MIT' },
    },
    servers: [{ url: '/' }],
    tags: [
      { name: 'line', description: 'Joining and waiting.' },
      { name: 'session', description: 'Entering, and being inside.' },
      { name: 'public', description: 'What everybody may know.' },
      { name: 'page', description: 'The waiting page.' },
      { name: 'booking', description: 'The sale behind the line.' },
    ],
    paths,
    components: {
      schemas,
      securitySchemes: {
        visitorCookie: {
          ...{ type: 'apiKey', in: 'cookie', name: '__Host-ar_v' },
          description: 'Set at joining; `ar_v` where the site is not https.',
        },
        sessionCookie: {
          ...{ type: 'apiKey', in: 'cookie', name: '__Host-ar_s_<room>' },
          description: 'Set at entering; `ar_s_<room>` where the site is not https.',
        },
        userToken: { type: 'http', scheme: 'bearer', bearerFormat: 'JWT' },
        serviceToken: { type: 'http', scheme: 'bearer', description: 'Made by `npm run keys -- service`.' },
      },
    },
  };
};
