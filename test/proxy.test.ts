// What a fan and an origin see of the proxy between them, over real sockets on both sides. The gate in front of it has
// its own tests; here everybody is let through.

import { createServer as createNode, type IncomingMessage, type ServerResponse } from 'node:http';
import { type AddressInfo, connect, createServer as createTcp, type Socket } from 'node:net';
import t from 'tap';
import { framed } from '../gateway/pages.ts';
import { createProxy } from '../gateway/proxy.ts';
import { Refusal } from '../kernel/errors.ts';
import { createFetcher } from '../kernel/fetch.ts';
import { createServer } from '../kernel/http.ts';
import { silentLog } from '../kernel/log.ts';
import { createMetrics } from '../kernel/metrics.ts';
import { rawRequest } from './support/client.ts';
import { eventually } from './support/eventually.ts';
import { freePort } from './support/redis.ts';

type Test = { teardown(work: () => unknown): void };
type Options = Partial<Parameters<typeof createFetcher>[0]>;

const MIB = 1_048_576;

const listenOn = async (server: { listen(port: number, host: string, done: () => void): unknown }) =>
  new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
// Listening on TCP, so the address is not a pipe's name.
const urlOf = (server: { address(): unknown }) =>
  `http://127.0.0.1:${(server.address() as AddressInfo).port}`;

const webOrigin = async (
  t: Test,
  answer: (request: IncomingMessage, response: ServerResponse) => unknown,
) => {
  const server = createNode(answer);
  await listenOn(server);
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return urlOf(server);
};

/** An origin that is told what came over the wire and says its bytes itself. */
const rawOrigin = async (t: Test, each: (wire: Socket, text: string, count: number) => void) => {
  const open = new Set<Socket>();
  const server = createTcp((wire) => {
    let count = 0;
    open.add(wire);
    // The proxy may hang up at any moment, which is what some of the tests are about.
    wire.on('error', () => undefined);
    wire.once('close', () => open.delete(wire));
    wire.on('data', (chunk) => {
      count += 1;
      each(wire, chunk.toString('latin1'), count);
    });
  });
  await listenOn(server);
  t.teardown(() => {
    for (const wire of open) wire.destroy();
    server.close();
  });
  return urlOf(server);
};

/** A gate that lets everybody through to one origin. */
const startEdge = async (t: Test, origin: string, options: Options & { timeoutMs?: number } = {}) => {
  const { timeoutMs = 3000, ...more } = options;
  const fetcher = createFetcher({ connectionsMax: 8, headersTimeoutMs: 3000, ...more });
  const metrics = createMetrics({ processMetrics: false });
  const proxy = createProxy({ fetcher, metrics });
  const server = createServer({
    name: 'edge',
    host: '127.0.0.1',
    port: 0,
    log: silentLog,
    bodyBytesMax: 1000,
    slowReaderMs: 5000,
    trustedProxies: [],
  });
  server.otherwise(
    framed(async (request) => {
      if (request.header('x-refuse') !== undefined) throw new Refusal('session-required');
      const { answer } = await proxy({
        request,
        origin,
        path: request.path,
        context: ['anteroom-context', 'signed'],
        setCookies: [],
        proto: 'https',
        timeoutMs,
      });
      return answer;
    }),
    { bodyBytesMax: 500 * MIB, isStreamed: true },
  );
  const { port } = await server.listen();
  t.teardown(async () => {
    await server.close(100);
    await fetcher.close();
  });
  return { port, url: `http://127.0.0.1:${port}`, fetcher, metrics };
};

const sizeOf = async (source: AsyncIterable<Uint8Array>): Promise<number> => {
  let bytes = 0;
  for await (const piece of source) bytes += piece.length;
  return bytes;
};

t.test('an origin sees rebuilt addresses, and nothing that only we may say', async (t) => {
  let seen: IncomingMessage | undefined;
  const { port, url } = await startEdge(
    t,
    await webOrigin(t, (request, response) => {
      seen = request;
      response.end('x');
    }),
  );
  await fetch(url); // Whatever is made at the first request is made.
  const forged = [
    ...['x-forwarded-for: 6.6.6.6', 'x-forwarded-port: 1', 'forwarded: for=6.6.6.6'],
    ...[
      'x-real-ip: 6.6.6.6',
      'true-client-ip: 6.6.6.6',
      'x-original-url: /admin',
      'anteroom-visitor: forged',
    ],
    ...['connection: x-hop', 'x-hop: 1', 'te: trailers', 'proxy-authorization: x'],
    ...[
      'cookie: ar_v=a; shop=1; __Host-ar_s_demo=b',
      'via: 1.1 cdn',
      'accept-encoding: br',
      'range: bytes=0-3',
    ],
  ];
  const said = await rawRequest(
    port,
    `GET /a?b=%20 HTTP/1.1\r\nhost: tickets.test\r\n${forged.join('\r\n')}\r\n\r\n`,
  );
  const headers = seen?.headers ?? {};
  t.match(said.text, /^HTTP\/1\.1 200 /);
  t.equal(seen?.url, '/a?b=%20');
  t.notMatch(JSON.stringify(headers), /6\.6\.6\.6|forged|admin|x-hop|trailers|proxy-auth|x-forwarded-port/);
  t.match(headers, {
    'x-forwarded-for': '127.0.0.1',
    'x-forwarded-proto': 'https',
    'x-forwarded-host': 'tickets.test',
    'anteroom-context': 'signed',
    cookie: 'shop=1',
    via: '1.1 cdn',
    'accept-encoding': 'br',
    range: 'bytes=0-3',
  });
});

t.test('an answer passes unchanged but for what is ours or belongs to one connection', async (t) => {
  const { port } = await startEdge(
    t,
    await webOrigin(t, (request, response) => {
      if (request.url === '/early') response.writeEarlyHints({ link: '</a.css>; rel=preload' });
      const lists: [string, string][] = [
        ...([
          ['Set-Cookie', 'a=1; Path=/'],
          ['Set-Cookie', 'ar_s_demo=stolen'],
          ['Set-Cookie', 'b=2'],
        ] as const),
        ...([
          ['Set-Cookie', ' __Host-ar_v=stolen'],
          ['Location', 'http://other.test/x'],
          ['Connection', 'close, X-Hop'],
        ] as const),
        ...([
          ['X-Hop', '1'],
          ['Anteroom-X', '1'],
          ['Content-Encoding', 'gzip'],
          ['Trailer', 'x-sum'],
        ] as const),
        ...([
          ['Content-Range', 'bytes 0-3/9'],
          ['Transfer-Encoding', 'chunked'],
        ] as const),
      ].map(([name, value]) => [name, value]);
      // The list form keeps repetitions apart; its type is a flat list.
      response.writeHead(206, lists as unknown as string[]);
      response.addTrailers({ 'x-sum': '1' });
      response.end(Buffer.from('\x1f\x8b..', 'latin1'));
    }),
  );
  for (const path of ['/', '/early']) {
    const { text } = await rawRequest(port, `GET ${path} HTTP/1.1\r\nhost: a\r\n\r\n`);
    t.match(text, /^HTTP\/1\.1 206 Partial Content\r\n/, 'and no answer of the 1xx kind before it');
    t.same(text.match(/^set-cookie: .*$/gim), ['set-cookie: a=1; Path=/', 'set-cookie: b=2']);
    t.match(text, '\r\nlocation: http://other.test/x\r\n');
    t.match(text, '\r\ncontent-encoding: gzip\r\n');
    t.match(text, '\r\ncontent-range: bytes 0-3/9\r\n');
    t.match(text, '\x1f\x8b..');
    t.notMatch(text, /x-hop|anteroom-x|x-sum|connection: close|stolen/i);
    t.equal(text.match(/^date: /gim)?.length, 1);
  }
});

t.test('an address arrives as it was sent, a question mark with nothing behind it too', async (t) => {
  const origin = await webOrigin(t, (request, response) => response.end(request.url));
  const { port } = await startEdge(t, origin);
  for (const target of ['/a', '/a?', '/a?b', '/a??', '/?']) {
    const { text } = await rawRequest(port, `GET ${target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n`);
    t.equal(text.split('\r\n\r\n')[1], target);
  }
});

t.test('HEAD tells the length, 204 and 304 have no body, and the connection goes on', async (t) => {
  const { port } = await startEdge(
    t,
    await webOrigin(t, (request, response) => {
      if (request.url === '/204') response.writeHead(204).end();
      else if (request.url === '/304') response.writeHead(304, { etag: '"1"' }).end();
      else
        response
          .writeHead(200, { 'content-length': 9 })
          .end(request.method === 'HEAD' ? undefined : 'nine char');
    }),
  );
  const asked = ['HEAD /', 'GET /204', 'GET /304', 'GET /'];
  const { text } = await rawRequest(
    port,
    asked.map((line) => `${line} HTTP/1.1\r\nhost: a\r\n\r\n`),
  );
  t.same(text.match(/^HTTP\/1.1 \d+/gm), ['HTTP/1.1 200', 'HTTP/1.1 204', 'HTTP/1.1 304', 'HTTP/1.1 200']);
  t.equal(text.match(/^content-length: 9\r$/gim)?.length, 2);
  t.match(text, 'etag: "1"');
  t.equal(text.match(/nine char/g)?.length, 1);
});

t.test('a body reaches the origin piece by piece, before the last of it is sent', async (t) => {
  const heard: string[] = [];
  const { port } = await startEdge(
    t,
    await webOrigin(t, (request, response) => {
      heard.push(`length ${request.headers['content-length']}`);
      request.on('data', (chunk) => heard.push(String(chunk)));
      request.on('end', () => response.end('thanks'));
    }),
  );
  const wire = connect(port, '127.0.0.1');
  t.teardown(() => wire.destroy());
  let answer = '';
  wire.on('data', (chunk) => {
    answer += chunk.toString();
  });
  wire.write('POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nfirst');
  await eventually('the first piece is there', () => heard.length === 2);
  t.equal(answer, '');
  wire.write('other');
  await eventually('an answer', () => answer.includes('thanks'));
  t.same(heard, ['length 10', 'first', 'other']);
});

t.test('an upload is held back to the speed of its origin, and comes through whole', async (t) => {
  let asked: IncomingMessage | undefined;
  const { port } = await startEdge(
    t,
    await webOrigin(t, async (request, response) => {
      asked = request;
      request.pause();
      await new Promise((resolve) => request.once('go', resolve));
      response.end(String(await sizeOf(request)));
    }),
  );
  const total = 100 * MIB;
  const wire = connect(port, '127.0.0.1');
  t.teardown(() => wire.destroy());
  let answer = '';
  wire.on('data', (chunk) => {
    answer += chunk.toString();
  });
  wire.write(`PUT /file HTTP/1.1\r\nhost: a\r\ncontent-length: ${total}\r\n\r\n`);
  const piece = Buffer.alloc(MIB, 7);
  let sentCount = 0;
  const flow = () => {
    while (sentCount < 100) {
      sentCount += 1;
      if (!wire.write(piece)) return wire.once('drain', flow);
    }
    return undefined;
  };
  flow();
  let before = -1;
  await eventually('nothing moves any more', async () => {
    const now = wire.bytesWritten - wire.writableLength;
    const isStill = now > 0 && now === before;
    before = now;
    await new Promise((resolve) => setTimeout(resolve, 150));
    return isStill;
  });
  t.ok(before < 40 * MIB, `${Math.round(before / MIB)} MiB left the sender while nobody read`);
  asked?.emit('go');
  await eventually('the answer', () => answer.includes(`\r\n\r\n${total}`), 20_000);
});

t.test('memory stays flat while large bodies go up and down past slow ends', async (t) => {
  const total = 200 * MIB;
  const piece = Buffer.alloc(256 * 1024, 1);
  const { url, port } = await startEdge(
    t,
    await webOrigin(t, async (request, response) => {
      if (request.method === 'PUT') {
        let bytes = 0;
        for await (const chunk of request) {
          bytes += chunk.length;
          // A turn of the loop for each piece: slower than the sender, who only fills buffers.
          await new Promise((resolve) => setImmediate(resolve));
        }
        return response.end(String(bytes));
      }
      response.writeHead(200, { 'content-length': total });
      for (let sent = 0; sent < total; sent += piece.length)
        if (!response.write(piece)) await new Promise((resolve) => response.once('drain', resolve));
      return response.end();
    }),
  );
  let most = 0;
  const used = () => {
    const { external, heapUsed, arrayBuffers } = process.memoryUsage();
    return external + heapUsed + arrayBuffers;
  };
  globalThis.gc?.();
  const from = used();
  const look = () => {
    most = Math.max(most, used() - from);
  };
  async function* upload() {
    for (let sent = 0; sent < total; sent += piece.length) {
      look();
      yield piece;
    }
  }
  const fetcher = createFetcher({ connectionsMax: 1, headersTimeoutMs: 10_000 });
  t.teardown(() => fetcher.close());
  const put = await fetcher.send({
    origin: url,
    method: 'PUT',
    path: '/',
    headers: [],
    body: { bytes: total, pieces: upload() },
  });
  const texts: Uint8Array[] = [];
  for await (const chunk of put.body) texts.push(chunk);
  t.equal(Buffer.concat(texts).toString(), String(total));
  const up = most;

  const wire = connect(port, '127.0.0.1');
  t.teardown(() => wire.destroy());
  let bytes = 0;
  wire.write('GET /big HTTP/1.1\r\nhost: a\r\n\r\n');
  for await (const chunk of wire) {
    bytes += chunk.length;
    look();
    await new Promise((resolve) => setImmediate(resolve));
    if (bytes > total) break;
  }
  t.ok(bytes > total, 'all of it came');
  t.ok(up < 90 * MIB && most < 90 * MIB, `${Math.round(up / MIB)} and ${Math.round(most / MIB)} MiB at most`);
});

t.test('whoever leaves in the middle of a body ends the request to the origin', async (t) => {
  let aborted = 0;
  let begun = 0;
  const { port } = await startEdge(
    t,
    await webOrigin(t, (request) => {
      begun += 1;
      request.resume();
      request.once('close', () => {
        if (!request.complete) aborted += 1;
      });
      request.on('error', () => undefined); // The abort that is waited for.
    }),
  );
  const wire = connect(port, '127.0.0.1');
  wire.write('POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nsome');
  await eventually('it has begun', () => begun === 1);
  wire.destroy();
  await eventually('the origin is told', () => aborted === 1);
});

t.test('an answer before the body is read is the answer, and the connection stays in order', async (t) => {
  let read = 0;
  const { port } = await startEdge(
    t,
    await webOrigin(t, (request, response) => {
      if (request.url === '/after') return response.end('after');
      request.on('data', (chunk) => {
        read += chunk.length;
      });
      request.on('error', () => undefined); // The proxy hangs up once it has the answer.
      return response.writeHead(request.url === '/close' ? 413 : 401, { connection: 'close' }).end('early');
    }),
  );
  const next = 'GET /after HTTP/1.1\r\nhost: a\r\n\r\n';
  for (const [path, status, refuse] of [
    ['/close', 413, ''],
    ['/keep', 401, ''],
    ['/never-asked', 429, 'x-refuse: 1\r\n'],
  ] as const) {
    const head = `POST ${path} HTTP/1.1\r\nhost: a\r\n${refuse}content-length: 300000\r\n\r\n`;
    const wire = connect(port, '127.0.0.1');
    t.teardown(() => wire.destroy());
    let text = '';
    wire.on('data', (chunk) => {
      text += chunk.toString();
    });
    wire.write(`${head}${'x'.repeat(1000)}`);
    await eventually(`${path}: the answer does not wait for the body`, () =>
      text.includes(`HTTP/1.1 ${status} `),
    );
    wire.write(`${'x'.repeat(299_000)}${next}`);
    await eventually(`${path}: and the next request is answered`, () => text.includes('after'));
    t.equal(text.match(/HTTP\/1\.1 /g)?.length, 2, 'the rest of the body was no request');
  }
  t.ok(read < 300_000, 'most of it never went out');
});

t.test('100-continue is said by us, so that no origin needs to know it', async (t) => {
  const expected: unknown[] = [];
  const { port } = await startEdge(
    t,
    await webOrigin(t, async (request, response) => {
      expected.push(request.headers.expect);
      response.end(String(await sizeOf(request)));
    }),
  );
  const { text } = await rawRequest(port, [
    'POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n',
    'abc',
  ]);
  t.match(text, /^HTTP\/1\.1 100 Continue\r\n\r\nHTTP\/1\.1 200 OK\r\n[\s\S]*\r\n\r\n3$/);
  t.same(expected, [undefined]);
});

t.test('only a safe request on a used connection that was closed goes out twice', async (t) => {
  const asked: string[] = [];
  const at = await rawOrigin(t, (wire, text, count) => {
    asked.push(text.slice(0, text.indexOf(' HTTP')));
    if (count > 1 || text.includes('/cut')) wire.destroy();
    else wire.write('HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok');
  });
  const { url } = await startEdge(t, at, { connectionsMax: 1 });
  const ask = async (method: string, path: string) => {
    const answer = await fetch(url + path, { method, ...(method === 'POST' ? { body: 'x' } : {}) });
    await answer.text();
    return answer.status;
  };
  t.equal(await ask('GET', '/1'), 200);
  t.equal(await ask('GET', '/2'), 200, 'asked again, on a new connection');
  t.same(asked, ['GET /1', 'GET /2', 'GET /2']);
  t.equal(await ask('POST', '/3'), 502, 'who knows what became of it');
  t.same(asked.slice(3), ['POST /3']);
  t.equal(await ask('GET', '/cut'), 502, 'a new connection that is closed says something of the origin');
  t.same(asked.slice(4), ['GET /cut']);
});

t.test('an origin that cannot be reached is left in peace, then tried by one request', async (t) => {
  const port = await freePort();
  const rest = { failuresMax: 3, restMs: 400 };
  const edge = await startEdge(t, `http://127.0.0.1:${port}`, { breaker: rest });
  const { fetcher, url } = edge;
  const origin = `http://127.0.0.1:${port}`;
  const ask = () => fetch(url, { headers: { accept: 'text/html' } });
  for (let count = 0; count < 3; count += 1) {
    t.equal(fetcher.stateOf(origin), 'closed');
    t.equal((await ask()).status, 502);
  }
  t.equal(fetcher.stateOf(origin), 'open');

  let asked = 0;
  let answerLater: (() => void) | undefined;
  const server = createNode((_, response) => {
    asked += 1;
    answerLater = () => response.end('back');
  });
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  const refused = await ask();
  t.equal(refused.status, 502);
  t.equal(refused.headers.get('retry-after'), '5');
  t.match(refused.headers.get('content-type'), /^text\/html/);
  t.match(await refused.text(), /The sale is not answering/);
  t.match(await (await fetch(url)).json(), { code: 'origin-unreachable', status: 502 });
  t.equal(asked, 0, 'nobody was let through');

  const probes: Promise<Response>[] = [];
  await eventually('one is let through', async () => {
    const probe = ask();
    probes.push(probe);
    await Promise.race([probe, new Promise((resolve) => setTimeout(resolve, 50))]);
    return asked === 1;
  });
  t.equal(fetcher.stateOf(origin), 'trying');
  t.equal((await ask()).status, 502, 'the others wait for its outcome');
  answerLater?.();
  t.equal(await (await probes.at(-1)!).text(), 'back');
  t.equal(fetcher.stateOf(origin), 'closed');
  t.match(await edge.metrics.text(), /anteroom_proxied_total\{outcome="failed"\} [1-9]/);
});

t.test('silence counts as away only when nobody else is answered', async (t) => {
  const origin = await webOrigin(t, (request, response) => {
    if (request.url !== '/silent') response.end('x');
  });
  const { fetcher, url } = await startEdge(t, origin, {
    breaker: { failuresMax: 1, restMs: 60_000 },
    timeoutMs: 200,
  });
  const silent = fetch(`${url}/silent`);
  t.equal((await fetch(`${url}/quick`)).status, 200);
  t.equal((await silent).status, 504);
  t.equal(fetcher.stateOf(origin), 'closed');
  t.equal((await fetch(`${url}/silent`)).status, 504);
  t.equal(fetcher.stateOf(origin), 'open');
  t.match(await (await fetch(`${url}/quick`)).json(), { code: 'origin-timeout' });
});

t.test('few wait for a connection, the next are told to come back', async (t) => {
  const waiting: ServerResponse[] = [];
  const { url, metrics } = await startEdge(t, await webOrigin(t, (_, response) => waiting.push(response)), {
    connectionsMax: 2,
    waitingMax: 3,
  });
  const five = Array.from({ length: 5 }, () => fetch(url));
  await eventually('two are with the origin', () => waiting.length === 2);
  let refused: Response | undefined;
  await eventually('the sixth is refused', async () => {
    const abort = AbortSignal.timeout(100);
    refused = await fetch(url, { signal: abort });
    return refused.status === 503;
  });
  t.equal(refused?.headers.get('retry-after'), '2');
  t.match(await refused?.json(), { code: 'overloaded' });
  let answered = 0;
  await Promise.all([
    eventually('all five are answered', () => {
      for (const response of waiting.splice(0)) response.end('x');
      return answered === 5;
    }),
    ...five.map(async (asked) => {
      t.equal(await (await asked).text(), 'x');
      answered += 1;
    }),
  ]);
  t.match(await metrics.text(), /anteroom_proxied_total\{outcome="full"\} [1-9]/);
});

t.test('event streams do not take the connections of other requests', async (t) => {
  const origin = await webOrigin(t, (request, response) => {
    if (request.url === '/events')
      response.writeHead(200, { 'content-type': 'text/event-stream' }).write('data: 1\n\n');
    else response.end('x');
  });
  const { url } = await startEdge(t, origin, { connectionsMax: 1, waitingMax: 0, lastingMax: 2 });
  const leave = new AbortController();
  t.teardown(() => leave.abort());
  const open = () =>
    fetch(`${url}/events`, { headers: { accept: 'text/event-stream' }, signal: leave.signal });
  t.equal((await open()).status, 200);
  t.equal((await open()).status, 200);
  t.equal(await (await fetch(url)).text(), 'x');
  t.match(await (await open()).json(), { code: 'overloaded' });
});

t.test(
  'an origin whose head is too long, or whose small answer is cut, is a 502 and not half an answer',
  async (t) => {
    const { url } = await startEdge(
      t,
      await webOrigin(t, (request, response) => {
        if (request.url === '/head') return response.writeHead(200, { x: 'y'.repeat(20_000) }).end();
        response.writeHead(200, { 'content-length': '100' });
        return response.write('half', () => request.socket.destroy());
      }),
    );
    for (const path of ['/head', '/cut'])
      t.match(await (await fetch(url + path)).json(), { code: 'origin-unreachable' });
  },
);

t.test(
  'an origin that takes no more of a body is a 504, and a client that sends slowly is not',
  async (t) => {
    const { url, port } = await startEdge(
      t,
      await webOrigin(t, async (request, response) => {
        if (request.url === '/stuck') request.pause();
        else response.end(String(await sizeOf(request)));
      }),
      { timeoutMs: 300 },
    );
    const stuck = await fetch(`${url}/stuck`, { method: 'POST', body: Buffer.alloc(30 * MIB) });
    t.match(await stuck.json(), { code: 'origin-timeout' });
    const slow = ['POST /slow HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n', 'a', 'b', 'c', 'd'];
    t.match(
      (await rawRequest(port, slow, { pieceMs: 150, waitMs: 1000 })).text,
      /^HTTP\/1.1 200[\s\S]*\r\n\r\n4$/,
    );
  },
);
