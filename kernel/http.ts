// The one file that knows uWebSockets.js. What the rest of the system sees are plain requests and answers.
//
// Promises: every route is wrapped, so a throw is a 500 and never the end of the process; writes are corked; a
// client that leaves at any moment does no harm; a request whose framing or head is in any way ambiguous is
// refused and its connection closed; no route runs before its whole body has arrived; a stream keeps at most
// the newest frame for a slow reader and is closed when it stays unwritable for `slowReaderMs`.

import type { Log } from './log.ts';

export type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE' | 'HEAD' | 'OPTIONS';

export type Request = {
  readonly method: string;
  /** As received, checked to be in plain form; without the query. */
  readonly path: string;
  /** Without `?`; empty when there is none. */
  readonly query: string;
  /** Values of `:name` in the pattern. */
  readonly params: Readonly<Record<string, string>>;
  /** Header by lower-case name; undefined when absent. Repeatable headers are joined with `, `. */
  header(name: string): string | undefined;
  /** In wire order, names in lower case. */
  readonly headers: readonly (readonly [name: string, value: string])[];
  cookie(name: string): string | undefined;
  /** The address of the fan: of the socket, or as a trusted proxy tells it. IPv4-mapped addresses are IPv4. */
  readonly address: string;
  readonly id: string;
  /** The whole body; empty for none. */
  readonly body: Buffer;
  /** Aborted when the client has left. */
  readonly signal: AbortSignal;
};

export type Answer = {
  status: number;
  headers?: readonly (readonly [name: string, value: string])[];
  /** A stream is sent as it comes, with backpressure; an error in it ends the connection. */
  body?: string | Uint8Array | AsyncIterable<Uint8Array>;
};

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
  headers?: readonly (readonly [name: string, value: string])[];
  open(stream: EventStream): void;
  /** Called exactly once, whoever ended it. */
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
  listen(): Promise<{ port: number }>;
  /** Stops accepting, lets requests finish for up to `graceMs`, then closes everything. */
  close(graceMs: number): Promise<void>;
};

export type ServerOptions = {
  name: string;
  host: string;
  port: number;
  log: Log;
  bodyBytesMax: number;
  slowReaderMs: number;
  trustedProxies: readonly string[];
  /** Added to every answer (security headers). */
  headers?: readonly (readonly [name: string, value: string])[];
  /** Sees every finished request: pattern, method, status and seconds. */
  observe?: (seen: { route: string; method: string; status: number; seconds: number }) => void;
};

/** A JSON answer. */
export const json = (
  status: number,
  value: unknown,
  headers: readonly (readonly [string, string])[] = [],
): Answer => ({
  status,
  headers: [['content-type', 'application/json; charset=utf-8'], ['cache-control', 'no-store'], ...headers],
  body: JSON.stringify(value),
});

export declare const createServer: (options: ServerOptions) => Server;
