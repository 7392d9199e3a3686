// Operators: who they are, adding one (the token is shown once), disabling one. For admins only.

import { get, post } from './api.js';
import { ask, el, field, showProblem, timeNode, toast } from './dom.js';

const ROLES = [
  ['viewer', 'Viewer: looks, changes nothing'],
  ['operator', 'Operator: tunes rooms and sends messages'],
  ['security', 'Security: reviews and releases'],
  ['admin', 'Admin: everything, operators too'],
];

export const teamView = (main, { me }) => {
  const list = el('ol', { class: 'log' });
  const load = async () => {
    try {
      const { operators } = await get('/v1/operators');
      list.replaceChildren(
        ...operators.map((operator) => {
          const { id, name, role, createdAtMs, disabledAtMs } = operator;
          const disable = async () => {
            const sure = await ask({
              title: `Disable ${name}?`,
              body: [el('p', { class: 'muted', text: 'Their token and sign-ins stop working at once.' })],
              yes: 'Disable',
              danger: true,
            });
            if (!sure) return;
            try {
              await post(`/v1/operators/${id}/disable`);
              toast(`${name} is disabled`);
              load();
            } catch (error) {
              showProblem(error);
            }
          };
          return el(
            'li',
            {},
            el('span', { class: 'what' }, `${name} `, el('span', { class: 'chip', text: role })),
            disabledAtMs > 0
              ? el('span', { class: 'chip bad', text: 'disabled' })
              : id === me.id
                ? el('span', { class: 'chip accent', text: 'you' })
                : el('button', { class: 'little danger', type: 'button', text: 'Disable', onclick: disable }),
            el('span', { class: 'detail' }, 'Since ', timeNode(createdAtMs)),
          );
        }),
      );
    } catch (error) {
      showProblem(error);
    }
  };
  const name = el('input', { maxlength: '80', required: true, autocomplete: 'off' });
  const role = el(
    'select',
    {},
    ROLES.map(([value, text]) => el('option', { value, text })),
  );
  const made = el('div', { role: 'status' });
  const submit = async (event) => {
    event.preventDefault();
    try {
      const { token } = await post('/v1/operators', { name: name.value, role: role.value });
      made.replaceChildren(
        el('code', { class: 'token mono', text: token }),
        el('p', { class: 'hint', text: 'Give this to them now. It is not kept and cannot be shown again.' }),
      );
      name.value = '';
      load();
    } catch (error) {
      showProblem(error);
    }
  };
  main.replaceChildren(
    el(
      'div',
      { class: 'page-head' },
      el(
        'div',
        {},
        el('h1', { text: 'Team' }),
        el('p', { class: 'muted', text: 'Who may look, tune, review and govern.' }),
      ),
    ),
    el(
      'div',
      { class: 'columns' },
      el('div', { class: 'card' }, list),
      el(
        'form',
        { class: 'card', onsubmit: submit },
        el('div', { class: 'card-head' }, el('h2', { text: 'Add an operator' })),
        el(
          'div',
          { class: 'stack' },
          field({ id: 'operator-name', label: 'Name', input: name }),
          field({ id: 'operator-role', label: 'Role', input: role }),
          el('button', { class: 'primary', type: 'submit', text: 'Add operator' }),
        ),
        made,
      ),
    ),
  );
  load();
};
