// Configuration: one table with name, default, unit, range and a sentence. The environment is read here and
// nowhere else; all faults are reported at once. docs/reference/config.md is generated from this table.

import { createNetworks } from './address.ts';
import { isWebOrigin } from './cors.ts';
import { KEY_TYPES } from './key-ring.ts';
import { looksDrawn, parseKeys } from './master-keys.ts';
import { parseRedisPlace } from './redis-url.ts';
import { type RoleName, roleNames } from './role.ts';

type Row = {
  env: string;
  unit: string;
  says: string;
} & (
  | { kind: 'integer'; default: number; min: number; max: number }
  | { kind: 'text'; default: string; pattern?: RegExp; secret?: boolean }
  | { kind: 'choice'; default: string; choices: readonly string[] }
  | { kind: 'list'; default: readonly string[] }
);

const integer = (env: string, unit: string, fallback: number, min: number, max: number, says: string) =>
  ({ kind: 'integer', env, unit, default: fallback, min, max, says }) as const;
const text = (
  env: string,
  fallback: string,
  says: string,
  more: { pattern?: RegExp; secret?: boolean } = {},
) => ({ kind: 'text', env, unit: 'text', default: fallback, says, ...more }) as const;
const list = (env: string, fallback: readonly string[], says: string) =>
  ({ kind: 'list', env, unit: 'comma-separated', default: fallback, says }) as const;

export const configTable = {
  // What runs
  roles: list('ANTEROOM_ROLES', roleNames, 'Roles of this process; unset means all of them.'),
  environment: {
    kind: 'choice',
    env: 'ANTEROOM_ENV',
    unit: 'word',
    default: 'development',
    choices: ['development', 'production'],
    says: 'In production the process does not start without keys and a public address of its own, or with secrets that are public.',
  },
  logLevel: {
    kind: 'choice',
    env: 'ANTEROOM_LOG_LEVEL',
    unit: 'word',
    default: 'info',
    choices: ['debug', 'info', 'warn', 'error'],
    says: 'The lowest level that is written.',
  },
  dataFolder: text('ANTEROOM_DATA', './data', 'Folder of the embedded stores and generated keys.'),
  demo: {
    kind: 'choice',
    env: 'ANTEROOM_DEMO',
    unit: 'word',
    default: 'auto',
    choices: ['auto', 'on', 'off'],
    says: 'Create the demo sale; auto means: when both stores are embedded.',
  },
  // Where it listens
  host: text('ANTEROOM_HOST', '127.0.0.1', 'Address all listeners bind to.'),
  publicPort: integer('ANTEROOM_PORT', 'port', 8080, 0, 65535, 'Gateway and broker.'),
  adminPort: integer('ANTEROOM_ADMIN_PORT', 'port', 8081, 0, 65535, 'Operators and security staff.'),
  bookingPort: integer(
    'ANTEROOM_BOOKING_PORT',
    'port',
    8082,
    0,
    65535,
    'booking-core; reached through the gateway only.',
  ),
  sandboxPort: integer(
    'ANTEROOM_SANDBOX_PORT',
    'port',
    8083,
    0,
    65535,
    'The sandbox payment provider, a server of its own.',
  ),
  metricsPort: integer('ANTEROOM_METRICS_PORT', 'port', 9090, 0, 65535, 'Metrics and health.'),
  publicUrl: text(
    'ANTEROOM_PUBLIC_URL',
    '',
    'The address fans use, e.g. https://tickets.example; decides cookie names and issuers. Empty: http://<host>:<port>.',
  ),
  bookingUrl: text(
    'ANTEROOM_BOOKING_URL',
    '',
    'Where the gateway reaches booking-core. Empty: http://<host>:<booking port>.',
  ),
  gatewayUrl: text(
    'ANTEROOM_GATEWAY_URL',
    '',
    'Where booking-core reaches the gateway to end a session. Empty: http://<host>:<port>.',
  ),
  sandboxUrl: text(
    'ANTEROOM_SANDBOX_URL',
    '',
    'Where booking-core reaches the sandbox payment provider. Empty: http://<host>:<sandbox port>.',
  ),
  sandboxSecret: text(
    'ANTEROOM_SANDBOX_SECRET',
    'sandbox-only',
    'Shared by booking-core and the sandbox payment provider; signs its webhooks.',
    { secret: true },
  ),
  adminUrl: text(
    'ANTEROOM_ADMIN_URL',
    '',
    'Where operators reach the admin page. Empty: http://<host>:<admin port>.',
  ),
  tlsCert: text(
    'ANTEROOM_TLS_CERT',
    '',
    'File with the certificate of the public port and its chain (PEM); empty: plain HTTP. SIGHUP reads it again.',
  ),
  tlsKey: text('ANTEROOM_TLS_KEY', '', 'File with the key of that certificate (PEM).'),
  defaultOrigin: text(
    'ANTEROOM_DEFAULT_ORIGIN',
    '',
    'Where requests go that no room guards; empty answers 404.',
  ),
  trustedProxies: list(
    'ANTEROOM_TRUSTED_PROXIES',
    [],
    'Addresses or prefixes whose X-Forwarded-For is believed, counted from the right.',
  ),
  allowedOrigins: list(
    'ANTEROOM_ALLOWED_ORIGINS',
    [],
    'Foreign web origins that may open a WebSocket or read answers (CORS). Our own is always allowed.',
  ),
  // Watching it
  otlpUrl: text(
    'ANTEROOM_OTLP_URL',
    '',
    'Where traces go: the address of an OpenTelemetry collector that takes OTLP over HTTP, e.g. http://127.0.0.1:4318; `/v1/traces` is put behind it. Empty: no traces.',
  ),
  traceOneIn: integer(
    'ANTEROOM_TRACE_ONE_IN',
    'requests',
    1,
    1,
    1_000_000,
    'One request in so many is traced, unless a trusted proxy has decided in its `traceparent`.',
  ),
  // Stores
  redisUrl: text(
    'ANTEROOM_REDIS_URL',
    '',
    'redis:// or rediss:// address, or `redis+sentinel://[user:password@]host:26379,host:26379,host:26379/<primary>[/<db>]`; empty starts a private redis-server child.',
    { secret: true },
  ),
  sentinelPassword: text(
    'ANTEROOM_SENTINEL_PASSWORD',
    '',
    'What the sentinels themselves ask for (`requirepass` in sentinel.conf); empty where they ask for nothing.',
    { secret: true },
  ),
  databaseUrl: text(
    'ANTEROOM_DATABASE_URL',
    '',
    'postgresql:// address; empty starts a private PostgreSQL in the data folder.',
    { secret: true },
  ),
  redisCommandTimeoutMs: integer(
    'ANTEROOM_REDIS_TIMEOUT_MS',
    'ms',
    2000,
    50,
    60000,
    'A command without an answer for this long has failed.',
  ),
  databasePoolMax: integer(
    'ANTEROOM_DATABASE_POOL',
    'connections',
    8,
    1,
    200,
    'PostgreSQL connections of one process.',
  ),
  databaseTimeoutMs: integer(
    'ANTEROOM_DATABASE_TIMEOUT_MS',
    'ms',
    5000,
    100,
    60000,
    'A statement without an answer for this long has failed.',
  ),
  // Keys and identity
  keys: text(
    'ANTEROOM_KEYS',
    '',
    'Master keys, `kid:base64url(32 bytes)` separated by commas: the first signs, all verify, `root` derives what never moves; the same for all processes.',
    { secret: true },
  ),
  jwksUrl: text(
    'ANTEROOM_USER_JWKS_URL',
    '',
    'Public keys of the user JWTs of your site (a JWK set); https in production, but for a loopback address.',
  ),
  jwksFile: text(
    'ANTEROOM_USER_JWKS_FILE',
    '',
    'The same, as a file; it is read again when it is older than 10 s.',
  ),
  jwksRefreshSeconds: integer(
    'ANTEROOM_USER_JWKS_REFRESH_SECONDS',
    's',
    600,
    10,
    86_400,
    'How long a key that is taken out of the set at the URL may still be honoured.',
  ),
  jwtIssuer: text('ANTEROOM_USER_JWT_ISSUER', '', 'The `iss` a user JWT must carry.'),
  jwtAudience: text('ANTEROOM_USER_JWT_AUDIENCE', '', 'The `aud` a user JWT must carry, alone or in a list.'),
  jwtTyp: text(
    'ANTEROOM_USER_JWT_TYP',
    'JWT',
    'The `typ` a user JWT must carry in its header: `JWT` (or none at all, which means the same), `at+jwt` for access tokens of RFC 9068, or your own.',
  ),
  jwtAlgorithms: list(
    'ANTEROOM_USER_JWT_ALGORITHMS',
    ['ES256', 'EdDSA', 'RS256', 'PS256'],
    `The \`alg\` a user JWT may carry, of ${Object.keys(KEY_TYPES).join(', ')}.`,
  ),
  jwtAgeSeconds: integer(
    'ANTEROOM_USER_JWT_AGE_SECONDS',
    's',
    604_800,
    60,
    31_536_000,
    'How old a user JWT may be by its `iat`, whatever its `exp` says.',
  ),
  userTokensMax: integer(
    'ANTEROOM_USER_TOKENS_MAX',
    'tokens',
    200_000,
    2,
    10_000_000,
    'User JWTs a process remembers as verified, so that each is verified once; some 250 bytes each.',
  ),
  jwtCookie: text(
    'ANTEROOM_USER_JWT_COOKIE',
    '',
    'Cookie that may carry the user JWT besides the Authorization header.',
  ),
  operatorToken: text(
    'ANTEROOM_OPERATOR_TOKEN',
    '',
    'First operator token; empty generates one and prints it once, on the first start.',
    { secret: true },
  ),
  visitorDays: integer(
    'ANTEROOM_VISITOR_DAYS',
    'days',
    30,
    1,
    400,
    'How long a visitor cookie lives after the last visit.',
  ),
  // The line
  tickMs: integer('ANTEROOM_TICK_MS', 'ms', 200, 20, 5000, 'Between two looks of the dispatcher at a room.'),
  snapshotMs: integer('ANTEROOM_SNAPSHOT_MS', 'ms', 1000, 100, 10000, 'Between two snapshots of a room.'),
  promoteMax: integer('ANTEROOM_PROMOTE_MAX', 'places', 500, 1, 500, 'Most places promoted by one call.'),
  examineMax: integer('ANTEROOM_EXAMINE_MAX', 'places', 500, 1, 500, 'Most places examined by one call.'),
  reapMax: integer('ANTEROOM_REAP_MAX', 'places', 500, 1, 5000, 'Most places reaped by one call.'),
  lineMax: integer(
    'ANTEROOM_LINE_MAX',
    'places',
    10_000_000,
    1,
    50_000_000,
    'Most places waiting in one room.',
  ),
  withheldMax: integer(
    'ANTEROOM_WITHHELD_MAX',
    'places',
    100_000,
    1,
    5_000_000,
    'Most withheld places in one room; the oldest go first.',
  ),
  joinBatchMs: integer(
    'ANTEROOM_JOIN_BATCH_MS',
    'ms',
    2,
    0,
    50,
    'Joins that arrive within this time go to Redis in one call of at most 128.',
  ),
  joinsMax: integer(
    'ANTEROOM_JOINS_MAX',
    'records',
    10_000,
    0,
    1_000_000,
    'Length of the stream of joins kept in Redis until the ledger has written them, at most 128 joins a record; 0 keeps none.',
  ),
  ledger: {
    kind: 'choice',
    env: 'ANTEROOM_LEDGER',
    unit: 'word',
    default: 'on',
    choices: ['on', 'off'],
    says: 'Whether dispatchers write the ledger of each sale, from which anybody can recompute who went in when.',
  },
  ledgerMs: integer(
    'ANTEROOM_LEDGER_MS',
    'ms',
    1000,
    50,
    10_000,
    'Between two pieces of the ledger. Joins and entries that the streams cannot keep for so long are missing in it.',
  ),
  entriesMax: integer(
    'ANTEROOM_ENTRIES_MAX',
    'records',
    20_000,
    100,
    5_000_000,
    'Length the entry stream is trimmed to.',
  ),
  decisionsMax: integer(
    'ANTEROOM_DECISIONS_MAX',
    'records',
    10_000,
    100,
    1_000_000,
    'Length the decision stream is trimmed to.',
  ),
  recoverySeconds: integer(
    'ANTEROOM_RECOVERY_SECONDS',
    's',
    60,
    1,
    600,
    'How long nobody is promoted after Redis lost its data, or came back with data of long ago.',
  ),
  failoverSeconds: integer(
    'ANTEROOM_FAILOVER_SECONDS',
    's',
    2,
    1,
    600,
    'How long nobody is promoted after another server took over, or the same one started again, with its data.',
  ),
  // The edge
  bodyBytesMax: integer(
    'ANTEROOM_BODY_BYTES_MAX',
    'bytes',
    16_384,
    256,
    1_048_576,
    'Largest body of our own routes.',
  ),
  proxyBodyBytesMax: integer(
    'ANTEROOM_PROXY_BODY_BYTES_MAX',
    'bytes',
    10_485_760,
    256,
    900_000_000,
    'Largest request body passed to an origin; it is not gathered here.',
  ),
  originTimeoutMs: integer(
    'ANTEROOM_ORIGIN_TIMEOUT_MS',
    'ms',
    15_000,
    100,
    120_000,
    'Longest wait for the headers of an origin, and for it to take the next piece of a body.',
  ),
  originConnectMs: integer(
    'ANTEROOM_ORIGIN_CONNECT_MS',
    'ms',
    2000,
    100,
    60_000,
    'Longest wait for a connection to an origin to open.',
  ),
  originBodyMs: integer(
    'ANTEROOM_ORIGIN_BODY_MS',
    'ms',
    30_000,
    100,
    600_000,
    'Longest silence inside an answer of an origin. Event streams and WebSockets may be silent.',
  ),
  originConnectionsMax: integer(
    'ANTEROOM_ORIGIN_CONNECTIONS_MAX',
    'connections',
    128,
    1,
    4096,
    'Connections to one origin, beside those of event streams and WebSockets.',
  ),
  originWaitingMax: integer(
    'ANTEROOM_ORIGIN_WAITING_MAX',
    'requests',
    1024,
    0,
    100_000,
    'Requests that wait for one of these connections; beyond that they are answered 503 at once.',
  ),
  originStreamsMax: integer(
    'ANTEROOM_ORIGIN_STREAMS_MAX',
    'connections',
    2000,
    1,
    60_000,
    'Event streams to one origin, and as many WebSockets; beyond that they are answered 503.',
  ),
  originFailuresMax: integer(
    'ANTEROOM_ORIGIN_FAILURES_MAX',
    'failures',
    5,
    1,
    1000,
    'Connections to an origin that fail in a row, or answers that nobody gets in time, until it is left in peace.',
  ),
  originRestMs: integer(
    'ANTEROOM_ORIGIN_REST_MS',
    'ms',
    3000,
    100,
    60_000,
    'How long an origin is left in peace before one request tries it again; the others are answered at once.',
  ),
  socketMessageBytesMax: integer(
    'ANTEROOM_SOCKET_MESSAGE_BYTES_MAX',
    'bytes',
    1_048_576,
    1024,
    67_108_864,
    'Largest message of a WebSocket that is passed through, and most that waits for a slow origin.',
  ),
  addressPerSecond: integer(
    'ANTEROOM_ADDRESS_PER_SECOND',
    'requests/s',
    50,
    1,
    1_000_000,
    'Sustained rate of strangers behind one address (joins, mostly), of which thousands may share one; 16 times as many requests of people who are known.',
  ),
  addressBurst: integer(
    'ANTEROOM_ADDRESS_BURST',
    'requests',
    3000,
    1,
    1_000_000,
    'How far one address may run ahead of that rate.',
  ),
  visitorPerSecond: integer(
    'ANTEROOM_VISITOR_PER_SECOND',
    'requests/s',
    5,
    1,
    1_000_000,
    'Sustained rate of joins, claims and polls of one visitor.',
  ),
  visitorBurst: integer(
    'ANTEROOM_VISITOR_BURST',
    'requests',
    30,
    1,
    1_000_000,
    'How far one visitor may run ahead of that rate.',
  ),
  refusalsPerClose: integer(
    'ANTEROOM_REFUSALS_PER_CLOSE',
    'joins',
    5,
    1,
    1_000_000,
    'Of the joins that are refused because their address asks too often, one in this many also loses its connection: a flood must open new ones all the time. Connections of trusted proxies stay.',
  ),
  roomJoinsPerSecond: integer(
    'ANTEROOM_ROOM_JOINS_PER_SECOND',
    'joins/s',
    100_000,
    1,
    10_000_000,
    'Joins of one room, of everybody together; as many may come at once.',
  ),
  insidePerSecond: integer(
    'ANTEROOM_INSIDE_PER_SECOND',
    'requests/s',
    5000,
    0,
    1_000_000,
    'Sustained rate of requests of those who are inside, of one address, in each process, with a burst of ten seconds of it; 0: no limit.',
  ),
  streamsMax: integer(
    'ANTEROOM_STREAMS_MAX',
    'streams',
    19_000,
    1,
    1_000_000,
    'SSE and WebSocket streams of one process.',
  ),
  streamsPerVisitor: integer(
    'ANTEROOM_STREAMS_PER_VISITOR',
    'streams',
    8,
    1,
    1000,
    'Streams of one visitor in one process.',
  ),
  streamsPerAddress: integer(
    'ANTEROOM_STREAMS_PER_ADDRESS',
    'streams',
    5000,
    1,
    1_000_000,
    'Streams of one address (IPv6: one /64) in one process. Thousands of fans may share one.',
  ),
  streamsElsewhere: text(
    'ANTEROOM_STREAMS_ELSEWHERE',
    '',
    'Another address to try, named to whoever is refused because this process is full; https://… or a path. Empty: none.',
  ),
  streamsDrainMs: integer(
    'ANTEROOM_STREAMS_DRAIN_MS',
    'ms',
    20_000,
    0,
    40_000,
    'Longest time over which the streams of a process that stops are sent elsewhere, evenly; few take less.',
  ),
  streamMessageBytesMax: integer(
    'ANTEROOM_STREAM_MESSAGE_BYTES_MAX',
    'bytes',
    1024,
    125,
    65_536,
    'Longest message that a fan may send over a WebSocket of the line; a longer one closes it.',
  ),
  streamMessagesMax: integer(
    'ANTEROOM_STREAM_MESSAGES_MAX',
    'messages',
    100,
    0,
    1_000_000,
    'Messages that a fan may send over one WebSocket of the line. Nothing needs to be sent.',
  ),
  slowReaderBytesMax: integer(
    'ANTEROOM_SLOW_READER_BYTES_MAX',
    'bytes',
    16_384,
    1024,
    1_048_576,
    'Most that waits for one slow reader of a stream, of what must not be lost; beyond it is closed.',
  ),
  slowReaderMs: integer(
    'ANTEROOM_SLOW_READER_MS',
    'ms',
    20_000,
    1000,
    60_000,
    'A stream not writable for this long is closed.',
  ),
  connectionsMax: integer(
    'ANTEROOM_CONNECTIONS_MAX',
    'connections',
    19_700,
    10,
    1_000_000,
    'Connections to the public port of one process, streams included; lowered to what its file descriptors allow. Beyond, they are closed as they come.',
  ),
  overloadLagMs: integer(
    'ANTEROOM_OVERLOAD_LAG_MS',
    'ms',
    300,
    10,
    60_000,
    'When the event loop is late by this much for a second, newcomers are asked to come back later; at twice as much, those far back too; at four times, everybody without a session.',
  ),
  overloadRequests: integer(
    'ANTEROOM_OVERLOAD_REQUESTS',
    'requests',
    5000,
    1,
    1_000_000,
    'The same for requests of one process that wait for an answer. One whose body is still on its way waits for its sender, and does not count.',
  ),
  drainMs: integer(
    'ANTEROOM_DRAIN_MS',
    'ms',
    0,
    0,
    20_000,
    'After SIGTERM: how long the process says that it is not ready, and goes on serving, before it closes its ports.',
  ),
  stopMs: integer(
    'ANTEROOM_STOP_MS',
    'ms',
    10_000,
    100,
    60_000,
    'Longest wait for what is under way when stopping.',
  ),
  // Booking
  holdSeconds: integer(
    'ANTEROOM_HOLD_SECONDS',
    's',
    300,
    5,
    3600,
    'How long seats are held for someone who has not ordered.',
  ),
  paySeconds: integer(
    'ANTEROOM_PAY_SECONDS',
    's',
    120,
    5,
    3600,
    'How long an order may be paying before it expires.',
  ),
  seatsPerVisitor: integer(
    'ANTEROOM_SEATS_PER_VISITOR',
    'seats',
    6,
    1,
    100,
    'Most seats one visitor may hold or buy for one event.',
  ),
  reconcileMs: integer(
    'ANTEROOM_RECONCILE_MS',
    'ms',
    2000,
    100,
    60_000,
    'Between two passes of expiry and reconciliation.',
  ),
  paymentTimeoutMs: integer(
    'ANTEROOM_PAYMENT_TIMEOUT_MS',
    'ms',
    5000,
    100,
    60_000,
    'Longest wait for the payment provider; then the payment is looked up.',
  ),
} as const satisfies Record<string, Row>;

type ValueOf<R extends Row> = R extends { kind: 'integer' }
  ? number
  : R extends { kind: 'choice'; choices: readonly (infer C)[] }
    ? C
    : R extends { kind: 'list' }
      ? readonly string[]
      : string;
type Read = { -readonly [K in keyof typeof configTable]: ValueOf<(typeof configTable)[K]> };
export type Config = Readonly<Omit<Read, 'roles'>> & { readonly roles: readonly RoleName[] };

export class ConfigFault extends Error {
  readonly faults: readonly string[];
  constructor(faults: readonly string[]) {
    super(`Configuration has ${faults.length} fault(s):\n  ${faults.join('\n  ')}`);
    this.name = 'ConfigFault';
    this.faults = faults;
  }
}

const readRow = (row: Row, given: string | undefined, faults: string[]): unknown => {
  if (given === undefined || given === '') return row.default;
  switch (row.kind) {
    case 'integer': {
      const value = /^-?\d{1,15}$/.test(given) ? Number(given) : Number.NaN;
      if (!(value >= row.min && value <= row.max))
        faults.push(`${row.env} must be a whole number from ${row.min} to ${row.max} (${row.unit})`);
      return value;
    }
    case 'choice':
      if (!row.choices.includes(given)) faults.push(`${row.env} must be one of ${row.choices.join(', ')}`);
      return given;
    case 'list':
      return given
        .split(',')
        .map((part) => part.trim())
        .filter((part) => part !== '');
    default:
      return given;
  }
};

/** Where the customer's user JWTs are concerned. */
const userTokenFaults = (read: Record<string, unknown>): string[] => {
  const { jwksUrl, jwksFile, jwtIssuer, jwtAudience, jwtTyp, jwtAlgorithms } = read;
  const faults: string[] = [];
  if (jwksUrl === '' && jwksFile === '') return faults;
  if (jwksUrl !== '' && jwksFile !== '')
    faults.push('ANTEROOM_USER_JWKS_URL and ANTEROOM_USER_JWKS_FILE are one or the other');
  if (jwtIssuer === '' || jwtAudience === '')
    faults.push('ANTEROOM_USER_JWT_ISSUER and ANTEROOM_USER_JWT_AUDIENCE are needed with a JWKS');
  if (!/^[\w.+-]{1,60}$/.test(String(jwtTyp)))
    faults.push('ANTEROOM_USER_JWT_TYP must be a media type without its `application/`');
  // A list of text by its row; the algorithms without a public key (HS256, none) are unknown here.
  const algorithms = jwtAlgorithms as readonly string[];
  if (algorithms.length === 0 || !algorithms.every((alg) => Object.hasOwn(KEY_TYPES, alg)))
    faults.push(`ANTEROOM_USER_JWT_ALGORITHMS must be of ${Object.keys(KEY_TYPES).join(', ')}`);
  if (jwksUrl !== '') {
    const url = URL.canParse(String(jwksUrl)) ? new URL(String(jwksUrl)) : undefined;
    const isLoopback = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/.test(url?.hostname ?? '');
    if (url === undefined || !['http:', 'https:'].includes(url.protocol))
      faults.push('ANTEROOM_USER_JWKS_URL must be an http or https address');
    else if (url.username !== '' || url.password !== '')
      faults.push('ANTEROOM_USER_JWKS_URL must not carry a user or a password');
    else if (read.environment === 'production' && url.protocol === 'http:' && !isLoopback)
      faults.push(
        'ANTEROOM_USER_JWKS_URL must be https in production: whoever is on the way could put in keys',
      );
  }
  return faults;
};

const isPlainHttpUrl = (text: string): boolean => {
  if (!URL.canParse(text)) return false;
  const { protocol, username, password, search, hash } = new URL(text);
  return /^https?:$/.test(protocol) && username + password + search + hash === '';
};

/** Reads the table from an environment. Throws ConfigFault with every fault at once; values are never quoted. */
export const readConfig = (environment: Record<string, string | undefined>): Config => {
  const faults: string[] = [];
  const known = new Set<string>(Object.values(configTable).map((row) => row.env));
  for (const name of Object.keys(environment))
    if (name.startsWith('ANTEROOM_') && !known.has(name))
      faults.push(`${name} is not a setting; see docs/reference/config.md`);
  const read: Record<string, unknown> = {};
  for (const [name, row] of Object.entries(configTable))
    read[name] = readRow(row, environment[row.env], faults);
  for (const role of read.roles as string[])
    if (!roleNames.some((name) => name === role))
      faults.push(`ANTEROOM_ROLES has an unknown role; the roles are ${roleNames.join(', ')}`);
  faults.push(...userTokenFaults(read));
  if (read.otlpUrl !== '' && !isPlainHttpUrl(String(read.otlpUrl)))
    faults.push('ANTEROOM_OTLP_URL must be an http or https address without user, query and fragment');
  if (!/^(|\/.*|https?:\/\/.+)$/.test(String(read.streamsElsewhere)))
    faults.push('ANTEROOM_STREAMS_ELSEWHERE must be an http or https address, or a path');
  if ((read.tlsCert === '') !== (read.tlsKey === ''))
    faults.push('ANTEROOM_TLS_CERT and ANTEROOM_TLS_KEY are needed together');
  if (read.tlsCert !== '' && typeof read.publicUrl === 'string' && read.publicUrl.startsWith('http:'))
    faults.push('ANTEROOM_PUBLIC_URL must be an https address where ANTEROOM_TLS_CERT is set');
  if (typeof read.redisUrl === 'string' && read.redisUrl !== '') {
    const place = parseRedisPlace(read.redisUrl);
    if (place.outcome === 'fault') faults.push(`ANTEROOM_REDIS_URL ${place.says}`);
  }
  // Both were read as lists by their rows.
  for (const origin of read.allowedOrigins as string[])
    if (!isWebOrigin(origin))
      faults.push(
        'ANTEROOM_ALLOWED_ORIGINS must be origins as browsers write them, such as https://www.example.org: no `*`, no path, no slash at the end',
      );
  try {
    createNetworks(read.trustedProxies as string[]);
  } catch {
    // Said here with the other faults, without quoting what was given.
    faults.push('ANTEROOM_TRUSTED_PROXIES must be addresses or prefixes such as 10.0.0.0/8 or 2001:db8::/32');
  }
  if (read.environment === 'production') {
    const keys = parseKeys(String(read.keys));
    if (read.keys === '') faults.push('ANTEROOM_KEYS is needed in production; make some with `npm run keys`');
    else if (keys === undefined) faults.push('ANTEROOM_KEYS is malformed; make some with `npm run keys`');
    else if (!keys.every(looksDrawn))
      faults.push('ANTEROOM_KEYS was not drawn at random; make some with `npm run keys`');
    const sandbox = configTable.sandboxSecret.default;
    if (read.sandboxSecret === sandbox && (read.roles as string[]).includes('booking-core'))
      faults.push('ANTEROOM_SANDBOX_SECRET must be set in production: its default is public');
    if (read.publicUrl === '') faults.push('ANTEROOM_PUBLIC_URL is needed in production');
  }
  if (faults.length > 0) throw new ConfigFault(faults);
  // Each value was read by its own row above, so the record has the shape of the table.
  return read as unknown as Config;
};
