// What the system counts, declared once: name, kind, help and closed sets of labels. Operators build graphs and
// alerts on these names, so renaming one is a breaking change. prom-client is imported here and nowhere else.
// docs/reference/metrics.md is generated from this table.

import {
  Counter,
  collectDefaultMetrics,
  Gauge,
  Histogram,
  type HistogramConfiguration,
  Registry,
} from 'prom-client';
import type { Config } from './config.ts';
import { createServer, json } from './http.ts';
import type { Log } from './log.ts';
import type { Role } from './role.ts';

type Row = {
  kind: 'counter' | 'gauge' | 'histogram';
  help: string;
  /** Label names; the values come from closed sets: rooms that exist, patterns of routes, outcome words. */
  labels: readonly string[];
  buckets?: readonly number[];
};

const FAST = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5] as const;

export const metricTable = {
  request_seconds: {
    kind: 'histogram',
    help: 'Time to answer a request of the public port, by route pattern.',
    labels: ['route', 'method', 'status'],
    buckets: FAST,
  },
  joins_total: { kind: 'counter', help: 'Joins by outcome.', labels: ['room', 'outcome'] },
  claims_total: { kind: 'counter', help: 'Claims by outcome.', labels: ['room', 'outcome'] },
  verdicts_total: { kind: 'counter', help: 'Verdicts on joins.', labels: ['room', 'verdict'] },
  limited_total: {
    kind: 'counter',
    help: 'Requests refused by a limit: a local one, one shared through Redis (of a visitor, an address, the joins of a room).',
    labels: ['by'],
  },
  limits_local_total: {
    kind: 'counter',
    help: 'Requests that only the local limit judged, because Redis could not be asked.',
    labels: [],
  },
  bypassed_total: {
    kind: 'counter',
    help: 'Requests that passed a room without a session, by the rule of its settings that let them.',
    labels: ['room', 'rule'],
  },
  user_tokens_total: {
    kind: 'counter',
    help: 'User JWTs by outcome; `known` is one that had been verified before.',
    labels: ['outcome'],
  },
  user_keys_total: {
    kind: 'counter',
    help: 'Looks at the public keys of user JWTs, by outcome.',
    labels: ['outcome'],
  },
  proxied_total: {
    kind: 'counter',
    help: 'Requests passed to an origin: its answer was below 500, or not, or there was none, or too many waited for it.',
    labels: ['outcome'],
  },
  origin_resting: {
    kind: 'gauge',
    help: '1 while the origin of this room is left in peace, because it could not be reached. `default`: the origin of what no room guards.',
    labels: ['room'],
  },
  tunnels_open: {
    kind: 'gauge',
    help: 'WebSockets passed through to origins by this process.',
    labels: [],
  },
  restored_total: {
    kind: 'counter',
    help: 'Places stood up again from receipts or memory.',
    labels: ['room'],
  },
  overload_level: {
    kind: 'gauge',
    help: 'What this process refuses for lack of room: 0 nothing, 1 newcomers, 2 also polls of those far back, 3 all but holders of sessions.',
    labels: [],
  },
  shed_total: {
    kind: 'counter',
    help: 'Requests that were refused because of the level of overload, by what they wanted.',
    labels: ['level', 'kind'],
  },
  connections_open: {
    kind: 'gauge',
    help: 'Connections to the public port of this process, streams included.',
    labels: [],
  },
  streams_open: {
    kind: 'gauge',
    help: 'Streams held by this process: `sse` or `socket`.',
    labels: ['transport'],
  },
  streams_refused_total: {
    kind: 'counter',
    help: 'Streams refused: too many of this visitor, of this address, of the process, or the page of a foreign origin.',
    labels: ['by'],
  },
  streams_ended_total: {
    kind: 'counter',
    help: 'Streams that this process ended, by the word it ended them with.',
    labels: ['ending'],
  },
  streams_resumed_total: {
    kind: 'counter',
    help: 'Streams opened with the id of an earlier message: of the epoch that holds now, of another, or not one of ours.',
    labels: ['epoch'],
  },
  streams_draining: {
    kind: 'gauge',
    help: 'Streams that a process that stops has still to send elsewhere.',
    labels: [],
  },
  frames_total: { kind: 'counter', help: 'Messages sent on streams.', labels: ['type'] },
  position_late_seconds: {
    kind: 'histogram',
    help: 'How much later than it was due a position went out.',
    labels: [],
    buckets: [0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5],
  },
  dropped_bytes_total: {
    kind: 'counter',
    help: 'Bytes of positions that were replaced by newer ones because their reader was slow.',
    labels: [],
  },
  slow_readers_total: {
    kind: 'counter',
    help: 'Streams cut because their reader took nothing for too long, or too much waited for it.',
    labels: [],
  },
  promoted_total: { kind: 'counter', help: 'Places promoted by this dispatcher.', labels: ['room'] },
  parked_total: {
    kind: 'counter',
    help: 'Places passed over while away, by this dispatcher.',
    labels: ['room'],
  },
  missed_total: {
    kind: 'counter',
    help: 'Promotions nobody claimed, reaped by this dispatcher.',
    labels: ['room'],
  },
  reaped_total: {
    kind: 'counter',
    help: 'Sessions that ran out, reaped by this dispatcher.',
    labels: ['room'],
  },
  overshoot_total: {
    kind: 'counter',
    help: 'Promotions above rate, burst or cap, recomputed from the entry stream alone. Must stay 0.',
    labels: ['room'],
  },
  duplicate_promotion_total: {
    kind: 'counter',
    help: 'Visits promoted twice, recomputed from the entry stream alone. Must stay 0.',
    labels: ['room'],
  },
  inversion_total: {
    kind: 'counter',
    help: 'Promotions out of order without a reason in the stream, recomputed from it alone. Must stay 0.',
    labels: ['room'],
  },
  adopted_over_cap_total: {
    kind: 'counter',
    help: 'Sessions taken back above the cap after a loss of data, recomputed from the entry stream.',
    labels: ['room'],
  },
  places: { kind: 'gauge', help: 'Places by state, from the last snapshot.', labels: ['room', 'state'] },
  tick_seconds: {
    kind: 'histogram',
    help: 'One look of the dispatcher at one room.',
    labels: [],
    buckets: FAST,
  },
  anchors: {
    kind: 'gauge',
    help: 'Fixed scores counted before in the last snapshot, by this dispatcher.',
    labels: ['room'],
  },
  eta_settled_total: {
    kind: 'counter',
    help: 'Estimates of waiting times that became known, by this dispatcher: held when the turn came before the far end. Nine in ten should.',
    labels: ['room', 'outcome'],
  },
  snapshot_seconds: { kind: 'histogram', help: 'Taking one snapshot.', labels: [], buckets: FAST },
  redis_up: { kind: 'gauge', help: '1 while the dispatcher reaches Redis.', labels: [] },
  recoveries_total: {
    kind: 'counter',
    help: 'Rooms recovered, by reason: Redis lost its data, started again, came back with older data, or another server took over.',
    labels: ['room', 'reason'],
  },
  room_failing: {
    kind: 'gauge',
    help: '1 while a command of the dispatcher fails for this room alone; the log and /ready name it.',
    labels: ['room'],
  },
  unreadable_total: {
    kind: 'counter',
    help: 'Places that were skipped because their entry in Redis cannot be read.',
    labels: ['room'],
  },
  ledger_gaps_total: {
    kind: 'counter',
    help: 'Holes in the ledgers: records that were trimmed or lost before they were written.',
    labels: ['room'],
  },
  holds_total: { kind: 'counter', help: 'Holds by outcome.', labels: ['outcome'] },
  orders_total: { kind: 'counter', help: 'Orders by the state they reached.', labels: ['outcome'] },
  refunds_total: { kind: 'counter', help: 'Refunds by outcome.', labels: ['outcome'] },
  payments_open: {
    kind: 'gauge',
    help: 'Charges whose outcome the provider has not reported, and refunds that are not finished, by age: minutes (up to an hour), hours, days.',
    labels: ['what', 'age'],
  },
  drift_repaired_total: {
    kind: 'counter',
    help: 'Seats whose copy in Redis was put right from PostgreSQL.',
    labels: [],
  },
  spans_total: {
    kind: 'counter',
    help: 'Spans of traces: taken by the collector, or dropped because it was away or too slow.',
    labels: ['outcome'],
  },
} as const satisfies Record<string, Row>;

/**
 * The values a label may have: a closed list, or the most that are told apart. Whatever goes beyond is counted as
 * `other`, so that no client can make the number of series grow.
 */
const labelValues: Record<string, readonly string[] | number> = {
  room: 200,
  rule: 200,
  route: 100,
  method: ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'],
  status: ['1xx', '2xx', '3xx', '4xx', '5xx'],
  outcome: [
    ...['unknown', 'otherSale', 'held', 'recovering', 'closed', 'notOpen', 'full', 'joined'],
    ...['finished', 'active', 'notPromoted', 'claimed', 'ok', 'error', 'done', 'failed'],
    ...['repeated', 'rebuilding', 'conflict', 'ended', 'limit', 'cooling', 'none', 'taken'],
    ...['verified', 'known', 'invalid', 'unavailable', 'refused', 'overloaded', 'dropped'],
    ...['late', 'paying', 'paid', 'declined', 'expired', 'refunding', 'refunded', 'cancelled'],
  ],
  verdict: ['allow', 'challenge', 'tarpit', 'block'],
  by: ['local', 'visitor', 'address', 'room', 'process', 'origin'],
  transport: ['sse', 'socket'],
  ending: ['finished', 'left', 'closed', 'newSale', 'tooManyMessages', 'restarting', 'tokenExpired'],
  epoch: ['same', 'other', 'foreign'],
  type: ['position', 'state', 'promoted', 'notice', 'ended'],
  state: ['waiting', 'parked', 'withheld', 'promoted', 'active'],
  what: ['charge', 'refund'],
  age: ['minutes', 'hours', 'days'],
  reason: ['lost', 'restart', 'failover', 'older'],
  level: ['1', '2', '3'],
  kind: ['page', 'join', 'poll', 'stream', 'claim', 'other'],
};

export type MetricName = keyof typeof metricTable;
type NamesOf<K extends Row['kind']> = {
  [N in MetricName]: (typeof metricTable)[N]['kind'] extends K ? N : never;
}[MetricName];
type LabelsOf<N extends MetricName> = Record<(typeof metricTable)[N]['labels'][number], string>;

export type Metrics = {
  inc<N extends NamesOf<'counter'>>(name: N, labels: LabelsOf<N>, by?: number): void;
  set<N extends NamesOf<'gauge'>>(name: N, labels: LabelsOf<N>, value: number): void;
  observe<N extends NamesOf<'histogram'>>(name: N, labels: LabelsOf<N>, value: number): void;
  /** One series of a histogram, for whoever observes it with every request. */
  observer<N extends NamesOf<'histogram'>>(name: N, labels: LabelsOf<N>): (value: number) => void;
  /** The exposition format of Prometheus. */
  text(): Promise<string>;
  readonly contentType: string;
};

export const metricPrefix = 'anteroom_';

type Labels = Record<string, string>;
type Counted = { labels: Labels; value: number };
/** `perBucket` counts each value once, in the first bucket that takes it; the last one takes what is beyond all. */
type Spread = { labels: Labels; perBucket: Float64Array; sum: number };

/**
 * A histogram that shows what was counted elsewhere. The registry asks each metric for its values by
 * `getForPromString`, which the types of prom-client leave out.
 */
class SpreadMetric extends Histogram {
  private readonly shown: { name: string; help: string };
  private readonly bounds: readonly number[];
  private readonly series: readonly Spread[];

  constructor(made: {
    base: HistogramConfiguration<string>;
    bounds: readonly number[];
    series: readonly Spread[];
  }) {
    super({ ...made.base, buckets: [...made.bounds] });
    this.shown = { name: made.base.name, help: made.base.help };
    this.bounds = made.bounds;
    this.series = made.series;
  }

  async getForPromString() {
    const { name, help } = this.shown;
    const values = this.series.flatMap(({ labels, perBucket, sum }) => {
      let count = 0;
      const buckets = [...perBucket].map((inBucket, index) => {
        count += inBucket;
        return {
          metricName: `${name}_bucket`,
          labels: { le: this.bounds[index] ?? '+Inf', ...labels },
          value: count,
        };
      });
      return [
        ...buckets,
        { metricName: `${name}_sum`, labels, value: sum },
        { metricName: `${name}_count`, labels, value: count },
      ];
    });
    return { name, help, type: 'histogram', values };
  }
}

/** Combinations of raw label values whose series is known without folding them again. */
const KNOWN_MAX = 5000;

/**
 * Finds the series of a set of labels: first by the values as they came, then by what is left of them when the values
 * that are not in their closed sets are folded into one.
 */
const createSeries = <S>(
  fold: (name: string, label: string, value: string) => string,
  make: (name: string, labels: Labels) => S,
) => {
  const known = new Map<string, S>();
  const all = new Map<string, S>();
  return (name: string, labels: Labels): S => {
    let raw = name;
    for (const label in labels) raw += `\n${labels[label]}`;
    const direct = known.get(raw);
    if (direct !== undefined) return direct;
    const folded: Labels = {};
    let key = name;
    for (const label in labels) {
      folded[label] = fold(name, label, labels[label]!);
      key += `\n${folded[label]}`;
    }
    const series = all.get(key) ?? make(name, folded);
    all.set(key, series);
    if (known.size >= KNOWN_MAX) known.clear();
    known.set(raw, series);
    return series;
  };
};

/**
 * `processMetrics: false` leaves out what prom-client collects of the process itself. Counters and histograms are
 * counted here and handed to prom-client when somebody looks: its own ways to count build a key from the labels at
 * each call, which costs more than the thing that is counted.
 */
export const createMetrics = (options: { processMetrics?: boolean } = {}): Metrics => {
  const registry = new Registry();
  if (options.processMetrics !== false) collectDefaultMetrics({ register: registry, prefix: metricPrefix });
  const seen = new Map<string, Set<string>>();
  const foldedValue = (metric: string, label: string, value: string): string => {
    const allowed = labelValues[label] ?? 0;
    if (typeof allowed !== 'number') return allowed.includes(value) ? value : 'other';
    const key = `${metric}/${label}`;
    const values = seen.get(key) ?? new Set();
    seen.set(key, values);
    if (!values.has(value) && values.size < allowed) values.add(value);
    return values.has(value) ? value : 'other';
  };
  const counted = new Map<string, Counted[]>();
  const spreads = new Map<string, { bounds: readonly number[]; series: Spread[] }>();
  const gauges = new Map<string, Gauge>();
  const counterOf = createSeries(foldedValue, (name, labels) => {
    const made: Counted = { labels, value: 0 };
    counted.get(name)!.push(made);
    return made;
  });
  const observerOf = createSeries(foldedValue, (name, labels) => {
    const { bounds, series } = spreads.get(name)!;
    const made: Spread = { labels, perBucket: new Float64Array(bounds.length + 1), sum: 0 };
    series.push(made);
    return (value: number): void => {
      let bucket = 0;
      while (bucket < bounds.length && value > bounds[bucket]!) bucket += 1;
      made.perBucket[bucket]! += 1;
      made.sum += value;
    };
  });
  const gaugeOf = createSeries(foldedValue, (name, labels) => gauges.get(name)!.labels(labels));

  for (const [name, row] of Object.entries<Row>(metricTable)) {
    const fullName = `${metricPrefix}${name}`;
    const base = { name: fullName, help: row.help, labelNames: [...row.labels], registers: [registry] };
    if (row.kind === 'gauge') gauges.set(name, new Gauge(base));
    else if (row.kind === 'counter') {
      const series: Counted[] = [];
      counted.set(name, series);
      new Counter({
        ...base,
        collect() {
          this.reset();
          for (const { labels, value } of series) this.inc(labels, value);
        },
      });
    } else {
      const bounds = row.buckets ?? FAST;
      const series: Spread[] = [];
      spreads.set(name, { bounds, series });
      new SpreadMetric({ base, bounds, series });
      // One without labels is shown from the start, as 0.
      if (row.labels.length === 0) observerOf(name, {});
    }
  }
  return {
    inc: (name, labels, by = 1) => {
      if (by > 0) counterOf(name, labels).value += by;
    },
    set: (name, labels, value) => gaugeOf(name, labels).set(value),
    observe: (name, labels, value) => observerOf(name, labels)(value),
    observer: (name, labels) => observerOf(name, labels),
    text: () => registry.metrics(),
    contentType: registry.contentType,
  };
};

const READY_MS_MAX = 1000;

/** Serves /metrics, /live (the loop turns) and /ready (each role by its dependencies). */
export const createMetricsServer = (options: {
  config: Pick<Config, 'host' | 'metricsPort' | 'bodyBytesMax' | 'slowReaderMs'>;
  log: Log;
  metrics: Metrics;
  roles: () => readonly Role[];
  /** The process is about to stop: it is not ready any more, whatever its roles say. */
  stopping?: () => boolean;
}): { listen(): Promise<{ port: number }>; close(): Promise<void> } => {
  const { config, log, metrics, roles } = options;
  const server = createServer({
    name: 'metrics',
    host: config.host,
    port: config.metricsPort,
    exclusive: true,
    log,
    bodyBytesMax: config.bodyBytesMax,
    slowReaderMs: config.slowReaderMs,
    trustedProxies: [],
  });
  server.route('GET', '/metrics', async () => ({
    status: 200,
    headers: [['content-type', metrics.contentType]],
    body: await metrics.text(),
  }));
  server.route('GET', '/live', () => json(200, { live: true }));
  server.route('GET', '/ready', async () => {
    const missing: string[] = [];
    await Promise.all(
      roles().map(async (role) => {
        const late = new Promise<Record<string, boolean>>((resolve) => {
          setTimeout(() => resolve({ answer: false }), READY_MS_MAX).unref();
        });
        const broken = (error: unknown): Record<string, boolean> => {
          log.warn('ready-failed', {
            role: role.name,
            error: error instanceof Error ? error : String(error),
          });
          return { answer: false };
        };
        const parts = await Promise.race([role.ready().catch(broken), late]);
        for (const [part, ready] of Object.entries(parts)) if (!ready) missing.push(`${role.name}.${part}`);
      }),
    );
    if (options.stopping?.() === true) missing.push('stopping');
    const names = roles().map((role) => role.name);
    // Of some rooms only, so that a balancer leaves the process where it is; it is for people to read.
    const failing = roles().flatMap((role) => (role.failing?.() ?? []).map((what) => `${role.name} ${what}`));
    missing.sort(
      (a, b) => names.findIndex((name) => a.startsWith(name)) - names.findIndex((name) => b.startsWith(name)),
    );
    return json(missing.length === 0 ? 200 : 503, {
      ready: missing.length === 0,
      missing,
      ...(failing.length > 0 ? { failing } : {}),
    });
  });
  return { listen: () => server.listen(), close: () => server.close(1000) };
};
