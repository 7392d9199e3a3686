// How many connections the file descriptors of this process allow. When there are none left the kernel refuses to
// hand out another connection and tells uWebSockets.js again at once that one waits: it goes on serving those it has,
// at the price of most of a core, until one closes. So the port stops taking connections before that point.

import { readFileSync } from 'node:fs';
import type { Log } from './log.ts';

/** For everything that is not a fan: files, Redis, PostgreSQL, other ports, connections to origins. */
const KEPT_DESCRIPTORS = 300;

/** What `/proc/self/limits` says; infinite where it says so, or where there is no such file. */
const descriptorsOf = (limits: string): number => {
  const soft = /^Max open files\s+(\d+|unlimited)/m.exec(limits)?.[1];
  return soft === undefined || soft === 'unlimited' ? Number.POSITIVE_INFINITY : Number(soft);
};

/** The configured number, or what is left of the descriptors when that is less; at least 10, and logged. */
export const connectionsAllowed = (connectionsMax: number, log: Log): number => {
  let descriptors = Number.POSITIVE_INFINITY;
  try {
    descriptors = descriptorsOf(readFileSync('/proc/self/limits', 'utf8'));
  } catch (error) {
    // Not Linux: the configured number has to be right.
    log.debug('descriptors-unknown', { error: error instanceof Error ? error : String(error) });
  }
  const allowed = Math.max(10, descriptors - KEPT_DESCRIPTORS);
  if (allowed >= connectionsMax) return connectionsMax;
  log.warn('descriptors-few', { descriptors, connectionsMax: allowed });
  return allowed;
};
