// Building the page from nodes. Text only ever becomes a text node, so whatever a stranger wrote stays text.

/** An element; `on…` members become listeners, `class` and `text` what they say, all else attributes. */
export const el = (tag, props = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name === 'text') node.textContent = value;
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== false));
  return node;
};

const numbers = new Intl.NumberFormat('en');
export const formatNumber = (value) => numbers.format(value);

const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const day = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short' });
export const formatClock = (ms) => clock.format(new Date(ms));
/** The time for today, the date as well for everything older. */
export const formatWhen = (ms) =>
  new Date(ms).toDateString() === new Date().toDateString() ? clock.format(ms) : day.format(ms);

export const timeNode = (ms) => el('time', { datetime: new Date(ms).toISOString(), text: formatWhen(ms) });

/** Says something to a screen reader without showing it. */
export const announce = (text) => {
  const news = document.getElementById('news');
  if (news.textContent !== text) news.textContent = text;
};

export const toast = (text, { bad = false, detail = '' } = {}) => {
  const node = el(
    'div',
    { class: bad ? 'toast bad' : 'toast' },
    el('strong', { text }),
    detail === '' ? undefined : el('span', { class: 'muted', text: detail }),
  );
  document.getElementById('toasts').append(node);
  setTimeout(() => node.remove(), bad ? 9000 : 4500);
};

/** A refusal as the server gave it: its title says what to do, its detail which part is meant. */
export const showProblem = (problem) => toast(problem.title, { bad: true, detail: problem.detail ?? '' });

/** Asks, and resolves with whether the answer was yes. Escape and the first button mean no. */
export const ask = ({ title, body, yes, danger = false }) =>
  new Promise((resolve) => {
    const dialog = el('dialog', { 'aria-labelledby': 'ask-title' });
    const close = (answer) => {
      dialog.close();
      dialog.remove();
      resolve(answer);
    };
    dialog.addEventListener('cancel', (event) => {
      event.preventDefault();
      close(false);
    });
    dialog.append(
      el('h2', { id: 'ask-title', class: 'ask-title', text: title }),
      ...body,
      el(
        'div',
        { class: 'actions' },
        el('button', { type: 'button', text: 'Cancel', onclick: () => close(false) }),
        el('button', {
          type: 'button',
          class: danger ? 'primary danger' : 'primary',
          text: yes,
          onclick: () => close(true),
        }),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
  });

export const field = ({ id, label, hint, input }) => {
  input.id = id;
  if (hint !== undefined) input.setAttribute('aria-describedby', `${id}-hint`);
  return el(
    'div',
    {},
    el('label', { for: id, text: label }),
    input,
    hint === undefined ? undefined : el('p', { class: 'hint', id: `${id}-hint`, text: hint }),
  );
};

const STATES = {
  open: ['Open', 'ok'],
  suspended: ['Suspended', 'warn'],
  recovering: ['Restoring', 'warn'],
  notOpen: ['Not open yet', 'accent'],
  queueAll: ['Everyone queues', 'accent'],
  closed: ['Closed', 'bad'],
};
export const stateWords = (live) => (live ? (STATES[live.state] ?? [live.state, '']) : ['No data', 'bad']);
export const stateChip = (live) => {
  const [text, kind] = stateWords(live);
  return el('span', { class: `chip dot ${kind}`, text });
};
