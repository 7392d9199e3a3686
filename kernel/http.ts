// The one file that knows uWebSockets.js. What the rest of the system sees are plain requests and answers.
//
// Promises: every route is wrapped, so a throw is a 500 and never the end of the process; writes are corked; a
// client that leaves at any moment does no harm; a request whose framing or head is in any way ambiguous is
// refused and its connection closed; no route but those that ask for it in pieces runs before its whole body has
// arrived; a stream keeps at most
// the newest frame for a slow reader and is closed when it stays unwritable for `slowReaderMs`.

import type {
  HttpRequest,
  HttpResponse,
  TemplatedApp,
  us_listen_socket,
  us_socket_context_t,
} from 'uWebSockets.js';
import { randomBytes } from 'node:crypto';
import { createRequire } from 'node:module';
import { createTrust } from './address.ts';
import {
  type Answer,
  declaredLength,
  type HeaderList,
  headLines,
  problem,
  problemFrom,
  statusLine,
} from './answer.ts';
import { type ErrorCode, Refusal } from './errors.ts';
import { Exchange } from './exchange.ts';
import { createHeadReader } from './head.ts';
import { COMMENT, SocketLink, StreamLink } from './links.ts';
import { isPlainPath, isPlainQuery } from './path.ts';
import { createRouter } from './router.ts';
import type {
  Handler,
  OtherwiseHandler,
  RouteOptions,
  Server,
  ServerOptions,
  SocketHandler,
  Stream,
  Tunnel,
  Upgrade,
} from './server.ts';
import { checkCertificate } from './tls.ts';
import { TunnelLink } from './tunnel.ts';
import { Inflow, isBodyLate } from './upload.ts';

export { type Answer, json, problem } from './answer.ts';
export type { Request } from './exchange.ts';
export type {
  EventStream,
  Guard,
  Handler,
  Load,
  Method,
  OtherwiseHandler,
  RouteOptions,
  Server,
  ServerOptions,
  Socket,
  SocketHandler,
  Stream,
  Tunnel,
  TunnelSocket,
  Upgrade,
} from './server.ts';

type Uws = typeof import('uWebSockets.js');
type Wired = Exchange<HttpResponse>;
/** Of one pattern, by method: what is told the seconds, by the first digit of the status. */
type Observers = Map<string, ((seconds: number) => void)[]>;
type Result = Answer | Stream | Upgrade | Tunnel;
type Route = {
  pattern: string;
  run: Handler | OtherwiseHandler | SocketHandler;
  bodyBytesMax: number;
  isStreamed: boolean;
  observers: Observers;
};

const METHODS: ReadonlySet<string> = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']);
/** What a proxy may call a request: a word that is safe in a header, a log line and a page. */
const REQUEST_ID = /^[A-Za-z0-9._-]{8,64}$/;
const LISTEN_SHARED = 0;
const LISTEN_EXCLUSIVE = 1;
/** A fan sends a word now and then; anything longer is not ours. */
const MESSAGE_BYTES_MAX = 4096;
/** Only ever reached when one frame is larger than this, since nothing is written to a slow socket. */
const SOCKET_BACKPRESSURE_BYTES = 65_536;
/** Seconds without a word until a WebSocket is closed; pings go out on their own in between. */
const SOCKET_IDLE_S = 60;
/** Of a WebSocket that is passed through, where the server's owner says nothing else. */
const TUNNEL_BYTES_MAX = 1_048_576;
const SWEEP_MS = 500;
/** Turns of the event loop that closing the port waits for one in which nothing arrives. */
const QUIET_TURNS_MAX = 1000;
type SocketLimits = { maxPayloadLength: number; maxBackpressure: number };
const OWN_SOCKETS: SocketLimits = {
  maxPayloadLength: MESSAGE_BYTES_MAX,
  maxBackpressure: SOCKET_BACKPRESSURE_BYTES,
};
const STREAM_HEADERS: HeaderList = [
  ['content-type', 'text/event-stream'],
  ['cache-control', 'no-store'],
  // Tells nginx not to gather frames before it passes them on.
  ['x-accel-buffering', 'no'],
];

let loaded: Uws | undefined;
const loadUws = (): Uws => {
  if (loaded !== undefined) return loaded;
  // Read once by the native library while it loads, and only from the environment, hence the one write to it
  // outside kernel/config.ts. Its own limit of 4,096 bytes depends on how a head is cut into segments.
  process.env.UWS_HTTP_MAX_HEADERS_SIZE = '16384';
  // The package describes itself with these types; a missing binary throws here with the platforms that work.
  loaded = createRequire(import.meta.url)('uWebSockets.js') as Uws;
  return loaded;
};

/** What the server keeps an eye on: cut when it has been slow, or has been sending its body, for too long. */
type Watched = { isLate(nowMs: number): boolean; cut(): void };

const isStreamed = (body: Answer['body']): body is AsyncIterable<Uint8Array> =>
  typeof body === 'object' && Symbol.asyncIterator in body;

/** RFC 6455, section 4.2.1. That the key is there is what the library looks at. */
const asksSocket = (x: Wired): boolean =>
  x.method === 'GET' &&
  x.header('upgrade')?.toLowerCase() === 'websocket' &&
  x.header('sec-websocket-version') === '13';

/** Throws when a trusted proxy is not an address, or when the native library cannot run on this system. */
export const createServer = (options: ServerOptions): Server => {
  const { name, host, port, log, slowReaderMs, observer, tracer, guard, tls } = options;
  const uws = loadUws();
  const connectionsMax = options.connectionsMax ?? Number.POSITIVE_INFINITY;
  const router = createRouter<Route>();
  const sockets = createRouter<Route>();
  const readHead = createHeadReader();
  const trust = createTrust(options.trustedProxies);
  const believed = options.trustedProxies.length === 0 ? undefined : trust.isProxy;
  const isBelieved = options.idsFrom === 'anyone' ? () => true : believed;
  const ownLines = headLines(options.headers ?? []);
  const idPrefix = randomBytes(5).toString('hex');
  const links = new Set<StreamLink | SocketLink | TunnelLink>();
  const watched = new Set<Watched>();
  let otherwise: Route | undefined;
  let idCount = 0;
  /** The exchange whose handler is running right now: its writes are corked by the library. */
  let current: Wired | undefined;
  /** Exchanges that wait for something: a body, a promise, a streamed answer. */
  let pendingCount = 0;
  let connectionCount = 0;
  let openedCount = 0;
  let openedAtMs = Number.NEGATIVE_INFINITY;
  /** Event streams that are passed on from elsewhere: they never end by themselves, so closing ends them. */
  const feeds = new Set<() => void>();
  const leavings: (() => Promise<void>)[] = [];
  let draining = false;
  let stopping = false;
  /** One, and after a renewal of the certificate another one that took its port over; the newest is last. */
  const apps: TemplatedApp[] = [];
  let token: us_listen_socket | undefined;
  let listeningPort = port;
  let sweep: NodeJS.Timeout | undefined;

  const safely = (event: string, work: () => void): void => {
    try {
      work();
    } catch (error) {
      // What a role does with its stream is its own fault; the other streams must not pay for it.
      log.error('stream-failed', { server: name, during: event, error });
    }
  };

  const noRoute: Observers = new Map();
  const note = (x: Wired, status: number): void => {
    x.span?.end(status);
    if (observer === undefined) return;
    const observers = x.observers ?? noRoute;
    // A label takes only words we know: a stranger may invent methods without end.
    const method = METHODS.has(x.method) ? x.method : 'other';
    const group = Math.floor(status / 100);
    let ofMethod = observers.get(method);
    if (ofMethod === undefined) {
      ofMethod = [];
      observers.set(method, ofMethod);
    }
    ofMethod[group] ??= observer({ route: x.pattern, method, status: `${group}xx` });
    ofMethod[group]((performance.now() - x.startedMs) / 1000);
  };

  /** Must run before anything is awaited: without it the library ends the process. */
  const attend = (x: Wired): void => {
    if (x.attended) return;
    x.attended = true;
    x.keepPeer();
    pendingCount += 1;
    x.wire!.onAborted(() => {
      if (x.mode === 'over') return;
      pendingCount -= 1;
      x.abandon();
      note(x, 499);
    });
  };
  const settle = (x: Wired): void => {
    if (x.attended) pendingCount -= 1;
    x.finish();
  };
  const cork = (x: Wired, write: () => void): void => {
    if (current === x) write();
    else x.wire!.cork(write);
  };
  const writeHead = (x: Wired, wire: HttpResponse, status: string, lines: string): void => {
    wire.writeStatus(status);
    const text = x.id + ownLines + lines;
    // biome-ignore lint/suspicious/noControlCharactersInRegex: a head is latin1, and strings are written as UTF-8.
    wire.writeHeader('x-request-id', /[^\x00-\x7f]/.test(text) ? Buffer.from(text, 'latin1') : text);
  };
  const discard = (body: Answer['body']): void => {
    if (isStreamed(body)) body[Symbol.asyncIterator]().return?.().catch(logStray);
  };
  const logStray = (error: unknown): void => log.debug('body-ended-late', { server: name, error });

  /** Sends a body piece by piece, as fast as the reader takes it; the reader leaving ends the source at once. */
  const pump = async (
    x: Wired,
    answer: Answer,
    lines: string,
    body: AsyncIterable<Uint8Array>,
  ): Promise<void> => {
    attend(x);
    const wire = x.wire!;
    const total = declaredLength(answer.headers ?? []);
    const isFeed =
      total === undefined &&
      /\ncontent-type: text\/event-stream/i.test(lines) &&
      !/\ncontent-encoding:/i.test(lines);
    const source = body[Symbol.asyncIterator]();
    let waitingSinceMs = 0;
    let wake: (() => void) | undefined;
    const watch: Watched = {
      isLate: (nowMs) => waitingSinceMs > 0 && nowMs - waitingSinceMs > slowReaderMs,
      cut: () => {
        if (x.mode === 'answering') wire.close();
      },
    };
    const writable = async (): Promise<void> => {
      waitingSinceMs = performance.now();
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
      waitingSinceMs = 0;
    };
    /** Answers whether more may follow. */
    const send = async (chunk: Uint8Array): Promise<boolean> => {
      if (total === undefined) {
        let ok = true;
        wire.cork(() => {
          ok = wire.write(chunk);
        });
        if (!ok) await writable();
        return x.mode === 'answering';
      }
      let rest = chunk;
      for (;;) {
        const offset = wire.getWriteOffset();
        if (offset + rest.length >= total) x.upload?.release();
        if (offset + rest.length > total) throw new Error('the body is longer than its declared length');
        let [ok, done] = [true, false];
        wire.cork(() => {
          [ok, done] = wire.tryEnd(rest, total);
        });
        if (done) {
          settle(x);
          note(x, answer.status);
        }
        if (ok || done) return !done;
        await writable();
        if (x.mode !== 'answering') return false;
        rest = rest.subarray(wire.getWriteOffset() - offset);
        if (rest.length === 0) return true;
      }
    };
    x.mode = 'answering';
    watched.add(watch);
    x.left = () => {
      wake?.();
      source.return?.().catch(logStray);
    };
    wire.onWritable(() => {
      wake?.();
      return true;
    });
    cork(x, () => {
      // At the end of a body in pieces the library would write this header into it: said here, and the client closes.
      const parting = draining ? '\r\nconnection: close' : '';
      writeHead(x, wire, statusLine(answer.status), lines + parting);
      // The library ends the head only with the first piece. The reader of an event stream must not wait for that.
      if (isFeed) wire.write(COMMENT);
    });
    const endFeed = (): void => {
      if (x.mode !== 'answering') return;
      wire.cork(() => wire.end());
      x.left?.();
      settle(x);
      note(x, answer.status);
    };
    if (isFeed) feeds.add(endFeed);
    if (isFeed && stopping) endFeed();
    try {
      let more = true;
      while (more) {
        const step = await source.next();
        if (x.mode !== 'answering') return;
        if (step.done === true) break;
        if (step.value.length > 0) more = await send(step.value);
      }
      if (x.mode !== 'answering') return;
      if (total !== undefined && total > 0) throw new Error('the body is shorter than its declared length');
      x.upload?.release();
      wire.cork(() => wire.end());
      settle(x);
      note(x, answer.status);
    } catch (error) {
      if (x.mode !== 'answering') return;
      log.warn('answer-broken', { server: name, ...x.ids, route: x.pattern, error });
      wire.close();
    } finally {
      watched.delete(watch);
      feeds.delete(endFeed);
    }
  };

  const respond = (x: Wired, answer: Answer, close = false): void => {
    const { wire } = x;
    const { body } = answer;
    if (wire === undefined || x.mode !== 'open') return discard(body);
    const headers = answer.headers ?? [];
    const bodiless = x.method === 'HEAD' || answer.status === 204 || answer.status === 304;
    const closing = close || draining;
    let lines = '';
    try {
      lines = headLines(headers);
    } catch (error) {
      discard(body);
      throw error;
    }
    if (isStreamed(body) && !bodiless) {
      pump(x, answer, lines, body).catch((error: unknown) => fail(x, error));
      return;
    }
    x.upload?.release();
    // A HEAD tells the length a GET would have. (The library's own way to report one leaves the response open.)
    if (x.method === 'HEAD' && !closing) {
      const length = isStreamed(body) ? declaredLength(headers) : Buffer.byteLength(body ?? '');
      if (length !== undefined) lines += `\r\ncontent-length: ${length}`;
    }
    cork(x, () => {
      writeHead(x, wire, statusLine(answer.status), lines);
      if (bodiless && !closing) wire.endWithoutBody();
      else wire.end(bodiless || isStreamed(body) ? undefined : body, closing);
    });
    settle(x);
    if (isStreamed(body)) discard(body);
    note(x, answer.status);
  };

  /**
   * Refuses and closes. The answer goes out in the next turn of the loop: were it written at once, the library would
   * go on to read what follows in the same segment as another request, and that is how requests are smuggled.
   */
  const refuse = (x: Wired, code: ErrorCode, detail?: string, headers: HeaderList = []): void =>
    refuseWith(x, problem(code, { detail, headers }));
  const refuseWith = (x: Wired, answer: Answer): void => {
    attend(x);
    setImmediate(() => respond(x, answer, true));
  };
  /** Whether the guard has refused, and so has answered, this request. Asked only while its level is above 0. */
  const isShed = (x: Wired): boolean => {
    const shed = guard?.refuse(x, x.pattern);
    if (shed === undefined) return false;
    if (shed.close || x.declaredBytes > 0) refuseWith(x, shed.answer);
    else respond(x, shed.answer);
    return true;
  };

  const fail = (x: Wired, error: unknown): void => {
    // A client that leaves aborts what was done for it; the throw that follows is no fault.
    if (x.mode === 'over') return log.debug('request-abandoned', { server: name, ...x.ids, error });
    const where = () => ({ server: name, ...x.ids, route: x.pattern });
    try {
      if (error instanceof Refusal) {
        if (error.cause !== undefined)
          log.warn('request-refused', { ...where(), code: error.code, error: error.cause });
        return respond(x, problemFrom(error));
      }
    } catch (second) {
      // A refusal whose members cannot be written as JSON: answered below, like any other fault of ours.
      log.error('refusal-unwritable', { ...where(), error: second });
    }
    log.error('request-failed', { ...where(), error });
    respond(x, problem('internal'));
  };

  const openStream = (x: Wired, stream: Stream): void => {
    const { wire } = x;
    if (wire === undefined || x.mode !== 'open') return safely('closed', stream.closed);
    if (stopping || x.method === 'HEAD') {
      respond(x, stopping ? problem('unavailable') : { status: 200, headers: STREAM_HEADERS });
      return safely('closed', stream.closed);
    }
    let lines = '';
    try {
      lines = headLines([...STREAM_HEADERS, ...(stream.headers ?? [])]);
    } catch (error) {
      safely('closed', stream.closed);
      throw error;
    }
    const link = new StreamLink(wire, stream, streamOver);
    links.add(link);
    wire.onAborted(() => link.finish());
    wire.onWritable(() => link.writable());
    cork(x, () => {
      writeHead(x, wire, '200 OK', lines);
      wire.write(COMMENT);
      settle(x);
      note(x, 200);
      safely('open', () => stream.open(link));
    });
  };
  const streamOver = (link: StreamLink | SocketLink): void => {
    links.delete(link);
    safely('closed', () => link.route.closed());
  };

  const openSocket = (x: Wired, upgrade: Upgrade, key: string, context: us_socket_context_t): void => {
    const { wire } = x;
    if (wire === undefined || x.mode !== 'open') return safely('closed', upgrade.closed);
    if (stopping) {
      respond(x, problem('unavailable'));
      return safely('closed', upgrade.closed);
    }
    const link = new SocketLink(upgrade, streamOver);
    links.add(link);
    cork(x, () => {
      writeHead(x, wire, '101 Switching Protocols', '');
      settle(x);
      note(x, 101);
      // No extension and no subprotocol is agreed to. The open handler runs before this returns.
      wire.upgrade({ link }, key, '', '', context);
    });
  };

  const openTunnel = (x: Wired, tunnel: Tunnel, context: us_socket_context_t): void => {
    const { wire } = x;
    const away = () => tunnel.closed(1006, '');
    if (wire === undefined || x.mode !== 'open') return safely('closed', away);
    if (stopping) {
      respond(x, problem('unavailable'));
      return safely('closed', away);
    }
    let lines = '';
    try {
      lines = headLines(tunnel.headers ?? []);
    } catch (error) {
      safely('closed', away);
      throw error;
    }
    const key = x.header('sec-websocket-key') ?? '';
    const link = new TunnelLink(tunnel, (over) => links.delete(over));
    links.add(link);
    cork(x, () => {
      writeHead(x, wire, '101 Switching Protocols', lines);
      settle(x);
      note(x, 101);
      wire.upgrade({ link }, key, tunnel.protocol, '', context);
    });
  };

  const deliver = (x: Wired, result: Result, context?: us_socket_context_t): void => {
    if ('stream' in result) openStream(x, result);
    else if ('tunnel' in result) {
      if (context === undefined || !x.asksSocket) throw new Error(`${x.pattern}: a tunnel nobody asked for`);
      openTunnel(x, result, context);
    } else if (!('upgrade' in result)) respond(x, result);
    else if (context !== undefined) openSocket(x, result, x.header('sec-websocket-key') ?? '', context);
    else throw new Error(`${x.pattern} is no socket route, but wants to become a socket`);
  };

  /** Runs a route, under a span while traces are switched on. */
  const run = (x: Wired, route: Route, context?: us_socket_context_t): void => {
    if (tracer === undefined) return work(x, route, context);
    const { method, pattern, startedMs, trace, id: requestId } = x;
    x.span = tracer.request({ trace, requestId, method, route: pattern, server: name, startedMs });
    x.follow(x.span.trace);
    tracer.run(x.span, () => work(x, route, context));
  };

  const work = (x: Wired, route: Route, context?: us_socket_context_t): void => {
    try {
      const result = route.run(x);
      if (!('then' in result)) return deliver(x, result, context);
      attend(x);
      result
        .then((value) => deliver(x, value, context))
        .catch((error: unknown) => fail(x, error))
        .catch((error: unknown) => log.error('request-failed', { server: name, ...x.ids, error }));
    } catch (error) {
      fail(x, error);
    }
  };

  /** Waits for the whole body, then runs the route. A body that comes too slowly, or is too long, is cut off. */
  const collect = (x: Wired, route: Route): void => {
    attend(x);
    const chunks: Buffer[] = [];
    const startedMs = performance.now();
    let bytes = 0;
    const wire = x.wire!;
    const watch: Watched = {
      isLate: (nowMs) => x.mode !== 'open' || isBodyLate(bytes, nowMs - startedMs),
      cut: () => {
        if (x.mode === 'open') wire.close();
        watched.delete(watch);
      },
    };
    watched.add(watch);
    wire.onData((chunk, isLast) => {
      if (x.mode !== 'open') return;
      bytes += chunk.byteLength;
      if (bytes > route.bodyBytesMax) {
        watched.delete(watch);
        chunks.length = 0;
        return respond(x, problem('body-too-large'), true);
      }
      // The library takes the chunk back after this call, so it is copied.
      chunks.push(Buffer.from(new Uint8Array(chunk)));
      if (!isLast) return;
      watched.delete(watch);
      x.body = chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks);
      run(x, route);
    });
  };

  /** Runs the route at once; it takes the body in pieces as they come, or answers without it. */
  const receive = (x: Wired, route: Route, bytes: number): void => {
    attend(x);
    const wire = x.wire!;
    const watch: Watched = {
      isLate: (nowMs) => {
        upload.touch(nowMs);
        return upload.isLate(nowMs);
      },
      cut: () => {
        if (x.mode !== 'over') wire.close();
      },
    };
    const upload = new Inflow(wire, bytes, () => watched.delete(watch));
    x.upload = upload;
    watched.add(watch);
    wire.onData((chunk, isLast) => upload.take(chunk, isLast));
    run(x, route);
  };

  const serve = (wire: HttpResponse, native: HttpRequest, context?: us_socket_context_t): void => {
    idCount += 1;
    const head = readHead(native);
    const x: Wired = new Exchange({
      wire,
      method: native.getCaseSensitiveMethod(),
      path: native.getUrl(),
      query: native.getQuery() ?? '',
      id: `${idPrefix}-${idCount.toString(36)}`,
      head,
      trust,
      isBelieved,
      startedMs: observer === undefined && tracer === undefined ? 0 : performance.now(),
    });
    current = x;
    const givenId = x.believed('x-request-id');
    if (givenId !== undefined && REQUEST_ID.test(givenId)) x.id = givenId;
    if (head.fault !== '') return refuse(x, 'bad-header', head.fault);
    if (!isPlainPath(x.path) || !isPlainQuery(x.query)) return refuse(x, 'bad-path');
    if (!METHODS.has(x.method))
      return refuse(x, 'wrong-method', undefined, [['allow', [...METHODS].join(', ')]]);
    const socket = x.method === 'GET' ? sockets.find('GET', x.path) : undefined;
    if (socket?.outcome === 'found') {
      x.pattern = socket.route.pattern;
      x.observers = socket.route.observers;
      x.params = socket.params;
      if (!asksSocket(x) || context === undefined)
        return refuse(x, 'upgrade-required', undefined, [
          ['upgrade', 'websocket'],
          ['sec-websocket-version', '13'],
        ]);
      if (head.bodyBytes > 0) return refuse(x, 'bad-header', 'A handshake has no body.');
      if (guard !== undefined && guard.level > 0 && isShed(x)) return;
      return run(x, socket.route, context);
    }
    const found = router.find(x.method, x.path);
    if (found.outcome === 'wrong-method') {
      if (head.bodyBytes > 0) return refuse(x, 'wrong-method', undefined, [['allow', found.allow]]);
      return respond(x, problem('wrong-method', { headers: [['allow', found.allow]] }));
    }
    const route = found.outcome === 'found' ? found.route : otherwise;
    if (route === undefined)
      return head.bodyBytes > 0 ? refuse(x, 'not-found') : respond(x, problem('not-found'));
    x.pattern = route.pattern;
    x.observers = route.observers;
    if (found.outcome === 'found') x.params = found.params;
    if (guard !== undefined && guard.level > 0 && isShed(x)) return;
    if (head.bodyBytes > route.bodyBytesMax) return refuse(x, 'body-too-large');
    if (found.outcome !== 'found' && context !== undefined && asksSocket(x)) {
      if (head.bodyBytes > 0) return refuse(x, 'bad-header', 'A handshake has no body.');
      x.asksSocket = true;
      return run(x, route, context);
    }
    if (head.bodyBytes === 0) run(x, route);
    else if (route.isStreamed) receive(x, route, head.bodyBytes);
    else collect(x, route);
  };

  const guarded = (wire: HttpResponse, native: HttpRequest, context?: us_socket_context_t): void => {
    try {
      serve(wire, native, context);
    } catch (error) {
      // Only a fault in this file comes here. An exception that reached the library would end the process.
      log.error('server-failed', { server: name, error });
      safely('close', () => wire.close());
    } finally {
      current = undefined;
    }
  };

  /** Patterns of our own sockets: a port that is opened later has them, too. */
  const socketPatterns: string[] = [];
  const openSockets = (app: TemplatedApp, pattern: string, limits: SocketLimits) =>
    app.ws<{ link: SocketLink | TunnelLink }>(pattern, {
      ...limits,
      idleTimeout: SOCKET_IDLE_S,
      sendPingsAutomatically: true,
      compression: uws.DISABLED,
      upgrade: guarded,
      open: (native) => {
        const { link } = native.getUserData();
        link.attach(native);
        if (link instanceof TunnelLink) safely('open', () => link.route.open(link));
        else safely('open', () => link.route.open(link));
      },
      message: (native, message, isBinary) => {
        const { link } = native.getUserData();
        if (link instanceof TunnelLink)
          return safely('message', () => link.route.message(new Uint8Array(message), isBinary));
        if (isBinary) return link.end(1003, 'text only');
        const text = Buffer.from(message).toString('utf8');
        safely('message', () => link.route.message(link, text));
      },
      drain: (native) => safely('drain', () => native.getUserData().link.drained()),
      close: (native, code, reason) => {
        // The filter below is told of connections that come and of those that go, but not of sockets that go.
        connectionCount -= 1;
        safely('close', () => native.getUserData().link.finish(code, Buffer.from(reason).toString('utf8')));
      },
    });
  /** The routes on a port of their own making: plain, or with the certificate as it is in its files now. */
  const makeApp = (): TemplatedApp => {
    const app =
      tls === undefined
        ? uws.App()
        : uws.SSLApp({ cert_file_name: tls.certFile, key_file_name: tls.keyFile });
    for (const pattern of socketPatterns) openSockets(app, pattern, OWN_SOCKETS);
    openSockets(app, '/*', {
      maxPayloadLength: options.tunnelBytesMax ?? TUNNEL_BYTES_MAX,
      // None: a message in a tunnel is never dropped. Its sender pauses instead.
      maxBackpressure: 0,
    });
    app.any('/*', guarded);
    const counted = (wire: HttpResponse, more: number): void => {
      connectionCount += more;
      if (more < 0) return;
      openedCount += 1;
      openedAtMs = performance.now();
      if (connectionCount > connectionsMax) wire.close();
    };
    // Told 1 for a connection that came, and -1 for one that went.
    app.filter((wire, more) => counted(wire, Number(more)));
    return app;
  };
  if (tls !== undefined) checkCertificate(tls);
  apps.push(makeApp());

  const routeOf = (pattern: string, run: Route['run'], more: RouteOptions = {}): Route => ({
    pattern,
    run,
    bodyBytesMax: more.bodyBytesMax ?? options.bodyBytesMax,
    isStreamed: more.isStreamed === true,
    observers: new Map(),
  });

  const listenOn = (app: TemplatedApp, onPort: number): Promise<us_listen_socket> =>
    new Promise((resolve, reject) => {
      // The types leave out the overload with host and options; the library takes all four.
      const listen = app.listen.bind(app) as unknown as (
        host: string,
        port: number,
        mode: number,
        done: (token: us_listen_socket | false) => void,
      ) => void;
      listen(host, onPort, options.exclusive === true ? LISTEN_EXCLUSIVE : LISTEN_SHARED, (socket) => {
        if (socket !== false) return resolve(socket);
        reject(
          new Error(
            `Port ${onPort} on ${host} (${name}) cannot be opened: another program uses it, or it may not be used here. Stop that program, or choose another port.`,
          ),
        );
      });
    });

  /**
   * The kernel has taken a connection before we hear of it, and resets those that we have not accepted when the port
   * closes. So the port is closed right after a turn of the loop in which nothing has come: what is left is the few
   * microseconds since the last look.
   */
  const closePort = async (closing: us_listen_socket): Promise<void> => {
    let seen = -1;
    for (let turn = 0; turn < QUIET_TURNS_MAX && seen !== openedCount + idCount; turn += 1) {
      seen = openedCount + idCount;
      await new Promise((resolve) => setImmediate(resolve));
    }
    uws.us_listen_socket_close(closing);
  };

  const settled = async (graceMs: number, lingerMs: number): Promise<void> => {
    const untilMs = performance.now() + graceMs;
    const isAwaited = (nowMs: number): boolean =>
      pendingCount > 0 || (connectionCount > links.size && nowMs - openedAtMs < lingerMs);
    for (let nowMs = performance.now(); nowMs < untilMs && isAwaited(nowMs); nowMs = performance.now())
      await new Promise((resolve) => setTimeout(resolve, 10));
  };

  let closing: Promise<void> | undefined;
  const closeAll = async (graceMs: number, lingerMs: number): Promise<void> => {
    draining = true;
    if (token !== undefined) await closePort(token);
    stopping = true;
    for (const endFeed of [...feeds]) endFeed();
    const leave = async (): Promise<void> => {
      for (const work of leavings) await work();
      for (const link of [...links]) {
        if (link instanceof StreamLink) link.end();
        else link.end(1001, 'going away');
      }
    };
    await Promise.all([leave(), settled(graceMs, lingerMs)]);
    for (const app of apps) app.close();
    clearInterval(sweep);
  };

  /** A second listener with the new certificate beside the first, which then closes: no connection is refused. */
  const renewCertificate = async (): Promise<void> => {
    if (tls === undefined || token === undefined || stopping) return;
    checkCertificate(tls);
    const old = token;
    const renewed = makeApp();
    token = await listenOn(renewed, listeningPort);
    apps.push(renewed);
    await closePort(old);
  };

  return {
    route: (method, pattern, run, more) => router.add(method, pattern, routeOf(pattern, run, more)),
    socket(pattern, run) {
      sockets.add('GET', pattern, routeOf(pattern, run, { bodyBytesMax: 0 }));
      socketPatterns.push(pattern);
      for (const app of apps) openSockets(app, pattern, OWN_SOCKETS);
    },
    otherwise(run, more) {
      otherwise = routeOf('otherwise', run, more);
    },
    async listen() {
      token = await listenOn(apps[0]!, port);
      listeningPort = uws.us_socket_local_port(token);
      sweep = setInterval(() => {
        const nowMs = performance.now();
        for (const link of links)
          if (link.slowSinceMs > 0 && nowMs - link.slowSinceMs > slowReaderMs) link.cut();
        for (const some of watched) if (some.isLate(nowMs)) some.cut();
      }, SWEEP_MS);
      sweep.unref();
      return { port: listeningPort };
    },
    load: () => ({ connections: connectionCount, requests: pendingCount }),
    drain() {
      draining = true;
    },
    beforeClose: (work) => void leavings.push(work),
    close(graceMs, more = { lingerMs: 0 }) {
      closing ??= closeAll(graceMs, more.lingerMs);
      return closing;
    },
    renewCertificate,
  };
};
