// A private nginx of one worker in front of an address, or in auth mode with the file of deploy/: its own folder, port
// and configuration, never the system's.

import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { takePort } from './ports.ts';
import { own, pause, type Running, stopChild } from './system.ts';

const READY_MS_MAX = 5000;

const configOf = (folder: string, sites: string): string => `
daemon off; worker_processes 1; pid ${folder}/pid; error_log ${folder}/error.log;
events { worker_connections 1024; }
http {
  access_log off;
  ${['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `${name}_temp_path ${folder}/${name};`).join(' ')}
  keepalive_requests 1000000000;
${sites}
}
`;

/** A plain `proxy_pass` as its manual shows it, with connections to the origin kept open and the usual headers set. */
const proxySite = (port: number, origin: string): string => `
  upstream origin { server ${new URL(origin).host}; keepalive 128; keepalive_requests 1000000000; }
  server {
    listen 127.0.0.1:${port};
    location / {
      proxy_pass http://origin;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Host $host;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Request-Id $request_id;
    }
  }
`;

/** Auth mode as deploy/ shows it, with addresses of the bench: `gateway` is asked, `origin` gets what may go on. */
const authSite = (port: number, { gateway, origin }: { gateway: string; origin: string }): string => {
  const settled: Record<string, string> = {
    'listen 80 default_server;': `listen 127.0.0.1:${port} default_server;`,
    'listen 80;': `listen 127.0.0.1:${port};`,
    'server_name tickets.example;': 'server_name 127.0.0.1;',
    'server 127.0.0.1:8080;': `server ${new URL(gateway).host}; keepalive_requests 1000000000;`,
    'server 127.0.0.1:3000;': `server ${new URL(origin).host}; keepalive_requests 1000000000;`,
  };
  let site = readFileSync(new URL('../deploy/nginx/anteroom-auth.conf', import.meta.url), 'utf8');
  for (const [from, to] of Object.entries(settled)) {
    if (!site.includes(from)) throw new Error(`the file of deploy/ has no '${from}' any more`);
    site = site.replace(from, to);
  }
  return site;
};

export const startNginx = (origin: string): Promise<Running> => start((port) => proxySite(port, origin));
export const startAuthNginx = (behind: { gateway: string; origin: string }): Promise<Running> =>
  start((port) => authSite(port, behind));

const start = async (siteOf: (port: number) => string): Promise<Running> => {
  const folder = mkdtempSync(join(tmpdir(), 'anteroom-bench-nginx-'));
  const port = await takePort();
  const file = join(folder, 'nginx.conf');
  writeFileSync(file, configOf(folder, siteOf(port)));
  const child = spawn('nginx', ['-p', folder, '-c', file, '-e', join(folder, 'error.log')], {
    stdio: ['ignore', 'ignore', 'inherit'],
    // Debian keeps it where only an administrator's PATH looks.
    env: { ...process.env, PATH: `${process.env.PATH ?? ''}:/usr/sbin` },
  });
  own(child, folder);
  let fault: Error | undefined;
  child.once('error', (error) => {
    fault = error;
  });
  const stop = async (): Promise<void> => {
    await stopChild(child);
    rmSync(folder, { recursive: true, force: true });
  };
  const base = `http://127.0.0.1:${port}`;
  const until = performance.now() + READY_MS_MAX;
  while (fault === undefined && performance.now() < until) {
    const status = await fetch(base).then(
      (answer) => answer.status,
      () => 0, // Not listening yet; asked again until the deadline.
    );
    if (status === 200) {
      // The worker does the work; the one that was started only watches it.
      const worker = Number(readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8').trim());
      return { pid: worker, base, stop };
    }
    await pause(50);
  }
  await stop();
  throw new Error('nginx did not start; `scripts/setup --test` installs it', { cause: fault });
};
