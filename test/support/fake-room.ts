// A tiny server that plays the public API of one room for the page and the browser client: it answers what a test
// tells it to and remembers what was asked. It decides nothing; the real line has tests of its own.

import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Duplex } from 'node:stream';
import { createAssets } from '../../gateway/page/assets.ts';
import { pageSecurityPolicy, renderWaitingPage, type WaitingView } from '../../gateway/page/page.ts';

type Answer = { status: number; body?: unknown; headers?: Record<string, string> };
type Seen = { method: string; path: string; body: string };

export type FakeRoom = {
  url: string;
  seen: Seen[];
  count(method: string, path: string): number;
  /** What `GET /demo` and `GET /rooms/demo` show. */
  view: WaitingView;
  /** Answers by `METHOD path`; a test overwrites them. */
  answers: Record<string, Answer>;
  /** When false, `/events` answers 404, as behind something that does not pass streams on. */
  streams: boolean;
  /** Whether `/socket` takes WebSockets. */
  sockets: boolean;
  /** Sends to every open stream. */
  send(type: string, data: unknown): void;
  openStreams(): number;
  /** Cuts every open stream. */
  cut(): void;
  close(): Promise<void>;
};

export const fakeView = (more: Partial<WaitingView> = {}): WaitingView => ({
  room: 'demo',
  title: 'Summer Night Festival',
  state: 'new',
  returnTo: '/demo',
  reference: 'k7f2qa',
  ...more,
});

export const waitingAnswer = (more: Record<string, unknown> = {}) => ({
  state: 'waiting',
  gate: 'open',
  number: 12345,
  receipt: 'receipt-1',
  position: 1234,
  peopleAhead: 1233,
  etaSeconds: [240, 420],
  pollAfterMs: 200,
  ...more,
});

const firstWords = { state: 'waiting', gate: 'open' };

const bodyOf = async (request: IncomingMessage): Promise<string> => {
  let text = '';
  for await (const chunk of request) text += chunk;
  return text;
};

/** One unmasked text frame (RFC 6455, section 5.2) of less than 64 KB. */
const socketFrame = (text: string): Buffer => {
  const body = Buffer.from(text);
  const head = body.length < 126 ? [0x81, body.length] : [0x81, 126, body.length >> 8, body.length & 255];
  return Buffer.concat([Buffer.from(head), body]);
};

export const startFakeRoom = async (): Promise<FakeRoom> => {
  const assets = createAssets();
  const streams = new Set<ServerResponse>();
  const sockets = new Set<Duplex>();
  const room: FakeRoom = {
    url: '',
    seen: [],
    count: (method, path) => room.seen.filter((one) => one.method === method && one.path === path).length,
    view: fakeView(),
    answers: {
      'POST /v1/rooms/demo/places': { status: 201, body: waitingAnswer() },
      'GET /v1/rooms/demo/places/me': { status: 200, body: waitingAnswer() },
      'DELETE /v1/rooms/demo/places/me': { status: 204 },
      'POST /v1/rooms/demo/pass': { status: 200, body: { session: {}, pass: 'p', expiresAtMs: 0 } },
      'POST /rooms/demo': { status: 303, headers: { location: '/rooms/demo' } },
    },
    streams: true,
    sockets: false,
    send: (type, data) => {
      for (const stream of streams) stream.write(`event: ${type}\ndata: ${JSON.stringify(data)}\n\n`);
      for (const socket of sockets) socket.write(socketFrame(JSON.stringify({ type, ...Object(data) })));
    },
    openStreams: () => streams.size + sockets.size,
    cut: () => {
      for (const open of [...streams, ...sockets]) open.destroy();
    },
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        room.cut();
        server.closeAllConnections();
      }),
  };
  const server = createServer(async (request, response) => {
    const path = (request.url ?? '').split('?')[0]!;
    const method = request.method ?? '';
    room.seen.push({ method, path, body: await bodyOf(request) });
    const asset = assets.find((one) => one.path === path);
    const given = room.answers[`${method} ${path}`];
    if (asset !== undefined) {
      response.writeHead(200, { 'content-type': asset.contentType }).end(asset.body);
    } else if (given !== undefined) {
      response.writeHead(given.status, { 'content-type': 'application/json', ...given.headers });
      response.end(given.body === undefined ? undefined : JSON.stringify(given.body));
    } else if (path === '/v1/rooms/demo/events' && room.streams) {
      response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
      // As the broker does: a client gives up a stream that says nothing of its line (FIRST_WORDS_MS in client/anteroom.js).
      response.write(`: hello\n\nevent: state\ndata: ${JSON.stringify(firstWords)}\n\n`);
      streams.add(response);
      response.on('close', () => streams.delete(response));
    } else if (path === '/demo' || path === '/rooms/demo') {
      response.writeHead(200, {
        'content-type': 'text/html; charset=utf-8',
        'content-security-policy': pageSecurityPolicy,
      });
      response.end(renderWaitingPage(room.view));
    } else if (path === '/inside') {
      response.writeHead(200, { 'content-type': 'text/html' }).end('<title>Inside</title><h1>Inside</h1>');
    } else response.writeHead(404).end();
  });
  server.on('upgrade', (request, socket) => {
    if (!room.sockets) return socket.destroy();
    // RFC 6455, section 4.2.2: the key and this fixed text prove that the server understood the handshake.
    const accept = createHash('sha1')
      .update(`${request.headers['sec-websocket-key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`)
      .digest('base64');
    const head = ['HTTP/1.1 101 Switching Protocols', 'Upgrade: websocket', 'Connection: Upgrade'];
    socket.write(`${head.join('\r\n')}\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`);
    socket.write(socketFrame(JSON.stringify({ type: 'state', ...firstWords })));
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    // A browser that goes away resets the connection; the set above is all that has to know.
    socket.on('error', () => socket.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  // A server that listens on a port has an address of this form.
  room.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return room;
};
