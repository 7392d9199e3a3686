// What was done, in words. Also used for the recent changes of one room.

import { get } from './api.js';
import { el, formatNumber, showProblem, timeNode } from './dom.js';

const NAMES = {
  newUsersPerMinute: 'New users a minute',
  totalActiveUsers: 'People inside at most',
  burst: 'Burst',
  queueAll: 'Everyone queues',
  suspended: 'Suspended',
  title: 'Title',
  opensAt: 'Opens at',
  closesAt: 'Closes at',
  queueingMethod: 'Order',
  sale: 'Sale',
};
const ACTIONS = {
  'room.create': 'made the room',
  'room.change': 'changed settings',
  'room.suspend': 'suspended the room',
  'room.resume': 'resumed the room',
  'notice.send': 'sent a message',
  'notice.clear': 'took the message down',
  'decision.release': 'released a place',
  'operator.create': 'added an operator',
  'operator.disable': 'disabled an operator',
};

export const nameOf = (field) => NAMES[field] ?? field;
const wordsOf = (value) =>
  typeof value === 'boolean'
    ? value
      ? 'on'
      : 'off'
    : typeof value === 'number'
      ? formatNumber(value)
      : typeof value === 'string'
        ? value
        : JSON.stringify(value);

const detailOf = ({ action, detail }) => {
  if (action === 'room.change')
    return Object.entries(detail.changes ?? {})
      .map(([field, { from, to }]) => `${nameOf(field)}: ${wordsOf(from)} → ${wordsOf(to)}`)
      .join(' · ');
  if (action === 'notice.send') return `“${detail.text}”`;
  if (action === 'decision.release')
    return `Number ${formatNumber(detail.number)}, ${detail.verdict}: ${detail.outcome === 'released' ? 'back in the line' : 'no longer withheld'}`;
  if (action.startsWith('operator.')) return [detail.name, detail.role].filter(Boolean).join(', ');
  return '';
};

export const auditItem = (row, { withRoom = false } = {}) => {
  const detail = detailOf(row);
  return el(
    'li',
    {},
    el('span', {
      class: 'what',
      text: `${row.operator} ${ACTIONS[row.action] ?? row.action}${withRoom && row.room !== '' ? ` in ${row.room}` : ''}`,
    }),
    timeNode(row.atMs),
    detail === '' ? undefined : el('span', { class: 'detail', text: detail }),
  );
};

const PAGE = 50;

export const auditView = (main) => {
  const list = el('ol', { class: 'log' });
  const verdict = el('span', { class: 'chip', role: 'status', text: '' });
  verdict.hidden = true;
  const more = el('button', { type: 'button', text: 'Show older' });
  const moreRow = el('div', { class: 'more', hidden: true }, more);
  let last;
  const load = async () => {
    try {
      const { audit } = await get(`/v1/audit?limit=${PAGE}${last === undefined ? '' : `&before=${last}`}`);
      list.append(...audit.map((row) => auditItem(row, { withRoom: true })));
      last = audit.at(-1)?.seq ?? last;
      moreRow.hidden = audit.length < PAGE;
      if (list.childElementCount === 0)
        list.append(el('li', { class: 'muted', text: 'Nothing has been changed yet.' }));
    } catch (error) {
      showProblem(error);
    }
  };
  const verify = async () => {
    try {
      const found = await get('/v1/audit/verify');
      const intact = found.outcome === 'intact';
      verdict.className = `chip dot ${intact ? 'ok' : 'bad'}`;
      verdict.textContent = intact
        ? `Intact: ${formatNumber(found.rows)} entries`
        : `Broken at entry ${found.seq}: ${found.says}`;
      verdict.hidden = false;
    } catch (error) {
      showProblem(error);
    }
  };
  more.addEventListener('click', load);
  main.replaceChildren(
    el(
      'div',
      { class: 'page-head' },
      el(
        'div',
        {},
        el('h1', { text: 'Audit' }),
        el('p', { class: 'muted', text: 'Everything operators did, as a chain that shows tampering.' }),
      ),
      el(
        'div',
        { class: 'actions' },
        verdict,
        el('button', { type: 'button', text: 'Verify the chain', onclick: verify }),
      ),
    ),
    el('div', { class: 'card' }, list),
    moreRow,
  );
  load();
};
