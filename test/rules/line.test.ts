// The pure parts of the line, each promise alone: settings, tokens, positions, times.

import { createHash } from 'node:crypto';
import t from 'tap';
import { type ErrorCode, errorTable, problemOf } from '../../kernel/errors.ts';
import { parsePlaceId, parseRoomId, parseVisitorId } from '../../kernel/ids.ts';
import { createMac } from '../../kernel/mac.ts';
import { createTokens, generateKey, parseKeys } from '../../kernel/token.ts';
import { cadenceMs, pollAfterMs } from '../../line/cadence.ts';
import { contextHeader, readContext, signContext } from '../../line/context.ts';
import { parseEntry } from '../../line/entries.ts';
import { etaOf } from '../../line/eta.ts';
import { positionMessage, socketFrame, sseFrame } from '../../line/messages.ts';
import { aheadOf } from '../../line/position.ts';
import {
  readClaim,
  readReceipt,
  readSession,
  signClaim,
  signReceipt,
  signSession,
} from '../../line/receipt.ts';
import { burstOf, defaultSettings, parseSettings } from '../../line/settings.ts';
import { gateStateOf, parseSnapshot, type Snapshot } from '../../line/snapshot.ts';
import { drawScore, drawSeed, newVisitor, placeIdOf, readVisitor, signVisitor } from '../../line/visitor.ts';

const tokensOf = (keys: string) => createTokens({ keys: parseKeys(keys) ?? [], issuer: 'http://test' });
const keyA = generateKey('a');
const keyB = generateKey('b');
const tokens = tokensOf(keyA);
const room = parseRoomId('demo')!;
const placeId = parsePlaceId('abcdefghijklmnop')!;

const snapshot = (over: Partial<Snapshot> = {}): Snapshot => ({
  atMs: 1000,
  epoch: 1,
  version: 1,
  waiting: 0,
  parked: 0,
  withheld: 0,
  promoted: 0,
  active: 0,
  free: 0,
  head: 0,
  nextNumber: 0,
  perMinute: 0,
  nearScore: 0,
  promotedTotal: 0,
  recoveringUntil: 0,
  over: false,
  recovery: { reason: '', recoveredAt: 0, lostWaiting: 0, restored: 0, adopted: 0, adoptedOverCap: 0 },
  calibration: { p50Factor: 1, p90Factor: 1.35, right: 0, total: 0 },
  listedTo: 0,
  notice: { id: '', text: '', level: '' },
  parkedBefore: 0,
  parkedAt: [],
  first: [],
  between: [],
  anchors: [],
  ranks: [],
  held: [],
  unsure: [],
  cameAmong: 0,
  cameAhead: 0,
  settings: defaultSettings,
  ...over,
});

t.test('settings out of range are refused with every fault at once, and never rounded', async (t) => {
  for (const rate of [0, -1, 1.5, 1e9, Number.NaN, '60', null]) {
    const read = parseSettings({ newUsersPerMinute: rate, claimSeconds: 1, nonsense: true });
    t.equal(read.outcome, 'faults', `rate ${rate}`);
    if (read.outcome === 'faults')
      t.same(read.faults.map((fault) => fault.field).sort(), [
        'claimSeconds',
        'newUsersPerMinute',
        'nonsense',
      ]);
  }
  for (const input of [null, [], 'text', 1]) t.equal(parseSettings(input).outcome, 'faults');
  t.equal(parseSettings({ opensAt: 2000, closesAt: 1000 }).outcome, 'faults', 'closing before opening');
  t.equal(parseSettings({ prequeueStartsAt: 1 }).outcome, 'faults', 'a pre-queue without an opening');
  t.equal(parseSettings({ shuffleAtOpen: true }).outcome, 'faults', 'a draw without an opening');
  t.equal(parseSettings({ claimSeconds: 8 }).outcome, 'faults', 'a claim shorter than two polls');
  t.equal(parseSettings({ absoluteSessionSeconds: 10, sessionSeconds: 20 }).outcome, 'faults');
  for (const route of ['/v1', '/V1', '/v1/rooms', '/rooms/x', '/Rooms', 'nothing', '/a b', 7])
    t.equal(parseSettings({ routes: [route] }).outcome, 'faults', `route ${route}`);
  for (const field of ['title', 'origin', 'queueingMethod', 'suspended', 'routes'])
    t.equal(parseSettings({ [field]: 5 }).outcome, 'faults', field);
  t.equal(
    parseSettings({ routes: ['/demo', 'tickets.example/sale', '/'], origin: 'http://10.0.0.1:80', burst: 3 })
      .outcome,
    'ok',
  );
  t.equal(burstOf({ burst: 0, newUsersPerMinute: 60 }), 1);
  t.equal(burstOf({ burst: 0, newUsersPerMinute: 600 }), 10);
  t.equal(burstOf({ burst: 7, newUsersPerMinute: 600 }), 7);
});

t.test('a token of one kind is never accepted as another', async (t) => {
  const visit = { room, sale: 1, placeId, number: 5 };
  const visitorId = newVisitor();
  const receipt = signReceipt(tokens, { ...visit, score: 5, epoch: 1, withheld: false });
  const session = signSession(tokens, {
    ...visit,
    expiresAtMs: 9,
    startedAtMs: 1,
    epoch: 1,
    serial: 2,
    visitorId,
  });
  const claim = signClaim(tokens, { ...visit, deadlineMs: 9, epoch: 1 });
  t.same(readReceipt(tokens, receipt), { ...visit, score: 5, epoch: 1, withheld: false });
  t.same(readSession(tokens, session), {
    ...visit,
    expiresAtMs: 9,
    startedAtMs: 1,
    epoch: 1,
    serial: 2,
    visitorId,
  });
  t.same(readClaim(tokens, claim), { ...visit, deadlineMs: 9, epoch: 1 });
  t.equal(readReceipt(tokens, session), undefined);
  t.equal(readReceipt(tokens, claim), undefined);
  t.equal(readSession(tokens, receipt), undefined);
  t.equal(readClaim(tokens, session), undefined);
  t.ok(
    receipt.length <= 200 && session.length <= 200 && claim.length <= 200,
    'each fits a cookie of 200 bytes',
  );
});

t.test('a withheld receipt looks the same and is known again', async (t) => {
  const read = { room, sale: 1, placeId, number: 5, score: 5, epoch: 1 };
  const honest = signReceipt(tokens, { ...read, withheld: false });
  const withheld = signReceipt(tokens, { ...read, withheld: true });
  t.equal(withheld.length, honest.length);
  t.equal(withheld.slice(0, withheld.lastIndexOf('.')), honest.slice(0, honest.lastIndexOf('.')));
  t.equal(readReceipt(tokens, withheld)?.withheld, true);
});

t.test('a forged, cut or foreign token is not a token', async (t) => {
  const good = signVisitor(tokens, newVisitor(), 1000);
  const forged = [
    '',
    '.',
    '..',
    'a',
    'a.b',
    'a.b.c',
    good.slice(0, -1),
    `${good}x`,
    good.slice(1),
    good.replace(/^a/, 'b'),
    `a.${'A'.repeat(1_000_000)}.AAAA`,
    `${good.slice(0, good.lastIndexOf('.'))}.${'A'.repeat(22)}`,
    `a.${Buffer.from('["a:xxxxxxxxxxxxxxxxxxxxxx",1]').toString('base64url')}.`,
    good.replace(/\.(.)/, (_, c: string) => `.${c === 'A' ? 'B' : 'A'}`),
  ];
  for (const token of forged)
    t.equal(readVisitor(tokens, token, { nowMs: 1000, lifeDays: 30 }), undefined, token.slice(0, 30));
  t.equal(readVisitor(tokensOf(keyB), good, { nowMs: 1000, lifeDays: 30 }), undefined, 'signed elsewhere');
  t.equal(readVisitor(tokens, good, { nowMs: 31 * 86_400_000, lifeDays: 30 }), undefined, 'too old');
  t.ok(readVisitor(tokens, good, { nowMs: 1000, lifeDays: 30 }));
});

t.test('keys rotate without anyone losing a place', async (t) => {
  const visitor = newVisitor();
  const old = signVisitor(tokens, visitor, 1000);
  const rotated = tokensOf(`${keyB},${keyA}`);
  t.equal(readVisitor(rotated, old, { nowMs: 1000, lifeDays: 30 })?.visitor, visitor);
  t.equal(
    placeIdOf(createMac(rotated.derive('place-salt')), { room, sale: 1, visitor }),
    placeIdOf(createMac(tokens.derive('place-salt')), { room, sale: 1, visitor }),
  );
  t.match(rotated.sign('visitor', [visitor, 1]), /^b\./, 'the newest key signs');
  for (const bad of ['', 'a', 'a:short', `${keyA},${keyA}`, `A:${'x'.repeat(43)}`])
    t.equal(parseKeys(bad), undefined);
});

t.test('a pass is good for its room, its kind and its time only', async (t) => {
  const nowMs = Date.now();
  const visit = { sale: 1, placeId, number: 5, serial: 2, sessionId: 's' };
  const claims = { ...visit, room: 'demo', lifeSeconds: 60, nowMs };
  const at = { room: 'demo', nowMs };
  const invalid = { outcome: 'invalid' };
  const pass = await tokens.signPass(claims);
  t.same(await tokens.verifyPass(pass, at), { outcome: 'valid', ...visit });
  t.same(await tokens.verifyPass(pass, { ...at, room: 'other' }), invalid);
  t.same(await tokensOf(keyB).verifyPass(pass, at), invalid);
  t.same(await tokens.verifyPass(pass, { ...at, nowMs: nowMs + 120_000 }), { outcome: 'expired' });
  const [head, body, mac] = pass.split('.');
  const none = Buffer.from('{"alg":"none","typ":"anteroom-pass+jwt","kid":"a"}').toString('base64url');
  const jwt = Buffer.from('{"alg":"EdDSA","typ":"JWT","kid":"a"}').toString('base64url');
  for (const forged of [
    `${none}.${body}.`,
    `${none}.${body}.${mac}`,
    `${jwt}.${body}.${mac}`,
    `${head}.${body}.`,
    `${head}.${body}.${'A'.repeat(86)}`,
    'x',
    '',
  ])
    t.same(await tokens.verifyPass(forged, at), invalid, forged.slice(0, 20));
  t.equal((await tokens.jwks()).keys[0]?.d, undefined, 'no private part is published');
});

t.test('the signed context of a request lives a minute', async (t) => {
  const visitorId = newVisitor();
  const header = signContext(tokens, { visitorId, visit: { room, placeId, number: 3, sale: 1 } }, 1000);
  t.same(readContext(tokens, header, 1000), { visitorId, visit: { room, placeId, number: 3, sale: 1 } });
  t.equal(readContext(tokens, header, 62_000), undefined);
  t.equal(readContext(tokens, undefined, 1000), undefined);
  t.same(readContext(tokens, signContext(tokens, { visitorId }, 1000), 1000), { visitorId });
  t.equal(contextHeader, 'anteroom-context');
});

t.test('joining twice gives the same place, another sale another one', async (t) => {
  const salt = createMac(tokens.derive('place-salt'));
  const visitor = newVisitor();
  t.equal(placeIdOf(salt, { room, sale: 1, visitor }), placeIdOf(salt, { room, sale: 1, visitor }));
  t.not(placeIdOf(salt, { room, sale: 2, visitor }), placeIdOf(salt, { room, sale: 1, visitor }));
  t.ok(parsePlaceId(placeIdOf(salt, { room, sale: 1, visitor })));
  t.equal(parseVisitorId('u:short'), undefined);
});

t.test('a lot stands before every number and follows from the published seed', async (t) => {
  const seed = drawSeed(tokens.derive('draw'), { room, sale: 1, opensAt: 5000 });
  t.same(seed, drawSeed(tokens.derive('draw'), { room, sale: 1, opensAt: 5000 }));
  t.not(createHash('sha256').update(seed).digest('hex'), '');
  for (let index = 0; index < 100; index += 1) {
    const score = drawScore(seed, parsePlaceId(`${index}`.padStart(16, 'x'))!);
    t.ok(score < 0 && score >= -(2 ** 40) && Number.isInteger(score));
  }
});

t.test(
  'whoever comes after the snapshot stands behind all it knows, and parked places ahead count',
  async (t) => {
    const late = snapshot({
      waiting: 2,
      first: [10, 20],
      nextNumber: 20,
      parked: 1,
      parkedBefore: 1,
      anchors: [21],
      ranks: [3],
      listedTo: 20,
    });
    t.equal(aheadOf(late, 21), 3, 'whoever joins after the snapshot stands behind all it knows');
    t.equal(aheadOf(late, 24), 6, 'and behind those who joined in between');
    const parked = snapshot({ nextNumber: 20, waiting: 2, first: [10, 20], parkedBefore: 3, between: [15] });
    t.equal(aheadOf(parked, 10), 3, 'those parked ahead count');
    t.equal(aheadOf(parked, 20), 5);
    t.equal(
      aheadOf(snapshot({ parked: 2, parkedBefore: 2, anchors: [9], ranks: [2] }), 5),
      2,
      'nobody waits',
    );
  },
);

t.test('where each admission is drawn by lot nobody is told a position', async (t) => {
  const fifo = snapshot({
    waiting: 5,
    first: [1, 2, 3, 4, 5],
    nextNumber: 5,
    listedTo: 5,
    anchors: [6],
    ranks: [5],
  });
  t.match(positionMessage(fifo, { score: 3, nowMs: 1 }), { position: 3, waiting: 5 });
  const settings = { ...defaultSettings, queueingMethod: 'random' as 'fifo' }; // A method of a later version.
  const told = positionMessage({ ...fifo, settings }, { score: 3, nowMs: 1 });
  t.same(told, { order: 'drawn', waiting: 5, perMinute: 20, nextMs: 10_000 });
});

t.test(
  'an estimate is a range that holds the plain answer, and none is given while nothing moves',
  async (t) => {
    const seen = snapshot({ perMinute: 60, settings: { ...defaultSettings, newUsersPerMinute: 60 } });
    const range = etaOf(seen, 99, true);
    t.ok(range && range[0] === 100 && range[1] > 100 && range[1] < 200, JSON.stringify(range));
    t.equal(etaOf(seen, 99, false), undefined);
    const suspended = snapshot({ settings: { ...defaultSettings, suspended: true } });
    t.notOk('etaSeconds' in positionMessage(suspended, { score: 1, nowMs: 1 }));
  },
);

t.test('those near are told each second, those far back every 25 s', async (t) => {
  t.equal(cadenceMs(10), 1000);
  t.equal(cadenceMs(3600), 25_000);
  t.ok(cadenceMs(600) > 1000 && cadenceMs(600) < 25_000);
  for (const eta of [0, 10, 100, 1e6, undefined])
    t.ok(pollAfterMs(eta, 10) <= 5000, 'a poller has two chances to hear of its turn');
});

t.test('what keeps the line is said in one word', async (t) => {
  const at = (over: object, more: Partial<Snapshot> = {}) =>
    gateStateOf(snapshot({ settings: { ...defaultSettings, ...over }, ...more }), 1000);
  t.equal(at({}), 'open');
  t.equal(at({ suspended: true }), 'suspended');
  t.equal(at({ opensAt: 2000 }), 'notOpen');
  t.equal(at({ closesAt: 500 }), 'closed');
  t.equal(at({ queueAll: true }), 'queueAll');
  t.equal(at({}, { recoveringUntil: 2000 }), 'recovering');
});

t.test('unreadable records and snapshots of a newer version do no harm', async (t) => {
  t.equal(parseEntry(['kind', 'of-tomorrow']), undefined);
  t.match(
    parseEntry([
      'kind',
      'promoted',
      'atMs',
      '1',
      'deadlineMs',
      '2',
      'visits',
      `${placeId} 7,bad 8`,
      'parked',
      '',
    ]),
    {
      kind: 'promoted',
      atMs: 1,
      deadlineMs: 2,
      visits: [{ placeId, number: 7 }],
      parked: [],
    },
  );
  for (const text of ['', 'x', '{}', '{"settings":"{}"}', '{"settings":"x","atMs":1,"epoch":1}'])
    t.equal(parseSnapshot(text), undefined);
  const newer = '{"settings":"{\\"newUsersPerMinute\\":-1,\\"moon\\":1}","atMs":1,"epoch":1}';
  t.match(parseSnapshot(newer), { atMs: 1, settings: { newUsersPerMinute: 60, moon: 1 } });
});

t.test('a frame is one event, whatever the text in it', async (t) => {
  const frame = sseFrame(
    { type: 'notice', data: { id: 'n', text: 'two\nlines\r\n\nand more', level: 'info' } },
    '1-2',
  );
  t.equal(frame.split('\n\n').length, 2);
  t.match(frame, /^id: 1-2\nevent: notice\ndata: \{/);
  t.match(JSON.parse(socketFrame({ type: 'ended', data: { reason: 'left' } })), {
    type: 'ended',
    reason: 'left',
  });
});

t.test('a problem says what to do next and carries its code', async (t) => {
  for (const code of Object.keys(errorTable) as ErrorCode[]) {
    const problem = problemOf(code, { detail: 'd', extra: { status: 1, more: 2 } });
    t.equal(problem.status, errorTable[code][0], 'an extension cannot replace a member of the standard');
    t.ok(problem.title.length > 20 && problem.title.endsWith('.'), code);
    t.equal(problem.code, code);
  }
});
