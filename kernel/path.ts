// Whether a raw request path is in its one plain form. Anything that another program could read differently than
// we do (dot segments, doubled slashes, encoded letters, `;` parameters, backslashes) is refused, never repaired:
// a path that is repaired here and not at the origin is a way around the gate.

const PATH_CHARS_MAX = 2048;
const QUERY_CHARS_MAX = 8192;

// RFC 3986 section 3.3 without `;`, plus `[`, `]` and `|`, which browsers send bare. A percent-encoding may stand
// only for what needs it: not for unreserved characters (section 2.3), controls, `/`, `\` or `;`, and not for a
// `%` that would make a second decoding find another encoding.
const ENCODED =
  '%(?![01]|2[d-fD-F]|3[0-9bB]|4[1-9a-fA-F]|5[0-9aAcCfF]|6[1-9a-fA-F]|7[0-9aAeEfF]|25[0-9a-fA-F]{2})[0-9a-fA-F]{2}';
const SEGMENT = `(?!\\.\\.?(?:/|$))(?:[A-Za-z0-9\\-._~!$&'()*+,=:@[\\]|]|${ENCODED})+`;
const PLAIN_PATH = new RegExp(`^/(?:${SEGMENT}(?:/${SEGMENT})*/?)?$`);
// Of what RFC 3986 section 3.4 forbids, `"`, `#`, `<` and `>`: browsers encode them, and a `#` would end the target.
const PLAIN_QUERY = /^[\x21\x24-\x3b\x3d\x3f-\x7e]*$/;

export const isPlainPath = (path: string): boolean => path.length <= PATH_CHARS_MAX && PLAIN_PATH.test(path);

/** A query is passed on as it is, so what cannot stand in a request line is refused. */
export const isPlainQuery = (query: string): boolean =>
  query.length <= QUERY_CHARS_MAX && PLAIN_QUERY.test(query);
