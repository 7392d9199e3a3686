// One room: its numbers as they change (an event stream, about once a second), the last fifteen minutes, and what
// an operator can do about it.

import { get, post } from './api.js';
import { auditItem } from './audit.js';
import { createChart } from './chart.js';
import { createControls } from './controls.js';
import {
  announce,
  ask,
  el,
  formatNumber,
  formatWhen,
  showProblem,
  stateChip,
  stateWords,
  toast,
} from './dom.js';
import { createMessages } from './messages.js';
import { createRecovery } from './recovery.js';

const METHODS = {
  fifo: 'First come, first served',
  random: 'At random',
  passthrough: 'Nobody waits',
  reject: 'Nobody gets in',
};

/** How long live numbers may be missing before it is said. */
const CHECK_MS = 3000;

/** A big number with what it is measured against. */
const createNumber = ({ label, swatch, meter }) => {
  const figure = el('span', { text: '–' });
  const of = el('span', { class: 'of' });
  const note = el('p', { class: 'note' });
  const fill = el('i');
  const track = el('div', { class: `meter ${swatch ?? ''}`, 'aria-hidden': 'true' }, fill);
  return {
    node: el(
      'div',
      { class: 'card number' },
      el('p', { class: 'label' }, swatch ? el('i', { class: `swatch ${swatch}` }) : undefined, label),
      el('p', { class: 'value' }, figure, of),
      meter ? track : undefined,
      note,
    ),
    set({ value, max, says }) {
      figure.textContent = formatNumber(value);
      of.textContent = max === undefined ? '' : `of ${formatNumber(max)}`;
      note.textContent = says;
      if (max === undefined) return;
      fill.style.width = `${Math.min(100, (value / max) * 100)}%`;
      track.classList.toggle('over', value > max);
    },
  };
};

/** What people outside can recompute the sale from; the server sends it piece by piece, as a file. */
const ledgerLink = (path, sale) =>
  el('a', { href: `${path}/sales/${sale}/ledger`, download: '', text: 'Download the sale’s ledger' });

/** How often the far end of a waiting time held; nine in ten should. Nothing while none has become known. */
const estimateWords = ({ right, total }) => {
  if (total === 0) return '';
  // Rounded down, so that 100 % is said only when it is so.
  const percent = (Math.floor((1000 * right) / total) / 10).toFixed(1);
  return `Estimates: ${Math.round((10 * right) / total)} of 10 held (${percent} % of ${formatNumber(total)})`;
};

const fact = (name, value) => el('div', {}, el('dt', { text: name }), el('dd', { text: value }));

export const roomView = (main, { me, argument: room }) => {
  const path = `/v1/rooms/${room}`;
  const mayTune = me.role === 'operator' || me.role === 'admin';
  const title = el('h1', { text: room });
  const chip = el('span', {}, stateChip(undefined));
  const toggle = el('button', { type: 'button', hidden: true });
  const banner = el('p', { class: 'banner', role: 'alert', hidden: true });
  const waiting = createNumber({ label: 'Waiting', swatch: 'waiting' });
  const inside = createNumber({ label: 'Inside', swatch: 'inside', meter: true });
  const rate = createNumber({ label: 'Let in, last minute', swatch: 'rate', meter: true });
  const withheld = createNumber({ label: 'Withheld' });
  const recovery = createRecovery();
  const chart = createChart();
  const estimates = el('p', {
    class: 'note',
    hidden: true,
    title:
      'How many were called before the far end of the waiting time they were told. Nine in ten should be.',
  });
  const facts = el('dl', { class: 'facts' });
  const ledger = el('p', { hidden: !mayTune });
  const changes = el('ol', { class: 'log' });
  let state = '';
  let current;
  let triedVersion = 0;

  const loadChanges = async () => {
    try {
      const { audit } = await get(`/v1/audit?room=${room}&limit=8`);
      changes.replaceChildren(...audit.map((row) => auditItem(row)));
      if (audit.length === 0)
        changes.append(el('li', { class: 'muted', text: 'Nothing has been changed yet.' }));
    } catch (error) {
      showProblem(error);
    }
  };

  const showSettings = (row) => {
    current = row;
    const { settings } = row;
    title.textContent = settings.title;
    document.title = `${settings.title} · Anteroom`;
    toggle.hidden = !mayTune;
    toggle.textContent = settings.suspended ? 'Resume' : 'Suspend';
    toggle.className = settings.suspended ? 'primary' : 'danger';
    facts.replaceChildren(
      fact('Room', room),
      fact('Guards', settings.routes.join(', ') || 'nothing yet'),
      fact('Passes without a session', settings.bypass.map(({ name }) => name).join(', ') || 'nothing'),
      fact('Order', METHODS[settings.queueingMethod] ?? settings.queueingMethod),
      fact('Opens', settings.opensAt > 0 ? formatWhen(settings.opensAt) : 'It is open'),
      fact('Closes', settings.closesAt > 0 ? formatWhen(settings.closesAt) : 'No closing time'),
      fact(
        'Visit',
        `${formatNumber(settings.sessionSeconds)} s, ${settings.sessionRenewal ? 'renewed' : 'fixed'}`,
      ),
      fact('Time to claim', `${formatNumber(settings.claimSeconds)} s`),
      fact('Sale', `№ ${formatNumber(settings.sale)}`),
      fact('Version', formatNumber(row.version)),
    );
    ledger.replaceChildren(ledgerLink(path, settings.sale));
    controls.show(row);
  };
  const reload = async () => {
    try {
      showSettings(await get(path));
      loadChanges();
    } catch (error) {
      showProblem(error);
    }
  };
  const controls = createControls({
    path,
    mayTune,
    changed(row) {
      showSettings(row);
      loadChanges();
    },
    reload,
  });
  const messages = createMessages({ path, mayTune, changed: loadChanges });

  const showLive = (live) => {
    banner.hidden = true;
    const [words] = stateWords(live);
    if (state !== words) {
      chip.replaceChildren(stateChip(live));
      if (state !== '') announce(`The room is now: ${words}`);
      state = words;
    }
    waiting.set({
      value: live.waiting + live.parked,
      says:
        live.parked > 0 ? `${formatNumber(live.parked)} of them away, place kept` : 'All of them are here',
    });
    inside.set({
      value: live.active + live.promoted,
      max: live.totalActiveUsers,
      says:
        live.promoted > 0
          ? `${formatNumber(live.promoted)} called and on their way`
          : 'Nobody is on their way in',
    });
    rate.set({
      value: live.promotedLastMinute,
      max: live.newUsersPerMinute,
      says: `${formatNumber(live.promotedTotal)} since the room began`,
    });
    withheld.set({
      value: live.withheld,
      says: live.withheld > 0 ? 'Review them under Security' : 'Nobody is held back',
    });
    recovery.show(live);
    chart.add(live);
    estimates.textContent = estimateWords(live.calibration);
    estimates.hidden = estimates.textContent === '';
    messages.show(live.notice);
    // Somebody else changed the settings: show theirs, unless this operator is in the middle of a change.
    if (
      current !== undefined &&
      live.version > Math.max(current.version, triedVersion) &&
      !controls.isDirty()
    ) {
      triedVersion = live.version;
      reload();
    }
  };

  toggle.addEventListener('click', async () => {
    const suspending = !current.settings.suspended;
    const sure = await ask({
      title: suspending ? 'Suspend this room?' : 'Resume this room?',
      body: [
        el('p', {
          class: 'muted',
          text: suspending
            ? 'Nobody is let in until you resume. People keep their places, can still join, and those inside stay.'
            : 'People are let in again at once, at the rate and cap that are set.',
        }),
      ],
      yes: suspending ? 'Suspend' : 'Resume',
      danger: suspending,
    });
    if (!sure) return;
    toggle.disabled = true;
    try {
      const row = await post(`${path}/${suspending ? 'suspend' : 'resume'}`);
      toast(suspending ? 'The room is suspended' : 'The room is open again', {
        detail: row.applied ? '' : 'Saved; it takes effect as soon as Redis is back.',
      });
      showSettings(row);
      loadChanges();
    } catch (error) {
      showProblem(error);
    }
    toggle.disabled = false;
  });

  main.replaceChildren(
    el(
      'div',
      { class: 'page-head' },
      el('div', {}, el('div', { class: 'actions' }, title, chip)),
      el('div', { class: 'actions' }, toggle),
    ),
    banner,
    recovery.node,
    el('div', { class: 'numbers' }, waiting.node, inside.node, rate.node, withheld.node),
    el(
      'div',
      { class: 'room' },
      el(
        'section',
        { class: 'card chart-card' },
        el('div', { class: 'card-head' }, el('h2', { text: 'Last 15 minutes' }), chart.legend),
        chart.node,
        estimates,
      ),
      controls.node,
      messages.node,
      el(
        'section',
        { class: 'card' },
        el('div', { class: 'card-head' }, el('h2', { text: 'About this room' })),
        facts,
        ledger,
      ),
      el(
        'section',
        { class: 'card wide' },
        el('div', { class: 'card-head' }, el('h2', { text: 'Recent changes' })),
        changes,
      ),
    ),
  );

  reload();
  get(`${path}/history?minutes=15`).then(({ samples }) => chart.fill(samples), showProblem);
  const blind = (text) => {
    banner.textContent = text;
    banner.hidden = false;
  };
  let events;
  let left = false;
  const connect = () => {
    events = new EventSource(`${path}/live`);
    events.addEventListener('live', ({ data }) => showLive(JSON.parse(data)));
    events.addEventListener('unavailable', () =>
      blind('Redis cannot be reached, or is restoring this room. The numbers are those of before.'),
    );
    events.addEventListener('error', () => setTimeout(check, CHECK_MS));
  };
  // The server closes the stream every few minutes so that the sign-in is checked again, and the browser comes back
  // by itself. Only a longer silence is worth a word; after a refusal the browser has given up, and we begin anew.
  const check = () => {
    if (left || events.readyState === EventSource.OPEN) return;
    blind('Live numbers are interrupted. Connecting again…');
    if (events.readyState !== EventSource.CLOSED) return;
    get('/v1/me').catch(() => undefined); // Someone signed out meanwhile is shown the sign-in by this.
    connect();
  };
  connect();
  return () => {
    left = true;
    events.close();
    chart.stop();
  };
};
