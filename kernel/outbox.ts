// What waits for a slow reader. A connection is in one of three modes: `open` (frames go straight out), `slow`
// (a write was refused; frames wait here until the socket is writable again) and `closed`. While slow it keeps
// every frame that was marked `keep`, which are few, and of the others only the newest: a position nobody has
// read yet is worth nothing once there is a newer one. Whoever stays slow too long is cut by the server's sweep.

/** More kept frames than this means the reader is gone in all but name. A visit has a handful in its whole life. */
const KEPT_MAX = 64;

export abstract class Outbox {
  closed = false;
  /** Monotonic time of the first refused write since the socket was last empty; 0 when it is not slow. */
  slowSinceMs = 0;
  private waiting: string[] | undefined;
  /** Where the one droppable frame stands in `waiting`; -1 for nowhere. */
  private droppableIndex = -1;

  /** Hands a frame to the socket, which always takes it; false means: no more until it is writable. */
  protected abstract put(frame: string): boolean;
  /** Ends the connection at once. */
  abstract cut(): void;

  write(frame: string, options?: { keep?: boolean }): void {
    if (this.closed) return;
    if (this.slowSinceMs === 0) {
      if (!this.put(frame)) this.slowSinceMs = performance.now();
      return;
    }
    this.waiting ??= [];
    if (options?.keep === true) {
      this.waiting.push(frame);
      if (this.waiting.length > KEPT_MAX) this.cut();
      return;
    }
    if (this.droppableIndex >= 0) this.waiting.splice(this.droppableIndex, 1);
    this.droppableIndex = this.waiting.push(frame) - 1;
  }

  /** Called when the socket is writable: sends what waits, and returns to `open` once all of it is out. */
  protected resume(): void {
    while (this.waiting !== undefined && this.waiting.length > 0) {
      // The queue stands one shorter whether or not the socket wants more: it has taken this frame.
      const frame = this.waiting.shift()!;
      this.droppableIndex = Math.max(-1, this.droppableIndex - 1);
      if (!this.put(frame)) return;
    }
    this.waiting = undefined;
    this.slowSinceMs = 0;
  }

  /** Everything that waits, in order, for a last write. */
  protected takeAll(): string[] {
    const all = this.waiting ?? [];
    this.waiting = undefined;
    this.droppableIndex = -1;
    return all;
  }
}
