// What a server is to the roles, in our words: routes, answers that become streams or sockets, and what is promised
// of each. Types only; kernel/http.ts makes it true.

import type { Answer, HeaderList } from './answer.ts';
import type { Clock } from './clock.ts';
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

/** One WebSocket that is passed through. */
export type TunnelSocket = {
  /** A whole message. False: the fan is slow, and nothing more may be sent until `writable`. */
  send(payload: Uint8Array, isBinary: boolean): boolean;
  /** 1005 for no code; 1006 cuts the connection. */
  end(code: number, reason: string): void;
};

/** Answer of `otherwise` to a request that asks for a WebSocket. */
export type Tunnel = {
  tunnel: true;
  /** The subprotocol agreed to; empty for none. */
  protocol: string;
  headers?: HeaderList;
  open(socket: TunnelSocket): void;
  /** The payload is only good during the call. */
  message(payload: Uint8Array, isBinary: boolean): void;
  writable(): void;
  /** As Stream.closed; 1006 for a cut connection. */
  closed(code: number, reason: string): void;
};

export type Handler = (request: Request) => Answer | Stream | Promise<Answer | Stream>;
export type OtherwiseHandler = (
  request: Request,
) => Answer | Stream | Tunnel | Promise<Answer | Stream | Tunnel>;
export type SocketHandler = (request: Request) => Answer | Upgrade | Promise<Answer | Upgrade>;

export type RouteOptions = {
  /** Largest body; declared longer: 413 at once and close. Default: the server's. */
  bodyBytesMax?: number;
  /** Runs before the body has come, and takes it in pieces: `request.upload` instead of `request.body`. */
  isStreamed?: boolean;
  /** Asked of each request as soon as its head is read; what it answers is sent at once, and the route never runs. */
  refuse?: Refuse;
};

/** `close` also gives the connection up, and whatever was sent on it behind this request. */
export type Refuse = (request: Request) => { answer: Answer; close: boolean } | undefined;

export type Server = {
  /** Patterns are literal segments and `:name`. A known path with another method answers 405 with Allow. */
  route(method: Method, pattern: string, run: Handler, options?: RouteOptions): void;
  socket(pattern: string, run: SocketHandler): void;
  /** Whatever no pattern matches; without one, 404. */
  otherwise(run: OtherwiseHandler, options?: RouteOptions): void;
  /** Rejects with a sentence that names the port when it cannot be had. */
  listen(): Promise<{ port: number }>;
  /** Connections that are open, and requests that wait for us (for Redis, an origin), not we for them. */
  load(): Load;
  /** From now on each answer asks its client to take another connection, so that a balancer's move elsewhere. */
  drain(): void;
  /** What a role does about its streams when the server closes: awaited before those that are left are ended. */
  beforeClose(work: () => Promise<void>): void;
  /**
   * Stops accepting, lets requests finish for up to `graceMs`, then closes everything. A connection younger than
   * `lingerMs` whose request may still be on its way is waited for.
   */
  close(graceMs: number, options?: { lingerMs: number }): Promise<void>;
  /** Reads the certificate again; connections from now on see it, those that are open go on. Throws, and keeps the old. */
  renewCertificate(): Promise<void>;
};

export type Load = { connections: number; requests: number };

/** Where a certificate (with its chain) and its key are, both PEM. */
export type TlsFiles = { certFile: string; keyFile: string };

/**
 * Says which requests are not taken now. Asked before the body is read, and only while `level` is above 0, so that
 * in ordinary times it costs one look at a variable.
 */
export type Guard = {
  readonly level: number;
  /** An answer when the request is refused; `close` also gives its connection up. */
  refuse(request: Request, pattern: string): { answer: Answer; close: boolean } | undefined;
};

export type ServerOptions = {
  name: string;
  host: string;
  port: number;
  /** Refuse to share the port with another process; by default several processes may serve one port. */
  exclusive?: boolean;
  log: Log;
  /** By which slow readers and slow bodies are judged; default the system's. */
  clock?: Clock;
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
  /** Connections beyond are closed as they come; must stay below the descriptors of the process. Default: no limit. */
  connectionsMax?: number;
  /** Speaks TLS 1.2 and 1.3, and nothing else. */
  tls?: TlsFiles;
  guard?: Guard;
  /** Most bytes of kept frames that wait for one slow reader; whoever would need more is cut. Default 16 KiB. */
  slowReaderBytesMax?: number;
  /** Told of frames that were replaced by newer ones, and of readers that were cut. */
  slowReaders?: { dropped(bytes: number): void; cut(): void };
  /** Longest message of our own WebSockets; default 4 KiB. A longer one closes its connection. */
  messageBytesMax?: number;
  /** Longest message of a WebSocket that is passed through; default 1 MiB. Those of our own sockets are short. */
  tunnelBytesMax?: number;
  /** Added to every answer (security headers). */
  headers?: HeaderList;
  /**
   * Asked once for each pattern, method and class of status (`2xx`); what it gives is told the seconds of every such
   * request. A stream counts when it opens.
   */
  observer?: (seen: { route: string; method: string; status: string }) => (seconds: number) => void;
};
