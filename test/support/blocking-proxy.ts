// An HTTP proxy that plays the networks of offices and hotels: it lets requests through and handles streams as told.
// It counts the streams that are open through it, and the most there ever were, so that a test can say which transport
// a page has taken and that it never held two.

import { request as ask, createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Duplex } from 'node:stream';

type Teardown = { teardown(work: () => unknown): void };

export type Blocked = {
  /** `refused`: an error page of its own. `gathered`: opens, and passes nothing on. */
  events?: 'refused' | 'gathered';
  sockets?: 'refused';
};

export type BlockingProxy = {
  base: string;
  /** What stands behind it; until told, and when told nothing, there is nobody. */
  pointAt(base: string | undefined): void;
  open(): { events: number; sockets: number };
  /** Streams and sockets that were open at the same time, at most. */
  openMax(): number;
  count(path: RegExp): number;
  /** Ends every open connection without a word. */
  cut(): void;
};

export const startBlockingProxy = async (
  t: Teardown,
  options: { block?: Blocked } = {},
): Promise<BlockingProxy> => {
  const seen: string[] = [];
  const open = { events: 0, sockets: 0 };
  let openMax = 0;
  const wires = new Set<Duplex>();
  const blocked = options.block ?? {};
  let port: string | undefined;
  const opened = (kind: keyof typeof open, wire: { once(event: 'close', run: () => void): unknown }) => {
    open[kind] += 1;
    openMax = Math.max(openMax, open.events + open.sockets);
    wire.once('close', () => {
      open[kind] -= 1;
    });
  };
  const onward = (request: IncomingMessage) =>
    ask({
      host: '127.0.0.1',
      port,
      method: request.method ?? 'GET',
      path: request.url ?? '/',
      headers: request.headers,
      agent: false,
    });

  const proxy = createServer((request, response) => {
    const path = request.url ?? '';
    seen.push(path);
    if (port === undefined) return request.socket.destroy();
    const isEvents = /\/events(\?|$)/.test(path);
    if (isEvents && blocked.events === 'refused')
      return response
        .writeHead(403, { 'content-type': 'text/html' })
        .end('<h1>Streaming is not allowed</h1>');
    if (isEvents) opened('events', response);
    const asked = onward(request);
    response.once('close', () => asked.destroy());
    // Whatever breaks behind it, the visitor sees a cut connection or its error page.
    asked.on('error', () => (response.headersSent ? response.destroy() : response.writeHead(502).end()));
    asked.on('response', (answer) => {
      response.writeHead(answer.statusCode ?? 502, answer.headers);
      response.flushHeaders();
      if (isEvents && blocked.events === 'gathered') answer.resume();
      else answer.pipe(response);
      answer.once('error', () => response.destroy());
      answer.once('close', () => answer.complete || response.destroy());
    });
    request.pipe(asked);
  });
  proxy.on('upgrade', (request, wire) => {
    seen.push(request.url ?? '');
    wires.add(wire);
    wire.once('close', () => wires.delete(wire));
    wire.on('error', () => wire.destroy());
    if (port === undefined) return wire.destroy();
    if (blocked.sockets === 'refused') return wire.end('HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n');
    const asked = onward(request);
    asked.on('error', () => wire.destroy());
    asked.on('response', ({ statusCode }) =>
      wire.end(`HTTP/1.1 ${statusCode} Refused\r\ncontent-length: 0\r\n\r\n`),
    );
    asked.on('upgrade', (answer, behind, head) => {
      opened('sockets', wire);
      const lines = answer.rawHeaders.flatMap((name, index, all) =>
        index % 2 === 0 ? [`${name}: ${all[index + 1]}`] : [],
      );
      wire.write(`HTTP/1.1 101 Switching Protocols\r\n${lines.join('\r\n')}\r\n\r\n`);
      wire.write(head);
      behind.on('error', () => wire.destroy());
      behind.once('close', () => wire.destroy());
      wire.once('close', () => behind.destroy());
      behind.pipe(wire).pipe(behind);
    });
    asked.end();
  });
  const cut = (): void => {
    proxy.closeAllConnections();
    for (const wire of wires) wire.destroy();
  };
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  t.teardown(async () => {
    cut();
    await new Promise((resolve) => proxy.close(resolve));
  });
  return {
    // A server that listens on a port has an address of this form.
    base: `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`,
    pointAt(base) {
      port = base === undefined ? undefined : new URL(base).port;
    },
    open: () => ({ ...open }),
    openMax: () => openMax,
    count: (path) => seen.filter((one) => path.test(one)).length,
    cut,
  };
};
