// What is promised of sessions, over HTTP at two gateways on a real Redis: one a visit, renewed up to a limit, known
// by the newest cookie only, moved once by a pass, ended by an origin, and nothing forged gets through.

import { execFile } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { promisify } from 'node:util';
import { createLocalJWKSet, type JSONWebKeySet, jwtVerify } from 'jose';
import t from 'tap';
import { parseRoomId } from '../../kernel/ids.ts';
import { createTokens, generateKey, parseKeys } from '../../kernel/token.ts';
import { signClaim, signReceipt, signSession } from '../../line/receipt.ts';
import { type ServiceScope, signService } from '../../line/service.ts';
import { eventually } from '../support/eventually.ts';
import type { Fan, FanAnswer } from '../support/fan.ts';
import { elsewhere, type Gateways, PUBLIC_URL, startGateways } from '../support/gateways.ts';
import { keyPair, startIssuer, userToken as tokenOf } from '../support/issuer.ts';
import { standing } from '../support/standing-clock.ts';
import { UNHURRIED } from '../support/system.ts';

type Test = { equal(found: unknown, wanted: unknown, message: string): unknown };

t.setTimeout(600_000);

const userKey = await keyPair('u');
const userToken = (sub: string, claims: Record<string, unknown> = {}, kid = 'u'): Promise<string> =>
  tokenOf(userKey, sub, { claims, header: { kid } });

let gates: Gateways;
t.before(async () => {
  const issuer = await startIssuer(t, [userKey.jwk]);
  gates = await startGateways(t, { count: 2, users: issuer.tokens() });
});

let counter = 0;
const open = (settings = {}) => {
  counter += 1;
  return gates.open(`s${counter}`, { ...UNHURRIED, ...settings });
};
const cookieName = (room: string): string => `ar_s_${room}`;
const gateAt = (fan: Fan, path: string): Promise<FanAnswer> => fan.ask('GET', path);
const other = (fan: Fan): Fan => elsewhere(fan, gates.bases[1]!);
/** The same visitor in another browser: no session yet. */
const otherBrowser = (fan: Fan, room: string, gateway = 1): Fan => {
  const second = elsewhere(fan, gates.bases[gateway]!);
  second.cookies.delete(cookieName(room));
  return second;
};
const redeem = (fan: Fan, room: string, pass: unknown): Promise<FanAnswer> =>
  fan.ask('POST', `/v1/rooms/${room}/sessions`, { body: { pass }, headers: { host: 'tickets.elsewhere' } });
const refused = (t: Test, answer: FanAnswer, status: number, code: string, what: string) => {
  t.equal(answer.status, status, `${what}: ${answer.text.slice(0, 200)}`);
  t.equal(answer.json.code, code, what);
};
const HOUR_MS = 3_600_000;

t.test('a hundred claims at once make one session, and the newest of their cookies admits', async (t) => {
  const room = await open();
  const fan = gates.fan(room);
  await fan.join();
  await room.promote();
  const browsers = Array.from({ length: 100 }, (_, index) => otherBrowser(fan, room.room, index % 2));
  const answers = await Promise.all(browsers.map((browser) => browser.claim()));
  t.same(new Set(answers.map(({ status }) => status)), new Set([200]));
  t.equal(new Set(answers.map(({ json }) => json.expiresAtMs)).size, 1, 'nothing was extended');
  t.equal(await gates.redis.client.zcard(room.keys.active), 1);
  t.equal(await gates.redis.client.hget(room.keys.room, 'claimedTotal'), '1');

  const serialOf = (browser: Fan) => room.session(browser.cookies.get(cookieName(room.room))).serial;
  const newest = Math.max(...browsers.map(serialOf));
  t.equal(newest, 100, 'each took it over from the one before');
  await eventually('only the newest is let in, at either gateway', async () => {
    const seen = await Promise.all(
      browsers.flatMap((browser) =>
        gates.bases.map(async (base) => {
          const { status } = await gateAt(elsewhere(browser, base), room.path);
          return (status === 200) === (serialOf(browser) === newest);
        }),
      ),
    );
    return seen.every(Boolean);
  });
});

t.test('a superseded cookie is refused everywhere, is told so, and entering again works', async (t) => {
  const room = await open();
  const { fan: phone } = await gates.inside(room);
  const phoneAtTwo = other(phone);
  for (const fan of [phone, phoneAtTwo]) t.equal((await gateAt(fan, room.path)).status, 200);

  const laptop = otherBrowser(phone, room.room);
  t.equal((await laptop.claim()).status, 200);
  t.equal((await gateAt(laptop, room.path)).status, 200);
  for (const fan of [phone, phoneAtTwo])
    await eventually('refused', async () => (await gateAt(fan, room.path)).status === 429);

  const page = await phone.ask('GET', room.path, { headers: { accept: 'text/html' } });
  t.match(page.text, /data-state="active"/, 'the waiting page says that the visit has begun');
  t.equal((await phone.ask('GET', `/v1/rooms/${room.room}/places/me`)).json.state, 'active');
  const form = { 'content-type': 'application/x-www-form-urlencoded' };
  const entered = await phone.ask('POST', `/rooms/${room.room}`, { raw: 'act=enter', headers: form });
  t.equal(entered.status, 303);
  t.equal((await gateAt(phone, room.path)).status, 200, 'and its button goes in again');
  await eventually('the laptop is out', async () => (await gateAt(laptop, room.path)).status === 429);
});

t.test('news of an end that overtakes the answer of Redis is not lost', async (t) => {
  const room = await open();
  for (const news of ['ended', 'superseded'] as const) {
    const { cookie } = await gates.inside(room);
    const { sessions, view } = await gates.memory();
    const visit = room.session(cookie);
    const asked = sessions.admit(room.room, view.of(room.room)!, cookie);
    // The question is on its way; the stream speaks first.
    if (news === 'ended') sessions.ended(room.room, visit);
    else sessions.superseded(room.room, visit, visit.serial + 1);
    t.same(await asked, { outcome: 'none' }, news);
  }
});

t.test(
  'an end is remembered when Redis has lost its data, and everything else is asked for again',
  async (t) => {
    const room = await open();
    const { cookie: bought } = await gates.inside(room);
    const { cookie: stayed } = await gates.inside(room);
    const { sessions, view } = await gates.memory();
    const admit = async (cookie: string) =>
      (await sessions.admit(room.room, view.of(room.room)!, cookie)).outcome;
    for (const cookie of [bought, stayed]) t.equal(await admit(cookie), 'admitted');
    sessions.ended(room.room, room.session(bought));
    sessions.doubt();
    t.equal(await admit(bought), 'admitted', 'where Redis says that it goes on, it goes on');
    sessions.ended(room.room, room.session(bought));

    for (const cookie of [bought, stayed]) {
      const { placeId } = room.session(cookie);
      await gates.redis.client.zrem(room.keys.active, placeId);
      await gates.redis.client.hdel(room.keys.places, placeId);
    }
    await gates.redis.client.hincrby(room.keys.room, 'epoch', 1000);
    t.equal(await admit(stayed), 'admitted', 'seen before');
    sessions.doubt();
    t.equal(await admit(stayed), 'admitted', 'taken back');
    t.equal(await admit(bought), 'none', 'not taken back');
  },
);

t.test('claiming again in the same browser gives the same session with the same cookie', async (t) => {
  const room = await open();
  const { fan, claim, cookie } = await gates.inside(room);
  const again = await fan.claim();
  t.equal(again.json.expiresAtMs, claim.expiresAtMs);
  t.same(again.json.session, claim.session);
  t.equal(fan.cookies.get(cookieName(room.room)), cookie);
  t.equal(await gates.redis.client.hget(room.keys.room, 'claimedTotal'), '1');
});

t.test(
  'a cookie that is shown before the stream has told of a newer one is refused all the same',
  async (t) => {
    const room = await open();
    const { fan: phone } = await gates.inside(room);
    await otherBrowser(phone, room.room, 0).claim();
    // The second gateway has never seen this visit: it asks, and is told the newest serial.
    t.equal((await gateAt(other(phone), room.path)).status, 429);
  },
);

t.test('of two cookies of a lost session the newer wins, whichever comes back first', async (t) => {
  const room = await open();
  const { fan: phone, cookie: earlier } = await gates.inside(room);
  const laptop = otherBrowser(phone, room.room, 0);
  await laptop.claim();
  // A loss of data: the visit is gone, and the room has a new epoch.
  const later = laptop.cookies.get(cookieName(room.room));
  const { placeId } = room.session(later);
  await gates.redis.client.zrem(room.keys.active, placeId);
  await gates.redis.client.hdel(room.keys.places, placeId);
  await gates.redis.client.hincrby(room.keys.room, 'epoch', 1000);

  // A gateway that has just started: the others may have heard by now which of them is the newer.
  const { sessions, view } = await gates.memory();
  const admit = async (cookie: string | undefined) =>
    (await sessions.admit(room.room, view.of(room.room)!, cookie)).outcome;
  t.equal(await admit(earlier), 'admitted', 'the only one that anybody knows of');
  t.equal(await admit(later), 'admitted', 'a newer one');
  t.equal(await admit(earlier), 'none', 'now it is the older one');
  for (const fan of [phone, other(phone)])
    await eventually('the older is refused', async () => (await gateAt(fan, room.path)).status === 429);
});

t.test('a session is renewed up to its absolute limit, and never after it has expired', async (t) => {
  const room = await open({ sessionSeconds: 3600, absoluteSessionSeconds: 5400 });
  const { fan, cookie } = await gates.inside(room);
  const name = cookieName(room.room);
  t.equal((await gateAt(fan, room.path)).status, 200);
  t.equal(fan.cookies.get(name), cookie, 'too early to renew');

  fan.cookies.set(name, await room.age(cookie, 2160));
  const { startedAtMs, serial } = room.session(fan.cookies.get(name));
  t.equal((await gateAt(fan, room.path)).status, 200);
  const longer = room.session(fan.cookies.get(name));
  t.equal(longer.expiresAtMs, startedAtMs + 5_400_000, 'up to the limit and no further');
  t.equal(longer.serial, serial, 'renewing takes it from nobody');
  t.equal(Number(await gates.redis.client.zscore(room.keys.active, longer.placeId)), longer.expiresAtMs);

  const last = await room.age(fan.cookies.get(name)!, 2880);
  fan.cookies.set(name, last);
  t.equal((await gateAt(fan, room.path)).status, 200);
  t.equal(fan.cookies.get(name), last, 'nothing is left to gain');

  const expired = await room.age(last, 720);
  for (const at of [fan, other(fan)]) {
    at.cookies.set(name, expired);
    t.equal((await gateAt(at, room.path)).status, 429);
    t.equal((await at.claim()).json.code, 'place-finished', 'nor by claiming again');
  }
});

t.test('a session that the room does not renew keeps its end', async (t) => {
  const room = await open({ sessionSeconds: 3600, sessionRenewal: false });
  const { fan, cookie } = await gates.inside(room);
  const aged = await room.age(cookie, 2160);
  fan.cookies.set(cookieName(room.room), aged);
  t.equal((await gateAt(fan, room.path)).status, 200);
  t.equal(fan.cookies.get(cookieName(room.room)), aged);
});

t.test('Q7: the first pass a client sees verifies, and each later one is for the same session', async (t) => {
  const room = await open();
  const fan = gates.fan(room);
  await fan.join();
  const keys = (await fan.ask('GET', '/.well-known/jwks.json')).json as unknown as JSONWebKeySet;
  const verify = (pass: unknown) =>
    jwtVerify(String(pass), createLocalJWKSet(keys), {
      issuer: PUBLIC_URL,
      audience: room.room,
      typ: 'anteroom-pass+jwt',
      algorithms: ['EdDSA'],
      requiredClaims: ['exp', 'jti', 'sub'],
    });
  const sessions = new Set<string | undefined>();
  let refusals = 0;
  let passes = 0;
  // Several clients of one visitor ask as fast as they can, through the moment of the promotion.
  const asking = Array.from({ length: 8 }, async (_, index) => {
    const browser = otherBrowser(fan, room.room, index % 2);
    let got = 0;
    while (got < 5) {
      const { status, json } = await browser.claim();
      if (status === 200) {
        const { payload } = await verify(json.pass);
        sessions.add(payload.jti);
        got += 1;
        passes += 1;
      } else {
        t.equal(json.code, 'not-your-turn');
        refusals += 1;
        if (refusals === 20) await room.promote();
      }
    }
  });
  await Promise.all(asking);
  t.equal(passes, 40);
  t.ok(refusals >= 20);
  t.equal(sessions.size, 1, 'one session, whatever the number of passes');
});

t.test('of fifty that redeem one pass at once, exactly one is let in', async (t) => {
  const room = await open();
  const { fan, claim } = await gates.inside(room);
  t.equal((await gateAt(other(fan), room.path)).status, 200);
  const hosts = Array.from({ length: 50 }, (_, index) => gates.fan(room, index % 2));
  const answers = await Promise.all(hosts.map((host) => redeem(host, room.room, claim.pass)));
  const codes = answers.map(({ status, json }) => (status === 201 ? 201 : json.code));
  t.equal(codes.filter((code) => code === 201).length, 1);
  t.equal(codes.filter((code) => code === 'pass-redeemed').length, 49);
  const winner = answers.findIndex(({ status }) => status === 201);
  t.same(answers[winner]!.json, claim.session, 'the same session');
  t.equal((await gateAt(hosts[winner]!, room.path)).status, 200, 'its cookie admits on that host');
  t.equal(await gates.redis.client.zcard(room.keys.active), 1, 'and takes no second slot');
  for (const host of hosts.filter((_, index) => index !== winner)) t.equal(host.cookies.size, 0);
  for (const left of [fan, other(fan)])
    await eventually('the session has moved', async () => (await gateAt(left, room.path)).status === 429);
});

t.test('Q12: claiming again after a redemption gives no pass that can be redeemed', async (t) => {
  const room = await open();
  const { fan, claim } = await gates.inside(room);
  t.equal((await redeem(gates.fan(room), room.room, claim.pass)).status, 201);
  const again = await fan.claim();
  t.equal(again.status, 200);
  t.equal((await gateAt(fan, room.path)).status, 200, 'the visit goes on here');
  refused(t, await redeem(gates.fan(room), room.room, again.json.pass), 409, 'pass-redeemed', 'a second one');
});

t.test('a pass from before the session was taken over moves it nowhere', async (t) => {
  const room = await open();
  const { fan, claim } = await gates.inside(room);
  const laptop = otherBrowser(fan, room.room);
  const newer = await laptop.claim();
  refused(t, await redeem(gates.fan(room), room.room, claim.pass), 409, 'session-superseded', 'older');
  t.equal((await redeem(gates.fan(room), room.room, newer.json.pass)).status, 201);
});

t.test('Q12: nothing of a finished visit counts, and queueing again honestly works', async (t) => {
  const room = await open();
  const { fan, claim, cookie } = await gates.inside(room);
  const { placeId, number, epoch } = room.session(cookie);
  const visit = { room: room.room, sale: 1, placeId, number };
  const receipt = fan.cookies.get(`ar_r_${room.room}`)!;
  t.equal((await gateAt(fan, `${room.path}/bought`)).status, 200, 'the answer that ends it still arrives');
  t.equal(gates.seen.at(-1)?.headers['anteroom-session-id'], `${placeId}.${number}`);

  for (const at of [fan, other(fan)])
    await eventually('the session is refused', async () => (await gateAt(at, room.path)).status === 429);
  refused(t, await redeem(gates.fan(room), room.room, claim.pass), 410, 'place-finished', 'the pass');
  const claimToken = signClaim(gates.tokens, { ...visit, deadlineMs: Date.now() + HOUR_MS, epoch });
  refused(t, await fan.claim(claimToken), 410, 'place-finished', 'the claim token');
  refused(t, await fan.claim(), 410, 'place-finished', 'a claim without one');
  const status = await fan.ask('GET', `/v1/rooms/${room.room}/places/me`);
  refused(t, status, 410, 'place-finished', 'the place');

  const again = await fan.ask('POST', `/v1/rooms/${room.room}/places`, { body: { receipt } });
  t.equal(again.status, 201, 'its receipt brings nothing back');
  t.equal(again.json.state, 'waiting');
  t.equal(again.json.number, number + 1, 'a new number at the back');
  refused(t, await fan.claim(), 409, 'not-your-turn', 'waits like everyone');
  refused(t, await redeem(gates.fan(room), room.room, claim.pass), 410, 'place-finished', 'still not');
  fan.cookies.set(cookieName(room.room), cookie);
  t.equal((await gateAt(fan, room.path)).status, 429);
  await room.promote();
  t.equal((await fan.claim()).status, 200, 'and has another turn');
  t.equal((await gateAt(fan, room.path)).status, 200);
});

t.test('an origin ends a session from its own side, and every gateway knows', async (t) => {
  const room = await open();
  const first = await gates.inside(room);
  const second = await gates.inside(room);
  const token = signService(gates.tokens, { scope: room.room, expiresAtMs: Date.now() + HOUR_MS });
  const service = gates.fan(room);
  const end = (body: unknown, headers: Record<string, string> = { authorization: `Bearer ${token}` }) =>
    service.ask('POST', `/v1/rooms/${room.room}/sessions/end`, { body, headers });
  for (const { fan } of [first, second])
    for (const at of [fan, other(fan)]) t.equal((await gateAt(at, room.path)).status, 200);

  // jti of the pass, or placeId and number: both name a session.
  const { id } = first.claim.session as { id: string };
  const { placeId, number } = room.session(second.cookie);
  t.equal((await end({ session: id })).status, 204);
  const all = signService(gates.tokens, { scope: '*', expiresAtMs: Date.now() + HOUR_MS });
  t.equal((await end({ placeId, number }, { authorization: `Bearer ${all}` })).status, 204);
  for (const { fan } of [first, second])
    for (const at of [fan, other(fan)])
      await eventually('ended', async () => (await gateAt(at, room.path)).status === 429);
  t.equal(await gates.redis.client.zcard(room.keys.active), 0, 'the slots are free');

  refused(t, await end({ session: id }), 404, 'session-missing', 'it ends once');
  refused(t, await end({ placeId, number: number + 1 }), 404, 'session-missing', 'another visit');
  for (const body of [
    {},
    { session: 'x' },
    { session: id, number },
    { placeId },
    { number },
    { placeId: 'short', number },
    { placeId, number: '1' },
    { placeId, number: 0 },
    { placeId, number: 1.5 },
    { visitor: 'a' },
  ])
    refused(t, await end(body), 400, 'bad-field', JSON.stringify(body));
});

t.test('a service token is made by a command, for one room and a number of days', async (t) => {
  const keys = generateKey('c');
  const run = (...args: string[]) =>
    promisify(execFile)(process.execPath, ['--import', 'tsx/esm', 'scripts/keys.ts', ...args], {
      env: { PATH: process.env.PATH, ANTEROOM_KEYS: keys },
    });
  const { stdout } = await run('service', 'demo', '2');
  const fields = createTokens({ keys: parseKeys(keys)!, issuer: '' }).verify('service', stdout.trim());
  t.equal(fields?.[0], 'demo');
  const days = (Number(fields?.[1]) * 1000 - Date.now()) / (24 * HOUR_MS);
  t.ok(days > 1.9 && days <= 2, `${days} days`);
  // Each is a process of its own; together they take no longer than one.
  const faults = [['service'], ['service', 'NO'], ['service', 'demo', '367'], ['dance']];
  await Promise.all(faults.map((args) => t.rejects(run(...args), args.join(' '))));
});

t.test(
  'Q11: every protected route refuses what is missing, expired, foreign, replayed or forged',
  async (t) => {
    const room = await open();
    const elsewhereRoom = await open();
    const { fan, claim, cookie } = await gates.inside(room);
    const session = room.session(cookie);
    const { placeId, number, epoch } = session;
    const visit = { room: room.room, sale: 1, placeId, number };

    const foreign = createTokens({ keys: parseKeys(generateKey('t'))!, issuer: PUBLIC_URL });
    const otherKid = createTokens({ keys: parseKeys(generateKey('z'))!, issuer: PUBLIC_URL });
    const receipt = signReceipt(gates.tokens, { ...visit, score: number, epoch, withheld: false });
    const later = Date.now() + HOUR_MS;
    const user = await userToken('someone');

    await t.test('the gate', async (t) => {
      const cases: [string, string | undefined][] = [
        ['none', undefined],
        ['empty', ''],
        ['expired', signSession(gates.tokens, { ...session, expiresAtMs: Date.now() - 1 })],
        ['another room', signSession(gates.tokens, { ...session, room: elsewhereRoom.room })],
        ['another sale', signSession(gates.tokens, { ...session, sale: 2 })],
        ['another visit', signSession(gates.tokens, { ...session, number: number + 1 })],
        ['foreign keys', signSession(foreign, session)],
        ['another kid', signSession(otherKid, session)],
        ['a receipt', receipt],
        ['a claim token', signClaim(gates.tokens, { ...visit, deadlineMs: later, epoch })],
        ['a pass', String(claim.pass)],
        ['a service token', signService(gates.tokens, { scope: '*', expiresAtMs: later })],
        ['a user token', user],
        ['alg none', `${Buffer.from('{"alg":"none"}').toString('base64url')}.${cookie.split('.')[1]}.`],
        ['cut', cookie.slice(0, -2)],
      ];
      for (const [what, value] of cases)
        for (const base of gates.bases)
          for (const method of ['GET', 'POST', 'DELETE']) {
            const stranger = elsewhere(gates.fan(room), base);
            if (value !== undefined) stranger.cookies.set(cookieName(room.room), value);
            const answer = await stranger.ask(method, room.path, {
              headers: { authorization: `Bearer ${cookie}` },
            });
            refused(t, answer, 429, 'session-required', `${what} by ${method}`);
          }
      const stranger = gates.fan(room);
      stranger.cookies.set(cookieName(elsewhereRoom.room), cookie);
      t.equal((await gateAt(stranger, elsewhereRoom.path)).status, 429, 'under the name of another room');
    });

    await t.test('claiming', async (t) => {
      const waiting = gates.fan(room);
      await waiting.join();
      const own = waiting.cookies.get(`ar_r_${room.room}`)!;
      const token = (over: object, by = gates.tokens) =>
        signClaim(by, { ...visit, deadlineMs: later, epoch, ...over });
      const cases: [string, string, number, string][] = [
        ['of someone else', token({}), 403, 'not-yours'],
        ['of another room', token({ room: elsewhereRoom.room }), 401, 'token-invalid'],
        ['of another sale', token({ sale: 2 }), 401, 'token-invalid'],
        ['foreign', token({}, foreign), 401, 'token-invalid'],
        ['of another kid', token({}, otherKid), 401, 'token-invalid'],
        ['a receipt', own, 401, 'token-invalid'],
        ['a session', cookie, 401, 'token-invalid'],
        ['a pass', String(claim.pass), 401, 'token-invalid'],
        ['empty', '', 401, 'token-invalid'],
      ];
      for (const [what, given, status, code] of cases)
        refused(t, await waiting.claim(given), status, code, what);
      refused(t, await waiting.claim(), 409, 'not-your-turn', 'none');
      refused(t, await gates.fan(room).claim(), 404, 'place-missing', 'nobody');
    });

    await t.test('redeeming', async (t) => {
      const valid = { ...visit, serial: 1, sessionId: `${placeId}.${number}`, lifeSeconds: 60 };
      // Signed when its turn has come: a pass lives for a minute.
      const sign =
        (over: object, by = gates.tokens) =>
        (): Promise<string> =>
          by.signPass({ ...valid, nowMs: Date.now(), ...over });
      const [head = '', body = '', mac = ''] = String(claim.pass).split('.');
      const header = (fields: object) => Buffer.from(JSON.stringify(fields)).toString('base64url');
      const typ = 'anteroom-pass+jwt';
      // The public key as the secret of an HMAC: what a careless library takes for a signature.
      const published = JSON.stringify((await gates.tokens.jwks()).keys[0]);
      const hs = `${header({ alg: 'HS256', typ, kid: 't' })}.${body}`;
      const forgedHs = `${hs}.${createHmac('sha256', published).update(hs).digest('base64url')}`;
      const longAgo = Date.now() - HOUR_MS;
      const cases: [string, unknown, number, string][] = [
        ['none', undefined, 400, 'bad-field'],
        ['not a text', 7, 400, 'bad-field'],
        ['empty', '', 400, 'pass-invalid'],
        ['words', 'hello', 400, 'pass-invalid'],
        ['long', 'x'.repeat(3000), 400, 'pass-invalid'],
        ['longer', 'x'.repeat(5000), 400, 'bad-field'],
        ['alg none', `${header({ alg: 'none', typ, kid: 't' })}.${body}.`, 400, 'pass-invalid'],
        ['HMAC with the public key', forgedHs, 400, 'pass-invalid'],
        ['wrong kid', `${header({ alg: 'EdDSA', typ, kid: 'z' })}.${body}.${mac}`, 400, 'pass-invalid'],
        [
          'wrong typ',
          `${header({ alg: 'EdDSA', typ: 'JWT', kid: 't' })}.${body}.${mac}`,
          400,
          'pass-invalid',
        ],
        ['no mac', `${head}.${body}.`, 400, 'pass-invalid'],
        ['foreign keys', sign({}, foreign), 400, 'pass-invalid'],
        ['expired', sign({ nowMs: longAgo }), 410, 'pass-expired'],
        ['too long a life', sign({ lifeSeconds: 7200, nowMs: longAgo }), 410, 'pass-expired'],
        ['another room', sign({ room: elsewhereRoom.room }), 400, 'pass-invalid'],
        ['another sale', sign({ sale: 2 }), 400, 'pass-invalid'],
        ['another visit', sign({ number: number + 1 }), 410, 'place-finished'],
        ['an older cookie', sign({ serial: 0 }), 409, 'session-superseded'],
        ['a session cookie', cookie, 400, 'pass-invalid'],
        ['a user token', user, 400, 'pass-invalid'],
      ];
      for (const [what, pass, status, code] of cases) {
        const stranger = gates.fan(room);
        const shown = typeof pass === 'function' ? await pass() : pass;
        refused(t, await redeem(stranger, room.room, shown), status, code, what);
        t.equal(stranger.cookies.size, 0, `${what}: sets nothing`);
      }
      refused(
        t,
        await redeem(gates.fan(room), elsewhereRoom.room, claim.pass),
        400,
        'pass-invalid',
        'elsewhere',
      );
      const inUrl = await fan.ask('POST', `/v1/rooms/${room.room}/sessions?pass=${claim.pass}`, { body: {} });
      refused(t, inUrl, 400, 'bad-field', 'never by the address');
    });

    await t.test('ending', async (t) => {
      const sign = (scope: ServiceScope, expiresAtMs = later, by = gates.tokens) =>
        `Bearer ${signService(by, { scope, expiresAtMs })}`;
      const forged = `t.${Buffer.from('["*",9999999999]').toString('base64url')}.${'A'.repeat(22)}`;
      const cases: [string, string | undefined, number, string][] = [
        ['none', undefined, 401, 'token-missing'],
        ['not a bearer', 'Basic eDp5', 401, 'token-missing'],
        ['words', 'Bearer hello', 401, 'token-invalid'],
        ['expired', sign('*', Date.now() - 1000), 401, 'token-expired'],
        ['another room', sign(elsewhereRoom.room), 403, 'token-other-room'],
        ['foreign', sign('*', later, foreign), 401, 'token-invalid'],
        ['another kid', sign('*', later, otherKid), 401, 'token-invalid'],
        ['a session', `Bearer ${cookie}`, 401, 'token-invalid'],
        ['a receipt', `Bearer ${receipt}`, 401, 'token-invalid'],
        ['a pass', `Bearer ${String(claim.pass).slice(0, 400)}`, 401, 'token-invalid'],
        ['a user token', `Bearer ${user.slice(0, 400)}`, 401, 'token-invalid'],
        ['a forgery', `Bearer ${forged}`, 401, 'token-invalid'],
      ];
      for (const [what, authorization, status, code] of cases) {
        const answer = await gates.fan(room).ask('POST', `/v1/rooms/${room.room}/sessions/end`, {
          body: { placeId, number },
          headers: authorization === undefined ? {} : { authorization },
        });
        refused(t, answer, status, code, what);
      }
    });

    await t.test('a room that asks for a verified user', async (t) => {
      const members = await open({ identity: 'required' });
      const path = `/v1/rooms/${members.room}/places`;
      const [head, body] = user.split('.');
      const none = Buffer.from('{"alg":"none"}').toString('base64url');
      const cases: [string, string | undefined, string][] = [
        ['none', undefined, 'token-missing'],
        ['expired', await userToken('a', { iat: 1000, exp: 2000 }), 'token-expired'],
        ['another audience', await userToken('a', { aud: 'else' }), 'token-invalid'],
        ['another issuer', await userToken('a', { iss: 'https://evil.test' }), 'token-invalid'],
        ['another kid', await userToken('a', {}, 'nobody'), 'token-invalid'],
        ['alg none', `${none}.${body}.`, 'token-invalid'],
        ['no signature', `${head}.${body}.`, 'token-invalid'],
        ['a pass of ours', String(claim.pass), 'token-invalid'],
        ['a session of ours', cookie, 'token-invalid'],
      ];
      for (const [what, token, code] of cases) {
        const headers: Record<string, string> =
          token === undefined ? {} : { authorization: `Bearer ${token}` };
        const stranger = gates.fan(members);
        refused(t, await stranger.ask('POST', path, { body: {}, headers }), 401, code, what);
      }
      const member = await gates
        .fan(members)
        .ask('POST', path, { body: {}, headers: { authorization: `Bearer ${user}` } });
      t.equal(member.status, 201, member.text);
    });

    t.equal((await gateAt(fan, room.path)).status, 200, 'and the honest visitor is still inside');
    // The first one may be old by now.
    const { pass } = (await fan.claim()).json;
    t.equal((await redeem(gates.fan(room), room.room, pass)).status, 201);
    refused(t, await redeem(gates.fan(room), room.room, pass), 409, 'pass-redeemed', 'replayed');
  },
);

t.test('Q13: ids in a query, a header or a body open nobody’s place', async (t) => {
  const room = await open();
  const { fan: owner, cookie } = await gates.inside(room);
  const { placeId, number } = room.session(cookie);
  const visitor = Buffer.from(owner.cookies.get('ar_v')!.split('.')[1]!, 'base64url').toString();
  const [visitorId] = JSON.parse(visitor) as [string];
  const ids = {
    placeId,
    number: String(number),
    visitor: visitorId,
    visitorId,
    session: `${placeId}.${number}`,
  };
  const query = new URLSearchParams({ ...ids, receipt: owner.cookies.get(`ar_r_${room.room}`)! }).toString();
  const headers = {
    'anteroom-visitor': visitorId,
    'anteroom-session-id': ids.session,
    'anteroom-room': room.room,
    'x-visitor-id': visitorId,
    'x-user-id': visitorId,
    'x-place-id': placeId,
  };
  const api = `/v1/rooms/${room.room}`;
  const thief = () => gates.fan(room);

  refused(
    t,
    await thief().ask('GET', `${api}/places/me?${query}`, { headers }),
    404,
    'place-missing',
    'read',
  );
  refused(
    t,
    await thief().ask('DELETE', `${api}/places/me?${query}`, { headers }),
    404,
    'place-missing',
    'leave',
  );
  for (const name of ['placeId', 'number', 'visitor', 'visitorId', 'session'] as const)
    for (const path of ['places', 'pass', 'sessions'])
      refused(
        t,
        await thief().ask('POST', `${api}/${path}`, { body: { [name]: ids[name] } }),
        400,
        'bad-field',
        `${path} ${name}`,
      );
  refused(
    t,
    await thief().ask('POST', `${api}/pass?${query}`, { body: {}, headers }),
    404,
    'place-missing',
    'claim',
  );
  refused(t, await redeem(thief(), room.room, ids.session), 400, 'pass-invalid', 'redeem');
  const end = await thief().ask('POST', `${api}/sessions/end?${query}`, {
    body: { placeId, number },
    headers,
  });
  refused(t, end, 401, 'token-missing', 'end');
  t.equal((await thief().ask('GET', `${room.path}?${query}`, { headers })).status, 429, 'the gate');
  const joined = await thief().ask('POST', `${api}/places?${query}`, { body: {}, headers });
  t.equal(joined.status, 201);
  t.not(joined.json.number, number, 'a place of its own, at the back');

  t.equal((await gateAt(owner, `${room.path}/mine`)).status, 200, 'the owner is still inside');
  t.equal(gates.seen.at(-1)?.headers['anteroom-visitor'], visitorId);
});

t.test('redeeming and failed ends are limited by address', async (t) => {
  const few = await startGateways(t, {
    count: 1,
    env: { ANTEROOM_ADDRESS_PER_SECOND: '1', ANTEROOM_ADDRESS_BURST: '5' },
    // Nothing comes back while the test runs.
    clock: standing,
  });
  const room = await few.open('few');
  const fan = few.fan(room);
  for (const path of ['sessions', 'sessions/end']) {
    const codes: unknown[] = [];
    for (let index = 0; index < 12; index += 1) {
      const body = path === 'sessions' ? { pass: 'x' } : { placeId: 'a'.repeat(16), number: 1 };
      codes.push((await fan.ask('POST', `/v1/rooms/few/${path}`, { body })).json.code);
    }
    t.ok(codes.includes('too-many-requests'), `${path}: ${codes}`);
  }
  const token = signService(few.tokens, { scope: parseRoomId('few')!, expiresAtMs: Date.now() + HOUR_MS });
  for (let index = 0; index < 12; index += 1) {
    const ended = await fan.ask('POST', '/v1/rooms/few/sessions/end', {
      body: { placeId: 'a'.repeat(16), number: 1 },
      headers: { authorization: `Bearer ${token}` },
    });
    refused(t, ended, 404, 'session-missing', 'an origin may end as many as it must');
  }
});

t.test('a body beyond the limit is refused before it is read', async (t) => {
  const room = await open();
  for (const path of ['sessions', 'sessions/end']) {
    const raw = JSON.stringify({ pass: 'x'.repeat(100_000) });
    const answer = await gates.fan(room).ask('POST', `/v1/rooms/${room.room}/${path}`, {
      raw,
      headers: { 'content-type': 'application/json' },
    });
    refused(t, answer, 413, 'body-too-large', path);
  }
});
