// A redis-server of its own and just enough of its protocol (RESP2) to fill it fast and to ask it things: the bench
// speaks to Redis from outside and brings no client library along.

import { type ChildProcess, spawn } from 'node:child_process';
import { connect, type Socket } from 'node:net';
import { takePort } from './ports.ts';
import { pause, stopChild } from './system.ts';

export type Value = string | number | null | Value[];

/** The value that begins at `at` and where the next one begins; undefined while it has not arrived in full. */
const valueAt = (text: string, at: number): [Value, number] | undefined => {
  const end = text.indexOf('\r\n', at);
  if (end < 0) return undefined;
  const line = text.slice(at + 1, end);
  const next = end + 2;
  switch (text[at]) {
    case '+':
      return [line, next];
    case ':':
      return [Number(line), next];
    case '$': {
      const length = Number(line);
      if (length < 0) return [null, next];
      if (text.length < next + length + 2) return undefined;
      return [text.slice(next, next + length), next + length + 2];
    }
    case '*': {
      const values: Value[] = [];
      let from = next;
      for (let left = Number(line); left > 0; left -= 1) {
        const found = valueAt(text, from);
        if (found === undefined) return undefined;
        values.push(found[0]);
        from = found[1];
      }
      return [values, from];
    }
    default:
      throw new Error(`redis answered ${line}`);
  }
};

/** Everything the bench sends is ASCII, so characters are bytes. */
const commandText = (words: readonly (string | number)[]): string => {
  let text = `*${words.length}\r\n`;
  for (const word of words) text += `$${String(word).length}\r\n${word}\r\n`;
  return text;
};

export type BareRedis = {
  ask(...words: (string | number)[]): Promise<Value>;
  stop(): Promise<void>;
};

export const startBareRedis = async (): Promise<BareRedis> => {
  const port = await takePort();
  const child: ChildProcess = spawn(
    'redis-server',
    ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no'],
    { stdio: 'ignore' },
  );
  const connected = (): Promise<Socket> =>
    new Promise((resolve, reject) => {
      const socket = connect(port, '127.0.0.1', () => resolve(socket));
      socket.once('error', reject);
    });
  let socket: Socket | undefined;
  for (let tries = 0; socket === undefined; tries += 1) {
    await pause(50);
    try {
      socket = await connected();
    } catch (error) {
      // It has just been started; after five seconds it is not going to answer.
      if (tries > 100) throw error;
    }
  }
  const waiting: { resolve: (value: Value) => void; reject: (error: Error) => void }[] = [];
  let text = '';
  socket.setEncoding('latin1');
  socket.on('data', (chunk: string) => {
    text += chunk;
    let at = 0;
    try {
      for (let found = valueAt(text, at); found !== undefined; found = valueAt(text, at)) {
        waiting.shift()?.resolve(found[0]);
        at = found[1];
        if (at === text.length) break;
      }
    } catch (error) {
      for (const { reject } of waiting.splice(0))
        reject(error instanceof Error ? error : new Error(String(error)));
    }
    text = text.slice(at);
  });
  const open = socket;
  return {
    ask: (...words) =>
      new Promise((resolve, reject) => {
        waiting.push({ resolve, reject });
        open.write(commandText(words), 'latin1');
      }),
    async stop() {
      open.destroy();
      await stopChild(child);
    },
  };
};
