// A real HAProxy with one of the files of deploy/haproxy, on ports of the test: only addresses and names are changed.

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { type Front, type Fronted, settle, startFront, type Teardown } from './front.ts';

export const startHaproxy = (
  t: Teardown,
  file: 'haproxy.cfg' | 'haproxy-auth.cfg',
  behind: Fronted,
  /** Other values of the file, for a test that cannot wait as long as people do. */
  changed: Record<string, string> = {},
): Promise<Front> =>
  startFront(t, {
    program: 'haproxy',
    files: ({ port }) => ({
      'haproxy.cfg': settle(readFileSync(new URL(`../../deploy/haproxy/${file}`, import.meta.url), 'utf8'), {
        'bind :80': `bind 127.0.0.1:${port}`,
        'lower -m str tickets.example': `lower -m str ${behind.name ?? '127.0.0.1'}`,
        'server gateway 127.0.0.1:8080': `server gateway ${behind.gateway}`,
        ...changed,
        ...(file === 'haproxy.cfg'
          ? {}
          : {
              'http://127.0.0.1:8080': `http://${behind.gateway}`,
              '127.0.0.1:3000': behind.origin,
              '/etc/haproxy/anteroom.lua': fileURLToPath(
                new URL('../../deploy/haproxy/anteroom.lua', import.meta.url),
              ),
            }),
      }),
    }),
    arguments: ({ folder }) => ['-db', '-f', `${folder}/haproxy.cfg`],
  });
