// What a server promises its routes and its clients, over real sockets. Hostile input has a file of its own.

import { connect } from 'node:net';
import t from 'tap';
import { takePort } from '../../bench/ports.ts';
import { Refusal } from '../../kernel/errors.ts';
import {
  createServer,
  type EventStream,
  json,
  type Server,
  type ServerOptions,
  type Socket,
} from '../../kernel/http.ts';
import { createLog, silentLog } from '../../kernel/log.ts';
import { createMetrics } from '../../kernel/metrics.ts';
import { openSocket, openStream, rawRequest, type TestSocket } from '../support/client.ts';
import { eventually } from '../support/eventually.ts';
import { random } from '../support/random.ts';
import { standingClock } from '../support/standing-clock.ts';
import { beforeTimers, startThreadWire } from '../support/thread-wire.ts';

type Test = { teardown(work: () => unknown): void };

const start = async (test: Test, register: (server: Server) => void, more: Partial<ServerOptions> = {}) => {
  const server = createServer({
    name: 'test',
    host: '127.0.0.1',
    port: 0,
    log: silentLog,
    bodyBytesMax: 1000,
    slowReaderMs: 60_000,
    trustedProxies: [],
    ...more,
  });
  register(server);
  const { port } = await server.listen();
  test.teardown(() => server.close(100));
  return { server, port, url: `http://127.0.0.1:${port}` };
};

async function* pieces(...texts: string[]): AsyncGenerator<Uint8Array> {
  for (const text of texts) {
    await new Promise((resolve) => setImmediate(resolve));
    yield Buffer.from(text);
  }
}

t.test('a request is what was sent', async (t) => {
  const { url } = await start(t, (server) => {
    server.route('POST', '/v1/rooms/:room/places/:place', async (request) => {
      const { method, path, query, params, body } = request;
      await new Promise((resolve) => setImmediate(resolve));
      return json(201, {
        method,
        path,
        query,
        params,
        body: body.toString(),
        accept: request.header('accept'),
        absent: request.header('x-absent') ?? null,
        own: request.cookie('ar_v'),
        other: request.cookie('other'),
        none: request.cookie('none') ?? null,
        address: request.address,
        pairs: request.headers.filter(([name]) => name === 'x-twice'),
      });
    });
  });
  const answer = await fetch(`${url}/v1/rooms/demo/places/me?a=%20b&c`, {
    method: 'POST',
    body: 'grüße',
    headers: [
      ['accept', 'text/html'],
      ['cookie', 'other=1; ar_v=x.y=z ; third=3'],
      ['x-twice', 'one'],
    ],
  });
  t.equal(answer.status, 201);
  t.same(await answer.json(), {
    method: 'POST',
    path: '/v1/rooms/demo/places/me',
    query: 'a=%20b&c',
    params: { room: 'demo', place: 'me' },
    body: 'grüße',
    accept: 'text/html',
    absent: null,
    own: 'x.y=z',
    other: '1',
    none: null,
    address: '127.0.0.1',
    pairs: [['x-twice', 'one']],
  });
});

t.test('a literal wins over a name, and what nothing matches goes to otherwise', async (t) => {
  const { url } = await start(t, (server) => {
    const says = (word: string) => () => ({ status: 200, body: word });
    server.route('GET', '/a/:x', says('name'));
    server.route('GET', '/a/b', says('literal'));
    server.route('GET', '/a/:x/c', says('deep'));
    server.route('GET', '/', says('root'));
    server.otherwise(says('otherwise'));
  });
  const body = async (path: string) => (await fetch(url + path)).text();
  t.equal(await body('/a/b'), 'literal');
  t.equal(await body('/a/z'), 'name');
  t.equal(await body('/a/b/c'), 'deep', 'a literal that leads nowhere does not hide the name beside it');
  t.equal(await body('/'), 'root');
  for (const path of ['/a', '/a/', '/a/b/', '/b', '/a/b/c/d']) t.equal(await body(path), 'otherwise', path);
});

t.test('two owners of one address are refused at start', async (t) => {
  await start(t, (server) => {
    server.route('GET', '/a/:x', () => ({ status: 200 }));
    t.throws(() => server.route('GET', '/a/:y', () => ({ status: 200 })), /registered twice/);
  });
});

t.test('a method the address does not take is answered 405 with Allow', async (t) => {
  const { url } = await start(t, (server) => {
    server.route('GET', '/x', () => ({ status: 200 }));
    server.route('DELETE', '/x', () => ({ status: 200 }));
  });
  const answer = await fetch(`${url}/x`, { method: 'PUT', body: 'x' });
  t.equal(answer.status, 405);
  t.equal(answer.headers.get('allow'), 'GET, HEAD, DELETE');
  t.match(await answer.json(), { code: 'wrong-method', status: 405 });
});

t.test('HEAD has the head of GET and no body', async (t) => {
  const { port } = await start(t, (server) => {
    server.route('GET', '/text', () => ({ status: 200, headers: [['x-own', '1']], body: 'grüße' }));
    server.route('GET', '/late', async () => ({ status: 200, body: pieces('never read') }));
  });
  const answers = await rawRequest(
    port,
    'HEAD /text HTTP/1.1\r\nhost: a\r\n\r\nHEAD /text HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n',
    { answers: 2 },
  );
  t.equal(answers.text.match(/content-length: 7\r\n/g)?.length, 2, 'both are answered, on one connection');
  t.notMatch(answers.text, 'gr');
  t.match((await rawRequest(port, 'HEAD /late HTTP/1.1\r\nhost: a\r\n\r\n')).text, /^HTTP\/1.1 200 OK/);
});

t.test('a route that throws answers 500 and the process lives', async (t) => {
  const lines: string[] = [];
  const { url } = await start(
    t,
    (server) => {
      server.route('GET', '/now', () => {
        throw new Error('secret detail');
      });
      server.route('GET', '/later', async () => {
        throw new Error('secret detail');
      });
      server.route('POST', '/body', () => {
        throw new Error('secret detail');
      });
      server.route('GET', '/header', () => ({ status: 200, headers: [['x', 'a\r\nset-cookie: b=c']] }));
      server.route('GET', '/stream-header', () => ({
        status: 200,
        headers: [['x y', 'a']],
        body: pieces('never sent'),
      }));
      server.route('GET', '/events-header', () => ({
        stream: true,
        headers: [['x', 'a\nb']],
        open: () => undefined,
        closed: () => undefined,
      }));
      server.route('GET', '/late-header', async () => ({ status: 200, headers: [['x', 'a\nb']] }));
      server.route('GET', '/bigint', () => {
        throw new Refusal('bad-field', { extra: { value: 1n } });
      });
      server.route('GET', '/fine', () => ({ status: 204 }));
    },
    { log: createLog({ level: 'info', write: (line) => lines.push(line) }) },
  );
  for (const path of [
    '/now',
    '/later',
    '/body',
    '/header',
    '/stream-header',
    '/events-header',
    '/late-header',
    '/bigint',
  ]) {
    const answer = await fetch(url + path, path === '/body' ? { method: 'POST', body: 'x' } : {});
    t.equal(answer.status, 500, path);
    t.equal(answer.headers.get('set-cookie'), null);
    const id = answer.headers.get('x-request-id') ?? '';
    const text = await answer.text();
    t.match(JSON.parse(text), { code: 'internal' });
    t.notMatch(text, 'secret');
    t.ok(
      lines.some((line) => line.includes(id) && line.includes('request-failed')),
      `${path} is logged with its id`,
    );
  }
  t.equal((await fetch(`${url}/fine`)).status, 204);
});

t.test('a refusal is problem+json with its members and Retry-After', async (t) => {
  const { url } = await start(t, (server) => {
    server.route('GET', '/now', () => {
      throw new Refusal('room-recovering', { detail: 'soon', extra: { join: '/j', status: 1 } });
    });
    server.route('GET', '/later', async () => {
      throw new Refusal('token-missing', { cause: new Error('why') });
    });
  });
  const now = await fetch(`${url}/now`);
  t.equal(now.status, 503);
  t.equal(now.headers.get('content-type'), 'application/problem+json');
  t.equal(now.headers.get('retry-after'), '2');
  t.match(await now.json(), {
    type: 'urn:anteroom:error:room-recovering',
    code: 'room-recovering',
    status: 503,
    detail: 'soon',
    join: '/j',
  });
  const later = await fetch(`${url}/later`);
  t.equal(later.status, 401);
  t.equal(later.headers.get('www-authenticate'), 'Bearer');
});

t.test('every answer carries the security headers and an id that is ours', async (t) => {
  const { url, port } = await start(
    t,
    (server) =>
      server.route('GET', '/x', () => ({
        status: 200,
        headers: [
          ['set-cookie', 'a=1'],
          ['set-cookie', 'b=2'],
        ],
      })),
    {
      headers: [
        ['x-frame-options', 'DENY'],
        ['referrer-policy', 'no-referrer'],
      ],
    },
  );
  const ids = new Set<string | null>();
  for (const path of ['/x', '/none']) {
    const answer = await fetch(url + path, { headers: { 'x-request-id': 'mine' } });
    t.equal(answer.headers.get('x-frame-options'), 'DENY');
    t.equal(answer.headers.get('referrer-policy'), 'no-referrer');
    ids.add(answer.headers.get('x-request-id'));
  }
  t.equal(ids.size, 2);
  t.notOk(ids.has('mine'));
  t.same((await fetch(`${url}/x`)).headers.getSetCookie(), ['a=1', 'b=2']);
  t.match((await rawRequest(port, 'GET /../x HTTP/1.1\r\nhost: a\r\n\r\n')).text, /x-frame-options: DENY/);
});

t.test('a body up to the limit arrives whole, in one piece or byte by byte', async (t) => {
  const { url, port } = await start(t, (server) => {
    server.route('POST', '/echo', (request) => ({ status: 200, body: request.body }));
    server.route('POST', '/more', (request) => ({ status: 200, body: String(request.body.length) }), {
      bodyBytesMax: 300_000,
    });
  });
  const full = 'x'.repeat(1000);
  t.equal(await (await fetch(`${url}/echo`, { method: 'POST', body: full })).text(), full);
  t.equal(await (await fetch(`${url}/echo`, { method: 'POST' })).text(), '');
  const big = await fetch(`${url}/more`, { method: 'POST', body: Buffer.alloc(300_000) });
  t.equal(await big.text(), '300000');
  const head = 'POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n';
  const slow = await rawRequest(port, [head, ...'abcde'], { pieceMs: 5 });
  t.match(slow.text, /^HTTP\/1.1 200 OK[\s\S]*\r\n\r\nabcde$/);
});

t.test('no route runs before the last byte of its body', async (t) => {
  let ran = 0;
  const { port, url } = await start(t, (server) => {
    server.route('GET', '/fine', () => ({ status: 200 }));
    server.route('POST', '/x', () => {
      ran += 1;
      return { status: 200 };
    });
  });
  const leave = async () => {
    for (let times = 0; times < 2; times += 1) t.equal((await fetch(`${url}/fine`)).status, 200);
  };
  const head = 'POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n';
  t.equal((await rawRequest(port, `${head}abcd`, { leave })).text, '');
  t.equal(ran, 0);
  t.match((await rawRequest(port, `${head}abcde`)).text, /^HTTP\/1.1 200 /);
  t.equal(ran, 1);
});

t.test('a streamed body is sent as it comes, counted or chunked', async (t) => {
  const { url } = await start(t, (server) => {
    server.route('GET', '/chunked', () => ({ status: 200, body: pieces('a', '', 'bc') }));
    server.route('GET', '/counted', async () => ({
      status: 200,
      headers: [['content-length', '3']],
      body: pieces('a', 'bc'),
    }));
    server.route('GET', '/empty', () => ({
      status: 200,
      headers: [['content-length', '0']],
      body: pieces(),
    }));
  });
  const chunked = await fetch(`${url}/chunked`);
  t.equal(await chunked.text(), 'abc');
  t.equal(chunked.headers.get('content-length'), null);
  const counted = await fetch(`${url}/counted`);
  t.equal(counted.headers.get('content-length'), '3');
  t.equal(await counted.text(), 'abc');
  t.equal(await (await fetch(`${url}/empty`)).text(), '');
});

t.test('a large streamed body waits for its reader and arrives whole', async (t) => {
  const chunk = Buffer.alloc(65_536, 'x');
  const count = 400;
  let produced = 0;
  async function* source(): AsyncGenerator<Uint8Array> {
    for (let index = 0; index < count; index += 1) {
      produced += 1;
      yield chunk;
    }
  }
  const { url } = await start(t, (server) => {
    server.route('GET', '/fine', () => ({ status: 200 }));
    server.route('GET', '/chunked', () => ({ status: 200, body: source() }));
    server.route('GET', '/counted', () => ({
      status: 200,
      headers: [['content-length', String(count * chunk.length)]],
      body: source(),
    }));
  });
  for (const path of ['/chunked', '/counted']) {
    produced = 0;
    const answer = await fetch(url + path);
    let before = -1;
    await eventually('the source stands still', async () => {
      const isStill = produced > 0 && produced === before;
      before = produced;
      t.equal((await fetch(`${url}/fine`)).status, 200);
      return isStill;
    });
    t.ok(produced < count, `${path}: ${produced} of ${count} produced before anyone read`);
    t.equal((await answer.arrayBuffer()).byteLength, count * chunk.length, path);
  }
});

t.test(
  'an error in a streamed body ends the connection, so that half is never taken for whole',
  async (t) => {
    async function* broken(): AsyncGenerator<Uint8Array> {
      yield Buffer.from('half');
      throw new Error('the source broke');
    }
    const { url } = await start(t, (server) => {
      server.route('GET', '/chunked', () => ({ status: 200, body: broken() }));
      server.route('GET', '/short', () => ({
        status: 200,
        headers: [['content-length', '9']],
        body: pieces('half'),
      }));
      server.route('GET', '/long', () => ({
        status: 200,
        headers: [['content-length', '2']],
        body: pieces('half'),
      }));
      server.route('GET', '/fine', () => ({ status: 200 }));
    });
    for (const path of ['/chunked', '/short', '/long'])
      await t.rejects(
        fetch(url + path).then((answer) => answer.text()),
        path,
      );
    t.equal((await fetch(`${url}/fine`)).status, 200);
  },
);

t.test('a client that leaves at any await does no harm and ends what was done for it', async (t) => {
  const seen = { arrived: 0, aborted: 0, returned: 0, finished: 0 };
  let release: () => void = () => undefined;
  const gate = new Promise<void>((resolve) => {
    release = resolve;
  });
  async function* endless(): AsyncGenerator<Uint8Array> {
    seen.arrived += 1;
    try {
      for (;;) {
        await new Promise((resolve) => setTimeout(resolve, 5));
        yield Buffer.from('x');
      }
    } finally {
      seen.returned += 1;
    }
  }
  const { port, url } = await start(t, (server) => {
    server.route('GET', '/wait', async (request) => {
      seen.arrived += 1;
      request.signal.addEventListener('abort', () => {
        seen.aborted += 1;
      });
      await gate;
      seen.finished += 1;
      return json(200, { address: request.address, gone: request.signal.aborted });
    });
    server.route('GET', '/throw', async (request) => {
      seen.arrived += 1;
      await gate;
      request.signal.throwIfAborted();
      return { status: 200 };
    });
    server.route('GET', '/endless', () => ({ status: 200, body: endless() }));
    server.route('GET', '/late-stream', async () => {
      seen.arrived += 1;
      await gate;
      return { status: 200, body: endless() };
    });
    server.route('POST', '/body', () => ({ status: 200 }));
    server.route('GET', '/fine', () => ({ status: 200 }));
  });
  for (const [index, path] of ['/wait', '/throw', '/endless', '/late-stream'].entries())
    await rawRequest(port, `GET ${path} HTTP/1.1\r\nhost: a\r\n\r\n`, {
      leave: () => eventually(`${path} is under way`, () => seen.arrived === index + 1),
    });
  await rawRequest(port, 'POST /body HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc', {
    leave: () => fetch(`${url}/fine`),
  });
  await eventually('the abort was told', () => seen.aborted === 1);
  await eventually('the endless source was ended', () => seen.returned === 1);
  release();
  await eventually('the handler ran to its end', () => seen.finished === 1);
  t.equal((await fetch(`${url}/fine`)).status, 200);
});

t.test('an event stream opens at once, sends frames in order and ends', async (t) => {
  let stream: EventStream | undefined;
  let closed = 0;
  const { url } = await start(t, (server) =>
    server.route('GET', '/events', async () => ({
      stream: true,
      headers: [['x-own', 'yes']],
      open(opened) {
        stream = opened;
        opened.write('id: 1\nevent: first\ndata: a\ndata: b\n\n');
      },
      closed() {
        closed += 1;
      },
    })),
  );
  const client = await openStream(`${url}/events`);
  t.equal(client.answered, 200);
  t.match(client.headers, {
    'content-type': 'text/event-stream',
    'cache-control': 'no-store',
    'x-accel-buffering': 'no',
    'x-own': 'yes',
  });
  t.same(await client.next(), { id: '1', event: 'first', data: 'a\nb' });
  stream?.write('data: 2\n\n');
  stream?.write('data: 3\n\n', { keep: true });
  t.equal((await client.next())?.data, '2');
  t.equal((await client.next())?.data, '3');
  stream?.end();
  t.equal(await client.next(), undefined);
  await client.closed;
  t.equal(stream?.closed, true);
  stream?.write('data: after the end\n\n');
  stream?.end();
  t.equal(closed, 1);
});

t.test('what a stream says while it opens comes whole, first and in order', async (t) => {
  const streams = new Map<string, EventStream>();
  const large = 'x'.repeat(100_000);
  const { url, port } = await start(t, (server) => {
    const stream = (path: string, opened: (stream: EventStream) => void) =>
      server.route('GET', path, async () => ({
        stream: true,
        open(link) {
          streams.set(path, link);
          link.write('data: 1\n\n', { keep: true });
          opened(link);
        },
        closed: () => undefined,
      }));
    stream('/ends', (link) => {
      link.write('data: 2\n\n');
      link.end();
    });
    stream('/throws', () => {
      throw new Error('a role that throws after its first word');
    });
    stream('/large', (link) => {
      for (let index = 0; index < 100; index += 1) link.write(`data: ${large}\n\n`, { keep: true });
    });
  });
  t.equal(await (await fetch(`${url}/ends`)).text(), ':\n\ndata: 1\n\ndata: 2\n\n', 'and then the end');
  const thrown = await openStream(`${url}/throws`);
  t.equal((await thrown.next())?.data, '1');
  streams.get('/throws')?.write('data: later\n\n');
  t.equal((await thrown.next())?.data, 'later', 'the stream is open all the same');
  thrown.close();
  // More than the socket takes: what comes next waits for the reader.
  const wire = connect(port, '127.0.0.1');
  t.teardown(() => wire.destroy());
  wire.pause();
  wire.write('GET /large HTTP/1.1\r\nhost: a\r\n\r\n');
  await eventually('open', () => streams.has('/large'));
  for (const word of ['old', 'newest']) streams.get('/large')?.write(`data: ${word}\n\n`);
  let bytes = 0;
  let end = '';
  wire.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    end = (end + chunk.toString('latin1')).slice(-2000);
  });
  wire.resume();
  await eventually('the reader has it all', () => end.includes('data: newest'));
  t.ok(bytes > 100 * large.length, `${bytes} bytes`);
  t.notMatch(end, 'data: old', 'a position nobody has read gave way to a newer one');
});

t.test('closed is told exactly once, whoever ends a stream and whenever', async (t) => {
  const closed = new Map<string, number>();
  const arrived: string[] = [];
  let open = 0;
  let left = 0;
  let release: () => void = () => undefined;
  const gate = new Promise<void>((resolve) => {
    release = resolve;
  });
  const { server, url, port } = await start(t, (server) => {
    const stream = (path: string, opened: (stream: EventStream) => void, wait?: Promise<void>) =>
      server.route('GET', path, async ({ signal }) => {
        arrived.push(path);
        signal.addEventListener('abort', () => {
          left += 1;
        });
        await wait;
        return {
          stream: true,
          open(link) {
            open += 1;
            opened(link);
          },
          closed: () => {
            closed.set(path, (closed.get(path) ?? 0) + 1);
            throw new Error('a role that throws while closing');
          },
        };
      });
    stream('/client', () => undefined);
    stream('/self', (link) => link.end());
    stream('/throws', () => {
      throw new Error('a role that throws while opening');
    });
    stream('/before', () => undefined, gate);
    stream('/stop', () => undefined);
  });
  const client = await openStream(`${url}/client`);
  await eventually('opened', () => open === 1);
  client.close();
  await eventually('the client left', () => closed.get('/client') === 1);
  t.equal(await (await openStream(`${url}/self`)).next(), undefined);
  await openStream(`${url}/throws`);
  await rawRequest(port, 'GET /before HTTP/1.1\r\nhost: a\r\n\r\n', {
    leave: () => eventually('it is under way', () => arrived.at(-1) === '/before'),
  });
  await eventually('the fan is known to have left', () => left === 1);
  const opened = open;
  release();
  await eventually('told without having been opened', () => closed.get('/before') === 1);
  t.equal(open, opened, 'a stream whose fan has left is never opened');
  await rawRequest(port, 'HEAD /stop HTTP/1.1\r\nhost: a\r\n\r\n');
  t.equal(closed.get('/stop'), 1, 'HEAD opens nothing');
  const last = await openStream(`${url}/stop`);
  await server.close(1000);
  await last.closed;
  t.same(Object.fromEntries(closed), { '/client': 1, '/self': 1, '/throws': 1, '/before': 1, '/stop': 2 });
});

t.test('a WebSocket carries text both ways, and its refusal is an ordinary answer', async (t) => {
  let closed = 0;
  const heard: string[] = [];
  const { url } = await start(t, (server) => {
    server.socket('/rooms/:room/socket', async (request) => {
      if (request.params.room === 'full') throw new Refusal('too-many-streams');
      if (request.params.room === 'plain') return json(403, { no: true });
      await new Promise((resolve) => setImmediate(resolve));
      return {
        upgrade: true,
        open: (socket) => socket.write('hello'),
        message(socket, text) {
          heard.push(text);
          if (text === 'throw') throw new Error('a role that throws');
          if (text === 'bye') socket.end(4001, 'bye');
          else socket.write(`echo ${text}`);
        },
        closed() {
          closed += 1;
        },
      };
    });
  });
  const full = await openSocket(`${url}/rooms/full/socket`);
  t.equal(full.answered, 429);
  t.match(JSON.parse(full.text), { code: 'too-many-streams' });
  t.equal((await openSocket(`${url}/rooms/plain/socket`)).answered, 403);
  const client = await openSocket(`${url}/rooms/demo/socket`);
  t.equal(client.answered, 101);
  t.ok(client.headers['x-request-id']);
  t.equal(await client.next(), 'hello');
  client.send('throw');
  client.send('grüße');
  t.equal(await client.next(), 'echo grüße');
  client.send('bye');
  t.equal(await client.closed, 4001);
  const binary = await openSocket(`${url}/rooms/demo/socket`);
  binary.sendFrame(2, Buffer.from('bin'));
  t.equal(await binary.closed, 1003);
  const long = await openSocket(`${url}/rooms/demo/socket`);
  long.send('x'.repeat(5000));
  await long.closed;
  t.same(heard, ['throw', 'grüße', 'bye']);
  await eventually('all closed', () => closed === 3);
});

t.test('a socket address asked for without a handshake answers 426', async (t) => {
  const { url, port } = await start(t, (server) =>
    server.socket('/socket', () => ({
      upgrade: true,
      open: () => undefined,
      message: () => undefined,
      closed: () => undefined,
    })),
  );
  const plain = await fetch(`${url}/socket`);
  t.equal(plain.status, 426);
  t.match(await plain.json(), { code: 'upgrade-required' });
  const old = await rawRequest(
    port,
    'GET /socket HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 8\r\n\r\n',
  );
  t.match(old.text, /^HTTP\/1.1 426/);
  t.match(old.text, /sec-websocket-version: 13/);
});

t.test(
  'a socket that is opened after something was awaited stays open, whatever else its handshake asks for',
  async (t) => {
    let closed = 0;
    const from = random(1);
    const { url, port } = await start(t, (server) =>
      server.socket('/socket', async () => {
        await new Promise((resolve) => setTimeout(resolve, from.below(5)));
        const words = 'x'.repeat(from.below(300));
        return {
          upgrade: true,
          open(socket) {
            for (let index = 0; index < 4; index += 1) socket.write(`${index} ${words}`, { keep: true });
          },
          message: () => undefined,
          closed() {
            closed += 1;
          },
        };
      }),
    );
    for (const connection of ['close', 'hello', 'hello, Upgrade', 'Upgrade, close', 'keep-alive', '']) {
      const { text } = await rawRequest(
        port,
        `GET /socket HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: ${connection}\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n`,
      );
      t.match(text, /^HTTP\/1.1 426/, `connection: ${connection}`);
    }
    const sockets: TestSocket[] = [];
    for (let round = 0; round < 40; round += 1)
      sockets.push(...(await Promise.all(Array.from({ length: 12 }, () => openSocket(`${url}/socket`)))));
    for (const socket of sockets) for (let index = 0; index < 4; index += 1) await socket.next();
    t.equal(sockets.length, 480);
    t.equal(closed, 0, 'none was closed');
    for (const socket of sockets) socket.close();
    await eventually('all closed', () => closed === sockets.length);
  },
);

t.test('a slow WebSocket reader gets what was kept and the newest, in order', async (t) => {
  let socket: Socket | undefined;
  const { url } = await start(
    t,
    (server) =>
      server.socket('/socket', () => ({
        upgrade: true,
        open(opened) {
          socket = opened;
        },
        message: () => undefined,
        closed: () => undefined,
      })),
    { slowReaderMs: 20_000 },
  );
  const client = await openSocket(`${url}/socket`);
  client.pause();
  const padding = 'x'.repeat(10_000);
  let sent = 0;
  for (; sent < 3000; sent += 1) socket?.write(`position ${sent} ${padding}`);
  socket?.write('promoted', { keep: true });
  socket?.write('position last');
  socket?.write('ended', { keep: true });
  client.resume();
  const got: string[] = [];
  while (got.at(-1) !== 'ended') got.push((await client.next())?.replace(/ x+$/, '') ?? 'ended');
  t.same(got.slice(-3), ['promoted', 'position last', 'ended']);
  t.ok(got.length < sent, `${got.length} of ${sent} frames were sent`);
  client.close();
});

t.test('an event stream that was slow once lives on and misses nothing that was kept', async (t) => {
  let stream: EventStream | undefined;
  const { port } = await start(
    t,
    (server) =>
      server.route('GET', '/events', () => ({
        stream: true,
        open(opened) {
          stream = opened;
        },
        closed: () => undefined,
      })),
    { slowReaderMs: 20_000 },
  );
  const wire = connect(port, '127.0.0.1');
  t.teardown(() => wire.destroy());
  wire.write('GET /events HTTP/1.1\r\nhost: a\r\n\r\n');
  await eventually('open', () => stream !== undefined);
  const padding = 'x'.repeat(10_000);
  for (let sent = 0; sent < 3000; sent += 1) stream?.write(`data: ${sent} ${padding}\n\n`);
  stream?.write('data: promoted\n\n', { keep: true });
  stream?.write('data: newest\n\n');
  let text = '';
  let bytes = 0;
  wire.on('data', (chunk) => {
    bytes += chunk.length;
    text = (text + chunk.toString('latin1')).slice(-20_000);
  });
  await eventually('all that waited has come', () => /data: promoted[\s\S]*data: newest/.test(text));
  t.ok(bytes < 15_000_000, `${bytes} bytes instead of 30 million`);
  stream?.write('data: live\n\n');
  await eventually('the stream goes on', () => text.includes('data: live'));
});

t.test(
  'what waits for a slow reader is counted in bytes: newest of the rest, and no more kept than may',
  async (t) => {
    const metrics = createMetrics({ processMetrics: false });
    let stream: EventStream | undefined;
    let closed = 0;
    const { port } = await start(
      t,
      (server) =>
        server.route('GET', '/events', () => ({
          stream: true,
          open(opened) {
            stream = opened;
          },
          closed() {
            closed += 1;
          },
        })),
      {
        slowReaderMs: 20_000,
        slowReaderBytesMax: 5000,
        slowReaders: {
          dropped: (bytes) => metrics.inc('dropped_bytes_total', {}, bytes),
          cut: () => metrics.inc('slow_readers_total', {}),
        },
      },
    );
    const wire = connect(port, '127.0.0.1');
    t.teardown(() => wire.destroy());
    wire.pause();
    wire.write('GET /events HTTP/1.1\r\nhost: a\r\n\r\n');
    await eventually('open', () => stream !== undefined);
    const counted = async (name: string) =>
      Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(await metrics.text())?.[1] ?? Number.NaN);
    const padding = 'x'.repeat(10_000);
    for (let sent = 0; sent < 3000; sent += 1) stream?.write(`data: ${padding}\n\n`);
    t.ok((await counted('anteroom_dropped_bytes_total')) > 1_000_000);
    stream?.write(`data: ${'x'.repeat(4000)}\n\n`, { keep: true });
    t.equal(closed, 0, 'what is kept is below the limit');
    stream?.write(`data: ${'x'.repeat(1000)}\n\n`, { keep: true });
    t.equal(closed, 1, 'and now above it');
    t.equal(await counted('anteroom_slow_readers_total'), 1);
  },
);

t.test('slow readers are closed, cost bounded memory and delay nobody', async (t) => {
  const slow = new Set<EventStream>();
  let fast: EventStream | undefined;
  let closedSlow = 0;
  let droppedBytes = 0;
  let produced = 0;
  const clock = standingClock();
  const { port, url } = await start(
    t,
    (server) => {
      server.route('GET', '/slow', () => ({
        stream: true,
        open: (opened) => slow.add(opened),
        closed() {
          closedSlow += 1;
        },
      }));
      server.route('GET', '/fast', () => ({
        stream: true,
        open: (opened) => {
          fast = opened;
        },
        closed: () => undefined,
      }));
      async function* endless(): AsyncGenerator<Uint8Array> {
        for (;;) {
          produced += 1;
          yield Buffer.alloc(65_536);
        }
      }
      server.route('GET', '/download', () => ({ status: 200, body: endless() }));
      server.route('GET', '/fine', () => ({ status: 200 }));
    },
    {
      clock,
      slowReaderMs: 1000,
      slowReaders: {
        dropped: (bytes) => {
          droppedBytes += bytes;
        },
        cut: () => undefined,
      },
    },
  );
  const stalled = ['/download', ...Array<string>(20).fill('/slow')].map((path) => {
    const wire = connect(port, '127.0.0.1');
    wire.on('error', () => undefined); // Being reset is the point.
    wire.pause();
    wire.write(`GET ${path} HTTP/1.1\r\nhost: a\r\n\r\n`);
    t.teardown(() => wire.destroy());
    return wire;
  });
  await eventually('all open', () => slow.size === 20 && produced > 0);
  const reader = await openStream(`${url}/fast`);
  let newest = '';
  const reading = (async () => {
    for await (const { data } of reader) newest = data;
  })();

  const frame = `data: ${'x'.repeat(10_000)}\n\n`;
  /** Writes twenty frames to each of the slow ones, and answers how many bytes those were. */
  const written = (): number => {
    for (let times = 0; times < 20; times += 1) for (const stream of slow) stream.write(frame);
    return 20 * slow.size * frame.length;
  };
  await eventually('the system has taken all it takes for those who do not read', () => {
    const before = droppedBytes;
    const bytes = written();
    return droppedBytes - before === bytes;
  });
  const before = droppedBytes;
  let more = 0;
  for (let times = 0; times < 20; times += 1) more += written();
  t.equal(droppedBytes - before, more, 'of whatever else is written, only the newest is kept');

  fast?.write('data: newest\n\n', { keep: true });
  await eventually('the one that reads is delayed by none of them', () => newest === 'newest');
  t.equal(closedSlow, 0);
  let seen = -1;
  await eventually('the download stands still', async () => {
    const isStill = seen === produced;
    seen = produced;
    t.equal((await fetch(`${url}/fine`)).status, 200);
    return isStill;
  });
  clock.advance(1001);
  await eventually('all slow ones are closed', () => closedSlow === 20);
  fast?.write('data: last\n\n', { keep: true });
  await eventually('the one that reads is still there', () => newest === 'last');
  reader.close();
  await reading;
  let downloadClosed = false;
  stalled[0]?.once('close', () => {
    downloadClosed = true;
  });
  stalled[0]?.resume();
  await eventually('the stalled download was cut', () => downloadClosed);
});

t.test('stopping ends streams, finishes requests and frees the port', async (t) => {
  let release: () => void = () => undefined;
  const gate = new Promise<void>((resolve) => {
    release = resolve;
  });
  let arrived = 0;
  const clock = standingClock();
  const register = (server: Server): void => {
    server.route('GET', '/wait', async () => {
      arrived += 1;
      await gate;
      return { status: 200, body: 'done' };
    });
    server.route('GET', '/never', () => {
      arrived += 1;
      return new Promise(() => undefined);
    });
    server.route('GET', '/events', () => ({ stream: true, open: () => undefined, closed: () => undefined }));
    server.socket('/socket', () => ({
      upgrade: true,
      open: () => undefined,
      message: () => undefined,
      closed: () => undefined,
    }));
  };
  const { server, url, port } = await start(t, register, { clock });
  const stream = await openStream(`${url}/events`);
  const socket = await openSocket(`${url}/socket`);
  const waiting = fetch(`${url}/wait`);
  const never = fetch(`${url}/never`).then(
    () => 'answered',
    () => 'cut',
  );
  await eventually('both are under way', () => arrived === 2);
  const stopped = server.close(500);
  await stream.closed;
  t.equal(await socket.closed, 1001);
  release();
  const answer = await waiting;
  t.equal(await answer.text(), 'done');
  t.equal(answer.headers.get('connection'), 'close');
  clock.advance(500);
  await stopped;
  t.equal(await never, 'cut', 'what outlives the grace is cut');
  await t.rejects(rawRequest(port, 'GET / HTTP/1.1\r\nhost: a\r\n\r\n'), { code: 'ECONNREFUSED' });
});

t.test('a body that came while the process stood still is not late', async (t) => {
  const clock = standingClock();
  const { port, url } = await start(
    t,
    (server) => {
      server.route('GET', '/fine', () => ({ status: 200 }));
      server.route('POST', '/echo', ({ body }) => ({ status: 200, body }));
    },
    { clock },
  );
  const client = await startThreadWire(t, port);
  client.send('POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nha');
  for (let times = 0; times < 2; times += 1) t.equal((await fetch(`${url}/fine`)).status, 200);
  await beforeTimers();
  clock.advance(3_600_000);
  client.standStillWhileItSends('lf', 600);
  await eventually('it is answered', () => /^HTTP\/1.1 200 [\s\S]*half$/.test(client.heard()));
});

t.test('a request that came while a process that stops stood still is answered', async (t) => {
  const moments = { 'before its timers': beforeTimers, 'while it reads sockets': () => undefined };
  for (const [name, moment] of Object.entries(moments)) {
    const clock = standingClock();
    const here = () => ({ status: 200, body: 'here' });
    const { server, port, url } = await start(t, (server) => server.otherwise(here), { clock });
    const client = await startThreadWire(t, port);
    await eventually('it is connected', () => server.load().connections === 1);
    const stopped = server.close(60_000, { lingerMs: 250 });
    await eventually('the port is closed', () =>
      fetch(url).then(
        () => false,
        () => true,
      ),
    );
    await moment();
    clock.advance(251);
    client.standStillWhileItSends('GET / HTTP/1.1\r\nhost: a\r\n\r\n', 50);
    await stopped;
    await eventually(`${name}: it is answered`, () => /^HTTP\/1.1 200 [\s\S]*here$/.test(client.heard()));
  }
});

t.test('a port can be shared by servers that agree, and an exclusive one is refused by name', async (t) => {
  const open = (port: number) => start(t, (server) => server.otherwise(() => ({ status: 200 })), { port });
  // A port that the system chose is never shared, so we choose one.
  const first = await open(await takePort());
  await open(first.port);
  await t.rejects(
    start(t, () => undefined, { port: first.port, exclusive: true, name: 'admin' }),
    new RegExp(`Port ${first.port} on 127.0.0.1 \\(admin\\)`),
  );
});

t.test('each finished request is observed by pattern', async (t) => {
  const clock = standingClock();
  const seen: { route: string; method: string; status: string; seconds: number }[] = [];
  const { url } = await start(
    t,
    (server) => {
      server.route('GET', '/rooms/:room', () => {
        clock.advance(2500);
        return { status: 200 };
      });
      server.route('GET', '/body', () => ({ status: 200, body: pieces('a') }));
      server.route('GET', '/events', () => ({
        stream: true,
        open: (link) => link.end(),
        closed: () => undefined,
      }));
    },
    { clock, observer: (kind) => (seconds) => seen.push({ ...kind, seconds }) },
  );
  await fetch(`${url}/rooms/demo`);
  await fetch(`${url}/rooms/none/x`);
  await (await fetch(`${url}/body`)).text();
  await (await openStream(`${url}/events`)).closed;
  await fetch(`${url}/a//b`);
  await eventually('all seen', () => seen.length === 5);
  t.same(
    seen.map(({ route, method, status }) => `${method} ${route} ${status}`),
    ['GET /rooms/:room 2xx', 'GET none 4xx', 'GET /body 2xx', 'GET /events 2xx', 'GET none 4xx'],
  );
  t.same(
    seen.map(({ seconds }) => seconds),
    [2.5, 0, 0, 0, 0],
  );
});
