// The naive server: what one writes in an afternoon, a handler that adds to a sorted set and asks for the rank, two
// commands a request. It signs nothing, limits nothing and forgets who came twice; a join of ours is compared with
// it to show what batching buys. A process of its own beside floor.ts; takes Redis's port, prints its own.

import uWS from 'uWebSockets.js';
import { randomBytes } from 'node:crypto';
import { Redis } from 'ioredis';

const redis = new Redis({ host: '127.0.0.1', port: Number(process.argv[2]) });

/** As long as the answer to a join, so that all servers write the same. */
const PAD = 'x'.repeat(300);

const join = async (): Promise<string> => {
  const visitor = randomBytes(12).toString('base64url');
  await redis.zadd('line', Date.now(), visitor);
  const rank = await redis.zrank('line', visitor);
  return JSON.stringify({ state: 'waiting', position: (rank ?? 0) + 1, pad: PAD });
};

const app = uWS.App();
app.post('/*', (answer) => {
  let gone = false;
  answer.onAborted(() => {
    gone = true;
  });
  answer.onData((_chunk, isLast) => {
    if (!isLast) return;
    join().then(
      (text) => {
        if (gone) return;
        answer.cork(() => {
          answer.writeStatus('201 Created').writeHeader('content-type', 'application/json').end(text);
        });
      },
      (error: unknown) => {
        console.error(error);
        if (!gone) answer.cork(() => answer.writeStatus('500 Internal Server Error').end());
      },
    );
  });
});
app.listen('127.0.0.1', 0, (socket) => {
  if (!socket) throw new Error('the naive server found no port');
  process.stdout.write(`${uWS.us_socket_local_port(socket)}\n`);
});
