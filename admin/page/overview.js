// All rooms at a glance, read again every second while the page is looked at.

import { get } from './api.js';
import { el, formatNumber, stateChip } from './dom.js';

const POLL_MS = 1000;

const fact = (name, value) => el('div', {}, el('dt', { text: name }), el('dd', { text: value }));

const card = ({ room, settings, live }) =>
  el(
    'a',
    { class: 'card room-card', href: `#/rooms/${room}` },
    el('div', { class: 'card-head' }, el('h2', { text: settings.title }), stateChip(live)),
    el('p', {
      class: 'muted small',
      text: `${room}${settings.routes.length > 0 ? ` · guards ${settings.routes.join(', ')}` : ''}`,
    }),
    el(
      'dl',
      { class: 'trio' },
      fact('Waiting', live ? formatNumber(live.waiting + live.parked) : '–'),
      fact('Inside', live ? formatNumber(live.active + live.promoted) : '–'),
      fact('Last minute', live ? formatNumber(live.promotedLastMinute) : '–'),
    ),
  );

export const overviewView = (main) => {
  const list = el('div', { class: 'rooms' });
  const banner = el('p', { class: 'banner', role: 'alert', hidden: true });
  main.replaceChildren(
    el(
      'div',
      { class: 'page-head' },
      el(
        'div',
        {},
        el('h1', { text: 'Rooms' }),
        el('p', { class: 'muted', text: 'Every waiting room and what is happening in it.' }),
      ),
    ),
    banner,
    list,
  );
  let timer;
  let left = false;
  let shown = '';
  const draw = ({ rooms }) => {
    const text = JSON.stringify(rooms.map(({ live, ...rest }) => [rest, live && { ...live, atMs: 0 }]));
    if (text === shown) return;
    shown = text;
    // Cards are drawn anew, so the keyboard's place is kept by hand.
    const focused = list.contains(document.activeElement)
      ? document.activeElement.getAttribute('href')
      : undefined;
    list.replaceChildren(...rooms.map(card));
    if (rooms.length === 0)
      list.replaceChildren(
        el(
          'div',
          { class: 'card empty' },
          el('strong', { text: 'No rooms yet' }),
          'Make one with POST /v1/rooms; it appears here at once.',
        ),
      );
    for (const link of list.querySelectorAll('a'))
      if (link.getAttribute('href') === focused) link.focus({ preventScroll: true });
  };
  const poll = async () => {
    try {
      if (!document.hidden) draw(await get('/v1/rooms'));
      banner.hidden = true;
    } catch (error) {
      banner.textContent = error.title;
      banner.hidden = false;
    }
    if (!left) timer = setTimeout(poll, POLL_MS);
  };
  poll();
  return () => {
    left = true;
    clearTimeout(timer);
  };
};
