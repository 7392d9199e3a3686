// An origin that writes down every byte of every request, and reads them as strictly as `reading.ts` does. Answers
// echo which request they belong to.

import { createHash } from 'node:crypto';
import { createServer, type Socket } from 'node:net';
import { keyOf, type ReadRequest, readStrictly } from './reading.ts';

export const echoOf = (request: Pick<ReadRequest, 'method' | 'target' | 'body'>): string =>
  createHash('sha256').update(keyOf(request), 'latin1').digest('hex').slice(0, 24);

export type Origin = { port: number; close(): void };

/** `seen` is told each request; `broken` the bytes that are no request in order. */
export const startOrigin = (told: {
  seen(request: ReadRequest): void;
  broken(bytes: Buffer, why: string): void;
}): Promise<Origin> =>
  new Promise((resolve, reject) => {
    const open = new Set<Socket>();
    const server = createServer((wire) => {
      open.add(wire);
      let bytes: Buffer = Buffer.alloc(0);
      // A connection that is cut ends what was under way on it; the fuzzer hears of it from the gateway's answer.
      wire.on('error', () => wire.destroy());
      wire.on('close', () => open.delete(wire));
      wire.on('data', (chunk) => {
        bytes = Buffer.concat([bytes, chunk]);
        const reading = readStrictly(bytes);
        if (reading.rest === 'bad') {
          told.broken(bytes, reading.fault);
          wire.destroy();
          return;
        }
        bytes = bytes.subarray(reading.restAt);
        for (const request of reading.requests) {
          told.seen(request);
          const body = request.method === 'HEAD' ? '' : 'seen';
          wire.write(`HTTP/1.1 200 OK\r\nx-echo: ${echoOf(request)}\r\ncontent-length: 4\r\n\r\n${body}`);
        }
      });
    });
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      if (typeof address !== 'object' || address === null) return reject(new Error('no port'));
      resolve({
        port: address.port,
        close: () => {
          server.close();
          for (const wire of open) wire.destroy();
        },
      });
    });
  });
