// How a strict recipient reads the bytes of one connection (RFC 9112, RFC 9110 sections 5 and 7.2): the measure that
// the gateway is held against. It shares nothing with the gateway's own checks or with its parser. Where the RFC lets
// a recipient repair or choose, this reader refuses, because two programs could choose differently.

export type ReadRequest = {
  method: string;
  target: string;
  /** Names in lower case, values without the blanks around them, in wire order. */
  headers: readonly (readonly [name: string, value: string])[];
  body: Buffer;
};

export type Reading = {
  /** Whole requests before anything else, in order. */
  requests: ReadRequest[];
  /**
   * What follows them: nothing; the beginning of a request that is in order so far; a head whose body is not all
   * there; or something that must be refused.
   */
  rest: 'nothing' | 'begun' | 'body-missing' | 'bad';
  /** Where the rest begins. */
  restAt: number;
  /** Why the rest is bad. */
  fault: string;
  /** A header line without a name: the library under the gateway stops reading headers there (kernel/head.ts). */
  nameless: boolean;
  /**
   * Whether a head in good order is one that the library does not take: more lines than it has room for, a name of
   * other than letters, digits and `-`, an empty line before it. It hands such a head to nobody and waits.
   */
  untaken: boolean;
};

const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
const TARGET = /^\/[\x21\x24-\x3b\x3d\x3f-\x7e]*$/;
// VCHAR, obs-text, blanks, and DEL, which may be kept (RFC 9110 section 5.5); strings here are latin1.
const VALUE = /^[\t\x20-\xff]*$/;
const LIBRARY_LINES_MAX = 95;
const TAKEN_NAME = /^[A-Za-z0-9-]+:/;
const HOST = /^(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~!$&'()*+,;=%]*)(?::\d*)?$/;
/**
 * Around a value: blanks, and what the library under the gateway takes for blanks although it is not. What it cuts
 * off there nobody above it can see (kernel/head.ts), so this reader cuts it off, too.
 */
const TRIMMED = /^[\t \x80-\xff]+|[\t \x80-\xff]+$/g;
const CRLF2 = Buffer.from('\r\n\r\n');

class Fault extends Error {}

const readHead = (text: string): Omit<ReadRequest, 'body'> & { length: number } => {
  const [first = '', ...lines] = text.split('\r\n');
  const parts = first.split(' ');
  const [method = '', target = '', version] = parts;
  if (parts.length !== 3 || version !== 'HTTP/1.1') throw new Fault('not a request line of HTTP/1.1');
  if (!TOKEN.test(method)) throw new Fault('the method is no token');
  if (!TARGET.test(target)) throw new Fault('the target is not in origin form');
  const headers: [string, string][] = [];
  for (const line of lines) {
    const colon = line.indexOf(':');
    const name = line.slice(0, Math.max(0, colon));
    if (!TOKEN.test(name))
      throw new Fault(name === '' ? 'a header without a name' : 'a header name is no token');
    const value = line.slice(colon + 1);
    if (!VALUE.test(value)) throw new Fault('a control character in a header');
    headers.push([name.toLowerCase(), value.replace(TRIMMED, '')]);
  }
  const all = (name: string) => headers.filter(([other]) => other === name).map(([, value]) => value);
  const hosts = all('host');
  if (hosts.length !== 1 || !HOST.test(hosts[0] ?? '')) throw new Fault('not exactly one valid host');
  const lengths = all('content-length');
  if (lengths.length > 1 || lengths.some((value) => !/^\d+$/.test(value))) throw new Fault('not one length');
  if (all('transfer-encoding').length > 0) throw new Fault('a transfer coding, which is never taken');
  const length = Number(lengths[0] ?? 0);
  if (!Number.isSafeInteger(length)) throw new Fault('a length beyond all bounds');
  return { method, target, headers, length };
};

export const readStrictly = (bytes: Buffer): Reading => {
  const reading: Reading = {
    requests: [],
    rest: 'nothing',
    restAt: 0,
    fault: '',
    nameless: /\n[\t ]*:/.test(bytes.toString('latin1')),
    untaken: false,
  };
  let at = 0;
  for (;;) {
    // Empty lines before a request are passed over (RFC 9112 section 2.2).
    while (bytes[at] === 13 && bytes[at + 1] === 10) {
      at += 2;
      reading.untaken = true;
    }
    reading.restAt = at;
    if (at >= bytes.length) return reading;
    const end = bytes.indexOf(CRLF2, at);
    const text = bytes.toString('latin1', at, end < 0 ? undefined : end);
    const lines = text.split('\r\n');
    reading.untaken ||=
      lines.length > LIBRARY_LINES_MAX || lines.slice(1).some((line) => !TAKEN_NAME.test(line));
    if (end < 0) return { ...reading, rest: 'begun' };
    try {
      const { length, ...head } = readHead(text);
      const bodyAt = end + CRLF2.length;
      if (bytes.length < bodyAt + length) return { ...reading, rest: 'body-missing' };
      reading.requests.push({ ...head, body: bytes.subarray(bodyAt, bodyAt + length) });
      at = bodyAt + length;
    } catch (error) {
      if (!(error instanceof Fault)) throw error;
      return { ...reading, rest: 'bad', fault: error.message };
    }
  }
};

/** What makes two requests the same for an origin. */
export const keyOf = ({ method, target, body }: Pick<ReadRequest, 'method' | 'target' | 'body'>): string =>
  `${method} ${target} ${body.toString('latin1')}`;

/**
 * Whether another program could find another path in a target than the one that is written there: dots, doubled
 * slashes, backslashes, parameters, encodings of what needs none. Decoded twice, as careless programs do.
 */
export const hasSecondReading = (target: string): boolean => {
  const path = target.split('?', 1)[0] ?? '';
  if (path.includes('\\')) return true;
  let text = path;
  for (let times = 0; times < 2; times += 1) {
    let needless = false;
    text = text.replace(/%([0-9A-Fa-f]{2})/g, (_, hex: string) => {
      const decoded = String.fromCharCode(Number.parseInt(hex, 16));
      // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for.
      needless ||= /[\w\-.~\\/;\x00-\x1f\x7f]/.test(decoded);
      return decoded;
    });
    if (needless) return true;
  }
  return text.split('/').some(
    (segment, index, all) =>
      segment === '.' ||
      segment === '..' ||
      // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for.
      /[;\x00-\x1f]/.test(segment) ||
      (segment === '' && index > 0 && index < all.length - 1),
  );
};

export type ReadAnswer = {
  status: number;
  echo: string;
  /** A stream or an upgrade: more may come. */
  keepsOpen: boolean;
  /** Whether it says that the connection ends with it. */
  closes: boolean;
};

/**
 * The final answers in the bytes that came back, given the methods that were asked in order; `undefined` where the
 * bytes are not answers of HTTP/1.1 at all. A stream or an upgrade is an answer after which nothing is read.
 */
export const readAnswers = (
  bytes: Buffer,
  methods: readonly string[],
): { answers: ReadAnswer[]; partial: boolean } | undefined => {
  const answers: ReadAnswer[] = [];
  let at = 0;
  while (at < bytes.length) {
    const end = bytes.indexOf(CRLF2, at);
    if (end < 0)
      return /^H/.test(bytes.toString('latin1', at, at + 1)) ? { answers, partial: true } : undefined;
    const head = bytes.toString('latin1', at, end);
    const status = Number(/^HTTP\/1\.1 (\d{3}) /.exec(head)?.[1]);
    if (Number.isNaN(status)) return undefined;
    const field = (name: string) => new RegExp(`\\r\\n${name}: *([^\\r]*)`, 'i').exec(head)?.[1];
    const closes = /close/i.test(field('connection') ?? '');
    const answer = { status, echo: field('x-echo') ?? '', keepsOpen: false, closes };
    at = end + CRLF2.length;
    // Not the answer yet (RFC 9110 section 15.2).
    if (status === 100) continue;
    if (status === 101 || field('content-type') === 'text/event-stream') {
      answers.push({ ...answer, keepsOpen: true });
      return { answers, partial: false };
    }
    const length = field('content-length');
    if (status >= 400 && closes && (length === undefined || methods[answers.length] === 'HEAD')) {
      // A body that ends with the connection (RFC 9112 section 6.3, last case): the library's own refusals. HAProxy's
      // have one for a HEAD, too.
      at = bytes.length;
    } else if (methods[answers.length] !== 'HEAD' && status !== 204 && status !== 304) {
      if (/chunked/i.test(field('transfer-encoding') ?? '')) {
        const last = bytes.indexOf('0\r\n\r\n', at);
        if (last < 0) return { answers, partial: true };
        at = last + 5;
      } else {
        at += Number(length ?? 0);
        if (bytes.length < at) return { answers, partial: true };
      }
    }
    answers.push(answer);
  }
  return { answers, partial: false };
};
