// Reads the small JSON bodies of our own routes: one flat object with known fields, all of them optional. Whatever
// else is sent is refused in words, so that a misspelt field is never taken for one left out.

import { Refusal } from '../kernel/errors.ts';
import type { Request } from '../kernel/http.ts';

type Kinds = Record<string, 'text' | 'number'>;
type Fields<K extends Kinds> = { [N in keyof K]?: K[N] extends 'number' ? number : string };

/** A pass, the longest of them, has some 400 characters. */
const TEXT_CHARS_MAX = 4000;

const [OPENING, CLOSING] = Buffer.from('{}');

const isOf = (kind: 'text' | 'number', value: unknown): boolean =>
  kind === 'text'
    ? typeof value === 'string' && value.length <= TEXT_CHARS_MAX
    : Number.isSafeInteger(value) && Number(value) > 0;

/** The fields of a body; texts have at most 4,000 characters, numbers are whole and above zero. */
export const readFields = <K extends Kinds>(request: Request, kinds: K): Fields<K> => {
  if (request.body.length === 0) return {};
  const type = request.header('content-type') ?? '';
  if (!/^application\/json\s*(?:;|$)/i.test(type)) throw new Refusal('wrong-type');
  // What a page sends that has nothing to say.
  if (request.body.length === 2 && request.body[0] === OPENING && request.body[1] === CLOSING) return {};
  let value: unknown;
  try {
    value = JSON.parse(request.body.toString('utf8'));
  } catch {
    // The parser's own words quote the body, which is nobody's business but the sender's.
    throw new Refusal('bad-json');
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new Refusal('bad-json');
  const read: Record<string, unknown> = {};
  for (const [name, given] of Object.entries(value)) {
    const kind = Object.hasOwn(kinds, name) ? kinds[name] : undefined;
    if (kind === undefined)
      throw new Refusal('bad-field', { detail: `\`${name.slice(0, 40)}\` is not a field here` });
    if (!isOf(kind, given))
      throw new Refusal('bad-field', {
        detail: `\`${name}\` must be ${kind === 'text' ? 'a text' : 'a whole number above zero'}`,
      });
    read[name] = given;
  }
  // Each field was checked against its kind just now.
  return read as Fields<K>;
};
