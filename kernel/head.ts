// The check of a request's head, in the one pass that also collects it. The HTTP parser below us is lenient: it
// takes two Content-Lengths, two Hosts, odd Transfer-Encodings. Two programs that disagree about where a request
// ends can be played against each other (request smuggling, RFC 9112 section 11.2), so whatever two could read
// differently is refused: any Transfer-Encoding, and any second copy of a header that must be single.

// Three things cannot be seen from here, because the parser hides them, and a proxy in front must refuse them:
// - at a header without a name it ends its list, and knows nothing of what follows, a length included;
// - bytes beyond ASCII at the ends of a value it cuts off like blanks, so that a length of `2\x80` is 2;
// - a head that it does not take for one (a hundred headers, a control character, a name of other than letters, digits
//   and `-`) it hands to nobody, and closes the connection after ten seconds without an answer.

const HEADERS_MAX = 100;
/** The parser's own limit holds only for a head that comes in several segments; this one holds always. */
const HEAD_CHARS_MAX = 16_384;

/** Headers of which a second copy is refused. `anteroom-…` and `x-forwarded-…` are too, by their prefix. */
const SINGLETONS = new Set([
  'host',
  'content-length',
  'content-type',
  'content-encoding',
  'authorization',
  'cookie',
  'origin',
  'user-agent',
  'referer',
  'forwarded',
  'x-real-ip',
  'idempotency-key',
  'last-event-id',
  'upgrade',
  'sec-websocket-key',
  'sec-websocket-version',
]);

/**
 * No two of them have both the same first letter and the same length. So one look tells the only one that a name could
 * be, and one comparison whether it is; a set would have to hash every name of every request.
 */
const NAME_CHARS = 32;
const singletonAt: (string | undefined)[] = new Array(128 * NAME_CHARS).fill(undefined);
for (const name of SINGLETONS) {
  const at = name.charCodeAt(0) * NAME_CHARS + name.length;
  if (singletonAt[at] !== undefined) throw new Error(`${name} and ${singletonAt[at]} look alike`);
  singletonAt[at] = name;
}

/** Names and values alternately, in wire order; names in lower case. */
export type FlatHeaders = readonly string[];

export type Head = {
  headers: FlatHeaders;
  cookie: string;
  /** Our own cookies (`ar_…`, `__Host-ar_…`), names and values alternately. */
  ownCookies: readonly string[];
  /** Declared bytes of the body; 0 when none is declared. */
  bodyBytes: number;
  /** Why the head is refused, as a public sentence; empty when it is in order. */
  fault: string;
};

/** RFC 9110 section 7.2: a name or an address, and a port. It is told to origins and chooses the room. */
const HOST = /^(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~!$&'()*+,;=%]*)(?::\d*)?$/;

const NO_COOKIES: readonly string[] = [];

const isOwn = (text: string, at: number): boolean =>
  text.startsWith('ar_', at) || text.startsWith('__Host-ar_', at);

/** Our cookies out of a cookie header; undefined when a name of ours comes twice. Others are not looked at. */
export const readOwnCookies = (text: string): readonly string[] | undefined => {
  if (!text.includes('ar_')) return NO_COOKIES;
  const found: string[] = [];
  let at = 0;
  while (at < text.length) {
    while (text.charCodeAt(at) === 32 || text.charCodeAt(at) === 9) at += 1;
    let end = text.indexOf(';', at);
    if (end < 0) end = text.length;
    if (isOwn(text, at)) {
      const equals = text.indexOf('=', at);
      if (equals > 0 && equals < end) {
        const name = text.slice(at, equals).trimEnd();
        for (let index = 0; index < found.length; index += 2) if (found[index] === name) return undefined;
        found.push(name, text.slice(equals + 1, end).trim());
      }
    }
    at = end + 1;
  }
  return found;
};

/** The first cookie of a name in a cookie header. */
export const findCookie = (text: string, name: string): string | undefined => {
  for (const pair of text.split(';')) {
    const equals = pair.indexOf('=');
    if (equals > 0 && pair.slice(0, equals).trim() === name) return pair.slice(equals + 1).trim();
  }
  return undefined;
};

const hasName = (headers: readonly string[], name: string): boolean => {
  for (let index = 0; index < headers.length; index += 2) if (headers[index] === name) return true;
  return false;
};

/**
 * Reads a head through the parser's `forEach`. One reader serves one server: its collecting function is made once
 * instead of once a request, and the fields below are only alive during `read`.
 */
export const createHeadReader = () => {
  let headers: string[] = [];
  let cookie = '';
  let bodyBytes = 0;
  let chars = 0;
  let fault = '';

  const collect = (name: string, value: string): void => {
    // Every second copy is suspicious only for a few names, so the search for a first copy runs only for those.
    const first = name.charCodeAt(0);
    const single =
      (name.length < NAME_CHARS && singletonAt[first * NAME_CHARS + name.length] === name) ||
      (first === 120 && name.startsWith('x-forwarded-')) ||
      (first === 97 && name.startsWith('anteroom-'));
    if (single) {
      if (hasName(headers, name)) fault = `\`${name}\` was sent more than once.`;
      if (name === 'cookie') cookie = value;
      else if (name === 'host') {
        if (!HOST.test(value)) fault = '`host` is not a name and a port.';
      } else if (name === 'content-length') {
        if (/^\d{1,15}$/.test(value)) bodyBytes = Number(value);
        else fault = '`content-length` is not a number.';
      }
    } else if (name === 'transfer-encoding')
      fault = '`transfer-encoding` is not taken; send `content-length`.';

    chars += name.length + value.length;
    headers.push(name, value);
  };

  return (request: { forEach(each: (name: string, value: string) => void): void }): Head => {
    headers = [];
    cookie = '';
    bodyBytes = 0;
    chars = 0;
    fault = '';
    request.forEach(collect);
    if (chars > HEAD_CHARS_MAX) fault = `The headers are longer than ${HEAD_CHARS_MAX} characters.`;
    if (headers.length > HEADERS_MAX * 2) fault = `More than ${HEADERS_MAX} headers were sent.`;
    const ownCookies = cookie === '' ? NO_COOKIES : readOwnCookies(cookie);
    if (ownCookies === undefined) fault = 'A cookie was sent more than once.';
    return { headers, cookie, ownCookies: ownCookies ?? NO_COOKIES, bodyBytes, fault };
  };
};
