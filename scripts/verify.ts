// Recomputes a sale from its published ledger: `npm run verify -- <file> [--jwks <file or address>]`. Says what it
// found, then "verified" (exit 0), or the first row that is wrong (exit 1); exit 2 when the file cannot be read.

import { createReadStream } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { type KeySet, parseKeySet, thumbprintsOf } from '../kernel/token.ts';
import { type LedgerVerdict, verifyLedger } from '../line/ledger-verify.ts';

const USAGE = 'usage: npm run verify -- <exported ledger> [--jwks <file or https address of the keys>]';

/** What is wrong with what was given, in a sentence; ends with exit 2. */
class Unusable extends Error {}

const reasonOf = (error: unknown): string =>
  error instanceof Error && 'code' in error && error.code === 'ENOENT'
    ? 'there is no such file'
    : error instanceof Error
      ? error.message
      : String(error);

const readKeys = async (where: string): Promise<KeySet> => {
  let text: string;
  try {
    if (/^https?:/.test(where)) {
      const answer = await fetch(where, { signal: AbortSignal.timeout(10_000) });
      if (!answer.ok) throw new Error(`the answer was ${answer.status}`);
      text = await answer.text();
    } else text = await readFile(where, 'utf8');
  } catch (error) {
    throw new Unusable(`the keys at ${where} cannot be read: ${reasonOf(error)}`);
  }
  let keys: KeySet | undefined;
  try {
    keys = parseKeySet(JSON.parse(text));
  } catch {
    keys = undefined; // Not JSON is told the same way as JSON of another form.
  }
  if (keys === undefined) throw new Unusable(`${where} is not a set of public keys (JWKS)`);
  return keys;
};

const count = (value: number): string => value.toLocaleString('en-US');
const RECOVERIES: Record<string, string> = {
  restart: 'it was started again',
  failover: 'a replica took over',
  older: 'with data of some time ago',
};
const plural = (value: number, word: string): string => `${count(value)} ${word}${value === 1 ? '' : 's'}`;
const when = (atMs: number): string => (atMs === 0 ? '–' : new Date(atMs).toISOString());

const linesOf = (
  { header, summary }: Extract<LedgerVerdict, { outcome: 'verified' }>,
  more: { thumbprints: readonly string[]; fromExport: boolean },
): string[] => {
  const { busiestMinute: minute, fullest } = summary;
  const lines = [
    `room ${header.room}, sale ${header.sale}, ${when(summary.firstAtMs)} to ${when(summary.lastAtMs)}`,
    `rows            ${count(summary.rows)}, with ${plural(summary.heads, 'signed head')}`,
    `joined          ${count(summary.joined)}`,
    `went in         ${count(summary.promoted)}`,
    `busiest minute  ${count(minute.promoted)}, at ${count(minute.perMinute)} a minute with a burst of ${count(minute.burst)}`,
    `most inside     ${count(fullest.inside)} of ${count(fullest.cap)}`,
  ];
  if (header.draw !== undefined)
    lines.push(`drawn           ${count(summary.drawn)}, each from the seed of ${header.draw.commitment}`);
  if (summary.adopted > 0)
    lines.push(
      `taken back      ${count(summary.adopted)} after a loss, ${count(summary.adoptedOverCap)} of them above the cap`,
    );
  if (summary.losses > 0) lines.push(`Redis was lost  ${plural(summary.losses, 'time')}`);
  for (const { seq, reason, unsure } of summary.recoveries)
    lines.push(
      `Redis came back row ${count(seq)}: ${RECOVERIES[reason] ?? reason}; what was known of ${plural(unsure, 'place')} is not sure since`,
    );
  for (const { seq, stream, reason, records } of summary.gaps)
    lines.push(
      `gap             row ${count(seq)}: ${records === 0 ? 'records' : plural(records, 'record')} of ${stream} ${reason === 'lost' ? 'lost by Redis' : reason === 'began' ? 'from before the ledger began' : 'trimmed before they were written'}`,
    );
  if (summary.atRandom > 0)
    lines.push(`at random       ${count(summary.atRandom)} went in while no order was promised: not checked`);
  if (summary.unmeasured > 0)
    lines.push(
      `unmeasured      ${count(summary.unmeasured)} went in while a gap hid rate and cap: not checked`,
    );
  if (summary.clockWentBack > 0) lines.push(`the clock went back ${plural(summary.clockWentBack, 'time')}`);
  if (!summary.isOver) lines.push('the sale was not over yet when this was exported');
  if (more.fromExport)
    lines.push(
      'The keys are those of the export itself. Compare their thumbprints with the site’s /.well-known/jwks.json, or give that with --jwks:',
      ...more.thumbprints.map((thumbprint) => `  ${thumbprint}`),
    );
  return lines;
};

const main = async (): Promise<number> => {
  let file: string | undefined;
  let keysAt: string | undefined;
  try {
    const { values, positionals } = parseArgs({
      options: { jwks: { type: 'string' } },
      allowPositionals: true,
    });
    [file] = positionals;
    keysAt = values.jwks;
    if (positionals.length !== 1) throw new Error('one file is expected');
  } catch (error) {
    throw new Unusable(`${reasonOf(error)}\n${USAGE}`);
  }
  const jwks = keysAt === undefined ? undefined : await readKeys(keysAt);
  const path = file!; // One positional was counted above.
  let verdict: LedgerVerdict;
  try {
    const chunks = createReadStream(path, { highWaterMark: 1024 * 1024 });
    verdict = await verifyLedger(chunks, jwks === undefined ? {} : { jwks });
  } catch (error) {
    // Of our own code nothing throws for what a file says; what comes here is the file system's.
    if (error instanceof Error && 'code' in error) throw new Unusable(`${path}: ${reasonOf(error)}`);
    throw error;
  }
  if (verdict.outcome === 'unreadable') throw new Unusable(`${path}: ${verdict.says}`);
  if (verdict.outcome === 'wrong') {
    console.log(
      `NOT verified\n${verdict.seq === 0 ? 'the first line' : `row ${count(verdict.seq)}`}: ${verdict.says}`,
    );
    return 1;
  }
  const thumbprints = await thumbprintsOf(jwks ?? verdict.header.jwks);
  for (const line of linesOf(verdict, { thumbprints, fromExport: jwks === undefined })) console.log(line);
  console.log(
    verdict.summary.gaps.length === 0 ? 'verified' : 'verified, but for what happened in the gaps above',
  );
  return 0;
};

main().then(
  (code) => {
    process.exitCode = code;
  },
  (error: unknown) => {
    console.error(error instanceof Unusable ? error.message : error);
    process.exitCode = 2;
  },
);
