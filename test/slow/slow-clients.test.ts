// Clients that take their time, at the speed at which the library under the server really waits for them: minutes of
// waiting for what the parts say about it in test/parts/http-hostile.test.ts.

import { connect } from 'node:net';
import t from 'tap';
import { createServer } from '../../kernel/http.ts';
import { silentLog } from '../../kernel/log.ts';
import { rawRequest } from '../support/client.ts';
import { requestText } from '../support/hostile.ts';

const server = createServer({
  name: 'hostile',
  host: '127.0.0.1',
  port: 0,
  log: silentLog,
  bodyBytesMax: 1000,
  slowReaderMs: 1000,
  trustedProxies: [],
});
server.route('GET', '/fine', () => ({ status: 200, body: 'fine' }));
server.route('POST', '/fine', () => ({ status: 200 }));
server.route('GET', '/large', () => ({
  status: 200,
  body: (async function* endless() {
    for (;;) yield Buffer.alloc(65_536);
  })(),
}));
server.route(
  'POST',
  '/upload',
  async ({ upload }) => {
    let bytes = 0;
    for await (const piece of upload!.pieces) bytes += piece.length;
    return { status: 200, body: String(bytes) };
  },
  { isStreamed: true },
);
const { port } = await server.listen();
t.teardown(() => server.close(100));

const request = (line: string, ...headers: string[]) => requestText('a', line, ...headers);
const isFine = async (): Promise<boolean> =>
  (await rawRequest(port, request('GET /fine HTTP/1.1', 'connection: close'))).text.endsWith('fine');

t.test('a body in pieces may come slower than the library would wait', async (t) => {
  const slowly = await rawRequest(
    port,
    [
      request('POST /upload HTTP/1.1', 'content-length: 26', 'connection: close'),
      ...Array<string>(13).fill('xx'),
    ],
    { pieceMs: 1100 },
  );
  t.match(slowly.text, /\r\n\r\n26$/);
});

t.test(
  'hundreds of slow heads, bodies and readers are closed within 20 s, and others are served meanwhile',
  async (t) => {
    const crowd = Array.from({ length: 110 }, (_, index) => `x-${index}: y`);
    const starts: Record<string, string> = {
      silent: '',
      'a slow head': 'GET /fine HTTP/1.1\r\nhost: a\r\nx-slow: ',
      'a slow body': request('POST /fine HTTP/1.1', 'content-length: 900'),
      'a slow body in pieces': request('POST /upload HTTP/1.1', 'content-length: 900'),
      // Answered at once, so nobody waits for the rest any more.
      'a slow body nobody wants': request('POST /refused HTTP/1.1', 'content-length: 900'),
      'nothing after an answer': 'GET /fine HTTP/1.1\r\n\r\n',
      'a broken head': request('GET /fine HTTP/1.1', 'a b: c'),
      'a head the parser has no room for': request('GET /fine HTTP/1.1', ...crowd),
      'a reader that stops': request('GET /large HTTP/1.1'),
    };
    const dripped = (name: string, start: string) =>
      new Promise<number>((resolve) => {
        const startMs = performance.now();
        const wire = connect(port, '127.0.0.1');
        wire.on('error', () => undefined); // A reset is one way of being closed.
        wire.write(start);
        // A drip of whole header bytes or of body bytes; a reader reads nothing until it should be over.
        const isReader = name === 'a reader that stops';
        const drip = isReader ? undefined : setInterval(() => wire.write('x'), 2000);
        if (isReader) setTimeout(() => wire.resume(), 6000);
        else wire.resume();
        wire.once('close', () => {
          clearInterval(drip);
          resolve(performance.now() - startMs);
        });
        setTimeout(() => wire.destroy(), 30_000).unref();
      });
    const many = Object.entries(starts).flatMap(([name, start]) =>
      Array.from({ length: 60 }, async () => [name, await dripped(name, start)] as const),
    );
    for (let times = 0; times < 20; times += 1) {
      const asked = request('GET /fine HTTP/1.1', 'connection: close');
      const { text } = await rawRequest(port, asked);
      t.ok(text.endsWith('fine'), 'somebody else is served');
    }
    const slowest = new Map<string, number>();
    for (const [name, ms] of await Promise.all(many)) slowest.set(name, Math.max(slowest.get(name) ?? 0, ms));
    for (const [name, ms] of slowest) t.ok(ms < 20_000, `${name} took ${Math.round(ms)} ms`);
    t.ok(await isFine());
  },
);
