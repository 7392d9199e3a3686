// What strangers send. Each case names the trick; the promise is always the same: an answer of 4xx or none at all,
// the connection closed, no route run, and the next visitor served. (RFC 9112 section 11, CWE-444, CWE-22.)

import { connect } from 'node:net';
import fc from 'fast-check';
import t from 'tap';
import { addressPrefix, addressText, createTrust, parseAddress } from '../../kernel/address.ts';
import { readOwnCookies } from '../../kernel/head.ts';
import { createServer, json } from '../../kernel/http.ts';
import { silentLog } from '../../kernel/log.ts';
import { isPlainPath } from '../../kernel/path.ts';
import { rawRequest } from '../support/client.ts';
import { ambiguousFraming, CRLF, oddRequestLines, pathTricks, requestText } from '../support/hostile.ts';
import { random, seedOf } from '../support/random.ts';

fc.configureGlobal({ seed: seedOf(t, 1) });

let ran = 0;
const server = createServer({
  name: 'hostile',
  host: '127.0.0.1',
  port: 0,
  log: silentLog,
  bodyBytesMax: 1000,
  slowReaderMs: 60_000,
  trustedProxies: [],
});
server.route('GET', '/fine', () => ({ status: 200, body: 'fine' }));
server.route('POST', '/fine', () => {
  ran += 1;
  return { status: 200 };
});
server.route('GET', '/admin', () => {
  ran += 1;
  return { status: 200, body: 'the protected thing' };
});
server.route('GET', '/slow', async () => {
  await new Promise((resolve) => setTimeout(resolve, 10));
  return { status: 200 };
});
server.route('GET', '/address', (request) => ({ status: 200, body: request.address }));
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
server.otherwise(() => {
  ran += 1;
  return { status: 200, body: 'otherwise' };
});
const { port } = await server.listen();
t.teardown(() => server.close(100));

const request = (line: string, ...headers: string[]) => requestText('a', line, ...headers);
const isFine = async (): Promise<boolean> =>
  (await rawRequest(port, request('GET /fine HTTP/1.1', 'connection: close'))).text.endsWith('fine');
/** Two turns of the server's loop: what was sent before the first of them has been read by the end of the second. */
const othersServed = async (): Promise<void> => {
  for (let times = 0; times < 2; times += 1) if (!(await isFine())) throw new Error('others are not served');
};
/** For bytes that may be refused or left without an answer. */
const refusedOrSilent = (bytes: string) => rawRequest(port, bytes, { unlessSilent: othersServed });

t.test('ambiguous framing is refused, and what is smuggled behind it never runs', async (t) => {
  const smuggled = request('GET /admin HTTP/1.1');
  for (const [name, bytes] of Object.entries(ambiguousFraming('a'))) {
    ran = 0;
    for (const tail of ['', smuggled]) {
      const { text, closed } = await refusedOrSilent(bytes + tail);
      t.notMatch(text, 'HTTP/1.1 200', name);
      t.notMatch(text, 'protected', name);
      t.ok(text === '' || /^HTTP\/1.1 [45]\d\d /.test(text), `${name}: refused or silent`);
      if (text !== '') t.ok(closed, `${name}: closed`);
    }
    t.equal(ran, 0, `${name}: nothing ran`);
  }
  t.ok(await isFine());
});

t.test('a second copy of a header that must be single is refused', async (t) => {
  const names = [
    'host',
    'authorization',
    'content-type',
    'cookie',
    'origin',
    'user-agent',
    'idempotency-key',
    'x-forwarded-for',
    'X-Forwarded-Proto',
    'x-forwarded-anything',
    'anteroom-visitor',
    'Anteroom-Context',
    'forwarded',
    'x-real-ip',
  ];
  for (const name of names) {
    ran = 0;
    const { text, closed } = await rawRequest(
      port,
      request('GET /admin HTTP/1.1', `${name}: a`, `${name}: a`),
    );
    t.match(text, /^HTTP\/1.1 400 /, name);
    t.match(text, '"code":"bad-header"', name);
    t.ok(closed, name);
    t.equal(ran, 0, name);
  }
  const twice = request('GET /fine HTTP/1.1', 'accept: a', 'accept: b', 'connection: close');
  t.match((await rawRequest(port, twice)).text, /^HTTP\/1.1 200 /, 'a list header may come in parts');
});

t.test('a host is one name and a port, or the request is refused', async (t) => {
  const asked = (host: string) =>
    rawRequest(port, `GET /admin HTTP/1.1\r\nhost: ${host}\r\nconnection: close\r\n\r\n`);
  for (const host of [
    'a b',
    'a/b',
    'a@b',
    'a\\b',
    '"a"',
    'a#b',
    'a?b',
    'a:80:80',
    'a:x',
    '[::1',
    '[g::1]',
    'a\xe9b',
  ]) {
    ran = 0;
    const { text, closed } = await asked(host);
    t.match(text, /^HTTP\/1.1 400 /, host);
    t.ok(closed, host);
    t.equal(ran, 0, host);
  }
  const { text } = await refusedOrSilent('GET /admin HTTP/1.1\r\naccept: a\r\n\r\n');
  t.notMatch(text, 'HTTP/1.1 200', 'none at all');
  for (const host of ['', 'a', 'a.example:8080', 'a_b', '192.0.2.1:80', '[2001:db8::1]', '[::1]:80'])
    t.match((await asked(host)).text, /^HTTP\/1.1 200 /, host);
});

t.test('a cookie of ours comes once', async (t) => {
  const refused = async (cookie: string) =>
    (
      await rawRequest(port, request('GET /fine HTTP/1.1', `cookie: ${cookie}`, 'connection: close'))
    ).text.startsWith('HTTP/1.1 400 ');
  t.ok(await refused('ar_v=1; ar_v=2'));
  t.ok(await refused('__Host-ar_v=1; a=b; __Host-ar_v=1'));
  t.ok(await refused('__Host-ar_v=1;__Host-ar_v =1'));
  t.notOk(await refused('ar_v=1; __Host-ar_v=2'), 'two names');
  t.notOk(await refused('a=1; a=2'), 'not ours');
  t.notOk(await refused('x=ar_v=1; y=ar_v=1'), 'a value that looks like one');
  t.same(readOwnCookies('a=1; ar_v = x=y ;ar_s_demo=z; ar_; ;='), ['ar_v', 'x=y', 'ar_s_demo', 'z']);
});

t.test('more headers than any browser sends, or larger ones, are refused', async (t) => {
  for (const [name, headers] of Object.entries({
    '101 headers': Array.from({ length: 100 }, (_, index) => `x-${index}: y`),
    '5000 headers': Array.from({ length: 5000 }, () => 'x: y'),
    '20 KB in one': [`x: ${'y'.repeat(20_000)}`],
    '100 KB in one': [`x: ${'y'.repeat(100_000)}`],
  })) {
    ran = 0;
    const { text } = await refusedOrSilent(request('GET /admin HTTP/1.1', ...headers));
    t.notMatch(text, 'HTTP/1.1 200', name);
    t.equal(ran, 0, name);
  }
  t.match(
    (await rawRequest(port, request('GET /fine HTTP/1.1', `x: ${'y'.repeat(12_000)}`))).text,
    /^HTTP\/1.1 200 /,
    '12 KB are taken, in however many segments they come',
  );
  t.ok(await isFine());
});

t.test('a path that is not in its plain form never reaches a route', async (t) => {
  for (const path of pathTricks) {
    ran = 0;
    const { text, closed } = await rawRequest(port, request(`GET ${path} HTTP/1.1`));
    t.match(text, /^HTTP\/1.1 (?:4\d\d|505) /, path);
    t.ok(closed, `${path} closes`);
    t.equal(ran, 0, path);
    if (!path.includes('#')) t.notOk(isPlainPath(path), path);
  }
  for (const path of [
    '/',
    '/a',
    '/a/',
    '/a/b.html',
    '/...',
    '/.well-known/x',
    '/a%20b',
    '/gr%C3%BC',
    '/100%25',
    '/a..b',
    '/~x/@y:z',
    '/[a]|b',
  ])
    t.ok(isPlainPath(path), path);
});

t.test('request lines of other kinds are refused', async (t) => {
  // Others stop at these characters, or take them for something else.
  const inQueries = ['#', '"', '<', '>'].map((mark) => `GET /admin?a${mark}b HTTP/1.1`);
  for (const line of [...oddRequestLines, ...inQueries]) {
    ran = 0;
    const { text } = await refusedOrSilent(request(line));
    t.ok(text === '' || /^HTTP\/1.1 [45]\d\d /.test(text), line);
    t.equal(ran, 0, line);
  }
  t.ok(await isFine());
});

t.test('a body above the limit is refused at its declared length, and at its real one', async (t) => {
  ran = 0;
  const declared = await rawRequest(port, request('POST /fine HTTP/1.1', 'content-length: 1001'));
  t.match(declared.text, /^HTTP\/1.1 413 /, 'before any byte of it');
  t.match(declared.text, '"code":"body-too-large"');
  t.ok(declared.closed);
  const huge = await rawRequest(port, request('POST /fine HTTP/1.1', 'content-length: 999999999999999'));
  t.match(huge.text, /^HTTP\/1.1 4\d\d /);
  const elsewhere = await rawRequest(port, `${request('POST /admin HTTP/1.1', 'content-length: 3')}abc`);
  t.match(elsewhere.text, /^HTTP\/1.1 405 /, 'and a body nobody wants is not waited for');
  t.ok(elsewhere.closed);
  t.equal(ran, 0);
});

t.test('the address cannot be told by the client', async (t) => {
  const asked = async (...headers: string[]) =>
    (await rawRequest(port, request('GET /address HTTP/1.1', ...headers, 'connection: close'))).text.split(
      '\r\n\r\n',
    )[1];
  t.equal(await asked('x-forwarded-for: 192.0.2.1'), '127.0.0.1');
  t.equal(await asked('forwarded: for=192.0.2.1'), '127.0.0.1');
  t.equal(await asked('x-real-ip: 192.0.2.1'), '127.0.0.1');
  const proxyV2 = Buffer.concat([
    Buffer.from('0d0a0d0a000d0a515549540a2111000cc0000201c0000202303901bb', 'hex'),
    Buffer.from(request('GET /address HTTP/1.1', 'connection: close')),
  ]);
  t.notMatch(
    (await rawRequest(port, proxyV2, { unlessSilent: othersServed })).text,
    '192.0.2.1',
    'nor by the PROXY protocol',
  );
});

t.test('a trusted proxy is believed, counted from the right', async (t) => {
  const behind = createServer({
    name: 'behind',
    host: '127.0.0.1',
    port: 0,
    log: silentLog,
    bodyBytesMax: 1000,
    slowReaderMs: 60_000,
    trustedProxies: ['127.0.0.0/8', '2001:db8::/32'],
  });
  behind.route('GET', '/', async (request) => json(200, request.address));
  const { port } = await behind.listen();
  t.teardown(() => behind.close(100));
  const asked = async (forwarded: string) =>
    JSON.parse(
      (
        await rawRequest(
          port,
          request('GET / HTTP/1.1', `x-forwarded-for: ${forwarded}`, 'connection: close'),
        )
      ).text.split('\r\n\r\n')[1] ?? '',
    );
  t.equal(await asked('192.0.2.1'), '192.0.2.1');
  t.equal(await asked('6.6.6.6, 192.0.2.1'), '192.0.2.1', 'what the fan wrote is not believed');
  t.equal(await asked('6.6.6.6, 192.0.2.1, 127.0.0.9, 2001:db8::5'), '192.0.2.1', 'through two of ours');
  t.equal(await asked('::ffff:192.0.2.1'), '192.0.2.1');
  t.equal(await asked('192.0.2.1:1234'), '192.0.2.1');
  t.equal(await asked('[2001:DB9:0:0:0::1]:80'), '2001:db9::1');
  t.equal(await asked('garbage'), '127.0.0.1');
  t.equal(await asked('6.6.6.6, <script>'), '127.0.0.1');
  t.equal(await asked(`${'6.6.6.6, '.repeat(200)}192.0.2.1`), '192.0.2.1');
  t.equal(await asked(Array(200).fill('127.0.0.1').join(',')), '127.0.0.1');
  t.throws(() => createTrust(['10.0.0.0/33']), /neither an address nor a prefix/);
  t.throws(() => createTrust(['example.org']), /neither an address nor a prefix/);
});

t.test('an address has one text, and belongs to its prefixes', async (t) => {
  const normal = (text: string) => addressText(parseAddress(text) ?? new Uint8Array());
  for (const [given, expected] of [
    ['192.0.2.1', '192.0.2.1'],
    ['::ffff:192.0.2.1', '192.0.2.1'],
    ['::FFFF:c000:201', '192.0.2.1'],
    ['::', '::'],
    ['::1', '::1'],
    ['1::', '1::'],
    ['2001:0DB8:0:0:0:0:0:1', '2001:db8::1'],
    ['2001:db8:0:1:1:1:1:1', '2001:db8:0:1:1:1:1:1'],
    ['1:0:0:2:0:0:0:3', '1:0:0:2::3'],
    ['64:ff9b::192.0.2.33', '64:ff9b::c000:221'],
  ] as const)
    t.equal(normal(given), expected, given);
  for (const bad of ['', '1.2.3', '1.2.3.256', '01.2.3.4', '::1%eth0', ':::', '1::2::3', 'a'.repeat(100)])
    t.equal(parseAddress(bad), undefined, bad);
  t.equal(addressPrefix('2001:db8:1:2:3:4:5:6', { v4: 32, v6: 64 }), '2001:db8:1:2::/64');
  t.equal(addressPrefix('2001:db8:1:2ff:3:4:5:6', { v4: 32, v6: 56 }), '2001:db8:1:200::/56');
  t.equal(addressPrefix('192.0.2.77', { v4: 24, v6: 64 }), '192.0.2.0/24');
  fc.assert(
    fc.property(fc.oneof(fc.ipV4(), fc.ipV6()), (text) => {
      const once = normal(text);
      return once !== '' && normal(once) === once;
    }),
  );
});

t.test('random bytes end no process', async (t) => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(
        fc.oneof(
          fc.constantFrom(
            'GET ',
            '/fine',
            ' HTTP/1.1',
            CRLF,
            CRLF + CRLF,
            'host: a',
            'content-length: 3',
            'Upgrade: websocket',
            'sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==',
            ':',
            ' ',
            '\0',
            '\n',
          ),
          fc.uint8Array({ maxLength: 20 }).map((bytes) => Buffer.from(bytes).toString('latin1')),
        ),
        { maxLength: 20 },
      ),
      async (parts) => {
        await rawRequest(port, parts.join(''), { leave: isFine });
      },
    ),
    { numRuns: 60 },
  );
  t.ok(await isFine());
});

t.test('a body in pieces is framed as strictly as any', async (t) => {
  for (const [name, head] of Object.entries({
    chunked: ['transfer-encoding: chunked'],
    'two lengths': ['content-length: 1', 'content-length: 2'],
    'a length that is none': ['content-length: 1a'],
    'too long': ['content-length: 1001'],
  })) {
    const { text, closed } = await rawRequest(port, `${request('POST /upload HTTP/1.1', ...head)}xx`);
    t.match(text, /^HTTP\/1\.1 4/, name);
    t.ok(closed, name);
  }
});

t.test('a client that cuts its connection at any byte does no harm', async (t) => {
  const from = random(seedOf(t, 365));
  const whole = `${request('POST /fine HTTP/1.1', 'content-length: 9')}123456789${request('GET /slow HTTP/1.1')}`;
  await Promise.all(
    Array.from(
      { length: 300 },
      () =>
        new Promise<void>((resolve) => {
          const wire = connect({ port, host: '127.0.0.1', noDelay: true });
          wire.on('error', () => undefined); // The cut is the point.
          wire.once('close', () => resolve());
          wire.once('connect', () => {
            wire.write(whole.slice(0, from.below(whole.length + 1)));
            setTimeout(() => (from.next() < 0.5 ? wire.destroy() : wire.resetAndDestroy()), from.below(30));
          });
        }),
    ),
  );
  t.ok(await isFine());
});
