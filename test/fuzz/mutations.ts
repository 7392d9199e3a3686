// What the fuzzer sends: valid requests of every public route, taken apart into lines, damaged there in the ways that
// are known to confuse programs, put together, and damaged once more as bytes. All of it follows from one number.

import type { random } from '../support/random.ts';

export type Random = ReturnType<typeof random>;

/** How the bytes of one connection go out. */
export type Case = {
  bytes: Buffer;
  /** Where the bytes are cut into several writes. */
  cuts: readonly number[];
  /** How the connection ends after the last byte: left open, our half closed, or reset in the middle. */
  end: 'open' | 'half-closed' | 'reset';
  /** What was done to it, for the report. */
  done: readonly string[];
};

/** The name that every request asks for, unless that is what is damaged. */
export const HOST = 'tickets.example';

type Line = { name: string; between: string; value: string; end: string };
type Draft = { method: string; target: string; start: string; lines: Line[]; body: string };

/** Appears in headers that say who somebody is; nothing behind the gateway may ever see it. */
export const CANARY = 'canary-of-a-stranger';

/**
 * Headers that say who somebody is, in lower case; `anteroom-…` are too. Not `x-request-id`: the fuzzer's address is
 * that of a trusted proxy, which may name a request.
 */
export const IDENTITY: ReadonlySet<string> = new Set([
  'x-real-ip',
  'forwarded',
  'x-forwarded-for',
  'x-forwarded-host',
  'x-forwarded-proto',
  'proxy-authorization',
]);

export type Sender = {
  /** Cookies of somebody in line, so that the routes of a place are reached. */
  cookie: string;
  /** A key that no other request of the run has. */
  id(): string;
};

const line = (name: string, value: string): Line => ({ name, between: ': ', value, end: '\r\n' });

const draftOf = (from: Random, sender: Sender): Draft => {
  const id = sender.id();
  const address = Array.from({ length: 4 }, () => 1 + from.below(250)).join('.');
  const common = [
    line('Host', HOST),
    line('User-Agent', 'Mozilla/5.0 (Windows NT 10.0; Win64; x64) Chrome/140.0.0.0 Safari/537.36'),
    line('X-Forwarded-For', address),
    line('Accept', from.pick(['*/*', 'text/html', 'application/json'])),
  ];
  const own = from.next() < 0.5 ? [line('Cookie', sender.cookie)] : [];
  const made = (method: string, target: string, body: string, ...more: Line[]): Draft => ({
    method,
    target,
    start: `${method} ${target} HTTP/1.1\r\n`,
    lines: [...common, ...more, ...(body === '' ? [] : [line('Content-Length', String(body.length))])],
    body,
  });
  const jsonType = line('Content-Type', 'application/json');
  // Half of all goes to the origin: only there can be seen how a request was read.
  if (from.next() < 0.5) {
    const target = `/o/${id}${from.pick(['', '/', '?q=1', '?a=b&c=%20', '/x.html', `/${'a'.repeat(300)}`])}`;
    const method = from.pick([
      'GET',
      'GET',
      'HEAD',
      'POST',
      'POST',
      'POST',
      'PUT',
      'PATCH',
      'DELETE',
      'OPTIONS',
    ]);
    if (['GET', 'HEAD', 'DELETE', 'OPTIONS'].includes(method) && from.next() < 0.9)
      return made(method, target, '');
    const body = from.pick([
      `{"id":"${id}"}`,
      `id=${id}&${'x'.repeat(from.below(3000))}`,
      `GET /o/${sender.id()}-inside HTTP/1.1\r\nHost: tickets.example\r\n\r\n`,
      `0\r\n\r\nPOST /o/${sender.id()}-inside HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n`,
      `${id}${String.fromCharCode(from.below(256), from.below(256), from.below(256))}`,
    ]);
    return made(method, target, body, line('Content-Type', from.pick(['text/plain', 'application/json'])));
  }
  return from.pick<() => Draft>([
    () => made('POST', '/v1/rooms/demo/places', '{}', jsonType, ...own),
    () => made('GET', '/v1/rooms/demo/places/me', '', ...own),
    () => made('DELETE', '/v1/rooms/demo/places/me', ''),
    () => made('GET', '/v1/rooms/demo', ''),
    () => made('POST', '/v1/rooms/demo/pass', '{"claim":"x.y"}', jsonType, ...own),
    () => made('POST', '/v1/rooms/demo/sessions', '{"pass":"x.y.z"}', jsonType),
    () =>
      made(
        'POST',
        '/v1/rooms/demo/sessions/end',
        '{"session":"x"}',
        jsonType,
        line('Authorization', 'Bearer x'),
      ),
    () => made('GET', '/v1/rooms/demo/events', '', line('Last-Event-ID', '1-1'), ...own),
    () =>
      made(
        'GET',
        '/v1/rooms/demo/socket',
        '',
        line('Connection', 'Upgrade'),
        line('Upgrade', 'websocket'),
        line('Sec-WebSocket-Version', '13'),
        line('Sec-WebSocket-Key', 'dGhlIHNhbXBsZSBub25jZQ=='),
        line('Origin', 'http://tickets.example'),
        ...own,
      ),
    () => made('GET', '/rooms/demo', '', ...own),
    () => made('POST', '/rooms/demo', 'act=join', line('Content-Type', 'application/x-www-form-urlencoded')),
    () => made('GET', '/.well-known/jwks.json', ''),
    () => made('GET', '/demo', '', ...own),
    () => made('GET', '/v1/events/demo', '', ...own),
    () => made('POST', '/v1/orders', '{}', jsonType, line('Idempotency-Key', id)),
  ])();
};

const LENGTHS = [
  '+3',
  '-1',
  '0x3',
  '3, 3',
  '3 ',
  ' 3',
  '\t3',
  '3\t',
  '',
  '03',
  '1e1',
  '3.0',
  '99999999999999999999',
  '18446744073709551619',
  '999999999999999',
  '1048577',
  '4294967299',
  '\xb3',
  '3;a=b',
  '3\v',
];
const CODINGS = [
  'chunked',
  'Chunked',
  ' chunked',
  'chunked ',
  '\tchunked',
  'xchunked',
  'identity',
  'gzip, chunked',
  'chunked, identity',
  'chunked;a=b',
  '"chunked"',
  '',
  'chunked\0',
  '\x0bchunked',
];
const TARGETS = [
  '//demo',
  '/x/../demo',
  '/./demo',
  '/%64emo',
  '/demo%00',
  '/demo;x=y',
  '/x%2fdemo',
  '/x%5cdemo',
  '/demo%2f',
  '/o/%2e%2e/demo',
  '/o/..%2fdemo',
  '/o/a%0d%0aX: y',
  '/o/%c0%af',
  '/demo#a',
  '/o/a?b#c',
  '/o/a?b c',
  '/o/a?b\tc',
  '*',
  'http://tickets.example/demo',
  'https://a@b/demo',
  'tickets.example:80',
  '/demo/',
  '/DEMO',
  '/o/\xff',
  '/o/a\\..\\demo',
  '/o/%25%32%65',
  '?a',
  '',
  '/..',
  '/%2e',
  '/o/"',
  '/o/{}',
  '/o/a?<">^`{|}\\',
];
const VERSIONS = [
  'HTTP/1.0',
  'HTTP/0.9',
  'HTTP/2.0',
  'HTTP/1.2',
  'http/1.1',
  'HTTP/1.1 ',
  'HTTP/01.1',
  'HTTP/1.10',
  'HTTP /1.1',
  'XTTP/1.1',
  '',
];
const PREFIXES = [
  'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
  '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03',
  '\r\n',
  '\r\n\r\n\r\n',
  '\n',
  '\0',
  ' ',
  'GET /\r\n',
  '\xef\xbb\xbf',
  'PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n',
];

type Mutation = { name: string; change(draft: Draft, from: Random, sender: Sender): void };

const some = (draft: Draft, from: Random): Line => from.pick(draft.lines);
const put = (draft: Draft, from: Random, ...lines: Line[]): void => {
  draft.lines.splice(from.below(draft.lines.length + 1), 0, ...lines);
};

const MUTATIONS: readonly Mutation[] = [
  { name: 'a header twice', change: (d, from) => put(d, from, { ...some(d, from) }) },
  { name: 'headers in another order', change: (d, from) => d.lines.sort(() => from.next() - 0.5) },
  {
    name: 'a name in another case',
    change: (d, from) => {
      const one = some(d, from);
      one.name = [...one.name].map((c) => (from.next() < 0.5 ? c.toUpperCase() : c.toLowerCase())).join('');
    },
  },
  {
    name: 'blanks around a colon',
    change: (d, from) => {
      some(d, from).between = from.pick([' : ', ':', ':  ', ':\t', '\t: ', ' :', ': \t ', '', ' ']);
    },
  },
  {
    name: 'a folded line',
    change: (d, from) => {
      const one = some(d, from);
      one.value = `${one.value}\r\n${from.pick([' ', '\t'])}folded`;
    },
  },
  {
    name: 'a blank before a name',
    change: (d, from) => {
      const one = some(d, from);
      one.name = from.pick([' ', '\t']) + one.name;
    },
  },
  {
    name: 'another line end',
    change: (d, from) => {
      some(d, from).end = from.pick(['\n', '\r', '\r\r\n', '\n\r', '\0\r\n', '\r\n\n']);
    },
  },
  {
    name: 'a control character in a value',
    change: (d, from) => {
      some(d, from).value +=
        from.pick(['\0', '\x01', '\x0b', '\x7f', '\r', '\n', '\x1b', '\x80']) + from.pick(['', 'a']);
    },
  },
  {
    name: 'an odd name',
    change: (d, from) =>
      put(
        d,
        from,
        line(
          from.pick(['X Y', 'X\0', 'X(', 'X\x80', '"X"', 'X/Y', 'X:', 'X@', 'X\t', '__proto__', 'X;']),
          'odd',
        ),
      ),
  },
  {
    name: 'another length',
    change: (d, from) =>
      put(
        d,
        from,
        line(
          from.pick([
            'Content-Length',
            'content-length',
            'Content_Length',
            'Content-Length ',
            'CONTENT-LENGTH',
          ]),
          from.pick([...LENGTHS, String(d.body.length + from.below(9) - 4), '0']),
        ),
      ),
  },
  {
    name: 'a wrong length',
    change: (d, from) => {
      for (const one of d.lines)
        if (one.name === 'Content-Length')
          one.value = from.pick([
            ...LENGTHS,
            String(Math.max(0, d.body.length - 1 - from.below(60))),
            '0',
            String(d.body.length + 1 + from.below(30)),
          ]);
    },
  },
  {
    name: 'no length',
    change: (d) => {
      d.lines = d.lines.filter(({ name }) => name !== 'Content-Length');
    },
  },
  {
    name: 'a transfer coding',
    change: (d, from) =>
      put(
        d,
        from,
        line(
          from.pick(['Transfer-Encoding', 'transfer-encoding', 'Transfer_Encoding', 'Transfer-Encoding\t']),
          from.pick(CODINGS),
        ),
      ),
  },
  {
    name: 'a chunked body',
    change: (d, from) => {
      d.lines = d.lines.filter(({ name }) => name !== 'Content-Length' || from.next() < 0.3);
      put(d, from, line('Transfer-Encoding', from.pick(CODINGS)));
      const size = d.body.length.toString(16);
      d.body = `${from.pick([size, `0${size}`, `${size};a=b`, `+${size}`, `0x${size}`, `${size} `, `fffffffffffffff${size}`])}\r\n${d.body}${from.pick(['\r\n', '', '\n', 'XX'])}0\r\n${from.pick(['', 'X: y\r\n'])}\r\n`;
    },
  },
  {
    name: 'another target',
    change: (d, from, sender) => {
      const target = from.pick(TARGETS);
      d.target = target;
      d.start = `${d.method} ${target}${target.startsWith('/o/') && !target.includes('?') ? `?${sender.id()}` : ''} HTTP/1.1\r\n`;
    },
  },
  {
    name: 'another version',
    change: (d, from) => {
      d.start = `${d.method} ${d.target}${from.pick([' ', '  ', '\t', ''])}${from.pick(VERSIONS)}${from.pick(['\r\n', '\n'])}`;
    },
  },
  {
    name: 'another method',
    change: (d, from) => {
      const method = from.pick([
        'get',
        'CONNECT',
        'TRACE',
        'PROPFIND',
        'G\0T',
        '',
        'GE T',
        'POST',
        'HEAD',
        'M'.repeat(300),
        '"GET"',
      ]);
      d.start = `${method} ${d.target} HTTP/1.1\r\n`;
      d.method = method;
    },
  },
  {
    name: 'a smuggled request at the end',
    change: (d, _from, sender) => {
      d.body += `GET /o/${sender.id()}-after HTTP/1.1\r\nHost: tickets.example\r\n\r\n`;
    },
  },
  {
    name: 'another host',
    change: (d, from) => {
      for (const one of d.lines)
        if (one.name === 'Host')
          one.value = from.pick([
            '',
            'a b',
            'a/b',
            'a,b',
            'a@b',
            'a:b',
            'a:80:80',
            '[::1]:80',
            'tickets.example:8080',
            'a\\b',
            '"a"',
            'a#b',
            '\xe9',
            'a'.repeat(3000),
          ]);
    },
  },
  {
    name: 'no host',
    change: (d) => {
      d.lines = d.lines.filter(({ name }) => name !== 'Host');
    },
  },
  {
    name: 'a claim of identity',
    change: (d, from) =>
      put(
        d,
        from,
        line(
          from.pick([
            'Anteroom-Visitor',
            'anteroom-context',
            'Anteroom-Session-Id',
            'X-Real-IP',
            'Forwarded',
            'X-Forwarded-Host',
            'X-Forwarded-Proto',
            'Proxy-Authorization',
            'X-Request-Id',
          ]),
          CANARY,
        ),
      ),
  },
  {
    name: 'a hop-by-hop header',
    change: (d, from) =>
      put(
        d,
        from,
        line(
          'Connection',
          from.pick([
            'keep-alive',
            'x-hop',
            'host',
            'content-length',
            'X-Forwarded-For, cookie',
            'upgrade',
            ', ,',
            'TE',
          ]),
        ),
        line('X-Hop', 'y'),
      ),
  },
  {
    name: 'an expectation',
    change: (d, from) => put(d, from, line('Expect', from.pick(['100-continue', '200-ok', '']))),
  },
  {
    name: 'an upgrade',
    change: (d, from) =>
      put(
        d,
        from,
        line('Connection', 'Upgrade, HTTP2-Settings'),
        line('Upgrade', from.pick(['h2c', 'websocket', 'TLS/1.0', 'websocket, h2c'])),
        line('HTTP2-Settings', 'AAMAAABk'),
      ),
  },
  {
    name: 'many headers',
    change: (d, from) =>
      put(
        d,
        from,
        ...Array.from({ length: from.pick([20, 60, 90, 130, 500]) }, (_, index) => line(`X-${index}`, 'y')),
      ),
  },
  {
    name: 'a long line',
    change: (d, from) =>
      put(
        d,
        from,
        line(
          `X-Long${'g'.repeat(from.pick([0, 0, 5000]))}`,
          'v'.repeat(from.pick([2000, 8000, 17_000, 70_000])),
        ),
      ),
  },
  {
    name: 'a long target',
    change: (d, from) => {
      d.start = `${d.method} ${d.target}${d.target.includes('?') ? '&' : '?'}${'q'.repeat(from.pick([1000, 7000, 9000, 20_000]))} HTTP/1.1\r\n`;
    },
  },
  {
    name: 'our cookie twice',
    change: (d, from) =>
      put(
        d,
        from,
        line(
          'Cookie',
          from.pick(['ar_v=1; ar_v=2', 'ar_v=1', '__Host-ar_v=x;ar_s_demo=%00', 'ar_v="a;b"', ';;;=;a']),
        ),
      ),
  },
];

const NIBBLES = [
  '\r\n',
  '\n',
  '\r',
  '\0',
  ':',
  ' ',
  '\t',
  ',',
  ';',
  '%',
  '\xff',
  '\r\n\r\n',
  'GET ',
  ' HTTP/1.1',
  'Content-Length: 5\r\n',
  'Transfer-Encoding: chunked\r\n',
  '0\r\n\r\n',
];

const nibble = (text: string, from: Random): string => {
  const at = from.below(text.length + 1);
  const length = 1 + from.below(from.next() < 0.7 ? 4 : 60);
  switch (from.below(5)) {
    case 0:
      return text.slice(0, at) + from.pick(NIBBLES) + text.slice(at);
    case 1:
      return text.slice(0, at) + text.slice(at + length);
    case 2:
      return text.slice(0, at) + text.slice(at, at + length) + text.slice(at);
    case 3:
      return text.slice(0, at) + String.fromCharCode(from.below(256)) + text.slice(at + 1);
    default:
      return text.slice(0, at);
  }
};

const serialised = ({ start, lines, body }: Draft): string =>
  `${start}${lines.map(({ name, between, value, end }) => name + between + value + end).join('')}\r\n${body}`;

export const caseOf = (from: Random, sender: Sender): Case => {
  const done: string[] = [];
  let text = from.next() < 0.04 ? from.pick(PREFIXES) : '';
  if (text !== '') done.push('something before');
  const requests = from.pick([1, 1, 1, 1, 2, 3]);
  for (let count = 0; count < requests; count += 1) {
    const draft = draftOf(from, sender);
    for (let changes = from.pick([0, 1, 1, 1, 2, 3]); changes > 0; changes -= 1) {
      const { name, change } = from.pick(MUTATIONS);
      if (draft.lines.length > 0) change(draft, from, sender);
      done.push(name);
    }
    text += serialised(draft);
  }
  for (let bites = from.pick([0, 0, 0, 1, 2]); bites > 0; bites -= 1) {
    text = nibble(text, from);
    done.push('bytes changed');
  }
  // Frames of a WebSocket, or nonsense, behind whatever there was.
  if (from.next() < 0.05) {
    text += Array.from({ length: 1 + from.below(40) }, () => String.fromCharCode(from.below(256))).join('');
    done.push('bytes after');
  }
  const bytes = Buffer.from(text, 'latin1');
  const cuts = Array.from({ length: from.pick([0, 0, 1, 2, 5]) }, () => from.below(bytes.length + 1)).sort(
    (a, b) => a - b,
  );
  const end = from.pick(['open', 'open', 'open', 'open', 'open', 'open', 'half-closed', 'reset'] as const);
  return {
    bytes: end === 'reset' ? bytes.subarray(0, from.below(bytes.length + 1)) : bytes,
    cuts,
    end,
    done,
  };
};
