// The floor of streams: uWebSockets.js with nothing in between. Holds event streams and WebSockets, and for each line
// on standard input sends one text to all of them. Prints its port on one line.
//   raw-streams FRAME MESSAGE [PORT]

import uWS from 'uWebSockets.js';

const [frame = '', message = '', port = '0'] = process.argv.slice(2);
const streams = new Set<uWS.HttpResponse>();
const sockets = new Set<uWS.WebSocket<unknown>>();

const app = uWS.App();
app.get('/events', (answer) => {
  answer.onAborted(() => streams.delete(answer));
  answer.cork(() => {
    answer
      .writeHeader('content-type', 'text/event-stream')
      .writeHeader('cache-control', 'no-store')
      .write(frame);
  });
  streams.add(answer);
});
app.ws('/socket', {
  idleTimeout: 120,
  open(socket) {
    sockets.add(socket);
    socket.send(message);
  },
  close: (socket) => void sockets.delete(socket),
});
app.listen('127.0.0.1', Number(port), (listening) => {
  if (!listening) throw new Error('the floor found no port');
  process.stdout.write(`${uWS.us_socket_local_port(listening)}\n`);
});
process.stdin.on('data', (lines: Buffer) => {
  for (const byte of lines)
    if (byte === 10) {
      for (const answer of streams) answer.cork(() => answer.write(frame));
      for (const socket of sockets) socket.send(message);
    }
});
process.stdin.on('end', () => process.exit(0));
