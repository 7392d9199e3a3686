// What is everybody's trouble, and what is of one room: a command that failed because of the connection or the server
// holds up all, one that failed because of what it was about nobody else.

import { connect } from 'node:net';
import t from 'tap';
import { isServerFault, orElse } from '../../kernel/redis.ts';
import { UnknownOutcome } from '../../lua/script.ts';

const reply = (message: string) => Object.assign(new Error(message), { name: 'ReplyError' });

t.test('a connection or a server that cannot be used is everybody’s trouble', async (t) => {
  const refused = await new Promise<Error>((resolve) => connect(1, '127.0.0.1').once('error', resolve));
  for (const error of [
    refused,
    new Error('Connection is closed.'),
    new Error('Command timed out'),
    new Error("Stream isn't writeable and enableOfflineQueue options is false"),
    new Error('Reached the max retries per request limit (which is 1).'),
    new Error('All sentinels are unreachable. Retrying from scratch after 500ms.'),
    reply('READONLY You can’t write against a read only replica.'),
    reply('LOADING Redis is loading the dataset in memory'),
    reply('OOM command not allowed when used memory > maxmemory'),
    reply('NOREPLICAS Not enough good replicas to write.'),
    reply('BUSY Redis is busy running a script.'),
    reply('NOPERM this user has no permissions to run the evalsha command'),
  ])
    t.equal(isServerFault(error), true, error.message);
});

t.test('what a command was about is the trouble of that alone', async (t) => {
  for (const error of [
    reply('WRONGTYPE Operation against a key holding the wrong kind of value'),
    reply('ERR user_script:20: attempt to perform arithmetic on a nil value'),
    reply('ERR value is not a valid float'),
    reply('ERR unknown command'),
    new UnknownOutcome('room.reap', 'error'),
    new TypeError('Cannot read properties of undefined (reading "epoch")'),
    new SyntaxError('Unexpected end of JSON input'),
    new RangeError('script room.join takes at most 20000 arguments, not 300000: call it in parts'),
    new Error('PostgreSQL cannot be asked for the settings of the room', {
      cause: new Error('ECONNREFUSED'),
    }),
    'no error at all',
  ])
    t.equal(isServerFault(error), false, String(error));
  t.equal(
    await orElse(
      () => Promise.reject(reply('WRONGTYPE x')),
      ({ message }) => message,
    ),
    'WRONGTYPE x',
  );
  await t.rejects(
    orElse(
      () => Promise.reject(reply('OOM x')),
      () => undefined,
    ),
    /OOM/,
  );
});
