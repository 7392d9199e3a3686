// What has to be stopped, in the reverse order of starting. Each part gets a deadline, so that nothing can keep the
// process for ever; what is late or fails goes to the log, and the next is stopped.

import type { Log } from '../kernel/log.ts';

type Part = { name: string; stop(): Promise<unknown> | unknown; withinMs?: number };

export type Stops = {
  /** Stopped before everything that was added earlier. */
  add(part: Part): void;
  /** Stops all; a part is left behind after `withinMs`, or after `stopMs` where it says nothing. Safe to call twice. */
  all(): Promise<void>;
};

const within = async (ms: number, work: Promise<unknown>): Promise<boolean> => {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<boolean>((resolve) => {
    timer = setTimeout(() => resolve(false), ms);
  });
  try {
    return await Promise.race([work.then(() => true), late]);
  } finally {
    clearTimeout(timer);
  }
};

export const createStops = ({ stopMs, log }: { stopMs: number; log: Log }): Stops => {
  const parts: Part[] = [];
  const stopEach = async (): Promise<void> => {
    for (let part = parts.pop(); part !== undefined; part = parts.pop()) {
      const { name, withinMs = stopMs } = part;
      try {
        if (!(await within(withinMs, Promise.resolve(part.stop())))) log.warn('stop-late', { part: name });
      } catch (error) {
        log.error('stop-failed', { part: name, error: error instanceof Error ? error : String(error) });
      }
    }
  };
  let stopped: Promise<void> | undefined;
  return {
    add: (part) => void parts.push(part),
    all() {
      stopped ??= stopEach();
      return stopped;
    },
  };
};
