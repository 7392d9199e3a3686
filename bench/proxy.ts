// What carrying a request costs: 1 KB from an origin (bare uWebSockets) through the gate for a known session, through
// nginx's proxy_pass and through @fastify/http-proxy, in turn. Then the delay each adds at half of the load our own can
// carry: it is the one that has to keep up.

import { Agent } from 'node:http';
import { browserHeaders, createFan } from './fan.ts';
import { getInside } from './gate.ts';
import { runLoad } from './load.ts';
import { startNginx } from './nginx.ts';
import { startRedis } from './redis.ts';
import { median, type Row, rounded } from './report.ts';
import { loaded, medianOf, pinAll, ratioOf, roundsFor, runRounds } from './rounds.ts';
import { onRedis, type Running, startFastifyProxy, startFloor, startSystem } from './system.ts';

const ORIGIN = 'origin: 1 KB, bare uWebSockets';
const OURS = 'proxied: the gate with a known session';
const NGINX = 'proxied: nginx';
const FASTIFY = 'proxied: @fastify/http-proxy';
const PATH = '/demo/v1/kilobyte'; // The demo's room guards /demo.

const HALF_LOAD_SECONDS = 2;

export const runProxy = async (
  quick: boolean,
): Promise<{ rows: Row[]; rounds: Row[]; conditions: string[] }> => {
  const running: { stop(): Promise<void> }[] = [];
  const started = async <R extends { stop(): Promise<void> }>(starting: Promise<R>): Promise<R> => {
    const one = await starting;
    running.unshift(one);
    return one;
  };
  const agent = new Agent({ keepAlive: true });
  try {
    const origin = await started(startFloor());
    // booking-core is what the demo's room guards; its address is the origin's here.
    // As in a sale: a gateway is a process of its own, and the line is moved by another.
    const redis = await started(startRedis({ appendOnly: false }));
    const shared = {
      ...onRedis(redis.url),
      ANTEROOM_DEMO: 'on',
      ANTEROOM_BOOKING_URL: origin.base,
    };
    await started(startSystem({ ...shared, ANTEROOM_ROLES: 'broker,dispatcher,admin' }));
    const system = await started(startSystem({ ...shared, ANTEROOM_ROLES: 'gateway' }));
    const nginx = await started(startNginx(origin.base));
    const fastify = await started(startFastifyProxy(origin.base));
    const fan = createFan({ base: system.base, agent });
    await getInside(fan);
    const headers = { ...browserHeaders, cookie: fan.cookieHeader() };

    const pinned = pinAll([system.pid, nginx.pid, fastify.pid]);
    const of = (name: string, { pid, base }: Running, floor?: string) =>
      loaded({
        name,
        pid,
        status: 200,
        byWrk: true,
        ...(floor === undefined ? {} : { floor }),
        load: { base, method: 'GET', path: PATH, headers },
      });
    const options = roundsFor(quick);
    const done = await runRounds(
      [of(ORIGIN, origin), of(NGINX, nginx, ORIGIN), of(FASTIFY, fastify, ORIGIN), of(OURS, system, ORIGIN)],
      options,
    );
    const compared = (
      [
        [NGINX, 0.42],
        [FASTIFY, 1.5],
      ] as const
    ).map(
      ([to, wanted]): Row => ({
        ratio: `the gate to ${to.slice('proxied: '.length)}`,
        'requests/s': rounded(ratioOf(done.slices, { of: OURS, to, read: ({ perSecond }) => perSecond })),
        'wanted at least': wanted,
        'CPU each': rounded(ratioOf(done.slices, { of: OURS, to, read: ({ cpuMicros }) => cpuMicros })),
      }),
    );

    // Half of what ours carried: the same rate for all, so that the delays can be compared.
    const overallRate = Math.round(medianOf(done.slices, OURS, ({ perSecond }) => perSecond) / 2);
    const delays = new Map<string, number[]>();
    const subjects = { [ORIGIN]: origin, [NGINX]: nginx, [FASTIFY]: fastify, [OURS]: system };
    for (let round = 0; round < options.rounds; round++)
      for (const [name, { base }] of Object.entries(subjects)) {
        const { p99Ms } = await runLoad(
          { base, method: 'GET', path: PATH, headers },
          { connections: options.connections, seconds: HALF_LOAD_SECONDS, perSecond: overallRate },
        );
        delays.set(name, [...(delays.get(name) ?? []), p99Ms]);
      }
    const p99Of = (name: string): number => median(delays.get(name) ?? []);
    const addedOf = (name: string): number => p99Of(name) - p99Of(ORIGIN);
    const delayed = Object.keys(subjects).map(
      (name): Row => ({
        'at half load': name,
        'offered/s': overallRate,
        'p99 in ms': rounded(p99Of(name), 1),
        'added in ms': rounded(addedOf(name), 1),
        'added, times nginx': name === ORIGIN ? '' : rounded(addedOf(name) / addedOf(NGINX), 1),
      }),
    );
    return {
      rows: [...done.rows, ...compared, ...delayed],
      rounds: done.rounds,
      conditions: [
        ...done.conditions,
        `${pinned}; the origin is free to use either`,
        'the gateway is a process of its own; all other roles in another',
        'half load is half of what the gate carried, evenly spread; an answer that waited for its turn counts from it',
      ],
    };
  } finally {
    agent.destroy();
    for (const one of running) await one.stop();
  }
};
