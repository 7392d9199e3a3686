// Whose place a request speaks for, over HTTP: what each kind of room looks at, what it says about a sign-in that is
// missing, wrong or old, and which place wins when a request could speak for several.

import t from 'tap';
import { parsePlaceId, parseRoomId } from '../../kernel/ids.ts';
import { signContext } from '../../line/context.ts';
import { claimsPlace, signReceipt } from '../../line/receipt.ts';
import * as scripts from '../../lua/room.ts';
import { openStream } from '../support/client.ts';
import type { Fan, FanAnswer } from '../support/fan.ts';
import { elsewhere, type Gateways, type Room, startGateways } from '../support/gateways.ts';
import { keyPair, startIssuer, userToken } from '../support/issuer.ts';
import { standing } from '../support/standing-clock.ts';

const key = await keyPair('u');
let gates: Gateways;
t.before(async () => {
  const issuer = await startIssuer(t, [key.jwk]);
  const env = { ANTEROOM_USER_JWT_COOKIE: 'login' };
  gates = await startGateways(t, { count: 1, users: issuer.tokens(), streams: true, env });
});

let rooms = 0;
const open = (identity: 'required' | 'optional' | 'anonymous'): Promise<Room> => {
  rooms += 1;
  return gates.open(`i${rooms}`, { identity });
};
const bearer = (token: string) => ({ authorization: `Bearer ${token}` });
const join = (fan: Fan, headers: Record<string, string> = {}): Promise<FanAnswer> =>
  fan.ask('POST', `/v1/rooms/${fan.room}/places`, { body: {}, headers });
const status = (fan: Fan, headers: Record<string, string> = {}): Promise<FanAnswer> =>
  fan.ask('GET', `/v1/rooms/${fan.room}/places/me`, { headers });
const claim = (fan: Fan, headers: Record<string, string> = {}): Promise<FanAnswer> =>
  fan.ask('POST', `/v1/rooms/${fan.room}/pass`, { body: {}, headers });
const stream = async (fan: Fan, headers: Record<string, string> = {}): Promise<FanAnswer> => {
  const opened = await openStream(`${fan.base}/v1/rooms/${fan.room}/events`, {
    headers: fan.headers(headers),
  });
  opened.close();
  return {
    status: opened.answered,
    headers: opened.headers,
    text: opened.text,
    json: opened.text === '' ? {} : JSON.parse(opened.text),
  };
};
const WAYS = { join, status, claim, stream };
const waiting = (room: Room): Promise<number> => gates.redis.client.zcard(room.keys.line);
const visitorSeen = (): string => String(gates.seen.at(-1)?.headers['anteroom-visitor']);

t.test('a sign-in that is missing, wrong or old is said to be that, on every way in', async (t) => {
  const room = await open('required');
  const old = await userToken(key, 'a', { claims: { iat: 1000, exp: 2000 } });
  const wrong = await userToken(await keyPair('u'), 'a');
  for (const [name, ask] of Object.entries(WAYS))
    for (const [headers, cookie, code, challenge] of [
      [{}, undefined, 'token-missing', /^Bearer$/],
      [{ authorization: 'Basic eDp5' }, undefined, 'token-missing', /^Bearer$/],
      [bearer(wrong), undefined, 'token-invalid', /error="invalid_token"/],
      [bearer(old), undefined, 'token-expired', /error="invalid_token".*expired/],
      [{}, old, 'token-expired', /expired/],
      [{}, wrong, 'token-invalid', /invalid_token/],
    ] as const) {
      const fan = gates.fan(room);
      if (cookie !== undefined) fan.cookies.set('login', cookie);
      const answer = await ask(fan, headers);
      t.same([answer.status, answer.json.code], [401, code], `${name}: ${code}`);
      t.match(answer.headers['www-authenticate'], challenge, `${name}: ${code}`);
    }
  t.equal(await waiting(room), 0);
});

t.test('required: one place and one session for a user, on any number of browsers', async (t) => {
  const room = await open('required');
  const token = await userToken(key, 'anna');
  const phone = gates.fan(room);
  const number = (await join(phone, bearer(token))).json.number;
  const laptops = Array.from({ length: 10 }, () => gates.fan(room));
  for (const laptop of laptops) {
    laptop.cookies.set('login', token);
    t.equal((await join(laptop)).json.number, number, 'by cookie or header, the same place');
  }
  t.equal(await waiting(room), 1);
  t.equal((await stream(phone, bearer(token))).status, 200);
  t.equal(
    (await status(phone, bearer(await userToken(key, 'ben')))).json.code,
    'place-missing',
    'not for others',
  );
  await room.promote();
  for (const fan of [phone, ...laptops]) t.equal((await claim(fan, bearer(token))).status, 200);
  t.equal(await gates.redis.client.zcard(room.keys.active), 1);
  const last = laptops.at(-1)!;
  await last.ask('GET', room.path);
  t.match(visitorSeen(), /^u:/, 'the origin is told the user');
  await phone.ask('GET', room.path);
  const guessed = elsewhere(phone, phone.base);
  guessed.cookies.clear();
  t.equal(
    (await guessed.ask('GET', room.path, { headers: bearer(token) })).status,
    429,
    'a token is no session',
  );
});

t.test('anonymous: nobody looks at a token, good or bad', async (t) => {
  const room = await open('anonymous');
  const token = await userToken(key, 'anna');
  const [phone, laptop] = [gates.fan(room), gates.fan(room)];
  const one = await join(phone, bearer(token));
  const two = await join(laptop, bearer(token));
  t.same([one.status, two.status], [201, 201]);
  t.not(one.json.number, two.json.number, 'two browsers are two');
  t.equal((await status(phone, bearer('x.y.z'))).json.number, one.json.number);
  t.equal((await stream(phone, bearer('x.y.z'))).status, 200);
  await room.promote();
  t.equal((await claim(phone, bearer('x.y.z'))).status, 200);
});

t.test('optional: whoever joins first and signs in later keeps the place, and has one', async (t) => {
  const room = await open('optional');
  const fan = gates.fan(room);
  const { number } = (await join(fan)).json;
  const token = await userToken(key, 'anna');
  t.equal((await join(fan, bearer(token))).json.number, number);
  t.equal((await status(fan, bearer(token))).json.number, number);
  t.equal((await stream(fan, bearer(token))).status, 200);
  t.equal(await waiting(room), 1);
  await room.promote();
  t.equal((await claim(fan, bearer(token))).json.session && 200, 200);
  t.equal(await gates.redis.client.zcard(room.keys.active), 1);
  await fan.ask('GET', room.path, { headers: bearer(token) });
  t.match(visitorSeen(), /^u:/);
});

t.test('optional: an old sign-in in a cookie keeps nobody out, one in a header is named', async (t) => {
  const room = await open('optional');
  const old = await userToken(key, 'a', { claims: { iat: 1000, exp: 2000 } });
  const fan = gates.fan(room);
  fan.cookies.set('login', old);
  t.equal((await join(fan)).status, 201);
  t.equal((await status(fan)).status, 200);
  t.equal((await join(gates.fan(room), bearer(old))).json.code, 'token-expired');
  // Signed in while waiting, and the sign-in has run out since: the receipt still holds the place.
  const user = gates.fan(room);
  const { number } = (await join(user, bearer(await userToken(key, 'late')))).json;
  user.cookies.set('login', old);
  t.equal((await status(user)).json.number, number);
});

t.test('optional: of two places the one that is further on wins, and a withheld one last', async (t) => {
  const room = await open('optional');
  const token = await userToken(key, 'anna');
  const [phone, laptop] = [gates.fan(room), gates.fan(room)];
  const early = (await join(laptop)).json.number;
  const late = (await join(phone, bearer(token))).json.number;
  t.ok(Number(early) < Number(late));
  t.equal((await status(laptop, bearer(token))).json.number, early, 'both wait: the one in front');
  const placeOf = (fan: Fan) => String(fan.cookies.get(`ar_r_${room.room}`));
  t.not(placeOf(laptop), placeOf(phone));
  // The user's own place is let in; the laptop, which holds one of its own, now speaks for that.
  await room.promote();
  t.equal((await claim(phone, bearer(token))).status, 200);
  t.equal((await status(laptop, bearer(token))).json.state, 'active', 'inside goes before called');
  t.equal((await claim(laptop, bearer(token))).status, 200);
  t.equal(await gates.redis.client.zcard(room.keys.active), 1, 'a take-over and no second session');
  t.equal((await phone.ask('GET', room.path)).status, 429, 'the older cookie is worth nothing now');
  t.equal((await laptop.ask('GET', room.path)).text, 'inside');

  const held = await open('optional');
  const [suspect, own] = [gates.fan(held), gates.fan(held)];
  const first = (await join(suspect)).json.number;
  const [placeId = ''] = await gates.redis.client.zrange(held.keys.line, '0', '0');
  await gates.redis.client.zrem(held.keys.line, placeId);
  await gates.redis.client.zadd(held.keys.withheld, Number(first), placeId);
  const second = (await join(own, bearer(token))).json.number;
  t.equal((await status(suspect, bearer(token))).json.number, second, 'what is withheld comes last');
  t.not(second, first);
  t.equal(
    (await status(suspect)).json.number,
    second,
    'and the receipt of that place keeps it, signed in or not',
  );
});

t.test(
  'a receipt in a header speaks for its place where no cookie comes along, and for no other',
  async (t) => {
    const room = await open('anonymous');
    const holder = gates.fan(room);
    const { number, receipt } = (await join(holder)).json;
    const shown = { 'place-receipt': String(receipt) };
    const bare = () => gates.fan(room);
    t.match((await status(bare(), shown)).json, { state: 'waiting', number });
    t.equal((await stream(bare(), shown)).status, 200);
    t.equal((await status(bare())).json.code, 'place-missing');
    t.equal((await status(bare(), { 'place-receipt': `${receipt}x` })).json.code, 'place-missing', 'forged');
    const other = await open('anonymous');
    t.equal((await status(gates.fan(other), shown)).json.code, 'place-missing', 'of another room');
    await room.promote();
    const promoted = await status(bare(), shown);
    t.match(promoted.json, { state: 'promoted', claimToken: String });
    t.match((await claim(bare(), shown)).json, { session: { number }, pass: String });
  },
);

t.test('a place that ended leaves the field to the others', async (t) => {
  const room = await open('optional');
  const token = await userToken(key, 'anna');
  const fan = gates.fan(room);
  await join(fan, bearer(token));
  await room.promote();
  await claim(fan, bearer(token));
  const session = room.session(fan.cookies.get(`ar_s_${room.room}`));
  await scripts.end.run(gates.redis.client, room.keys, {
    nowMs: '',
    placeId: session.placeId,
    number: session.number,
    reason: 'service',
  });
  const other = gates.fan(room);
  const { number } = (await join(other)).json;
  t.equal((await status(other, bearer(token))).json.number, number);
  t.equal((await status(fan, bearer(token))).json.code, 'place-finished');
});

t.test(
  'an origin with a sign-in of its own gets its header, and no forgery speaks for anybody',
  async (t) => {
    const room = await open('optional');
    const { fan } = await gates.inside(room);
    const forged = (await userToken(await keyPair('u'), 'anna')).replace(/.$/, 'A');
    for (const value of ['opaque-of-the-origin', forged]) {
      const answer = await fan.ask('GET', room.path, { headers: bearer(value) });
      t.equal(answer.status, 200, answer.text);
      t.match(visitorSeen(), /^a:/, 'whoever has the cookie');
    }
    const made = signContext(gates.tokens, { visitorId: 'u:x' as never }, Date.now()); // Not in form, on purpose.
    await fan.ask('GET', room.path, { headers: { 'anteroom-context': made } });
    t.not(gates.seen.at(-1)?.headers['anteroom-context'], made);
  },
);

t.test('forgeries from one address use up its own rate and nobody else’s', async (t) => {
  const issuer = await startIssuer(t, [key.jwk]);
  const env = { ANTEROOM_ADDRESS_PER_SECOND: '1', ANTEROOM_ADDRESS_BURST: '60' };
  const small = await startGateways(t, { count: 1, users: issuer.tokens(), env, clock: standing });
  const room = await small.open('small', { identity: 'required' });
  const [forger, neighbour] = [small.fan(room), small.fan(room)];
  const known = await userToken(key, 'known');
  t.equal((await join(forger, bearer(known))).status, 201);
  const [head, body] = known.split('.');
  const codes = new Map<unknown, number>();
  for (let index = 0; index < 60; index += 1) {
    const mac = Buffer.alloc(64);
    mac.writeUInt32BE(index);
    const { json } = await status(forger, bearer(`${head}.${body}.${mac.toString('base64url')}`));
    codes.set(json.code, (codes.get(json.code) ?? 0) + 1);
  }
  t.ok(Number(codes.get('token-invalid')) <= 25, JSON.stringify([...codes]));
  t.ok(Number(codes.get('too-many-requests')) >= 35);
  t.equal((await join(neighbour, bearer(await userToken(key, 'other')))).status, 201);
});

t.test('a lost place comes back by its true receipt alone, on each way that shows one', async (t) => {
  for (const [name, ask] of Object.entries({ join, status, stream })) {
    const room = await open('anonymous');
    const fan = gates.fan(room);
    const other = gates.fan(room);
    await join(other);
    const { number } = (await join(fan)).json;
    const cookie = `ar_r_${room.room}`;
    const receipt = fan.cookies.get(cookie)!;
    const [placeId] = await gates.redis.client.zrange(room.keys.line, '-1', '-1');
    await gates.redis.client.zrem(room.keys.line, placeId!);
    // The place is its own, the number is not: signed with another key, and with somebody else's signature.
    const [kid, payload = '', mac = ''] = receipt.split('.');
    const better = Buffer.from(payload, 'base64url').toString().replace(`,${number},`, ',1,');
    const forged = [
      `${kid}.${Buffer.from(better).toString('base64url')}.${mac}`,
      `${kid}.${payload}.${other.cookies.get(cookie)!.split('.')[2]}`,
    ];
    if (ask !== join)
      for (const text of forged) {
        fan.cookies.set(cookie, text);
        await ask(fan);
        t.equal(await waiting(room), 1, `${name}: a forged receipt restores nothing`);
      }
    fan.cookies.set(cookie, receipt);
    await ask(fan);
    t.equal(await gates.redis.client.zscore(room.keys.line, placeId!), String(number), `${name}: restored`);
  }
});

t.test('whose receipt a text claims to be is read from its letters, for rooms of any length', (t) => {
  const visit = { sale: 12, placeId: parsePlaceId('aB_cdefghijklm-9')! };
  const others = ['bB_cdefghijklm-9', 'aB_cdefghijklm-8', 'aB_cdefghijklmn9'];
  for (const name of ['a', 'ab', 'abc', 'abcd', 'a-room-9', 'a-room-10']) {
    const room = parseRoomId(name)!;
    const rest = { number: 3, score: -7, epoch: 1, withheld: name === 'ab' };
    const text = signReceipt(gates.tokens, { room, ...visit, ...rest });
    t.ok(claimsPlace(text, { room, ...visit }), name);
    t.ok(claimsPlace(text.replace(/.$/, 'x'), { room, ...visit }), 'true or forged');
    t.notOk(claimsPlace(text, { room, ...visit, sale: 1 }));
    t.notOk(claimsPlace(text, { room: parseRoomId('abcde')!, ...visit }));
    for (const other of others) t.notOk(claimsPlace(text, { room, ...visit, placeId: parsePlaceId(other)! }));
  }
  for (const text of ['', '.', '..', 'x', 'a.b.c', '\u{1F3AB}.'])
    t.notOk(claimsPlace(text, { room: parseRoomId('a')!, ...visit }));
  t.end();
});
