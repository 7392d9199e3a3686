// What strangers send, as data: the server alone must refuse it (test/parts/http-hostile.test.ts), and so must it behind each
// proxy (test/system/front.test.ts). (RFC 9112 section 11, CWE-444, CWE-22.)

export const CRLF = '\r\n';
export const requestText = (host: string, line: string, ...headers: string[]): string =>
  [line, `host: ${host}`, ...headers, '', ''].join(CRLF);

/** Requests of which two programs could read the end differently, by the name of the trick. `path` takes a POST. */
export const ambiguousFraming = (host: string, path = '/fine'): Record<string, string> => {
  const post = (...headers: string[]) => requestText(host, `POST ${path} HTTP/1.1`, ...headers);
  return {
    'two lengths that differ': `${post('content-length: 3', 'content-length: 30')}abc`,
    'two lengths that agree': `${post('content-length: 3', 'content-length: 3')}abc`,
    'a length in another case': `${post('content-length: 3', 'CONTENT-LENGTH: 4')}abcd`,
    'a list of lengths': `${post('content-length: 3, 3')}abc`,
    'a signed length': `${post('content-length: +3')}abc`,
    'a negative length': `${post('content-length: -3')}abc`,
    'a hexadecimal length': `${post('content-length: 0x3')}abc`,
    'a length that overflows': `${post('content-length: 18446744073709551619')}abc`,
    'an empty length': post('content-length:'),
    chunked: `${post('transfer-encoding: chunked')}3\r\nabc\r\n0\r\n\r\n`,
    'chunked in another case': `${post('Transfer-Encoding: ChUnKeD')}3\r\nabc\r\n0\r\n\r\n`,
    'chunked with a length': `${post('content-length: 3', 'transfer-encoding: chunked')}0\r\n\r\n`,
    xchunked: post('transfer-encoding: xchunked'),
    identity: post('transfer-encoding: identity'),
    'gzip, chunked': `${post('transfer-encoding: gzip, chunked')}0\r\n\r\n`,
    'transfer-encoding twice': `${post('transfer-encoding: chunked', 'transfer-encoding: identity')}0\r\n\r\n`,
    'an odd chunk size': `${post('transfer-encoding: chunked')}0x3\r\nabc\r\n0\r\n\r\n`,
    'a bare line feed in the head': `POST ${path} HTTP/1.1\nhost: ${host}\ncontent-length: 3\n\nabc`,
    'two hosts': requestText(host, 'GET /admin HTTP/1.1', 'host: b'),
    'a space before the colon': post('transfer-encoding : chunked'),
    'a folded header': post('x-a: 1', ' content-length: 3'),
    'a null in a value': post('x-a: a\0b', 'content-length: 3', 'content-length: 3'),
  };
};

/** Paths that are not in their plain form. Most of them mean `/admin` to somebody. */
export const pathTricks: readonly string[] = [
  '/public/../admin',
  '/public/..',
  '/./admin',
  '/admin/.',
  '//admin',
  '/x//admin',
  '/admin//',
  '/%61dmin',
  '/%2e%2e/admin',
  '/.%2E/admin',
  '/x%2fadmin',
  '/x%2Fadmin',
  '/x%5cadmin',
  '/x\\admin',
  '/admin;x=y',
  '/admin%3bx=y',
  '/admin%00',
  '/admin%0a',
  '/admin%7f',
  '/admin%',
  '/admin%4',
  '/admin%zz',
  '/admin%252e',
  '/admin#x',
  '/admin\x01',
  '/admin\xe9',
  '/"admin"',
  `/${'a'.repeat(2048)}`,
];

/** Request lines of other kinds than the plain one. */
export const oddRequestLines: readonly string[] = [
  'GET http://a/admin HTTP/1.1',
  'OPTIONS * HTTP/1.1',
  'CONNECT a:80 HTTP/1.1',
  'TRACE /admin HTTP/1.1',
  'get /admin HTTP/1.1',
  'PROPFIND /admin HTTP/1.1',
  'GET /admin HTTP/1.0',
  'GET /admin HTTP/2.0',
  'GET /admin',
  'GET  /admin HTTP/1.1',
  `GET /admin?${'q'.repeat(9000)} HTTP/1.1`,
  'GET /admin?a\x01 HTTP/1.1',
];
