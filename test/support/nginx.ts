// A real nginx with one of the files of deploy/nginx, on ports of the test: only addresses and names are changed.

import { readFileSync } from 'node:fs';
import { type Front, type Fronted, settle, startFront, type Teardown } from './front.ts';

/** Debian's nginx starts as root and gives its work to another user, who could not write below the folder of a test. */
const USER = process.getuid?.() === 0 ? 'user root;' : '';

export const startNginx = (
  t: Teardown,
  file: 'anteroom.conf' | 'anteroom-auth.conf',
  behind: Fronted,
  /** Other values of the file, for a test that cannot wait as long as people do. */
  changed: Record<string, string> = {},
): Promise<Front> =>
  startFront(t, {
    program: 'nginx',
    files: ({ folder, port }) => {
      const site = settle(readFileSync(new URL(`../../deploy/nginx/${file}`, import.meta.url), 'utf8'), {
        'listen 80 default_server;': `listen 127.0.0.1:${port} default_server;`,
        'listen 80;': `listen 127.0.0.1:${port};`,
        'server_name tickets.example;': `server_name ${behind.name ?? '127.0.0.1'};`,
        'server 127.0.0.1:8080;': `server ${behind.gateway};`,
        ...changed,
        ...(file === 'anteroom.conf' ? {} : { 'server 127.0.0.1:3000;': `server ${behind.origin};` }),
      });
      const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
        .map((name) => `${name}_temp_path ${folder}/${name};`)
        .join(' ');
      return {
        'site.conf': site,
        'nginx.conf': `${USER} daemon off; master_process off; pid ${folder}/pid; error_log stderr warn;
events { worker_connections 512; }
http { access_log off; ${temporary} include ${folder}/site.conf; }`,
      };
    },
    arguments: ({ folder }) => ['-p', folder, '-c', `${folder}/nginx.conf`],
  });
