// The ledger of an honest sale verifies whatever happened to Redis in it, and the watcher raises no false alarm: while
// people wait, are called and have not come, are inside and leave.

import t from 'tap';
import { parseRoomId } from '../../kernel/ids.ts';
import { roomKeys } from '../../lua/room.ts';
import { eventually } from '../support/eventually.ts';
import { Fan } from '../support/fan.ts';
import { ledgerVerdict } from '../support/ledger-verdict.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';
import { inParallel, tune, untilAnswered } from '../support/sale.ts';
import { createSystem, UNHURRIED } from '../support/system.ts';

t.setTimeout(900_000);
const keys = roomKeys(parseRoomId('demo')!);

const happenings: Record<string, { reason: string; happen: (redis: TestRedis) => Promise<void> }> = {
  'an orderly restart': {
    reason: 'restart',
    happen: async (redis) => {
      await redis.stop();
      await redis.start();
    },
  },
  'a kill in the middle': {
    reason: 'restart',
    happen: async (redis) => {
      await redis.kill();
      await redis.start();
    },
  },
  'a loss of everything': { reason: 'lost', happen: async (redis) => void (await redis.client.flushall()) },
};

for (const [name, { reason, happen }] of Object.entries(happenings))
  t.test(`${name}: the sale goes on, its ledger verifies, and nobody is accused`, async (t) => {
    const redis = await startRedis(t, { appendOnly: true, more: ['--appendfsync', 'always'] });
    const system = await createSystem(t, {
      ANTEROOM_REDIS_URL: redis.url,
      ANTEROOM_LOG_LEVEL: 'warn',
      ANTEROOM_RECOVERY_SECONDS: '3',
      ANTEROOM_FAILOVER_SECONDS: '1',
      ANTEROOM_LEDGER_MS: '100',
    });
    await system.start();
    await tune(system, { ...UNHURRIED, newUsersPerMinute: 6000, burst: 10, totalActiveUsers: 12 });
    const fans = Array.from({ length: 60 }, (_, index) => new Fan({ base: system.base, index: index + 1 }));
    await inParallel(fans, 16, async (fan) => {
      await untilAnswered('join', () => fan.join());
    });
    /** As a page keeps it: it stands in for the promotion where Redis has forgotten that. */
    const tokens = new Map<Fan, string>();
    const place = async (fan: Fan) => {
      const told = await untilAnswered('place', () => fan.ask('GET', '/v1/rooms/demo/places/me'), 120_000);
      if (typeof told.json.claimToken === 'string') tokens.set(fan, told.json.claimToken);
      return told;
    };
    const called = async (): Promise<Fan[]> => {
      const found: Fan[] = [];
      await inParallel(fans, 16, async (fan) => {
        if ((await place(fan)).json.state === 'promoted') found.push(fan);
      });
      return found;
    };
    let turns: Fan[] = [];
    await eventually('the room is full', async () => {
      turns = await called();
      return turns.length === 12;
    });
    // Some go in, some of them leave; the others have been called, and do not come yet.
    for (const fan of turns.slice(0, 6)) t.equal((await fan.claim()).status, 200);
    for (const fan of turns.slice(0, 3))
      t.equal((await fan.ask('DELETE', '/v1/rooms/demo/places/me')).status, 204);
    await eventually('those places are taken', async () => (await called()).length >= 9);
    await eventually('a snapshot knows of it', async () => {
      const { promoted, active } = JSON.parse((await redis.client.get(keys.snapshot)) ?? '{}');
      return promoted === 9 && active === 3;
    });

    await happen(redis);
    await eventually(
      'it is noticed',
      async () => (await redis.client.hget(keys.room, 'recoverReason')) === reason,
    );
    // Everybody goes on as they would: who was called claims, who is inside leaves, who waits polls.
    const gone = new Set(turns.slice(0, 3));
    await eventually(
      'everybody has been inside and has left',
      async () => {
        await inParallel(
          fans.filter((fan) => !gone.has(fan)),
          16,
          async (fan) => {
            if ((await place(fan)).status === 410) gone.add(fan);
            const token = tokens.get(fan);
            if (token === undefined) return;
            const claimed = await fan.claim(token);
            if (claimed.status === 410) gone.add(fan);
            if (claimed.status !== 200) return;
            const left = await untilAnswered('leave', () => fan.ask('DELETE', '/v1/rooms/demo/places/me'));
            if (left.status === 204) gone.add(fan);
          },
        );
        if (gone.size < fans.length) throw new Error(`${gone.size} of ${fans.length}`);
        return true;
      },
      300_000,
    );
    await eventually('all of it is written down', async () => {
      const verdict = await ledgerVerdict(system);
      if (verdict.outcome !== 'verified') throw new Error(JSON.stringify(verdict));
      return verdict.summary.promoted >= 57;
    });
    const verdict = await ledgerVerdict(system);
    t.equal(verdict.outcome, 'verified');
    if (verdict.outcome !== 'verified') return;
    const { losses, recoveries } = verdict.summary;
    t.same([losses, ...recoveries.map((one) => one.reason)], reason === 'lost' ? [1] : [0, reason]);
    for (const { unsure } of recoveries) t.ok(unsure > 40, `${unsure} places are not sure`);
    const metrics = await (await fetch(`http://127.0.0.1:${system.ports.metrics}/metrics`)).text();
    for (const promise of ['overshoot_total', 'duplicate_promotion_total', 'inversion_total'])
      t.notMatch(metrics, new RegExp(`^anteroom_${promise}\\{[^}]*\\} [1-9]`, 'm'), promise);
    t.notMatch(system.output(), 'promise-broken');
  });
