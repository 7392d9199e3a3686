// What the waiting page does where JavaScript runs: joins by itself, keeps every number moving, enters when it is
// the fan's turn, and says so to those who look elsewhere or listen. Joined with words.js and the browser client
// into one file at start (assets.ts), so the two imports below are for readers and tools.
//
// Promises: nothing is joined before somebody looks at the page; a position never rises on screen unless the
// server gave a reason; nothing is claimed while the page is hidden.

import { createAnteroom } from '/rooms/_/client.js';
import { describe } from '/rooms/_/words.js';

const view = JSON.parse(document.body.dataset.view);
const element = (id) => document.getElementById(id);
const visible = () => document.visibilityState === 'visible';
const still = matchMedia('(prefers-reduced-motion: reduce)');

let clockAheadMs = view.nowMs - Date.now();
const nowMs = () => Date.now() + clockAheadMs;

// --- The moving number --------------------------------------------------------------------------------------
// `shown` is what stands on screen. An update sets where it must go, and it glides there; after that it follows the
// client, which moves it on between updates.
const GLIDE_MS = 900;
let shown = view.position;
let from = shown;
let update = { position: shown, atMs: Date.now() };

/** The first position of this visit, kept over reloads, so that the bar does not begin anew. */
const firstPosition = () => {
  try {
    const name = `anteroom:${view.room}:from`;
    const [number, kept] = JSON.parse(sessionStorage.getItem(name) ?? '[]');
    if (number === view.number && kept >= view.position) return kept;
    sessionStorage.setItem(name, JSON.stringify([view.number, view.position]));
  } catch {
    // No storage here: the bar begins where the page did.
  }
  return Math.max(view.position, update.first ?? 0);
};

const move = () => {
  if (shown === undefined) return;
  const goal = still.matches ? update.position : (room.position() ?? shown);
  const part = still.matches ? 1 : Math.min(1, (Date.now() - update.atMs) / GLIDE_MS);
  const before = shown;
  shown = Math.round(from + (goal - from) * (1 - (1 - part) ** 3));
  if (shown !== before) render();
  if (part < 1) requestAnimationFrame(move);
};

const moveTo = (message) => {
  const { position, order, waiting, etaSeconds, progress = view.progress } = message;
  if (order) {
    shown = undefined;
    return Object.assign(view, { order, waiting, position: shown });
  }
  Object.assign(view, { position, etaSeconds, progress, order });
  update = { position, atMs: Date.now(), first: update.first };
  update.first = firstPosition();
  from = shown ?? position;
  shown ??= position;
  move();
};

// --- What is on the page ------------------------------------------------------------------------------------
const text = (id, words) => {
  const node = element(id);
  if (node.textContent !== words) node.textContent = words;
};
const show = (id, shownNow) => {
  element(id).hidden = !shownNow;
};
/** An element that is there only while it has something to say. */
const fill = (id, words, box = id) => {
  show(box, words !== undefined);
  text(id, words ?? '');
};

function render() {
  const position = shown;
  const progress =
    position === undefined
      ? 0
      : Math.max(view.progress ?? 0, 1 - position / ((update.first ?? position) + 1));
  const said = describe({
    ...view,
    position,
    progress,
    nowMs: nowMs(),
  });
  const focused = document.activeElement;
  document.body.dataset.state = view.state;
  document.body.dataset.tone = said.tone;
  element('glyph').setAttribute('d', said.glyph);
  show('mark', said.big === undefined);
  text('headline', said.headline);
  text('lead', said.lead);
  fill('big', said.big, 'place');
  text('caption', said.caption ?? '');
  show('progress', said.progress !== undefined);
  element('progress').value = Math.round(1000 * (said.progress ?? 0));
  for (const id of ['ahead', 'eta', 'number']) fill(id, said[id], `${id}-row`);
  fill('safe', said.safe);
  show('appeal', said.appeal);
  fill('button', said.button?.label, 'act-form');
  if (said.button) element('act').value = said.button.act;
  show('leave', said.leave);
  document.title = calling && !visible() ? `(!) It is your turn · ${view.title}` : said.docTitle;
  // Whoever stood on a control that went away is put where the news is.
  if (focused !== document.body && focused?.closest('[hidden]')) element('headline').focus();
}

// --- What is said aloud -------------------------------------------------------------------------------------
const SAY_EVERY_MS = 30_000;
let saidAtMs = 0;
const say = (words, atOnce) => {
  if (!atOnce && Date.now() - saidAtMs < SAY_EVERY_MS) return;
  saidAtMs = Date.now();
  text('said', words);
};

const become = (change) => {
  const before = element('headline').textContent;
  Object.assign(view, change);
  render();
  const { headline, lead } = describe({ ...view, position: shown, nowMs: nowMs() });
  if (headline !== before) say(`${headline}. ${lead}`, true);
};

const showNotice = ({ text: words, level }) => {
  show('notice', words !== '');
  element('notice').dataset.level = level === 'warn' || level === 'bad' ? level : 'info';
  text('notice', words);
};

const CONNECTION = {
  connecting: 'Connecting',
  live: 'Live',
  polling: 'Checking every few seconds',
  reconnecting: 'Reconnecting. Your place is kept',
  offline: 'You are offline. Your place is kept',
};
// A short cut is nobody's business; one that lasts is said once, and so is its end.
const LOST_AFTER_MS = 4000;
let lostTimer;
let lostSaid = false;
const showConnection = (state) => {
  show('connection', state);
  element('connection').dataset.connection = state;
  text('connection-words', CONNECTION[state]);
  const lost = state === 'reconnecting' || state === 'offline';
  if (lost) {
    lostTimer ??= setTimeout(() => {
      lostSaid = true;
      say('The connection is lost. Your place is kept, and this page reconnects by itself.', true);
    }, LOST_AFTER_MS);
    return;
  }
  clearTimeout(lostTimer);
  lostTimer = undefined;
  if (lostSaid && state !== 'connecting') say('Connected again.', true);
  lostSaid = lostSaid && state === 'connecting';
};

// --- The visit ----------------------------------------------------------------------------------------------
let calling = false;
let entering = false;

/** Nothing waits for these; only the visitor's own act goes on from here. */
const forgetPlace = () => {
  shown = undefined;
  update = { atMs: 0 };
  for (const name of ['position', 'number', 'progress', 'etaSeconds', 'reason']) delete view[name];
};

const room = createAnteroom({
  room: view.room,
  position: view.position,
  number: view.number,
  onConnection: showConnection,
  onNotice: showNotice,
  onState(message) {
    const { gate, opensAtMs, reason, verdict, number } = message;
    if (message.serverNowMs) clockAheadMs = message.serverNowMs - Date.now();
    // Its own answer to the claim says how that ended.
    if (entering) return;
    // The operators took the line away: everyone goes in.
    if (gate === 'passthrough') return location.assign(view.returnTo);
    let { state } = message;
    if (state === 'waiting' && (gate === 'closed' || gate === 'recovering')) state = gate;
    calling = calling && state === 'promoted';
    become({
      state,
      opensAtMs,
      reason,
      verdict: verdict ?? view.verdict,
      number: number ?? view.number,
      missed: message.missed === true || reason === 'missed',
      suspended: message.suspended ?? (gate ? gate === 'suspended' || gate === 'queueAll' : view.suspended),
      left: false,
      busy: false,
    });
  },
  onPosition(message) {
    moveTo(message);
    if (
      ['new', 'recovering', 'unavailable'].includes(view.state) ||
      (view.state === 'parked' && !view.missed)
    )
      become({ state: 'waiting', busy: false });
    render();
    const { eta, big } = describe({ ...view, nowMs: nowMs() });
    if (view.state === 'waiting' && big) say(`Position ${big}. Estimated wait: ${eta}.`, false);
  },
  onPromoted({ deadlineMs, serverNowMs }) {
    if (serverNowMs) clockAheadMs = serverNowMs - Date.now();
    if (entering) return;
    calling = true;
    become({ state: 'promoted', claimDeadlineMs: deadlineMs, reason: undefined, missed: false, busy: false });
    if (visible()) enter();
    else call();
  },
  onEnded({ reason }) {
    if (entering) return;
    calling = false;
    forgetPlace();
    const missed = reason === 'missed';
    become({
      state: missed ? 'parked' : reason === 'closed' ? 'closed' : 'finished',
      missed,
      left: reason === 'left',
      busy: false,
    });
    show('connection', false);
  },
});

/** For those who look elsewhere: the title says it (render), and a notification where that was allowed before. */
const call = () => {
  try {
    if (globalThis.Notification?.permission === 'granted')
      new Notification('It is your turn', { body: view.title, tag: `anteroom-${view.room}` }).onclick = () =>
        focus();
  } catch {
    // Some phones allow notifications to service workers only; the title has to do.
  }
};

async function enter() {
  if (entering) return;
  entering = true;
  become({ state: 'promoted', busy: true });
  const claimed = await room.claim();
  if (claimed.outcome === 'entered') return location.assign(view.returnTo);
  entering = false;
  calling = false;
  become({ state: 'parked', missed: true, busy: false });
}

const joinAgain = () => {
  forgetPlace();
  become({ state: 'new', busy: true });
  room.join();
};

// --- What people do -----------------------------------------------------------------------------------------
element('act-form').addEventListener('submit', (event) => {
  // Inside already, with no turn to claim: the form goes to the server as it does without JavaScript.
  if (view.state === 'active') return;
  event.preventDefault();
  if (view.state === 'promoted') enter();
  else joinAgain();
});

const dialog = element('leave-dialog');
const summary = element('leave').querySelector('summary');
summary.setAttribute('role', 'button');
summary.setAttribute('aria-haspopup', 'dialog');
summary.addEventListener('click', (event) => {
  event.preventDefault();
  dialog.returnValue = '';
  dialog.showModal();
});
dialog.addEventListener('close', () => {
  if (dialog.returnValue === 'leave') room.leave();
});

document.addEventListener('visibilitychange', () => {
  if (!visible()) return;
  if (view.state === 'promoted' && calling) enter();
  render();
});
// The back button brings a page back as it was left; a visit that has begun is not begun again.
addEventListener('pageshow', (event) => {
  if (event.persisted && entering) location.reload();
});

// One slow clock moves countdowns and the drift; `move` runs on frames only while the number glides.
setInterval(() => {
  if (!visible()) return;
  if (view.state === 'waiting' && shown !== undefined) move();
  if (view.state === 'promoted' || view.opensAtMs) render();
  const late = view.state === 'promoted' && calling && !entering && nowMs() > view.claimDeadlineMs;
  if (late) {
    calling = false;
    become({ state: 'parked', missed: true });
  }
}, 500);

// --- Start --------------------------------------------------------------------------------------------------
const RESTING = ['active', 'finished', 'closed'];
const start = () => {
  if (document.prerendering) document.addEventListener('prerenderingchange', start, { once: true });
  else if (!visible()) document.addEventListener('visibilitychange', start, { once: true });
  else {
    if (view.state === 'new') become({ busy: true });
    room.join();
  }
};
if (view.position !== undefined) {
  update.first = firstPosition();
  render();
}
if (!RESTING.includes(view.state) && !(view.state === 'parked' && view.missed)) start();
