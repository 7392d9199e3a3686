// Ordinary fans beside an attack: joins at an even pace, far below what the gateway can do, each from an address of
// its own. What an attack does to them is read from their slowest hundredth, beside quiet slices of the same run.

import { browserHeaders } from './fan.ts';
import { type Load, type LoadResult, runLoad } from './load.ts';
import { type BenchRedis, infoOf, startRedis } from './redis.ts';
import { onRedis, type RunningSystem, startSystem } from './system.ts';

const ROOM = 'demo';
export const JOIN_PATH = `/v1/rooms/${ROOM}/places`;
export const PAGE_PATH = `/rooms/${ROOM}`;
const FANS_PER_SECOND = 200;
const FAN_CONNECTIONS = 32;

/** A gateway alone, as in a sale, the other roles in a second process, and a Redis the bench can look into. */
export const startAttacked = async (keep: <T extends { stop(): Promise<void> }>(started: T) => T) => {
  const redis: BenchRedis = keep(await startRedis({ appendOnly: true }));
  const shared = {
    ...onRedis(redis.url),
    ANTEROOM_DEMO: 'on',
    ANTEROOM_TRUSTED_PROXIES: '127.0.0.1',
  };
  const others = keep(
    await startSystem({ ...shared, ANTEROOM_ROLES: 'dispatcher,booking-core,admin,broker' }),
  );
  const system: RunningSystem = keep(await startSystem({ ...shared, ANTEROOM_ROLES: 'gateway' }));
  return { redis, others, system };
};

/** Ordinary fans for some seconds; throws when one of them was not let into the line. */
export const ordinaryFans = async (base: string, seconds: number): Promise<LoadResult> => {
  const load: Load = {
    base,
    method: 'POST',
    path: JOIN_PATH,
    body: '{}',
    headers: { ...browserHeaders, 'content-type': 'application/json' },
    addresses: true,
  };
  const done = await runLoad(load, { connections: FAN_CONNECTIONS, seconds, perSecond: FANS_PER_SECOND });
  if (done.statuses.get(201) !== done.answers)
    throw new Error(`ordinary fans were answered ${[...done.statuses.keys()].join(', ')}`);
  return done;
};

/** All commands Redis has been asked so far, those inside scripts included. */
export const commandsOf = async ({ wire }: BenchRedis): Promise<number> => {
  let calls = 0;
  for (const line of (await infoOf(wire, 'commandstats')).values())
    calls += Number(/^calls=(\d+)/.exec(line)?.[1] ?? 0);
  return calls;
};

export const fansSentence = `ordinary fans: ${FANS_PER_SECOND} joins/s on ${FAN_CONNECTIONS} connections, each from a made-up address; p99 counts from the turn of a request`;
