// The frame of the admin page: who is signed in, which view the address names, and leaving it cleanly. A view is a
// function that fills `main` and gives back what to do when it is left.

import { call, get, onSignedOut, post } from './api.js';
import { auditView } from './audit.js';
import { el, showProblem } from './dom.js';
import { overviewView } from './overview.js';
import { roomView } from './room.js';
import { securityView } from './security.js';
import { teamView } from './team.js';

const main = document.getElementById('main');
const bar = document.getElementById('bar');
let me;
let leave = () => undefined;

const views = [
  { path: /^#\/rooms\/([a-z0-9-]{1,32})$/, tab: 'rooms', title: 'Room', open: roomView },
  { path: /^#\/security(?:\/([a-z0-9-]{1,32}))?$/, tab: 'security', title: 'Security', open: securityView },
  { path: /^#\/audit$/, tab: 'audit', title: 'Audit', open: auditView },
  { path: /^#\/team$/, tab: 'team', title: 'Team', open: teamView },
  { path: /^/, tab: 'rooms', title: 'Rooms', open: overviewView },
];
const tabs = [
  { name: 'rooms', text: 'Rooms', roles: undefined },
  { name: 'security', text: 'Security', roles: ['security', 'admin'] },
  { name: 'audit', text: 'Audit', roles: undefined },
  { name: 'team', text: 'Team', roles: ['admin'] },
];

const drawBar = (current) => {
  const links = tabs
    .filter(({ roles }) => roles === undefined || roles.includes(me.role))
    .map(({ name, text }) =>
      el('a', { href: `#/${name}`, text, 'aria-current': name === current ? 'page' : undefined }),
    );
  bar.replaceChildren(
    el('a', { class: 'brand', href: '#/rooms' }, el('img', { src: '/assets/mark.svg', alt: '' }), 'Anteroom'),
    el('nav', { class: 'tabs', 'aria-label': 'Views' }, links),
    el(
      'div',
      { class: 'who' },
      el('span', { class: 'who-name', text: me.name }),
      el('span', { class: 'chip', text: me.role }),
      el('button', { class: 'quiet little', type: 'button', text: 'Sign out', onclick: signOut }),
    ),
  );
  bar.hidden = false;
};

const route = ({ focus = false } = {}) => {
  leave();
  leave = () => undefined;
  if (me === undefined) return;
  const { open, tab, title, path } = views.find((view) => view.path.test(location.hash));
  const [, argument] = path.exec(location.hash) ?? [];
  document.title = `${title} · Anteroom`;
  drawBar(tab);
  leave = open(main, { me, argument }) ?? (() => undefined);
  if (focus) main.focus({ preventScroll: true });
};

const showSignIn = () => {
  me = undefined;
  leave();
  leave = () => undefined;
  bar.hidden = true;
  document.title = 'Sign in · Anteroom';
  const problem = el('div', { class: 'problem', role: 'alert', hidden: true });
  const input = el('input', {
    id: 'token',
    name: 'token',
    type: 'password',
    autocomplete: 'current-password',
    spellcheck: 'false',
    required: true,
    placeholder: 'aro_…',
  });
  const button = el('button', { class: 'primary', type: 'submit', text: 'Sign in' });
  const submit = async (event) => {
    event.preventDefault();
    button.disabled = true;
    problem.hidden = true;
    try {
      me = await call('POST', '/login', { token: input.value.trim() });
      route({ focus: true });
    } catch (error) {
      problem.replaceChildren(
        el('strong', { text: error.code === 'token-invalid' ? 'This token is not valid.' : error.title }),
        error.code === 'token-invalid' ? 'Check that you copied all of it.' : (error.detail ?? ''),
      );
      problem.hidden = false;
      input.select();
    } finally {
      button.disabled = false;
    }
  };
  main.replaceChildren(
    el(
      'div',
      { class: 'sign-in' },
      el('div', { class: 'brand' }, el('img', { src: '/assets/mark.svg', alt: '' }), 'Anteroom'),
      el(
        'div',
        { class: 'card' },
        el('h1', { text: 'Sign in' }),
        el('p', {
          class: 'muted',
          text: 'With your operator token. The first one was printed when Anteroom started.',
        }),
        el(
          'form',
          { onsubmit: submit },
          el('div', {}, el('label', { for: 'token', text: 'Operator token' }), input),
          problem,
          button,
        ),
      ),
    ),
  );
  input.focus();
};

const signOut = async () => {
  try {
    await post('/logout');
    showSignIn();
  } catch (error) {
    showProblem(error);
  }
};

onSignedOut(() => {
  if (me !== undefined) showSignIn();
});
addEventListener('hashchange', () => route({ focus: true }));

try {
  me = await get('/v1/me');
  route();
} catch (error) {
  showSignIn();
  if (error.status !== 401) showProblem(error);
}
