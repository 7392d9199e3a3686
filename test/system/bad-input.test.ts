// Every public route against bad input: a clear problem+json with a code, nothing changed, the process alive.

import t from 'tap';
import { parsePlaceId, parseRoomId } from '../../kernel/ids.ts';
import { createTokens, generateKey, parseKeys } from '../../kernel/token.ts';
import { signClaim, signReceipt, signSession } from '../../line/receipt.ts';
import { newVisitor } from '../../line/visitor.ts';
import { roomKeys } from '../../lua/room.ts';
import { rawRequest } from '../support/client.ts';
import { eventually } from '../support/eventually.ts';
import { Fan, type FanAnswer } from '../support/fan.ts';
import { startRedis } from '../support/redis.ts';
import { createSystem } from '../support/system.ts';

t.setTimeout(600_000);

t.test('bad input on every public route is refused in words and changes nothing', async (t) => {
  const redis = await startRedis(t);
  const system = await createSystem(t, {
    ANTEROOM_REDIS_URL: redis.url,
    ANTEROOM_LOG_LEVEL: 'error',
    ANTEROOM_VISITOR_BURST: '10000',
    ANTEROOM_VISITOR_PER_SECOND: '10000',
  });
  const child = await system.start();
  const room = parseRoomId('demo')!;
  const keys = roomKeys(room);
  const state = async () => {
    const sizes: Record<string, number> = {};
    for (const name of ['line', 'parked', 'withheld', 'promoted', 'active'] as const)
      sizes[name] = await redis.client.zcard(keys[name]);
    return { ...sizes, nextNumber: await redis.client.hget(keys.room, 'nextNumber') };
  };
  const stranger = () => new Fan({ base: system.base, index: 77 });
  const refused = async (what: string, ask: Promise<FanAnswer>, status: number, code: string) => {
    const answer = await ask;
    t.equal(answer.status, status, `${what}: ${answer.text.slice(0, 200)}`);
    t.equal(answer.json.code, code, what);
    t.match(answer.headers['content-type'], /application\/problem\+json/, what);
    t.notMatch(answer.text, /node_modules|\.ts:|\n +at /, `${what}: nothing of the inside is shown`);
  };
  const raw = (path: string, body: string | undefined, type: string | undefined, method = 'POST') =>
    stranger().ask(method, path, {
      headers: type === undefined ? {} : { 'content-type': type },
      ...(body === undefined ? {} : { raw: body }),
    });
  const part = async (name: string, work: () => Promise<void>) => {
    t.comment(name);
    await work();
  };
  const before = await state();

  await part('methods', async () => {
    for (const [method, path] of [
      ['PUT', '/v1/rooms/demo/places'],
      ['GET', '/v1/rooms/demo/places'],
      ['POST', '/v1/rooms/demo/places/me'],
      ['DELETE', '/v1/rooms/demo'],
      ['POST', '/v1/rooms/demo/events'],
      ['GET', '/v1/rooms/demo/pass'],
      ['POST', '/.well-known/jwks.json'],
      ['PATCH', '/rooms/demo'],
    ] as const)
      await refused(`${method} ${path}`, stranger().ask(method, path), 405, 'wrong-method');
  });

  await part('bodies', async () => {
    for (const path of ['/v1/rooms/demo/places', '/v1/rooms/demo/pass']) {
      await refused(`${path} text`, raw(path, 'x', 'text/plain'), 415, 'wrong-type');
      await refused(`${path} cut`, raw(path, '{"a":', 'application/json'), 400, 'bad-json');
      for (const body of ['[]', 'null', '1', '"x"'])
        await refused(`${path} ${body}`, raw(path, body, 'application/json'), 400, 'bad-json');
      await refused(`${path} unknown`, raw(path, '{"score":1}', 'application/json'), 400, 'bad-field');
      await refused(
        `${path} prototype`,
        raw(path, '{"__proto__":"x"}', 'application/json'),
        400,
        'bad-field',
      );
      await refused(
        `${path} large`,
        raw(path, `{"receipt":"${'x'.repeat(1_000_000)}"}`, 'application/json'),
        413,
        'body-too-large',
      );
    }
    await refused(
      'receipt of another type',
      raw('/v1/rooms/demo/places', '{"receipt":7}', 'application/json'),
      400,
      'bad-field',
    );
    await refused(
      'a form as JSON',
      raw('/rooms/demo', '{"act":"join"}', 'application/json'),
      415,
      'wrong-type',
    );
    await refused(
      'a form without an act',
      raw('/rooms/demo', 'act=dance', 'application/x-www-form-urlencoded'),
      400,
      'bad-field',
    );
    await refused(
      'a form from elsewhere',
      stranger().ask('POST', '/rooms/demo', {
        raw: 'act=join',
        headers: {
          'content-type': 'application/x-www-form-urlencoded',
          origin: 'https://evil.example',
          'sec-fetch-site': 'cross-site',
        },
      }),
      403,
      'origin-refused',
    );
  });

  await part('names', async () => {
    for (const [path, status, code] of [
      ['/v1/rooms/nowhere', 404, 'room-unknown'],
      ['/v1/rooms/UPPER', 400, 'bad-id'],
      ['/v1/rooms/a_b/places/me', 400, 'bad-id'],
      ['/v1/rooms/demo/places/me', 404, 'place-missing'],
      ['/v1/rooms/demo/events', 404, 'place-missing'],
      ['/elsewhere', 404, 'not-found'],
      ['/v1/events/demo', 429, 'session-required'],
      ['/demo', 429, 'session-required'],
      ['/demo/x/y', 429, 'session-required'],
    ] as const)
      await refused(path, stranger().ask('GET', path), status, code);
    await refused('joining nowhere', stranger().ask('POST', '/v1/rooms/nowhere/places'), 404, 'room-unknown');
    await refused(
      'leaving without a place',
      stranger().ask('DELETE', '/v1/rooms/demo/places/me'),
      404,
      'place-missing',
    );
    await refused(
      'claiming without a place',
      stranger().ask('POST', '/v1/rooms/demo/pass'),
      404,
      'place-missing',
    );
    await refused(
      'holds without a session',
      stranger().ask('POST', '/v1/events/demo/holds', { body: { section: 'stalls', count: 1 } }),
      429,
      'session-required',
    );
  });

  await part('paths that mean something else', async () => {
    for (const path of [
      '/x/../demo',
      '//demo',
      '/%64emo',
      '/demo/./x',
      '/demo;x=y',
      '/demo%00',
      '/demo%2f..',
      '/demo\\x',
      '/.%2e/demo',
    ]) {
      const answer = await rawRequest(
        system.ports.public,
        `GET ${path} HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\n\r\n`,
      );
      t.match(answer.text, /^HTTP\/1\.1 4\d\d /, path);
      t.ok(answer.closed, `${path} is closed`);
    }
  });

  await part('tokens', async () => {
    const foreign = createTokens({ keys: parseKeys(generateKey('t'))!, issuer: system.base });
    const own = createTokens({ keys: parseKeys(system.keys)!, issuer: system.base });
    const placeId = parsePlaceId('abcdefghijklmnop')!;
    const epoch = Number(await redis.client.hget(keys.room, 'epoch'));
    const visit = { room, sale: 1, placeId, number: 1 };
    const visitorId = newVisitor();
    const receipt = (tokens: typeof own, over: object = {}) =>
      signReceipt(tokens, { ...visit, score: 1, epoch, withheld: false, ...over });
    const tokens: [string, string][] = [
      ['empty', ''],
      ['words', 'hello'],
      ['long', 'x'.repeat(3000)],
      ['foreign', receipt(foreign)],
      ['another room', receipt(own, { room: parseRoomId('other') })],
      ['another sale', receipt(own, { sale: 2 })],
      [
        'another kind',
        signSession(own, { ...visit, expiresAtMs: 9e15, startedAtMs: 1, epoch, serial: 1, visitorId }),
      ],
    ];
    for (const [what, text] of tokens)
      await refused(
        `receipt: ${what}`,
        stranger().ask('POST', '/v1/rooms/demo/places', { body: { receipt: text } }),
        400,
        'receipt-invalid',
      );
    const claims: [string, string, number, string][] = [
      ['foreign', signClaim(foreign, { ...visit, deadlineMs: 9e15, epoch }), 401, 'token-invalid'],
      [
        'another room',
        signClaim(own, { ...visit, room: parseRoomId('other')!, deadlineMs: 9e15, epoch }),
        401,
        'token-invalid',
      ],
      ['a receipt', receipt(own), 401, 'token-invalid'],
      ['somebody else’s', signClaim(own, { ...visit, deadlineMs: 9e15, epoch }), 403, 'not-yours'],
    ];
    for (const [what, text, status, code] of claims)
      await refused(
        `claim: ${what}`,
        stranger().ask('POST', '/v1/rooms/demo/pass', { body: { claim: text } }),
        status,
        code,
      );

    const sessions: [string, string][] = [
      [
        'foreign',
        signSession(foreign, { ...visit, expiresAtMs: 9e15, startedAtMs: 1, epoch, serial: 1, visitorId }),
      ],
      [
        'of nobody',
        signSession(own, { ...visit, expiresAtMs: 9e15, startedAtMs: 1, epoch, serial: 1, visitorId }),
      ],
      [
        'expired',
        signSession(own, { ...visit, expiresAtMs: 1, startedAtMs: 1, epoch: 1, serial: 1, visitorId }),
      ],
      [
        'another sale',
        signSession(own, {
          ...visit,
          sale: 2,
          expiresAtMs: 9e15,
          startedAtMs: 1,
          epoch: 1,
          serial: 1,
          visitorId,
        }),
      ],
      [
        'another room',
        signSession(own, {
          ...visit,
          room: parseRoomId('other')!,
          expiresAtMs: 9e15,
          startedAtMs: 1,
          epoch: 1,
          serial: 1,
          visitorId,
        }),
      ],
      ['a receipt', receipt(own)],
      [
        'a pass',
        await own.signPass({
          room: 'demo',
          sale: 1,
          placeId,
          number: 1,
          serial: 1,
          sessionId: 'x',
          lifeSeconds: 300,
          nowMs: Date.now(),
        }),
      ],
      ['garbage', 'x.y.z'],
    ];
    for (const [what, text] of sessions) {
      const fan = stranger();
      fan.cookies.set('ar_s_demo', text);
      await refused(`session: ${what}`, fan.ask('GET', '/demo'), 429, 'session-required');
      await refused(
        `session on orders: ${what}`,
        fan.ask('POST', '/v1/orders', {
          body: { holdId: 'x', payment: {} },
          headers: { 'idempotency-key': 'abcdefgh' },
        }),
        429,
        'session-required',
      );
    }
    for (const header of ['anteroom-context', 'anteroom-visitor', 'anteroom-room']) {
      const answer = await stranger().ask('GET', '/v1/orders', {
        headers: {
          [header]: own.sign('context', ['a:xxxxxxxxxxxxxxxxxxxxxx', 'demo', placeId, 1, 1, Date.now()]),
        },
      });
      t.same(answer.json, { orders: [] }, `${header} from outside is not believed`);
    }
  });

  t.same(await state(), before, 'nothing changed');

  await part('reading is not joining', async () => {
    for (const [method, path] of [
      ['GET', '/demo'],
      ['HEAD', '/demo'],
      ['GET', '/rooms/demo'],
      ['HEAD', '/rooms/demo'],
    ] as const) {
      const answer = await stranger().ask(method, path, { headers: { accept: 'text/html' } });
      t.equal(answer.status, 200);
      t.match(answer.headers['cache-control'], /no-store/);
    }
    t.same(await state(), before);
  });

  await part('somebody else’s place cannot be read, left or taken', async () => {
    const owner = new Fan({ base: system.base, index: 78 });
    t.equal((await owner.join()).status, 201);
    const thief = stranger();
    for (const header of [
      { 'x-visitor-id': 'a' },
      { 'anteroom-visitor': 'a:xxxxxxxxxxxxxxxxxxxxxx' },
      { authorization: 'Bearer x.y.z' },
    ])
      t.equal((await thief.ask('GET', '/v1/rooms/demo/places/me', { headers: header })).status, 404);
    t.equal((await thief.ask('GET', `/v1/rooms/demo/places/me?placeId=x&visitor=y`)).status, 404);
    await eventually(
      'the owner still has it',
      async () => (await owner.ask('GET', '/v1/rooms/demo/places/me')).json.number === owner.number,
    );
  });

  t.equal(child.exitCode, null, 'the process is alive');
  t.notMatch(system.output(), /uncaught|unhandled/i);
});
