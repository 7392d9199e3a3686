// An origin that speaks WebSocket, frame by frame, so that a test decides what it sends and sees what it is sent.

import { createHash } from 'node:crypto';
import { createServer, type IncomingHttpHeaders } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Duplex } from 'node:stream';

type Teardown = { teardown(work: () => unknown): void };

export type OriginPeer = {
  url: string;
  headers: IncomingHttpHeaders;
  /** Whole frames as they came, unmasked. */
  received: { opcode: number; payload: Buffer }[];
  wire: Duplex;
  isClosed: boolean;
  send(opcode: number, payload: Buffer | string, isLast?: boolean): boolean;
};

/** A frame as a server sends it: not masked. */
export const serverFrame = (opcode: number, payload: Buffer | string, isLast = true): Buffer => {
  const bytes = Buffer.from(payload);
  const head = Buffer.alloc(bytes.length < 126 ? 2 : bytes.length < 65_536 ? 4 : 10);
  head[0] = (isLast ? 0x80 : 0) | opcode;
  if (head.length === 2) head[1] = bytes.length;
  else if (head.length === 4) {
    head[1] = 126;
    head.writeUInt16BE(bytes.length, 2);
  } else {
    head[1] = 127;
    head.writeBigUInt64BE(BigInt(bytes.length), 2);
  }
  return Buffer.concat([head, bytes]);
};

export const startSocketOrigin = async (
  t: Teardown,
  /** Headers of the handshake's answer beside its own; or the raw answer of a refusal. */
  answer: (url: string) => string = () => '',
): Promise<{ origin: string; peers: OriginPeer[] }> => {
  const peers: OriginPeer[] = [];
  const server = createServer((_, response) => response.end('plain'));
  server.on('upgrade', (request, wire: Duplex) => {
    const said = answer(request.url ?? '');
    wire.on('error', () => wire.destroy());
    wire.on('end', () => wire.end()); // An upgraded wire is otherwise left half open.
    if (said.startsWith('HTTP/')) {
      wire.end(said);
      return;
    }
    const accept = createHash('sha1')
      .update(`${request.headers['sec-websocket-key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`)
      .digest('base64');
    wire.write(
      `HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: ${accept}\r\n${said}\r\n`,
    );
    const peer: OriginPeer = {
      url: request.url ?? '',
      headers: request.headers,
      received: [],
      wire,
      isClosed: false,
      send: (opcode, payload, isLast) => wire.write(serverFrame(opcode, payload, isLast)),
    };
    peers.push(peer);
    wire.once('close', () => {
      peer.isClosed = true;
    });
    let rest: Buffer = Buffer.alloc(0);
    wire.on('data', (chunk: Buffer) => {
      rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
      while (rest.length >= 6) {
        const short = rest[1]! & 127;
        const at = short < 126 ? 2 : short === 126 ? 4 : 10;
        if ((rest[1]! & 0x80) === 0) throw new Error('a client must mask');
        if (rest.length < at + 4) return;
        const length =
          short < 126 ? short : short === 126 ? rest.readUInt16BE(2) : Number(rest.readBigUInt64BE(2));
        if (rest.length < at + 4 + length) return;
        const mask = rest.subarray(at, at + 4);
        const payload = Buffer.from(rest.subarray(at + 4, at + 4 + length));
        for (let index = 0; index < length; index += 1) payload[index]! ^= mask[index & 3]!;
        peer.received.push({ opcode: rest[0]! & 15, payload });
        rest = rest.subarray(at + 4 + length);
        if (peer.received.at(-1)?.opcode === 8) wire.end(serverFrame(8, payload));
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    for (const { wire } of peers) wire.destroy();
    server.closeAllConnections();
    server.close();
  });
  // `listen` on a port was awaited, so the address is one of TCP.
  return { origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, peers };
};
