// What it costs to ask us: nginx in auth mode, with the file of deploy/, once with our gateway to ask and once with a bare
// uWebSockets server that lets everybody through with an empty answer. Everything else is the same for both: nginx and
// the origin stand on one core, whoever is asked and the load on the other.

import { Agent } from 'node:http';
import { cpus } from 'node:os';
import { createFan } from './fan.ts';
import { getInside, nineHeaders } from './gate.ts';
import { cpuSecondsOf, pin } from './machine.ts';
import { startAuthNginx } from './nginx.ts';
import { startRedis } from './redis.ts';
import { median, type Row, rounded } from './report.ts';
import { loaded, pinAll, ratioOf, roundsFor, runRounds, type Subject } from './rounds.ts';
import { onRedis, type Running, startFloor, startSystem } from './system.ts';

const NULL = 'nginx that asks a null backend';
const OURS = 'nginx that asks the gateway';
const PATH = '/demo/v1/kilobyte'; // The demo's room guards /demo; the origin answers it with 1 KB.

/** The same subject, and what the one that is asked used in each slice. */
const withAsked = (subject: Subject, { pid }: Running, used: number[]): Subject => ({
  ...subject,
  async slice(options) {
    const before = cpuSecondsOf(pid);
    const slice = await subject.slice(options);
    used.push(((cpuSecondsOf(pid) - before) / (slice.perSecond * options.seconds)) * 1e6);
    return slice;
  },
});

export const runAuthorize = async (
  quick: boolean,
): Promise<{ rows: Row[]; rounds: Row[]; conditions: string[] }> => {
  const running: { stop(): Promise<void> }[] = [];
  const keep = <R extends { stop(): Promise<void> }>(one: R): R => {
    running.unshift(one);
    return one;
  };
  const agent = new Agent({ keepAlive: true });
  try {
    const redis = keep(await startRedis({ appendOnly: false }));
    const shared = {
      ...onRedis(redis.url),
      ANTEROOM_DEMO: 'on',
      ANTEROOM_TRUSTED_PROXIES: '127.0.0.1',
      // One address asks for all: more than it can ask, so that the limit counts and refuses nothing.
      ANTEROOM_INSIDE_PER_SECOND: '1000000',
    };
    keep(await startSystem({ ...shared, ANTEROOM_ROLES: 'dispatcher,booking-core,admin,broker' }));
    const gateway = keep(await startSystem({ ...shared, ANTEROOM_ROLES: 'gateway' }));
    const origin = keep(await startFloor());
    const nobody = keep(await startFloor());
    const ours = keep(await startAuthNginx({ gateway: gateway.base, origin: origin.base }));
    const empty = keep(await startAuthNginx({ gateway: nobody.base, origin: origin.base }));
    const fan = createFan({ base: gateway.base, agent });
    await getInside(fan);
    const pinned = pinAll([ours.pid, empty.pid, origin.pid]);
    const last = cpus().length - 1;
    for (const { pid } of [gateway, nobody]) pin(pid, last);

    const headers = nineHeaders({ cookie: fan.cookieHeader() });
    const used = { ours: [] as number[], empty: [] as number[] };
    const load = ({ base }: Running) => ({ base, method: 'GET', path: PATH, headers }) as const;
    const done = await runRounds(
      [
        withAsked(
          loaded({ name: NULL, pid: empty.pid, status: 200, byWrk: true, load: load(empty) }),
          nobody,
          used.empty,
        ),
        withAsked(
          loaded({ name: OURS, floor: NULL, pid: ours.pid, status: 200, byWrk: true, load: load(ours) }),
          gateway,
          used.ours,
        ),
      ],
      roundsFor(quick),
    );
    return {
      rows: [
        ...done.rows,
        {
          compared: `${OURS} to ${NULL}`,
          'by requests/s': rounded(
            ratioOf(done.slices, { of: OURS, to: NULL, read: ({ perSecond }) => perSecond }),
          ),
          'wanted at least': 0.95,
          'µs CPU of the gateway': rounded(median(used.ours)),
          'µs CPU of the null backend': rounded(median(used.empty)),
        },
      ],
      rounds: done.rounds,
      conditions: [
        ...done.conditions,
        `${pinned}; the origin with nginx, whoever is asked with the load`,
        'deploy/nginx/anteroom-auth.conf with one worker; 1 KB from a bare uWebSockets origin',
      ],
    };
  } finally {
    agent.destroy();
    for (const one of running) await one.stop();
  }
};
