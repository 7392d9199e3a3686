// Reads what a caller sent: one JSON object with known fields, or a query with known names. Everything else is
// refused with the name of the field, never with the value.

import { Refusal } from '../kernel/errors.ts';
import type { Request } from '../kernel/http.ts';
import { parseRoomId, type RoomId } from '../kernel/ids.ts';

const refuse = (field: string, says: string): Refusal =>
  new Refusal('bad-field', { detail: `${field} ${says}` });

/** The body as an object; an empty body is an empty object when `emptyAllowed`. */
export const readBody = (
  request: Request,
  { known, emptyAllowed = false }: { known?: readonly string[]; emptyAllowed?: boolean },
): Record<string, unknown> => {
  let value: unknown = {};
  if (request.body.length > 0 || !emptyAllowed) {
    const type = request.header('content-type') ?? '';
    if (!/^application\/json\s*(?:;|$)/i.test(type)) throw new Refusal('wrong-type');
    try {
      value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(request.body));
    } catch {
      // The parser's own words quote the body, which is nobody's business but the sender's.
      throw new Refusal('bad-json');
    }
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new Refusal('bad-json', { detail: 'the body must be one object' });
  // An object that is neither null nor an array: its members are looked at one by one.
  const fields = value as Record<string, unknown>;
  if (known !== undefined)
    for (const name of Object.keys(fields))
      if (!known.includes(name))
        throw refuse('a field', `is unknown; known are: ${known.join(', ') || 'none'}`);
  return fields;
};

/** Text of `min` to `max` characters without control characters other than line breaks. */
export const readText = (
  fields: Record<string, unknown>,
  name: string,
  { min, max }: { min: number; max: number },
): string => {
  const value = fields[name];
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for.
  if (typeof value !== 'string' || /[\u0000-\u0009\u000b-\u001f\u007f]/.test(value))
    throw refuse(name, `must be a text of ${min} to ${max} characters`);
  const trimmed = value.trim();
  // Counted in code points, as a reader would, so that a flag is not worth four letters.
  const length = [...trimmed].length;
  if (length < min || length > max || /\p{Surrogate}/u.test(trimmed))
    throw refuse(name, `must be a text of ${min} to ${max} characters`);
  return trimmed;
};

export const readChoice = <C extends string>(
  fields: Record<string, unknown>,
  name: string,
  choices: readonly C[],
): C => {
  const found = choices.find((choice) => choice === fields[name]);
  if (found === undefined) throw refuse(name, `must be one of ${choices.join(', ')}`);
  return found;
};

export const readVersion = (fields: Record<string, unknown>): number => {
  const { version } = fields;
  if (typeof version !== 'number' || !Number.isInteger(version) || version < 1 || version > 2_000_000_000)
    throw refuse('version', 'must be the version of the settings you changed');
  return version;
};

/** The query as a map; unknown and repeated names are refused. */
export const readQuery = <N extends string>(request: Request, known: readonly N[]): Map<N, string> => {
  const found = new Map<N, string>();
  for (const [given, value] of new URLSearchParams(request.query)) {
    const name = known.find((candidate) => candidate === given);
    if (name === undefined)
      throw refuse('a query parameter', `is unknown; known are: ${known.join(', ') || 'none'}`);
    if (found.has(name)) throw refuse(name, 'is given twice');
    found.set(name, value);
  }
  return found;
};

export const readInteger = <N extends string>(
  query: Map<N, string>,
  name: N,
  { min, max, fallback }: { min: number; max: number; fallback: number },
): number => {
  const text = query.get(name);
  if (text === undefined) return fallback;
  const value = /^\d{1,12}$/.test(text) ? Number(text) : Number.NaN;
  if (!(value >= min && value <= max)) throw refuse(name, `must be a whole number from ${min} to ${max}`);
  return value;
};

export const readRoom = (text: string | undefined): RoomId => {
  const room = parseRoomId(text);
  if (room === undefined) throw new Refusal('bad-id', { detail: 'a room is 1 to 32 of a–z, 0–9 and -' });
  return room;
};
