// The sale's page for those without JavaScript: forms, redirects and pages, over HTTP alone; and what every page
// promises a browser. The page with JavaScript is walked in Chromium elsewhere.

import t from 'tap';
import { parsePlaceId, parseRoomId } from '../../kernel/ids.ts';
import { roomKeys } from '../../lua/room.ts';
import { type Fan, startBooking } from '../support/booking.ts';
import { eventually } from '../support/eventually.ts';
import { startPostgres } from '../support/postgres.ts';
import { startRedis } from '../support/redis.ts';

const [{ client: redis }, postgres] = await Promise.all([startRedis(t), startPostgres(t)]);
const sql = await postgres.connect();
const booking = await startBooking(t, { sql, redis });

const open = async (fan: Fan, path: string, options: { session?: boolean } = {}) => {
  const answer = await fetch(`${booking.base}${path}`, { headers: fan.context(options), redirect: 'manual' });
  return { status: answer.status, headers: answer.headers, text: await answer.text() };
};
const send = async (fan: Fan, form: Record<string, string>, headers: Record<string, string> = {}) => {
  const answer = await fetch(`${booking.base}/demo/book`, {
    method: 'POST',
    redirect: 'manual',
    headers: { ...fan.context(), 'sec-fetch-site': 'same-origin', ...headers },
    body: new URLSearchParams(form),
  });
  return { status: answer.status, location: answer.headers.get('location') ?? '', text: await answer.text() };
};
const hidden = (text: string, name: string): string =>
  new RegExp(`name="${name}" value="([^"]*)"`).exec(text)?.[1] ?? '';

t.test('someone without JavaScript holds, is declined, pays, and sees the confirmation', async (t) => {
  const fan = booking.fan('plain');
  // A session in the room, as the gateway would have made it.
  const placeId = /\["[^"]*","demo","([^"]*)"/.exec(
    Buffer.from(fan.context()['anteroom-context']!.split('.')[1]!, 'base64url').toString(),
  )?.[1];
  const keys = roomKeys(parseRoomId('demo')!);
  t.ok(parsePlaceId(placeId));
  await redis.hset(keys.room, 'sale', '1');
  await redis.zadd(keys.active, String(Date.now() + 60_000), String(placeId));
  await redis.hset(keys.places, String(placeId), `7 0 0 ${Date.now()}`);

  const sale = await open(fan, '/demo');
  t.equal(sale.status, 200);
  t.match(sale.headers.get('content-security-policy'), /script-src 'self'/);
  t.notMatch(sale.text, /<script>|\son[a-z]+=|style="/, 'nothing inline');
  const form = { step: 'hold', key: hidden(sale.text, 'key'), section: 'stalls', count: '2' };
  const held = await send(fan, form);
  t.equal(held.status, 303);
  t.match(held.location, /^\/demo\/hold\/demo\./);
  t.equal((await send(fan, form)).location, held.location, 'sent twice is one hold');
  const pay = await open(fan, held.location);
  t.match(pay.text, /130\.00 EUR/);
  const payment = { step: 'pay', hold: hidden(pay.text, 'hold'), key: hidden(pay.text, 'key') };
  const declined = await send(fan, { ...payment, card: 'declined' });
  t.equal(declined.status, 402);
  t.match(declined.text, /Try another card/);
  const retry = { ...payment, key: hidden(declined.text, 'key'), card: 'ok' };
  const paid = await send(fan, retry);
  t.equal(paid.status, 303);
  t.match(paid.location, /^\/demo\/orders\/[0-9A-Z]{13}$/);
  t.equal((await send(fan, retry)).location, paid.location, 'sent twice is one order');
  const confirmed = await open(fan, paid.location, { session: false });
  t.match(confirmed.text, /You are going!/);
  t.match((await open(fan, '/demo/orders', { session: false })).text, /You are going!/);
  await eventually('the session has ended with the purchase', async () => {
    const active = await redis.zscore(keys.active, String(placeId));
    return active === null && (await redis.hget(keys.finished, String(placeId))) === '7';
  });
});

t.test('a form from another site is refused', async (t) => {
  const fan = booking.fan('tricked');
  const form = { step: 'hold', key: 'a-key-of-theirs', section: 'stalls', count: '1' };
  t.equal((await send(fan, form, { 'sec-fetch-site': 'cross-site' })).status, 403);
  t.equal((await send(fan, form, { 'sec-fetch-site': 'same-site' })).status, 403);
  const old = await fetch(`${booking.base}/demo/book`, {
    method: 'POST',
    headers: { ...fan.context(), origin: 'https://evil.example' },
    body: new URLSearchParams(form),
  });
  t.equal(old.status, 403, 'an old browser tells by Origin');
});

t.test('a refusal of a page is a page that says what to do', async (t) => {
  const fan = booking.fan('lost');
  const cases: [string, number][] = [
    ['/demo/hold/demo.AAAAAAAAAAAAAAAAAAAAAA', 404],
    ['/demo/hold/x', 404],
    ['/demo/orders/0000000000000', 404],
    ['/demo/orders/x', 400],
  ];
  for (const [path, status] of cases) {
    const answer = await open(fan, path);
    t.equal(answer.status, status, path);
    t.match(answer.text, /role="alert"/, path);
  }
  t.equal((await send(fan, { step: 'dance' })).status, 400);
  const nobody = await fetch(`${booking.base}/demo/orders`);
  t.equal(nobody.status, 401, 'without the context of the gateway there is nobody');
});

t.test('the files of the page are named by their content and may be kept for ever', async (t) => {
  const { text } = await open(booking.fan('files'), '/demo/');
  const paths = [...text.matchAll(/(?:href|src)="(\/demo\/assets\/[^"]+)"/g)].map((match) => match[1]!);
  t.equal(paths.length, 2);
  for (const path of paths) {
    const answer = await open(booking.fan('files'), path, { session: false });
    t.equal(answer.status, 200);
    t.match(answer.headers.get('cache-control'), /immutable/);
  }
});
