// What a server is to the roles, in our words: routes, answers that become streams or sockets, and what is promised
// of each. Types only; kernel/http.ts makes it true.

import type { Answer, HeaderList } from './answer.ts';
import type { Request } from './exchange.ts';
import type { Log } from './log.ts';
import type { Tracer } from './trace.ts';

export type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE' | 'HEAD' | 'OPTIONS';

/** One server-sent-event stream. */
export type EventStream = {
  /**
   * Sends a frame (already encoded, ending in a blank line). When the reader is slow the frame replaces the one that
   * waits, unless `keep` is given: kept frames (promoted, ended) are never dropped, and are few.
   */
  write(frame: string, options?: { keep?: boolean }): void;
  /** Sends what waits, then ends the response. */
  end(): void;
  readonly closed: boolean;
};

/** Answer of a route that becomes an event stream: `open` is called once the head has been written. */
export type Stream = {
  stream: true;
  headers?: HeaderList;
  open(stream: EventStream): void;
  /** Called exactly once after the route has given this, whoever ended it, even if the fan left before `open`. */
  closed(): void;
};

export type Socket = {
  /** As EventStream.write, for one text message. */
  write(message: string, options?: { keep?: boolean }): void;
  end(code: number, reason: string): void;
  readonly closed: boolean;
};

/** Answer of a route that becomes a WebSocket; refusals are ordinary answers. */
export type Upgrade = {
  upgrade: true;
  open(socket: Socket): void;
  message(socket: Socket, text: string): void;
  /** As Stream.closed. */
  closed(): void;
};

export type Handler = (request: Request) => Answer | Stream | Promise<Answer | Stream>;
export type SocketHandler = (request: Request) => Answer | Upgrade | Promise<Answer | Upgrade>;

export type RouteOptions = {
  /** Largest body; declared longer: 413 at once and close. Default: the server's. */
  bodyBytesMax?: number;
};

export type Server = {
  /** Patterns are literal segments and `:name`. A known path with another method answers 405 with Allow. */
  route(method: Method, pattern: string, run: Handler, options?: RouteOptions): void;
  socket(pattern: string, run: SocketHandler): void;
  /** Whatever no pattern matches; without one, 404. */
  otherwise(run: Handler, options?: RouteOptions): void;
  /** Rejects with a sentence that names the port when it cannot be had. */
  listen(): Promise<{ port: number }>;
  /** Stops accepting, lets requests finish for up to `graceMs`, then closes everything. */
  close(graceMs: number): Promise<void>;
};

export type ServerOptions = {
  name: string;
  host: string;
  port: number;
  /** Refuse to share the port with another process; by default several processes may serve one port. */
  exclusive?: boolean;
  log: Log;
  bodyBytesMax: number;
  slowReaderMs: number;
  trustedProxies: readonly string[];
  /**
   * Whose `x-request-id`, `traceparent` and `tracestate` are taken over: those of trusted proxies (the default), or
   * anyone's, for a server that only our own gateway reaches.
   */
  idsFrom?: 'trustedProxies' | 'anyone';
  /** Undefined: no traces. */
  tracer?: Tracer | undefined;
  /** Added to every answer (security headers). */
  headers?: HeaderList;
  /**
   * Asked once for each pattern, method and class of status (`2xx`); what it gives is told the seconds of every such
   * request. A stream counts when it opens.
   */
  observer?: (seen: { route: string; method: string; status: string }) => (seconds: number) => void;
};
