// How the pages look, as far as a machine can see it: nothing is cut off on a small screen or with large text, and
// every text can be read in light and in dark. People looked at the rest.

import t from 'tap';
import { renderProblemPage } from '../../gateway/page/page.ts';
import { launchChromium } from '../support/chromium.ts';
import { fakeView, startFakeRoom } from '../support/fake-room.ts';

const browser = await launchChromium();
t.teardown(() => browser?.close());
t.setTimeout(900_000);

/** Relative luminance and contrast (WCAG 2.2, 1.4.3), of what is really painted behind each text. */
const faintTexts = `(() => {
  const probe = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = (color) => {
    probe.clearRect(0, 0, 1, 1);
    probe.fillStyle = color;
    probe.fillRect(0, 0, 1, 1);
    return [...probe.getImageData(0, 0, 1, 1).data];
  };
  const luminance = ([r, g, b]) => {
    const part = (value) => (value / 255 <= 0.03928 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const color = rgba(getComputedStyle(at).backgroundColor);
      if (color[3] === 255) return color;
    }
    return rgba(getComputedStyle(document.documentElement).backgroundColor);
  };
  const faint = [];
  for (const node of document.querySelectorAll('h1, h2, p, dt, dd, button, a, summary, strong')) {
    if (!node.checkVisibility() || node.textContent.trim() === '') continue;
    const [a, b] = [luminance(rgba(getComputedStyle(node).color)), luminance(behind(node))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) faint.push(node.textContent.trim() + ' ' + ratio.toFixed(2));
  }
  return faint;
})()`;

t.test('every state fits small screens and large text, and can be read in light and dark', async (t) => {
  const room = await startFakeRoom();
  t.teardown(() => room.close());
  const now = Date.now();
  const views = [
    fakeView({ title: 'A very long name of a festival in Llanfairpwllgwyngyllgogerychwyrndrobwll' }),
    fakeView({
      state: 'waiting',
      number: 12_345_678,
      position: 1_234_567,
      etaSeconds: [5400, 9000],
      progress: 0.3,
      notice: { text: 'Section A is sold out.', level: 'info' },
    }),
    fakeView({ state: 'withheld', verdict: 'block' }),
    fakeView({ state: 'parked', missed: true, number: 7 }),
    fakeView({ state: 'promoted', claimDeadlineMs: now + 60_000 }),
    fakeView({ state: 'notOpen', opensAtMs: now + 90 * 60_000 }),
    fakeView({ state: 'recovering', number: 7 }),
  ];
  for (const scheme of ['light', 'dark'] as const) {
    const context = await browser!.newContext({ colorScheme: scheme });
    context.setDefaultTimeout(120_000);
    t.teardown(() => context.close());
    const page = await context.newPage();
    // Pages that nobody looks at join nothing, so each stays as it was made.
    await page.addInitScript("Object.defineProperty(document, 'visibilityState', { get: () => 'hidden' })");
    const check = async (name: string): Promise<void> => {
      for (const [width, zoom] of [
        [390, 1],
        [320, 1],
        [390, 2],
        [1280, 2],
      ] as const) {
        await page.setViewportSize({ width, height: 844 });
        await page.evaluate(
          (size) => {
            document.documentElement.style.fontSize = size;
          },
          `${zoom * 100}%`,
        );
        const over = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
        t.ok(over <= 0, `${name} at ${width} px, text ${zoom * 100} %: ${over} px too wide`);
      }
      t.same(await page.evaluate(faintTexts), [], `${name}, ${scheme}: contrast`);
    };
    for (const view of views) {
      room.view = view;
      await page.goto(`${room.url}/demo`);
      await check(view.state);
    }
    const problem = renderProblemPage({
      status: 502,
      title: 'The sale is not answering. Try soon.',
      requestId: 'r',
    });
    await page.route('**/problem', (route) => route.fulfill({ contentType: 'text/html', body: problem }));
    await page.goto(`${room.url}/problem`);
    await check('problem');
  }
});
