// Decisions that were not `allow`, with their reasons in words, and giving a place back. Agents and reasons came
// from strangers; they are shown as text.

import { get, post } from './api.js';
import { announce, el, formatNumber, showProblem, timeNode, toast } from './dom.js';

const PAGE = 50;
const VERDICTS = {
  block: ['Blocked', 'bad'],
  challenge: ['Challenged', 'warn'],
  tarpit: ['Slowed down', 'accent'],
};

const option = (value, text, chosen) => el('option', { value, text, selected: value === chosen });

const stateOf = (withheld) =>
  withheld
    ? undefined
    : el('span', { class: 'chip ok', text: 'Not withheld', title: 'Released, gone, or already let in' });

const row = (decision, reload) => {
  const [words, kind] = VERDICTS[decision.verdict] ?? [decision.verdict, ''];
  const end = el('td', { class: 'end' });
  const button = el('button', {
    class: 'little',
    type: 'button',
    text: 'Release',
    'aria-label': `Release number ${decision.number} in ${decision.room}`,
  });
  button.addEventListener('click', async () => {
    button.disabled = true;
    try {
      const { outcome } = await post(`/v1/decisions/${encodeURIComponent(decision.decision)}/release`);
      const released = outcome === 'released';
      toast(
        released
          ? `Number ${formatNumber(decision.number)} is back in the line, with its own place.`
          : `Number ${formatNumber(decision.number)} was no longer withheld.`,
      );
      reload();
    } catch (error) {
      button.disabled = false;
      showProblem(error);
    }
  });
  end.append(decision.withheld ? button : stateOf(false));
  return el(
    'tr',
    {},
    el('td', {}, timeNode(decision.at), el('div', { class: 'muted small', text: decision.room })),
    el('td', {}, el('span', { class: `chip ${kind}`, text: words })),
    el(
      'td',
      {},
      el(
        'ul',
        { class: 'reasons' },
        decision.reasons.map(({ words: why }) => el('li', { text: why })),
      ),
      decision.weight > 0
        ? el('div', { class: 'muted small', text: `Weight ${decision.weight}` })
        : undefined,
    ),
    el(
      'td',
      {},
      el('div', { class: 'mono', text: decision.addressPrefix }),
      el('div', { class: 'agent', text: decision.agent || 'No agent given' }),
    ),
    el('td', {}, el('span', { class: 'muted place', text: `№ ${formatNumber(decision.number)}` })),
    end,
  );
};

export const securityView = (main, { argument }) => {
  const room = el('select', { 'aria-label': 'Room' }, option('', 'All rooms'));
  const verdict = el(
    'select',
    { 'aria-label': 'Verdict' },
    option('', 'All verdicts'),
    Object.entries(VERDICTS).map(([value, [text]]) => option(value, text)),
  );
  const body = el('tbody');
  const table = el(
    'table',
    {},
    el(
      'thead',
      {},
      el(
        'tr',
        {},
        ['When', 'Verdict', 'Why', 'Who', 'Number', ''].map((text) => el('th', { scope: 'col', text })),
      ),
    ),
    body,
  );
  const empty = el(
    'div',
    { class: 'empty', hidden: true },
    el('strong', { text: 'Nobody was held back' }),
    'Decisions that were not “allow” appear here with their reasons.',
  );
  let turn = 0;
  const load = async () => {
    turn += 1;
    const mine = turn;
    const query = new URLSearchParams({ limit: String(PAGE) });
    if (room.value !== '') query.set('room', room.value);
    if (verdict.value !== '') query.set('verdict', verdict.value);
    try {
      const { decisions } = await get(`/v1/decisions?${query}`);
      // Only the answer to the newest question counts.
      if (mine !== turn) return;
      // The button that was pressed goes; the keyboard must not fall out of the page with it.
      if (body.contains(document.activeElement)) main.focus({ preventScroll: true });
      body.replaceChildren(...decisions.map((decision) => row(decision, load)));
      empty.hidden = decisions.length > 0;
      table.hidden = decisions.length === 0;
      announce(`${decisions.length} decisions shown`);
    } catch (error) {
      showProblem(error);
    }
  };
  const loadRooms = async () => {
    try {
      const { rooms } = await get('/v1/rooms');
      room.append(...rooms.map(({ room: id, settings }) => option(id, settings.title, argument)));
      room.value = argument ?? '';
    } catch (error) {
      showProblem(error);
    }
    load();
  };
  room.addEventListener('change', load);
  verdict.addEventListener('change', load);
  main.replaceChildren(
    el(
      'div',
      { class: 'page-head' },
      el(
        'div',
        {},
        el('h1', { text: 'Security' }),
        el('p', {
          class: 'muted',
          text: 'Who was held back and why. Release the innocent; their place is kept.',
        }),
      ),
      el(
        'div',
        { class: 'filters' },
        room,
        verdict,
        el('button', { type: 'button', text: 'Refresh', onclick: load }),
      ),
    ),
    el('div', { class: 'card table-card' }, table, empty),
  );
  loadRooms();
};
