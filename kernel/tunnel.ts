// One WebSocket that is passed through: a fan's on this side, whatever a route ties it to on the other. Unlike our own
// streams nothing in it may be dropped, so a slow fan makes the route stop (`send` answers false) until `writable`.
// Made and found again by kernel/http.ts alone.

import type { Clock } from './clock.ts';
import type { Tunnel, TunnelSocket } from './server.ts';

/** What a tunnel needs of a native WebSocket. */
type NativeSocket = {
  send(message: Uint8Array, isBinary: boolean): number;
  getBufferedAmount(): number;
  end(code: number, reason: string): void;
  close(): void;
};

export class TunnelLink implements TunnelSocket {
  closed = false;
  /** Since when the fan has been taking nothing; 0 while it does. Too long, and the server's sweep cuts it. */
  slowSinceMs = 0;
  readonly route: Tunnel;
  private readonly clock: Clock;
  private readonly over: (link: TunnelLink) => void;
  private native: NativeSocket | undefined;

  constructor(route: Tunnel, clock: Clock, over: (link: TunnelLink) => void) {
    this.route = route;
    this.clock = clock;
    this.over = over;
  }

  attach(native: NativeSocket): void {
    this.native = native;
  }

  /** The native side takes every message; what it could not send at once it keeps, hence the pause that follows. */
  send(payload: Uint8Array, isBinary: boolean): boolean {
    if (this.closed || this.native === undefined) return true;
    if (this.native.send(payload, isBinary) === 1) return true;
    if (this.slowSinceMs === 0) this.slowSinceMs = this.clock.monotonicMs();
    return false;
  }

  drained(): void {
    if (this.closed || this.native?.getBufferedAmount() !== 0 || this.slowSinceMs === 0) return;
    this.slowSinceMs = 0;
    this.route.writable();
  }

  /** 1006 cuts, 1005 closes without a code: neither may be sent (RFC 6455, section 7.4.1). */
  end(code: number, reason: string): void {
    if (this.closed) return;
    const { native } = this;
    // The library calls the close handler, and through it `finish`, before these return.
    if (code === 1006) native?.close();
    else native?.end(code === 1005 ? 0 : code, reason);
    this.finish(code, reason);
  }

  cut(): void {
    this.end(1006, '');
  }

  finish(code: number, reason: string): void {
    if (this.closed) return;
    this.closed = true;
    this.native = undefined;
    this.route.closed(code, reason);
    this.over(this);
  }
}
