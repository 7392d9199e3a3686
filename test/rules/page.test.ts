// The waiting page as text: what it says in each state, that it is whole without JavaScript, and that nothing from
// outside gets out of its quotes.

import { gunzipSync } from 'node:zlib';
import t from 'tap';
import { createAssets } from '../../gateway/page/assets.ts';
import {
  pageSecurityPolicy,
  renderProblemPage,
  renderWaitingPage,
  type WaitingView,
} from '../../gateway/page/page.ts';
import { clockInWords, etaInWords } from '../../gateway/page/words.js';
import { fakeView } from '../support/fake-room.ts';

const NOW_MS = 1_800_000_000_000;
const page = (more: Partial<WaitingView>): string => renderWaitingPage(fakeView({ nowMs: NOW_MS, ...more }));

/** Only what a reader without JavaScript sees: elements with `hidden` are left out. */
const visibleText = (html: string): string =>
  html
    .replace(/<dialog[\s\S]*<\/dialog>/, '')
    .replace(/<(\w+)[^>]* hidden[ >][\s\S]*?<\/\1>/g, '')
    .replace(/<head>[\s\S]*<\/head>/, '')
    .replace(/<[^>]+>/g, ' ')
    .replace(/\s+/g, ' ');

const STATES: [
  name: string,
  view: Partial<WaitingView>,
  says: RegExp[],
  act: 'join' | 'enter' | undefined,
][] = [
  ['new', { state: 'new' }, [/Join the line/], 'join'],
  [
    'waiting',
    { state: 'waiting', number: 12345, position: 1234, etaSeconds: [240, 420], progress: 0.4 },
    [/You are in line/, /1,234/, /1,233/, /about 4–7 minutes/, /12,345/, /Your place is safe/],
    undefined,
  ],
  ['parked', { state: 'parked', number: 7, position: 3 }, [/Almost there/], undefined],
  ['missed', { state: 'parked', missed: true, number: 7 }, [/You missed your turn/, /place is kept/], 'join'],
  [
    'challenge',
    { state: 'withheld', verdict: 'challenge', reason: 'Too many requests came at once.' },
    [/closer look/, /Too many requests came at once\./, /reference: k7f2qa/],
    undefined,
  ],
  ['tarpit', { state: 'withheld', verdict: 'tarpit' }, [/checking this visit/, /k7f2qa/], undefined],
  ['block', { state: 'withheld', verdict: 'block' }, [/could not let this visit in/, /k7f2qa/], undefined],
  [
    'promoted',
    { state: 'promoted', number: 7, claimDeadlineMs: NOW_MS + 45_000 },
    [/It is your turn/, /0:45/, /Enter now/],
    'enter',
  ],
  ['active', { state: 'active' }, [/You are in/, /Continue/], 'enter'],
  ['finished', { state: 'finished' }, [/visit has ended/, /Join the line again/], 'join'],
  ['closed', { state: 'closed' }, [/sale has closed/], undefined],
  ['notOpen', { state: 'notOpen', opensAtMs: NOW_MS + 600_000 }, [/Not open yet/, /10:00/], undefined],
  [
    'before opening, with a place',
    { state: 'waiting', number: 7, opensAtMs: NOW_MS + 600_000 },
    [/You are in\. We open soon/, /10:00/],
    undefined,
  ],
  ['recovering', { state: 'recovering', number: 7 }, [/Your place is safe/], undefined],
  ['unavailable', { state: 'unavailable' }, [/cannot be reached/], undefined],
  ['suspended', { state: 'waiting', position: 9, suspended: true }, [/The line is paused/], undefined],
];

for (const [name, view, says, act] of STATES)
  t.test(`without JavaScript, ${name} says what it is and offers what can be done`, async (t) => {
    const html = page(view);
    const text = visibleText(html);
    for (const words of says) t.match(text, words);
    const form = /<form id="act-form"[^>]*>/.exec(html)?.[0] ?? '';
    t.match(form, /method="post" action="\/rooms\/demo"/);
    t.equal(
      form.includes(' hidden'),
      act === undefined,
      'the form is there exactly when there is something to do',
    );
    if (act !== undefined) t.match(html, `<input type="hidden" name="act" id="act" value="${act}">`);
    t.match(html, '<input type="hidden" name="returnTo" value="/demo">');
    const resting = ['new', 'active', 'finished', 'closed', 'missed'].includes(name);
    t.equal(/<noscript><meta http-equiv="refresh"/.test(html), !resting, 'what may change refreshes itself');
  });

t.test('whoever waits can leave, in two steps', async (t) => {
  const html = page({ state: 'waiting', number: 7, position: 3 });
  const details = /<details id="leave"[\s\S]*?<\/details>/.exec(html)?.[0] ?? '';
  t.notMatch(details, /<details[^>]* hidden/);
  t.match(details, 'name="act" value="leave"');
  t.match(page({ state: 'closed' }), /<details id="leave"[^>]* hidden/);
});

t.test('the refresh is quicker for those whose turn is near', async (t) => {
  t.match(page({ state: 'waiting', etaSeconds: [600, 900] }), 'content="10"');
  t.match(page({ state: 'waiting', etaSeconds: [20, 40] }), 'content="5"');
});

t.test('nothing from outside is taken for markup', async (t) => {
  const evil = `</script><script>alert(1)</script>"'><img src=x onerror=alert(2)>`;
  const html = page({
    state: 'withheld',
    verdict: 'block',
    title: evil,
    reason: `because of ${evil}`,
    notice: { text: evil, level: evil },
    returnTo: `/demo?a="'><b>&c`,
    reference: evil,
    room: evil,
  });
  t.notMatch(html, '<img');
  t.notMatch(html, 'alert(1)</script>');
  t.notMatch(html, '"><b>');
  t.equal(html.match(/<script/g)?.length, 1);
  t.match(html, 'value="/demo?a=&quot;&#39;&gt;&lt;b&gt;&amp;c"');
  const data = /data-view='([^']*)'/.exec(html)?.[1] ?? '';
  const plain = data
    .replace(/&lt;/g, '<')
    .replace(/&gt;/g, '>')
    .replace(/&#39;/g, "'")
    .replace(/&amp;/g, '&');
  t.equal(JSON.parse(plain).title, evil, 'and it still arrives as it was');
  const problem = renderProblemPage({ status: 404, title: evil, detail: evil, requestId: evil });
  t.notMatch(problem, /<img|<script/);
});

t.test('no script and no style is inline, so the policy can forbid both', async (t) => {
  t.notMatch(pageSecurityPolicy, 'unsafe');
  for (const [, view] of STATES) {
    const html = page(view);
    t.notMatch(html, /<style|\sstyle=|\son\w+=|javascript:/i);
    t.notMatch(html, /<script(?! type="module" src="\/rooms\/_\/page-[0-9a-f]{12}\.js"><)/);
  }
});

t.test(
  'the page with all that it loads is under 16 KB as it travels, and under 36 KB unpacked',
  async (t) => {
    const loaded = createAssets().filter(({ name }) => name !== 'client');
    const sum = (bytes: number[]): number => bytes.reduce((total, one) => total + one, 0);
    const travels = sum(loaded.map(({ zipped }) => zipped.length));
    const unpacked = sum(loaded.map(({ body }) => Buffer.byteLength(body)));
    for (const [name, view] of STATES) {
      const own = Buffer.byteLength(page(view));
      t.ok(travels + own < 16 * 1024, `${name}: ${travels + own} bytes travel`);
      t.ok(unpacked + own < 36 * 1024, `${name}: ${unpacked + own} bytes unpacked`);
    }
    for (const { zipped, body } of loaded) t.equal(gunzipSync(zipped).toString(), body);
  },
);

t.test('assets are named by their content, and the page points at them', async (t) => {
  const [style, script, client] = createAssets();
  t.match(page({}), `href="${style?.path}"`);
  t.match(page({}), `src="${script?.path}"`);
  t.match(client?.body, 'export const createAnteroom');
  t.notMatch(script?.body, /^(import|export)\b/m);
  t.same(createAssets(), [style, script, client], 'every process makes the same');
});

t.test('a problem is told in the same style, with a way on where there is one', async (t) => {
  const gone = renderProblemPage({
    status: 502,
    title: 'The sale is not answering. Try again soon.',
    requestId: 'r1',
  });
  t.match(gone, '<h1 id="headline">The sale is not answering</h1>');
  t.match(gone, 'Try again</a>');
  t.match(gone, 'Reference r1');
  const missing = renderProblemPage({
    status: 404,
    title: 'There is nothing at this address.',
    requestId: 'r2',
  });
  t.notMatch(missing, 'Try again</a>');
});

t.test('a wait is told as a range that is no more exact than it can be', async (t) => {
  t.equal(etaInWords(undefined), 'working it out');
  t.equal(etaInWords([0, 0]), 'less than a minute');
  t.equal(etaInWords([20, 60]), 'less than a minute');
  t.equal(etaInWords([20, 61]), 'about 1–2 minutes');
  t.equal(etaInWords([240, 420]), 'about 4–7 minutes');
  t.equal(etaInWords([60, 60.5]), 'about 1–2 minutes');
  t.equal(etaInWords([300, 300]), 'about 5 minutes');
  t.equal(etaInWords([5400, 9000]), 'about 2–3 hours');
  t.equal(etaInWords([90_000, 99_000]), 'more than a day');
});

t.test('time left is told as a clock, and never below zero', async (t) => {
  t.equal(clockInWords(-5), '0:00');
  t.equal(clockInWords(44_001), '0:45');
  t.equal(clockInWords(727_000), '12:07');
  t.equal(clockInWords(10_930_000), '3:02:10');
  t.equal(clockInWords(3 * 86_400_000), '3 days');
});
