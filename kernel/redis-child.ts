// One redis-server process: how it is configured, started and asked. kernel/redis-server.ts decides when. It
// listens on a unix socket only, and it does not outlive us: a guard ends it when this process is gone.

import { type ChildProcess, spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { afterReading, systemClock } from './clock.ts';
import { identityOf } from './folder-lock.ts';

/** Reading a large append-only file back takes about 10 s per 10 million places; this is far beyond. */
const LOAD_MS_MAX = 300_000;
export const ANSWER_MS_MAX = 2000;
const LAST_LINES = 12;

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

/** Whether `check` came true in time. */
export const waitFor = async (
  check: () => boolean | Promise<boolean>,
  withinMs: number,
): Promise<boolean> => {
  const until = performance.now() + withinMs;
  for (;;) {
    if (await check()) return true;
    if (performance.now() > until) return false;
    await pause(20);
  }
};

const missing = (cause: Error): Error =>
  new Error(
    'redis-server is not installed. Run `bash scripts/setup`, or point ANTEROOM_REDIS_URL at a Redis of yours.',
    { cause },
  );

export type Child = {
  process: ChildProcess;
  pid: number;
  guard: ChildProcess;
  gone: Promise<string>;
  says: string[];
};

/**
 * Starts redis-server with its configuration on stdin. It gets a process group of its own, because Ctrl-C in a
 * terminal goes to the whole group and would end it before the roles have finished. The guard is a shell that
 * reads from a pipe we hold: when we die in whatever way, the pipe closes, and the guard ends the child.
 */
export const spawnChild = async (folder: string, socket: string): Promise<Child> => {
  const server = spawn('redis-server', ['-'], { detached: true, stdio: ['pipe', 'pipe', 'pipe'] });
  const says: string[] = [];
  const keep = (chunk: Buffer) => {
    says.push(...chunk.toString().trimEnd().split('\n'));
    says.splice(0, says.length - LAST_LINES);
  };
  server.stdout.on('data', keep);
  server.stderr.on('data', keep);
  const gone = new Promise<string>((end) => {
    server.once('exit', (code, signal) => end(signal ?? `code ${code}`));
  });
  await new Promise<void>((started, failed) => {
    server.once('spawn', started);
    server.once('error', (error) => failed(missing(error)));
  });
  // A child that dies at once closes its stdin; its exit is what tells us, not this write.
  server.stdin.on('error', () => undefined);
  server.stdin.end(configText(folder, socket));
  const pid = server.pid;
  if (pid === undefined) throw new Error('a spawned process has a number');
  writeFileSync(join(folder, 'redis.pid'), identityOf(pid), { mode: 0o600 });
  const guard = spawn('/bin/sh', ['-c', 'read -r _; kill -TERM "$1"', 'sh', String(pid)], {
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  guard.on('error', () => undefined); // Without a shell there is no guard; the next start ends the orphan.
  guard.unref();
  void gone.then(() => guard.kill('SIGKILL'));
  return { process: server, pid, guard, gone, says };
};

/** Resolves when the child has loaded its data and answers; throws with its last words when it ends instead. */
export const untilReady = async (child: Child, socket: string): Promise<void> => {
  let ended: string | undefined;
  void child.gone.then((how) => {
    ended = how;
  });
  const answers = async () => {
    if (ended !== undefined) return true;
    try {
      return ((await ask(socket, 'PING', { answerMs: ANSWER_MS_MAX })) ?? '').startsWith('+PONG');
    } catch {
      // Too busy loading to answer: that is what the loop is for.
      return false;
    }
  };
  const ready = await waitFor(answers, LOAD_MS_MAX);
  if (ended !== undefined) throw new Error(`redis-server ended (${ended}): ${child.says.join(' | ')}`);
  if (!ready) throw new Error(`redis-server was not ready within ${LOAD_MS_MAX} ms`);
};
