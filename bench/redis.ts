// A redis-server of the bench's own, and the smallest client that can fill it: words go out pipelined as they come,
// answers come back in order (RESP2). The benches measure Redis, so nothing here retries, reconnects or hides a
// fault: an error of the server rejects, and a lost connection rejects everything under way.

import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { takePort } from './ports.ts';
import { own, pause, stopChild } from './system.ts';

const START_MS_MAX = 10_000;
/** Written at once at most; what is beyond waits for the next turn, so that answers are read in between. */
const CHUNK_CHARS = 256 * 1024;

export type Reply = string | number | null | readonly Reply[];
export type Word = string | number;

export type Wire = {
  /** Sends one command; many may be under way at once. */
  ask(words: readonly Word[]): Promise<Reply>;
  close(): void;
};

class RedisFault extends Error {}

/** One reply beginning at `at`, and where the next one begins; undefined while it is incomplete. */
const readReply = (data: Buffer, at: number): { value: Reply | RedisFault; next: number } | undefined => {
  const lineEnd = data.indexOf(0x0d, at);
  if (lineEnd < 0) return undefined;
  const line = data.toString('latin1', at + 1, lineEnd);
  const next = lineEnd + 2;
  switch (data[at]) {
    case 0x2b: // +
      return { value: line, next };
    case 0x2d: // -
      return { value: new RedisFault(line), next };
    case 0x3a: // :
      return { value: Number(line), next };
    case 0x24: {
      // $
      const length = Number(line);
      if (length < 0) return { value: null, next };
      if (data.length < next + length + 2) return undefined;
      return { value: data.toString('utf8', next, next + length), next: next + length + 2 };
    }
    case 0x2a: {
      // *
      const values: Reply[] = [];
      let position = next;
      for (let index = 0; index < Number(line); index++) {
        const read = readReply(data, position);
        if (read === undefined) return undefined;
        if (read.value instanceof RedisFault) return read;
        values.push(read.value);
        position = read.next;
      }
      return { value: values, next: position };
    }
    default:
      throw new Error(`not a reply of Redis: ${data.toString('latin1', at, at + 20)}`);
  }
};

const encode = (words: readonly Word[]): string => {
  let text = `*${words.length}\r\n`;
  for (const word of words) {
    const value = String(word);
    text += `$${Buffer.byteLength(value)}\r\n${value}\r\n`;
  }
  return text;
};

type Asked = { resolve(value: Reply): void; reject(error: Error): void };

/** `told` takes lines nobody asked for, e.g. those of MONITOR. */
export const connectWire = (port: number, told?: (line: Reply) => void): Promise<Wire> =>
  new Promise((resolve, reject) => {
    const socket: Socket = connect({ port, host: '127.0.0.1', noDelay: true });
    const waiting: Asked[] = [];
    let first = 0;
    let rest: Buffer = Buffer.alloc(0);
    let unsent = '';
    let scheduled = false;
    const flush = (): void => {
      scheduled = false;
      const text = unsent;
      unsent = '';
      if (text !== '') socket.write(text);
    };
    const fail = (error: Error): void => {
      reject(error);
      for (const asked of waiting.splice(0).slice(first)) asked.reject(error);
      first = 0;
    };
    socket.on('data', (chunk: Buffer) => {
      rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
      let at = 0;
      while (at < rest.length) {
        const read = readReply(rest, at);
        if (read === undefined) break;
        at = read.next;
        const asked = waiting[first];
        if (asked === undefined) {
          if (!(read.value instanceof RedisFault)) told?.(read.value);
          continue;
        }
        first += 1;
        if (first === 4096) {
          waiting.splice(0, first);
          first = 0;
        }
        if (read.value instanceof RedisFault) asked.reject(read.value);
        else asked.resolve(read.value);
      }
      rest = rest.subarray(at);
    });
    socket.on('error', fail);
    socket.on('close', () => fail(new Error('the connection to Redis ended')));
    socket.on('connect', () =>
      resolve({
        ask: (words) =>
          new Promise((done, failed) => {
            waiting.push({ resolve: done, reject: failed });
            unsent += encode(words);
            if (unsent.length >= CHUNK_CHARS) flush();
            else if (!scheduled) {
              scheduled = true;
              setImmediate(flush);
            }
          }),
        close: () => socket.destroy(),
      }),
    );
  });

export type BenchRedis = {
  pid: number;
  port: number;
  url: string;
  wire: Wire;
  stop(): Promise<void>;
};

/** Starts a redis-server in a temporary folder; with `appendOnly` it writes as the embedded one does. */
export const startRedis = async (options: { appendOnly: boolean }): Promise<BenchRedis> => {
  const folder = mkdtempSync(join(tmpdir(), 'anteroom-bench-redis-'));
  const port = await takePort();
  const words = ['--port', String(port), '--bind', '127.0.0.1', '--dir', folder, '--save', ''];
  words.push('--appendonly', options.appendOnly ? 'yes' : 'no', '--appendfsync', 'everysec');
  words.push('--maxmemory-policy', 'noeviction', '--logfile', join(folder, 'log'));
  const child: ChildProcess = spawn('redis-server', words, { stdio: 'ignore' });
  own(child, folder);
  let failed: Error | undefined;
  child.on('error', (error) => {
    failed = error;
  });
  const end = async (): Promise<void> => {
    if (failed === undefined) await stopChild(child);
    rmSync(folder, { recursive: true, force: true });
  };
  const until = performance.now() + START_MS_MAX;
  for (;;) {
    try {
      const wire = await connectWire(port);
      return {
        pid: child.pid ?? 0,
        port,
        url: `redis://127.0.0.1:${port}`,
        wire,
        stop: async () => {
          wire.close();
          await end();
        },
      };
    } catch (cause) {
      if (failed !== undefined || child.exitCode !== null || performance.now() > until) {
        await end();
        throw new Error('redis-server does not start; is it installed?', { cause: failed ?? cause });
      }
    }
    await pause(50);
  }
};

/** `INFO section` by name. */
export const infoOf = async (wire: Wire, section: string): Promise<ReadonlyMap<string, string>> => {
  const fields = new Map<string, string>();
  for (const line of String(await wire.ask(['INFO', section])).split('\r\n')) {
    const colon = line.indexOf(':');
    if (colon > 0) fields.set(line.slice(0, colon), line.slice(colon + 1));
  }
  return fields;
};

/** CPU seconds of the main thread: commands, and reading and writing them. Freeing in the background is not in. */
export const redisCpuSeconds = async (wire: Wire): Promise<number> => {
  const info = await infoOf(wire, 'cpu');
  return Number(info.get('used_cpu_user_main_thread')) + Number(info.get('used_cpu_sys_main_thread'));
};

/** Calls of one command so far, and the microseconds in them. A script's time includes the commands inside. */
export const commandStat = async (
  wire: Wire,
  command: string,
): Promise<{ calls: number; micros: number }> => {
  const line = (await infoOf(wire, 'commandstats')).get(`cmdstat_${command}`) ?? '';
  const value = (name: string): number => Number(new RegExp(`(?:^|,)${name}=(\\d+)`).exec(line)?.[1] ?? 0);
  return { calls: value('calls'), micros: value('usec') };
};

/** Sends commands with at most `under` of them under way and hands each answer over in order of sending. */
export const pipeline = async (
  wire: Wire,
  commands: Iterable<readonly Word[]>,
  options: { under: number; take?: (reply: Reply) => void },
): Promise<void> => {
  let batch: Promise<Reply>[] = [];
  // Two halves: one is answered while the other is written, so that Redis never runs out of work.
  let before: Promise<Reply[]> = Promise.resolve([]);
  const settle = async (): Promise<void> => {
    for (const reply of await before) options.take?.(reply);
  };
  for (const words of commands) {
    batch.push(wire.ask(words));
    if (batch.length >= options.under / 2) {
      await settle();
      before = Promise.all(batch);
      batch = [];
    }
  }
  await settle();
  before = Promise.all(batch);
  await settle();
};
