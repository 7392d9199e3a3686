// One redis-server process: how it is configured, started and asked. kernel/redis-server.ts decides when. It
// listens on a unix socket only.

import { writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { type Child, spawnGuarded, untilReady } from './child.ts';
import { afterReading, systemClock } from './clock.ts';
import { identityOf } from './folder-lock.ts';

/** Reading a large append-only file back takes about 10 s per 10 million places; this is far beyond. */
const LOAD_MS_MAX = 300_000;
export const ANSWER_MS_MAX = 2000;

const configText = (folder: string, socket: string): string =>
  [
    'port 0',
    `unixsocket ${JSON.stringify(socket)}`,
    'unixsocketperm 700',
    `dir ${JSON.stringify(folder)}`,
    'appendonly yes',
    'appendfsync everysec',
    'maxmemory-policy noeviction',
    'save ""',
    'daemonize no',
    'loglevel warning',
    '',
  ].join('\n');

/**
 * One inline command over a connection of its own; answers the whole reply once `complete` says so, or what had
 * come when the server closed. Undefined: nobody listens there. Rejects when nothing comes within the deadline.
 */
export const ask = (
  socket: string,
  command: string,
  options: { answerMs: number; complete?: (text: string) => boolean },
): Promise<string | undefined> =>
  new Promise((answer, reject) => {
    let text = '';
    const wire = connect(socket);
    const late = () => {
      wire.destroy();
      reject(new Error(`no answer to ${command} within ${options.answerMs} ms`));
    };
    const deadline = setTimeout(() => afterReading(systemClock, late), options.answerMs);
    const finish = (value: string | undefined) => {
      clearTimeout(deadline);
      wire.destroy();
      answer(value);
    };
    wire.once('connect', () => wire.write(`${command}\r\n`));
    wire.on('data', (chunk: Buffer) => {
      text += chunk.toString();
      if (options.complete?.(text) ?? text.includes('\r\n')) finish(text);
    });
    wire.once('error', () => finish(text === '' ? undefined : text));
    wire.once('close', () => finish(text));
  });

const missing = (cause: unknown): Error =>
  new Error(
    'redis-server is not installed. Run `bash scripts/setup`, or point ANTEROOM_REDIS_URL at a Redis of yours.',
    { cause },
  );

const answers = async (socket: string): Promise<boolean> => {
  try {
    return ((await ask(socket, 'PING', { answerMs: ANSWER_MS_MAX })) ?? '').startsWith('+PONG');
  } catch {
    // Too busy loading to answer: whoever asks will ask again.
    return false;
  }
};

/** Starts redis-server with its configuration on stdin; resolves when it has loaded its data and answers. */
export const startRedisChild = async (folder: string, socket: string): Promise<Child> => {
  const child = await spawnGuarded({
    command: 'redis-server',
    args: ['-'],
    endSignal: 'TERM',
    stdin: configText(folder, socket),
  }).catch((cause: unknown) => {
    throw missing(cause);
  });
  writeFileSync(join(folder, 'redis.pid'), identityOf(child.pid), { mode: 0o600 });
  await untilReady(child, { name: 'redis-server', answers: () => answers(socket), withinMs: LOAD_MS_MAX });
  return child;
};
