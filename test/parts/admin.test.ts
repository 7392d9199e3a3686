// What operators and security staff are promised, over HTTP, on a real Redis and PostgreSQL.

import t from 'tap';
import { accessTable, mayUse } from '../../admin/access.ts';
import { createAdmin, ensureFirstOperator, verifyAudit } from '../../admin/admin.ts';
import { createOperatorStore, type OperatorRole, operatorRoles } from '../../admin/operators.ts';
import { risesOf } from '../../admin/rises.ts';
import { readConfig } from '../../kernel/config.ts';
import { parseRoomId } from '../../kernel/ids.ts';
import { silentLog } from '../../kernel/log.ts';
import type { Sql } from '../../kernel/sql.ts';
import { createTokens, generateKey, parseKeys } from '../../kernel/token.ts';
import { createRoomStore, ensureRoom, syncRooms } from '../../line/rooms.ts';
import { defaultSettings } from '../../line/settings.ts';
import { roomKeys } from '../../lua/room.ts';
import { openStream } from '../support/client.ts';
import { eventually } from '../support/eventually.ts';
import { joinOne } from '../support/one.ts';
import { startPostgres } from '../support/postgres.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';
import { standing } from '../support/standing-clock.ts';

type Got = { status: number; headers: Headers; text: string; body: Record<string, unknown> };

const ROOM = parseRoomId('demo')!;
const tokens = createTokens({ keys: parseKeys(generateKey('t'))!, issuer: 'http://test' });
const held = {} as Record<OperatorRole, string>; // Filled for every role before the first test.
let server: TestRedis;
let sql: Sql;
let base = '';

const call = async (
  method: string,
  path: string,
  options: { token?: string; body?: unknown; headers?: Record<string, string>; raw?: string } = {},
): Promise<Got> => {
  const { token, body, headers = {}, raw } = options;
  const sent = raw ?? (body === undefined ? undefined : JSON.stringify(body));
  const answer = await fetch(`${base}${path}`, {
    method,
    headers: {
      ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
      ...(sent === undefined ? {} : { 'content-type': 'application/json' }),
      ...headers,
    },
    ...(sent === undefined ? {} : { body: sent }),
  });
  const text = await answer.text();
  let parsed: unknown = {};
  try {
    parsed = JSON.parse(text);
  } catch {
    parsed = {}; // Pages are not JSON; their tests look at `text`.
  }
  return { status: answer.status, headers: answer.headers, text, body: parsed as Record<string, unknown> };
};
const admin = (method: string, path: string, body?: unknown): Promise<Got> =>
  call(method, path, { token: held.admin, body });
const versionNow = async (): Promise<number> => Number((await admin('GET', '/v1/rooms/demo')).body.version);
const change = async (fields: Record<string, unknown>): Promise<Got> =>
  admin('PATCH', '/v1/rooms/demo', { version: await versionNow(), ...fields });
const ownPage = () => ({ origin: base, 'sec-fetch-site': 'same-origin' });

let rooms: ReturnType<typeof createRoomStore>;
t.before(async () => {
  server = await startRedis(t);
  const config = { ...readConfig({}), adminPort: 0, stopMs: 500 };
  sql = await (await startPostgres(t)).connect();
  rooms = createRoomStore(sql);
  await rooms.migrate();
  await ensureRoom({ rooms, redis: server.client, room: ROOM, settings: defaultSettings });
  const role = await createAdmin({
    config,
    sql,
    redis: await server.connect('admin'),
    rooms,
    tokens,
    log: silentLog,
    clock: standing,
  });
  base = `http://127.0.0.1:${role.port}`;
  const [first, second] = await Promise.all([
    ensureFirstOperator(sql, config),
    ensureFirstOperator(sql, config),
  ]);
  held.admin = first.token ?? second.token ?? '';
  t.equal(
    [first.token, second.token].filter(Boolean).length,
    1,
    'two starts at once make one first operator',
  );
  const operators = createOperatorStore(sql);
  for (const name of operatorRoles)
    if (name !== 'admin') held[name] = (await operators.create({ name: `The ${name}`, role: name })).token;
  t.teardown(() => role.stop());
});

t.test('the first operator is made once, and its token is nowhere in the database', async (t) => {
  t.match(held.admin, /^aro_[A-Za-z0-9_-]{43}$/);
  t.same(await ensureFirstOperator(sql, { operatorToken: '' }), {}, 'a second start prints nothing');
  await t.rejects(ensureFirstOperator(sql, { operatorToken: 'short' }), /aro_/, 'a weak token is refused');
  const stored = JSON.stringify(await sql.query('SELECT * FROM operators'));
  t.notMatch(stored, new RegExp(held.admin.slice(4)));
});

t.test('every route refuses who has not signed in, and every role that is not meant for it', async (t) => {
  const path = (pattern: string) =>
    pattern
      .replace(':room', 'no-such-room')
      .replace(':sale', '1')
      .replace(':decision', 'demo.1-1')
      .replace(':operator', 'AAAAAAAAAAAA');
  for (const [name, need] of Object.entries(accessTable)) {
    const [method = '', pattern = ''] = name.split(' ');
    const nobody = await call(method, path(pattern));
    t.same([nobody.status, nobody.body.code], [401, 'token-missing'], `${name} without a token`);
    const other = await call(method, path(pattern), { headers: { authorization: 'Basic x' } });
    t.same([other.status, other.body.code], [401, 'token-invalid'], `${name} with another scheme`);
    for (const role of operatorRoles) {
      const { status, body } = await call(method, path(pattern), { token: held[role] });
      if (mayUse(role, need)) t.not(body.code, 'role-missing', `${name} lets ${role} in (${status})`);
      else t.same([status, body.code], [403, 'role-missing'], `${name} keeps ${role} out`);
    }
  }
});

t.test('signing in trades the token for a cookie that scripts cannot read', async (t) => {
  const signIn = await call('POST', '/login', { body: { token: held.admin }, headers: ownPage() });
  t.equal(signIn.status, 200);
  const set = signIn.headers.get('set-cookie') ?? '';
  t.match(set, /^ar_admin=[^;]+; Path=\/; HttpOnly; SameSite=Strict; Max-Age=43200$/);
  t.notMatch(set, held.admin);
  const cookie = set.split(';')[0]!;

  t.equal((await call('GET', '/v1/me', { headers: { cookie } })).body.role, 'admin');
  const body = { text: 'hello', level: 'info' };
  const path = '/v1/rooms/demo/notices';
  const foreign: Record<string, string>[] = [
    {},
    { origin: 'https://evil.example' },
    { origin: 'null' },
    { 'sec-fetch-site': 'cross-site', origin: base },
    { 'sec-fetch-site': 'same-site' },
  ];
  for (const headers of foreign) {
    const refused = await call('POST', path, { body, headers: { cookie, ...headers } });
    t.same([refused.status, refused.body.code], [403, 'origin-refused'], JSON.stringify(headers));
  }
  t.equal((await call('POST', path, { body, headers: { cookie, origin: base } })).status, 201);
  t.equal((await call('POST', path, { body, headers: { cookie, ...ownPage() } })).status, 201);

  const forged = `${cookie.slice(0, -4)}AAAA`;
  t.equal((await call('GET', '/v1/me', { headers: { cookie: forged } })).body.code, 'token-invalid');
  const confirm = tokens.sign('operator-csrf', ['confirm', 9e15, 'x', 'demo', 1, '']);
  const crossed = await call('GET', '/v1/me', { headers: { cookie: `ar_admin=${confirm}` } });
  t.equal(crossed.body.code, 'token-invalid', 'a confirmation is no sign-in');
  const [, id] = tokens.verify('operator-csrf', cookie.slice('ar_admin='.length))!;
  const old = tokens.sign('operator-csrf', ['signed-in', id!, Date.now() - 1]);
  const expired = await call('GET', '/v1/me', { headers: { cookie: `ar_admin=${old}` } });
  t.equal(expired.body.code, 'token-invalid', 'after twelve hours it is over');

  const out = await call('POST', '/logout', { headers: { cookie, ...ownPage() } });
  t.match(out.headers.get('set-cookie') ?? '', /^ar_admin=; .*Max-Age=0/);
  const without = await call('POST', '/login', { body: { token: held.admin } });
  t.equal(without.body.code, 'origin-refused', 'another page cannot sign anybody in');
});

t.test('a change goes to SQL, to Redis and into the audit trail, once', async (t) => {
  const version = await versionNow();
  const changed = await admin('PATCH', '/v1/rooms/demo', { version, totalActiveUsers: 120 });
  t.match(changed, { status: 200, body: { version: version + 1, applied: true } });
  t.equal(await server.client.hget(roomKeys(ROOM).room, 'totalActiveUsers'), '120');
  t.equal((await rooms.get(ROOM))?.settings.totalActiveUsers, 120);
  const again = await admin('PATCH', '/v1/rooms/demo', { version, totalActiveUsers: 130 });
  t.same([again.status, again.body.code], [409, 'settings-conflict'], 'who saw an older version is told');
  const { audit } = (await admin('GET', '/v1/audit?room=demo&limit=1')).body as {
    audit: { action: string; detail: { changes: unknown } }[];
  };
  t.match(audit[0], {
    action: 'room.change',
    detail: { changes: { totalActiveUsers: { from: 100, to: 120 } } },
  });
});

t.test('of many editors of one version exactly one wins', async (t) => {
  const version = await versionNow();
  const all = await Promise.all(
    Array.from({ length: 10 }, (_, index) =>
      admin('PATCH', '/v1/rooms/demo', { version, totalActiveUsers: 100 + index }),
    ),
  );
  t.equal(all.filter(({ status }) => status === 200).length, 1);
  t.equal(all.filter(({ body }) => body.code === 'settings-conflict').length, 9);
});

t.test('suspend and resume need no version, and nothing else is lost', async (t) => {
  const [a, b] = await Promise.all([admin('POST', '/v1/rooms/demo/suspend'), change({ title: 'A night' })]);
  t.equal(a.status, 200);
  t.ok([200, 409].includes(b.status));
  t.equal(await server.client.hget(roomKeys(ROOM).room, 'suspended'), '1');
  const live = (await admin('GET', '/v1/rooms/demo')).body.live as { state: string };
  t.equal(live.state, 'suspended');
  t.equal((await admin('POST', '/v1/rooms/demo/resume', {})).status, 200);
  t.equal(await server.client.hget(roomKeys(ROOM).room, 'suspended'), '0');
});

t.test('a steep rise is shown first, and its confirmation is good for nothing else', async (t) => {
  const version = await versionNow();
  const rate = { version, newUsersPerMinute: 6000 };
  const first = await admin('PATCH', '/v1/rooms/demo', rate);
  t.same([first.status, first.body.code], [409, 'preview-required']);
  const preview = first.body.preview as { from: number; to: number; confirm: string };
  t.match(preview, { from: 60, to: 6000 });
  t.equal(await server.client.hget(roomKeys(ROOM).room, 'newUsersPerMinute'), '60', 'nothing has changed');
  const more = await admin('PATCH', '/v1/rooms/demo', {
    ...rate,
    newUsersPerMinute: 60_000,
    confirm: preview.confirm,
  });
  t.equal(more.body.code, 'preview-required', 'not for a higher rate');
  const other = await call('PATCH', '/v1/rooms/demo', {
    token: held.operator,
    body: { ...rate, confirm: preview.confirm },
  });
  t.equal(other.body.code, 'preview-required', 'not for another operator');
  const forged = await admin('PATCH', '/v1/rooms/demo', { ...rate, confirm: 'x.y.z' });
  t.equal(forged.body.code, 'preview-required');
  t.equal((await admin('PATCH', '/v1/rooms/demo', { ...rate, confirm: preview.confirm })).status, 200);
  t.equal((await change({ newUsersPerMinute: 60 })).status, 200, 'down needs no second look');
  t.equal((await change({ newUsersPerMinute: 159 })).status, 200, 'neither does a small step');

  const over = (changes: object) =>
    risesOf(defaultSettings, { ...defaultSettings, ...changes }).map((r) => r.field);
  t.same(over({ newUsersPerMinute: 160 }), ['newUsersPerMinute']);
  t.same(over({ newUsersPerMinute: 120 }), []);
  t.same(over({ burst: 5000 }), ['burst'], 'a burst opens the door as wide as a rate');
  t.same(over({ queueingMethod: 'passthrough' }), ['queueingMethod']);
  t.same(over({ sale: 2 }), ['sale'], 'a new sale takes every place of the old one');
});

t.test('the audit trail shows every kind of tampering', async (t) => {
  const verify = async () => (await admin('GET', '/v1/audit/verify')).body;
  t.equal((await verify()).outcome, 'intact');
  // Each is done in a transaction that is rolled back, so that the next finds the trail whole.
  const tampered: [string, string, RegExp][] = [
    ['a changed name', `UPDATE audit SET operator = 'Nobody' WHERE seq = 2`, /changed/],
    ['a changed detail', `UPDATE audit SET detail = '{}' WHERE seq = 2`, /changed/],
    ['a row taken out', 'DELETE FROM audit WHERE seq = 2', /missing/],
    ['the end cut off', 'DELETE FROM audit WHERE seq = (SELECT max(seq) FROM audit)', /missing/],
    ['a row put before', `UPDATE audit SET seq = 0 WHERE seq = 1`, /missing/],
    ['everything taken out', 'DELETE FROM audit', /missing/],
  ];
  for (const [what, statement, says] of tampered) {
    class Undo extends Error {}
    await sql
      .transaction(async (tx) => {
        await tx.query(statement);
        const verdict = await verifyAudit(tx);
        t.match(verdict, { outcome: 'broken', says }, what);
        throw new Undo();
      })
      .catch((error: unknown) => {
        if (!(error instanceof Undo)) throw error;
      });
  }
  t.equal((await verify()).outcome, 'intact', 'and it is whole again');
});

t.test('concurrent changes leave one unbroken chain', async (t) => {
  await Promise.all(
    Array.from({ length: 8 }, (_, index) =>
      admin('POST', '/v1/rooms/demo/notices', { text: `number ${index}`, level: 'info' }),
    ),
  );
  t.equal((await admin('GET', '/v1/audit/verify')).body.outcome, 'intact');
});

t.test('a notice reaches the entry stream and the live numbers; an empty one takes it away', async (t) => {
  const text = '<b>Doors</b> open "soon" & quietly';
  const said = await admin('POST', '/v1/rooms/demo/notices', { text, level: 'warning' });
  t.equal(said.status, 201);
  const [last] = await server.client.xrevrange(roomKeys(ROOM).entries, '+', '-', 'COUNT', 1);
  t.match(last?.[1], ['kind', 'notice'], 'the record is a notice');
  t.ok(last?.[1].includes(text), 'word for word');
  const live = (await admin('GET', '/v1/rooms/demo')).body.live;
  t.match(live, { notice: { text, level: 'warning' } });
  await admin('POST', '/v1/rooms/demo/notices', { text: '' });
  t.match((await admin('GET', '/v1/rooms/demo')).body.live, { notice: { text: '' } });
});

const withhold = async (name: string) => {
  const placeId = name.padEnd(16, '_');
  const joined = await joinOne(server.client, roomKeys(ROOM), { nowMs: '', placeId, verdict: 'block' });
  if (joined.outcome !== 'joined') throw new Error(joined.outcome);
  await server.client.xadd(
    roomKeys(ROOM).decisions,
    '*',
    ...['at', Date.now(), 'placeId', placeId, 'number', joined.number, 'verdict', 'block', 'weight', 9],
    ...['reasons', JSON.stringify([{ check: 'agent', words: '<img src=x onerror=alert(1)>' }])],
    ...['agent', '<script>alert(1)</script>', 'address', '203.0.113.0/24'],
  );
  return { placeId, score: joined.score };
};

t.test('a released place stands where an unblocked twin would', async (t) => {
  const { placeId, score } = await withhold('innocent');
  await withhold('other');
  const listed = await call('GET', '/v1/decisions?room=demo&verdict=block&limit=10', {
    token: held.security,
  });
  const rows = listed.body.decisions as { decision: string; placeId: string; withheld: boolean }[];
  t.equal(rows.length, 2);
  t.match(rows[1], {
    placeId,
    withheld: true,
    agent: '<script>alert(1)</script>',
    addressPrefix: '203.0.113.0/24',
  });
  t.match(rows[1], { reasons: [{ check: 'agent', words: '<img src=x onerror=alert(1)>' }] });
  t.match(listed.headers.get('content-type'), /^application\/json/, 'stored text is never sent as a page');
  t.equal(listed.headers.get('x-content-type-options'), 'nosniff');

  const path = `/v1/decisions/${rows[1]!.decision}/release`;
  const released = await call('POST', path, { token: held.security });
  t.match(released, { status: 200, body: { outcome: 'released' } });
  t.equal(await server.client.zscore(roomKeys(ROOM).line, placeId), String(score));
  t.match((await call('POST', path, { token: held.security })).body, { outcome: 'notWithheld' }, 'once');
  const after = await call('GET', '/v1/decisions', { token: held.security });
  t.same(
    (after.body.decisions as { withheld: boolean }[]).map((row) => row.withheld),
    [true, false],
  );
  const { audit } = (await admin('GET', '/v1/audit?limit=2')).body as { audit: unknown[] };
  t.match(audit[1], {
    action: 'decision.release',
    operator: 'The security',
    detail: { outcome: 'released' },
  });

  const page = await call('GET', `/v1/decisions?room=demo&limit=1&before=${rows[0]!.decision}`, {
    token: held.security,
  });
  t.equal((page.body.decisions as { placeId: string }[])[0]?.placeId, placeId, 'older ones on the next page');
  t.equal((await admin('POST', '/v1/decisions/demo.1-1/release')).body.code, 'decision-missing');
  t.equal((await admin('POST', '/v1/decisions/demo.x/release')).body.code, 'bad-id');
});

t.test('the live numbers count from the sets, and the second look after a change knows of it', async (t) => {
  const stream = await openStream(`${base}/v1/rooms/demo/live`, {
    headers: { authorization: `Bearer ${held.viewer}` },
  });
  t.equal(stream.answered, 200);
  const waiting = await server.client.zcard(roomKeys(ROOM).line);
  await joinOne(server.client, roomKeys(ROOM), { nowMs: '', placeId: 'newcomer________' });
  const [seconds, micros] = (await server.client.time()).map(Number);
  const joinedMs = seconds! * 1000 + Math.floor(micros! / 1000);
  // A look says when it was, by the same clock. One may have counted just before and asked the time just after.
  let looksAfter = 0;
  let isSeen = false;
  for await (const { event, data } of stream) {
    if (event !== 'live') continue;
    const live = JSON.parse(data);
    if (live.atMs > joinedMs) looksAfter += 1;
    isSeen = live.waiting === waiting + 1;
    if (isSeen || looksAfter > 1) break;
  }
  t.ok(isSeen, `seen in look ${looksAfter} after it`);
  stream.close();
  const history = await call('GET', '/v1/rooms/demo/history?minutes=15', { token: held.viewer });
  t.match(history.body, {
    room: 'demo',
    samples: [{ waiting: Number, active: Number, promotedTotal: Number }],
  });
});

t.test('a room is made once, in SQL and in Redis', async (t) => {
  const made = await admin('POST', '/v1/rooms', { room: 'second', title: 'Second', routes: ['/second'] });
  t.match(made, { status: 201, body: { room: 'second', version: 1, applied: true } });
  t.equal(await server.client.sismember('ar:rooms', 'second'), 1);
  t.equal((await admin('POST', '/v1/rooms', { room: 'second' })).body.code, 'room-exists');
  t.equal(((await admin('GET', '/v1/rooms')).body.rooms as unknown[]).length, 2);
});

t.test('a room that Redis lost is left to recovery, never made anew', async (t) => {
  const second = parseRoomId('second')!;
  t.match(await rooms.memoryOf(second), { nextNumber: 0 }, 'it is remembered from its first moment');
  await server.client.del(roomKeys(second).room);
  await syncRooms({ rooms, redis: server.client, log: silentLog });
  t.equal(await server.client.exists(roomKeys(second).room), 0);
  t.match(await admin('POST', '/v1/rooms/second/suspend'), { status: 200, body: { applied: false } });
  t.equal((await admin('POST', '/v1/rooms/second/notices', { text: 'x' })).body.code, 'unavailable');
  t.match(await admin('GET', '/v1/rooms/second'), { status: 200, body: { live: null } });
});

t.test('a recovery is told with its progress for as long as the room remembers it', async (t) => {
  t.notOk('recovery' in ((await admin('GET', '/v1/rooms/demo')).body.live as object), 'there was none');
  await server.client.hset(roomKeys(ROOM).room, {
    ...{ recoverReason: 'failover', recoveredAt: 1000, lostWaiting: 1884, restoredTotal: 1204 },
    ...{ adoptedTotal: 12, adoptedOverCapTotal: 2 },
  });
  t.match((await admin('GET', '/v1/rooms/demo')).body.live, {
    recovery: {
      reason: 'failover',
      recoveredAtMs: 1000,
      untilMs: 0,
      lostWaiting: 1884,
      restored: 1204,
      adopted: 12,
      adoptedOverCap: 2,
    },
  });
});

t.test('how often the estimates of waiting times held is told from what the room has learnt', async (t) => {
  t.match((await admin('GET', '/v1/rooms/demo')).body.live, { calibration: { right: 0, total: 0 } });
  await server.client.hset(roomKeys(ROOM).room, { etaRight: 1085, etaTotal: 1204 });
  t.match((await admin('GET', '/v1/rooms/demo')).body.live, { calibration: { right: 1085, total: 1204 } });
});

t.test('an older memory never replaces a newer one', async (t) => {
  await rooms.remember(ROOM, { sale: 1, epoch: 9e12, head: 50, nextNumber: 100 });
  await rooms.remember(ROOM, { sale: 1, epoch: 9e12, head: 40, nextNumber: 90 });
  await rooms.remember(ROOM, { sale: 1, epoch: 8e12, head: 900, nextNumber: 900 });
  t.same(await rooms.memoryOf(ROOM), { sale: 1, epoch: 9e12, head: 50, nextNumber: 100 });
  await rooms.remember(ROOM, { sale: 1, epoch: 9e12 + 1, head: 10, nextNumber: 20 });
  t.same(await rooms.memoryOf(ROOM), { sale: 1, epoch: 9e12 + 1, head: 10, nextNumber: 20 });
  await rooms.remember(ROOM, { sale: 2, epoch: 9e12 + 1, head: 0, nextNumber: 1 });
  await rooms.remember(ROOM, { sale: 1, epoch: 9e12 + 2, head: 99, nextNumber: 99 });
  t.same(
    await rooms.memoryOf(ROOM),
    { sale: 2, epoch: 9e12 + 1, head: 0, nextNumber: 1 },
    'a new sale begins low',
  );
});

t.test('settings saved while Redis was away reach it by themselves', async (t) => {
  await server.kill();
  const saved = await change({ totalActiveUsers: 77 });
  t.match(saved, { status: 200, body: { applied: false } });
  t.match((await admin('GET', '/v1/rooms/demo')).body, { live: null }, 'the page still shows what SQL knows');
  await server.start();
  // It came back empty. What follows is what a dispatcher's recovery leaves behind: the room, at an older version.
  await eventually('the room is restored', async () => {
    await server.client.hset(roomKeys(ROOM).room, {
      ...{ version: 1, tokens: 0, tokensAt: 0, newUsersPerMinute: 60, epoch: 1, recoveringUntil: 0 },
      settings: JSON.stringify(defaultSettings),
    });
    await server.client.sadd('ar:rooms', ROOM);
    return true;
  });
  await eventually(
    'the cap is in effect',
    async () => (await server.client.hget(roomKeys(ROOM).room, 'totalActiveUsers')) === '77',
  );
});

t.test('operators come and go, and who was disabled is out at once', async (t) => {
  const made = await admin('POST', '/v1/operators', { name: 'Robin <i>', role: 'viewer' });
  t.equal(made.status, 201);
  const token = String(made.body.token);
  t.equal((await call('GET', '/v1/me', { token })).body.name, 'Robin <i>');
  t.equal((await admin('POST', `/v1/operators/${made.body.id}/disable`)).status, 200);
  t.equal((await call('GET', '/v1/me', { token })).body.code, 'token-invalid');
  t.equal((await admin('POST', '/v1/operators/AAAAAAAAAAAA/disable')).body.code, 'operator-missing');
  t.equal((await admin('POST', '/v1/operators/x/disable')).body.code, 'bad-id');
  const me = (await admin('GET', '/v1/me')).body.id;
  t.equal((await admin('POST', `/v1/operators/${me}/disable`)).status, 403, 'nobody locks themselves out');
  t.notMatch((await admin('GET', '/v1/operators')).text, /hash|aro_/);
});

t.test('bad input changes nothing and says which field', async (t) => {
  const before = (await admin('GET', '/v1/audit?limit=1')).text;
  const version = await versionNow();
  const long = 'x'.repeat(281);
  const cases: [string, string, unknown, number, string][] = [
    ['PATCH', '/v1/rooms/demo', { version }, 400, 'bad-field'],
    ['PATCH', '/v1/rooms/demo', { burst: 1 }, 400, 'bad-field'],
    ['PATCH', '/v1/rooms/demo', { version: '1', burst: 1 }, 400, 'bad-field'],
    ['PATCH', '/v1/rooms/demo', { version, burst: 1, confirm: 5 }, 400, 'bad-field'],
    ['PATCH', '/v1/rooms/demo', { version, colour: 'red' }, 422, 'settings-invalid'],
    ['PATCH', '/v1/rooms/demo', { version, newUsersPerMinute: '60' }, 422, 'settings-invalid'],
    ['PATCH', '/v1/rooms/demo', { version, newUsersPerMinute: 1.5 }, 422, 'settings-invalid'],
    ['PATCH', '/v1/rooms/demo', { version, newUsersPerMinute: 1e12 }, 422, 'settings-invalid'],
    ['PATCH', '/v1/rooms/demo', { version, title: 'a\u0000b' }, 422, 'settings-invalid'],
    ['PATCH', '/v1/rooms/demo', { version, title: '\ud800' }, 422, 'settings-invalid'],
    ['PATCH', '/v1/rooms/demo', { version, sale: 0 }, 422, 'settings-invalid'],
    ['PATCH', '/v1/rooms/demo', [], 400, 'bad-json'],
    ['PATCH', '/v1/rooms/demo', { title: 'x'.repeat(2_000_000) }, 413, 'body-too-large'],
    ['PATCH', '/v1/rooms/nowhere', { version, burst: 1 }, 404, 'room-unknown'],
    ['PATCH', '/v1/rooms/NO', { version, burst: 1 }, 400, 'bad-id'],
    ['POST', '/v1/rooms', {}, 400, 'bad-id'],
    ['POST', '/v1/rooms', { room: 5 }, 400, 'bad-id'],
    ['POST', '/v1/rooms', { room: 'third', routes: ['/rooms'] }, 422, 'settings-invalid'],
    ['POST', '/v1/rooms/demo/suspend', { for: 5 }, 400, 'bad-field'],
    ['POST', '/v1/rooms/demo/resume', 'x', 400, 'bad-json'],
    ['POST', '/v1/rooms/demo/notices', { text: long }, 400, 'bad-field'],
    ['POST', '/v1/rooms/demo/notices', { text: 5 }, 400, 'bad-field'],
    ['POST', '/v1/rooms/demo/notices', { text: 'x\u0007' }, 400, 'bad-field'],
    ['POST', '/v1/rooms/demo/notices', { text: 'x', level: 'loud' }, 400, 'bad-field'],
    ['POST', '/v1/rooms/demo/notices', { text: 'x', to: 'all' }, 400, 'bad-field'],
    ['POST', '/v1/rooms/nowhere/notices', { text: 'x' }, 404, 'room-unknown'],
    ['GET', '/v1/rooms/demo?x=1', undefined, 400, 'bad-field'],
    ['GET', '/v1/rooms/nowhere', undefined, 404, 'room-unknown'],
    ['GET', '/v1/rooms/nowhere/live', undefined, 404, 'room-unknown'],
    ['GET', '/v1/rooms/demo/history?minutes=16', undefined, 400, 'bad-field'],
    ['GET', '/v1/rooms/demo/history?minutes=1&minutes=2', undefined, 400, 'bad-field'],
    ['GET', '/v1/decisions?limit=201', undefined, 400, 'bad-field'],
    ['GET', '/v1/decisions?limit=-1', undefined, 400, 'bad-field'],
    ['GET', '/v1/decisions?verdict=allow', undefined, 400, 'bad-field'],
    ['GET', '/v1/decisions?before=demo.1-1', undefined, 400, 'bad-field'],
    ['GET', '/v1/decisions?room=nowhere', undefined, 404, 'room-unknown'],
    ['GET', '/v1/audit?limit=0', undefined, 400, 'bad-field'],
    ['GET', '/v1/audit?who=me', undefined, 400, 'bad-field'],
    ['POST', '/v1/operators', { name: '', role: 'viewer' }, 400, 'bad-field'],
    ['POST', '/v1/operators', { name: 'x', role: 'root' }, 400, 'bad-field'],
    ['GET', '/v1/nothing', undefined, 404, 'not-found'],
    ['GET', '/assets/../admin.ts', undefined, 404, 'not-found'],
    ['GET', '/assets/admin.ts', undefined, 404, 'not-found'],
    ['POST', '/v1/audit', {}, 405, 'wrong-method'],
  ];
  for (const [method, path, body, status, code] of cases) {
    const got = await admin(method, path, body);
    t.same(
      [got.status, got.body.code],
      [status, code],
      `${method} ${path} ${JSON.stringify(body)?.slice(0, 60)}`,
    );
  }
  const patch = (options: object) => call('PATCH', '/v1/rooms/demo', { token: held.admin, ...options });
  t.equal((await patch({ raw: '{' })).body.code, 'bad-json');
  t.equal((await patch({ raw: '{}', headers: { 'content-type': 'text/plain' } })).body.code, 'wrong-type');
  t.equal((await patch({ raw: `{"title":"${'x'.repeat(20_000)}"}` })).status, 413);
  t.equal((await call('POST', '/login', { raw: '[]', headers: ownPage() })).body.code, 'bad-json');
  t.equal((await call('POST', '/login', { body: { tokn: 'x' }, headers: ownPage() })).body.code, 'bad-field');
  const faults = await admin('PATCH', '/v1/rooms/demo', { version, colour: 1, burst: -1 });
  t.equal((faults.body.faults as unknown[]).length, 2, 'all faults at once');
  t.equal((await admin('GET', '/v1/audit?limit=1')).text, before, 'nothing was done');
});

t.test('the page is served with a policy that runs no script but its own', async (t) => {
  const page = await call('GET', '/');
  t.equal(page.status, 200);
  t.match(page.headers.get('content-security-policy'), /default-src 'none'; script-src 'self'/);
  t.notMatch(page.text, /<script(?![^>]*\bsrc=)|\son[a-z]+=|style="/i, 'no inline script, handler or style');
  for (const [, file] of page.text.matchAll(/(?:src|href)="\/assets\/([^"]+)"/g)) {
    const asset = await call('GET', `/assets/${file}`);
    t.equal(asset.status, 200, `${file} is there`);
    t.notMatch(
      asset.text,
      /innerHTML|outerHTML|insertAdjacentHTML|document\.write/,
      `${file} sets text only as text`,
    );
  }
});

t.test('who guesses tokens is slowed down', async (t) => {
  let refused = 0;
  let slowed: Got | undefined;
  while (slowed === undefined && refused < 50) {
    const got = await call('POST', '/login', {
      body: { token: `aro_${'x'.repeat(43)}` },
      headers: ownPage(),
    });
    if (got.status === 429) slowed = got;
    else refused += 1;
  }
  t.ok(refused <= 11, `${refused} guesses were answered`);
  t.equal(slowed?.body.code, 'too-many-requests');
  t.ok(slowed?.headers.get('retry-after'));
});

t.test('with the database gone settings cannot be read, and the answer says so', async (t) => {
  const [me] = await createOperatorStore(sql).list();
  const cookie = `ar_admin=${tokens.sign('operator-csrf', ['signed-in', me!.id, Date.now() + 60_000])}`;
  t.equal((await call('GET', '/v1/me', { headers: { cookie } })).status, 200);
  await sql.close();
  const got = await call('GET', '/v1/rooms', { headers: { cookie } });
  t.same([got.status, got.body.code], [503, 'settings-unavailable']);
});
