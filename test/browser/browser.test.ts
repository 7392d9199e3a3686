// One fan in a real Chromium goes the whole way: waits, is promoted, enters by itself, picks a seat, pays and sees
// the confirmation; then another without JavaScript, by forms and refreshes only; then an operator and a security
// person at the admin page. Set ANTEROOM_SHOTS to a folder to keep what the pages looked like.

import { join } from 'node:path';
import type { Browser, BrowserContext, Page } from 'playwright-core';
import t from 'tap';
import { launchChromium, windowedAgent } from '../support/chromium.ts';
import { eventually } from '../support/eventually.ts';
import { Fan } from '../support/fan.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';
import { createSystem, type System, UNHURRIED } from '../support/system.ts';

t.setTimeout(900_000);

const shots = process.env.ANTEROOM_SHOTS;
const shoot = async (page: Page, name: string): Promise<void> => {
  if (shots !== undefined) await page.screenshot({ path: join(shots, `${name}.png`) });
};

let system: System;
let browser: Browser;
let redis: TestRedis;
t.before(async () => {
  redis = await startRedis(t);
  system = await createSystem(t, {
    ANTEROOM_REDIS_URL: redis.url,
    ANTEROOM_LOG_LEVEL: 'warn',
    // As long as it may be: the test says when it is over.
    ANTEROOM_RECOVERY_SECONDS: '600',
  });
  await system.start();
  await tune(UNHURRIED);
  browser = await launchChromium();
  t.teardown(() => browser.close());
});

const newContext = async (options: object): Promise<BrowserContext> => {
  const context = await browser.newContext(options);
  context.setDefaultTimeout(120_000);
  return context;
};
const fanContext = (options: object = {}): Promise<BrowserContext> =>
  newContext({ userAgent: windowedAgent(browser), viewport: { width: 390, height: 844 }, ...options });

const tune = async (change: object): Promise<void> => {
  const headers = { authorization: `Bearer ${system.operatorToken}`, 'content-type': 'application/json' };
  const { version } = (await (await fetch(`${system.admin}/v1/rooms/demo`, { headers })).json()) as {
    version: number;
  };
  const done = await fetch(`${system.admin}/v1/rooms/demo`, {
    method: 'PATCH',
    headers,
    body: JSON.stringify({ ...change, version }),
  });
  if (done.status !== 200) throw new Error(await done.text());
};

t.test('a fan waits, is promoted, holds, pays and sees the confirmation', async (t) => {
  await tune({ suspended: true });
  const ahead = new Fan({ base: system.base, index: 5 });
  await ahead.join();
  const context = await fanContext();
  t.teardown(() => context.close());
  const page = await context.newPage();
  const errors: string[] = [];
  page.on('pageerror', (error) => errors.push(error.message));
  await page.goto(`${system.base}/demo`);
  await page.getByText('People ahead').waitFor();
  await eventually('the page shows the place', async () =>
    /2/.test((await page.locator('#big').textContent()) ?? ''),
  );
  await shoot(page, 'waiting-phone');
  const number = await page.locator('#number').textContent();
  await page.reload();
  await eventually(
    'a reload keeps the place',
    async () => (await page.locator('#number').textContent()) === number,
  );

  const headers = { authorization: `Bearer ${system.operatorToken}`, 'content-type': 'application/json' };
  const noticed = await fetch(`${system.admin}/v1/rooms/demo/notices`, {
    method: 'POST',
    headers,
    body: JSON.stringify({ text: 'Doors open at seven.', level: 'info' }),
  });
  t.ok(noticed.ok, await noticed.text());
  const saidAt = performance.now();
  await page.getByText('Doors open at seven.').waitFor();
  t.comment(`the notice was seen after ${Math.round(performance.now() - saidAt)} ms`);

  await tune({ suspended: false });
  await page.waitForFunction(() => document.querySelector('#event') !== null);
  await page.locator('.seat[data-seat="free"]').first().waitFor();
  await shoot(page, 'seats-phone');
  await page.setViewportSize({ width: 1280, height: 800 });
  for (const offset of [4, 5]) await page.locator(`.seat[data-offset="${offset}"]`).click();
  await shoot(page, 'seats-desktop');
  await page
    .getByRole('button', { name: /^(Hold|Keep|Take|Book)/ })
    .first()
    .click();
  await page.getByRole('button', { name: /^Pay/ }).waitFor();
  await shoot(page, 'pay-desktop');
  await page.getByRole('button', { name: /^Pay/ }).click();
  await page.getByText('You are going!').waitFor();
  await shoot(page, 'confirmed-desktop');
  const mine = await context.request.get(`${system.base}/v1/orders`);
  t.match(await mine.json(), { orders: [{ state: 'paid' }] });
  await eventually(
    'the session is over',
    async () => (await context.request.get(`${system.base}/v1/events/demo`)).status() === 429,
  );
  await page.goto(`${system.base}/demo/orders`);
  await page.getByText('You are going!').first().waitFor();
  t.same(errors, []);
});

t.test('without JavaScript: join, wait, enter, hold, pay, confirmed', async (t) => {
  await tune({ suspended: true });
  const context = await fanContext({ javaScriptEnabled: false });
  t.teardown(() => context.close());
  const page = await context.newPage();
  await page.goto(`${system.base}/demo`);
  await page.locator('#button').click();
  await page.getByText('People ahead').waitFor();
  await shoot(page, 'waiting-without-script');
  await tune({ suspended: false });
  await eventually('the refreshed page offers to enter', async () => {
    await page.reload();
    return (await page.locator('#act').getAttribute('value')) === 'enter';
  });
  await page.locator('#button').click();
  await page.locator('form.plain button').first().click();
  await page.getByText('Your seats are kept').waitFor();
  await shoot(page, 'pay-without-script');
  await page.getByRole('button', { name: /^Pay/ }).click();
  await page.getByText('You are going!').waitFor();
  t.pass('confirmed');
});

t.test('an operator sees the room and tunes it; security staff see a decision and release it', async (t) => {
  await tune({ suspended: true });
  const robot = await fetch(`${system.base}/v1/rooms/demo/places`, {
    method: 'POST',
    headers: { 'user-agent': 'curl/8.5.0', accept: '*/*' },
  });
  t.equal(robot.status, 201);
  const placed = (await robot.json()) as { state: string; number: number; verdict: string };
  t.match(placed, { state: 'withheld', verdict: 'challenge' });
  const context = await newContext({ viewport: { width: 1280, height: 800 } });
  t.teardown(() => context.close());
  const page = await context.newPage();
  const errors: string[] = [];
  page.on('pageerror', (error) => errors.push(error.message));
  await page.goto(system.admin);
  await page.locator('input[type="password"], input[name="token"]').first().fill(system.operatorToken);
  await page.keyboard.press('Enter');
  await page.getByText('The Long Night').first().waitFor();
  await shoot(page, 'admin-rooms');
  await page.goto(`${system.admin}/#/rooms/demo`);
  await page
    .getByText(/waiting/i)
    .first()
    .waitFor();
  const estimates = page.getByText(/^Estimates:/);
  const learn = (etaRight: number, etaTotal: number) =>
    redis.client.hset('ar:{demo}:room', { etaRight, etaTotal });
  await learn(0, 0);
  await estimates.waitFor({ state: 'hidden' });
  await learn(9999, 10_000);
  await page.getByText('Estimates: 10 of 10 held (99.9 % of 10,000)', { exact: true }).waitFor();
  await learn(1085, 1204);
  await page.getByText('Estimates: 9 of 10 held (90.1 % of 1,204)', { exact: true }).waitFor();
  await shoot(page, 'admin-room');
  const headers = { authorization: `Bearer ${system.operatorToken}` };
  const { decisions } = (await (
    await fetch(`${system.admin}/v1/decisions?room=demo`, { headers })
  ).json()) as { decisions: { decision: string; number: number; reasons: { words: string }[] }[] };
  const mine = decisions.find((decision) => Number(decision.number) === placed.number);
  t.match(mine?.reasons[0]?.words, /curl/, 'reasons in words');
  await page.goto(`${system.admin}/#/security`);
  await page
    .getByText(/tool curl/)
    .first()
    .waitFor();
  await shoot(page, 'admin-security');
  await page
    .getByRole('button', { name: /release/i })
    .first()
    .click();
  const cookie = (robot.headers.getSetCookie() ?? []).map((text) => text.split(';')[0]).join('; ');
  await eventually('whoever was released waits like everyone', async () => {
    const status = await fetch(`${system.base}/v1/rooms/demo/places/me`, {
      headers: { cookie, 'user-agent': 'curl/8.5.0' },
    });
    const now = (await status.json()) as { state: string; number: number; verdict?: string };
    return now.state === 'waiting' && now.number === placed.number && now.verdict === undefined;
  });
  t.same(errors, []);
});

t.test('an operator sees that the line is being restored, how far it is and when it ends', async (t) => {
  await tune({ suspended: true });
  const fans = Array.from({ length: 12 }, (_, index) => new Fan({ base: system.base, index: 500 + index }));
  for (const fan of fans) t.equal((await fan.join()).status, 201);
  const context = await newContext({ viewport: { width: 1280, height: 900 } });
  t.teardown(() => context.close());
  const page = await context.newPage();
  await page.goto(system.admin);
  await page.locator('input[type="password"], input[name="token"]').first().fill(system.operatorToken);
  await page.keyboard.press('Enter');
  await page.getByText('The Long Night').first().waitFor();
  await page.goto(`${system.admin}/#/rooms/demo`);
  await page
    .getByText(/waiting/i)
    .first()
    .waitFor();
  t.equal(await page.locator('.recovery').isVisible(), false, 'nothing is said while nothing is lost');
  const snapshot = 'ar:{demo}:snapshot';
  await eventually(
    'a snapshot knows them',
    async () => JSON.parse((await redis.client.get(snapshot)) ?? '{}').waiting >= 12,
  );

  await redis.client.flushall();
  await page.getByText(/Recovering: 0 of \d+ places back, 0 sessions taken back, ends in \d+ s/).waitFor();
  for (const fan of fans) await fan.ask('GET', '/v1/rooms/demo/places/me');
  await page.getByText(/Recovering: 12 of \d+ places back/).waitFor();
  await shoot(page, 'admin-recovering');
  await redis.client.hset('ar:{demo}:room', 'recoveringUntil', Date.now() - 1000);
  await page.getByText(/Recovered .*: 12 of \d+ places back/).waitFor();
});
