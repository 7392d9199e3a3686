// The outer form of a signed JWT (RFC 7515, compact serialisation), read strictly before anything is verified: three
// parts in the one spelling base64url has for them, JSON objects in plain UTF-8, each member once. Libraries are
// kinder, and where two of them read one token differently a forger has something to work with. Verifies nothing.

export type Jws = { header: Record<string, unknown>; claims: Record<string, unknown> };

/** The last character holds 2 or 4 spare bits; in the only plain spelling they are zero (RFC 4648, section 3.5). */
const SPARE_4 = /[AQgw]$/;
const SPARE_2 = /[AEIMQUYcgkosw048]$/;

/** Whether a text is base64url as an encoder writes it: no padding, white space, other alphabet or spare bits. */
export const isPlainBase64url = (text: string): boolean => {
  if (!/^[A-Za-z0-9_-]+$/.test(text)) return false;
  const spare = text.length % 4;
  return spare === 0 || (spare === 2 && SPARE_4.test(text)) || (spare === 3 && SPARE_2.test(text));
};

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** RFC 7519, section 4: claim names are unique. JSON.parse keeps the last of two; here that is a refusal. */
const parseObject = (part: string): Record<string, unknown> | undefined => {
  try {
    const text = utf8.decode(Buffer.from(part, 'base64url'));
    let members = 0;
    const value: unknown = JSON.parse(text, function (this: unknown, _name, inner: unknown) {
      if (!Array.isArray(this)) members += 1;
      return inner;
    });
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return undefined;
    // Every string is matched, so that a quote inside one is not taken for the beginning of a name.
    let names = 0;
    for (const match of text.matchAll(/"(?:[^"\\]|\\.)*"(\s*:)?/gs)) if (match[1] !== undefined) names += 1;
    // The reviver is called once more, for the whole.
    return names === members - 1 ? (value as Record<string, unknown>) : undefined; // A plain object: checked above.
  } catch {
    return undefined; // Not UTF-8 or not JSON: a stranger's text, and no token.
  }
};

/** The parts of a JWT by their form alone; undefined when it is none. */
export const readJws = (token: string, charsMax: number): Jws | undefined => {
  if (token.length > charsMax) return undefined;
  const parts = token.split('.', 4);
  if (parts.length !== 3 || !parts.every(isPlainBase64url)) return undefined;
  const header = parseObject(parts[0]!);
  const claims = parseObject(parts[1]!);
  return header === undefined || claims === undefined ? undefined : { header, claims };
};
