// One event, one JSON line on stderr, one fixed name. Operators build alerts on the names, so renaming one is a
// breaking change. No personal data: ids are shortened by the caller, and any field whose name suggests a
// secret is replaced here as a last line of defence.

import { type Clock, systemClock } from './clock.ts';

export type Level = 'debug' | 'info' | 'warn' | 'error';
export type Fields = Record<string, unknown>;
export type Log = Record<Level, (event: string, fields?: Fields) => void> & {
  /** The same log with fields added to each line. */
  with(fields: Fields): Log;
};

const RANK: Record<Level, number> = { debug: 0, info: 1, warn: 2, error: 3 };
const SECRET = /authorization|cookie|token|secret|password|receipt|pass$|key$|mac$/i;

/** An error as fields: name, message, code and the causes below it, no deeper than four. */
const flattened = (error: Error, depth = 0): Fields => ({
  name: error.name,
  message: error.message,
  ...('code' in error ? { code: error.code } : {}),
  ...(error.cause instanceof Error && depth < 4 ? { cause: flattened(error.cause, depth + 1) } : {}),
});

const safe = (fields: Fields): Fields => {
  const out: Fields = {};
  for (const [name, value] of Object.entries(fields)) {
    if (SECRET.test(name)) out[name] = '[redacted]';
    else if (value instanceof Error) out[name] = flattened(value);
    else out[name] = value;
  }
  return out;
};

export const createLog = (options: {
  level: Level;
  clock?: Clock;
  fields?: Fields;
  /** What is known of the request during which a line is written. */
  during?: (() => Fields | undefined) | undefined;
  /** Takes one finished line without its newline. */
  write?: (line: string) => void;
}): Log => {
  const { level, clock = systemClock, fields: base = {} } = options;
  const write = options.write ?? ((line: string) => process.stderr.write(`${line}\n`));
  const line =
    (at: Level) =>
    (event: string, fields: Fields = {}) => {
      if (RANK[at] < RANK[level]) return;
      write(
        JSON.stringify({
          time: new Date(clock.nowMs()).toISOString(),
          level: at,
          event,
          ...base,
          ...options.during?.(),
          ...safe(fields),
        }),
      );
    };
  return {
    debug: line('debug'),
    info: line('info'),
    warn: line('warn'),
    error: line('error'),
    with: (fields) => createLog({ ...options, fields: { ...base, ...safe(fields) } }),
  };
};

/** A log that says nothing, for tests and tools. */
export const silentLog: Log = createLog({ level: 'error', write: () => undefined });
