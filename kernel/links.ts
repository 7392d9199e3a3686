// Open streams and sockets: an Outbox each, tied to a native response or WebSocket by the few calls named below.
// These are the only long-lived objects of a server, up to 19,000 in a process, so they hold nothing of the request
// they came from. Made and found again by kernel/http.ts alone.

import { type BoxKeeper, Outbox } from './outbox.ts';
import type { EventStream, Socket, Stream, Upgrade } from './server.ts';

/** What a stream needs of a native response. Writes outside of `cork` cost a system call for each piece. */
type StreamWire = {
  /** False when the socket could not take all of it; what it could not take is kept below us. */
  write(frame: string): boolean;
  end(body: undefined, closeConnection: boolean): unknown;
  close(): unknown;
  cork(work: () => void): unknown;
  onAborted(left: () => void): unknown;
  onWritable(writable: () => boolean): unknown;
};

/** What a server does for all of its links. */
export type LinkKeeper = BoxKeeper & {
  /** Told once, when one is closed, whoever closed it. */
  over(link: StreamLink | SocketLink): void;
};

/** What a socket needs of a native WebSocket. */
type SocketWire = {
  send(message: string): number;
  getBufferedAmount(): number;
  end(code: number, reason: string): void;
  close(): void;
};

// One write to an event stream must be corked, or its four small pieces are four system calls. A closure for every
// frame would be garbage for every frame; these variables live only during the call to `cork`.
let corkedWire: StreamWire | undefined;
let corkedFrame = '';
let corkedOk = true;
const writeCorked = (): void => {
  corkedOk = corkedWire!.write(corkedFrame);
};
/** A comment of the event-stream format: opens the body, and pushes out what the socket still holds. */
export const COMMENT = ':\n\n';

// What a stream says while it opens is one write. Only one opens at a time.
let opening: StreamLink | undefined;
let openingText = '';

export class StreamLink extends Outbox<LinkKeeper> implements EventStream {
  private readonly wire: StreamWire;
  private isDrainedByUs = false;
  readonly route: Stream;

  constructor(wire: StreamWire, route: Stream, keeper: LinkKeeper) {
    super(keeper);
    this.wire = wire;
    this.route = route;
    // Bound, and no closure: that keeps everything alive that its neighbours see, for as long as the fan waits.
    wire.onAborted(this.finish.bind(this));
  }

  /** Runs what opens the stream, inside the cork of its head. */
  open(): void {
    opening = this;
    openingText = COMMENT;
    try {
      this.route.open(this);
    } finally {
      opening = undefined;
      if (!this.closed && !this.wire.write(openingText)) {
        this.drainByUs();
        this.slowed();
      }
    }
  }

  protected override put(frame: string): boolean {
    if (opening === this) {
      openingText += frame;
      return true;
    }
    corkedWire = this.wire;
    corkedFrame = frame;
    this.wire.cork(writeCorked);
    corkedWire = undefined;
    corkedFrame = '';
    if (!corkedOk) this.drainByUs();
    return corkedOk;
  }

  /** Asked for by the few that become slow: the handler of everyone else would be a closure and a native object each. */
  private drainByUs(): void {
    if (this.isDrainedByUs) return;
    this.isDrainedByUs = true;
    this.wire.onWritable(() => this.writable());
  }

  /** With a writable handler the library no longer drains by itself: only a write does, hence the comment. */
  writable(): boolean {
    if (!this.closed && this.put(COMMENT)) this.resume();
    return true;
  }

  end(): void {
    if (this.closed) return;
    const last = (opening === this ? openingText : '') + this.takeAll().join('');
    this.wire.cork(() => {
      if (last !== '') this.wire.write(last);
      // Told to close as well, the library would write that header now, in the middle of the body.
      this.wire.end(undefined, false);
    });
    this.finish();
  }

  override cut(): void {
    if (!this.closed) this.wire.close();
    this.finish();
  }

  finish(): void {
    if (this.closed) return;
    this.closed = true;
    this.takeAll();
    this.keeper.recovered(this);
    this.keeper.over(this);
  }
}

export class SocketLink extends Outbox<LinkKeeper> implements Socket {
  private native: SocketWire | undefined;
  readonly route: Upgrade;

  constructor(route: Upgrade, keeper: LinkKeeper) {
    super(keeper);
    this.route = route;
  }

  attach(native: SocketWire): void {
    this.native = native;
  }

  /** `send` answers 1 for sent, 0 for taken but not all sent, 2 for dropped, which our pausing makes impossible. */
  protected override put(message: string): boolean {
    return this.native === undefined || this.native.send(message) === 1;
  }

  drained(): void {
    if (!this.closed && this.native?.getBufferedAmount() === 0) this.resume();
  }

  end(code: number, reason: string): void {
    if (this.closed) return;
    for (const message of this.takeAll()) this.native?.send(message);
    // The library calls the close handler, and through it `finish`, before this returns.
    this.native?.end(code, reason);
    this.finish();
  }

  override cut(): void {
    if (!this.closed) this.native?.close();
    this.finish();
  }

  finish(): void {
    if (this.closed) return;
    this.closed = true;
    this.native = undefined;
    this.takeAll();
    this.keeper.recovered(this);
    this.keeper.over(this);
  }
}
