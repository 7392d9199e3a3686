// The gate's decision is pure: every combination that matters, without a server. And the proxy: what passes, what not.

import t from 'tap';
import { createWheel } from '../../broker/wheel.ts';
import { decide, type GateFacts, isOpenPath } from '../../gateway/gate.ts';
import { createProxy } from '../../gateway/proxy.ts';
import type { Fetcher } from '../../kernel/fetch.ts';
import type { Request } from '../../kernel/http.ts';
import { parseRoomId } from '../../kernel/ids.ts';
import { createMetrics } from '../../kernel/metrics.ts';

const room = parseRoomId('demo')!;
const facts = (over: Partial<GateFacts>): GateFacts => ({
  open: false,
  room,
  method: 'GET',
  acceptsHtml: false,
  passthrough: false,
  bypassed: false,
  admitted: false,
  hasDefaultOrigin: false,
  ...over,
});

t.test(
  'whatever is guarded and shows no session gets the waiting page or a refusal, never the origin',
  async (t) => {
    for (const method of ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'PROPFIND'])
      for (const acceptsHtml of [true, false]) {
        const page = acceptsHtml && (method === 'GET' || method === 'HEAD');
        t.same(
          decide(facts({ method, acceptsHtml })),
          page ? { act: 'waitingPage' } : { act: 'refuse', code: 'session-required' },
        );
      }
    t.same(decide(facts({ admitted: true })), { act: 'proxy', to: 'room' });
    t.same(decide(facts({ passthrough: true })), { act: 'proxy', to: 'room' });
    t.same(decide(facts({ bypassed: true })), { act: 'proxy', to: 'room' });
  },
);

t.test('what no room guards goes to the default origin, or is not found', async (t) => {
  t.same(decide(facts({ room: undefined })), { act: 'refuse', code: 'not-found' });
  t.same(decide(facts({ room: undefined, hasDefaultOrigin: true })), {
    act: 'proxy',
    to: 'default',
  });
});

t.test(
  'one’s own orders and payment webhooks need no session, and nothing beside them is open',
  async (t) => {
    for (const path of [
      '/v1/orders',
      '/v1/orders/X',
      '/v1/payments/sandbox/webhook',
      '/demo/orders',
      '/demo/orders/X',
      '/demo/assets/a.css',
    ])
      t.ok(isOpenPath(path), path);
    for (const path of [
      '/demo',
      '/demo/book',
      '/demo/ordersx',
      '/v1/events/demo',
      '/v1/ordersx',
      '/demo/assetsx',
    ])
      t.notOk(isOpenPath(path), path);
  },
);

t.test(
  'hop-by-hop headers, identity and our own cookies never reach an origin, nor ours come back from it',
  async (t) => {
    const sent: { headers: readonly string[] }[] = [];
    const fetcher: Pick<Fetcher, 'send'> = {
      send: async (ask) => {
        sent.push(ask);
        return {
          status: 200,
          headers: [
            ['anteroom-session', 'end'],
            ['anteroom-x', '1'],
            ['connection', 'x-hop'],
            ['x-hop', '1'],
            ['x-own', '1'],
          ],
          body: (async function* () {})(),
        };
      },
    };
    const headers: [string, string][] = [
      ['host', 'tickets.example'],
      ['connection', 'keep-alive, x-secret-hop'],
      ['x-secret-hop', '1'],
      ['anteroom-context', 'forged'],
      ['anteroom-visitor', 'forged'],
      ['x-forwarded-for', '1.2.3.4'],
      ['cookie', 'ar_v=a; shop=1; ar_s_demo=b; __Host-ar_v=c'],
      ['x-mine', '1'],
      ['upgrade', 'websocket'],
    ];
    const request: Request = {
      method: 'GET',
      path: '/demo',
      query: 'a=1',
      params: {},
      headers,
      flatHeaders: headers.flat(),
      address: '9.9.9.9',
      viaProxy: false,
      id: 'r1',
      trace: { traceId: 'a'.repeat(32), spanId: 'b'.repeat(16), parentId: '', sampled: false, state: '' },
      ids: { requestId: 'r1', traceId: 'a'.repeat(32) },
      body: Buffer.alloc(0),
      signal: new AbortController().signal,
      header: (name) => headers.find(([known]) => known === name)?.[1],
      cookie: () => undefined,
    };
    const done = await createProxy({ fetcher, metrics: createMetrics({ processMetrics: false }) })({
      request,
      origin: 'http://o',
      path: '/demo',
      context: ['anteroom-context', 'signed'],
      setCookies: [['set-cookie', 'ar_s_demo=x']],
      proto: 'https',
      timeoutMs: 1000,
    });
    const flat = sent[0]?.headers ?? [];
    const passed = new Map(
      flat.flatMap((name, index) => (index % 2 === 0 ? [[name, flat[index + 1]] as const] : [])),
    );
    for (const gone of ['host', 'connection', 'x-secret-hop', 'upgrade', 'anteroom-visitor'])
      t.notOk(passed.has(gone), gone);
    t.equal(passed.get('anteroom-context'), 'signed');
    t.equal(passed.get('x-forwarded-for'), '9.9.9.9');
    t.equal(passed.get('x-forwarded-proto'), 'https');
    t.equal(passed.get('cookie'), 'shop=1');
    t.equal(passed.get('x-mine'), '1');
    t.equal(done.endSession, true);
    t.same(done.answer.headers, [
      ['x-own', '1'],
      ['cache-control', 'private, no-store'],
      ['set-cookie', 'ar_s_demo=x'],
    ]);
  },
);

t.test('a wheel runs each item once, in its time, however late it is turned', async (t) => {
  const wheel = createWheel<{ slot: number; name: string }>(0);
  const ran: string[] = [];
  const item = (name: string) => ({ slot: -1, name });
  const [a, b, moved] = [item('a'), item('b'), item('moved')];
  wheel.schedule(a, 100);
  wheel.schedule(b, 30_000);
  wheel.schedule(moved, 200);
  wheel.schedule(moved, 5000);
  wheel.turn(1000, ({ name }) => ran.push(name));
  t.same(ran, ['a']);
  wheel.turn(6000, ({ name }) => ran.push(name));
  t.same(ran, ['a', 'moved']);
  wheel.turn(500_000, ({ name }) => ran.push(name));
  t.same(ran, ['a', 'moved', 'b']);
});
