// What the gate's decision costs, without what is done afterwards: a session that is known, asked about in auth mode, with
// the limit on those inside and without it. Beside it, in turn and from the same requests, a bare uWebSockets hello, and
// Fastify with fast-jwt, which remembers the token that it verified. And a request without a session, sent to the line.

import { createHmac, randomBytes } from 'node:crypto';
import { Agent } from 'node:http';
import { browserHeaders, createFan, type Fan } from './fan.ts';
import { startRedis } from './redis.ts';
import { type Row, rounded } from './report.ts';
import { loaded, pinAll, ratioOf, roundsFor, runRounds, type Slice } from './rounds.ts';
import { onRedis, pause, type Running, startFastifyJwt, startFloor, startSystem } from './system.ts';

const PROMOTED_MS_MAX = 30_000;

/** Joins, waits for the turn by polling, claims; answers the cookies of someone inside. */
export const getInside = async (fan: Fan): Promise<void> => {
  const joined = await fan.ask('POST', '/v1/rooms/demo/places', { body: {} });
  if (joined.status !== 201) throw new Error(`the join was answered ${joined.status}`);
  const until = performance.now() + PROMOTED_MS_MAX;
  while (performance.now() < until) {
    const { json } = await fan.ask('GET', '/v1/rooms/demo/places/me');
    if (json.state === 'promoted') {
      const claimed = await fan.ask('POST', '/v1/rooms/demo/pass', { body: { claim: json.claimToken } });
      if (claimed.status === 200) return;
      throw new Error(`the claim was answered ${claimed.status}`);
    }
    await pause(250);
  }
  throw new Error('nobody was promoted on an idle system');
};

const FLOOR = 'floor: bare uWebSockets hello';
const WITHOUT = 'gate: known session, no limit';
const WITH = 'gate: known session, limit on';
const FASTIFY = 'Fastify with fast-jwt';
const LINE = 'gate: no session, to the line';
const AUTHORIZE = '/v1/authorize';

/** With Host and Connection, which the load adds, and one that says who it is: nine, as browsers send them. */
export const nineHeaders = (identity: Record<string, string>): Record<string, string> => ({
  'user-agent': browserHeaders['user-agent']!,
  accept: 'text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8',
  'accept-language': browserHeaders['accept-language']!,
  'accept-encoding': 'gzip, deflate, br',
  'sec-fetch-site': 'same-origin',
  'sec-fetch-mode': 'navigate',
  ...identity,
});
/** What a proxy adds when it asks. */
const QUESTION = {
  'x-original-uri': '/demo/seats',
  'x-original-method': 'GET',
  'x-original-host': 'tickets.example',
  'x-forwarded-for': '192.0.2.7',
};

/** A token as a sign-in of the customer's would make it (RFC 7519, HS256). */
const jwtOf = (secret: string): string => {
  const part = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url');
  const nowSeconds = Math.floor(Date.now() / 1000);
  const signed = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ sub: 'fan', iat: nowSeconds, exp: nowSeconds + 3600 })}`;
  return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`;
};

export const runGate = async (
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
    };
    // As in a sale: a gateway is a process of its own, and the database is another's work.
    keep(await startSystem({ ...shared, ANTEROOM_ROLES: 'dispatcher,booking-core,admin,broker' }));
    const gatewayWith = async (perSecond: number): Promise<Running> =>
      keep(
        await startSystem({
          ...shared,
          ANTEROOM_ROLES: 'gateway',
          ANTEROOM_INSIDE_PER_SECOND: String(perSecond),
        }),
      );
    const without = await gatewayWith(0);
    // More than one address can ask: the limit counts every request and refuses none.
    const limited = await gatewayWith(1_000_000);
    const floor = keep(await startFloor());
    const secret = randomBytes(32).toString('hex');
    const fastify = keep(await startFastifyJwt(secret));
    const fan = createFan({ base: without.base, agent });
    await getInside(fan);
    const pinned = pinAll([floor, without, limited, fastify].map(({ pid }) => pid));

    const asked = { ...nineHeaders({ cookie: fan.cookieHeader() }), ...QUESTION };
    const of = (
      name: string,
      { pid, base }: Running,
      load: { status: number; path: string; headers: Record<string, string> },
    ) =>
      loaded({
        ...{ name, pid, status: load.status, byWrk: true },
        ...(name === FLOOR ? {} : { floor: FLOOR }),
        load: { base, method: 'GET', path: load.path, headers: load.headers },
      });
    const done = await runRounds(
      [
        of(FLOOR, floor, { status: 200, path: '/demo', headers: asked }),
        of(WITHOUT, without, { status: 204, path: AUTHORIZE, headers: asked }),
        of(WITH, limited, { status: 204, path: AUTHORIZE, headers: asked }),
        of(FASTIFY, fastify, {
          status: 204,
          path: AUTHORIZE,
          headers: { ...nineHeaders({ authorization: `Bearer ${jwtOf(secret)}` }), ...QUESTION },
        }),
        of(LINE, limited, {
          status: 429,
          path: '/demo',
          headers: { ...nineHeaders({ cookie: 'theme=dark' }), accept: 'application/json' },
        }),
      ],
      roundsFor(quick),
    );
    const compare = (name: string, to: string, wanted: number): Row => {
      const ratio = (read: (slice: Slice) => number): number =>
        rounded(ratioOf(done.slices, { of: name, to, read }));
      return {
        compared: `${name} to ${to}`,
        'by CPU each': ratio((slice) => 1 / slice.cpuMicros),
        'wanted at least': wanted,
        'by requests/s': ratio((slice) => slice.perSecond),
      };
    };
    return {
      rows: [
        ...done.rows,
        compare(WITH, FLOOR, 0.65),
        compare(WITHOUT, FLOOR, 0.75),
        compare(WITH, FASTIFY, 2.5),
      ],
      rounds: done.rounds,
      conditions: [
        ...done.conditions,
        pinned,
        'each gateway a process of its own; all other roles in another',
        '9 headers as browsers send them (Host, Connection and who it is among them), and the 4 of a proxy that asks',
      ],
    };
  } finally {
    agent.destroy();
    for (const one of running) await one.stop();
  }
};
