// Process time, for deadlines, timers and cache ages only. State of the line never takes its time from here:
// Redis's TIME decides inside the scripts. A test passes a clock of its own.

export type Clock = {
  /** Milliseconds since 1970, for what people read. */
  nowMs(): number;
  /** Milliseconds of a clock that only goes forward, for durations. */
  monotonicMs(): number;
};

export const systemClock: Clock = {
  nowMs: () => Date.now(),
  monotonicMs: () => performance.now(),
};
