// The life of a process that faces the internet: how it starts or says why not, how it goes without losing what is
// under way, how another takes its place on the same port, and what it does at the end of its descriptors. Real
// processes; the origin is the test's own and decides when it answers.

import { spawn } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { createServer as createOrigin, request, type ServerResponse } from 'node:http';
import { request as requestSecurely } from 'node:https';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { takePort } from '../../bench/ports.ts';
import { createSurveyor } from '../../dispatcher/measure.ts';
import { parseRoomId } from '../../kernel/ids.ts';
import { roomsKey } from '../../kernel/keys.ts';
import { createMetrics } from '../../kernel/metrics.ts';
import { generateKey } from '../../kernel/token.ts';
import { defaultSettings } from '../../line/settings.ts';
import { configure, roomKeys } from '../../lua/room.ts';
import { makeCertificate } from '../support/certificate.ts';
import { openSocket, openStream } from '../support/client.ts';
import { eventually } from '../support/eventually.ts';
import { Fan } from '../support/fan.ts';
import { startRedis } from '../support/redis.ts';
import { createSystem } from '../support/system.ts';

t.setTimeout(600_000);
t.jobs = 4;

type Test = { teardown(work: () => unknown): void };
type Told = { status: number; body: string; connection: string | undefined };

/** One request on a connection of its own. */
const ask = (url: string, headers: Record<string, string> = {}): Promise<Told> =>
  new Promise((resolve, reject) => {
    const asked = request(url, { agent: false, headers }, (answer) => {
      let body = '';
      answer.setEncoding('utf8');
      answer.on('data', (chunk) => {
        body += chunk;
      });
      answer.on('error', reject);
      answer.on('end', () =>
        resolve({ status: answer.statusCode ?? 0, body, connection: answer.headers.connection }),
      );
    });
    asked.on('error', reject);
    asked.end();
  });

const redis = await startRedis(t);
const slow = new Map<string, ServerResponse>();
const origin = createOrigin((asked, answer) => {
  if (asked.url?.startsWith('/open/slow/'))
    slow.set(asked.url.slice(11), answer.writeHead(200, { 'content-length': '8' }));
  else if (asked.url === '/open/feed') {
    answer.writeHead(200, { 'content-type': 'text/event-stream' });
    answer.write('data: first\n\n');
  } else answer.end('inside');
});
await new Promise<void>((resolve) => origin.listen(0, '127.0.0.1', resolve));
t.teardown(() => {
  origin.closeAllConnections();
  origin.close();
});
// `listen` on a port was awaited, so the address is one of TCP.
const originUrl = `http://127.0.0.1:${(origin.address() as AddressInfo).port}`;

const surveyor = createSurveyor({
  config: { snapshotMs: 0 },
  redis: redis.client,
  metrics: createMetrics({ processMetrics: false }),
});
for (const [name, queueingMethod] of [
  ['open', 'passthrough'],
  ['line', 'fifo'],
] as const) {
  const room = parseRoomId(name)!;
  const settings = {
    ...defaultSettings,
    title: name,
    routes: [`/${name}`],
    origin: originUrl,
    queueingMethod,
  };
  await configure.run(redis.client, roomKeys(room), {
    nowMs: '',
    version: 1,
    settings: JSON.stringify(settings),
    create: 1,
  });
  await surveyor.measure(room);
  await redis.client.sadd(roomsKey, room);
}

/** A port of its own for each test: they run side by side. */
const startLife = async (t: Test) => {
  const system = await createSystem(t, {
    ANTEROOM_REDIS_URL: redis.url,
    ANTEROOM_ROLES: 'gateway,broker',
    ANTEROOM_LOG_LEVEL: 'warn',
  });
  const start = async (options: { env?: Record<string, string>; descriptors?: number } = {}) => {
    const metricsPort = await takePort();
    return { metricsPort, child: await system.start({ ...options, metricsPort }) };
  };
  const isRefused = async (): Promise<boolean> => {
    try {
      await ask(`${system.base}/open/now`);
      return false;
    } catch (error) {
      return error instanceof Error && 'code' in error && error.code === 'ECONNREFUSED';
    }
  };
  return { system, start, isRefused };
};
const ready = async (metricsPort: number): Promise<{ status: number; missing: string[] }> => {
  const answer = await ask(`http://127.0.0.1:${metricsPort}/ready`);
  return { status: answer.status, missing: JSON.parse(answer.body).missing };
};
t.test(
  'a process that stops is not ready first, and what is under way is finished',
  { buffered: true },
  async (t) => {
    const { system, start, isRefused } = await startLife(t);
    // Long, so that there is time to look at each step; the whole must be below the minute that a stop may take.
    const { child, metricsPort } = await start({
      env: { ANTEROOM_DRAIN_MS: '20000', ANTEROOM_STOP_MS: '35000' },
    });
    const gone = new Promise((resolve) => child.once('exit', resolve));
    t.equal((await ready(metricsPort)).status, 200);
    const fan = new Fan({ base: system.base, room: 'line', index: 1 });
    await fan.join();
    const stream = await openStream(`${system.base}/v1/rooms/line/events`, { headers: fan.headers() });
    const socket = await openSocket(`${system.base}/v1/rooms/line/socket`, { headers: fan.headers() });
    t.ok(await stream.next(), 'the stream runs');
    t.ok(await socket.next(), 'the socket, too');
    const feed = await openStream(`${system.base}/open/feed`);
    t.equal((await feed.next())?.data, 'first');
    const slowly = ask(`${system.base}/open/slow/finished`, { connection: 'keep-alive' });
    await eventually('the origin was asked', () => slow.has('finished'));

    child.kill('SIGTERM');
    await eventually('it says so', async () => (await ready(metricsPort)).status === 503);
    t.match((await ready(metricsPort)).missing, ['stopping']);
    const late = await ask(`${system.base}/open/now`, { connection: 'keep-alive' });
    t.equal(late.status, 200, 'and still serves whoever has not heard');
    t.equal(late.connection, 'close', 'who is to take another connection');

    await eventually('then the port is closed', isRefused);
    await stream.closed;
    t.ok(stream.whole(), 'streams are ended, not cut');
    const pause = stream.retries.at(-1);
    t.ok(pause !== undefined && pause >= 1000 && pause <= 4000, 'and told to come back within a few seconds');
    t.equal(await socket.closed, 4100, 'come back after a while');
    await feed.closed;
    t.ok(feed.whole(), 'a feed that is passed on is ended as well');
    t.equal(child.exitCode, null, 'it waits for the origin');
    slow.get('finished')!.end('finished');
    t.same(await slowly, { status: 200, body: 'finished', connection: 'close' });
    await gone;
    t.equal(child.exitCode, 0);
  },
);

t.test('a second signal ends the process at once', { buffered: true }, async (t) => {
  const { system, start, isRefused } = await startLife(t);
  const { child } = await start({ env: { ANTEROOM_STOP_MS: '55000' } });
  const slowly = ask(`${system.base}/open/slow/cut`).catch((error: unknown) => error);
  await eventually('the origin was asked', () => slow.has('cut'));
  child.kill('SIGTERM');
  await eventually('the port is closed', isRefused);
  t.equal(child.exitCode, null);
  t.equal(await system.end(child, 'SIGTERM'), 1);
  t.ok((await slowly) instanceof Error, 'what was under way is cut');
});

/** So long after it was opened a connection is waited for by a process that stops (app/edge.ts, LINGER_MS). */
const LINGER_MS = 250;

/**
 * Two connections say of themselves that their request was not lost, because it was never sent in time: one that the
 * kernel resets, as it took it in the microseconds between our last look and the closing of the port, and one on which
 * this process was too late with its first byte. Browsers and proxies then connect again by themselves, and so does this.
 */
const askAgain = (url: string): Promise<Told> =>
  new Promise((resolve, reject) => {
    const begunMs = performance.now();
    let sentAfterMs = 0;
    const asked = request(url, { agent: false }, (answer) => {
      answer.resume();
      answer.on('error', reject);
      answer.on('end', () => resolve({ status: answer.statusCode ?? 0, body: '', connection: undefined }));
    });
    // What was written before is sent now.
    asked.once('socket', (socket) =>
      socket.once('connect', () => {
        sentAfterMs = performance.now() - begunMs;
      }),
    );
    asked.on('error', (error: NodeJS.ErrnoException) => {
      const wasResetUnsent = error.code === 'ECONNRESET' && error.syscall === 'connect';
      if (wasResetUnsent || sentAfterMs > LINGER_MS / 2) resolve(askAgain(url));
      else reject(error);
    });
    asked.end();
  });

t.test(
  'two processes on one port are replaced one after the other, and no request is lost',
  { buffered: true },
  async (t) => {
    const { system, start } = await startLife(t);
    const [first, second] = await Promise.all([start(), start()]);
    const counts = new Map<string, number>();
    let isOver = false;
    const client = async (): Promise<void> => {
      while (!isOver) {
        const said = await askAgain(`${system.base}/open/now`).then(
          ({ status }) => String(status),
          (error: unknown) => String(error),
        );
        counts.set(said, (counts.get(said) ?? 0) + 1);
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    };
    const clients = [client(), client(), client()];
    t.equal(await system.end(first.child, 'SIGTERM'), 0);
    const third = await start();
    t.equal(await system.end(second.child, 'SIGTERM'), 0);
    await eventually('there was something to lose', () => (counts.get('200') ?? 0) > 50);
    isOver = true;
    await Promise.all(clients);
    t.same([...counts.keys()], ['200'], JSON.stringify([...counts]));
    await system.end(third.child, 'SIGTERM');
  },
);

t.test('at the end of its descriptors a process serves those it has', { buffered: true }, async (t) => {
  const { system, start } = await startLife(t);
  const { child, metricsPort } = await start({ descriptors: 400 });
  t.match(system.output(), '"event":"descriptors-few"');
  const sockets: Socket[] = [];
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
  });
  const open = (): Promise<Socket> =>
    new Promise((resolve) => {
      const socket = connect(system.ports.public, '127.0.0.1', () => resolve(socket));
      socket.on('error', () => undefined); // A reset is one way of being closed.
      socket.once('close', () => resolve(socket));
      sockets.push(socket);
    });
  const first = await open();
  let heard = '';
  first.setEncoding('latin1');
  first.on('data', (chunk) => {
    heard += chunk;
  });
  let asked = 0;
  const fill = () => Promise.all(Array.from({ length: 150 }, open));
  const firstIsServed = async (): Promise<void> => {
    asked += 1;
    first.write('GET /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\n\r\n');
    await eventually('who is in is answered', () => heard.split('HTTP/1.1 200').length - 1 === asked);
  };
  await firstIsServed();
  let opened = 0;
  await eventually('it is full', async () => {
    // A connection that is idle is closed: the first never is one, and others take the places of those that were.
    await firstIsServed();
    await fill();
    const metrics = (await ask(`http://127.0.0.1:${metricsPort}/metrics`)).body;
    opened = Number(/^anteroom_connections_open (\d+)$/m.exec(metrics)?.[1]);
    return opened >= 90 && /^anteroom_overload_level 3$/m.test(metrics);
  });
  t.ok(opened <= 100, `400 descriptors less 300: ${opened}`);
  await firstIsServed();
  first.write('GET /line HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n');
  await eventually('newcomers are sent away, and their connections with them', () =>
    /HTTP\/1.1 503[\s\S]*connection: close/i.test(heard),
  );
  for (const socket of sockets) socket.destroy();
  await eventually('there is room again', async () => (await ask(`${system.base}/open/now`)).status === 200);
  t.equal(await system.end(child, 'SIGTERM'), 0);
});

t.test('a head that comes too slowly is cut off, however it drips', { buffered: true }, async (t) => {
  const { system, start } = await startLife(t);
  const { child } = await start();
  const whole = 'GET /open/now HTTP/1.1\r\nHost: a\r\n\r\n';
  const drip = (begin: string, drop: string): Promise<unknown> => {
    const socket = connect(system.ports.public, '127.0.0.1', () => socket.write(begin));
    socket.on('error', () => undefined); // A reset is one way of being closed.
    socket.resume();
    const timer = setInterval(() => socket.write(drop), 1000);
    return new Promise((resolve) => socket.once('close', resolve)).finally(() => clearInterval(timer));
  };
  let over = 0;
  const all = [
    drip('', ''),
    drip('GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ', 'a'),
    drip('GET / HTTP/1.1\r\nHost: a\r\n', 'X-Slow: a\r\n'),
    drip(`${whole}GET / HTTP/1.1\r\nHost: a\r\nX-Slow: `, 'a'),
  ].map((done) => done.then(() => (over += 1)));
  await eventually('all are closed', () => over === all.length);
  await system.end(child, 'SIGTERM');
});

t.test(
  'a gateway over TLS: page, join, stream and socket, with secure cookies',
  { buffered: true },
  async (t) => {
    const { system, start } = await startLife(t);
    const one = makeCertificate(system.folder, 'one');
    const { child } = await start({
      env: { ANTEROOM_TLS_CERT: one.certFile, ANTEROOM_TLS_KEY: one.keyFile },
    });
    const port = system.ports.public;
    const ca = readFileSync(one.certFile);
    const askSecurely = (method: string, path: string, headers: Record<string, string> = {}, trusted = ca) =>
      new Promise<{ status: number; headers: Record<string, string | string[] | undefined>; first: string }>(
        (resolve, reject) => {
          const asked = requestSecurely({
            host: 'localhost',
            port,
            method,
            path,
            ca: trusted,
            headers,
            agent: false,
          });
          asked.once('error', reject);
          asked.once('response', (answer) => {
            // An event stream does not end: its first piece tells enough.
            answer.once('data', (chunk) => {
              resolve({ status: answer.statusCode ?? 0, headers: answer.headers, first: String(chunk) });
              if (/event-stream/.test(answer.headers['content-type'] ?? '')) asked.destroy();
              answer.resume();
            });
          });
          asked.once('upgrade', (answer, socket) => {
            socket.destroy();
            resolve({ status: answer.statusCode ?? 0, headers: answer.headers, first: '' });
          });
          asked.end(method === 'POST' ? '{}' : undefined);
        },
      );
    const page = await askSecurely('GET', '/line', { accept: 'text/html' });
    t.equal(page.status, 200);
    t.equal(page.headers['strict-transport-security'], 'max-age=31536000');
    const joined = await askSecurely('POST', '/v1/rooms/line/places', { 'content-type': 'application/json' });
    t.equal(joined.status, 201);
    const cookies = [joined.headers['set-cookie'] ?? []].flat();
    t.ok(cookies.length >= 2);
    for (const cookie of cookies) {
      t.match(cookie, /^__Host-ar_/);
      t.match(cookie, /; Secure/);
    }
    const cookie = cookies.map((line) => line.split(';')[0]).join('; ');
    const stream = await askSecurely('GET', '/v1/rooms/line/events', { cookie });
    t.equal(stream.status, 200);
    const socket = await askSecurely('GET', '/v1/rooms/line/socket', {
      ...{ cookie, connection: 'Upgrade', upgrade: 'websocket', origin: `https://127.0.0.1:${port}` },
      ...{ 'sec-websocket-version': '13', 'sec-websocket-key': 'AAAAAAAAAAAAAAAAAAAAAA==' },
    });
    t.equal(socket.status, 101);
    const two = makeCertificate(system.folder, 'one');
    t.same(two, one, 'the same files, with another certificate in them');
    child.kill('SIGHUP');
    await eventually('the new certificate is spoken', async () => {
      const { status } = await askSecurely(
        'GET',
        '/line',
        { accept: 'text/html' },
        readFileSync(two.certFile),
      );
      return status === 200;
    });
    t.equal(await system.end(child, 'SIGTERM'), 0);
  },
);

t.test('a start that cannot succeed says why and ends with 1', { buffered: true }, async (t) => {
  const { system } = await startLife(t);
  const earlier = join(system.folder, 'earlier');
  mkdirSync(join(earlier, 'pgdata', 'cluster'), { recursive: true });
  const taken = await takePort();
  const holder = createOrigin().listen(taken, '127.0.0.1');
  t.teardown(() => holder.close());
  const fails = async (env: Record<string, string>, says: RegExp): Promise<void> => {
    const child = spawn(process.execPath, ['--import', 'tsx/esm', 'main.ts'], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: {
        PATH: process.env.PATH,
        ANTEROOM_DATA: system.folder,
        ANTEROOM_KEYS: generateKey('t'),
        ANTEROOM_REDIS_URL: redis.url,
        ANTEROOM_ROLES: 'gateway',
        ANTEROOM_PORT: String(await takePort()),
        ANTEROOM_METRICS_PORT: String(await takePort()),
        ...env,
      },
    });
    let written = '';
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (chunk: Buffer) => {
        written += chunk.toString('utf8');
      });
    t.equal(await new Promise((resolve) => child.once('close', resolve)), 1, written.slice(0, 300));
    t.match(written, says);
  };
  await Promise.all([
    fails({ ANTEROOM_REDIS_URL: `redis://127.0.0.1:${await takePort()}` }, /Redis at .* cannot be reached/),
    fails({ ANTEROOM_PORT: String(taken) }, /Port \d+ on 127\.0\.0\.1 \(public\) cannot be opened/),
    fails({ ANTEROOM_METRICS_PORT: String(taken) }, /Port \d+ on 127\.0\.0\.1 \(metrics\) cannot be opened/),
    fails(
      { ANTEROOM_ROLES: 'admin', ANTEROOM_DATA: earlier },
      /earlier\/pgdata holds the database of an earlier version \(PGlite\).*npm start -- --fresh/,
    ),
    fails({ ANTEROOM_KEYS: 'nonsense' }, /ANTEROOM_KEYS is missing or malformed/),
    fails(
      { ANTEROOM_TLS_CERT: '/nowhere.pem', ANTEROOM_TLS_KEY: '/nowhere.key' },
      /The certificate \/nowhere\.pem cannot be read/,
    ),
  ]);
});
