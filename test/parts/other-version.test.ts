// An older release reads what a newer one wrote: it keeps what it does not know, takes cautiously what it cannot read,
// and goes on. On real Redis and PostgreSQL, with what a newer version might leave behind.

import t from 'tap';
import { demoEvent } from '../../booking-core/demo.ts';
import { repairDrift } from '../../booking-core/rebuild.ts';
import { createSurveyor } from '../../dispatcher/measure.ts';
import { createWatch } from '../../dispatcher/watcher.ts';
import { parseEventId, parseRoomId } from '../../kernel/ids.ts';
import { silentLog } from '../../kernel/log.ts';
import { createMetrics } from '../../kernel/metrics.ts';
import { createTokens, generateKey, parseKeys } from '../../kernel/token.ts';
import { parseEntry } from '../../line/entries.ts';
import { chained, chainStart } from '../../line/ledger.ts';
import { verifyLedger } from '../../line/ledger-verify.ts';
import { applyRoom, createRoomStore, syncRooms } from '../../line/rooms.ts';
import { defaultSettings, parseSettings, readStoredSettings } from '../../line/settings.ts';
import { parseSnapshot, snapshotText } from '../../line/snapshot.ts';
import { bookingKeys } from '../../lua/booking.ts';
import { newKey, startBooking } from '../support/booking.ts';
import { eventually } from '../support/eventually.ts';
import { startPostgres } from '../support/postgres.ts';
import { startRedis } from '../support/redis.ts';

const [{ client: redis }, postgres] = await Promise.all([startRedis(t), startPostgres(t)]);
const sql = await postgres.connect();
const rooms = createRoomStore(sql);
await rooms.migrate();
const tokens = createTokens({ keys: parseKeys(generateKey('t'))!, issuer: 'http://test' });

/** A setting nobody here has heard of, and values that mean something only later. */
const NEWER = {
  vipLine: { share: 0.1, proof: 'nft' },
  queueingMethod: 'auction',
  identity: 'passkey',
  suspended: 'until-noon',
  newUsersPerMinute: 9_000_000,
  claimSeconds: 90.5,
  origin: 'unix:/run/shop.sock',
  routes: ['/shop', { path: '/vip', when: 'tuesday' }, '/bar'],
  bypass: [
    { name: 'health', paths: ['/shop/health'] },
    { name: 'moon', phases: ['full'] },
  ],
  title: 'Written later',
};

t.test(
  'stored settings of a newer version are read, cautiously, and are still there after a change',
  async (t) => {
    const room = parseRoomId('later')!;
    await rooms.create(room, defaultSettings);
    await sql.query('UPDATE rooms SET settings = settings || $2::text::jsonb WHERE id = $1', [
      room,
      JSON.stringify(NEWER),
    ]);
    await sql.query(`INSERT INTO rooms (id, settings, sale) VALUES ('Not A Room', '{}', 1)`);
    await rooms.create(parseRoomId('plain')!, defaultSettings);
    const listed = await rooms.list();
    t.same(
      listed.map((row) => row.room),
      ['later', 'plain'],
      'every room that is one',
    );
    const [row] = listed;
    t.match(row?.settings, {
      title: 'Written later',
      suspended: true,
      identity: 'required',
      queueingMethod: 'fifo',
      newUsersPerMinute: 6_000_000,
      claimSeconds: defaultSettings.claimSeconds,
      origin: 'http://origin.invalid',
      routes: ['/shop', '/bar'],
      vipLine: NEWER.vipLine,
    });
    t.same(
      row?.settings.bypass.map(({ name }) => name),
      ['health'],
      'a rule that cannot be read opens nothing',
    );
    t.same(
      [...new Set(row?.faults.map(({ field }) => field.split(/[[.]/)[0]))].sort(),
      [
        'bypass',
        'claimSeconds',
        'identity',
        'newUsersPerMinute',
        'origin',
        'queueingMethod',
        'routes',
        'suspended',
      ],
      'and each is named',
    );
    const saved = await rooms.save(room, { changed: { totalActiveUsers: 7 }, seenVersion: row!.version });
    t.equal(saved.outcome, 'saved');
    const [kept] = await sql.query<{ settings: object }>('SELECT settings FROM rooms WHERE id = $1', [room]);
    t.match(
      kept?.settings,
      { ...NEWER, totalActiveUsers: 7 },
      'what the newer version wrote is as it wrote it',
    );
    // What an operator sends is read as strictly as ever.
    t.match(parseSettings({ vipLine: true }, row!.settings), { outcome: 'faults' });
    t.match(parseSettings({ burst: 5 }, row!.settings), {
      outcome: 'ok',
      settings: { vipLine: NEWER.vipLine },
    });
    for (const input of [null, [], 'x', 7]) t.equal(readStoredSettings(input).settings.suspended, true);
  },
);

t.test('a room with such settings is put into effect, measured, and read by everybody', async (t) => {
  await syncRooms({ rooms, redis, log: silentLog });
  const room = parseRoomId('later')!;
  const row = (await rooms.get(room))!;
  t.equal(await applyRoom({ rooms, redis, row }), 'current');
  const surveyor = createSurveyor({
    ...{ config: { snapshotMs: 1 }, redis },
    metrics: createMetrics({ processMetrics: false }),
  });
  const seen = await surveyor.measure(room);
  t.match(seen?.settings, { vipLine: NEWER.vipLine, suspended: true });
  const text = JSON.stringify({
    ...JSON.parse(snapshotText(seen!)),
    weather: 'fine',
    notice: { html: '<b>' },
  });
  t.match(parseSnapshot(text), {
    atMs: seen?.atMs,
    settings: { title: 'Written later' },
    notice: { text: '' },
  });
});

t.test('records of another kind are passed over, and fields that are not known', async (t) => {
  t.equal(parseEntry(['kind', 'auctioned', 'atMs', '1', 'visits', 'abcdefghijklmnop 1']), undefined);
  const extended = parseEntry(['kind', 'clock', 'atMs', '5', 'wasMs', '9', 'moon', 'full']);
  t.same(createWatch().observe(extended!), {
    overshoot: 0,
    duplicates: 0,
    inversions: 0,
    adoptedOverCap: 0,
  });
});

t.test('a ledger with rows of a newer kind is not called wrong', async (t) => {
  const header = { ledger: 1, room: 'demo', sale: 1, rows: 1, opensAt: 0, jwks: await tokens.jwks() };
  const { line } = chained(chainStart('demo', 1), { atMs: 1, kind: 'auctioned', visits: [] } as never);
  const verdict = await verifyLedger(
    (async function* () {
      yield Buffer.from(`${JSON.stringify(header)}\n${line}\n`);
    })(),
  );
  t.match(verdict, {
    outcome: 'unreadable',
    says: /row 1 is of the kind `auctioned`.*verify with the one that wrote it/,
  });
});

t.test('seats held in a way that is not known here stay held, and the sale goes on', async (t) => {
  const booking = await startBooking(t, { sql, redis });
  const keys = bookingKeys(parseEventId('demo')!);
  const fan = booking.fan('someone');
  const held = await fan.hold('stalls', ['A1', 'A2']);
  const entry = await redis.hget(keys.holds, held);
  await redis.hset(keys.holds, held, `${entry?.replace('held', 'auctioned')}|more|and more`);
  t.match(await repairDrift({ sql, redis, log: silentLog }, demoEvent), { outcome: 'agreed', repaired: 0 });
  t.match((await fan.pay(held, 'ok')).status, /^4/, 'nobody buys them here');
  const taken = await booking.fan('other').ask('POST', '/v1/events/demo/holds', {
    key: newKey(),
    body: { section: 'stalls', seats: ['A1'] },
  });
  t.match(taken.body, { code: 'seats-taken' });
  const other = booking.fan('other');
  t.equal((await other.pay(await other.hold('stalls', ['A3']), 'ok')).status, 201);
  await eventually(
    'and is sold',
    async () => (await redis.hget(keys.seats, 'm:stalls'))?.startsWith('hhs') === true,
  );
});
