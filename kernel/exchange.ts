// One request and what becomes of it. Routes see it as a plain Request; the server keeps its own bookkeeping here.
// Modes: `open` (nothing written), `answering` (a streamed body is under way), `over` (answered, or the client has
// left); `over` is final. Whatever costs time (the address as text, header pairs, the abort signal) is made at
// the first look, because most requests never look.

import { type FlatHeaders, findCookie, type Head } from './head.ts';
import type { Span } from './trace.ts';
import { readTrace, type Trace } from './traceparent.ts';
import type { Inflow, Upload } from './upload.ts';

export type Request = {
  readonly method: string;
  /** As received, checked to be in plain form; without the query. */
  readonly path: string;
  /** Without `?`; empty when there is none. */
  readonly query: string;
  /** A `?` with nothing behind it: another address than one without it, for an origin that cares. */
  readonly hasBareMark?: boolean;
  /** Values of `:name` in the pattern. */
  readonly params: Readonly<Record<string, string>>;
  /** Header by lower-case name; undefined when absent. Repeatable headers are joined with `, `. */
  header(name: string): string | undefined;
  /** In wire order, names in lower case. */
  readonly headers: readonly (readonly [name: string, value: string])[];
  /** The same, names and values alternately. */
  readonly flatHeaders: FlatHeaders;
  cookie(name: string): string | undefined;
  /** The address of the fan: of the socket, or as a trusted proxy tells it. IPv4-mapped addresses are IPv4. */
  readonly address: string;
  /** Whether the socket is that of a trusted proxy, whose word about the request is taken. */
  readonly viaProxy: boolean;
  readonly id: string;
  /** The trace it belongs to: that of a trusted proxy, or a new one. */
  readonly trace: Trace;
  /** What a log line about this request carries. */
  readonly ids: { requestId: string; traceId: string };
  /** The whole body; empty for none. */
  readonly body: Buffer;
  /** The body in pieces, where the route takes it so and there is one. */
  readonly upload?: Upload | undefined;
  /** Whether it asks `otherwise` for a WebSocket, with a handshake that can be answered. */
  readonly asksSocket?: boolean;
  /** Aborted when the client has left before its answer was whole. */
  readonly signal: AbortSignal;
  /** Told the same, for whoever carries many requests: one at a time, and no object is made for it. */
  waiter?: { leave(): void } | undefined;
};

const NO_BODY = Buffer.alloc(0);

/** The part of a native response an exchange asks for itself. */
type Peer = { getRemoteAddress(): ArrayBuffer };
type Trust = {
  addressOf(peer: Uint8Array, forwardedFor: () => string | undefined): string;
  isProxy(peer: Uint8Array): boolean;
};

export class Exchange<Wire extends Peer> implements Request {
  readonly method: string;
  readonly path: string;
  readonly query: string;
  readonly hasBareMark: boolean;
  id: string;
  readonly startedMs: number;
  params: Readonly<Record<string, string>> = {};
  body: Buffer = NO_BODY;
  upload: Inflow | undefined;
  asksSocket = false;
  mode: 'open' | 'answering' | 'over' = 'open';
  /** The pattern that matched, for metrics; never the path itself. */
  pattern = 'none';
  /** What is told how long requests of this pattern took, by method and class of status. */
  observers: Map<string, ((seconds: number) => void)[]> | undefined;
  /** The native response; undefined once the exchange is over, because touching it then would throw. */
  wire: Wire | undefined;
  /** Whether the server waits for something here, and so has asked to be told when the client leaves. */
  attended = false;
  /** Told when the client leaves while an answer is being streamed. */
  left: (() => void) | undefined;
  waiter: { leave(): void } | undefined;
  readonly flatHeaders: FlatHeaders;
  /** Its span, while traces are switched on. */
  span: Span | undefined;
  private readonly head: Head;
  private readonly trust: Trust;
  private readonly isBelieved: ((peer: Uint8Array) => boolean) | undefined;
  private traceMade: Trace | undefined;
  private peer: Uint8Array | undefined;
  private addressText: string | undefined;
  private pairs: (readonly [string, string])[] | undefined;
  private abort: AbortController | undefined;
  private gone = false;

  constructor(made: {
    wire: Wire;
    method: string;
    path: string;
    /** Without `?`; undefined when there was none. */
    query: string | undefined;
    id: string;
    head: Head;
    trust: Trust;
    /** Whether this peer may name the request and its trace; undefined: nobody may. */
    isBelieved: ((peer: Uint8Array) => boolean) | undefined;
    startedMs: number;
  }) {
    this.wire = made.wire;
    this.method = made.method;
    this.path = made.path;
    this.query = made.query ?? '';
    this.hasBareMark = made.query === '';
    this.id = made.id;
    this.head = made.head;
    this.flatHeaders = made.head.headers;
    this.trust = made.trust;
    this.isBelieved = made.isBelieved;
    this.startedMs = made.startedMs;
  }

  get declaredBytes(): number {
    return this.head.bodyBytes;
  }

  header(name: string): string | undefined {
    const flat = this.flatHeaders;
    let found: string | undefined;
    for (let index = 0; index < flat.length; index += 2)
      if (flat[index] === name)
        found = found === undefined ? flat[index + 1] : `${found}, ${flat[index + 1]}`;
    return found;
  }

  get headers(): readonly (readonly [string, string])[] {
    if (this.pairs === undefined) {
      this.pairs = [];
      for (let index = 0; index < this.flatHeaders.length; index += 2)
        this.pairs.push([this.flatHeaders[index]!, this.flatHeaders[index + 1]!]);
    }
    return this.pairs;
  }

  cookie(name: string): string | undefined {
    const { ownCookies, cookie } = this.head;
    for (let index = 0; index < ownCookies.length; index += 2)
      if (ownCookies[index] === name) return ownCookies[index + 1];
    return cookie === '' ? undefined : findCookie(cookie, name);
  }

  get address(): string {
    if (this.addressText === undefined) {
      this.keepPeer();
      this.addressText = this.trust.addressOf(this.peer ?? NO_BODY, () => this.header('x-forwarded-for'));
    }
    return this.addressText;
  }

  get viaProxy(): boolean {
    this.keepPeer();
    return this.trust.isProxy(this.peer ?? NO_BODY);
  }

  /** A header about the request's own name or trace: only the word of a believed peer counts. */
  believed(name: string): string | undefined {
    const text = this.isBelieved === undefined ? undefined : this.header(name);
    if (text === undefined) return undefined;
    this.keepPeer();
    return this.isBelieved!(this.peer ?? NO_BODY) ? text : undefined;
  }

  get trace(): Trace {
    this.traceMade ??= readTrace((name) => this.believed(name));
    return this.traceMade;
  }

  /** The same trace, once it is decided whether it is recorded. */
  follow(trace: Trace): void {
    this.traceMade = trace;
  }

  get ids(): { requestId: string; traceId: string } {
    return { requestId: this.id, traceId: this.trace.traceId };
  }

  /** Takes the binary address while the socket is there; called before anything is awaited. */
  keepPeer(): void {
    if (this.peer === undefined && this.wire !== undefined)
      this.peer = new Uint8Array(this.wire.getRemoteAddress());
  }

  get signal(): AbortSignal {
    if (this.abort === undefined) {
      this.abort = new AbortController();
      if (this.gone) this.abort.abort();
    }
    return this.abort.signal;
  }

  /** The answer is out. */
  finish(): void {
    this.mode = 'over';
    this.wire = undefined;
    this.left = undefined;
    this.waiter = undefined;
    this.upload?.drop();
  }

  /** The client left first. */
  abandon(): void {
    if (this.mode === 'over') return;
    this.gone = true;
    const { left, waiter } = this;
    this.finish();
    this.abort?.abort();
    waiter?.leave();
    left?.();
  }
}
