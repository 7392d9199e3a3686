// better-sse as its readme shows it: sessions in one channel over node:http, and for each line on standard input a
// broadcast of TEXT. Prints its port on one line.
//   better-sse TEXT

import { createServer } from 'node:http';
import { createChannel, createSession } from 'better-sse';

const [text = ''] = process.argv.slice(2);
const channel = createChannel();
const server = createServer(async (request, response) => {
  const session = await createSession(request, response);
  channel.register(session);
  session.push(text, 'notice');
});
server.listen(0, '127.0.0.1', () => {
  const address = server.address();
  process.stdout.write(`${typeof address === 'object' && address !== null ? address.port : 0}\n`);
});
process.stdin.on('data', (lines: Buffer) => {
  for (const byte of lines) if (byte === 10) channel.broadcast(text, 'notice');
});
process.stdin.on('end', () => process.exit(0));
