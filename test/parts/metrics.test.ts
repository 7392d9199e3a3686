// Metrics: one table, closed labels, and the port that shows them.

import t from 'tap';
import { readConfig } from '../../kernel/config.ts';
import { silentLog } from '../../kernel/log.ts';
import { createMetrics, createMetricsServer, metricTable } from '../../kernel/metrics.ts';
import type { Role } from '../../kernel/role.ts';

t.test('a counter, a gauge and a histogram say what they were told', async (t) => {
  const metrics = createMetrics({ processMetrics: false });
  metrics.inc('joins_total', { room: 'demo', outcome: 'joined' });
  metrics.inc('joins_total', { room: 'demo', outcome: 'joined' }, 2);
  metrics.inc('promoted_total', { room: 'demo' }, 0);
  metrics.set('redis_up', {}, 1);
  metrics.observe('tick_seconds', {}, 0.003);
  const text = await metrics.text();
  t.match(text, 'anteroom_joins_total{room="demo",outcome="joined"} 3');
  t.match(text, 'anteroom_redis_up 1');
  t.match(text, 'anteroom_tick_seconds_bucket{le="0.005"} 1');
  t.notMatch(text, 'process_cpu');
});

t.test('the number of series does not grow with what clients send', async (t) => {
  const metrics = createMetrics({ processMetrics: false });
  for (let index = 0; index < 1000; index++) {
    metrics.inc('joins_total', { room: `room-${index}`, outcome: `made-up-${index}` });
    metrics.observe('request_seconds', { route: `/${index}`, method: 'BREW', status: '2xx' }, 0.01);
  }
  const text = await metrics.text();
  t.match(text, 'outcome="other"');
  t.match(text, 'method="other"');
  t.notMatch(text, 'made-up');
  const series = (name: string) =>
    text.split('\n').filter((line) => line.startsWith(`anteroom_${name}`)).length;
  t.equal(series('joins_total'), 201, '200 rooms and the rest');
  t.equal(series('request_seconds_count'), 101, '100 routes and the rest');
});

t.test('two processes in one test do not share a registry', async (t) => {
  const [one, two] = [createMetrics({ processMetrics: false }), createMetrics({ processMetrics: false })];
  one.inc('recoveries_total', { room: 'demo', reason: 'lost' });
  t.notMatch(await two.text(), 'recoveries_total{');
});

t.test('every row says what it is for, in base units', async (t) => {
  for (const [name, row] of Object.entries(metricTable)) {
    t.match(row.help, /^[A-Z1].*\.$/, `${name}: a sentence`);
    if (row.kind === 'counter') t.match(name, /_total$/, `${name} counts`);
    if (row.kind === 'histogram') t.match(name, /_(seconds|bytes)$/, `${name} has a base unit`);
  }
});

t.test('the port: metrics, alive, ready, and not ready by name', async (t) => {
  let redis = true;
  const role: Role = { name: 'gateway', stop: async () => undefined, ready: async () => ({ redis }) };
  const silent: Role = { ...role, name: 'admin', ready: () => new Promise(() => undefined) };
  const broken: Role = { ...role, name: 'broker', ready: () => Promise.reject(new Error('no')) };
  const roles = [role];
  const config = readConfig({ ANTEROOM_METRICS_PORT: '0' });
  const metrics = createMetrics();
  const server = createMetricsServer({ config, log: silentLog, metrics, roles: () => roles });
  const { port } = await server.listen();
  t.teardown(() => server.close());
  const get = async (path: string) => {
    const answer = await fetch(`http://127.0.0.1:${port}${path}`);
    return { status: answer.status, type: answer.headers.get('content-type'), body: await answer.text() };
  };
  const shown = await get('/metrics');
  t.match(shown, { status: 200, type: /^text\/plain; version=0\.0\.4/ });
  t.match(shown.body, 'anteroom_process_cpu_seconds_total');
  t.equal((await get('/live')).status, 200);
  t.match(await get('/ready'), { status: 200, body: '{"ready":true,"missing":[]}' });
  redis = false;
  roles.push(silent, broken);
  const not = await get('/ready');
  t.equal(not.status, 503);
  t.same(JSON.parse(not.body), { ready: false, missing: ['gateway.redis', 'admin.answer', 'broker.answer'] });
  t.equal((await get('/elsewhere')).status, 404);
});
