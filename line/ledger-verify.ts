// Verifies an exported ledger as a stream of bytes: form, chain, signed heads, and what the rows say
// (ledger-check.ts). Stops at the first row that is wrong. Anybody can run it with the public keys alone.

import { createHash } from 'node:crypto';
import { createHeadVerifier, type KeySet } from '../kernel/token.ts';
import {
  type ChainEnd,
  chainAfter,
  chainStart,
  type LedgerHeader,
  type LedgerRow,
  parseLedgerHeader,
  parseLedgerRow,
  unknownKind,
} from './ledger.ts';
import { createLedgerCheck, type LedgerSummary } from './ledger-check.ts';

export type LedgerVerdict =
  | { outcome: 'verified'; header: LedgerHeader; summary: LedgerSummary & { heads: number } }
  /** `seq` is the first row that is wrong; 0 is the first line. */
  | { outcome: 'wrong'; seq: number; says: string }
  | { outcome: 'unreadable'; says: string };

/** The longest honest row is a reap of 2 × 5,000 places, 300 KB. */
const LINE_BYTES_MAX = 4 * 1024 * 1024;

/** The bytes cannot be read as lines of JSON; the message says why. */
class Unreadable extends Error {}

const parsed = (line: string, number: number): unknown => {
  try {
    return JSON.parse(line);
  } catch {
    throw new Unreadable(
      `line ${number.toLocaleString('en-US')} is not JSON: this is not an exported ledger`,
    );
  }
};

/** Whole lines without their line breaks, a chunk's worth at a time; the last one is refused when it was cut off. */
async function* linesOf(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<string[]> {
  let rest: Buffer[] = [];
  let restBytes = 0;
  let count = 0;
  for await (const chunk of chunks) {
    const bytes = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    const cut = bytes.lastIndexOf(10);
    if (cut < 0) {
      rest.push(bytes);
      restBytes += bytes.length;
    } else {
      const lines = Buffer.concat([...rest, bytes.subarray(0, cut)])
        .toString('utf8')
        .split('\n');
      count += lines.length;
      rest = [bytes.subarray(cut + 1)];
      restBytes = bytes.length - cut - 1;
      yield lines;
    }
    if (restBytes > LINE_BYTES_MAX)
      throw new Unreadable(
        `line ${count + 1} is longer than ${LINE_BYTES_MAX / 1024 / 1024} MB: this is not an exported ledger`,
      );
  }
  if (restBytes > 0)
    throw new Unreadable(
      count === 0
        ? 'the file is not lines of JSON: this is not an exported ledger'
        : `line ${(count + 1).toLocaleString('en-US')} has no end: the file was cut off; download it again`,
    );
}

const rowsSaid = (from: number, to: number): string =>
  from >= to
    ? `row ${to.toLocaleString('en-US')}`
    : `one of the rows ${from.toLocaleString('en-US')} to ${to.toLocaleString('en-US')}`;

/** What the signed head of a row has to say, and does not. */
const wrongHead = async (
  row: LedgerRow & { kind: 'head' },
  expected: { room: string; sale: number; end: ChainEnd; lastHeadSeq: number },
  verify: ReturnType<typeof createHeadVerifier>,
): Promise<string | undefined> => {
  const { room, sale, end, lastHeadSeq } = expected;
  const head = await verify(row.jws);
  if (head === undefined) return 'the head is not signed with a key of the site';
  if (head.room !== room || head.sale !== sale)
    return `the signed head belongs to room ${head.room}, sale ${head.sale}`;
  if (head.seq !== end.seq)
    return `the signed head was made after row ${head.seq.toLocaleString('en-US')}: it was moved, or rows were added or taken out before it`;
  if (head.hash !== end.hash)
    return `the signed head has another hash: ${rowsSaid(lastHeadSeq + 1, end.seq)} was altered after it was signed`;
  return undefined;
};

/** `jwks` are the site's public keys; without them those in the export are used, which proves less. */
export const verifyLedger = async (
  chunks: AsyncIterable<Uint8Array>,
  options: { jwks?: KeySet } = {},
): Promise<LedgerVerdict> => {
  try {
    return await verifyLines(linesOf(chunks), options);
  } catch (error) {
    if (error instanceof Unreadable) return { outcome: 'unreadable', says: error.message };
    throw error;
  }
};

const verifyLines = async (
  batches: AsyncIterable<string[]>,
  options: { jwks?: KeySet },
): Promise<LedgerVerdict> => {
  let header: LedgerHeader | undefined;
  let check = createLedgerCheck({ seed: undefined });
  let verify = createHeadVerifier({ keys: [] });
  let end: ChainEnd = { seq: 0, hash: '' };
  let heads = 0;
  let lastHeadSeq = 0;
  const wrong = (seq: number, says: string): LedgerVerdict => ({ outcome: 'wrong', seq, says });

  for await (const lines of batches)
    for (const line of lines) {
      if (header === undefined) {
        header = parseLedgerHeader(parsed(line, 1));
        if (header === undefined)
          throw new Unreadable('the first line is not that of an exported ledger of format 1');
        const { draw } = header;
        const seed = draw === undefined ? undefined : Buffer.from(draw.seed, 'hex');
        if (seed !== undefined && createHash('sha256').update(seed).digest('hex') !== draw?.commitment)
          return wrong(0, 'the seed of the draw is not the one that was committed to');
        check = createLedgerCheck({ seed });
        verify = createHeadVerifier(options.jwks ?? header.jwks);
        end = chainStart(header.room, header.sale);
        continue;
      }
      const seq = end.seq + 1;
      if (seq > header.rows) return wrong(seq, 'there are more rows than the first line says');
      const read = parsed(line, seq + 1);
      const newer = unknownKind(read);
      if (newer !== undefined)
        throw new Unreadable(
          `row ${seq.toLocaleString('en-US')} is of the kind \`${newer}\`, which this version does not know: verify with the one that wrote it`,
        );
      const row = parseLedgerRow(read);
      if (row === undefined) return wrong(seq, 'it has not the form of a row');
      if (row.seq !== seq)
        return wrong(
          seq,
          row.seq > seq
            ? `it is missing: row ${row.seq.toLocaleString('en-US')} stands in its place`
            : `row ${row.seq.toLocaleString('en-US')} stands in its place`,
        );
      const after = chainAfter(end, line);
      if (after === undefined || after.claims !== row.hash)
        return wrong(seq, 'it does not end with its hash');
      if (after.end.hash !== row.hash)
        return wrong(
          seq,
          'its hash does not fit: it was altered, put in, or the row before it was taken out',
        );
      if (row.kind === 'head') {
        const says = await wrongHead(row, { room: header.room, sale: header.sale, end, lastHeadSeq }, verify);
        if (says !== undefined) return wrong(seq, says);
        heads += 1;
        lastHeadSeq = seq;
      }
      end = after.end;
      const faulty = check.take(row);
      if (faulty !== undefined) return wrong(faulty.seq, faulty.says);
    }

  if (header === undefined) throw new Unreadable('the file is empty');
  if (end.seq < header.rows)
    throw new Unreadable(
      `the file ends after row ${end.seq.toLocaleString('en-US')} of ${header.rows.toLocaleString('en-US')}; download it again`,
    );
  const faulty = check.finish();
  if (faulty !== undefined) return wrong(faulty.seq, faulty.says);
  if (lastHeadSeq < end.seq || heads === 0)
    return wrong(lastHeadSeq + 1, 'no signed head comes after it, so nobody vouches for it');
  return { outcome: 'verified', header, summary: { ...check.summary(), heads } };
};
