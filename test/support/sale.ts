// What fault tests do to a sale: change its settings, bring fans into its line, and ask until it is well again.

import type { Test } from 'tap';
import { eventually } from './eventually.ts';
import { Fan, type FanAnswer } from './fan.ts';
import type { System } from './system.ts';

/** Changes settings as an operator does, confirming a steep rise. */
export const tune = async (system: System, change: object): Promise<void> => {
  const headers = { authorization: `Bearer ${system.operatorToken}`, 'content-type': 'application/json' };
  const url = `${system.admin}/v1/rooms/demo`;
  await eventually('the settings are taken', async () => {
    const { version } = (await (await fetch(url, { headers })).json()) as { version: number };
    const send = (more: object) =>
      fetch(url, { method: 'PATCH', headers, body: JSON.stringify({ ...change, version, ...more }) });
    let done = await send({});
    if (done.status === 409) {
      const { preview } = (await done.json()) as { preview?: { confirm: string } };
      done = await send({ confirm: preview?.confirm });
    }
    if (done.status !== 200) throw new Error(`tuning answered ${done.status}: ${await done.text()}`);
    return ((await done.json()) as { applied: boolean }).applied;
  });
};

/** Runs `work` over all of `items`, `width` at a time. */
export const inParallel = async <T>(
  items: readonly T[],
  width: number,
  work: (item: T) => Promise<void>,
): Promise<void> => {
  const queue = items.values();
  await Promise.all(
    Array.from({ length: width }, async () => {
      for (const item of queue) await work(item);
    }),
  );
};

/** Asks again while the answer is a defined "not now"; anything else undefined (a cut, a 500) throws. */
export const untilAnswered = async (
  what: string,
  ask: () => Promise<FanAnswer>,
  deadlineMs = 60_000,
): Promise<FanAnswer> => {
  const until = performance.now() + deadlineMs;
  for (;;) {
    const answer = await ask();
    if (answer.status !== 503 && answer.status !== 429) return answer;
    if (answer.headers['retry-after'] === undefined)
      throw new Error(`${what}: ${answer.status} does not say when to come back: ${answer.text}`);
    if (performance.now() > until) throw new Error(`${what}: still ${answer.status} ${answer.text}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
};

/** Fans with a place, each retried until it has one. Indices begin at `from`, and decide the address. */
export const joinFans = async (system: System, options: { count: number; from: number }): Promise<Fan[]> => {
  const fans = Array.from(
    { length: options.count },
    (_, index) => new Fan({ base: system.base, index: options.from + index }),
  );
  await inParallel(fans, 32, async (fan) => {
    const joined = await untilAnswered('join', () => fan.join());
    if (joined.status !== 201 && joined.status !== 200)
      throw new Error(`join answered ${joined.status}: ${joined.text}`);
  });
  return fans;
};

let newcomer = 1_000_000;
/** A fan nobody has seen. */
export const newFan = (system: System): Fan => {
  newcomer += 1;
  return new Fan({ base: system.base, index: newcomer });
};

/** Waits until a join is refused the way a fan can live with, and checks the refusal. */
export const untilRefused = async (t: Test, system: System): Promise<void> => {
  let refused: FanAnswer | undefined;
  await eventually(
    'joins are refused',
    async () => {
      refused = await newFan(system).join();
      return refused.status === 503;
    },
    30_000,
  );
  t.ok(Number(refused?.headers['retry-after']) > 0, 'the refusal says when to come back');
  t.match(refused?.json.code, /^(unavailable|room-recovering)$/);
};

/** Waits until joins go on; answers the fan who got in line and how long it took, in ms. */
export const untilWell = async (
  system: System,
  deadlineMs = 30_000,
): Promise<{ fan: Fan; tookMs: number }> => {
  const begun = performance.now();
  let fan = newFan(system);
  await eventually(
    'joins go on',
    async () => {
      fan = newFan(system);
      return (await fan.join()).status === 201;
    },
    deadlineMs,
  );
  return { fan, tookMs: Math.round(performance.now() - begun) };
};
