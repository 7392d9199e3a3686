// The one file that knows uWebSockets.js, but for the mending in bystander.ts. What the rest of the system sees are
// plain requests and answers.
//
// Promises: every route is wrapped, so a throw is a 500 and never the end of the process; writes are corked; a
// client that leaves at any moment does no harm; a request whose framing or head is in any way ambiguous is
// refused and its connection closed; no route but those that ask for it in pieces runs before its whole body has
// arrived; a stream keeps at most the newest frame for a slow reader and is closed when it stays unwritable for
// `slowReaderMs`.

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
  isAscii,
  problem,
  problemFrom,
  statusLine,
} from './answer.ts';
import { type Bystander, openBystander } from './bystander.ts';
import { afterReading, systemClock } from './clock.ts';
import { type ErrorCode, Refusal } from './errors.ts';
import { Exchange } from './exchange.ts';
import { createHeadReader } from './head.ts';
import { COMMENT, type LinkKeeper, SocketLink, StreamLink } from './links.ts';
import type { Outbox } from './outbox.ts';
import { isPlainPath, isPlainQuery } from './path.ts';
import { createRouter } from './router.ts';
import type {
  Handler,
  OtherwiseHandler,
  Refuse,
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
import { Gathering, Inflow, isBodyLate } from './upload.ts';

export { type Answer, json, prepared, problem } from './answer.ts';
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
  refuse: Refuse | undefined;
  observers: Observers;
};

const METHODS: ReadonlySet<string> = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']);
/** What a proxy may call a request: a word that is safe in a header, a log line and a page. */
const REQUEST_ID = /^[A-Za-z0-9._-]{8,64}$/;
const LISTEN_SHARED = 0;
const LISTEN_EXCLUSIVE = 1;
/** Longest message of our own sockets, and most that waits for a slow reader, where the owner says nothing else. */
const MESSAGE_BYTES_MAX = 4096;
const SLOW_BYTES_MAX = 16_384;
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
const STREAM_HEADERS: HeaderList = [
  ['content-type', 'text/event-stream'],
  ['cache-control', 'no-store'],
  // Tells nginx not to gather frames before it passes them on.
  ['x-accel-buffering', 'no'],
];
const STREAM_LINES = headLines(STREAM_HEADERS);

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

/**
 * RFC 6455, section 4.2.1. That the key is there is what the library looks at. It also takes any option of five letters
 * for `close`, and would close the connection under the socket.
 */
const asksSocket = (x: Wired): boolean => {
  const wishes = (x.header('connection') ?? '').toLowerCase().split(',', 8);
  return (
    x.method === 'GET' &&
    x.header('upgrade')?.toLowerCase() === 'websocket' &&
    x.header('sec-websocket-version') === '13' &&
    wishes.some((wish) => wish.trim() === 'upgrade') &&
    wishes.every((wish) => wish.trim().length !== 5)
  );
};

/** Throws when a trusted proxy is not an address, or when the native library cannot run on this system. */
export const createServer = (options: ServerOptions): Server => {
  const { name, host, port, log, slowReaderMs, observer, tracer, guard, tls, clock = systemClock } = options;
  const uws = loadUws();
  const connectionsMax = options.connectionsMax ?? Number.POSITIVE_INFINITY;
  const ownSockets: SocketLimits = {
    maxPayloadLength: options.messageBytesMax ?? MESSAGE_BYTES_MAX,
    maxBackpressure: SOCKET_BACKPRESSURE_BYTES,
  };
  const router = createRouter<Route>();
  const sockets = createRouter<Route>();
  /** The GETs whose pattern is a whole address: found by one look, before all that the others have to pass. */
  const literals = new Map<string, Route>();
  const readHead = createHeadReader();
  const trust = createTrust(options.trustedProxies);
  const believed = options.trustedProxies.length === 0 ? undefined : trust.isProxy;
  const isBelieved = options.idsFrom === 'anyone' ? () => true : believed;
  const ownLines = headLines(options.headers ?? []);
  const idPrefix = `${randomBytes(5).toString('hex')}-`;
  const links = new Set<StreamLink | SocketLink>();
  const tunnels = new Set<TunnelLink>();
  /** Of the links those that are slow right now, so that the sweep never looks at the others. */
  const slow = new Set<Outbox>();
  const watched = new Set<Watched>();
  let otherwise: Route | undefined;
  let idCount = 0;
  /** The exchange whose handler is running right now: its writes are corked by the library. */
  let current: Wired | undefined;
  /** Exchanges that wait for something: a body, a promise, a streamed answer. */
  let pendingCount = 0;
  /** Of them, those whose sender has the turn: they cost a connection, and no work. */
  let arrivingCount = 0;
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
    const group = Math.floor(status / 100);
    const tell = observers.get(x.method)?.[group] ?? observerOf(observers, x, group);
    tell((clock.monotonicMs() - x.startedMs) / 1000);
  };
  const observerOf = (observers: Observers, x: Wired, group: number): ((seconds: number) => void) => {
    // A label takes only words we know: a stranger may invent methods without end.
    const method = METHODS.has(x.method) ? x.method : 'other';
    const ofMethod = observers.get(method) ?? [];
    observers.set(method, ofMethod);
    ofMethod[group] ??= observer!({ route: x.pattern, method, status: `${group}xx` });
    return ofMethod[group];
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
  let bystander: Bystander | undefined;
  /** Writes what `head` writes and makes it a WebSocket; the open handler runs before this returns. */
  const becomeSocket = (x: Wired, wire: HttpResponse, head: () => void, become: () => void): void => {
    cork(x, head);
    if (current === x) become();
    else bystander!.within(wire, become);
  };
  const writeHead = (x: Wired, wire: HttpResponse, status: string, lines: string): void => {
    wire.writeStatus(status);
    const text = x.id + ownLines + lines;
    // A head is latin1, and strings are written as UTF-8.
    wire.writeHeader('x-request-id', isAscii(lines) ? text : Buffer.from(text, 'latin1'));
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
      waitingSinceMs = clock.monotonicMs();
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

  /** What most answers of the gate are: a head that was ready and no body, while the library holds the writes together. */
  const respondAtOnce = (x: Wired, wire: HttpResponse, lines: string): void => {
    x.upload?.release();
    wire.writeStatus('204 No Content');
    wire.writeHeader('x-request-id', x.id + ownLines + lines);
    wire.endWithoutBody();
    settle(x);
    note(x, 204);
  };

  const respond = (x: Wired, answer: Answer, close = false): void => {
    const { wire } = x;
    const { body } = answer;
    if (wire === undefined || x.mode !== 'open') return discard(body);
    if (answer.lines !== undefined && answer.status === 204 && current === x && !close && !draining)
      return respondAtOnce(x, wire, answer.lines);
    const headers = answer.headers ?? [];
    const bodiless = x.method === 'HEAD' || answer.status === 204 || answer.status === 304;
    const closing = close || draining;
    let lines = '';
    try {
      lines = answer.lines ?? headLines(headers);
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
  /** Whether the route has refused this request by its head alone. The library reads over a body that nobody takes. */
  const isRefused = (x: Wired, asked: Refuse): boolean => {
    const refused = asked(x);
    if (refused === undefined) return false;
    if (refused.close) refuseWith(x, refused.answer);
    else respond(x, refused.answer);
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
    if (wire === undefined || x.mode !== 'open') return safely('closed', () => stream.closed());
    if (stopping || x.method === 'HEAD') {
      respond(x, stopping ? problem('unavailable') : { status: 200, headers: STREAM_HEADERS });
      return safely('closed', () => stream.closed());
    }
    let lines = '';
    try {
      const { headers = [] } = stream;
      lines = headers.length === 0 ? STREAM_LINES : headLines([...STREAM_HEADERS, ...headers]);
    } catch (error) {
      safely('closed', () => stream.closed());
      throw error;
    }
    const link = new StreamLink(wire, stream, keeper);
    links.add(link);
    cork(x, () => {
      writeHead(x, wire, '200 OK', lines);
      settle(x);
      note(x, 200);
      safely('open', () => link.open());
    });
  };
  const keeper: LinkKeeper = {
    clock,
    bytesMax: options.slowReaderBytesMax ?? SLOW_BYTES_MAX,
    slowed: (box) => slow.add(box),
    recovered: (box) => slow.delete(box),
    dropped: (bytes) => options.slowReaders?.dropped(bytes),
    overflowed: (box) => cutSlow(box),
    over(link) {
      links.delete(link);
      safely('closed', () => link.route.closed());
    },
  };
  const cutSlow = (box: Outbox | TunnelLink): void => {
    box.cut();
    options.slowReaders?.cut();
  };

  const openSocket = (x: Wired, upgrade: Upgrade, key: string, context: us_socket_context_t): void => {
    const { wire } = x;
    if (wire === undefined || x.mode !== 'open') return safely('closed', () => upgrade.closed());
    if (stopping) {
      respond(x, problem('unavailable'));
      return safely('closed', () => upgrade.closed());
    }
    const link = new SocketLink(upgrade, keeper);
    links.add(link);
    becomeSocket(
      x,
      wire,
      () => {
        writeHead(x, wire, '101 Switching Protocols', '');
        settle(x);
        note(x, 101);
      },
      // No extension and no subprotocol is agreed to.
      () => wire.upgrade({ link }, key, '', '', context),
    );
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
    const link = new TunnelLink(tunnel, clock, (over) => tunnels.delete(over));
    tunnels.add(link);
    becomeSocket(
      x,
      wire,
      () => {
        writeHead(x, wire, '101 Switching Protocols', lines);
        settle(x);
        note(x, 101);
      },
      () => wire.upgrade({ link }, key, tunnel.protocol, '', context),
    );
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
    const body = new Gathering(x.declaredBytes);
    const startedMs = clock.monotonicMs();
    const wire = x.wire!;
    const watch: Watched = {
      isLate: (nowMs) => isBodyLate(body.bytes, nowMs - startedMs),
      cut: () => wire.close(),
    };
    watched.add(watch);
    arrivingCount += 1;
    const over = (): void => {
      if (watched.delete(watch)) arrivingCount -= 1;
    };
    x.left = over;
    wire.onData((chunk, isLast) => {
      if (x.mode !== 'open') return;
      if (body.bytes + chunk.byteLength > route.bodyBytesMax) {
        over();
        return respond(x, problem('body-too-large'), true);
      }
      body.take(chunk);
      if (!isLast) return;
      over();
      x.body = body.whole();
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
    const upload = new Inflow(wire, bytes, clock, () => watched.delete(watch));
    x.upload = upload;
    watched.add(watch);
    wire.onData((chunk, isLast) => upload.take(chunk, isLast));
    run(x, route);
  };

  /** A GET of one of our literal addresses, which is in plain form because the pattern is. */
  const enter = (x: Wired, route: Route): void => {
    x.pattern = route.pattern;
    x.observers = route.observers;
    if (guard !== undefined && guard.level > 0 && isShed(x)) return;
    const bytes = x.declaredBytes;
    if (bytes > route.bodyBytesMax) return refuse(x, 'body-too-large');
    if (route.refuse !== undefined && isRefused(x, route.refuse)) return;
    if (bytes === 0) run(x, route);
    else if (route.isStreamed) receive(x, route, bytes);
    else collect(x, route);
  };

  const serve = (wire: HttpResponse, native: HttpRequest, context?: us_socket_context_t): void => {
    idCount += 1;
    const head = readHead(native);
    const x: Wired = new Exchange({
      wire,
      method: native.getCaseSensitiveMethod(),
      path: native.getUrl(),
      query: native.getQuery(),
      id: idPrefix + idCount,
      head,
      trust,
      isBelieved,
      startedMs: observer === undefined && tracer === undefined ? 0 : clock.monotonicMs(),
    });
    current = x;
    const givenId = x.believed('x-request-id');
    if (givenId !== undefined && REQUEST_ID.test(givenId)) x.id = givenId;
    if (head.fault !== '') return refuse(x, 'bad-header', head.fault);
    const literal = x.method === 'GET' && x.query === '' ? literals.get(x.path) : undefined;
    if (literal !== undefined) return enter(x, literal);
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
    if (route.refuse !== undefined && isRefused(x, route.refuse)) return;
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
    for (const pattern of socketPatterns) openSockets(app, pattern, ownSockets);
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
      openedAtMs = clock.monotonicMs();
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
    refuse: more.refuse,
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
    const untilMs = clock.monotonicMs() + graceMs;
    const isAwaited = (nowMs: number): boolean =>
      pendingCount > 0 || (connectionCount > links.size + tunnels.size && nowMs - openedAtMs < lingerMs);
    const soon = (): Promise<number> =>
      new Promise((resolve) => setTimeout(() => afterReading(clock, resolve), 10));
    // The youngest connection has waited for nothing yet when we first look.
    for (let nowMs = openedAtMs; clock.monotonicMs() < untilMs && isAwaited(nowMs); ) nowMs = await soon();
  };

  let closing: Promise<void> | undefined;
  const closeAll = async (graceMs: number, lingerMs: number): Promise<void> => {
    draining = true;
    if (token !== undefined) await closePort(token);
    stopping = true;
    for (const endFeed of [...feeds]) endFeed();
    const leave = async (): Promise<void> => {
      for (const work of leavings) await work();
      for (const link of [...links, ...tunnels]) {
        if (link instanceof StreamLink) link.end();
        else link.end(1001, 'going away');
      }
    };
    await Promise.all([leave(), settled(graceMs, lingerMs)]);
    for (const app of apps) app.close();
    bystander?.close();
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
    route(method, pattern, run, more) {
      const route = routeOf(pattern, run, more);
      router.add(method, pattern, route);
      const isLiteral = method === 'GET' && !pattern.includes(':') && isPlainPath(pattern);
      if (isLiteral && sockets.find('GET', pattern).outcome !== 'found') literals.set(pattern, route);
    },
    socket(pattern, run) {
      literals.delete(pattern);
      sockets.add('GET', pattern, routeOf(pattern, run, { bodyBytesMax: 0 }));
      socketPatterns.push(pattern);
      for (const app of apps) openSockets(app, pattern, ownSockets);
    },
    otherwise(run, more) {
      otherwise = routeOf('otherwise', run, more);
    },
    async listen() {
      bystander = await openBystander(uws);
      token = await listenOn(apps[0]!, port).catch((error) => {
        bystander?.close();
        throw error;
      });
      listeningPort = uws.us_socket_local_port(token);
      const look = (nowMs: number): void => {
        for (const some of [slow, tunnels])
          for (const link of some)
            if (link.slowSinceMs > 0 && nowMs - link.slowSinceMs > slowReaderMs) cutSlow(link);
        for (const some of watched) if (some.isLate(nowMs)) some.cut();
      };
      sweep = setInterval(() => afterReading(clock, look), SWEEP_MS);
      sweep.unref();
      return { port: listeningPort };
    },
    load: () => ({ connections: connectionCount, requests: pendingCount - arrivingCount }),
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
