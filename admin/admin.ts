// The role for operators and security staff, on a port of its own: the page, and the API it is made of. Every
// route of the API stands in admin/access.ts with the role it needs; here each is given its handler, and nothing
// is reached before the caller is known and their role fits.

import { readdirSync, readFileSync } from 'node:fs';
import type { Clock } from '../kernel/clock.ts';
import type { Config } from '../kernel/config.ts';
import { Refusal } from '../kernel/errors.ts';
import { type Answer, createServer, type Handler, json, type Method, type Stream } from '../kernel/http.ts';
import type { Log } from '../kernel/log.ts';
import { orElse, type Redis } from '../kernel/redis.ts';
import type { Role } from '../kernel/role.ts';
import { type Sql, SqlUnavailable } from '../kernel/sql.ts';
import type { Tokens } from '../kernel/token.ts';
import { applyRoom, type RoomStore } from '../line/rooms.ts';
import { accessTable, mayUse, type RouteName } from './access.ts';
import { appendAudit, listAudit, verifyAudit } from './audit.ts';
import { createDecisionRoutes } from './decisions.ts';
import { createGuard } from './guard.ts';
import { readBody, readChoice, readInteger, readQuery, readRoom, readText } from './input.ts';
import { createLedgerRoutes } from './ledger.ts';
import { createMonitor } from './live.ts';
import { createOperatorStore, migrateAdmin, operatorRoles } from './operators.ts';
import { type AdminHandler, createRoomRoutes } from './rooms.ts';

export { verifyAudit } from './audit.ts';
export { ensureFirstOperator } from './operators.ts';

const headers = [
  ['x-content-type-options', 'nosniff'],
  ['referrer-policy', 'same-origin'],
  ['cross-origin-opener-policy', 'same-origin'],
  ['cross-origin-resource-policy', 'same-origin'],
  [
    'content-security-policy',
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
  ],
] as const;

const TYPES: Record<string, string> = {
  html: 'text/html; charset=utf-8',
  css: 'text/css; charset=utf-8',
  js: 'text/javascript; charset=utf-8',
  svg: 'image/svg+xml',
};

/** The files of the page, read once at the start; only what is in the folder can be asked for. */
const readPage = (): Map<string, Answer> => {
  const folder = new URL('./page/', import.meta.url);
  const files = new Map<string, Answer>();
  for (const name of readdirSync(folder)) {
    const type = TYPES[name.split('.').at(-1) ?? ''];
    if (type === undefined) continue;
    files.set(name, {
      status: 200,
      headers: [
        ['content-type', type],
        ['cache-control', 'no-cache'],
      ],
      body: readFileSync(new URL(name, folder)),
    });
  }
  return files;
};

/** The routes that read their own query; all others take none. */
const queried: ReadonlySet<string> = new Set<RouteName>([
  'GET /v1/rooms/:room/history',
  'GET /v1/decisions',
  'GET /v1/audit',
]);

/** Looks for settings that have not reached Redis this often, counted in passes of the monitor (1 s). */
const SYNC_PASSES = 3;

/** `rooms` is the store that main shares with the dispatcher. Resolves when the port is open. */
export const createAdmin = async (options: {
  config: Pick<
    Config,
    'host' | 'adminPort' | 'adminUrl' | 'bodyBytesMax' | 'slowReaderMs' | 'trustedProxies' | 'stopMs'
  >;
  sql: Sql;
  redis: Redis;
  rooms: RoomStore;
  tokens: Tokens;
  log: Log;
  clock: Clock;
}): Promise<Role & { port: number }> => {
  const { config, sql, redis, rooms, tokens, clock } = options;
  const log = options.log.with({ role: 'admin' });
  await migrateAdmin(sql);
  const page = readPage();
  const operators = createOperatorStore(sql);
  const guard = createGuard({ operators, tokens, clock, log, adminUrl: config.adminUrl });

  let passes = 0;
  const monitor = createMonitor({
    redis,
    clock,
    log,
    async onPass(seen) {
      passes += 1;
      if (passes % SYNC_PASSES !== 0) return;
      for (const row of await rooms.list())
        if ((seen.get(row.room)?.version ?? 0) < row.version)
          await orElse<unknown>(
            () => applyRoom({ rooms, redis, row }),
            (error) => log.error('room-not-applied', { room: row.room, error }),
          );
    },
  });
  const parts = { sql, redis, rooms, monitor, tokens, clock, log };
  const room = createRoomRoutes(parts);
  const decisions = createDecisionRoutes(parts);
  const ledger = createLedgerRoutes(parts);

  const readAudit: AdminHandler = async (request) => {
    const query = readQuery(request, ['room', 'limit', 'before']);
    const limit = readInteger(query, 'limit', { min: 1, max: 200, fallback: 50 });
    const before = readInteger(query, 'before', { min: 1, max: 2_000_000_000, fallback: 2_000_000_000 });
    const name = query.get('room');
    return json(200, {
      audit: await listAudit(sql, { room: name === undefined ? '' : readRoom(name), before, limit }),
    });
  };

  const addOperator: AdminHandler = async (request, operator) => {
    const fields = readBody(request, { known: ['name', 'role'] });
    const name = readText(fields, 'name', { min: 1, max: 80 });
    const role = readChoice(fields, 'role', operatorRoles);
    const made = await sql.transaction(async (tx) => {
      const created = await operators.create({ name, role }, tx);
      await appendAudit(
        tx,
        {
          operator: operator.name,
          action: 'operator.create',
          room: '',
          detail: { operatorId: operator.id, created: created.operator.id, name, role },
        },
        { nowMs: clock.nowMs(), log },
      );
      return created;
    });
    return json(201, { ...made.operator, token: made.token });
  };

  const disableOperator: AdminHandler = async (request, operator) => {
    readBody(request, { known: [], emptyAllowed: true });
    const id = request.params.operator ?? '';
    if (!/^[A-Za-z0-9_-]{12}$/.test(id)) throw new Refusal('bad-id');
    // Nobody locks the last door behind themselves: another admin has to do it.
    if (id === operator.id) throw new Refusal('role-missing', { detail: 'you cannot disable yourself' });
    const disabled = await sql.transaction(async (tx) => {
      const found = await operators.disable(id, tx);
      if (found !== undefined)
        await appendAudit(
          tx,
          {
            operator: operator.name,
            action: 'operator.disable',
            room: '',
            detail: { operatorId: operator.id, disabled: id, name: found.name },
          },
          { nowMs: clock.nowMs(), log },
        );
      return found;
    });
    if (disabled === undefined) throw new Refusal('operator-missing');
    return json(200, disabled);
  };

  const handlers: Record<RouteName, AdminHandler> = {
    'GET /v1/me': (_, { id, name, role }) => json(200, { id, name, role }),
    'GET /v1/rooms': room.list,
    'POST /v1/rooms': room.create,
    'GET /v1/rooms/:room': room.show,
    'PATCH /v1/rooms/:room': room.patch,
    'POST /v1/rooms/:room/suspend': room.suspend,
    'POST /v1/rooms/:room/resume': room.resume,
    'POST /v1/rooms/:room/notices': room.sayNotice,
    'GET /v1/rooms/:room/history': room.history,
    'GET /v1/rooms/:room/live': room.live,
    'GET /v1/rooms/:room/sales': ledger.list,
    'GET /v1/rooms/:room/sales/:sale/ledger': ledger.download,
    'GET /v1/decisions': decisions.list,
    'POST /v1/decisions/:decision/release': decisions.releaseOne,
    'GET /v1/audit': readAudit,
    'GET /v1/audit/verify': async () => json(200, await verifyAudit(sql)),
    'GET /v1/operators': async () => json(200, { operators: await operators.list() }),
    'POST /v1/operators': addOperator,
    'POST /v1/operators/:operator/disable': disableOperator,
  };

  /** The database's own refusal speaks of orders; here it is settings that cannot be reached. */
  const inOurWords =
    (run: Handler): Handler =>
    async (request): Promise<Answer | Stream> => {
      try {
        return await run(request);
      } catch (error) {
        if (error instanceof SqlUnavailable) throw new Refusal('settings-unavailable', { cause: error });
        throw error;
      }
    };

  const server = createServer({
    name: 'admin',
    host: config.host,
    port: config.adminPort,
    exclusive: true,
    log,
    bodyBytesMax: config.bodyBytesMax,
    slowReaderMs: config.slowReaderMs,
    trustedProxies: config.trustedProxies,
    headers,
  });
  const fileNamed = (name: string): Answer => {
    const file = page.get(name);
    if (file === undefined) throw new Refusal('not-found');
    return file;
  };
  server.route('GET', '/', () => fileNamed('index.html'));
  server.route('GET', '/assets/:file', (request) => fileNamed(request.params.file ?? ''));
  server.route('POST', '/login', inOurWords(guard.signIn), { bodyBytesMax: 1024 });
  server.route('POST', '/logout', guard.signOut, { bodyBytesMax: 1024 });
  for (const [name, run] of Object.entries(handlers)) {
    const [method, pattern] = name.split(' ');
    // `handlers` has exactly the names of accessTable, each a method, a space and a pattern.
    const need = accessTable[name as RouteName];
    server.route(
      method as Method,
      pattern!,
      inOurWords(async (request) => {
        const operator = await guard.identify(request);
        if (!mayUse(operator.role, need)) throw new Refusal('role-missing');
        if (!queried.has(name)) readQuery(request, []);
        return run(request, operator);
      }),
    );
  }
  const { port } = await server.listen();

  return {
    name: 'admin',
    port,
    async stop() {
      await monitor.stop();
      await server.close(config.stopMs / 2);
    },
    async ready() {
      const isUp = await sql.query('SELECT 1 AS one').then(
        () => true,
        () => false, // Why it is away stands in the log of whoever needed it.
      );
      return { redis: monitor.up(), database: isUp };
    },
  };
};
