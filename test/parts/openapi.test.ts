// The OpenAPI document says what is: it is a valid one, it knows each public route and no other, and real answers
// have the shapes it promises. The answers of booking-core are held against it in test/system/watching.test.ts.

import { Validator } from '@seriousme/openapi-schema-validator';
import t from 'tap';
import { addRoutes } from '../../booking-core/routes.ts';
import { createBroker } from '../../broker/broker.ts';
import { readConfig } from '../../kernel/config.ts';
import { errorTable } from '../../kernel/errors.ts';
import type { Server } from '../../kernel/http.ts';
import { silentLog } from '../../kernel/log.ts';
import { createMetrics } from '../../kernel/metrics.ts';
import { createOpenApi, templateOf } from '../../line/openapi.ts';
import { parseServiceScope, signService } from '../../line/service.ts';
import { CheckedFan, faultsOf, openApi } from '../support/api-check.ts';
import { startGateways } from '../support/gateways.ts';

t.test('it is a valid OpenAPI 3.1 document', async (t) => {
  const validator = new Validator();
  // The validator fills references in, so it gets a copy.
  const said = await validator.validate(structuredClone({ ...createOpenApi() }));
  t.same(said, { valid: true });
  t.equal(validator.version, '3.1');
  const broken = structuredClone(createOpenApi()) as { info: Record<string, unknown> };
  delete broken.info.title;
  t.equal((await new Validator().validate(broken)).valid, false, 'and the validator would notice');
});

t.test('every operation has an id of its own, and each code it names stands in the table', async (t) => {
  const ids = new Set<string>();
  for (const methods of Object.values(openApi.paths))
    for (const operation of Object.values(methods)) {
      t.notOk(ids.has(operation.operationId), operation.operationId);
      ids.add(operation.operationId);
      for (const [status, reply] of Object.entries(operation.responses)) {
        const schema = reply.content?.['application/problem+json']?.schema;
        // Written by problemsOf, with these members.
        const codes =
          (schema?.properties as { code: { enum: (keyof typeof errorTable)[] } })?.code.enum ?? [];
        for (const code of codes) t.equal(String(errorTable[code][0]), status, `${code} is a ${status}`);
      }
    }
});

/** A server that only writes down what is registered. */
const recorder = (routes: Set<string>): Server => {
  const add = (method: string, pattern: string) =>
    routes.add(`${method.toLowerCase()} ${templateOf(pattern)}`);
  return {
    route: add,
    socket: (pattern) => add('GET', pattern),
    otherwise: () => undefined,
    listen: async () => ({ port: 0 }),
    close: async () => undefined,
    load: () => ({ connections: 0, requests: 0 }),
    drain: () => undefined,
    beforeClose: () => undefined,
    renewCertificate: async () => undefined,
  };
};

t.test('what is registered and what is written down are the same, and answers keep to it', async (t) => {
  const routes = new Set<string>();
  const gateways = await startGateways(t, {
    count: 1,
    registered: (method, pattern) => {
      // Files of the page: named by their content, found through the page alone.
      if (!pattern.startsWith('/rooms/_/'))
        recorder(routes).route(method as 'GET', pattern, () => ({ status: 200 }));
    },
  });
  const { view } = await gateways.memory();
  const broker = createBroker({
    config: { ...readConfig({}), publicUrl: '' },
    server: recorder(routes),
    redis: gateways.redis.client,
    reader: await gateways.redis.connect('broker-reader', { blocking: true }),
    view,
    tokens: gateways.tokens,
    // No handler is ever run on a recorder, and only handlers ask who somebody is and where they stand.
    identifier: undefined as never,
    looks: undefined as never,
    log: silentLog,
    metrics: createMetrics({ processMetrics: false }),
  });
  await broker.stop();
  // For the same reason the parts that its handlers work with may be missing.
  addRoutes(recorder(routes), {} as never);
  const documented = Object.entries(openApi.paths).flatMap(([template, methods]) =>
    Object.keys(methods).map((method) => `${method} ${template}`),
  );
  t.same([...routes].sort(), documented.sort());

  const room = await gateways.open('checked', { totalActiveUsers: 5 });
  const drawn = await gateways.open('drawn', {
    shuffleAtOpen: true,
    opensAt: Date.now() + 3_600_000,
    prequeueStartsAt: 1,
  });
  const shut = await gateways.open('shut', { closesAt: 1 });
  const fans: CheckedFan[] = [];
  const fan = (name = 'checked'): CheckedFan => {
    const made = new CheckedFan({ base: gateways.bases[0]!, room: name, index: fans.length + 1 });
    fans.push(made);
    return made;
  };
  const path = '/v1/rooms/checked';
  const post = (who: CheckedFan, to: string, body: unknown, headers: Record<string, string> = {}) =>
    who.ask('POST', to, { body, headers });

  const one = fan();
  await one.ask('GET', path);
  await one.ask('GET', '/.well-known/jwks.json');
  const served = await one.ask('GET', '/v1/openapi.json');
  t.same(served.json, JSON.parse(JSON.stringify(createOpenApi())));
  await one.ask('GET', '/v1/rooms/nobody');
  await one.ask('GET', '/v1/rooms/-bad-');
  await one.ask('GET', `${path}/places/me`);
  await one.ask('DELETE', `${path}/places/me`);
  await one.claim();
  await one.join();
  await one.join();
  await one.ask('GET', `${path}/places/me`);
  await one.claim();
  await post(one, `${path}/places`, { receipt: 'forged' });
  await post(one, `${path}/places`, { no: 1 });
  await one.ask('POST', `${path}/places`, { raw: '{' });
  await one.ask('POST', `${path}/places`, { raw: '{}', headers: { 'content-type': 'text/plain' } });
  await one.ask('POST', `${path}/places`, { raw: 'x'.repeat(20_000) });
  const two = fan();
  await two.join();
  await room.promote();
  const turn = await one.ask('GET', `${path}/places/me`);
  await post(two, `${path}/pass`, { claim: turn.json.claimToken });
  await post(one, `${path}/pass`, { claim: 'forged' });
  const claimed = await one.claim(String(turn.json.claimToken));
  await one.ask('GET', `${path}/places/me`);
  const three = fan();
  await post(three, `${path}/sessions`, {});
  await post(three, `${path}/sessions`, { pass: 'forged' });
  await post(three, `${path}/sessions`, { pass: claimed.json.pass });
  await post(three, `${path}/sessions`, { pass: claimed.json.pass });
  const { id } = claimed.json.session as { id: string };
  const service = (roomName: string, atMs = Date.now()) => ({
    authorization: `Bearer ${signService(gateways.tokens, { scope: parseServiceScope(roomName)!, expiresAtMs: atMs + 60_000 })}`,
  });
  await post(three, `${path}/sessions/end`, { session: id });
  await post(three, `${path}/sessions/end`, { session: id }, { authorization: 'Bearer forged' });
  await post(three, `${path}/sessions/end`, { session: id }, service('other'));
  await post(three, `${path}/sessions/end`, { session: id }, service('checked', 0));
  await post(three, `${path}/sessions/end`, { session: 'no' }, service('checked'));
  await post(three, `${path}/sessions/end`, { session: id }, service('*'));
  await post(three, `${path}/sessions/end`, { session: id }, service('*'));
  await post(three, `${path}/sessions`, { pass: claimed.json.pass });
  await one.ask('GET', `${path}/places/me`);
  await two.ask('DELETE', `${path}/places/me`);
  const lot = fan('drawn');
  await lot.join();
  await lot.ask('GET', '/v1/rooms/drawn');
  await fan('shut').join();
  const robot = fan();
  await robot.ask('POST', `${path}/places`, { body: {}, headers: { 'user-agent': 'curl/8', accept: '*/*' } });
  await robot.ask('GET', `${path}/places/me`);
  const browser = fan();
  await browser.ask('GET', '/rooms/checked?returnTo=/x', { headers: { accept: 'text/html' } });
  const form = { 'content-type': 'application/x-www-form-urlencoded' };
  await browser.ask('GET', '/rooms/nobody', { headers: { accept: 'text/html' } });
  await browser.ask('POST', '/rooms/checked', { raw: 'act=join', headers: form });
  await browser.ask('POST', '/rooms/checked', { raw: 'act=fly', headers: form });
  await browser.ask('POST', '/rooms/checked', {
    raw: 'act=leave',
    headers: { ...form, origin: 'http://evil.test' },
  });
  await browser.ask('POST', '/rooms/checked', { raw: 'act=leave', headers: form });

  t.same(
    fans.flatMap((each) => each.faults),
    [],
  );
  const seen = new Set(fans.flatMap((each) => [...each.seen]));
  for (const what of [
    'join 201',
    'join 200',
    'join 400 receipt-invalid',
    'join 400 bad-field',
    'join 400 bad-json',
    'join 413 body-too-large',
    'join 415 wrong-type',
    'join 403 room-closed',
    'place 200',
    'place 404 place-missing',
    'place 410 place-finished',
    'leave 204',
    'leave 404 place-missing',
    'claim 200',
    'claim 409 not-your-turn',
    'claim 403 not-yours',
    'claim 401 token-invalid',
    'claim 404 place-missing',
    'redeem 201',
    'redeem 400 bad-field',
    'redeem 400 pass-invalid',
    'redeem 409 pass-redeemed',
    'redeem 410 place-finished',
    'end 204',
    'end 400 bad-field',
    'end 401 token-missing',
    'end 401 token-invalid',
    'end 401 token-expired',
    'end 403 token-other-room',
    'end 404 session-missing',
    'room 200',
    'room 404 room-unknown',
    'room 400 bad-id',
    'keys 200',
    'openapi 200',
    'page 200',
    'page 404',
    'act 303',
    'act 400 bad-field',
    'act 403 origin-refused',
  ])
    t.ok(seen.has(what), what);
  void drawn;
  void shut;
});

t.test('an answer that breaks its promise is noticed', async (t) => {
  const asked = { method: 'GET', path: '/v1/rooms/demo/places/me' };
  const headers = { 'content-type': 'application/json', 'x-request-id': 'r' };
  const place = { state: 'waiting', gate: 'open', serverNowMs: 1, pollAfterMs: 1 };
  const faults = (body: object, status = 200) =>
    faultsOf(asked, { status, headers, text: JSON.stringify(body) });
  t.same(faults(place), []);
  t.match(faults({ ...place, surprise: 1 })[0], 'additional properties');
  t.match(faults({ ...place, state: 'flying' })[0], 'allowed values');
  t.match(faults({ ...place, number: '7' })[0], 'integer');
  t.match(faults({ state: 'waiting' })[0], 'required');
  t.match(faults(place, 201)[0], 'no such answer');
  t.match(faultsOf({ ...asked, method: 'PUT' }, { status: 200, headers, text: '{}' })[0], 'does not know');
  const problem = { type: 'urn:anteroom:error:room-full', title: 'x', status: 404, code: 'room-full' };
  const refused = { status: 404, headers: { ...headers, 'content-type': 'application/problem+json' } };
  t.match(faultsOf(asked, { ...refused, text: JSON.stringify(problem) })[0], 'allowed values');
});
