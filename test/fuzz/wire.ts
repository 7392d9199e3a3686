// One case on a connection of its own, from its first byte until it can be judged.

import { connect } from 'node:net';
import type { Case } from './mutations.ts';
import { type Reading, readAnswers } from './reading.ts';

export const HANG_MS = 2000;
/** After the last answer that is due, or after a bad head: one that is not due would come now. */
const GRACE_MS = 10;
const BAD_GRACE_MS = 60;

export type Result = { came: Buffer; closed: boolean; fromMs: number; untilMs: number };

/** Sends a case, until what is due has come, the other side closes, or it is called a hang. */
export const send = (port: number, sent: Case, reading: Reading): Promise<Result> =>
  new Promise((resolve, reject) => {
    const methods = reading.requests.map(({ method }) => method);
    const fromMs = performance.now();
    const pieces: Buffer[] = [];
    let from = 0;
    for (const cut of [...sent.cuts, sent.bytes.length]) {
      if (cut > from) pieces.push(sent.bytes.subarray(from, cut));
      from = cut;
    }
    let came: Buffer = Buffer.alloc(0);
    let allSent = false;
    let grace: NodeJS.Timeout | undefined;
    const wire = connect({ port, host: '127.0.0.1', noDelay: true });
    const hang = setTimeout(() => finish(false), HANG_MS + 1000);
    const finish = (closed: boolean): void => {
      clearTimeout(hang);
      clearTimeout(grace);
      wire.destroy();
      resolve({ came, closed, fromMs, untilMs: performance.now() });
    };
    const look = (): void => {
      if (!allSent || grace !== undefined) return;
      const read = readAnswers(came, methods);
      const streaming = read?.answers.at(-1)?.keepsOpen === true;
      const due = reading.requests.length;
      if (read !== undefined && !streaming && !reading.untaken && read.answers.length < due) return;
      grace = setTimeout(
        () => finish(false),
        (reading.rest === 'bad' || reading.untaken) && !streaming ? BAD_GRACE_MS : GRACE_MS,
      );
    };
    wire.on('data', (chunk) => {
      came = Buffer.concat([came, chunk]);
      look();
    });
    wire.once('end', () => finish(true));
    wire.once('error', (error: NodeJS.ErrnoException) =>
      error.code === 'ECONNRESET' || error.code === 'EPIPE' ? finish(true) : reject(error),
    );
    const next = (): void => {
      const piece = pieces.shift();
      if (wire.destroyed) return;
      if (piece !== undefined) {
        wire.write(piece);
        if (pieces.length > 0) {
          setTimeout(next, 1);
          return;
        }
      }
      allSent = true;
      if (sent.end === 'half-closed') wire.end();
      if (sent.end === 'reset') {
        wire.resetAndDestroy();
        return finish(true);
      }
      look();
    };
    wire.once('connect', next);
  });
