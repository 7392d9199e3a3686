// The body of a request as it comes, for routes that do not wait for all of it. A taker that is slower than the sender
// closes the valve: the socket is no longer read, and the sender's own kernel holds the rest. What has come by then is
// kept, at most a few hundred kilobytes.
//
// Modes: `coming`, `whole` (all of it is here), `over` (the answer is out, or the client has left; nobody takes more).

import type { Clock } from './clock.ts';

/** What an upload needs of a native response. */
type Valve = { pause(): void; resume(): void };

/** The body of a request whose route takes it in pieces. */
export type Upload = {
  /** Declared, and the sum of the pieces when none is missing. */
  readonly bytes: number;
  /** For one taker. Throws when the client leaves, or when the answer is out before the end. */
  readonly pieces: AsyncIterable<Uint8Array>;
  /** All of it, when all has come and nothing was taken yet. */
  whole(): Buffer | undefined;
};

/** The native reader hands over up to 512 KiB at once, so this is passed by as much. */
const KEPT_BYTES = 131_072;
/**
 * A body has 15 s, and one more for every 500 bytes that have come: a drip of single bytes is over within 20 s,
 * while a phone on a bad line may take its time. (The rule is that of Apache's mod_reqtimeout.)
 */
const BODY_MS = 15_000;
const BODY_BYTES_PER_SECOND = 500;
/** The library closes a sender below 16 KiB/s after some 10 s; a word to the valve in between starts that anew. */
const TOUCH_MS = 4000;

export const isBodyLate = (bytes: number, elapsedMs: number): boolean =>
  elapsedMs > BODY_MS + (bytes / BODY_BYTES_PER_SECOND) * 1000;

/** Room that a body has at first when it does not come in one piece. */
const ROOM_BYTES = 256;

/**
 * A body that is wanted as a whole. Most come in one piece. For one that drips the room is doubled when it is full, so
 * that a byte takes a byte, and hardly more time than the call: thousands may drip at once.
 */
export class Gathering {
  bytes = 0;
  private readonly declared: number;
  private room: Buffer | undefined;

  constructor(declared: number) {
    this.declared = declared;
  }

  /** The library takes the chunk back after this call, so it is copied. */
  take(chunk: ArrayBuffer): void {
    const piece = new Uint8Array(chunk);
    const bytes = this.bytes + piece.length;
    if (this.room === undefined || bytes > this.room.length) {
      const wanted = Math.min(this.declared, Math.max(bytes * 2, ROOM_BYTES));
      const larger = Buffer.allocUnsafe(Math.max(bytes, wanted));
      this.room?.copy(larger, 0, 0, this.bytes);
      this.room = larger;
    }
    this.room.set(piece, this.bytes);
    this.bytes = bytes;
  }

  whole(): Buffer {
    return (this.room ?? Buffer.alloc(0)).subarray(0, this.bytes);
  }
}

export class Inflow implements Upload {
  readonly bytes: number;
  readonly pieces: AsyncIterable<Uint8Array>;
  private readonly valve: Valve;
  private readonly ended: () => void;
  private mode: 'coming' | 'whole' | 'over' = 'coming';
  private kept: Buffer[] = [];
  private keptBytes = 0;
  private takenBytes = 0;
  private isShut = false;
  private shutAtMs = 0;
  private shutMs = 0;
  private readonly clock: Clock;
  private touchedAtMs: number;
  private readonly startedMs: number;
  private wake: (() => void) | undefined;

  /** `ended` is called once, when there is nothing more to watch. */
  constructor(valve: Valve, bytes: number, clock: Clock, ended: () => void) {
    this.valve = valve;
    this.clock = clock;
    this.touchedAtMs = clock.monotonicMs();
    this.startedMs = this.touchedAtMs;
    this.bytes = bytes;
    this.ended = ended;
    this.pieces = { [Symbol.asyncIterator]: () => ({ next: () => this.next() }) };
  }

  /** The library takes the chunk back after this call, so it is copied. */
  take(chunk: ArrayBuffer, isLast: boolean): void {
    if (this.mode !== 'coming') return;
    if (chunk.byteLength > 0) {
      this.kept.push(Buffer.from(new Uint8Array(chunk)));
      this.keptBytes += chunk.byteLength;
    }
    if (isLast) {
      this.mode = 'whole';
      this.ended();
    } else if (this.keptBytes >= KEPT_BYTES && !this.isShut) {
      this.isShut = true;
      this.shutAtMs = this.clock.monotonicMs();
      this.valve.pause();
    }
    this.wake?.();
  }

  private async next(): Promise<IteratorResult<Uint8Array, undefined>> {
    for (;;) {
      if (this.mode === 'over') throw new Error('the body is not wanted any more, or its sender has left');
      const piece = this.kept.shift();
      if (piece !== undefined) {
        this.keptBytes -= piece.length;
        this.takenBytes += piece.length;
        if (this.keptBytes < KEPT_BYTES) this.open();
        return { done: false, value: piece };
      }
      if (this.mode === 'whole') return { done: true, value: undefined };
      await new Promise<void>((resolve) => {
        this.wake = resolve;
      });
      this.wake = undefined;
    }
  }

  private open(): void {
    if (!this.isShut) return;
    this.isShut = false;
    this.shutMs += this.clock.monotonicMs() - this.shutAtMs;
    this.valve.resume();
  }

  whole(): Buffer | undefined {
    if (this.mode !== 'whole' || this.takenBytes > 0) return undefined;
    const all = this.kept.length === 1 ? this.kept[0]! : Buffer.concat(this.kept);
    this.takenBytes = all.length;
    this.kept = [];
    this.keptBytes = 0;
    return all;
  }

  /** Too slow a sender. While the valve is shut it is the taker who is slow, and that has a deadline elsewhere. */
  isLate(nowMs: number): boolean {
    return !this.isShut && isBodyLate(this.takenBytes + this.keptBytes, nowMs - this.startedMs - this.shutMs);
  }

  touch(nowMs: number): void {
    if (this.mode !== 'coming' || nowMs - this.touchedAtMs < TOUCH_MS) return;
    this.touchedAtMs = nowMs;
    // Only a change starts it anew, so there are two.
    if (this.isShut) this.valve.resume();
    this.valve.pause();
    if (!this.isShut) this.valve.resume();
  }

  /** Just before the end of an answer: whatever still comes is read and dropped by the library, up to its length. */
  release(): void {
    if (this.mode === 'coming') this.open();
    this.drop();
  }

  /** The native response is not to be touched any more. */
  drop(): void {
    if (this.mode === 'over') return;
    if (this.mode === 'coming') this.ended();
    this.mode = 'over';
    this.kept = [];
    this.keptBytes = 0;
    this.wake?.();
  }
}
