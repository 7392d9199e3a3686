// What waits for a slow reader. A connection is in one of three modes: `open` (frames go straight out), `slow`
// (a write was refused; frames wait here until the socket is writable again) and `closed`. While slow it keeps
// every frame that was marked `keep`, which are few, and of the others only the newest: a position nobody has
// read yet is worth nothing once there is a newer one. Whoever stays slow too long is cut by the server's sweep, and
// whoever would make us keep too much at once.

import type { Clock } from './clock.ts';

/** What all boxes of a server share: nothing of it costs a connection more than one reference. */
export type BoxKeeper = {
  readonly clock: Clock;
  /** Most bytes of kept frames that wait for one reader. */
  readonly bytesMax: number;
  /** It became slow, and is to be watched from now on. */
  slowed(box: Outbox): void;
  /** It is not slow any more, or it is closed. */
  recovered(box: Outbox): void;
  /** A frame was replaced by a newer one before it could be sent. */
  dropped(bytes: number): void;
  /** More would wait for this reader than may. */
  overflowed(box: Outbox): void;
};

/** What there is only while a reader is slow: the thousands who are not should not pay for it. */
type Waiting = {
  /** Monotonic time of the first refused write since the socket was last empty, in ms. */
  readonly sinceMs: number;
  readonly frames: string[];
  /** Where the one droppable frame stands in `frames`; -1 for nowhere. */
  droppableIndex: number;
};

export abstract class Outbox<K extends BoxKeeper = BoxKeeper> {
  closed = false;
  protected readonly keeper: K;
  private waiting: Waiting | undefined;

  constructor(keeper: K) {
    this.keeper = keeper;
  }

  /** Hands a frame to the socket, which always takes it; false means: no more until it is writable. */
  protected abstract put(frame: string): boolean;
  /** Ends the connection at once. */
  abstract cut(): void;

  /** Since when it is slow, monotonic ms; 0 when it is not. */
  get slowSinceMs(): number {
    return this.waiting?.sinceMs ?? 0;
  }

  write(frame: string, options?: { keep?: boolean }): void {
    if (this.closed) return;
    const { waiting } = this;
    if (waiting === undefined) {
      if (!this.put(frame)) this.slowed();
      return;
    }
    if (options?.keep === true) {
      waiting.frames.push(frame);
      if (this.keptBytes(waiting) > this.keeper.bytesMax) this.keeper.overflowed(this);
      return;
    }
    if (waiting.droppableIndex >= 0) {
      const [old = ''] = waiting.frames.splice(waiting.droppableIndex, 1);
      this.keeper.dropped(Buffer.byteLength(old));
    }
    waiting.droppableIndex = waiting.frames.push(frame) - 1;
  }

  /** The socket took a frame, and wants no more for now. */
  protected slowed(): void {
    this.waiting = { sinceMs: this.keeper.clock.monotonicMs(), frames: [], droppableIndex: -1 };
    this.keeper.slowed(this);
  }

  private keptBytes({ frames, droppableIndex }: Waiting): number {
    let bytes = 0;
    for (const [index, frame] of frames.entries())
      if (index !== droppableIndex) bytes += Buffer.byteLength(frame);
    return bytes;
  }

  /** Called when the socket is writable: sends what waits, and returns to `open` once all of it is out. */
  protected resume(): void {
    const { waiting } = this;
    if (waiting === undefined) return;
    while (waiting.frames.length > 0) {
      // The queue stands one shorter whether or not the socket wants more: it has taken this frame.
      const frame = waiting.frames.shift()!;
      waiting.droppableIndex = Math.max(-1, waiting.droppableIndex - 1);
      if (!this.put(frame)) return;
    }
    this.takeAll();
    this.keeper.recovered(this);
  }

  /** Everything that waits, in order, for a last write. */
  protected takeAll(): string[] {
    const all = this.waiting?.frames ?? [];
    this.waiting = undefined;
    return all;
  }
}
