// Which request is which: ids taken over or made, traces that go on through us, and the spans that are sent about
// them. The whole way of a join and of a proxied request is walked in test/system/watching.test.ts.

import { once } from 'node:events';
import { createServer as createOrigin } from 'node:http';
import type { AddressInfo } from 'node:net';
import t from 'tap';
import { createProxy } from '../../gateway/proxy.ts';
import { ConfigFault, readConfig } from '../../kernel/config.ts';
import { createFetcher } from '../../kernel/fetch.ts';
import { createServer, json, type Server, type ServerOptions } from '../../kernel/http.ts';
import { parseRoomId } from '../../kernel/ids.ts';
import { createLog, silentLog } from '../../kernel/log.ts';
import { createMetrics } from '../../kernel/metrics.ts';
import { createRedis } from '../../kernel/redis.ts';
import { createTracer } from '../../kernel/trace.ts';
import { boundedTracestate, parseTraceparent } from '../../kernel/traceparent.ts';
import { look, roomKeys } from '../../lua/room.ts';
import { startCollector } from '../support/collector.ts';
import { eventually } from '../support/eventually.ts';
import { startRedis } from '../support/redis.ts';

type Test = { teardown(work: () => unknown): void };

const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736';
const PARENT = '00f067aa0ba902b7';
const GIVEN = `00-${TRACE}-${PARENT}-01`;

const start = async (test: Test, register: (server: Server) => void, more: Partial<ServerOptions> = {}) => {
  const server = createServer({
    name: 'test',
    host: '127.0.0.1',
    port: 0,
    log: silentLog,
    bodyBytesMax: 1000,
    slowReaderMs: 60_000,
    trustedProxies: ['127.0.0.1'],
    ...more,
  });
  register(server);
  const { port } = await server.listen();
  test.teardown(() => server.close(100));
  return `http://127.0.0.1:${port}`;
};

/** A tracer that is on, its collector, and what it counted. */
const startTracer = async (test: Test, more: { oneIn?: number; queueMax?: number } = {}) => {
  const collector = await startCollector(test);
  const metrics = createMetrics({ processMetrics: false });
  const faults: unknown[] = [];
  const tracer = createTracer({
    config: { otlpUrl: collector.url, traceOneIn: more.oneIn ?? 1 },
    metrics,
    fault: (error) => faults.push(error),
    ...(more.queueMax === undefined ? {} : { queueMax: more.queueMax }),
  })!;
  test.teardown(() => tracer.stop());
  const counted = async (outcome: string) =>
    Number(new RegExp(`spans_total{outcome="${outcome}"} (\\d+)`).exec(await metrics.text())?.[1] ?? 0);
  return { collector, tracer, faults, counted };
};

t.test('a traceparent is read strictly', async (t) => {
  t.same(parseTraceparent(GIVEN), { traceId: TRACE, parentId: PARENT, sampled: true });
  t.equal(parseTraceparent(`00-${TRACE}-${PARENT}-00`)?.sampled, false);
  t.equal(parseTraceparent(`00-${TRACE}-${PARENT}-fe`)?.sampled, false, 'only the last bit counts');
  t.same(parseTraceparent(`cc-${TRACE}-${PARENT}-01-what-comes-later`)?.traceId, TRACE, 'a later version');
  for (const bad of [
    undefined,
    '',
    `ff-${TRACE}-${PARENT}-01`,
    `00-${TRACE}-${PARENT}-01-more`,
    `cc-${TRACE}-${PARENT}-01x`,
    `00-${'0'.repeat(32)}-${PARENT}-01`,
    `00-${TRACE}-${'0'.repeat(16)}-01`,
    `00-${TRACE.toUpperCase()}-${PARENT}-01`,
    `00-${TRACE.slice(1)}-${PARENT}-01`,
    `00-${TRACE}-${PARENT}-1`,
    ` ${GIVEN}`,
    `${GIVEN}\n`,
    `${GIVEN}, ${GIVEN}`,
  ])
    t.equal(parseTraceparent(bad), undefined, JSON.stringify(bad));
});

t.test('a tracestate is passed on whole, cut at a member, or not at all', async (t) => {
  t.equal(
    boundedTracestate('rojo=00f067aa0ba902b7,congo=t61rcWkgMzE'),
    'rojo=00f067aa0ba902b7,congo=t61rcWkgMzE',
  );
  t.equal(boundedTracestate(' a=1 , ,t@v=2'), 'a=1,t@v=2');
  t.equal(boundedTracestate(undefined), '');
  const long = Array.from({ length: 5 }, (_, index) => `k${index}=${'x'.repeat(122)}`);
  t.equal(
    boundedTracestate(long.join(',')),
    long.slice(0, 4).join(','),
    '512 characters, never half a member',
  );
  t.equal(boundedTracestate(`${long.join(',')},z=1`), long.slice(0, 4).join(','), 'and none after the cut');
  const many = Array.from({ length: 33 }, (_, index) => `k${index}=1`);
  t.equal(boundedTracestate(many.slice(1).join(',')), many.slice(1).join(','));
  t.equal(boundedTracestate(many.join(',')), '', 'at most 32 members');
  for (const bad of ['A=1', 'a', 'a=1,a=2', 'a=', 'a=1=2', 'a=\t', `a=${'x'.repeat(257)}`])
    t.equal(boundedTracestate(bad), '', bad);
});

t.test('ids are those of a trusted proxy, and of nobody else', async (t) => {
  const told = (server: Server) =>
    server.route('GET', '/', (request) => json(200, { id: request.id, trace: request.trace }));
  const trusting = await start(t, told);
  const alone = await start(t, told, { trustedProxies: [] });
  const ask = async (url: string, headers: [string, string][]) => {
    const answer = await fetch(url, { headers });
    const body = (await answer.json()) as { id: string; trace: Record<string, unknown> };
    t.equal(answer.headers.get('x-request-id'), body.id, 'the answer says which request it answers');
    return body;
  };
  const given: [string, string][] = [
    ['x-request-id', 'proxy-0001'],
    ['traceparent', GIVEN],
    ['tracestate', 'a=1'],
  ];
  t.match(await ask(trusting, given), {
    id: 'proxy-0001',
    trace: { traceId: TRACE, parentId: PARENT, sampled: true, state: 'a=1' },
  });
  const stranger = await ask(alone, given);
  t.not(stranger.id, 'proxy-0001');
  t.not(stranger.trace.traceId, TRACE);
  t.match(stranger.trace, { parentId: '', sampled: false, state: '' });
  for (const id of ['short', 'x'.repeat(65), 'with space', 'a"b"c"d"e', '<script>'])
    t.not((await ask(trusting, [['x-request-id', id]])).id, id, `'${id}' is no id`);
  const twice = await ask(trusting, [...given, ['x-request-id', 'proxy-0002'], ['traceparent', GIVEN]]);
  t.notMatch(twice.id, 'proxy', 'two ids are none');
  t.not(twice.trace.traceId, TRACE);
  const malformed = await ask(trusting, [
    ['traceparent', GIVEN.toUpperCase()],
    ['tracestate', 'a=1'],
  ]);
  t.not(malformed.trace.traceId, TRACE);
  t.equal(malformed.trace.state, '', 'the state of a trace that is not gone on with goes with it');
});

t.test('an origin learns the trace, with our span as its parent, and no other one', async (t) => {
  const seen: Record<string, unknown>[] = [];
  const origin = createOrigin((request, response) => {
    seen.push(request.headers);
    response.end('ok');
  });
  await once(origin.listen(0, '127.0.0.1'), 'listening');
  t.teardown(() => origin.close());
  // `listen` on a port was awaited, so the address is one of TCP.
  const originUrl = `http://127.0.0.1:${(origin.address() as AddressInfo).port}`;
  const fetcher = createFetcher({ connectionsMax: 4, headersTimeoutMs: 60_000 });
  t.teardown(() => fetcher.close());
  const { collector, tracer } = await startTracer(t);
  const carry =
    (proxy: ReturnType<typeof createProxy>) =>
    (server: Server): void =>
      server.otherwise(async (request) => {
        const done = await proxy({
          request,
          origin: originUrl,
          ...{ path: '/', context: [], setCookies: [], proto: 'http', timeoutMs: 60_000 },
        });
        return done.answer;
      });
  const metrics = createMetrics({ processMetrics: false });
  const off = await start(t, carry(createProxy({ fetcher, metrics })));
  const on = await start(t, carry(createProxy({ fetcher: tracer.traced(fetcher), metrics })), { tracer });
  const headers = { traceparent: GIVEN, tracestate: 'a=1', 'x-request-id': 'proxy-0001' };
  await (await fetch(off, { headers })).text();
  t.match(seen[0], { 'x-request-id': 'proxy-0001', tracestate: 'a=1' });
  t.match(seen[0]!.traceparent, new RegExp(`^00-${TRACE}-[0-9a-f]{16}-01$`));
  t.notMatch(seen[0]!.traceparent, PARENT);
  t.same(collector.paths, [], 'without a tracer nobody is told anything');

  await (await fetch(`${on}/secret-path?token=secret`, { headers })).text();
  await eventually('both spans have come', () => collector.spans.length === 2);
  const asked = collector.spans.find((span) => span.kind === 2)!;
  const sent = collector.spans.find((span) => span.kind === 3)!;
  t.match(asked, { traceId: TRACE, parentSpanId: PARENT, traceState: 'a=1', name: 'GET otherwise' });
  t.match(asked.attributes, {
    'http.request.method': 'GET',
    'http.route': 'otherwise',
    'http.response.status_code': '200',
    'anteroom.request_id': 'proxy-0001',
  });
  t.match(sent, { traceId: TRACE, parentSpanId: asked.spanId, name: 'GET' });
  t.match(sent.attributes, { 'server.address': '127.0.0.1', 'http.response.status_code': '200' });
  t.equal(
    seen[1]!.traceparent,
    `00-${TRACE}-${sent.spanId}-01`,
    'the parent is the span of this very request',
  );
  t.ok(BigInt(asked.startTimeUnixNano) <= BigInt(sent.startTimeUnixNano));
  t.ok(BigInt(sent.endTimeUnixNano) <= BigInt(asked.endTimeUnixNano));
  t.ok(Math.abs(Number(BigInt(asked.startTimeUnixNano) / 1_000_000n) - Date.now()) < 60_000, 'of now');
  t.notMatch(collector.bodies.join(), /secret/);

  origin.close();
  origin.closeAllConnections();
  t.equal((await fetch(on, { headers })).status, 502);
  await eventually('the failure has come', () => collector.spans.length === 4);
  const failed = collector.spans.slice(2);
  t.match(
    failed.find((span) => span.kind === 3),
    {
      status: { code: 2 },
      attributes: { 'error.type': 'Refusal' },
    },
  );
  t.match(
    failed.find((span) => span.kind === 2),
    { status: { code: 2 } },
  );
});

t.test('a script is a span by its name alone, below the request that ran it', async (t) => {
  const redis = await startRedis(t);
  const { collector, tracer } = await startTracer(t);
  const client = createRedis({
    url: redis.url,
    config: { ...readConfig({}), redisCommandTimeoutMs: 60_000 },
    log: silentLog,
    purpose: 'traced',
    tracer,
  });
  t.teardown(() => client.disconnect());
  await client.connect();
  const keys = roomKeys(parseRoomId('hidden-room')!);
  const ask = () => look.run(client, keys, { placeIds: ['abcdefghijklmnop'] });
  let later = (): unknown => undefined;
  const url = await start(
    t,
    (server) => {
      server.route('GET', '/look/:what', async () => json(200, await ask()));
      server.route('GET', '/later', async () => {
        await new Promise<void>((resolve) => {
          later = () => ask().then(() => resolve());
          setImmediate(resolve);
        });
        return { status: 204 };
      });
    },
    { tracer },
  );
  await ask();
  t.match(await (await fetch(`${url}/look/secret`)).json(), { outcome: 'unknown' });
  await eventually('request and script have come', () => collector.spans.length === 2);
  const [script, request] = collector.spans;
  t.match(request, { name: 'GET /look/:what', kind: 2 });
  t.match(script, {
    name: 'room.look',
    kind: 3,
    traceId: request!.traceId,
    parentSpanId: request!.spanId,
    attributes: { 'db.system.name': 'redis', 'db.operation.name': 'room.look' },
  });
  t.same(Object.keys(script!.attributes).sort(), ['db.operation.name', 'db.system.name']);
  t.notOk('parentSpanId' in request!, 'the trace began here');
  t.notMatch(collector.bodies.join(), /secret|hidden-room|abcdefghijklmnop/);

  t.equal((await fetch(`${url}/later`)).status, 204);
  await later();
  await eventually('the request has come', () => collector.spans.some(({ name }) => name === 'GET /later'));
  await tracer.stop();
  t.equal(
    collector.spans.filter((span) => span.name === 'room.look').length,
    1,
    'what comes after belongs to nobody',
  );
});

t.test('every line that is written during a request says which one it was', async (t) => {
  const { tracer } = await startTracer(t, { oneIn: 1_000_000 });
  for (const one of [tracer, undefined]) {
    const lines: Record<string, unknown>[] = [];
    const log = createLog({
      level: 'debug',
      write: (line) => lines.push(JSON.parse(line)),
      during: one?.ids,
    });
    const url = await start(
      t,
      (server) =>
        server.route('GET', '/', async () => {
          await new Promise((resolve) => setImmediate(resolve));
          if (one !== undefined) log.info('deep-below');
          throw new Error('broken');
        }),
      { tracer: one, log },
    );
    log.info('outside');
    await fetch(url, { headers: { 'x-request-id': 'proxy-0001', traceparent: GIVEN } });
    const during = lines.filter((line) => line.event !== 'outside');
    t.equal(during.length, one === undefined ? 1 : 2);
    for (const line of during) t.match(line, { requestId: 'proxy-0001', traceId: TRACE });
    t.notOk('requestId' in lines.find((line) => line.event === 'outside')!);
  }
});

t.test('one request in so many is traced, unless a proxy has decided', async (t) => {
  const { collector, tracer } = await startTracer(t, { oneIn: 1_000_000 });
  const { collector: all, tracer: every } = await startTracer(t);
  const register = (server: Server) => server.route('GET', '/', () => ({ status: 204 }));
  const few = await start(t, register, { tracer });
  const full = await start(t, register, { tracer: every });
  for (let index = 0; index < 20; index += 1) for (const url of [few, full]) await fetch(url);
  await fetch(few, { headers: { traceparent: GIVEN } });
  await fetch(full, { headers: { traceparent: GIVEN.replace(/01$/, '00') } });
  // A tracer that stops waits a second and no longer, so all that is to come has come before.
  await eventually('what is traced has come', () => collector.spans.length >= 1 && all.spans.length >= 20);
  await Promise.all([tracer.stop(), every.stop()]);
  t.same(
    collector.spans.map((span) => span.traceId),
    [TRACE],
  );
  t.equal(all.spans.length, 20);
  t.notOk(
    all.spans.some((span) => span.traceId === TRACE),
    'whoever began it does not record it',
  );
});

t.test('a collector that is away costs spans, never requests or memory, and is told of once', async (t) => {
  const { collector, tracer, faults, counted } = await startTracer(t, { queueMax: 10 });
  const url = await start(t, (server) => server.route('GET', '/', () => ({ status: 204 })), { tracer });
  collector.answers = undefined;
  await fetch(url);
  await eventually('it has been asked, and does not answer', () => collector.paths.length === 1);
  // Fifteen in one go, during which nothing can be sent.
  for (let index = 0; index < 15; index += 1)
    tracer
      .request({
        trace: { traceId: TRACE, spanId: PARENT, parentId: PARENT, sampled: true, state: '' },
        ...{
          requestId: 'proxy-0001',
          method: 'GET',
          route: '/',
          server: 'test',
          startedMs: performance.now(),
        },
      })
      .end(204);
  const dropped = await counted('dropped');
  t.ok(dropped === 5 || dropped === 6, `ten wait, and no more; the first may have been given up: ${dropped}`);
  t.equal((await fetch(url)).status, 204);
  collector.answers = 503;
  await eventually(
    'what was under way is given up, and the next, too',
    async () => (await counted('dropped')) === 17,
  );
  t.equal(faults.length, 1);
  collector.answers = 200;
  await fetch(url);
  await eventually('it is back', async () => (await counted('ok')) === 1);
  t.equal(collector.spans.length, 1);
  t.same([...new Set(collector.paths)], ['POST /v1/traces']);
});

t.test('what waits at the end is sent, or counted as dropped', async (t) => {
  // It is given a second; a machine that stands still for as long may drop it, but not ten times.
  for (let attempt = 1; attempt <= 10; attempt += 1) {
    const { collector, tracer, counted } = await startTracer(t);
    const url = await start(t, (server) => server.route('GET', '/', () => ({ status: 204 })), { tracer });
    await fetch(url);
    await tracer.stop();
    const [ok, dropped] = [await counted('ok'), await counted('dropped')];
    t.equal(ok + dropped, 1, 'it is accounted for');
    if (ok === 0) continue;
    t.equal(collector.spans.length, 1, `sent, at attempt ${attempt}`);
    return;
  }
  t.fail('never sent');
});

t.test('traces are off unless a collector is named, by an address that holds no secret', async (t) => {
  const metrics = createMetrics({ processMetrics: false });
  t.equal(createTracer({ config: readConfig({}), metrics, fault: () => undefined }), undefined);
  t.equal(
    readConfig({ ANTEROOM_OTLP_URL: 'http://127.0.0.1:4318/under' }).otlpUrl,
    'http://127.0.0.1:4318/under',
  );
  for (const bad of ['collector:4318', 'ftp://a', 'http://user:word@a', 'http://a/?key=1', 'http://a/#b'])
    t.throws(() => readConfig({ ANTEROOM_OTLP_URL: bad }), ConfigFault, bad);
});
