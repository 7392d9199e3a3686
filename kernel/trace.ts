// OpenTelemetry traces: a span a request, and below it one a script in Redis and one a request to an origin, sent to
// a collector as OTLP over HTTP in JSON. Without ANTEROOM_OTLP_URL there is no tracer at all, and every part checks
// one undefined. Spans carry names of ours, patterns of routes, statuses and kinds of faults: never a path, a query,
// a cookie, a token, an address, a key of Redis or an argument.
//
// Not the official packages: they are 28 MB in 12 packages, 0.2 s of start and 18 MB of memory (measured on
// 2026-11-21, sdk-trace-base 2), for a format of one page.

import { AsyncLocalStorage } from 'node:async_hooks';
import { randomBytes } from 'node:crypto';
import { afterReading, type Clock, systemClock } from './clock.ts';
import { createFetcher, type Fetcher } from './fetch.ts';
import type { Metrics } from './metrics.ts';
import { newSpanId, type Trace, traceparentOf } from './traceparent.ts';

type Value = string | number;
type Attributes = Record<string, Value>;

/** A span under way. One that is not recorded still says which request it is. */
export type Span = {
  readonly trace: Trace;
  readonly requestId: string;
  /** The first end counts. */
  end(status: number): void;
};

export type Tracer = {
  /** Begins the span of a request. `startedMs` is of the clock's monotonicMs. */
  request(seen: {
    trace: Trace;
    requestId: string;
    method: string;
    route: string;
    server: string;
    startedMs: number;
  }): Span;
  /** Runs work as part of a span: what it asks of Redis and of origins stands below it. */
  run(span: Span, work: () => void): void;
  /** Runs a command of Redis below the span that is under way, if there is one. */
  command<T>(name: string, work: () => Promise<T>): Promise<T>;
  /** The same fetcher, with a span a `send`. The origin is told of that span as its parent. */
  traced(fetcher: Fetcher): Fetcher;
  /** What a log line says of the request during which it is written. */
  ids(): { requestId: string; traceId: string } | undefined;
  /** Sends what waits, for at most a second. */
  stop(): Promise<void>;
};

/** Spans that wait to be sent: some 2 MB. What comes on top is dropped and counted. */
const QUEUE_MAX = 8192;
const BATCH_MAX = 512;
const EVERY_MS = 1000;
/** A collector that answers later than this has not taken the batch. */
const SEND_MS_MAX = 3000;
const STOP_MS_MAX = 1000;

/** Numbers of the protocol (opentelemetry-proto, trace.proto). */
const KIND = { server: 2, client: 3 } as const;
const STATUS_ERROR = 2;

type Recorded = {
  traceId: string;
  spanId: string;
  parentSpanId?: string;
  traceState?: string;
  name: string;
  kind: number;
  startTimeUnixNano: string;
  endTimeUnixNano: string;
  attributes: unknown[];
  status: { code?: number };
};

const attributesOf = (attributes: Attributes): unknown[] =>
  Object.entries(attributes).map(([key, value]) => ({
    key,
    value: typeof value === 'string' ? { stringValue: value } : { intValue: String(value) },
  }));

/** The kind of a fault, never its message: those may quote what somebody sent. */
const kindOf = (error: unknown): string => (error instanceof Error ? error.name : 'unknown');

/** Undefined when no collector is named. `fault` is told once when spans cannot be sent, until they can again. */
export const createTracer = (options: {
  config: { otlpUrl: string; traceOneIn: number };
  metrics: Pick<Metrics, 'inc'>;
  fault: (error: unknown) => void;
  roles?: readonly string[];
  queueMax?: number;
  clock?: Clock;
}): Tracer | undefined => {
  const { config, metrics, fault, queueMax = QUEUE_MAX, clock = systemClock } = options;
  if (config.otlpUrl === '') return undefined;
  const originMs = clock.nowMs() - clock.monotonicMs();
  /** Nanoseconds as text; a double holds microseconds of our time exactly, and not more. */
  const nanos = (ms: number): string => `${Math.round((originMs + ms) * 1000)}000`;
  const collector = new URL(config.otlpUrl);
  const path = `${collector.pathname.replace(/\/$/, '')}/v1/traces`;
  const sender = createFetcher({ connectionsMax: 1, headersTimeoutMs: SEND_MS_MAX });
  const under = new AsyncLocalStorage<Span & { over(): boolean }>();
  const resource = {
    attributes: attributesOf({
      'service.name': 'anteroom',
      'service.instance.id': randomBytes(8).toString('hex'),
      'anteroom.roles': (options.roles ?? []).join(','),
    }),
  };
  let queue: Recorded[] = [];
  let sending: Promise<void> | undefined;
  let broken = false;

  const flush = async (): Promise<void> => {
    while (queue.length > 0) {
      const batch = queue.splice(0, BATCH_MAX);
      try {
        const { status } = await sender.json({
          origin: collector.origin,
          method: 'POST',
          path,
          body: {
            resourceSpans: [{ resource, scopeSpans: [{ scope: { name: 'anteroom' }, spans: batch }] }],
          },
          timeoutMs: SEND_MS_MAX,
        });
        if (status >= 300) throw new Error(`the collector answered ${status}`);
        metrics.inc('spans_total', { outcome: 'ok' }, batch.length);
        broken = false;
      } catch (error) {
        // Not tried again: a collector that is away must not make this process remember more and more.
        metrics.inc('spans_total', { outcome: 'dropped' }, batch.length);
        if (!broken) fault(error);
        broken = true;
        return;
      }
    }
  };
  const send = (): Promise<void> => {
    sending ??= flush().finally(() => {
      sending = undefined;
    });
    return sending;
  };
  const timer = setInterval(() => void send(), EVERY_MS);
  timer.unref();

  const record = (span: Recorded): void => {
    if (queue.length >= queueMax) return metrics.inc('spans_total', { outcome: 'dropped' });
    queue.push(span);
    if (queue.length >= BATCH_MAX && !broken) void send();
  };

  let stopped: Promise<void> | undefined;
  const stop = async (): Promise<void> => {
    clearInterval(timer);
    const late = new Promise<void>((resolve) =>
      setTimeout(() => afterReading(systemClock, () => resolve()), STOP_MS_MAX).unref(),
    );
    await Promise.race([send().then(send), late]);
    metrics.inc('spans_total', { outcome: 'dropped' }, queue.length);
    queue = [];
    await sender.close();
  };

  const child = async <T>(
    name: string,
    attributes: Attributes,
    work: (span: { spanId: string; trace: Trace } | undefined) => Promise<T>,
    ended: (result: T) => Attributes = () => ({}),
  ): Promise<T> => {
    const parent = under.getStore();
    // A loop that a request has set going outlives it; what it does then belongs to nobody's request.
    if (parent === undefined || parent.over() || !parent.trace.sampled) return work(undefined);
    const { trace } = parent;
    const spanId = newSpanId();
    const startedMs = clock.monotonicMs();
    const finish = (more: Attributes, isError: boolean): void =>
      record({
        traceId: trace.traceId,
        spanId,
        parentSpanId: trace.spanId,
        name,
        kind: KIND.client,
        startTimeUnixNano: nanos(startedMs),
        endTimeUnixNano: nanos(clock.monotonicMs()),
        attributes: attributesOf({ ...attributes, ...more }),
        status: isError ? { code: STATUS_ERROR } : {},
      });
    try {
      const result = await work({ spanId, trace });
      const more = ended(result);
      finish(more, Number(more['http.response.status_code'] ?? 0) >= 500);
      return result;
    } catch (error) {
      finish({ 'error.type': kindOf(error) }, true);
      throw error;
    }
  };

  return {
    request({ trace: given, requestId, method, route, server, startedMs }) {
      // Whoever began the trace has decided. A trace that begins here is drawn by its id, evenly over all.
      const drawn = Number.parseInt(given.traceId.slice(-8), 16) % config.traceOneIn === 0;
      const trace = given.parentId === '' ? { ...given, sampled: drawn } : given;
      let isOver = false;
      const span = {
        trace,
        requestId,
        over: () => isOver,
        end(status: number): void {
          if (isOver) return;
          isOver = true;
          if (!trace.sampled) return;
          record({
            traceId: trace.traceId,
            spanId: trace.spanId,
            ...(trace.parentId === '' ? {} : { parentSpanId: trace.parentId }),
            ...(trace.state === '' ? {} : { traceState: trace.state }),
            name: `${method} ${route}`,
            kind: KIND.server,
            startTimeUnixNano: nanos(startedMs),
            endTimeUnixNano: nanos(clock.monotonicMs()),
            attributes: attributesOf({
              'http.request.method': method,
              'http.route': route,
              'http.response.status_code': status,
              'anteroom.server': server,
              'anteroom.request_id': requestId,
            }),
            status: status >= 500 ? { code: STATUS_ERROR } : {},
          });
        },
      };
      return span;
    },
    // Only this file makes spans, each with the `over` it asks for.
    run: (span, work) => under.run(span as Span & { over(): boolean }, work),
    command: (name, work) =>
      child(name, { 'db.system.name': 'redis', 'db.operation.name': name }, () => work()),
    traced: (fetcher) => ({
      ...fetcher,
      send: (ask) =>
        child(
          ask.method,
          { 'http.request.method': ask.method, 'server.address': new URL(ask.origin).hostname },
          (span) =>
            fetcher.send(
              span === undefined
                ? ask
                : {
                    ...ask,
                    headers: [
                      ...ask.headers.filter((_, index, flat) => flat[index - (index % 2)] !== 'traceparent'),
                      ...['traceparent', traceparentOf({ ...span.trace, spanId: span.spanId })],
                    ],
                  },
            ),
          ({ status }) => ({ 'http.response.status_code': status }),
        ),
    }),
    ids() {
      const span = under.getStore();
      return span === undefined || span.over()
        ? undefined
        : { requestId: span.requestId, traceId: span.trace.traceId };
    },
    stop() {
      stopped ??= stop();
      return stopped;
    },
  };
};
