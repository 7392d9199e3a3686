// What the gate costs: a request without a session that is sent to the line, and one with a known session that is
// let through to booking-core. The second includes the whole proxied request, not the decision alone.

import { Agent } from 'node:http';
import { browserHeaders, createFan, type Fan } from './fan.ts';
import type { Row } from './report.ts';
import { loaded, pinAll, roundsFor, runRounds } from './rounds.ts';
import { pause, startFloor, startSystem } from './system.ts';

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

export const runGate = async (
  quick: boolean,
): Promise<{ rows: Row[]; rounds: Row[]; conditions: string[] }> => {
  const system = await startSystem({ ANTEROOM_DEMO: 'on' });
  const agent = new Agent({ keepAlive: true });
  try {
    const floor = await startFloor();
    try {
      const fan = createFan({ base: system.base, agent });
      await getInside(fan);
      const pinned = pinAll([floor.pid, system.pid]);
      const headers = { ...browserHeaders };
      const inside = { ...headers, cookie: fan.cookieHeader() };
      const done = await runRounds(
        [
          loaded({
            name: 'floor: hello',
            pid: floor.pid,
            status: 200,
            load: { base: floor.base, method: 'GET', path: '/demo', headers },
          }),
          loaded({
            name: 'gate: no session, to the line',
            pid: system.pid,
            floor: 'floor: hello',
            status: 429,
            load: { base: system.base, method: 'GET', path: '/demo', headers },
          }),
          loaded({
            name: 'gate: known session, proxied',
            pid: system.pid,
            floor: 'floor: hello',
            status: 200,
            load: { base: system.base, method: 'GET', path: '/v1/events/demo', headers: inside },
          }),
        ],
        roundsFor(quick),
      );
      return {
        rows: done.rows,
        rounds: done.rounds,
        conditions: [...done.conditions, pinned, 'all roles in the one server process'],
      };
    } finally {
      await floor.stop();
    }
  } finally {
    agent.destroy();
    await system.stop();
  }
};
