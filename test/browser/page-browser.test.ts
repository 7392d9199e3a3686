// The waiting page in Chromium, against a server that plays the API: what it does by itself, what it never does,
// and that it is whole for those without JavaScript.

import type { Page } from 'playwright-core';
import t, { type Test } from 'tap';
import { launchChromium } from '../support/chromium.ts';
import { eventually } from '../support/eventually.ts';
import { type FakeRoom, fakeView, startFakeRoom, waitingAnswer } from '../support/fake-room.ts';

const JOIN = '/v1/rooms/demo/places';
const EVENTS = '/v1/rooms/demo/events';
const STATUS = '/v1/rooms/demo/places/me';
const PASS = '/v1/rooms/demo/pass';
/** So long is a turn here: no test is about its end. */
const TURN_MS = 3_000_000;

const browser = await launchChromium();
t.teardown(() => browser?.close());
t.setTimeout(900_000);

declare global {
  interface Window {
    turn(state: string): void;
  }
}

type Options = {
  javaScript?: boolean;
  hidden?: boolean;
  /** The clock of the page goes only as the test says, once it has been told to stand still. */
  clock?: boolean;
};

/** What any page of this file logged as an error; the last test looks at it. */
const faults: string[] = [];

/** A page on a fresh fake room; both end with the test. */
const openRoom = async (
  t: Test,
  prepare: (room: FakeRoom) => void,
  options: Options = {},
): Promise<{ room: FakeRoom; page: Page; turn(state: 'visible' | 'hidden'): Promise<void> }> => {
  const room = await startFakeRoom();
  prepare(room);
  const context = await browser!.newContext({
    viewport: { width: 390, height: 844 },
    javaScriptEnabled: options.javaScript ?? true,
  });
  context.setDefaultTimeout(120_000);
  const page = await context.newPage();
  if (options.clock) await page.clock.install();
  page.on('pageerror', (error) => faults.push(String(error)));
  page.on('console', (message) => {
    if (message.type() === 'error' && !/Failed to load resource|WebSocket/.test(message.text()))
      faults.push(message.text());
  });
  // Headless tabs are always visible, so the test says which they are.
  // A string, because the loader adds calls to named functions that a page does not have.
  await page.addInitScript(`
    let now = '${options.hidden ? 'hidden' : 'visible'}';
    Object.defineProperty(document, 'visibilityState', { get: () => now });
    window.turn = (to) => {
      now = to;
      document.dispatchEvent(new Event('visibilitychange'));
    };
  `);
  t.teardown(async () => {
    await context.close();
    await room.close();
  });
  await page.goto(`${room.url}/demo`);
  return { room, page, turn: (state) => page.evaluate((to) => window.turn(to), state) };
};

const bigNumber = async (page: Page): Promise<number> =>
  Number((await page.locator('#big').textContent())?.replace(/,/g, ''));

/** From here on only `runFor` moves the time of the page. */
const standStill = (page: Page): Promise<void> =>
  eventually('the clock of the page stands', async () => {
    // On a machine that stood still itself this moment may be over already; then the next look names a later one.
    await page.clock.pauseAt((await page.evaluate<number>('Date.now()')) + 1000);
    return true;
  });

/** The headline or the sentence below it; the same words also stand in the live region. */
const told = (page: Page, words: string): Promise<void> =>
  page.locator('h1, #lead').filter({ hasText: words }).first().waitFor();

const streaming = (room: FakeRoom): Promise<void> =>
  eventually('the page listens', () => room.openStreams() === 1);

t.test('an open page joins once by itself, and listens', async (t) => {
  const { room, page } = await openRoom(t, () => {});
  await streaming(room);
  await told(page, 'You are in line');
  t.equal(room.count('POST', JOIN), 1);
  t.equal(room.count('POST', '/rooms/demo'), 0);
  t.equal(await page.locator('#number').textContent(), '12,345');
  room.send('state', { state: 'waiting', gate: 'open' });
  await page.getByText('Live', { exact: true }).waitFor();
});

t.test('a hidden page joins when somebody looks at it, not before', async (t) => {
  const { room, page, turn } = await openRoom(t, () => {}, { hidden: true });
  await page.waitForLoadState('networkidle');
  t.equal(room.count('POST', JOIN), 0);
  await turn('visible');
  await streaming(room);
  t.equal(room.count('POST', JOIN), 1);
});

t.test('the receipt is kept and shown again', async (t) => {
  const { room, page } = await openRoom(t, () => {});
  await streaming(room);
  await page.reload();
  await eventually('the page joined again', () => room.count('POST', JOIN) === 2);
  t.same(
    room.seen.filter(({ path }) => path === JOIN).map(({ body }) => JSON.parse(body)),
    [{}, { receipt: 'receipt-1' }],
  );
});

t.test('a receipt that is no longer good is dropped, not insisted on', async (t) => {
  const { room, page } = await openRoom(t, () => {});
  await streaming(room);
  room.answers[`POST ${JOIN}`] = { status: 400, body: { code: 'receipt-invalid' } };
  await page.reload();
  await eventually('the page joins without it', () => room.seen.at(-1)?.body === '{}');
});

t.test('a position falls smoothly and never rises without a reason', async (t) => {
  const { room, page } = await openRoom(t, () => {}, { clock: true });
  await streaming(room);
  await standStill(page);
  /** The number in a tenth of a second. */
  const next = async (): Promise<number> => {
    await page.clock.runFor(100);
    return bigNumber(page);
  };
  await page.evaluate(() => {
    const seen: number[] = [];
    Object.assign(window, { seen });
    const big = document.getElementById('big');
    if (big === null) throw new Error('no number');
    new MutationObserver(() => seen.push(Number(big.textContent?.replace(/,/g, '')))).observe(big, {
      childList: true,
    });
  });
  room.send('position', { position: 1000, ahead: 999, etaSeconds: [180, 300], perMinute: 600, nextMs: 1000 });
  await eventually('it fell', async () => (await next()) === 1000);
  room.send('position', {
    position: 1100,
    ahead: 1099,
    etaSeconds: [180, 300],
    perMinute: 600,
    nextMs: 1000,
  });
  room.send('position', { position: 900, ahead: 899, etaSeconds: [120, 200], perMinute: 600, nextMs: 1000 });
  await eventually('it fell on', async () => (await next()) === 900);
  const seen = await page.evaluate('seen');
  t.ok(Array.isArray(seen) && seen.length > 4, 'in several steps');
  t.same(
    seen,
    [...(Array.isArray(seen) ? seen : [])].sort((a, b) => b - a),
    'each at or below the last',
  );
  t.equal(await page.locator('#eta').textContent(), 'about 2–4 minutes');
  t.equal(await page.locator('#ahead').textContent(), '899');

  room.send('state', { state: 'waiting', gate: 'open', reason: 'restored' });
  room.send('position', { position: 2000, ahead: 1999, perMinute: 600, nextMs: 1000 });
  await eventually('with a reason it may rise', async () => (await next()) === 2000);
  t.match(await page.locator('#lead').textContent(), /restored after a fault/);
});

t.test('number and bar move on between updates', async (t) => {
  const { room, page } = await openRoom(t, () => {}, { clock: true });
  await streaming(room);
  await standStill(page);
  room.send('position', { position: 1000, ahead: 999, perMinute: 1200, nextMs: 20_000 });
  const bar = () => page.locator('#progress').evaluate((node) => ('value' in node ? Number(node.value) : 0));
  let ranMs = 0;
  await eventually('it drifts', async () => {
    await page.clock.runFor(500);
    ranMs += 500;
    return (await bigNumber(page)) < 990;
  });
  t.ok((await bar()) > 0);
  const least = 1000 - (1200 / 60_000) * ranMs;
  t.ok((await bigNumber(page)) >= least, `but never ahead of the measured speed: ${least} at least`);
});

t.test('the promoted visible page claims and goes where the fan wanted', async (t) => {
  const { room, page } = await openRoom(t, (fake) => {
    fake.view = fakeView({ returnTo: '/inside' });
  });
  await streaming(room);
  room.send('promoted', { claimToken: 'claim-1', deadlineMs: Date.now() + TURN_MS, serverNowMs: Date.now() });
  await page.waitForURL('**/inside');
  t.same(
    room.seen.filter(({ path }) => path === PASS).map(({ body }) => JSON.parse(body)),
    [{ claim: 'claim-1' }],
  );
});

t.test('a hidden page says that it is the turn, and claims only when seen', async (t) => {
  const { room, page, turn } = await openRoom(t, (fake) => {
    fake.view = fakeView({ returnTo: '/inside' });
  });
  await streaming(room);
  await turn('hidden');
  room.send('promoted', { claimToken: 'claim-1', deadlineMs: Date.now() + TURN_MS, serverNowMs: Date.now() });
  await eventually('the title calls', async () => (await page.title()).startsWith('(!) It is your turn'));
  t.match(await page.locator('#said').textContent(), /It is your turn/);
  t.ok(await page.getByRole('button', { name: 'Enter now' }).isVisible());
  t.match(await page.locator('#big').textContent(), /^[1-5]?\d:\d\d$/, 'and how much of it is left');
  t.equal(room.count('POST', PASS), 0);
  await turn('visible');
  await page.waitForURL('**/inside');
  t.equal(room.count('POST', PASS), 1);
});

t.test('a claim that finds nobody is repeated until the deadline', async (t) => {
  const { room, page } = await openRoom(t, (fake) => {
    fake.view = fakeView({ returnTo: '/inside' });
    fake.answers[`POST ${PASS}`] = { status: 503, body: { code: 'unavailable' } };
  });
  await streaming(room);
  room.send('promoted', { claimToken: 'claim-1', deadlineMs: Date.now() + TURN_MS, serverNowMs: Date.now() });
  await eventually('it tried twice', () => room.count('POST', PASS) >= 2);
  room.answers[`POST ${PASS}`] = { status: 200, body: {} };
  await page.waitForURL('**/inside');
});

t.test('a missed turn is explained, and the place comes back by an act of the fan', async (t) => {
  const { room, page } = await openRoom(t, () => {});
  await streaming(room);
  room.send('ended', { reason: 'missed' });
  await told(page, 'You missed your turn');
  t.equal(room.count('POST', JOIN), 1);
  await page.getByRole('button', { name: 'Return to the line' }).click();
  await told(page, 'You are in line');
  t.same(JSON.parse(room.seen.filter(({ path }) => path === JOIN).at(-1)!.body), { receipt: 'receipt-1' });
});

t.test('leaving asks first, and then leaves', async (t) => {
  const { room, page } = await openRoom(t, () => {});
  await streaming(room);
  await page.getByRole('button', { name: 'Leave the line' }).click();
  await page.getByRole('button', { name: 'Keep my place' }).click();
  t.equal(room.count('DELETE', STATUS), 0);
  await page.getByRole('button', { name: 'Leave the line' }).click();
  await page.getByRole('button', { name: 'Leave', exact: true }).click();
  await told(page, 'You have left the line');
  t.equal(room.count('DELETE', STATUS), 1);
  t.equal(await page.evaluate(() => document.activeElement?.id), 'headline', 'focus is where the news is');
});

t.test('where streams do not get through, the page polls', async (t) => {
  const { room, page } = await openRoom(t, (fake) => {
    fake.streams = false;
  });
  room.answers[`GET ${STATUS}`] = { status: 200, body: waitingAnswer({ position: 500, peopleAhead: 499 }) };
  await eventually('it polls', () => room.count('GET', STATUS) >= 2);
  await eventually('and shows what it hears', async () => (await bigNumber(page)) === 500);
  await page.getByText('Checking every few seconds').waitFor();
});

t.test('where only events do not get through, the same comes over a WebSocket', async (t) => {
  const { room, page } = await openRoom(t, (fake) => {
    fake.streams = false;
    fake.sockets = true;
  });
  await streaming(room);
  room.send('position', { position: 500, ahead: 499, perMinute: 60, nextMs: 1000 });
  await eventually('it shows what it hears', async () => (await bigNumber(page)) === 500);
  await page.getByText('Live', { exact: true }).waitFor();
  t.ok(room.count('GET', STATUS) <= 2, 'asked at most once between two tries');
});

t.test('from polling the page climbs back to a stream', async (t) => {
  const { room, page } = await openRoom(t, (fake) => {
    fake.streams = false;
  });
  await page.getByText('Checking every few seconds').waitFor();
  const tried = room.count('GET', EVENTS);
  t.equal(tried, 2, 'it tried twice, and polls on without');
  room.streams = true;
  await page.clock.install();
  await page.clock.fastForward('02:00');
  await streaming(room);
  room.send('state', { state: 'waiting', gate: 'open' });
  await page.getByText('Live', { exact: true }).waitFor();
});

t.test('a stream that is answered 204 is over, and nobody asks again', async (t) => {
  const { room, page } = await openRoom(t, (fake) => {
    fake.answers[`GET ${EVENTS}`] = { status: 204 };
  });
  await told(page, 'Your visit has ended');
  t.equal(room.count('GET', EVENTS), 1);
  t.equal(room.count('GET', STATUS), 0);
});

t.test('a process that is full is left alone for as long as it says, and polled as it allows', async (t) => {
  const { room, page } = await openRoom(t, (fake) => {
    fake.answers[`GET ${EVENTS}`] = {
      status: 503,
      headers: { 'retry-after': '600' },
      body: { code: 'streams-full' },
    };
  });
  await page.getByText('Checking every few seconds').waitFor();
  await eventually('it asks how things stand', () => room.count('GET', STATUS) >= 5);
  t.equal(room.count('GET', EVENTS), 1);
});

t.test('a process that is full and names another address is followed there', async (t) => {
  const { room, page } = await openRoom(t, (fake) => {
    const body = { code: 'streams-full', elsewhere: '/second' };
    fake.answers[`GET ${EVENTS}`] = { status: 503, body };
  });
  await eventually('it tries there', () => room.count('GET', `/second${EVENTS}`) >= 1);
  await told(page, 'You are in line');
});

t.test(
  'a place that the stream does not know is joined again, with one look at the stream after each join',
  async (t) => {
    const { room, page } = await openRoom(t, (fake) => {
      fake.answers[`GET ${EVENTS}`] = { status: 404, body: { code: 'place-missing' } };
    });
    await eventually('it joined again', () => room.count('POST', JOIN) >= 2);
    const asked = room.seen.map(({ path }) => path).filter((path) => path === EVENTS || path === JOIN);
    for (const [index, path] of asked.entries())
      t.equal(path, index % 2 === 0 ? JOIN : EVENTS, 'one look at the stream after each join');
    delete room.answers[`GET ${EVENTS}`];
    await streaming(room);
    await told(page, 'You are in line');
  },
);

t.test('a cut stream is opened again, without a second join', async (t) => {
  const { room, page } = await openRoom(t, () => {});
  await streaming(room);
  room.send('state', { state: 'waiting', gate: 'open' });
  await page.getByText('Live', { exact: true }).waitFor();
  room.cut();
  await eventually('it is gone', () => room.count('GET', '/v1/rooms/demo/events') === 2);
  await streaming(room);
  room.send('position', { position: 800, ahead: 799, perMinute: 60, nextMs: 1000 });
  await eventually('it goes on', async () => (await bigNumber(page)) === 800);
  t.equal(room.count('POST', JOIN), 1);
});

t.test('when the line is out of reach the page stays calm and asks again', async (t) => {
  const { room, page } = await openRoom(t, (fake) => {
    fake.answers[`POST ${JOIN}`] = { status: 503, body: { code: 'unavailable' } };
  });
  await told(page, 'The line cannot be reached right now');
  room.answers[`POST ${JOIN}`] = { status: 200, body: waitingAnswer() };
  await told(page, 'You are in line');
});

t.test('a withheld visit stays told so, and hears when it is released', async (t) => {
  const { room, page } = await openRoom(t, (fake) => {
    const body = { state: 'withheld', verdict: 'block', number: 7, pollAfterMs: 100 };
    fake.answers[`POST ${JOIN}`] = { status: 201, body };
    fake.answers[`GET ${STATUS}`] = { status: 200, body };
  });
  await told(page, 'We could not let this visit in');
  await eventually('it asks on', () => room.count('GET', STATUS) >= 2);
  t.equal(room.openStreams(), 0);
  room.answers[`GET ${STATUS}`] = { status: 200, body: waitingAnswer() };
  await told(page, 'You are in line');
  await streaming(room);
});

t.test('a room that is not open yet is joined when it opens', async (t) => {
  const opensAtMs = Date.now() + 3_600_000;
  const { room, page } = await openRoom(
    t,
    (fake) => {
      fake.view = fakeView({ state: 'notOpen', opensAtMs });
      fake.answers[`POST ${JOIN}`] = { status: 403, body: { code: 'room-not-open', opensAtMs } };
    },
    { clock: true },
  );
  await told(page, 'Not open yet');
  await eventually('it was refused', () => room.count('POST', JOIN) === 1);
  await told(page, 'Not open yet');
  room.answers[`POST ${JOIN}`] = { status: 201, body: waitingAnswer() };
  // An hour, and the three seconds over which a crowd is spread.
  await page.clock.fastForward('01:00:04');
  await told(page, 'You are in line');
  t.equal(room.count('POST', JOIN), 2);
});

t.test('a notice of the operators is shown as text, and taken away', async (t) => {
  const { room, page } = await openRoom(t, () => {});
  await streaming(room);
  room.send('notice', { id: 'n1', text: 'Doors <b>open</b> at 7', level: 'warn' });
  await page.getByText('Doors <b>open</b> at 7').waitFor();
  t.equal(await page.getByRole('status').getAttribute('data-level'), 'warn');
  room.send('notice', { id: 'n2', text: '', level: 'info' });
  await page.getByRole('status').waitFor({ state: 'hidden' });
});

t.test('without JavaScript the form joins, enters and leaves', async (t) => {
  const { room, page } = await openRoom(t, () => {}, { javaScript: false });
  t.equal(room.count('POST', JOIN), 0, 'opening the page joins nothing');
  room.view = fakeView({ state: 'waiting', number: 12345, position: 1234, etaSeconds: [240, 420] });
  await page.getByRole('button', { name: 'Join the line' }).click();
  await told(page, 'You are in line');
  await page.locator('footer noscript').waitFor();
  t.match(await page.locator('footer noscript').textContent(), /refreshes itself every 10 seconds/);
  const giveUp = page.getByRole('button', { name: 'Give up my place' });
  room.answers['POST /rooms/demo'] = { status: 303, headers: { location: '/inside' } };
  await eventually('the place is given up', async () => {
    if (page.url().endsWith('/inside')) return true;
    // The page refreshes itself, and is closed up again then: a click may miss, which is a no, or be made twice.
    if (!(await giveUp.isVisible())) await page.locator('summary').click({ timeout: 5000 });
    await giveUp.click({ timeout: 5000 });
    return page.url().endsWith('/inside');
  });
  const posted = room.seen.filter(({ method }) => method === 'POST');
  t.same(
    [...new Set(posted.map(({ path, body }) => `${path} ${body}`))],
    ['/rooms/demo act=join&returnTo=%2Fdemo', '/rooms/demo act=leave&returnTo=%2Fdemo'],
  );
  room.view = fakeView({ state: 'promoted', returnTo: '/inside', claimDeadlineMs: Date.now() + 45_000 });
  await page.goto(`${room.url}/demo`);
  await page.getByRole('button', { name: 'Enter now' }).click();
  await page.waitForURL('**/inside');
});

t.test('where motion is not wanted nothing glides', async (t) => {
  const { room, page } = await openRoom(t, () => {});
  await page.emulateMedia({ reducedMotion: 'reduce' });
  await streaming(room);
  room.send('position', { position: 1000, ahead: 999, perMinute: 1200, nextMs: 20_000 });
  await eventually('it is set', async () => (await bigNumber(page)) === 1000);
});

t.test('no page logged an error, so nothing broke the policy', async (t) => {
  t.same(faults, []);
});
