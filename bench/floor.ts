// The floor: what uWebSockets.js does on this machine when there is nothing to do. Every rate of ours is quoted as a
// ratio to it, from the same run. A process of its own, so that it has a core of its own as our server has; prints
// its port on one line.

import uWS from 'uWebSockets.js';

const HELLO = 'hello';
// About as long as the answer to a join, so that the floor writes what we write.
const CREATED = JSON.stringify({
  state: 'waiting',
  receipt: 'x'.repeat(150),
  position: 1,
  pad: 'x'.repeat(150),
});

const app = uWS.App();
const KILOBYTE = 'x'.repeat(1024);
app.get('/demo/v1/kilobyte', (answer) => {
  answer.writeHeader('content-type', 'text/plain').end(KILOBYTE);
});
const MEBIBYTE = Buffer.alloc(1_048_576, 'x');
app.get('/demo/v1/bytes/:count', (answer, request) => {
  answer.writeHeader('content-type', 'text/plain');
  answer.end(MEBIBYTE.subarray(0, Number(request.getParameter(0))));
});
app.get('/v1/authorize', (answer) => {
  answer.writeStatus('204 No Content').endWithoutBody();
});
app.get('/*', (answer) => {
  answer.end(HELLO);
});
app.post('/*', (answer) => {
  answer.onAborted(() => undefined);
  answer.onData((_chunk, isLast) => {
    if (isLast)
      answer.cork(() => {
        answer.writeStatus('201 Created').writeHeader('content-type', 'application/json').end(CREATED);
      });
  });
});
app.listen('127.0.0.1', 0, (socket) => {
  if (!socket) throw new Error('the floor found no port');
  process.stdout.write(`${uWS.us_socket_local_port(socket)}\n`);
});
