// The same load by autocannon, for requests that are all alike: a client that others know and can compare with. What
// changes with each request (a made-up address) is beyond its speed, and is load.ts's.

import autocannon from 'autocannon';
import type { Load, LoadResult } from './load.ts';

export const runCannon = async (
  load: Load,
  options: {
    connections: number;
    seconds: number /** Requests offered a second; no limit when left out. */;
    overallRate?: number;
  },
): Promise<LoadResult> => {
  const { base, path, method, headers, body } = load;
  const done = await autocannon({
    url: `${base}${path}`,
    method,
    headers: { ...headers },
    ...(body === undefined ? {} : { body }),
    connections: options.connections,
    duration: options.seconds,
    ...(options.overallRate === undefined ? {} : { overallRate: options.overallRate }),
  });
  if (done.errors > 0 || done.timeouts > 0)
    throw new Error(`${path}: ${done.errors} errors, ${done.timeouts} requests without an answer`);
  const counted: Record<string, { count?: number }> = done.statusCodeStats ?? {};
  return {
    answers: done.requests.total,
    seconds: done.duration,
    p99Ms: done.latency.p99,
    statuses: new Map(Object.entries(counted).map(([status, { count }]) => [Number(status), count ?? 0])),
  };
};
