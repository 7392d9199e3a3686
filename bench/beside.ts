// What stands beside our streams: servers that do nothing but send one text to everybody when told to. Each is a
// process of its own, started by the bench, and `say` is one broadcast.

import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { compile } from './holder.ts';
import { takePort } from './ports.ts';
import { own, pause, stopChild } from './system.ts';

const ROOT = fileURLToPath(new URL('../', import.meta.url));
const READY_MS_MAX = 5000;

export type Sender = {
  pid: number;
  port: number;
  /** Sends the text to everybody once. */
  say(): Promise<void>;
  stop(): Promise<void>;
};

/** As long as a notice of ours. */
export const TEXT = JSON.stringify({ id: 'n1', text: 'x'.repeat(40), level: 'info' });
export const FRAME = `event: notice\ndata: ${TEXT}\n\n`;
export const MESSAGE = JSON.stringify({ type: 'notice', id: 'n1', text: 'x'.repeat(40), level: 'info' });

/** A program that prints its port and broadcasts for each line on its standard input. */
const startProgram = async (program: string, words: readonly string[], node: readonly string[] = []) => {
  const isOurs = program.endsWith('.ts');
  const child = isOurs
    ? spawn(process.execPath, [...node, '--import', 'tsx/esm', program, ...words], {
        cwd: ROOT,
        stdio: ['pipe', 'pipe', 'inherit'],
      })
    : spawn(program, words, { stdio: ['pipe', 'pipe', 'inherit'] });
  own(child);
  const port = await new Promise<string>((resolve, reject) => {
    child.stdout.once('data', (chunk: Buffer) => resolve(chunk.toString('utf8').trim()));
    child.once('error', reject);
    child.once('exit', (code) => reject(new Error(`${program} ended with ${code}`)));
  });
  return {
    pid: child.pid ?? 0,
    port: Number(port),
    async say() {
      child.stdin.write('\n');
    },
    stop: () => stopChild(child),
  };
};

export const startSender = (): Promise<Sender> => startProgram(compile('sender'), [FRAME]);
/** Several may share a port. `inspector`: where the process may be looked into. */
export const startRawStreams = (options: { port?: number; inspector?: number } = {}): Promise<Sender> =>
  startProgram(
    'bench/raw-streams.ts',
    [FRAME, MESSAGE, String(options.port ?? 0)],
    options.inspector === undefined ? [] : [`--inspect=127.0.0.1:${options.inspector}`],
  );
export const startBetterSse = (): Promise<Sender> => startProgram('bench/better-sse.ts', [TEXT]);
export const startWs = (): Promise<Sender> => startProgram('bench/ws-server.ts', [MESSAGE]);
export const startSocketIo = (): Promise<Sender> => startProgram('bench/socketio-server.ts', [TEXT]);

/** One worker, the channel in its memory, and the last message kept so that a newcomer hears something at once. */
const nchanConf = (folder: string, port: number): string => `
load_module /usr/lib/nginx/modules/ngx_nchan_module.so;
daemon off; worker_processes 1; pid ${folder}/pid; error_log ${folder}/error.log; worker_rlimit_nofile 20000;
events { worker_connections 19900; }
http {
  access_log off;
  ${['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `${name}_temp_path ${folder}/${name};`).join(' ')}
  nchan_shared_memory_size 256M;
  server {
    listen 127.0.0.1:${port} backlog=512;
    location = /say { nchan_publisher; nchan_channel_id bench; nchan_message_buffer_length 1; }
    location = /events {
      nchan_subscriber eventsource; nchan_channel_id bench; nchan_subscriber_first_message oldest;
      nchan_eventsource_event notice;
    }
  }
}
`;

export const startNchan = async (): Promise<Sender> => {
  const folder = mkdtempSync(join(tmpdir(), 'anteroom-bench-nchan-'));
  const port = await takePort();
  const file = join(folder, 'nginx.conf');
  writeFileSync(file, nchanConf(folder, port));
  const child = spawn('nginx', ['-p', folder, '-c', file, '-e', join(folder, 'error.log')], {
    stdio: ['ignore', 'ignore', 'inherit'],
    // Debian keeps it where only an administrator's PATH looks.
    env: { ...process.env, PATH: `${process.env.PATH ?? ''}:/usr/sbin` },
  });
  own(child, folder);
  const fault = new Promise<Error>((resolve) => child.once('error', resolve));
  const stop = async (): Promise<void> => {
    await stopChild(child);
    rmSync(folder, { recursive: true, force: true });
  };
  const say = async (): Promise<void> => {
    const { status } = await fetch(`http://127.0.0.1:${port}/say`, { method: 'POST', body: TEXT });
    if (status >= 300) throw new Error(`nchan answered ${status}`);
  };
  const until = performance.now() + READY_MS_MAX;
  let last: unknown;
  while (performance.now() < until && child.exitCode === null) {
    last = await Promise.race([
      fault,
      say().then(
        () => undefined,
        (error: unknown) => error,
      ),
    ]);
    if (last === undefined) {
      // The worker does the work; the one that was started only watches it.
      const worker = readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8')
        .trim()
        .split(' ')[0];
      return { pid: Number(worker), port, say, stop };
    }
    await pause(50);
  }
  await stop();
  throw new Error('nchan did not start; `scripts/setup --bench` installs it', { cause: last });
};
