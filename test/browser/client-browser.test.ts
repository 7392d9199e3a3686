// The browser client in a real Chromium, at real gateways and brokers: behind networks that block one transport or
// another, while its broker goes away, in two tabs, and on pages of other origins. Set ANTEROOM_SHOTS to a folder to
// keep what the pages looked like.

import { join } from 'node:path';
import type { BrowserContext, Page } from 'playwright-core';
import t, { type Test } from 'tap';
import { notice } from '../../lua/room.ts';
import { type Blocked, startBlockingProxy } from '../support/blocking-proxy.ts';
import { launchChromium, windowedAgent } from '../support/chromium.ts';
import { openStream } from '../support/client.ts';
import { eventually } from '../support/eventually.ts';
import { startExamplePages } from '../support/example-page.ts';
import { type Room, startGateways } from '../support/gateways.ts';
import { UNHURRIED } from '../support/system.ts';

t.setTimeout(900_000);

const shots = process.env.ANTEROOM_SHOTS;
const shoot = async (page: Page, name: string): Promise<void> => {
  if (shots !== undefined) await page.screenshot({ path: join(shots, `${name}.png`) });
};

const NETWORKS: [name: string, block: Blocked, events: number, sockets: number, words: string][] = [
  ['nothing', {}, 1, 0, 'Live'],
  ['events refused', { events: 'refused' }, 0, 1, 'Live'],
  ['events gathered', { events: 'gathered' }, 0, 1, 'Live'],
  ['sockets refused', { sockets: 'refused' }, 1, 0, 'Live'],
  ['both refused', { events: 'refused', sockets: 'refused' }, 0, 0, 'Checking every few seconds'],
];
const proxies = await Promise.all(NETWORKS.map(([, block]) => startBlockingProxy(t, { block })));
const examples = await startExamplePages(t);
const gates = await startGateways(t, {
  count: 2,
  streams: true,
  env: {
    ANTEROOM_ALLOWED_ORIGINS: [examples.near, examples.far, ...proxies.map(({ base }) => base)].join(','),
  },
});
const base = gates.bases[0]!;
examples.show(base);
const browser = await launchChromium();
t.teardown(() => browser.close());

/** One goes in with each promotion. */
const openRoom = (name: string): Promise<Room> => gates.open(name, { ...UNHURRIED, burst: 1 });
const promote = async (room: Room): Promise<void> => {
  await room.promote();
  await room.measure();
};

const newContext = async (t: Test): Promise<BrowserContext> => {
  const context = await browser.newContext({
    userAgent: windowedAgent(browser),
    viewport: { width: 390, height: 844 },
  });
  context.setDefaultTimeout(120_000);
  t.teardown(() => context.close());
  return context;
};
const textOf = async (page: Page, selector: string): Promise<string> =>
  (await page.locator(selector).textContent()) ?? '';
const numberOn = async (page: Page, selector: string): Promise<number> =>
  Number(/[\d,]+/.exec(await textOf(page, selector))?.[0].replace(/,/g, ''));
/** Where a page says that its fan stands, as soon as it has heard it. */
const standsAt = (page: Page, selector: string, position: number): Promise<void> =>
  eventually(`the page shows ${position}`, async () => (await numberOn(page, selector)) === position);
/** People who wait in front, present over a stream of their own. */
const waitAhead = async (t: Test, room: Room, count: number): Promise<void> => {
  for (let index = 0; index < count; index += 1) {
    const fan = gates.fan(room);
    await fan.join();
    const stream = await openStream(`${base}/v1/rooms/${room.room}/events`, { headers: fan.headers() });
    t.teardown(() => stream.close());
    await stream.next();
  }
  await room.measure();
};

t.test('whatever a network blocks, the page gets its news, over one transport at a time', async (t) => {
  const room = await openRoom('blocked');
  const opened = await Promise.all(
    NETWORKS.map(async ([name, , events, sockets, words], index) => {
      const proxy = proxies[index]!;
      proxy.pointAt(base);
      const page = await (await newContext(t)).newPage();
      await page.goto(`${proxy.base}/rooms/blocked`);
      await eventually(
        `${name}: ${words}`,
        async () => (await textOf(page, '#connection-words')) === words,
        120_000,
      );
      await eventually(`${name}: what is open`, () => {
        const open = proxy.open();
        return open.events === events && open.sockets === sockets;
      });
      return { name, proxy, page };
    }),
  );
  await notice.run(gates.redis.client, room.keys, {
    nowMs: '',
    noticeId: 'n1',
    text: 'Doors open at seven.',
    level: 'info',
  });
  await room.measure();
  for (const { name, page, proxy } of opened) {
    await page.getByText('Doors open at seven.').waitFor();
    t.equal(proxy.openMax(), name === 'both refused' ? 0 : 1, `${name}: never two at once`);
    t.equal(proxy.count(/receipt/i), 0, `${name}: no address names a receipt`);
  }
  await shoot(opened[4]!.page, 'polling-phone');
});

t.test('a fan whose broker goes away is back at another one, at the same place', async (t) => {
  const room = await openRoom('killed');
  const proxy = proxies[0]!;
  proxy.pointAt(base);
  const context = await newContext(t);
  const page = await context.newPage();
  await waitAhead(t, room, 2);
  await page.goto(`${proxy.base}/rooms/killed`);
  await page.getByText('Live', { exact: true }).waitFor();
  const number = await textOf(page, '#number');
  await standsAt(page, '#big', 3);
  proxy.pointAt(undefined);
  proxy.cut();
  await page.getByText('Reconnecting').waitFor();
  t.equal(await numberOn(page, '#big'), 3, 'the place stays on the page');
  await page.locator('#said').filter({ hasText: 'The connection is lost.' }).waitFor({ state: 'attached' });
  await shoot(page, 'reconnecting-phone');
  await promote(room);
  proxy.pointAt(gates.bases[1]!);
  const thereAt = performance.now();
  await page.getByText('Live', { exact: true }).waitFor();
  t.comment(`live again ${Math.round(performance.now() - thereAt)} ms after the other one was there`);
  await page.locator('#said').filter({ hasText: 'Connected again.' }).waitFor({ state: 'attached' });
  t.equal(await textOf(page, '#number'), number);
  await eventually('it hears what happened meanwhile', async () => (await numberOn(page, '#big')) === 2);
  // The browser says that it is offline, and leaves the stream it has alone; the proxy cuts it, as a network would.
  await context.setOffline(true);
  proxy.pointAt(undefined);
  proxy.cut();
  await page.getByText('You are offline').waitFor();
  await shoot(page, 'offline-phone');
  proxy.pointAt(gates.bases[1]!);
  await context.setOffline(false);
  await page.getByText('Live', { exact: true }).waitFor();
});

/** What the example hands on when its button has let somebody in. */
const ENTERED =
  "new Promise((done) => document.addEventListener('entered', (event) => done(event.detail), { once: true }))";

t.test('a fan with two tabs sees both move, and both are told', async (t) => {
  const room = await openRoom('pair');
  await waitAhead(t, room, 2);
  const context = await newContext(t);
  const tabs: Page[] = [];
  for (let index = 0; index < 2; index += 1) {
    const page = await context.newPage();
    await page.goto(`${examples.near}/pair`);
    await page.getByText('live (events)').waitFor();
    await standsAt(page, '#position', 3);
    tabs.push(page);
  }
  for (const left of [2, 1]) {
    await promote(room);
    for (const [index, page] of tabs.entries())
      await eventually(
        `tab ${index} moves to ${left}`,
        async () => (await numberOn(page, '#position')) === left,
      );
  }
  await promote(room);
  for (const page of tabs) await page.getByText('It is your turn.').waitFor();
  const entered = tabs[0]!.evaluate(ENTERED);
  await tabs[0]!.getByRole('button', { name: 'Enter' }).click();
  t.match(await entered, { outcome: 'entered', session: { room: 'pair' } });
});

t.test('a page of another site keeps its place by the receipt, and enters with a pass', async (t) => {
  const room = await openRoom('abroad');
  await waitAhead(t, room, 2);
  const context = await newContext(t);
  const page = await context.newPage();
  const asked: string[] = [];
  page.on('request', (request) => asked.push(request.url()));
  const faults: string[] = [];
  page.on('pageerror', (error) => faults.push(String(error)));
  await page.goto(`${examples.far}/abroad`);
  await page.getByText('live (events)').waitFor();
  await standsAt(page, '#position', 3);
  const receipt = String(await page.evaluate("localStorage.getItem('anteroom:abroad')"));
  t.match(receipt, /^\S{20,}$/);
  t.same(await context.cookies(), [], 'no cookie got here');
  await page.reload();
  await page.getByText('live (events)').waitFor();
  await standsAt(page, '#position', 3);
  for (let count = 0; count < 3; count += 1) await promote(room);
  await page.getByText('It is your turn.').waitFor();
  const entered = page.evaluate(ENTERED);
  await page.getByRole('button', { name: 'Enter' }).click();
  t.match(await entered, { outcome: 'entered', pass: /^[\w-]+\.[\w-]+\.[\w-]+$/ });
  t.notOk(
    asked.some((url) => url.includes(receipt)),
    'the receipt was in no address',
  );
  t.same(faults, []);
});
