// The form that tunes a room. It sends only what was changed, with the version that was looked at; a conflict
// shows the newer settings, and a steep rise asks for a second look.

import { patch } from './api.js';
import { nameOf } from './audit.js';
import { ask, el, field, formatNumber, showProblem, toast } from './dom.js';

const number = (max, min = 1) =>
  el('input', {
    type: 'number',
    inputmode: 'numeric',
    min: String(min),
    max: String(max),
    step: '1',
    required: true,
  });

const riseItem = ({ field: name, from, to }) => {
  const shown = (value) => (typeof value === 'number' ? formatNumber(value) : value);
  return el(
    'li',
    {},
    el('span', { text: nameOf(name) }),
    el('strong', { text: `${shown(from)} → ${shown(to)}` }),
  );
};

export const createControls = ({ path, mayTune, changed, reload }) => {
  const inputs = {
    newUsersPerMinute: number(6_000_000),
    totalActiveUsers: number(10_000_000),
    burst: number(1_000_000, 0),
    queueAll: el('input', {
      type: 'checkbox',
      role: 'switch',
      id: 'queue-all',
      'aria-describedby': 'queue-all-hint',
    }),
  };
  const status = el('span', { class: 'muted small', role: 'status' });
  const undo = el('button', { class: 'quiet', type: 'button', text: 'Undo' });
  const apply = el('button', { class: 'primary', type: 'submit', text: 'Apply' });
  let row;

  const read = (name) => {
    const input = inputs[name];
    return input.type === 'checkbox' ? input.checked : input.valueAsNumber;
  };
  const changes = () => {
    const found = {};
    if (row === undefined) return found;
    for (const name of Object.keys(inputs))
      if (!Object.is(read(name), row.settings[name])) found[name] = read(name);
    return found;
  };
  const refresh = () => {
    const count = Object.keys(changes()).length;
    apply.disabled = count === 0 || !mayTune;
    undo.hidden = count === 0;
    status.textContent = count === 0 ? '' : `${count} change${count === 1 ? '' : 's'} not applied`;
  };
  const show = (newest) => {
    row = newest;
    for (const [name, input] of Object.entries(inputs)) {
      if (input.type === 'checkbox') input.checked = row.settings[name];
      else input.value = String(row.settings[name]);
      input.disabled = !mayTune;
    }
    refresh();
  };

  const send = async (wanted, confirm) => {
    try {
      const saved = await patch(path, {
        version: row.version,
        ...wanted,
        ...(confirm === undefined ? {} : { confirm }),
      });
      toast('Settings applied', {
        detail: saved.applied ? '' : 'Saved; they take effect as soon as Redis is back.',
      });
      changed(saved);
    } catch (error) {
      if (error.code === 'preview-required' && confirm === undefined) {
        const { preview } = error.body;
        const sure = await ask({
          title: 'Let in far more people?',
          body: [
            el('p', {
              class: 'muted',
              text: 'This takes effect within a second. Make sure that what is behind the room can serve them.',
            }),
            el('ul', { class: 'rises' }, preview.changes.map(riseItem)),
          ],
          yes: 'Let them in',
        });
        if (sure) await send(wanted, preview.confirm);
        return;
      }
      if (error.code === 'settings-conflict') await reload();
      showProblem(error);
    }
  };

  const form = el(
    'form',
    {
      class: 'card',
      oninput: refresh,
      async onsubmit(event) {
        event.preventDefault();
        apply.disabled = true;
        await send(changes());
        refresh();
      },
    },
    el(
      'div',
      { class: 'card-head' },
      el('h2', { text: 'Admission' }),
      mayTune ? undefined : el('span', { class: 'chip', text: 'read only' }),
    ),
    el(
      'div',
      { class: 'fields' },
      field({ id: 'rate', label: 'New users a minute', input: inputs.newUsersPerMinute }),
      field({ id: 'cap', label: 'Inside at most', input: inputs.totalActiveUsers }),
      el(
        'div',
        { class: 'wide' },
        field({
          id: 'burst',
          label: 'Burst',
          hint: 'How many may go in at once after a quiet moment. 0 means a second’s worth.',
          input: inputs.burst,
        }),
      ),
      el('div', { class: 'wide rule' }),
      el(
        'div',
        { class: 'wide' },
        el('label', { class: 'switch', for: 'queue-all' }, 'Everyone queues', inputs.queueAll),
        el('p', {
          class: 'hint',
          id: 'queue-all-hint',
          text: 'Nobody is let in, even while there is room. Use it before a sale.',
        }),
      ),
    ),
    mayTune
      ? el('div', { class: 'form-foot' }, status, el('div', { class: 'actions' }, undo, apply))
      : undefined,
  );
  undo.addEventListener('click', () => show(row));
  refresh();
  return { node: form, show, isDirty: () => Object.keys(changes()).length > 0 };
};
