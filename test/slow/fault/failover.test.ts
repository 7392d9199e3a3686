// Sentinel with a whole sale on it: the primary is killed, then hangs and comes back as a replica, then stands alone.
// Two dispatchers, so that a recovery is shown to happen once. Places are lost at most for as long as their owners
// are silent; numbers are never given twice.

import type { ChildProcess } from 'node:child_process';
import t, { type Test } from 'tap';
import { takePort } from '../../../bench/ports.ts';
import { parseRoomId } from '../../../kernel/ids.ts';
import { roomKeys } from '../../../lua/room.ts';
import { openStream, type TestStream } from '../../support/client.ts';
import { eventually } from '../../support/eventually.ts';
import type { Fan } from '../../support/fan.ts';
import { ledgerVerifies } from '../../support/ledger-verdict.ts';
import { inTwoSets, notInOne, readEntries, readStanding } from '../../support/line-watch.ts';
import { startPostgres } from '../../support/postgres.ts';
import { inParallel, joinFans, tune, untilAnswered, untilRefused, untilWell } from '../../support/sale.ts';
import { type Node, type Sentinels, startSentinels } from '../../support/sentinel.ts';
import { createSystem, type System } from '../../support/system.ts';

t.setTimeout(240_000);
const keys = roomKeys(parseRoomId('demo')!);

let redis: Sentinels;
let system: System;
let front: ChildProcess;
let waiting: Fan[];
let inside: Fan[];
let stream: TestStream;
const given: number[] = [];
t.before(async () => {
  redis = await startSentinels(t);
  const postgres = await startPostgres(t);
  system = await createSystem(t, {
    ANTEROOM_REDIS_URL: redis.url,
    ANTEROOM_DATABASE_URL: postgres.url,
    ANTEROOM_LOG_LEVEL: 'error',
    ANTEROOM_REDIS_TIMEOUT_MS: '1000',
  });
  await system.start({ roles: 'admin,dispatcher', metricsPort: await takePort() });
  await system.start({ roles: 'dispatcher', metricsPort: await takePort() });
  front = await system.start({ roles: 'gateway,broker', metricsPort: await takePort() });
  await tune(system, { totalActiveUsers: 5, newUsersPerMinute: 150, burst: 5 });
  inside = await joinFans(system, { count: 5, from: 0 });
  await inParallel(inside, 5, async (fan) => {
    const turn = await fan.wait('poll', 30_000);
    const claimed = await fan.claim('claim' in turn ? turn.claim : '');
    if (claimed.status !== 200) throw new Error(`claim answered ${claimed.status}`);
  });
  waiting = await joinFans(system, { count: 200, from: 100 });
  given.push(...waiting.map((fan) => fan.number));
  stream = await openStream(`${system.base}/v1/rooms/demo/events`, {
    headers: waiting[0]!.headers({ accept: 'text/event-stream' }),
  });
  t.teardown(() => stream.close());
});
// Whatever happened in a scenario, the record of the sale is whole and true.
const scenario = (name: string, work: (t: Test) => Promise<void>) =>
  t.test(name, async (t) => {
    await work(t);
    await ledgerVerifies(t, system);
  });

const fieldsOf = async (node: Node) => {
  const [epoch, nextNumber, reason] = await node.client.hmget(
    keys.room,
    'epoch',
    'nextNumber',
    'recoverReason',
  );
  return { epoch: Number(epoch), nextNumber: Number(nextNumber), reason };
};

/** What holds after a new primary has taken over, however the old one went. */
const standsAgain = async (
  t: Test,
  next: Node,
  before: { epoch: number; nextNumber: number },
): Promise<void> => {
  await eventually(
    'a dispatcher has noticed',
    async () => (await fieldsOf(next)).epoch > before.epoch,
    30_000,
  );
  const after = await fieldsOf(next);
  t.equal(after.reason, 'failover');
  t.ok(after.nextNumber >= before.nextNumber + 1_000_000, 'numbers go on beyond a gap');
  const { fan, tookMs } = await untilWell(system);
  t.comment(`joins go on ${tookMs} ms after the room was put right`);
  t.ok(fan.number > before.nextNumber + 1_000_000);
  t.notOk(given.includes(fan.number), 'a number nobody had');
  given.push(fan.number);
  let last = 0;
  for (const fan of waiting.filter((_, index) => index % 10 === 0)) {
    const status = await untilAnswered('status', () => fan.ask('GET', '/v1/rooms/demo/places/me'));
    t.equal(status.json.number, fan.number, status.text);
    t.equal(status.json.state, 'waiting');
    t.ok(Number(status.json.position) > last, 'in order');
    last = Number(status.json.position);
  }
  for (const fan of inside)
    t.not(
      (await untilAnswered('gate', () => fan.ask('GET', '/v1/events/demo'))).status,
      429,
      'who was inside is',
    );
  const standing = await readStanding(next.client, keys);
  t.same(inTwoSets(standing), []);
  t.same(notInOne(standing, given), [], 'every number is in exactly one place');
  t.ok(standing.counts.active + standing.counts.promoted <= 5, 'never above the cap');
  const recoveries = (await readEntries(next.client, keys)).filter(({ kind }) => kind === 'recovering');
  t.equal(new Set(recoveries.map(({ atMs }) => atMs)).size, recoveries.length);
  t.equal((await fieldsOf(next)).epoch, after.epoch, 'two dispatchers, one recovery');
  t.equal(front.exitCode, null);
};

scenario(
  'Q1: the primary is killed: refused for a moment, then everyone stands where they stood',
  async (t) => {
    const old = await redis.primary();
    const before = await fieldsOf(old);
    await old.kill();
    await untilRefused(t, system);
    const next = await redis.waitForFailover(old);
    await standsAgain(t, next, before);
    await old.start();
    await redis.waitForReplica(old);
  },
);

scenario('Q1: the primary hangs: it is left, and comes back as a replica that changes nothing', async (t) => {
  const old = await redis.primary();
  const before = await fieldsOf(old);
  old.pause();
  await untilRefused(t, system);
  const next = await redis.waitForFailover(old);
  await standsAgain(t, next, before);
  const { epoch } = await fieldsOf(next);
  old.resume();
  await redis.waitForReplica(old);
  t.equal((await fieldsOf(old)).epoch, epoch, 'it has what the new primary has');
  await untilWell(system);
  t.equal((await fieldsOf(next)).epoch, epoch, 'its return is no recovery');
  await tune(system, { totalActiveUsers: 6 });
  await eventually(
    'the stream that stayed hears its turn',
    async () => (await stream.next(20_000))?.event === 'promoted',
    60_000,
  );
});

scenario('a primary that no replica hears takes no writes: refused, and no place is lost', async (t) => {
  const primary = await redis.primary();
  const before = await fieldsOf(primary);
  const replicas = await redis.replicas();
  for (const node of replicas) node.pause();
  await eventually(
    'writes are refused',
    async () => {
      await primary.client.set('ar:test:writable', '1');
      return false;
    },
    15_000,
  ).catch((error: Error) => t.match(String(error.cause), /NOREPLICAS/));
  await untilRefused(t, system);
  for (const node of replicas) node.resume();
  const { tookMs } = await untilWell(system);
  t.comment(`well ${tookMs} ms after the replicas were back`);
  t.equal(
    (await fieldsOf(await redis.primary())).epoch,
    before.epoch,
    'nothing was lost, so nothing is recovered',
  );
  t.same(notInOne(await readStanding(primary.client, keys), given), []);
});
