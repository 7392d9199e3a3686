// TLS without a proxy, over real sockets: what is spoken, what is refused, and how a certificate is renewed. Whole
// processes that speak it are in test/system/life.test.ts.

import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect as connectPlain } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type ConnectionOptions, connect, type TLSSocket } from 'node:tls';
import t from 'tap';
import { takePort } from '../../bench/ports.ts';
import { readConfig } from '../../kernel/config.ts';
import { createServer, json } from '../../kernel/http.ts';
import { silentLog } from '../../kernel/log.ts';
import { checkCertificate } from '../../kernel/tls.ts';
import { makeCertificate } from '../support/certificate.ts';
import { rawRequest } from '../support/client.ts';

const folder = mkdtempSync(join(tmpdir(), 'anteroom-tls-'));
t.teardown(() => rmSync(folder, { recursive: true, force: true }));
const one = makeCertificate(folder, 'one');
const two = makeCertificate(folder, 'two');

const handshake = (port: number, options: ConnectionOptions = {}): Promise<TLSSocket> =>
  new Promise((resolve, reject) => {
    const socket = connect({ port, host: '127.0.0.1', rejectUnauthorized: false, ...options });
    socket.once('secureConnect', () => resolve(socket));
    socket.once('error', reject);
  });
const subjectAt = async (port: number): Promise<unknown> => {
  const socket = await handshake(port);
  const { subject } = socket.getPeerCertificate();
  socket.destroy();
  return subject.CN;
};

const startServer = async (t: { teardown(work: () => unknown): void }, tls: typeof one) => {
  const server = createServer({
    ...{ name: 'test', host: '127.0.0.1', port: await takePort(), log: silentLog, tls },
    ...{ bodyBytesMax: 1000, slowReaderMs: 1000, trustedProxies: [] },
  });
  server.route('GET', '/', () => json(200, { here: true }));
  t.teardown(() => server.close(0));
  return { server, port: (await server.listen()).port };
};

t.test('TLS 1.2 and 1.3 are spoken, and only HTTP/1.1 in them', async (t) => {
  const { port } = await startServer(t, one);
  for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
    const socket = await handshake(port, {
      ...{ minVersion: version, maxVersion: version, ALPNProtocols: ['h2', 'http/1.1'] },
      ca: readFileSync(one.certFile),
      rejectUnauthorized: true,
    });
    t.equal(socket.getProtocol(), version);
    t.equal(socket.alpnProtocol, false, 'nothing is agreed on, which means HTTP/1.1 (RFC 7301)');
    const answered = new Promise((resolve) => socket.once('data', resolve));
    socket.write('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n');
    t.match(String(await answered), /^HTTP\/1\.1 200 OK/);
    socket.destroy();
  }
  const old = { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' } as const;
  await t.rejects(handshake(port, old), { code: 'ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION' });
  const plain = await rawRequest(port, 'GET / HTTP/1.1\r\nHost: localhost\r\n\r\n');
  t.equal(plain.closed, true, 'plain HTTP is closed');
  t.notMatch(plain.text, 'HTTP/1.1 200');
  const broken = connectPlain(port, '127.0.0.1', () => broken.end(Buffer.alloc(2000, 0xff)));
  broken.on('error', () => undefined); // A reset is one way of being closed.
  broken.resume();
  await new Promise((resolve) => broken.once('close', resolve));
  t.equal(await subjectAt(port), 'one', 'rubbish in a handshake costs nobody else');
});

t.test('a renewed certificate is seen by the next connection, and those that are open go on', async (t) => {
  const files = { certFile: join(folder, 'live.pem'), keyFile: join(folder, 'live.key') };
  const put = (from: typeof one) => {
    copyFileSync(from.certFile, files.certFile);
    copyFileSync(from.keyFile, files.keyFile);
  };
  put(one);
  const { server, port } = await startServer(t, files);
  put(two);
  t.equal(await subjectAt(port), 'one', 'not before it is told');
  const early = await handshake(port);
  await server.renewCertificate();
  const answered = new Promise((resolve) => early.once('data', resolve));
  early.write('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n');
  t.match(String(await answered), /^HTTP\/1\.1 200 OK/);
  early.destroy();
  for (let index = 0; index < 5; index += 1) t.equal(await subjectAt(port), 'two');
  copyFileSync(one.keyFile, files.keyFile);
  await t.rejects(server.renewCertificate(), /cannot be used together/);
  t.equal(await subjectAt(port), 'two', 'a bad one is refused, and the old one stays');
});

t.test('files that cannot work are refused by name', async (t) => {
  for (const name of ['ANTEROOM_TLS_CERT', 'ANTEROOM_TLS_KEY'])
    t.throws(
      () => readConfig({ [name]: '/nowhere.pem' }),
      /TLS_CERT and ANTEROOM_TLS_KEY are needed together/,
    );
  const bad = join(folder, 'bad.pem');
  writeFileSync(bad, 'not a certificate');
  t.throws(
    () => checkCertificate({ ...one, certFile: '/nowhere.pem' }),
    /certificate \/nowhere\.pem cannot be read/,
  );
  t.throws(() => checkCertificate({ ...one, keyFile: '/nowhere.key' }), /key \/nowhere\.key cannot be read/);
  t.throws(() => checkCertificate({ ...one, certFile: bad }), /cannot be used together/);
  t.throws(() => checkCertificate({ ...one, keyFile: two.keyFile }), /cannot be used together/);
  t.match(checkCertificate(one), { subject: 'CN=one' });
  const faults = (env: Record<string, string>) =>
    t.throws(() => readConfig(env), /configuration has 1 fault/i);
  faults({ ANTEROOM_TLS_KEY: one.keyFile });
  faults({
    ...{ ANTEROOM_TLS_CERT: one.certFile, ANTEROOM_TLS_KEY: one.keyFile },
    ANTEROOM_PUBLIC_URL: 'http://tickets.example',
  });
});
