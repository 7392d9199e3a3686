// What a fetcher promises: one attempt, a deadline for every step, faults in our words, and no connection kept by
// somebody who has left.

import { createServer as createNode, type IncomingMessage, type ServerResponse } from 'node:http';
import { type AddressInfo, createServer as createTcp, type Socket } from 'node:net';
import t from 'tap';
import { Refusal } from '../../kernel/errors.ts';
import { createFetcher, type Reader } from '../../kernel/fetch.ts';
import { createServer } from '../../kernel/http.ts';
import { silentLog } from '../../kernel/log.ts';
import { openStream, rawRequest } from '../support/client.ts';
import { eventually } from '../support/eventually.ts';
import { refusingAddress } from '../support/refusing.ts';
import { standingClock, swept } from '../support/standing-clock.ts';
import { beforeTimers, startThreadWire } from '../support/thread-wire.ts';

type Test = { teardown(work: () => unknown): void };
type Options = Partial<Parameters<typeof createFetcher>[0]>;

const origin = async (test: Test, answer: (request: IncomingMessage, response: ServerResponse) => void) => {
  const server = createNode(answer);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  test.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  // Listening on TCP, so the address is not a pipe's name.
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
};

/** Deadlines that no machine is too slow for: where one is to pass, the test says so. */
const fetcherFor = (test: Test, options: Options = {}) => {
  const fetcher = createFetcher({
    connectionsMax: 4,
    headersTimeoutMs: 60_000,
    connectTimeoutMs: 60_000,
    ...options,
  });
  test.teardown(() => fetcher.close());
  return fetcher;
};

const textOf = async (body: AsyncIterable<Uint8Array>): Promise<string> => {
  let text = '';
  for await (const chunk of body) text += Buffer.from(chunk).toString();
  return text;
};

const get = { method: 'GET', path: '/', headers: [] } as const;

t.test('a request and its answer pass unchanged', async (t) => {
  const at = await origin(t, async (request, response) => {
    response.writeHead(201, [
      ['Set-Cookie', 'a=1'],
      ['Set-Cookie', 'b=2'],
      ['X-Own', 'yes'],
    ] as unknown as string[]);
    const body = await textOf(request);
    response.end(`${request.method} ${request.url} ${request.headers['x-a']} ${body}`);
  });
  const sent = await fetcherFor(t).send({
    origin: at,
    method: 'POST',
    path: '/a/b?c=%20d',
    headers: ['x-a', '1'],
    body: Buffer.from('body'),
  });
  t.equal(sent.status, 201);
  t.same(
    sent.headers.filter(([name]) => name === 'set-cookie' || name === 'x-own'),
    [
      ['set-cookie', 'a=1'],
      ['set-cookie', 'b=2'],
      ['x-own', 'yes'],
    ],
  );
  t.equal(await textOf(sent.body), 'POST /a/b?c=%20d 1 body');
});

t.test('nothing is redirected and nothing is tried twice', async (t) => {
  let asked = 0;
  const at = await origin(t, (request, response) => {
    asked += 1;
    if (request.url === '/cut') request.socket.destroy();
    else response.writeHead(302, { location: '/elsewhere' }).end();
  });
  const fetcher = fetcherFor(t);
  const sent = await fetcher.send({ origin: at, ...get });
  t.equal(sent.status, 302);
  await textOf(sent.body);
  await t.rejects(fetcher.send({ origin: at, ...get, path: '/cut' }), { code: 'origin-unreachable' });
  t.equal(asked, 2);
});

t.test('an origin that cannot be reached is origin-unreachable, with the cause', async (t) => {
  const fetcher = fetcherFor(t);
  const { origin: at } = await refusingAddress(t);
  const refusal = await fetcher.send({ origin: at, ...get }).catch((error: unknown) => error);
  t.ok(refusal instanceof Refusal && refusal.code === 'origin-unreachable' && refusal.cause instanceof Error);
  await t.rejects(fetcher.json({ origin: at, method: 'GET', path: '/' }), { code: 'origin-unreachable' });
  // No name has an empty label, so no name server is asked for it.
  await t.rejects(fetcher.send({ origin: 'http://no..name', ...get }), { code: 'origin-unreachable' });
});

t.test('an origin that talks nonsense is origin-unreachable', async (t) => {
  const server = createTcp((wire: Socket) => {
    wire.on('error', () => undefined); // The client hangs up on nonsense.
    wire.end('SSH-2.0-nonsense\r\n\r\n');
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  // Listening on TCP, so the address is not a pipe's name.
  const at = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  await t.rejects(fetcherFor(t).send({ origin: at, ...get }), { code: 'origin-unreachable' });
});

t.test('an origin that is silent is origin-timeout, at the deadline that was asked for', async (t) => {
  const at = await origin(t, () => undefined);
  const clock = standingClock();
  const fetcher = fetcherFor(t, { connectionsMax: 1, clock });
  const ended: unknown[] = [];
  for (let count = 0; count < 2; count += 1)
    fetcher.send({ origin: at, ...get, timeoutMs: 150 }).then(
      () => ended.push('answered'),
      (refusal: unknown) => ended.push(refusal),
    );
  clock.advance(149);
  await swept(fetcher);
  t.same(ended, [], 'not before');
  clock.advance(1);
  await swept(fetcher);
  t.equal(ended.length, 2, 'waiting for a connection counts, too');
  for (const refusal of ended) t.ok(refusal instanceof Refusal && refusal.code === 'origin-timeout');
});

t.test('an answer that came while the process stood still is in time', async (t) => {
  const peer = await startThreadWire(t);
  const clock = standingClock();
  const asked = fetcherFor(t, { clock }).send({
    origin: `http://127.0.0.1:${peer.port}`,
    ...get,
    timeoutMs: 100,
  });
  await eventually('the origin has it', () => peer.heard().endsWith('\r\n\r\n'));
  await beforeTimers();
  clock.advance(100);
  peer.standStillWhileItSends('HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx', 100);
  t.equal(await textOf((await asked).body), 'x');
});

t.test('the deadline of json lasts from the request to the end of the answer', async (t) => {
  const begun: string[] = [];
  const at = await origin(t, (request, response) => {
    const isHere = () => begun.push(request.url ?? '');
    if (request.url === '/half') response.writeHead(200, { 'content-length': '4' }).write('"ha', isHere);
    else isHere();
  });
  const clock = standingClock();
  const fetcher = fetcherFor(t, { clock, bodyTimeoutMs: 60_000 });
  for (const path of ['/silent', '/half']) {
    let how = 'waiting';
    const asked = fetcher.json({ origin: at, method: 'GET', path, timeoutMs: 100 }).catch((refusal) => {
      how = 'over';
      throw refusal;
    });
    const refused = t.rejects(asked, { code: 'origin-timeout' }, path);
    await eventually('it has come to the origin', () => begun.includes(path));
    clock.advance(99);
    await swept(fetcher);
    t.equal(how, 'waiting');
    clock.advance(1);
    await refused;
  }
});

t.test(
  'whoever waits for a connection in vain waits until the deadline or the end of the client',
  async (t) => {
    const at = await origin(t, (_, response) => void response.write('for ever'));
    const fetcher = fetcherFor(t, { connectionsMax: 1 });
    const held = await fetcher.send({ origin: at, ...get });
    await t.rejects(fetcher.send({ origin: at, ...get, timeoutMs: 50 }), { code: 'origin-timeout' });
    const left = new AbortController();
    const waiting = fetcher.send({ origin: at, ...get, signal: left.signal });
    left.abort();
    await t.rejects(waiting, { name: 'AbortError' });
    await t.rejects(fetcher.send({ origin: at, ...get, signal: left.signal }), { name: 'AbortError' });
    await held.body[Symbol.asyncIterator]().return?.();
  },
);

t.test('a body that falls silent is origin-timeout; an event stream may be silent', async (t) => {
  let endEvents: (() => void) | undefined;
  const at = await origin(t, (request, response) => {
    const isEvents = request.url === '/events';
    response.writeHead(200, { 'content-type': isEvents ? 'text/event-stream' : 'text/plain' });
    response.write('first');
    if (isEvents) endEvents = () => response.end(' last');
  });
  const clock = standingClock();
  const fetcher = fetcherFor(t, { bodyTimeoutMs: 100, clock });
  const bodyOf = async (path: string) =>
    (await fetcher.send({ origin: at, ...get, path })).body[Symbol.asyncIterator]();
  const [plain, events] = [await bodyOf('/'), await bodyOf('/events')];
  for (const body of [plain, events]) t.equal(String((await body.next()).value), 'first');
  const ended: unknown[] = [];
  const [more, rest] = [plain.next(), events.next()];
  more.catch((refusal: unknown) => ended.push(refusal));
  clock.advance(99);
  await swept(fetcher);
  t.same(ended, [], 'not before');
  clock.advance(1);
  await t.rejects(more, { code: 'origin-timeout' });
  clock.advance(1_000_000);
  await swept(fetcher);
  endEvents?.();
  t.equal(String((await rest).value), ' last');
  t.equal((await events.next()).done, true);
});

t.test('a body cut short is an error, never a shorter body', async (t) => {
  const at = await origin(t, (request, response) => {
    response.writeHead(200, { 'content-length': '100' });
    response.write('half', () => request.socket.destroy());
  });
  const sent = await fetcherFor(t).send({ origin: at, ...get });
  await t.rejects(textOf(sent.body), { code: 'origin-unreachable' });
});

t.test('whoever leaves lets go of the connection, at any moment', async (t) => {
  const begun = new Set<string | undefined>();
  const closed = new Set<string | undefined>();
  const at = await origin(t, (request, response) => {
    begun.add(request.url);
    request.socket.once('close', () => closed.add(request.url));
    if (request.url === '/never') return;
    response.writeHead(200);
    response.write('first');
  });
  const fetcher = fetcherFor(t);
  const connecting = new AbortController();
  const early = fetcher.send({ origin: at, ...get, path: '/early', signal: connecting.signal });
  connecting.abort();
  await t.rejects(early, { name: 'AbortError' });

  const abort = new AbortController();
  const never = fetcher.send({ origin: at, ...get, path: '/never', signal: abort.signal });
  const aborted = t.rejects(never, { name: 'AbortError' });
  await eventually('the origin has it', () => begun.has('/never'));
  abort.abort();
  await aborted;
  await eventually('a request without an answer was let go', () => closed.has('/never'));

  const before = new AbortController();
  before.abort();
  await t.rejects(fetcher.send({ origin: at, ...get, signal: before.signal }));

  const unread = await fetcher.send({ origin: at, ...get, path: '/unread' });
  await unread.body[Symbol.asyncIterator]().return?.();
  await eventually('an unread body was let go', () => closed.has('/unread'));

  const pending = await fetcher.send({ origin: at, ...get, path: '/pending' });
  const reader = pending.body[Symbol.asyncIterator]();
  await reader.next();
  const next = reader.next().catch(() => 'ended');
  await reader.return?.();
  await eventually('even while a piece was awaited', () => closed.has('/pending'));
  await next;

  const later = new AbortController();
  const signalled = await fetcher.send({ origin: at, ...get, path: '/signal', signal: later.signal });
  later.abort();
  await eventually('and by the signal', () => closed.has('/signal'));
  await t.rejects(textOf(signalled.body));
});

t.test('connections to one origin are bounded and used again', async (t) => {
  const sockets = new Set<unknown>();
  const held: ServerResponse[] = [];
  const at = await origin(t, (request, response) => {
    sockets.add(request.socket);
    held.push(response);
    // Nobody is answered before three are there at once. A fourth connection would bring a request, too.
    if (held.length === 3) for (const one of held.splice(0)) one.end('x');
  });
  const fetcher = fetcherFor(t, { connectionsMax: 3 });
  await Promise.all(
    Array.from({ length: 30 }, async () => textOf((await fetcher.send({ origin: at, ...get })).body)),
  );
  t.equal(sockets.size, 3);
});

t.test('a header that cannot be sent is the sender’s fault', async (t) => {
  const at = await origin(t, (_, response) => response.end());
  const fetcher = fetcherFor(t);
  for (const header of [
    ['x-a', 'a\nb'],
    ['x a', 'b'],
  ] as const)
    await t.rejects(fetcher.send({ origin: at, ...get, headers: header }), { code: 'bad-header' });
});

t.test('requests that cannot be sent take no connection away, however many there are', async (t) => {
  const at = await origin(t, (_, response) => response.end('x'));
  const fetcher = fetcherFor(t, { connectionsMax: 2 });
  for (const value of ['€', 'a\x01b'])
    for (let count = 0; count < 5; count += 1)
      await t.rejects(fetcher.send({ origin: at, ...get, headers: ['x-a', value] }), { code: 'bad-header' });
  t.equal(await textOf((await fetcher.send({ origin: at, ...get })).body), 'x');
});

t.test('who leaves while waiting for a connection makes room at once', async (t) => {
  const held: ServerResponse[] = [];
  const at = await origin(t, (_, response) => void held.push(response));
  const fetcher = fetcherFor(t, { connectionsMax: 1, waitingMax: 1 });
  const first = fetcher.send({ origin: at, ...get });
  const reader: Reader = {};
  const second = fetcher.send({ origin: at, ...get, reader });
  await t.rejects(fetcher.send({ origin: at, ...get }), { code: 'overloaded' });
  const left = t.rejects(second, { code: 'origin-unreachable' });
  reader.waiter?.leave();
  await left;
  const third = fetcher.send({ origin: at, ...get });
  await eventually('the first is there', () => held.length === 1);
  held[0]?.end('first');
  t.equal(await textOf((await first).body), 'first');
  await eventually('then the third', () => held.length === 2);
  held[1]?.end('third');
  t.equal(await textOf((await third).body), 'third');
});

t.test(
  'a body comes whole up to the length that was asked for, and a fault in it is the request’s',
  async (t) => {
    const at = await origin(t, (request, response) => {
      if (request.url === '/cut') {
        response.writeHead(200, { 'content-length': '10' });
        response.write('half', () => request.socket.destroy());
      } else if (request.url === '/silent') response.writeHead(200, { 'content-length': '10' }).write('half');
      else if (request.url === '/chunked') response.write('some', () => response.end(' more'));
      else {
        // In two pieces, the length said before.
        const text = 'x'.repeat(Number(request.url?.slice(1)));
        response.writeHead(200, { 'content-length': text.length });
        response.write(text.slice(1), () => response.end(text.slice(0, 1)));
      }
    });
    const clock = standingClock();
    // Of a body that comes whole there is no piece to be seen, so time is moved on for as long as it takes. The head
    // has a deadline that is further away than that.
    const fetcher = fetcherFor(t, { bodyTimeoutMs: 100, headersTimeoutMs: 1e9, clock });
    const ask = (path: string) => fetcher.send({ origin: at, ...get, path, wholeBytesMax: 10 });
    const whole = await ask('/10');
    t.equal(Buffer.from(whole.whole ?? []).toString(), 'x'.repeat(10));
    for (const [path, text] of [
      ['/11', 'x'.repeat(11)],
      ['/chunked', 'some more'],
    ] as const) {
      const long = await ask(path);
      t.equal(long.whole, undefined);
      t.equal(await textOf(long.body), text);
    }
    await t.rejects(ask('/cut'), { code: 'origin-unreachable' });
    let isOver = false;
    const silent = ask('/silent').finally(() => {
      isOver = true;
    });
    const refused = t.rejects(silent, { code: 'origin-timeout' });
    await eventually('silence has its deadline', () => {
      clock.advance(100);
      return isOver;
    });
    await refused;
  },
);

t.test('json sends and reads one value', async (t) => {
  const at = await origin(t, async (request, response) => {
    const body = await textOf(request);
    if (request.url === '/echo')
      response
        .writeHead(409)
        .end(JSON.stringify({ type: request.headers['content-type'], body: JSON.parse(body) }));
    else if (request.url === '/none') response.writeHead(204).end();
    else if (request.url === '/html') response.end('<html>');
    else response.end(`"${'x'.repeat(2_000_000)}"`);
  });
  const fetcher = fetcherFor(t);
  t.same(await fetcher.json({ origin: at, method: 'POST', path: '/echo', body: { a: [1] } }), {
    status: 409,
    value: { type: 'application/json', body: { a: [1] } },
  });
  t.same(await fetcher.json({ origin: at, method: 'GET', path: '/none' }), { status: 204, value: undefined });
  for (const path of ['/html', '/long'])
    await t.rejects(fetcher.json({ origin: at, method: 'GET', path }), { code: 'origin-unreachable' });
});

t.test(
  'behind our server a body streams through, and an event stream opens and ends with its reader',
  async (t) => {
    let streams = 0;
    let sayOne: (() => void) | undefined;
    const size = 5_000_000;
    const at = await origin(t, (request, response) => {
      if (request.url === '/big')
        return response.writeHead(200, { 'content-length': size }).end(Buffer.alloc(size));
      if (request.url === '/cut') {
        response.writeHead(200, { 'content-length': size });
        return response.write('half', () => request.socket.destroy());
      }
      streams += 1;
      request.socket.once('close', () => {
        streams -= 1;
      });
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.flushHeaders();
      sayOne = () => response.write('data: one\n\n');
    });
    const fetcher = fetcherFor(t);
    const server = createServer({
      name: 'edge',
      host: '127.0.0.1',
      port: 0,
      log: silentLog,
      bodyBytesMax: 1000,
      slowReaderMs: 60_000,
      trustedProxies: [],
    });
    server.otherwise(({ method, path, signal }) =>
      fetcher.send({ origin: at, method, path, headers: [], signal }),
    );
    const { port } = await server.listen();
    t.teardown(() => server.close(100));
    const url = `http://127.0.0.1:${port}`;

    const big = await fetch(`${url}/big`);
    t.equal(big.headers.get('content-length'), String(size));
    t.equal((await big.arrayBuffer()).byteLength, size);
    await t.rejects(fetch(`${url}/cut`).then((answer) => answer.text()));

    // Nothing is said until the head is here: it comes before the first event, or not at all.
    const stream = await openStream(`${url}/events`);
    t.equal(stream.answered, 200);
    sayOne?.();
    t.equal((await stream.next())?.data, 'one');
    stream.close();
    await eventually('the origin is told', () => streams === 0);
    await rawRequest(port, 'GET /events HTTP/1.1\r\nhost: a\r\n\r\n', {
      leave: () => eventually('it has come to the origin', () => streams === 1),
    });
    await eventually('even before the first event', () => streams === 0);
  },
);
