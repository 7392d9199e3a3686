// The one file that creates Redis connections, with every default of ioredis that bites set by hand:
// a command has a deadline, is never resent by the client on its own (our scripts are safe twice, but the caller
// decides), and fails at once while there is no connection instead of queueing behind it. A server that neither
// answers nor closes is left: by its silence, and with Sentinel as soon as the sentinels name another primary.

import { Redis, type RedisOptions, SentinelConnector } from 'ioredis';
import { type Chance, systemChance } from './clock.ts';
import type { Config } from './config.ts';
import { Refusal } from './errors.ts';
import type { Log } from './log.ts';
import { parseRedisPlace, type RedisPlace } from './redis-url.ts';
import type { Tracer } from './trace.ts';

export type { Redis } from 'ioredis';

const RECONNECT_MS_MAX = 1000;
const CONNECT_MS_MAX = 2000;
/** The longest XREAD BLOCK of a blocking reader (kernel/stream.ts): so long a silence of the server is no fault. */
const BLOCK_MS_MAX = 1000;
/** A whole start: every sentinel in turn may take a connect and an answer. */
const START_MS_MAX = 8000;
/** How long a socket may take to close politely. A server that is stopped never closes it, so it is short. */
const DISCONNECT_MS_MAX = 200;
/** While a server reads its file back it is asked again this often, whatever it guesses it still needs. */
const LOADING_RETRY_MS = 500;
const SENTINEL_ANSWER_MS_MAX = 2000;
const SENTINEL_RETRY_MS = 500;

/**
 * The errors of a server that is there but must not be used as it is: a replica (READONLY, MASTERDOWN) or one that
 * still loads. The connection is made anew, which with Sentinel finds the primary. All other refusals (NOREPLICAS,
 * OOM, BUSY, MISCONF, MOVED) stay with the command: it has failed, its caller answers 503, and the next may succeed.
 */
const LEAVE_SERVER = /^(READONLY|LOADING|MASTERDOWN)/;

/** Refusals that say nothing of the data that was asked for: whoever else asks hears the same. */
const OF_SERVER =
  /^(?:ERR )?(?:READONLY|LOADING|MASTERDOWN|NOREPLICAS|OOM|BUSY|MISCONF|CLUSTERDOWN|TRYAGAIN|NOAUTH|NOPERM|WRONGPASS)\b/;
/** What ioredis says of a connection that is none; it has no class of its own for most of it. */
const OF_CONNECTION =
  /connection is (?:closed|lost)|connection lost|command timed out|isn't writeable|max retries per request|command aborted|sentinels are unreachable/i;
/** Node's own: ECONNREFUSED, EPIPE, ETIMEDOUT, … */
const isSystemError = (error: Error): boolean => 'syscall' in error && 'code' in error;

/** Whether a command failed for everybody, and not because of what it was about. */
export const isServerFault = (error: unknown): boolean => {
  if (!(error instanceof Error)) return false;
  if (error.name === 'ReplyError') return OF_SERVER.test(error.message);
  return isSystemError(error) || OF_CONNECTION.test(error.message);
};

/**
 * What `work` answers, or `otherwise` where it fails because of what it was about: one thing that cannot be read is no
 * reason to read nothing else. Rejects where the server is at fault.
 */
export const orElse = async <T>(work: () => Promise<T>, otherwise: (error: Error) => T): Promise<T> => {
  try {
    return await work();
  } catch (error) {
    if (isServerFault(error)) throw error;
    return otherwise(error instanceof Error ? error : new Error(String(error)));
  }
};

/**
 * The script commands that every client knows from its creation. They must be there before the first command is
 * sent: a pipeline that ioredis fills by itself takes its list of commands when it begins, and one defined a
 * moment later is missing from it. lua/script.ts adds each script when its binding is made.
 */
export const scriptCommands = new Map<string, { lua: string; numberOfKeys: number }>();

const OPEN_SENTINEL = 'connectToSentinel';
const DETECTOR = 'failoverDetector';

/**
 * The connector of ioredis with two faults mended. It keeps connections to the sentinels open to hear of a failover
 * (the detector), and their errors had no listener: every sentinel that went away was written to stderr, in lines
 * that are not ours. And the detector of a connection that has broken went on listening: when it heard of the
 * failover while the client was already asking for the new primary, it ended that attempt, and with it the client,
 * for ever (seen in test/slow/fault under load). So it is dismissed before a new attempt begins.
 */
class MendedSentinelConnector extends SentinelConnector {
  constructor(options: ConstructorParameters<typeof SentinelConnector>[0]) {
    super(options);
    // Private members are reached by name on purpose; test/slow/fault/sentinel.test.ts fails when it goes away.
    const open = this[OPEN_SENTINEL].bind(this);
    this[OPEN_SENTINEL] = (...asked: Parameters<typeof open>) => {
      const client = open(...asked);
      // One sentinel less is no fault: the others answer, and the detector connects again by itself.
      client.on('error', () => undefined);
      return client;
    };
  }

  override connect(
    ...asked: Parameters<SentinelConnector['connect']>
  ): ReturnType<SentinelConnector['connect']> {
    this[DETECTOR]?.cleanup();
    return super.connect(...asked);
  }
}

/** As ioredis takes them; `replyMapping` chooses its reply types and is never set here. */
type Settings = Omit<RedisOptions, 'replyMapping'>;

const placeSettings = (place: RedisPlace, sentinelPassword: string): Settings => {
  if (place.kind === 'server') return {};
  return {
    sentinels: [...place.nodes],
    name: place.name,
    role: 'master',
    db: place.db,
    ...(place.username === undefined ? {} : { username: place.username }),
    ...(place.password === undefined ? {} : { password: place.password }),
    ...(sentinelPassword === '' ? {} : { sentinelPassword }),
    // Off by default, and then a primary that hangs instead of dying is never left.
    failoverDetector: true,
    sentinelCommandTimeout: SENTINEL_ANSWER_MS_MAX,
    sentinelRetryStrategy: () => SENTINEL_RETRY_MS,
    // The default of a minute would leave the detector deaf for as long.
    sentinelReconnectStrategy: () => SENTINEL_RETRY_MS,
    // The sentinels in the setting are the sentinels; what they call each other may not be reachable from here.
    updateSentinels: false,
    // ioredis types a connector's options as unknown; it hands over the options above.
    Connector: MendedSentinelConnector as unknown as NonNullable<RedisOptions['Connector']>,
  };
};

const traceScripts = (client: Redis, tracer: Tracer): void => {
  // ioredis has put each script on the client as a method of its own; its type cannot say so.
  type Method = (this: unknown, ...args: unknown[]) => Promise<unknown>;
  const methods = client as unknown as Record<string, Method>;
  for (const command of scriptCommands.keys()) {
    const run = methods[command]!;
    // lua/script.ts makes `ar_room_join` of room.join.
    const name = command.replace('ar_', '').replace('_', '.');
    // A pipeline that ioredis fills by itself takes the same method over, and calls it in its own name.
    methods[command] = function (...args) {
      return this === client ? tracer.command(name, () => run.apply(this, args)) : run.apply(this, args);
    };
  }
};

/**
 * A client that reconnects by itself. `purpose` names the connection in CLIENT LIST.
 * A blocking reader (XREAD BLOCK) needs one of its own: pass `blocking`, which lifts the command deadline.
 */
export const createRedis = (options: {
  url: string;
  config: Pick<Config, 'redisCommandTimeoutMs' | 'sentinelPassword'>;
  log: Log;
  purpose: string;
  blocking?: boolean;
  /** Gives every script of the line that runs during a request a span, by its name alone. */
  tracer?: Tracer | undefined;
  chance?: Chance;
}): Redis => {
  const { url, config, log, purpose, chance = systemChance } = options;
  const parsed = parseRedisPlace(url);
  if (parsed.outcome === 'fault') throw new Error(`ANTEROOM_REDIS_URL ${parsed.says}`);
  const { place } = parsed;
  const commandMs = config.redisCommandTimeoutMs;
  const settings: Settings = {
    lazyConnect: true,
    scripts: Object.fromEntries(scriptCommands),
    connectionName: `anteroom-${purpose}`,
    connectTimeout: CONNECT_MS_MAX,
    disconnectTimeout: DISCONNECT_MS_MAX,
    // A connection on which something was asked and nothing comes is dead, whatever TCP thinks of it.
    socketTimeout: commandMs + (options.blocking ? BLOCK_MS_MAX : 0) + 500,
    ...(options.blocking ? {} : { commandTimeout: commandMs, enableAutoPipelining: true }),
    maxRetriesPerRequest: 0,
    autoResendUnfulfilledCommands: false,
    enableOfflineQueue: false,
    maxLoadingRetryTime: LOADING_RETRY_MS,
    retryStrategy: (times) => Math.min(50 * 2 ** Math.min(times, 6), RECONNECT_MS_MAX) * (0.5 + chance() / 2),
    reconnectOnError: (error) => (LEAVE_SERVER.test(error.message) ? 1 : false),
    ...placeSettings(place, config.sentinelPassword),
  };
  const client = place.kind === 'server' ? new Redis(place.url, settings) : new Redis(settings);
  if (options.tracer !== undefined) traceScripts(client, options.tracer);
  let down = false;
  client.on('error', (error: Error) => {
    if (!down) log.warn('redis-lost', { purpose, error });
    down = true;
  });
  client.on('ready', () => {
    if (down) log.info('redis-back', { purpose });
    down = false;
  });
  return client;
};

/** Connects, or throws with a sentence an operator can act on. */
export const connectRedis = async (client: Redis, where: string): Promise<void> => {
  let timer: NodeJS.Timeout | undefined;
  // With Sentinel, `connect` goes on asking for ever; at start somebody waits for a word.
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no primary within ${START_MS_MAX} ms`)), START_MS_MAX);
  });
  try {
    await Promise.race([client.connect(), late]);
    clearTimeout(timer);
  } catch (cause) {
    clearTimeout(timer);
    client.disconnect();
    throw new Error(`Redis at ${where} cannot be reached. Start it, or correct ANTEROOM_REDIS_URL.`, {
      cause,
    });
  }
};

/** Runs a command of the line for a fan: any fault of Redis becomes the refusal `unavailable`. */
export const orUnavailable = async <T>(work: Promise<T>): Promise<T> => {
  try {
    return await work;
  } catch (cause) {
    throw new Refusal('unavailable', { cause });
  }
};

/** What a line needs of any Redis: never throws keys away by itself, and survives a restart. */
const WANTED: readonly (readonly [name: string, wanted: string, is: (value: string) => boolean])[] = [
  ['maxmemory-policy', 'noeviction', (value) => value === 'noeviction'],
  ['appendonly', 'yes', (value) => value === 'yes'],
];
/**
 * With Sentinel also: a primary that no replica hears takes no writes. Otherwise one that was cut off from the
 * others goes on giving out places that the new primary has never heard of, for as long as the cut lasts.
 */
const WANTED_WITH_SENTINEL: typeof WANTED = [['min-replicas-to-write', '1', (value) => Number(value) >= 1]];

/** Says at start what is wrong with the settings of the Redis in use. Never refuses: the operator may know why. */
export const checkRedisSettings = async (redis: Redis, log: Log): Promise<void> => {
  const isSentinel = (redis.options.sentinels?.length ?? 0) > 0;
  for (const [name, wanted, is] of [...WANTED, ...(isSentinel ? WANTED_WITH_SENTINEL : [])]) {
    let found: unknown;
    try {
      found = await redis.config('GET', name);
    } catch (error) {
      // Managed services forbid CONFIG; that says nothing about the setting itself.
      log.info('redis-settings-unknown', { name, wanted, error });
      return;
    }
    const pairs = Array.isArray(found) ? found.map(String) : Object.entries(Object(found)).flat().map(String);
    const value = pairs[pairs.indexOf(name) + 1] ?? '';
    if (!is(value)) log.warn('redis-setting', { name, value, wanted });
  }
};
