// The simulator: random operations and faults run against the real scripts on a real Redis and against a plain model
// of the same rules (line-model.ts). After each step the whole state must agree; at the end the line is served, and
// everyone who waited must go in, once, in order. The watcher reads along. All from one seed, except the lots that
// Redis draws while the method is random: such a walk is alike each time, and not identical.
//
// Faults: a reply that was lost (the same call again), a call that runs late (an old call again, any time later),
// a clock that goes back, scripts that Redis forgot, and a Redis that lost everything in the middle.

import { createSurveyor } from '../../dispatcher/measure.ts';
import { createWatch } from '../../dispatcher/watcher.ts';
import { parseRoomId, type RoomId } from '../../kernel/ids.ts';
import { createMetrics } from '../../kernel/metrics.ts';
import type { Redis } from '../../kernel/redis.ts';
import { parseEntry } from '../../line/entries.ts';
import { defaultSettings } from '../../line/settings.ts';
import * as scripts from '../../lua/room.ts';
import { LineModel, type ModelPlace } from './line-model.ts';
import { lastPromoted } from './promoted.ts';
import { random } from './random.ts';

const PEOPLE = 12;
const RECOVERY_SECONDS = 20;
const T0 = 1_800_000_000_000;
const metrics = createMetrics({ processMetrics: false });

type Held = { number: number; score: number };
type Session = scripts.SessionTimes;

/** Every place and the set it stands in; throws when one stands in two. */
const stateOf = async (redis: Redis, id: RoomId): Promise<Map<string, { state: string; value: number }>> => {
  const keys = scripts.roomKeys(id);
  const sets = [
    ['waiting', keys.line],
    ['parked', keys.parked],
    ['withheld', keys.withheld],
    ['promoted', keys.promoted],
    ['active', keys.active],
  ] as const;
  const found = new Map<string, { state: string; value: number }>();
  const lists = await Promise.all(sets.map(([, key]) => redis.zrange(key, '0', '-1', 'WITHSCORES')));
  for (const [index, [state]] of sets.entries()) {
    const flat = lists[index]!;
    for (let at = 0; at < flat.length; at += 2) {
      const placeId = flat[at]!;
      if (found.has(placeId))
        throw new Error(`${placeId} stands in ${found.get(placeId)?.state} and in ${state}`);
      found.set(placeId, { state, value: Number(flat[at + 1]) });
    }
  }
  return found;
};

const expected = (place: ModelPlace): { state: string; value: number } => ({
  state: place.state,
  value: place.state === 'promoted' || place.state === 'active' ? place.untilMs : place.score,
});

const OPERATIONS = [
  ...['join', 'join', 'join', 'joinMany', 'withhold', 'hear', 'hear', 'promote', 'promote', 'promote'],
  ...[
    'claim',
    'claim',
    'redeem',
    'renew',
    'end',
    'leave',
    'release',
    'reap',
    'reap',
    'restore',
    'adopt',
    'suspend',
  ],
  ...[
    'retune',
    'measure',
    'again',
    'late',
    'forgetScripts',
    'close',
    'schedule',
    'method',
    'lose',
    'newSale',
  ],
] as const;
type Operation = (typeof OPERATIONS)[number];
/** Rare ones happen in one of so many draws, or the walk would be about nothing else. */
const RARE: Partial<Record<Operation, number>> = {
  lose: 12,
  newSale: 12,
  schedule: 4,
  method: 3,
  suspend: 2,
};

/** Runs one walk; throws with seed, step and both sides when scripts and rules disagree. */
export const walk = async (redis: Redis, seed: number, steps: number): Promise<void> => {
  const dice = random(seed);
  const id = parseRoomId(`model-${seed}`);
  if (id === undefined) throw new Error('not a room id');
  const keys = scripts.roomKeys(id);
  let nowMs = T0;
  let settings = {
    newUsersPerMinute: dice.pick([60, 600, 6000, 61]),
    burst: dice.pick([1, 3, 10]),
    totalActiveUsers: dice.pick([1, 2, 5, 100]),
    sessionSeconds: 30,
    absoluteSessionSeconds: dice.pick([30, 60]),
    claimSeconds: 10,
    graceSeconds: dice.pick([5, 10]),
    suspended: false,
    queueAll: false,
    queueingMethod: 'fifo' as 'fifo' | 'random' | 'reject',
    closesAt: 0,
    sale: 1,
  };
  const model = new LineModel({ ...settings }, nowMs);
  let version = 1;
  const settingsJson = () => JSON.stringify({ ...defaultSettings, ...settings });
  const configure = async (create: 0 | 1): Promise<string> => {
    const done = await scripts.configure.run(redis, keys, {
      nowMs,
      version,
      settings: settingsJson(),
      create,
    });
    version += 1;
    return done.outcome;
  };
  const first = await configure(1);
  if (first !== 'created') throw new Error(`seed ${seed}: the room was ${first}`);

  const people = Array.from({ length: PEOPLE }, (_, index) => `p${index}-${seed}`.padEnd(16, '_'));
  const receipts = new Map<string, Held>();
  const sessions = new Map<string, Session>();
  const surveyor = createSurveyor({ config: { snapshotMs: 0 }, redis, metrics, nowMs: () => nowMs });
  let memory = { head: model.head, number: 0 };
  let lastCall: (() => Promise<[said: string, due: string]>) | undefined;
  const lateCalls: (() => Promise<[said: string, due: string]>)[] = [];

  const join = async (asks: readonly { placeId: string; allow: boolean }[]): Promise<[string, string]> => {
    const { sale } = settings;
    const done = await scripts.join.run(redis, keys, {
      nowMs,
      sale,
      lineMax: 1000,
      withheldMax: 1000,
      joinsMax: 100,
      visitors: asks.flatMap(({ placeId, allow }) => [placeId, '', allow ? 'allow' : 'block']),
    });
    if (done.outcome !== 'answered') return [done.outcome, 'answered'];
    const said: string[] = [];
    const due: string[] = [];
    const before = new Map<string, string>();
    for (const [index, { placeId, allow }] of asks.entries()) {
      const each = done.each[index]!;
      said.push('number' in each ? `${each.outcome} ${each.state} ${each.number}` : each.outcome);
      // Twice in one batch is one join, with one answer.
      const rule = before.get(placeId) ?? model.join(placeId, allow, nowMs);
      before.set(placeId, rule);
      due.push(rule);
      if ('number' in each) receipts.set(placeId, { number: each.number, score: each.score });
    }
    return [said.join(), due.join()];
  };

  const promote = async (promoteMax: number, examineMax: number): Promise<[string, string]> => {
    const occupied = model.occupied();
    const done = await scripts.promote.run(redis, keys, { nowMs, promoteMax, examineMax });
    if (done.outcome !== 'promoted') {
      const said = done.outcome === 'gated' ? `gated ${done.reason}` : done.outcome;
      return [said, model.promote(promoteMax, examineMax, nowMs)];
    }
    const { placeIds, parked } = await lastPromoted(redis, keys);
    const due = model.promote(promoteMax, examineMax, nowMs, [...placeIds, ...parked]);
    if (model.occupied() > Math.max(occupied, settings.totalActiveUsers))
      throw new Error(`${model.occupied()} inside, the cap is ${settings.totalActiveUsers}`);
    return [`promoted ${done.promoted} ${done.parked} ${placeIds.join(',')}`, due];
  };

  const isInside = (placeId: string): boolean => model.places.get(placeId)?.state === 'active';
  const fitting: Partial<Record<Operation, (placeId: string) => boolean>> = {
    end: isInside,
    renew: isInside,
    restore: (placeId) => receipts.has(placeId) && !model.places.has(placeId),
  };

  /** One operation with what it needs drawn beforehand, so that it can run again later just as it was. */
  const callOf = (operation: Operation): (() => Promise<[said: string, due: string]>) | undefined => {
    // Half of the time somebody with whom it has an effect, or visits would hardly ever end and be asked for again.
    const likely = dice.below(2) === 0 ? people.filter(fitting[operation] ?? (() => true)) : people;
    const placeId = dice.pick(likely.length > 0 ? likely : people);
    const place = model.places.get(placeId);
    const receipt = receipts.get(placeId);
    const number = dice.pick([place?.number ?? 1, receipt?.number ?? 1, place?.number ?? 1]);
    const tell = (done: object & { outcome: string }) =>
      'expiresAtMs' in done
        ? [
            ...[done.outcome, done.expiresAtMs],
            ...('serial' in done ? [done.serial] : []),
            ...('visitorId' in done ? [done.visitorId] : []),
          ].join(' ')
        : done.outcome;
    switch (operation) {
      case 'join':
      case 'withhold':
        return () => join([{ placeId, allow: operation === 'join' }]);
      case 'joinMany': {
        const asks = Array.from({ length: 2 + dice.below(4) }, () => ({
          placeId: dice.pick(people),
          allow: dice.pick([true, true, true, false]),
        }));
        return () => join(asks);
      }
      case 'hear': {
        const placeIds = [placeId, dice.pick(people)];
        return async () => {
          const said = (await scripts.here.run(redis, keys, { nowMs, placeIds })).outcome;
          for (const heard of placeIds) model.hear(heard, nowMs);
          return [said, 'noted'];
        };
      }
      case 'promote': {
        const promoteMax = dice.pick([1, 3, 500]);
        const examineMax = dice.pick([1, 4, 500]);
        return () => promote(promoteMax, examineMax);
      }
      case 'claim': {
        const shownSerial = dice.pick(['', 1, 2] as const);
        // Of one place two visitors can come: by its cookie, and by its receipt.
        const visitor = shownSerial === '' ? 'a:stranger' : 'a:owner';
        return async () => {
          const done = await scripts.claim.run(redis, keys, { nowMs, placeId, number, shownSerial, visitor });
          if (done.outcome === 'claimed' || done.outcome === 'active') {
            const { outcome: _, ...session } = done;
            sessions.set(placeId, session);
          }
          return [tell(done), model.claim(placeId, number, shownSerial, visitor, nowMs)];
        };
      }
      case 'redeem': {
        const serial = dice.pick([1, 2, 3]);
        const { sale } = settings;
        return async () => {
          const asked = { sale, placeId, number, serial, visitor: 'a:another' };
          const done = await scripts.redeem.run(redis, keys, { nowMs, ...asked });
          if (done.outcome === 'redeemed') {
            const { outcome: _, ...session } = done;
            sessions.set(placeId, session);
          }
          return [tell(done), model.redeem(placeId, number, serial, nowMs)];
        };
      }
      case 'renew':
        return async () => [
          tell(await scripts.renew.run(redis, keys, { nowMs, placeId, number })),
          model.renew(placeId, number, nowMs),
        ];
      case 'end':
        return async () => [
          (await scripts.end.run(redis, keys, { nowMs, placeId, number, reason: 'test' })).outcome,
          model.end(placeId, number),
        ];
      case 'leave':
        return async () => {
          const done = await scripts.leave.run(redis, keys, { nowMs, placeId });
          const said = done.outcome === 'left' ? `left ${done.state} ${done.number}` : done.outcome;
          return [said, model.leave(placeId)];
        };
      case 'release':
        return async () => [
          (await scripts.release.run(redis, keys, { nowMs, placeId })).outcome,
          model.release(placeId, nowMs),
        ];
      case 'reap':
        return async () => {
          const done = await scripts.reap.run(redis, keys, { nowMs, reapMax: 3, entriesMax: 100_000 });
          const said =
            done.outcome === 'reaped'
              ? `reaped ${done.missed} ${done.finished} ${done.expired}`
              : done.outcome;
          return [said, model.reap(3, nowMs)];
        };
      case 'restore': {
        if (receipt === undefined) return undefined;
        const { sale } = settings;
        return async () => {
          const done = await scripts.restore.run(redis, keys, {
            nowMs,
            sale,
            placeId,
            ...receipt,
            withheld: 0,
          });
          if (sale !== settings.sale) return [done.outcome, 'otherSale'];
          return [done.outcome, model.restore(placeId, receipt.number, receipt.score, nowMs)];
        };
      }
      case 'adopt': {
        const session = sessions.get(placeId);
        if (session === undefined) return undefined;
        const { sale } = settings;
        return async () => {
          const { epoch: sessionEpoch, visitorId: visitor, ...rest } = session;
          const asked = { sale, placeId, ...rest, sessionEpoch, visitor };
          const done = await scripts.adopt.run(redis, keys, { nowMs, ...asked });
          if (sale !== settings.sale) return [done.outcome, 'otherSale'];
          return [tell(done), model.adopt(placeId, session, nowMs)];
        };
      }
      case 'close':
        return async () => [(await scripts.close.run(redis, keys, { nowMs })).outcome, model.close(nowMs)];
      default:
        return undefined;
    }
  };

  /** What operators and failures do; never repeated late, because nobody sends it twice. */
  const act = async (operation: Operation): Promise<[said: string, due: string]> => {
    switch (operation) {
      case 'measure': {
        // Dispatchers measure the room and remember it for the day it is lost.
        await surveyor.measure(id);
        memory = { head: model.head, number: model.number };
        return ['measured', 'measured'];
      }
      case 'forgetScripts':
        return [String(await redis.script('FLUSH')), 'OK'];
      case 'lose': {
        await redis.del(...Object.values(keys));
        const gone = await promoteOutcome();
        const done = await scripts.recover.run(redis, keys, {
          nowMs,
          version,
          settings: settingsJson(),
          head: memory.head,
          nextNumber: memory.number,
          epoch: 0,
          waiting: 0,
          replid: '',
          recoverySeconds: RECOVERY_SECONDS,
          remembered: 1,
        });
        version += 1;
        model.recover(memory, nowMs, RECOVERY_SECONDS);
        // Whoever recovers a room remembers it as it now is.
        memory = { head: memory.head, number: model.number };
        return [`${gone} ${done.outcome}`, 'unknown recovered'];
      }
      case 'suspend':
        settings = { ...settings, suspended: !settings.suspended };
        break;
      case 'schedule':
        settings = { ...settings, closesAt: dice.pick([0, 0, nowMs + 5000, nowMs + 30_000]) };
        break;
      case 'method':
        settings = { ...settings, queueingMethod: dice.pick(['fifo', 'fifo', 'random', 'reject'] as const) };
        break;
      case 'newSale':
        settings = { ...settings, sale: settings.sale + 1 };
        receipts.clear();
        sessions.clear();
        lateCalls.length = 0;
        lastCall = undefined;
        memory = { head: -1099511627777, number: 0 };
        break;
      default:
        settings = {
          ...settings,
          totalActiveUsers: dice.pick([1, 2, 5, 100]),
          newUsersPerMinute: dice.pick([60, 600, 6000, 61]),
          burst: dice.pick([1, 3, 10]),
          queueAll: dice.pick([false, false, false, true]),
        };
    }
    return [await configure(0), model.configure({ ...settings }, nowMs)];
  };
  const promoteOutcome = async (): Promise<string> =>
    (await scripts.promote.run(redis, keys, { nowMs, promoteMax: 1, examineMax: 1 })).outcome;

  const agree = async (at: string): Promise<void> => {
    const actual = await stateOf(redis, id);
    for (const [held, found] of actual) {
      const place = model.places.get(held);
      const due = place === undefined ? undefined : expected(place);
      if (due?.state !== found.state || due.value !== found.value)
        throw new Error(`${at}: ${held} is ${JSON.stringify(found)}, the rules say ${JSON.stringify(place)}`);
    }
    if (actual.size !== model.places.size)
      throw new Error(`${at}: ${actual.size} places stand, the rules say ${model.places.size}`);
  };
  const run = async (at: string, call: () => Promise<[said: string, due: string]>): Promise<void> => {
    let said: string;
    let due: string;
    try {
      [said, due] = await call();
    } catch (cause) {
      throw new Error(`${at}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
    }
    if (said !== due) throw new Error(`${at}: the script said "${said}", the rules say "${due}"`);
    await agree(at);
  };

  for (let step = 0; step < steps; step += 1) {
    nowMs += dice.pick([0, 1, 50, 200, 1000, 3000, 7000, -500]);
    const operation = dice.pick(OPERATIONS);
    if (dice.below(RARE[operation] ?? 1) !== 0) continue;
    const at = `seed ${seed}, step ${step}, ${operation}`;
    const call =
      operation === 'again' ? lastCall : operation === 'late' ? lateCalls.shift() : callOf(operation);
    if (call !== undefined) {
      await run(at, call);
      lastCall = call;
      if (dice.below(6) === 0) lateCalls.push(call);
    } else if (!['again', 'late', 'restore', 'adopt'].includes(operation))
      await run(at, () => act(operation));
  }
  await serveAll();
  await watched();
  await redis.del(...Object.values(keys));

  /** In the end the gate is opened wide and everyone is there: all who wait go in, once each, in order. */
  async function serveAll(): Promise<void> {
    const at = `seed ${seed}, serving the line`;
    nowMs += RECOVERY_SECONDS * 1000 + 120_000;
    settings = {
      ...settings,
      suspended: false,
      queueAll: false,
      queueingMethod: 'fifo',
      closesAt: 0,
      totalActiveUsers: 100,
      newUsersPerMinute: 6000,
      burst: 10,
    };
    await run(at, async () => [await configure(0), model.configure({ ...settings }, nowMs)]);
    for (let round = 0; model.inState('promoted').length + model.inState('active').length > 0; round += 1) {
      if (round > 30) throw new Error(`${at}: somebody never leaves`);
      nowMs += 61_000;
      await run(at, callOf('reap')!);
    }
    const waiting = model.line().map(([placeId]) => placeId);
    const served: string[] = [];
    for (let round = 0; served.length < waiting.length; round += 1) {
      if (round > 30) throw new Error(`${at}: ${served.length} of ${waiting.length} went in`);
      nowMs += 1000;
      const here = waiting.filter((placeId) => model.places.get(placeId)?.state === 'waiting');
      await scripts.here.run(redis, keys, { nowMs, placeIds: here });
      for (const placeId of here) model.hear(placeId, nowMs);
      const before = new Set(model.inState('promoted').map(([placeId]) => placeId));
      await run(at, () => promote(500, 500));
      for (const [placeId] of model.inState('promoted').sort(([, a], [, b]) => a.score - b.score))
        if (!before.has(placeId)) served.push(placeId);
    }
    if (served.join() !== waiting.join())
      throw new Error(`${at}: ${waiting.join()} waited, ${served.join()} went in`);
  }

  /** From the entry stream alone: nobody too many, nobody twice, nobody out of order. */
  async function watched(): Promise<void> {
    const watch = createWatch();
    for (const [streamId, flat] of await redis.xrange(keys.entries, '-', '+')) {
      const record = parseEntry(flat ?? []);
      if (record === undefined) continue;
      const found = watch.observe(record);
      if (found.overshoot + found.duplicates + found.inversions > 0)
        throw new Error(`seed ${seed}: the watcher found ${JSON.stringify(found)} in record ${streamId}`);
    }
  }
};

/** Walks seeds from `first` on, several at a time, and answers how many; stops at the first that fails. */
export const walkMany = async (options: {
  redis: Redis;
  first: number;
  count: number;
  steps: number;
  onWalked?: (walked: number) => void;
}): Promise<number> => {
  const { redis, first, count, steps, onWalked } = options;
  let next = first;
  let walked = 0;
  const worker = async (): Promise<void> => {
    while (next < first + count) {
      const seed = next;
      next += 1;
      await walk(redis, seed, steps);
      walked += 1;
      onWalked?.(walked);
    }
  };
  await Promise.all(Array.from({ length: Math.min(16, count) }, worker));
  return walked;
};
