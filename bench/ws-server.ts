// The package ws as its readme shows a broadcast: for each line on standard input TEXT goes to every client. Prints
// its port on one line.
//   ws-server TEXT

import { WebSocket, WebSocketServer } from 'ws';

const [text = ''] = process.argv.slice(2);
const server = new WebSocketServer({ host: '127.0.0.1', port: 0, backlog: 512 }, () => {
  const address = server.address();
  process.stdout.write(`${typeof address === 'object' && address !== null ? address.port : 0}\n`);
});
server.on('connection', (socket) => socket.send(text));
process.stdin.on('data', (lines: Buffer) => {
  for (const byte of lines)
    if (byte === 10)
      for (const client of server.clients) if (client.readyState === WebSocket.OPEN) client.send(text);
});
process.stdin.on('end', () => process.exit(0));
