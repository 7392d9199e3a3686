// What the dispatchers promise of the ledger they write: every record once, whoever writes and whatever breaks, and
// a sale that can be recomputed from the download. On a real Redis, a real PostgreSQL and the real scripts.

import { text } from 'node:stream/consumers';
import t from 'tap';
import { createLedgerRoutes } from '../../admin/ledger.ts';
import { createLedgerWriter } from '../../dispatcher/ledger.ts';
import { type PlaceId, parseRoomId } from '../../kernel/ids.ts';
import { roomsKey } from '../../kernel/keys.ts';
import { silentLog } from '../../kernel/log.ts';
import { createMetrics } from '../../kernel/metrics.ts';
import type { Redis } from '../../kernel/redis.ts';
import type { Sql } from '../../kernel/sql.ts';
import { createTokens, generateKey, parseKeys } from '../../kernel/token.ts';
import type { LedgerRow } from '../../line/ledger.ts';
import { verifyLedger } from '../../line/ledger-verify.ts';
import { createRoomStore } from '../../line/rooms.ts';
import { defaultSettings, type Settings } from '../../line/settings.ts';
import { drawScore, drawSeed } from '../../line/visitor.ts';
import * as scripts from '../../lua/room.ts';
import { eventually } from '../support/eventually.ts';
import { placeOf } from '../support/ledger-sale.ts';
import { joinOne } from '../support/one.ts';
import { type OwnPostgres, startOwnPostgres } from '../support/postgres.ts';
import { random, seedOf } from '../support/random.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';

const T0 = 1_800_000_000_000;
const ROOM = parseRoomId('demo')!;
const keys = scripts.roomKeys(ROOM);
const tokens = createTokens({ keys: parseKeys(generateKey('t'))!, issuer: 'http://test' });
let server: TestRedis;
let postgres: OwnPostgres;
let sql: Sql;
let redis: Redis;

t.before(async () => {
  server = await startRedis(t);
  postgres = await startOwnPostgres(t);
  sql = await postgres.connect();
  redis = server.client;
  await createRoomStore(sql).migrate();
});
t.beforeEach(async () => {
  await redis.flushall();
  await sql.query('TRUNCATE rooms, ledger, ledger_ends, ledger_draws');
});

/** A room in SQL and in Redis, and what happens in it. */
const open = async (over: Partial<Settings> = {}) => {
  let version = 0;
  let settings = { ...defaultSettings, newUsersPerMinute: 600, burst: 5, totalActiveUsers: 12, ...over };
  await createRoomStore(sql).create(ROOM, settings);
  const configure = async (more: Partial<Settings>, nowMs = T0) => {
    settings = { ...settings, ...more };
    version += 1;
    const done = await scripts.configure.run(redis, keys, {
      ...{ nowMs, version, create: 1 },
      settings: JSON.stringify(settings),
    });
    await redis.sadd(roomsKey, ROOM);
    return done;
  };
  await configure({});
  return {
    configure,
    join: (number: number, nowMs: number, more: { verdict?: string; drawScore?: number } = {}) =>
      joinOne(redis, keys, {
        ...{ nowMs, placeId: placeOf(number), sale: settings.sale, lineMax: 100_000, ...more },
      }),
    promote: (nowMs: number) => scripts.promote.run(redis, keys, { nowMs, promoteMax: 500, examineMax: 500 }),
    recover: (head: number, nextNumber: number, nowMs: number) =>
      scripts.recover.run(redis, keys, {
        ...{ nowMs, version, settings: JSON.stringify(settings), head, nextNumber },
        ...{ epoch: 0, waiting: 0, replid: '', recoverySeconds: 0, remembered: 1 },
      }),
  };
};

/** A writer that acts when it is told to: the first pass of its own finds no room, the next comes too late to matter. */
const createWriter = async (
  t: { teardown(work: () => unknown): void },
  over: { sql?: Sql; ledgerMs?: number } = {},
) => {
  const connection = await server.connect('ledger');
  const rooms = await redis.smembers(roomsKey);
  await redis.del(roomsKey);
  const writer = createLedgerWriter({
    config: { ledgerMs: over.ledgerMs ?? 600_000 },
    redis: connection,
    sql: over.sql ?? sql,
    ...{ tokens, log: silentLog, metrics: createMetrics({ processMetrics: false }) },
  });
  t.teardown(() => writer.stop());
  await connection.ping(); // What it asked first was asked before this.
  if (rooms.length > 0) await redis.sadd(roomsKey, ...rooms);
  return writer;
};

/** The ledger as operators download it at `nowMs`. */
const download = async ({ sale = 1, nowMs = T0 } = {}): Promise<string> => {
  const clock = { nowMs: () => nowMs, monotonicMs: () => 0 };
  const routes = createLedgerRoutes({ sql, rooms: createRoomStore(sql), tokens, clock });
  // The handler reads nothing else of a request.
  const request = { params: { room: ROOM, sale: String(sale) } } as unknown as Parameters<
    typeof routes.download
  >[0];
  // It knows no operator's name either.
  const answer = await routes.download(request, {} as Parameters<typeof routes.download>[1]);
  if (!('body' in answer)) throw new Error('no body');
  return text(answer.body as AsyncIterable<Uint8Array>); // It always streams.
};
const verdictOf = async (exported: string) =>
  verifyLedger(
    (async function* () {
      yield Buffer.from(exported);
    })(),
    { jwks: await tokens.jwks() },
  );
const rowsOf = (exported: string): LedgerRow[] =>
  exported
    .trimEnd()
    .split('\n')
    .slice(1)
    .map((line) => JSON.parse(line));
const numbersOf = (exported: string, kind: string): number[] =>
  rowsOf(exported).flatMap((row) =>
    row.kind === kind && 'visits' in row ? row.visits.map(([, number]) => number) : [],
  );

t.test('whatever the scripts do, the download of it is verified', async (t) => {
  const first = seedOf(t, 1);
  let [promoted, drawn] = [0, 0];
  for (let round = 0; round < 4; round += 1) {
    await redis.flushall();
    await sql.query('TRUNCATE rooms, ledger, ledger_ends, ledger_draws');
    const seed = first + round;
    const dice = random(seed);
    const opensAt = T0 + 1000;
    const room = await open({ opensAt, prequeueStartsAt: T0, shuffleAtOpen: true, claimSeconds: 10 });
    const lots = drawSeed(tokens.derive('draw'), { room: ROOM, sale: 1, opensAt });
    const writer = await createWriter(t);
    let now = T0;
    let people = 0;
    const someone = (): { place: PlaceId; number: number } => {
      const number = 1 + dice.below(Math.max(1, people));
      return { place: placeOf(number), number };
    };
    let method: Settings['queueingMethod'] = 'fifo';
    for (let step = 0; step < 500; step += 1) {
      if (step === 30) now = opensAt;
      else if (step > 30) now += dice.below(400);
      const { place, number } = someone();
      switch (dice.below(step < 30 ? 2 : 14)) {
        case 0:
        case 1: {
          people += 1;
          const drawn = { drawScore: drawScore(lots, placeOf(people)) };
          await room.join(people, now, {
            ...(step < 30 ? drawn : {}),
            ...(dice.below(7) ? {} : { verdict: 'block' }),
          });
          break;
        }
        case 2:
        case 3:
        case 4:
        case 5:
          await room.promote(now);
          break;
        case 6:
        case 7: {
          const entry = await redis.hget(keys.places, place);
          await scripts.claim.run(redis, keys, {
            nowMs: now,
            placeId: place,
            number: Number(entry?.split(' ')[0] ?? number),
            shownSerial: '',
            visitor: 'a:AAAAAAAAAAAAAAAAAAAAAA',
          });
          break;
        }
        case 8:
          await scripts.reap.run(redis, keys, { nowMs: now, reapMax: 5, entriesMax: 100_000 });
          break;
        case 9:
          await scripts.here.run(redis, keys, { nowMs: now, placeIds: [place, someone().place] });
          break;
        case 10:
          await scripts.leave.run(redis, keys, { nowMs: now, placeId: place });
          break;
        case 11:
          await scripts.release.run(redis, keys, { nowMs: now, placeId: place });
          break;
        case 12:
          // Joining again: parked places return with their score, finished ones get a new number.
          await room.join(number, now);
          break;
        default:
          if (dice.below(3) === 0) {
            method = dice.below(4) === 0 ? 'random' : 'fifo';
            await room.configure(
              {
                newUsersPerMinute: 60 + dice.below(2000),
                burst: 1 + dice.below(9),
                totalActiveUsers: 2 + dice.below(20),
                queueingMethod: method,
              },
              now,
            );
          } else await writer.pass();
      }
    }
    await writer.pass();
    await sql.query('UPDATE ledger_draws SET opens_at_ms = $1', [opensAt]);
    await t.rejects(
      download({ nowMs: opensAt - 1 }),
      { code: 'ledger-sealed' },
      'nobody sees the order of a draw before it opens',
    );
    const exported = await download({ nowMs: opensAt });
    const verdict = await verdictOf(exported);
    if (verdict.outcome !== 'verified') return t.fail(`seed ${seed}: ${JSON.stringify(verdict)}`);
    t.match(verdict.summary, { gaps: [], losses: 0 }, `seed ${seed}`);
    promoted += verdict.summary.promoted;
    drawn += verdict.summary.drawn;
    t.same(
      numbersOf(exported, 'joined'),
      Array.from({ length: Number(await redis.hget(keys.room, 'nextNumber')) }, (_, index) => index + 1),
      `seed ${seed}: every number stands in it once, in order`,
    );
  }
  // One sale of chance may be a quiet one; four are not.
  t.ok(promoted > 20 && drawn > 5, `${promoted} went in and ${drawn} lots were drawn`);
});

t.test('any number of writers put each record in once', async (t) => {
  const room = await open({ newUsersPerMinute: 6000, burst: 1000, totalActiveUsers: 10_000 });
  const writers = await Promise.all([1, 2, 3, 4].map(() => createWriter(t)));
  let isOn = true;
  const busy = writers.map(async (writer) => {
    while (isOn) await writer.pass();
  });
  for (let number = 1; number <= 700; number += 1) {
    await room.join(number, T0);
    if (number % 10 === 0) await room.promote(T0);
  }
  isOn = false;
  await Promise.all(busy);
  await writers[0]!.pass();
  const exported = await download();
  t.match(await verdictOf(exported), {
    outcome: 'verified',
    summary: { joined: 700, promoted: 700, gaps: [] },
  });
  t.same(
    numbersOf(exported, 'promoted'),
    Array.from({ length: 700 }, (_, index) => index + 1),
  );
});

t.test('a database that dies at any moment neither loses nor doubles a row', async (t) => {
  const room = await open({ newUsersPerMinute: 6000, burst: 1000, totalActiveUsers: 10_000 });
  const waits: string[] = [];
  const writer = createLedgerWriter({
    config: { ledgerMs: 50 },
    redis: await server.connect('ledger'),
    sql: await postgres.connect({ poolMax: 2 }),
    tokens,
    log: { ...silentLog, warn: (event) => void waits.push(event), info: (event) => void waits.push(event) },
    metrics: createMetrics({ processMetrics: false }),
  });
  let number = 0;
  for (let time = 0; time < 3; time += 1) {
    for (let count = 0; count < 150; count += 1) {
      number += 1;
      await room.join(number, T0);
      if (number % 10 === 0) await room.promote(T0);
      if (count === 75) await postgres.kill();
    }
    if (time === 0) await eventually('it says that it waits', () => waits.includes('ledger-waits'));
    await postgres.start();
  }
  await eventually('it goes on', async () => (await download().catch(() => '')).includes(`,${number}]`));
  await writer.stop();
  t.ok(waits.includes('ledger-back'), 'and says so');
  const exported = await download();
  t.match(await verdictOf(exported), {
    outcome: 'verified',
    summary: { joined: number, promoted: number, gaps: [] },
  });
});

t.test('records that were trimmed are a gap, and rate and cap are followed again after it', async (t) => {
  const room = await open({ newUsersPerMinute: 6000, burst: 3, totalActiveUsers: 100 });
  const writer = await createWriter(t);
  for (let number = 1; number <= 20; number += 1) await room.join(number, T0);
  await room.promote(T0);
  await writer.pass();
  await room.configure({ burst: 4 }, T0 + 10);
  await room.join(21, T0 + 50);
  await room.promote(T0 + 50);
  await room.join(22, T0 + 60);
  await redis.xtrim(keys.entries, 'MAXLEN', 0);
  await writer.pass();
  await room.join(23, T0 + 90);
  await room.promote(T0 + 90);
  await writer.pass();
  await writer.pass();
  const exported = await download();
  const verdict = await verdictOf(exported);
  t.match(verdict, {
    outcome: 'verified',
    summary: { joined: 23, unmeasured: 0, gaps: [{ stream: 'entries', reason: 'trimmed', records: 2 }] },
  });
  t.match(
    rowsOf(exported).find(({ kind }) => kind === 'resumed'),
    { limits: { effectiveBurst: 4 } },
    'with the limits nobody had written down',
  );

  for (let number = 24; number <= 30; number += 1) await room.join(number, T0 + 100);
  await redis.xtrim(keys.joins, 'MAXLEN', 3);
  await writer.pass();
  t.match(await verdictOf(await download()), {
    outcome: 'verified',
    summary: { joined: 26, gaps: [{}, { stream: 'joins', reason: 'trimmed', records: 4 }] },
  });
});

t.test('a ledger that begins during a sale says so', async (t) => {
  const room = await open({ newUsersPerMinute: 6000, burst: 3, totalActiveUsers: 100 });
  for (let number = 1; number <= 9; number += 1) await room.join(number, T0);
  await redis.del(keys.joins);
  await room.promote(T0);
  await room.join(10, T0);
  await (await createWriter(t)).pass();
  const verdict = await verdictOf(await download());
  t.match(verdict, { outcome: 'verified', summary: { gaps: [{ stream: 'joins', reason: 'began' }] } });
});

t.test('Redis that lost everything, or its newest second, is told in the ledger', async (t) => {
  const room = await open({ newUsersPerMinute: 60_000, burst: 3, totalActiveUsers: 100 });
  const writer = await createWriter(t);
  for (let number = 1; number <= 6; number += 1) await room.join(number, T0);
  await room.promote(T0);
  await writer.pass();

  const [joins, entries] = [await redis.dumpBuffer(keys.joins), await redis.dumpBuffer(keys.entries)];
  await room.join(7, T0 + 1);
  await room.promote(T0 + 1);
  await writer.pass();
  // As a restart from an append-only file that misses the end: the streams are as they were before.
  await redis.restore(keys.joins, 0, joins, 'REPLACE');
  await redis.restore(keys.entries, 0, entries, 'REPLACE');
  await redis.hset(keys.room, 'nextNumber', 6);
  await room.join(8, T0 + 2);
  await writer.pass();
  const once = await verdictOf(await download());
  t.match(once, { outcome: 'verified' });
  if (once.outcome === 'verified') {
    t.same(new Set(once.summary.gaps.map(({ reason }) => reason)), new Set(['lost']));
    t.equal(once.summary.gaps.length, 2, 'once for each stream');
  }

  await redis.flushall();
  await redis.sadd(roomsKey, ROOM);
  await room.recover(3, 8, T0 + 10);
  await room.join(9, T0 + 10);
  await room.promote(T0 + 20);
  await writer.pass();
  const exported = await download();
  const verdict = await verdictOf(exported);
  t.match(verdict, { outcome: 'verified', summary: { losses: 1 } });
  t.same(numbersOf(exported, 'promoted').at(-1), 1_000_009, 'and it goes on');
});

t.test('a new sale has a chain of its own, and the old one ends with a signature', async (t) => {
  const room = await open({ newUsersPerMinute: 6000, burst: 3, totalActiveUsers: 100 });
  const writer = await createWriter(t);
  await room.join(1, T0);
  await room.promote(T0);
  await room.configure({ sale: 2 }, T0);
  await room.join(2, T0);
  await room.promote(T0 + 1);
  await writer.pass();
  const first = rowsOf(await download({ sale: 1 }));
  t.same(
    first.filter(({ kind }) => kind !== 'head').map(({ kind }) => kind),
    ['settings', 'joined', 'promoted'],
  );
  t.equal(first.at(-1)?.kind, 'head');
  t.match(await verdictOf(await download({ sale: 1 })), { outcome: 'verified' });
  t.match(await verdictOf(await download({ sale: 2 })), {
    outcome: 'verified',
    summary: { joined: 1, promoted: 1 },
  });
  await t.rejects(download({ sale: 3 }), { code: 'ledger-missing' });
  await t.rejects(download({ sale: 0 }), { code: 'bad-id' });
});

t.test('a sale that is over ends with a signature, and its streams may go', async (t) => {
  const room = await open({ newUsersPerMinute: 6000, burst: 3, totalActiveUsers: 100, closesAt: T0 + 1000 });
  const writer = await createWriter(t);
  await room.join(1, T0);
  await writer.pass();
  await scripts.close.run(redis, keys, { nowMs: T0 + 2000 });
  await writer.pass();
  t.equal(rowsOf(await download()).at(-1)?.kind, 'head');
  await scripts.close.run(redis, keys, { nowMs: T0 + 100_000 });
  t.equal(await redis.exists(keys.joins), 0, 'the stream of joins is gone');
  await writer.pass();
  t.match(await verdictOf(await download()), { outcome: 'verified', summary: { isOver: true, gaps: [] } });
  await room.configure({ sale: 2, closesAt: 0 }, T0 + 100_000);
  await room.join(1, T0 + 100_000);
  await writer.pass();
  t.match(await verdictOf(await download({ sale: 2 })), {
    outcome: 'verified',
    summary: { joined: 1, gaps: [] },
  });
});
