// A log whose lines a test can count, and so wait for an event.

import { createLog } from '../../kernel/log.ts';

export const collect = () => {
  const lines: Record<string, unknown>[] = [];
  const log = createLog({ level: 'debug', write: (line) => lines.push(JSON.parse(line)) });
  return { log, count: (event: string) => lines.filter((line) => line.event === event).length };
};
