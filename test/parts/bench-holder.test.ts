// The client of the stream benches: what it counts must be what was sent, however it was cut on the way, and whoever
// is lost must come back. It is compiled as the benches compile it.

import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import t, { type Test } from 'tap';
import { WebSocketServer } from 'ws';
import { type FanNews, quantileOf, startHolder } from '../../bench/holder.ts';
import { soakPlan } from '../../bench/soak.ts';
import { eventually } from '../support/eventually.ts';

const frame = (type: string, data: object): string => `event: ${type}\ndata: ${JSON.stringify(data)}\n\n`;

const listening = (t: Test, server: Server): Promise<number> =>
  new Promise((resolve) => {
    t.teardown(() => {
      server.closeAllConnections();
      server.close();
    });
    // Just listened on a port, so the address is not a pipe's.
    server.listen(0, '127.0.0.1', () => resolve((server.address() as AddressInfo).port));
  });

t.test('frames are counted however chunks cut them, and news names the fan of the file', async (t) => {
  const streams = new Map<string, ServerResponse>();
  const port = await listening(
    t,
    createServer((request, response) => {
      streams.set(String(request.headers.cookie), response);
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.write('retry: 20\n\n');
      response.write(frame('position', { position: 7, nextMs: 1 }));
    }),
  );
  const news: FanNews[] = [];
  const holder = startHolder({
    port,
    path: '/events',
    headers: {},
    fans: ['cookie: fan=0', 'cookie: fan=1', 'cookie: fan=2'],
    reconnect: 'retry',
    wantsFirst: true,
    says: (one) => news.push(one),
  });
  t.teardown(holder.stop);
  holder.open(2);
  await holder.settled();
  t.same([...streams.keys()].sort(), ['fan=0', 'fan=1'], 'the next of the file waits');
  // One byte a chunk: a size line between any two characters.
  for (const sign of frame('promoted', { number: 42, claimToken: 'x'.repeat(600) }))
    streams.get('fan=1')!.write(sign);
  await eventually('the news of a turn', () => news.some(({ kind }) => kind === 'promoted'));
  t.match(
    news.find(({ kind }) => kind === 'promoted'),
    { fan: 1 },
  );
  t.same(
    news.filter(({ kind }) => kind === 'first').map((one) => 'position' in one && one.position),
    [7, 7],
  );
  streams.get('fan=0')!.write(frame('position', { position: 6, nextMs: 1000 }));
  await eventually('the fourth frame', async () => (await holder.count()).frames === 4);
  const late = await holder.lateness();
  t.equal(
    late.reduce((sum, [, count]) => sum + count, 0),
    1,
    'one frame had a promised time',
  );

  streams.get('fan=0')!.destroy();
  await eventually('the fan is back', async () => (await holder.count()).connects === 3);
  t.match(await holder.count(), { open: 2, losses: 1 });
  await holder.close();
  t.match(await holder.count(), { open: 0 });
});

t.test('a refused fan tries again, one that is told to stay away does not', async (t) => {
  let asked = 0;
  const port = await listening(
    t,
    createServer((_request, response) => {
      asked += 1;
      response.writeHead(asked === 1 ? 503 : 204).end();
    }),
  );
  const news: FanNews[] = [];
  const holder = startHolder({
    ...{ port, path: '/', headers: {}, fans: 1, reconnect: 'now' },
    says: (one) => news.push(one),
  });
  t.teardown(holder.stop);
  holder.open(1);
  await eventually('the end', () => news.length > 0);
  t.match(news, [{ kind: 'ended', reason: '204' }]);
  t.match(await holder.count(), { refusals: 1, refusedBy: { 503: 1 }, open: 0 });
  t.equal(asked, 2);
});

t.test('over WebSocket it counts messages of every length and answers pings', async (t) => {
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0 });
  t.teardown(() => {
    for (const client of server.clients) client.terminate();
    server.close();
  });
  await new Promise((resolve) => server.once('listening', resolve));
  let pongs = 0;
  server.on('connection', (socket) => {
    socket.on('pong', (data) => {
      if (data.toString() === 'there?') pongs += 1;
    });
    socket.send(JSON.stringify({ type: 'position', position: 1 }));
    socket.send(JSON.stringify({ type: 'notice', text: 'x'.repeat(300) }));
    socket.send(JSON.stringify({ type: 'notice', text: 'x'.repeat(70_000) }));
    socket.ping('there?');
  });
  const { port } = server.address() as AddressInfo; // Listening on a port.
  const holder = startHolder({ port, path: '/', headers: {}, fans: 3, mode: 'ws' });
  t.teardown(holder.stop);
  holder.open(3);
  await holder.settled();
  await eventually('three messages each', async () => (await holder.count()).frames === 9);
  await eventually('a pong each', () => pongs === 3);
  t.match(await holder.count(), { frames: 9, open: 3, losses: 0 });
});

t.test('the share of late frames is taken over all holders together', async (t) => {
  const some: [number, number][] = [
    [0, 98],
    [10, 1],
  ];
  t.equal(quantileOf([some, [[500, 1]]], 0.5), 0);
  t.equal(quantileOf([some, [[500, 1]]], 0.99), 10);
  t.equal(quantileOf([some, [[500, 1]]], 1), 500);
});

t.test('a soak of sixty thousand moves 200 a second, a short line slower', async (t) => {
  t.same(soakPlan({ quick: false }), { fans: 60_000, seconds: 600, perSecond: 200 });
  t.same(soakPlan({ quick: false, fans: 6000, minutes: 1 }), { fans: 6000, seconds: 60, perSecond: 100 });
});
