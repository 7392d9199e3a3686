// A wire between a proxy and the gateway that reads along. What it has read as a whole request, framed the way the
// proxy framed it, is what an origin may see; it is told before the gateway gets the last byte of it.

import { connect, createServer, type Socket } from 'node:net';
import { type ReadRequest, readStrictly } from './reading.ts';

const SWITCHED = 'HTTP/1.1 101 ';

export type Tap = { port: number; close(): void };

export const startTap = (gatewayPort: number, told: { framed(request: ReadRequest): void }): Promise<Tap> =>
  new Promise((resolve, reject) => {
    const open = new Set<Socket>();
    const server = createServer({ allowHalfOpen: true, noDelay: true }, (proxy) => {
      const gateway = connect({ port: gatewayPort, host: '127.0.0.1', allowHalfOpen: true, noDelay: true });
      let bytes: Buffer = Buffer.alloc(0);
      let isRead = true;
      for (const [one, other] of [
        [proxy, gateway],
        [gateway, proxy],
      ] as const) {
        open.add(one);
        // Either end may be reset; then so is the other, as without a wire between them.
        one.on('error', () => other.resetAndDestroy());
        one.on('end', () => other.end());
        one.on('close', () => {
          open.delete(one);
          other.destroySoon();
        });
      }
      proxy.on('data', (chunk) => {
        if (isRead) {
          bytes = Buffer.concat([bytes, chunk]);
          const reading = readStrictly(bytes);
          for (const request of reading.requests) told.framed(request);
          // No origin may see any of what is not in order, nor of what follows it.
          if (reading.rest === 'bad') isRead = false;
          bytes = bytes.subarray(reading.restAt);
        }
        gateway.write(chunk);
      });
      gateway.on('data', (chunk) => {
        // What follows are no requests any more.
        if (chunk.toString('latin1', 0, SWITCHED.length) === SWITCHED) isRead = false;
        proxy.write(chunk);
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
