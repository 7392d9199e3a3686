// Random operations run against the real scripts on a real Redis and against a plain model of the same rules.
// After each step the whole state must agree, and the invariants must hold. The seed is printed; set
// ANTEROOM_SEED to run one again, ANTEROOM_SEEDS to run more of them.

import t from 'tap';
import { parseRoomId, type RoomId } from '../kernel/ids.ts';
import type { Redis } from '../kernel/redis.ts';
import { parseEntry } from '../line/entries.ts';
import { defaultSettings } from '../line/settings.ts';
import * as scripts from '../lua/room.ts';
import { joinOne } from './support/join.ts';
import { LineModel, type ModelPlace } from './support/line-model.ts';
import { random } from './support/random.ts';
import { startRedis } from './support/redis.ts';

const SEEDS = Number(process.env.ANTEROOM_SEEDS ?? 12);
const STEPS = 150;
const PEOPLE = 12;

const room = (name: string): RoomId => {
  const id = parseRoomId(name);
  if (id === undefined) throw new Error(`not a room id: ${name}`);
  return id;
};

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
  for (const [state, key] of sets) {
    const flat = await redis.zrange(key, '0', '-1', 'WITHSCORES');
    for (let index = 0; index < flat.length; index += 2) {
      const placeId = flat[index]!;
      if (found.has(placeId))
        throw new Error(`${placeId} stands in ${found.get(placeId)?.state} and in ${state}`);
      found.set(placeId, { state, value: Number(flat[index + 1]) });
    }
  }
  return found;
};

const expected = (place: ModelPlace): { state: string; value: number } => ({
  state: place.state,
  value: place.state === 'promoted' || place.state === 'active' ? place.untilMs : place.score,
});

/** From the entry stream alone: promotions in any window never exceed rate × t + burst, misses not counted. */
const overshoot = (promotions: number[], misses: number, rate: number, burst: number): number => {
  let worst = 0;
  for (let from = 0; from < promotions.length; from += 1)
    for (let to = from; to < promotions.length; to += 1) {
      const allowed = ((promotions[to]! - promotions[from]!) * rate) / 60_000 + burst;
      worst = Math.max(worst, to - from + 1 - misses - Math.floor(allowed + 1e-9));
    }
  return worst;
};

const walk = async (redis: Redis, seed: number): Promise<void> => {
  const dice = random(seed);
  const id = room(`model-${seed}`);
  const keys = scripts.roomKeys(id);
  let nowMs = 1_800_000_000_000;
  const settings = {
    newUsersPerMinute: dice.pick([60, 600, 6000, 61]),
    burst: dice.pick([1, 3, 10]),
    totalActiveUsers: dice.pick([1, 2, 5, 100]),
    sessionSeconds: 30,
    absoluteSessionSeconds: dice.pick([30, 60]),
    claimSeconds: 10,
    graceSeconds: dice.pick([5, 10]),
    suspended: false,
  };
  const model = new LineModel({ ...settings }, nowMs);
  let version = 1;
  const configure = async (create: 0 | 1) => {
    const done = await scripts.configure.run(redis, keys, {
      nowMs,
      version,
      settings: JSON.stringify({ ...defaultSettings, ...settings }),
      create,
    });
    version += 1;
    return done.outcome;
  };
  t.equal(await configure(1), 'created');

  const people = Array.from({ length: PEOPLE }, (_, index) =>
    `place-${seed}-${index}`.padEnd(16, '_').slice(0, 16),
  );
  const receipts = new Map<string, { number: number; score: number }>();
  for (let step = 0; step < STEPS; step += 1) {
    nowMs += dice.pick([0, 1, 50, 200, 1000, 3000, 7000]);
    const placeId = dice.pick(people);
    const place = model.places.get(placeId);
    const number = dice.pick([place?.number ?? 1, receipts.get(placeId)?.number ?? 1, place?.number ?? 1]);
    const operation = dice.pick([
      'join',
      'join',
      'join',
      'withhold',
      'hear',
      'hear',
      'promote',
      'promote',
      'promote',
      'claim',
      'claim',
      'renew',
      'end',
      'leave',
      'release',
      'reap',
      'reap',
      'restore',
      'suspend',
      'retune',
    ]);
    let said = '';
    let due = '';
    switch (operation) {
      case 'join':
      case 'withhold': {
        const done = await joinOne(redis, keys, {
          nowMs,
          placeId,
          verdict: operation === 'join' ? 'allow' : 'block',
        });
        said = 'number' in done ? `${done.outcome} ${done.state} ${done.number}` : done.outcome;
        due = model.join(placeId, operation === 'join', nowMs);
        if ('number' in done) receipts.set(placeId, { number: done.number, score: done.score });
        break;
      }
      case 'hear':
        said = (await scripts.here.run(redis, keys, { nowMs, placeIds: [placeId] })).outcome;
        model.hear(placeId, nowMs);
        due = 'noted';
        break;
      case 'promote': {
        const promoteMax = dice.pick([1, 3, 500]);
        const examineMax = dice.pick([1, 4, 500]);
        const done = await scripts.promote.run(redis, keys, { nowMs, promoteMax, examineMax });
        said =
          done.outcome === 'promoted'
            ? `promoted ${done.promoted} ${done.parked} ${done.placeIds.join(',')}`
            : done.outcome === 'gated'
              ? `gated ${done.reason}`
              : done.outcome;
        due = model.promote(promoteMax, examineMax, nowMs);
        break;
      }
      case 'claim': {
        const done = await scripts.claim.run(redis, keys, { nowMs, placeId, number });
        said = 'expiresAtMs' in done ? `${done.outcome} ${done.expiresAtMs}` : done.outcome;
        due = model.claim(placeId, number, nowMs);
        break;
      }
      case 'renew': {
        const done = await scripts.renew.run(redis, keys, { nowMs, placeId, number });
        said = 'expiresAtMs' in done ? `${done.outcome} ${done.expiresAtMs}` : done.outcome;
        due = model.renew(placeId, number, nowMs);
        break;
      }
      case 'end':
        said = (await scripts.end.run(redis, keys, { nowMs, placeId, number, reason: 'test' })).outcome;
        due = model.end(placeId, number);
        break;
      case 'leave': {
        const done = await scripts.leave.run(redis, keys, { nowMs, placeId });
        said = done.outcome === 'left' ? `left ${done.state} ${done.number}` : done.outcome;
        due = model.leave(placeId);
        break;
      }
      case 'release':
        said = (await scripts.release.run(redis, keys, { nowMs, placeId })).outcome;
        due = model.release(placeId, nowMs);
        break;
      case 'reap': {
        const done = await scripts.reap.run(redis, keys, { nowMs, reapMax: 3, entriesMax: 100_000 });
        said =
          done.outcome === 'reaped' ? `reaped ${done.missed} ${done.finished} ${done.expired}` : done.outcome;
        due = model.reap(3, nowMs);
        break;
      }
      case 'restore': {
        const receipt = receipts.get(placeId);
        if (receipt === undefined) break;
        const done = await scripts.restore.run(redis, keys, {
          nowMs,
          sale: 1,
          placeId,
          ...receipt,
          withheld: 0,
        });
        said = done.outcome;
        due = model.restore(placeId, receipt.number, receipt.score, nowMs);
        break;
      }
      case 'suspend':
        settings.suspended = !settings.suspended;
        said = await configure(0);
        due = 'configured';
        model.settings = { ...settings };
        model.units = Math.min(
          settings.burst * 60_000,
          model.units + Math.max(0, nowMs - model.unitsAtMs) * settings.newUsersPerMinute,
        );
        model.unitsAtMs = nowMs;
        break;
      default: {
        const cap = settings.totalActiveUsers + dice.pick([0, 1, 2]);
        model.units = Math.min(
          settings.burst * 60_000,
          model.units + Math.max(0, nowMs - model.unitsAtMs) * settings.newUsersPerMinute,
        );
        model.unitsAtMs = nowMs;
        settings.totalActiveUsers = cap;
        model.settings = { ...settings };
        said = await configure(0);
        due = 'configured';
      }
    }
    const at = `seed ${seed}, step ${step}, ${operation} ${placeId}`;
    if (said !== due) throw new Error(`${at}: the script said "${said}", the rules say "${due}"`);
    const actual = await stateOf(redis, id);
    for (const [held, found] of actual) {
      const place = model.places.get(held);
      if (
        place === undefined ||
        expected(place).state !== found.state ||
        expected(place).value !== found.value
      )
        throw new Error(`${at}: ${held} is ${JSON.stringify(found)}, the rules say ${JSON.stringify(place)}`);
    }
    if (actual.size !== model.places.size)
      throw new Error(`${at}: ${actual.size} places stand, the rules say ${model.places.size}`);
    const occupied = [...actual.values()].filter(
      ({ state }) => state === 'promoted' || state === 'active',
    ).length;
    if (occupied > settings.totalActiveUsers)
      throw new Error(`${at}: ${occupied} inside, the cap is ${settings.totalActiveUsers}`);
  }

  const promotions: number[] = [];
  let misses = 0;
  for (const [, flat] of await redis.xrange(keys.entries, '-', '+')) {
    const entry = parseEntry(flat ?? []);
    if (entry?.kind === 'promoted') for (const _ of entry.visits) promotions.push(entry.atMs);
    if (entry?.kind === 'missed') misses += entry.visits.length + entry.finished.length;
  }
  const over = overshoot(promotions, misses, settings.newUsersPerMinute, settings.burst);
  if (over > 0) throw new Error(`seed ${seed}: ${over} more were promoted than rate and burst allow`);
  await redis.del(...Object.values(keys));
};

t.test('the scripts keep the rules of the line through random operations', async (t) => {
  const { client } = await startRedis(t);
  const first = Number(process.env.ANTEROOM_SEED ?? Math.floor(Math.random() * 1_000_000));
  t.comment(`first seed ${first}`);
  for (let seed = first; seed < first + (process.env.ANTEROOM_SEED === undefined ? SEEDS : 1); seed += 1)
    await walk(client, seed);
  t.pass(`${SEEDS} walks of ${STEPS} steps`);
});
