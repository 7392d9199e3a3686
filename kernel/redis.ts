// The one file that creates Redis connections, with every default of ioredis that bites set by hand:
// a command has a deadline, is never resent by the client on its own (our scripts are safe twice, but the caller
// decides), and fails at once while there is no connection instead of queueing behind it.

import { Redis } from 'ioredis';
import type { Config } from './config.ts';
import { Refusal } from './errors.ts';
import type { Log } from './log.ts';

export type { Redis } from 'ioredis';

const RECONNECT_MS_MAX = 1000;

/**
 * The script commands that every client knows from its creation. They must be there before the first command is
 * sent: a pipeline that ioredis fills by itself takes its list of commands when it begins, and one defined a
 * moment later is missing from it. lua/script.ts adds each script when its binding is made.
 */
export const scriptCommands = new Map<string, { lua: string; numberOfKeys: number }>();

/**
 * A client that reconnects by itself. `purpose` names the connection in CLIENT LIST.
 * A blocking reader (XREAD BLOCK) needs one of its own: pass `blocking`, which lifts the command deadline.
 */
export const createRedis = (options: {
  url: string;
  config: Pick<Config, 'redisCommandTimeoutMs'>;
  log: Log;
  purpose: string;
  blocking?: boolean;
}): Redis => {
  const { url, config, log, purpose } = options;
  const client = new Redis(url, {
    lazyConnect: true,
    scripts: Object.fromEntries(scriptCommands),
    connectionName: `anteroom-${purpose}`,
    connectTimeout: 2000,
    ...(options.blocking ? {} : { commandTimeout: config.redisCommandTimeoutMs, enableAutoPipelining: true }),
    maxRetriesPerRequest: 0,
    autoResendUnfulfilledCommands: false,
    enableOfflineQueue: false,
    retryStrategy: (times) =>
      Math.min(50 * 2 ** Math.min(times, 6), RECONNECT_MS_MAX) * (0.5 + Math.random() / 2),
    reconnectOnError: (error) => (/^(READONLY|LOADING|MASTERDOWN)/.test(error.message) ? 1 : false),
  });
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
  try {
    await client.connect();
  } catch (cause) {
    client.disconnect();
    throw new Error(`Redis at ${where} cannot be reached. Start it, or correct ANTEROOM_REDIS_URL.`, {
      cause,
    });
  }
};

/** Takes the user and password out of an address, for messages. */
export const withoutSecret = (url: string): string => url.replace(/\/\/[^@/]*@/, '//');

/** Runs a command of the line for a fan: any fault of Redis becomes the refusal `unavailable`. */
export const orUnavailable = async <T>(work: Promise<T>): Promise<T> => {
  try {
    return await work;
  } catch (cause) {
    throw new Refusal('unavailable', { cause });
  }
};

/** What a line needs of any Redis: never throws keys away by itself, and survives a restart. */
const WANTED = { 'maxmemory-policy': 'noeviction', appendonly: 'yes' } as const;

/** Says at start what is wrong with the settings of the Redis in use. Never refuses: the operator may know why. */
export const checkRedisSettings = async (redis: Redis, log: Log): Promise<void> => {
  for (const [name, wanted] of Object.entries(WANTED)) {
    let found: unknown;
    try {
      found = await redis.config('GET', name);
    } catch (error) {
      // Managed services forbid CONFIG; that says nothing about the setting itself.
      log.info('redis-settings-unknown', { name, wanted, error });
      return;
    }
    const pairs = Array.isArray(found) ? found.map(String) : Object.entries(Object(found)).flat().map(String);
    const value = pairs[pairs.indexOf(name) + 1];
    if (value !== wanted) log.warn('redis-setting', { name, value, wanted });
  }
};
