// client/example.html as a site of its own would serve it: only the gateway's address and the room are changed.

import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

type Teardown = { teardown(work: () => unknown): void };

/** Listens first, so that its origin can be allowed, and learns later what stands on its pages: one for each room. */
export const startExamplePages = async (t: Teardown) => {
  let gateway = '';
  const server = createServer((request, response) => {
    const text = readFileSync(new URL('../../client/example.html', import.meta.url), 'utf8');
    const parts = text.split('https://tickets.example');
    if (parts.length !== 3 || text.split("room: 'demo'").length !== 2)
      throw new Error('the example names its gateway twice and its room once');
    response.setHeader('content-type', 'text/html; charset=utf-8');
    response.end(parts.join(gateway).replace("room: 'demo'", `room: '${request.url?.slice(1)}'`));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  // A server that listens on a port has an address of this form.
  const { port } = server.address() as AddressInfo;
  return {
    /** Of the gateway's site: the same host at another port. Cookies come along. */
    near: `http://127.0.0.1:${port}`,
    /** Of another site: another name. No cookies do. */
    far: `http://localhost:${port}`,
    show(base: string) {
      gateway = base;
    },
  };
};
