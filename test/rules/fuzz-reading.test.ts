// The measure of the HTTP fuzzer must itself be right: what a strict recipient reads, and what it never reads.

import t from 'tap';
import { caseOf } from '../fuzz/mutations.ts';
import { hasSecondReading, readAnswers, readStrictly } from '../fuzz/reading.ts';
import { random } from '../support/random.ts';

const read = (text: string) => readStrictly(Buffer.from(text, 'latin1'));

t.test('requests in order are read one after the other, bodies by their length', async (t) => {
  const { requests, rest } = read(
    'POST /a?b HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\nGET / HTTP/1.1\r\n\r\n..GET /c HTTP/1.1\r\nHost: x\r\n\r\n',
  );
  t.equal(rest, 'nothing');
  t.same(
    requests.map(({ method, target, body }) => [method, target, body.length]),
    [
      ['POST', '/a?b', 20],
      ['GET', '/c', 0],
    ],
  );
});

t.test('what two programs could read differently is read by nobody', async (t) => {
  for (const text of [
    'GET / HTTP/1.1\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: a b\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +0\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
    'GET / HTTP/1.1\r\nHost : a\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n',
    'GET / HTTP/1.1\nHost: a\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: a\r\nX: a\nb\r\n\r\n',
    'GET  / HTTP/1.1\r\nHost: a\r\n\r\n',
    'GET / HTTP/1.0\r\nHost: a\r\n\r\n',
    'GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n',
    'GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n',
  ]) {
    const { requests, rest } = read(text);
    t.equal(rest, 'bad', JSON.stringify(text));
    t.same(requests, [], JSON.stringify(text));
  }
  t.equal(read('GET / HTTP/1.1\r\nHost: a\r\n').rest, 'begun');
  t.equal(read('PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab').rest, 'body-missing');
});

t.test('a path with a second reading is seen', async (t) => {
  for (const path of [
    '//a',
    '/a/../b',
    '/.',
    '/%61',
    '/%2e%2e',
    '/a%2fb',
    '/a%5cb',
    '/a\\b',
    '/a;b',
    '/a%2525%32%65',
  ])
    t.ok(hasSecondReading(path), path);
  for (const path of ['/', '/a', '/a/', '/a%20b', '/gr%C3%BC', '/100%25', '/a..b', '/a?b=//;%2e'])
    t.notOk(hasSecondReading(path), path);
});

t.test('answers are told apart: lengths, chunks, none to HEAD, interim ones', async (t) => {
  const answers = readAnswers(
    Buffer.from(
      'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nx-echo: e\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\nHTTP/1.1 505 No\r\nConnection: close\r\n\r\n<h1>',
    ),
    ['GET', 'HEAD', 'GET'],
  );
  t.same(
    answers?.answers.map(({ status, echo }) => [status, echo]),
    [
      [200, 'e'],
      [200, ''],
      [200, ''],
      [505, ''],
    ],
  );
  t.equal(readAnswers(Buffer.from('nonsense'), []), undefined);
});

t.test('a case follows from its seed alone', async (t) => {
  const make = (seed: number) => {
    const ids: string[] = [];
    const id = (): string => {
      ids.push(`k${ids.length}`);
      return ids.at(-1) ?? '';
    };
    return caseOf(random(seed), { cookie: 'ar_v=x', id });
  };
  for (let seed = 1; seed < 200; seed += 1) t.same(make(seed), make(seed));
});
