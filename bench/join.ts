// What a join costs: every request is a new visitor at an address of its own, so it goes through the limits, the
// bots and the script of the line, and grows the line. The floor is a raw POST with an answer as long.

import { randomInt } from 'node:crypto';
import type autocannon from 'autocannon';
import { browserHeaders } from './fan.ts';
import type { Row } from './report.ts';
import { pinAll, roundsFor, runRounds } from './rounds.ts';
import { startFloor, startSystem } from './system.ts';

/** A made-up address of 10.0.0.0/8, as a trusted proxy would tell it; bots count joins by network. */
const someAddress = (): string => `10.${randomInt(256)}.${randomInt(256)}.${randomInt(1, 255)}`;

const loadOn = (base: string): autocannon.Options => ({
  url: base,
  requests: [
    {
      method: 'POST',
      path: '/v1/rooms/demo/places',
      body: '{}',
      headers: { ...browserHeaders, 'content-type': 'application/json' },
      setupRequest: (request) => ({
        ...request,
        headers: { ...request.headers, 'x-forwarded-for': someAddress() },
      }),
    },
  ],
});

export const runJoin = async (
  quick: boolean,
): Promise<{ rows: Row[]; rounds: Row[]; conditions: string[] }> => {
  const system = await startSystem({ ANTEROOM_DEMO: 'on', ANTEROOM_TRUSTED_PROXIES: '127.0.0.1' });
  try {
    const floor = await startFloor();
    try {
      const pinned = pinAll([floor.pid, system.pid]);
      const done = await runRounds(
        [
          { name: 'floor: POST', pid: floor.pid, status: 201, load: loadOn(floor.base) },
          {
            name: 'join: a new visitor each',
            pid: system.pid,
            floor: 'floor: POST',
            status: 201,
            load: loadOn(system.base),
          },
        ],
        roundsFor(quick),
      );
      return {
        ...done,
        conditions: [
          ...done.conditions,
          pinned,
          'all roles in the one server process; addresses told by a trusted proxy, one a request',
        ],
      };
    } finally {
      await floor.stop();
    }
  } finally {
    await system.stop();
  }
};
