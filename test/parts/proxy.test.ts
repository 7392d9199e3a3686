// What a fan and an origin see of the proxy between them, over real sockets on both sides. The gate in front of it has
// its own tests; here everybody is let through.

import {
  request as ask,
  createServer as createNode,
  type IncomingMessage,
  type ServerResponse,
} from 'node:http';
import { type AddressInfo, connect, createServer as createTcp, type Socket } from 'node:net';
import t from 'tap';
import { framed } from '../../gateway/pages.ts';
import { createProxy } from '../../gateway/proxy.ts';
import { Refusal } from '../../kernel/errors.ts';
import { createFetcher } from '../../kernel/fetch.ts';
import { createServer } from '../../kernel/http.ts';
import { silentLog } from '../../kernel/log.ts';
import { createMetrics } from '../../kernel/metrics.ts';
import { rawRequest } from '../support/client.ts';
import { eventually } from '../support/eventually.ts';
import { countsNothing, heldBytes } from '../support/held-bytes.ts';
import { refusingAddress } from '../support/refusing.ts';
import { standingClock, swept } from '../support/standing-clock.ts';

type Test = { teardown(work: () => unknown): void };
type Options = Partial<Parameters<typeof createFetcher>[0]>;

const MIB = 1_048_576;
/**
 * Most of a body that a proxy holds. Up: 128 KiB that are kept, 512 KiB that the server's library hands over at once, and
 * as much on its way into a socket. Down: 64 KiB that are kept, and two pieces of 64 KiB on their way. Without a limit
 * it would be more than 20 MiB.
 */
const HELD_BYTES_MAX = 2 * MIB;

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

/** A gate that lets everybody through to one origin, and whose deadlines no machine is too slow for. */
const startEdge = async (t: Test, origin: string, options: Options & { timeoutMs?: number } = {}) => {
  const { timeoutMs = 60_000, ...more } = options;
  const fetcher = createFetcher({
    connectionsMax: 8,
    headersTimeoutMs: 60_000,
    connectTimeoutMs: 60_000,
    ...more,
  });
  let asked = 0;
  const metrics = createMetrics({ processMetrics: false });
  const proxy = createProxy({ fetcher, metrics });
  const server = createServer({
    name: 'edge',
    host: '127.0.0.1',
    port: 0,
    log: silentLog,
    bodyBytesMax: 1000,
    slowReaderMs: 60_000,
    trustedProxies: [],
  });
  server.otherwise(
    framed(async (request) => {
      if (request.header('x-refuse') !== undefined) throw new Refusal('session-required');
      const proxied = proxy({
        request,
        origin,
        path: request.path,
        context: ['anteroom-context', 'signed'],
        setCookies: [],
        proto: 'https',
        timeoutMs,
      });
      asked += 1;
      return (await proxied).answer;
    }),
    { bodyBytesMax: 500 * MIB, isStreamed: true },
  );
  const { port } = await server.listen();
  t.teardown(async () => {
    await server.close(100);
    await fetcher.close();
  });
  return {
    port,
    url: `http://127.0.0.1:${port}`,
    fetcher,
    metrics,
    /** Requests that have been sent, or wait for a connection, or have been refused one. */
    asked: () => asked,
  };
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
    { answers: asked.length, inTurn: true },
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

const portsOf = (wire: Socket) => {
  const { localPort, remotePort } = wire;
  if (localPort === undefined || remotePort === undefined) throw new Error('not connected');
  return { localPort, remotePort };
};
/** What the kernel has taken. */
const leftBy = (wire: Socket): number => wire.bytesWritten - wire.writableLength;
/** Begins a request whose body goes out as fast as it is taken. */
const startUpload = async (t: Test, port: number, ask: { path: string; total: number }) => {
  const wire = connect(port, '127.0.0.1');
  t.teardown(() => wire.destroy());
  let answer = '';
  wire.on('data', (chunk) => {
    answer += chunk.toString();
  });
  await new Promise((resolve) => wire.once('connect', resolve));
  wire.write(`PUT ${ask.path} HTTP/1.1\r\nhost: a\r\ncontent-length: ${ask.total}\r\n\r\n`);
  const piece = Buffer.alloc(65_536, 7);
  let bytes = 0;
  const flow = (): void => {
    while (bytes < ask.total) {
      bytes += piece.length;
      if (!wire.write(piece)) return void wire.once('drain', flow);
    }
  };
  flow();
  return { wire, answer: () => answer };
};
/** How much of an upload is in the proxy, now that the origin takes no more. */
const heldOfUpload = (what: string, { wire, to, total }: { wire: Socket; to: Socket; total: number }) => {
  const [here, there] = [portsOf(wire), portsOf(to)];
  return heldBytes(what, {
    into: { from: here.localPort, to: here.remotePort },
    outOf: { from: there.remotePort, to: there.localPort },
    total,
    sent: () => leftBy(wire),
    taken: () => to.bytesRead,
  });
};
/** Reads on until so many bytes more have come. */
const takeSome = async (from: IncomingMessage, bytes: number): Promise<void> => {
  let rest = bytes;
  await new Promise<void>((resolve) => {
    const take = (chunk: Buffer): void => {
      rest -= chunk.length;
      if (rest > 0) return;
      from.off('data', take);
      from.pause();
      resolve();
    };
    from.on('data', take);
    from.resume();
  });
};

t.test(
  'an upload is held back to the speed of its origin, and comes through whole',
  { skip: countsNothing },
  async (t) => {
    let asked: IncomingMessage | undefined;
    let bytes = 0;
    const { port } = await startEdge(
      t,
      await webOrigin(t, (request, response) => {
        asked = request;
        request.on('data', (chunk) => {
          bytes += chunk.length;
        });
        request.on('end', () => response.end(String(bytes)));
        request.pause();
      }),
    );
    const total = 32 * MIB;
    const { wire, answer } = await startUpload(t, port, { path: '/file', total });
    await eventually('it has come to the origin', () => asked !== undefined);
    const request = asked!;
    for (const stop of ['at the start', 'in the middle']) {
      const held = await heldOfUpload(stop, { wire, to: request.socket, total });
      t.ok(held <= HELD_BYTES_MAX, `${held} bytes ${stop}`);
      await takeSome(request, total / 4);
    }
    request.resume();
    await eventually('the answer', () => answer().includes(`\r\n\r\n${total}`));
  },
);

for (const isDeclared of [true, false])
  t.test(
    `an answer ${isDeclared ? 'of a declared length' : 'in chunks'} is held back to the speed of its reader, and comes whole`,
    { skip: countsNothing },
    async (t) => {
      const total = 32 * MIB;
      const piece = Buffer.alloc(65_536, 7);
      let from: Socket | undefined;
      const { port } = await startEdge(
        t,
        await webOrigin(t, (request, response) => {
          from = request.socket;
          if (isDeclared) response.setHeader('content-length', total);
          let bytes = 0;
          const flow = (): void => {
            while (bytes < total) {
              bytes += piece.length;
              if (!response.write(piece)) return void response.once('drain', flow);
            }
            response.end();
          };
          flow();
        }),
      );
      const asked = ask({ host: '127.0.0.1', port, agent: false });
      t.teardown(() => asked.destroy());
      const answer = await new Promise<IncomingMessage>((resolve) => asked.once('response', resolve).end());
      let bytes = 0;
      answer.on('data', (chunk) => {
        bytes += chunk.length;
      });
      answer.pause();
      const [there, here] = [portsOf(from!), portsOf(answer.socket)];
      for (const stop of ['at the start', 'in the middle']) {
        const held = await heldBytes(stop, {
          into: { from: there.localPort, to: there.remotePort },
          outOf: { from: here.remotePort, to: here.localPort },
          total,
          sent: () => leftBy(from!),
          taken: () => answer.socket.bytesRead,
        });
        t.ok(held <= HELD_BYTES_MAX, `${held} bytes ${stop}`);
        await takeSome(answer, total / 4);
      }
      answer.resume();
      await eventually('its end', () => answer.complete && bytes >= total);
      t.equal(bytes, total);
      t.equal(answer.headers['content-length'], isDeclared ? String(total) : undefined);
    },
  );

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
  const { host, port, origin } = await refusingAddress(t);
  const clock = standingClock();
  const edge = await startEdge(t, origin, { breaker: { failuresMax: 3, restMs: 400 }, clock });
  const { fetcher, url } = edge;
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
  await new Promise<void>((resolve) => server.listen(port, host, resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  clock.advance(399);
  const refused = await ask();
  t.equal(refused.status, 502);
  t.equal(refused.headers.get('retry-after'), '5');
  t.match(refused.headers.get('content-type'), /^text\/html/);
  t.match(await refused.text(), /The sale is not answering/);
  t.match(await (await fetch(url)).json(), { code: 'origin-unreachable', status: 502 });
  t.equal(fetcher.stateOf(origin), 'open', 'nobody was let through');

  clock.advance(1);
  const probe = ask();
  await eventually('one is let through', () => asked === 1);
  t.equal(fetcher.stateOf(origin), 'trying');
  t.equal((await ask()).status, 502, 'the others wait for its outcome');
  answerLater?.();
  t.equal(await (await probe).text(), 'back');
  t.equal(fetcher.stateOf(origin), 'closed');
  t.equal(asked, 1);
  t.match(await edge.metrics.text(), /anteroom_proxied_total\{outcome="failed"\} [1-9]/);
});

t.test('silence counts as away only when nobody else is answered', async (t) => {
  let silentCount = 0;
  const origin = await webOrigin(t, (request, response) => {
    if (request.url === '/silent') silentCount += 1;
    else response.end('x');
  });
  const clock = standingClock();
  const { fetcher, url } = await startEdge(t, origin, {
    breaker: { failuresMax: 1, restMs: 60_000 },
    timeoutMs: 200,
    clock,
  });
  const first = fetch(`${url}/silent`);
  await eventually('it has come to the origin', () => silentCount === 1);
  clock.advance(100);
  t.equal((await fetch(`${url}/quick`)).status, 200);
  clock.advance(100);
  t.equal((await first).status, 504);
  t.equal(fetcher.stateOf(origin), 'closed');
  const second = fetch(`${url}/silent`);
  await eventually('the second has come, too', () => silentCount === 2);
  clock.advance(200);
  t.equal((await second).status, 504);
  t.equal(fetcher.stateOf(origin), 'open');
  t.match(await (await fetch(`${url}/quick`)).json(), { code: 'origin-timeout' });
});

t.test('few wait for a connection, the next are told to come back', async (t) => {
  const waiting: ServerResponse[] = [];
  const { url, metrics, asked } = await startEdge(
    t,
    await webOrigin(t, (_, response) => waiting.push(response)),
    { connectionsMax: 2, waitingMax: 3 },
  );
  const five = Array.from({ length: 5 }, () => fetch(url));
  await eventually('two are with the origin, and three wait', () => waiting.length === 2 && asked() === 5);
  const refused = await fetch(url);
  t.equal(refused.status, 503);
  t.equal(refused.headers.get('retry-after'), '2');
  t.match(await refused.json(), { code: 'overloaded' });
  let answered = 0;
  await Promise.all([
    eventually('all five are answered', () => {
      for (const response of waiting.splice(0)) response.end('x');
      return answered === 5;
    }),
    ...five.map(async (one) => {
      t.equal(await (await one).text(), 'x');
      answered += 1;
    }),
  ]);
  t.match(await metrics.text(), /anteroom_proxied_total\{outcome="full"\} 1$/m);
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

t.test('an origin that takes no more of a body is a 504', { skip: countsNothing }, async (t) => {
  let asked: IncomingMessage | undefined;
  const clock = standingClock();
  const { port, fetcher } = await startEdge(
    t,
    await webOrigin(t, (request) => {
      asked = request;
      request.pause();
      request.on('error', () => undefined); // The proxy hangs up on it.
    }),
    { timeoutMs: 300, clock },
  );
  const total = 32 * MIB;
  const { wire, answer } = await startUpload(t, port, { path: '/stuck', total });
  await eventually('it has come to the origin', () => asked !== undefined);
  await heldOfUpload('all that fits', { wire, to: asked!.socket, total });
  clock.advance(299);
  await swept(fetcher);
  t.equal(answer(), '', 'not before');
  clock.advance(1);
  await eventually('the answer', () => answer().includes('"code":"origin-timeout"'));
  t.match(answer(), /^HTTP\/1\.1 504 /);
});

t.test('a client that sends a body slowly may take its time', async (t) => {
  let heard = '';
  const clock = standingClock();
  const { port, fetcher } = await startEdge(
    t,
    await webOrigin(t, (request, response) => {
      request.on('data', (chunk) => {
        heard += String(chunk);
      });
      request.on('end', () => response.end(heard));
    }),
    { timeoutMs: 300, clock },
  );
  const wire = connect(port, '127.0.0.1');
  t.teardown(() => wire.destroy());
  let answer = '';
  wire.on('data', (chunk) => {
    answer += chunk.toString();
  });
  wire.write('POST /slow HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\na');
  for (const [index, piece] of ['b', 'c', 'd'].entries()) {
    await eventually('what was sent is there', () => heard.length === index + 1);
    clock.advance(1000);
    await swept(fetcher);
    t.equal(answer, '');
    wire.write(piece);
  }
  await eventually('the answer', () => answer.endsWith('\r\n\r\nabcd'));
  t.match(answer, /^HTTP\/1\.1 200 /);
});
