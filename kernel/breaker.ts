// Rest for an origin that cannot be reached: after a few failures in a row nobody asks it for a while, so that
// requests are refused at once instead of waiting out a deadline each. (The circuit breaker of M. Nygard, Release It!)
//
//   closed ── failuresMax in a row ──▶ open ── restMs ──▶ trying ── an answer ──▶ closed
//                                        ▲                  │
//                                        └──── a failure ───┘
//
// While `trying`, one request is the probe and the others are refused.

export type BreakerState = 'closed' | 'open' | 'trying';
export type BreakerOptions = { failuresMax: number; restMs: number };

export class Breaker {
  state: BreakerState = 'closed';
  private failureCount = 0;
  private openedAtMs = 0;
  private answeredAtMs = Number.NEGATIVE_INFINITY;
  private readonly options: BreakerOptions;

  constructor(options: BreakerOptions) {
    this.options = options;
  }

  /** Whether a request may go out now. One that may must end in `answered`, `failed` or `left`. */
  admit(nowMs: number): boolean {
    if (this.state === 'closed') return true;
    if (this.state === 'trying' || nowMs - this.openedAtMs < this.options.restMs) return false;
    this.state = 'trying';
    return true;
  }

  /** The origin answered, whatever it said. */
  answered(nowMs: number): void {
    this.state = 'closed';
    this.failureCount = 0;
    this.answeredAtMs = nowMs;
  }

  /**
   * No connection, or no answer in time. `startedMs` is when the request went out: an origin that has answered
   * somebody since is slow at something, but it is there.
   */
  failed(nowMs: number, startedMs: number): void {
    if (this.answeredAtMs >= startedMs) return this.left(nowMs);
    this.failureCount += 1;
    if (this.state === 'closed' && this.failureCount < this.options.failuresMax) return;
    this.state = 'open';
    this.openedAtMs = nowMs;
  }

  /** Nothing was learnt: the client left, say. A probe that ends so makes room for the next one. */
  left(nowMs: number): void {
    if (this.state !== 'trying') return;
    this.state = 'open';
    this.openedAtMs = nowMs - this.options.restMs;
  }
}
