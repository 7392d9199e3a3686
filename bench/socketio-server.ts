// socket.io as its guide shows a broadcast, over WebSocket alone: for each line on standard input `notice` with TEXT
// goes to everybody. Prints its port on one line.
//   socketio-server TEXT

import { createServer } from 'node:http';
import { Server } from 'socket.io';

const [text = ''] = process.argv.slice(2);
const server = createServer();
const io = new Server(server, { transports: ['websocket'] });
io.on('connection', (socket) => socket.emit('notice', text));
server.listen(0, '127.0.0.1', () => {
  const address = server.address();
  process.stdout.write(`${typeof address === 'object' && address !== null ? address.port : 0}\n`);
});
process.stdin.on('data', (lines: Buffer) => {
  for (const byte of lines) if (byte === 10) io.emit('notice', text);
});
process.stdin.on('end', () => process.exit(0));
