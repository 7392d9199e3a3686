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

/** A number from 0 to below 1, to spread what would otherwise happen all at once. Secrets come from node:crypto. */
export type Chance = () => number;

export const systemChance: Chance = Math.random;

/**
 * Runs `work` once everything that has arrived by now is read, with the monotonic time of now. A timer that judges what
 * is late goes through here: the event loop may come to it before it comes to the socket, so after a pause of the whole
 * process a deadline would strike although the answer is there
 * (https://nodejs.org/en/learn/asynchronous-work/event-loop-timers-and-nexttick).
 */
export const afterReading = (clock: Clock, work: (nowMs: number) => void): void => {
  const nowMs = clock.monotonicMs();
  setImmediate(() => work(nowMs));
};
