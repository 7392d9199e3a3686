// Trace Context, level 1 (https://www.w3.org/TR/trace-context-1/): which trace a request belongs to, as two headers
// say it. Reading is strict: whatever is malformed begins a new trace, as the recommendation asks. Pure.

import { randomBytes } from 'node:crypto';

export type Trace = {
  /** 32 hexadecimal digits, never all zero. */
  readonly traceId: string;
  /** 16 hexadecimal digits: our part of the trace, the parent of whatever we ask others to do. */
  readonly spanId: string;
  /** The caller's part; empty when the trace begins here. */
  readonly parentId: string;
  /** Whether whoever began the trace records it. */
  readonly sampled: boolean;
  /** `tracestate` as it goes on; empty for none. */
  readonly state: string;
};

/** Section 3.2.2: version 00 ends after its flags; a later one may go on after another dash. */
const TRACEPARENT = /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/;
const ZEROS = /^0+$/;
const SAMPLED = 1;

/** Asking for random bytes costs the same for some thousand as for eight: they are asked for in supply. */
const SUPPLY_BYTES = 4096;
const supply = { bytes: Buffer.alloc(0), at: 0 };

/** Random bytes as hexadecimal digits, never all zero. */
const randomHex = (bytes: number): string => {
  if (supply.at + bytes > supply.bytes.length) {
    supply.bytes = randomBytes(SUPPLY_BYTES);
    supply.at = 0;
  }
  const id = supply.bytes.toString('hex', supply.at, supply.at + bytes);
  supply.at += bytes;
  return ZEROS.test(id) ? randomHex(bytes) : id;
};
export const newSpanId = (): string => randomHex(8);
const newTraceId = (): string => randomHex(16);

/** The caller's trace; undefined when there is none, or none that may be gone on with. */
export const parseTraceparent = (
  text: string | undefined,
): { traceId: string; parentId: string; sampled: boolean } | undefined => {
  const [, version, traceId = '', parentId = '', flags = '', more] = TRACEPARENT.exec(text ?? '') ?? [];
  if (version === undefined || version === 'ff' || (version === '00' && more !== undefined)) return undefined;
  if (ZEROS.test(traceId) || ZEROS.test(parentId)) return undefined;
  return { traceId, parentId, sampled: (Number.parseInt(flags, 16) & SAMPLED) === SAMPLED };
};

/** Section 3.3.1.5: everyone passes on at least 512 characters; section 3.3.1.1: there are at most 32 members. */
const STATE_CHARS_MAX = 512;
const STATE_MEMBERS_MAX = 32;
const KEY = /^(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})$/;
/** Printable, without comma and equals sign, and not ending in a space. */
const VALUE = /^[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]$/;

/** What is passed on of a `tracestate`: whole members from the left while they fit; nothing of a malformed one. */
export const boundedTracestate = (text: string | undefined): string => {
  if (text === undefined) return '';
  const members = text
    .split(',')
    .map((member) => member.trim())
    .filter((member) => member !== '');
  if (members.length > STATE_MEMBERS_MAX) return '';
  const keys = new Set<string>();
  let kept = '';
  let isFull = false;
  for (const member of members) {
    const equals = member.indexOf('=');
    const key = member.slice(0, Math.max(0, equals));
    if (!KEY.test(key) || !VALUE.test(member.slice(equals + 1)) || keys.has(key)) return '';
    keys.add(key);
    const longer = kept === '' ? member : `${kept},${member}`;
    isFull ||= longer.length > STATE_CHARS_MAX;
    if (!isFull) kept = longer;
  }
  return kept;
};

/** The trace of a request: the caller's, continued, or a new one that nobody records yet. */
export const readTrace = (header: (name: string) => string | undefined): Trace => {
  const given = parseTraceparent(header('traceparent'));
  const spanId = newSpanId();
  return given === undefined
    ? { traceId: newTraceId(), spanId, parentId: '', sampled: false, state: '' }
    : { ...given, spanId, state: boundedTracestate(header('tracestate')) };
};

export const traceparentOf = (trace: Pick<Trace, 'traceId' | 'spanId' | 'sampled'>): string =>
  `00-${trace.traceId}-${trace.spanId}-${trace.sampled ? '01' : '00'}`;
