// Deadlines of many things at once, on one timer. A timer a request costs more than the request's own bookkeeping;
// here a request writes down when it is due, and a sweep looks at all that are under way. A deadline passes up to
// SWEEP_MS late, which nobody sees: they are seconds long, and name how long we wait, not when something happens.

import { afterReading, type Clock } from './clock.ts';

export type Due = {
  /** Monotonic time of the clock; 0 while there is nothing to wait for. */
  dueMs: number;
  /** Called once for each time that it was due. */
  late(): void;
};

const SWEEP_MS = 25;

export const createDeadlines = (clock: Clock) => {
  const watched = new Set<Due>();
  let timer: NodeJS.Timeout | undefined;
  const sweep = (nowMs: number): void => {
    for (const due of watched) {
      if (due.dueMs === 0 || nowMs < due.dueMs) continue;
      due.dueMs = 0;
      due.late();
    }
    if (watched.size > 0) return;
    clearInterval(timer);
    timer = undefined;
  };
  return {
    watch(due: Due): void {
      watched.add(due);
      timer ??= setInterval(() => afterReading(clock, sweep), SWEEP_MS);
    },
    leave: (due: Due): void => void watched.delete(due),
  };
};
export type Deadlines = ReturnType<typeof createDeadlines>;
