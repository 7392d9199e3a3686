// Becoming a WebSocket after something was awaited. The library wants that within a cork (it warns on stderr without
// one), yet after the cork of the response itself it looks at the socket as if it were still a response, and closes one
// in a few that is none any more (uNetworking/uWebSockets, issue 1928; mended in its pull request 1929, which our binary
// is older than). Within the cork of another response it does neither. This is that other response: one request that
// this process has sent to itself, and never answers.

import type { HttpResponse, us_listen_socket } from 'uWebSockets.js';
import { randomBytes } from 'node:crypto';
import { connect, type Socket } from 'node:net';

export type Bystander = {
  /** Runs `work`, which upgrades this response, at once; what it writes is not corked. */
  within(response: HttpResponse, work: () => void): void;
  close(): void;
};

/** Throws when there is no loopback address to listen on. */
export const openBystander = async (uws: typeof import('uWebSockets.js')): Promise<Bystander> => {
  const path = `/${randomBytes(16).toString('hex')}`;
  const app = uws.App();
  let held: HttpResponse | undefined;
  let own: Socket | undefined;
  await new Promise<void>((resolve, reject) => {
    let port: us_listen_socket | undefined;
    // Nobody else knows the path.
    app.any('/*', (response) => void response.close());
    app.get(path, (response) => {
      response.onAborted(() => {
        held = undefined;
      });
      held = response;
      if (port !== undefined) uws.us_listen_socket_close(port);
      resolve();
    });
    app.listen('127.0.0.1', 0, (listening) => {
      if (listening === false)
        return reject(new Error('The loopback address 127.0.0.1 cannot be listened on.'));
      port = listening;
      own = connect(uws.us_socket_local_port(listening), '127.0.0.1');
      own.on('error', reject);
      own.write(`GET ${path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n`);
      own.unref();
    });
  });
  return {
    within(response, work) {
      // Should it ever be lost, a few of a hundred sockets are, and come again; none is left half open.
      (held ?? response).cork(work);
    },
    close() {
      held = undefined;
      own?.destroy();
      app.close();
    },
  };
};
