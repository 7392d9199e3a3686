// The sale in the browser: choose seats on a live map or let the best be found, hold them, pay, done. No framework:
// one state, one `render` for what changes seldom, and a patch for each seat that changes often. Everything it
// shows comes from the JSON routes; a request that may have been lost is repeated with the same key, so nothing
// happens twice.

const event = JSON.parse(document.getElementById('event').textContent);
const app = document.getElementById('app');
const api = `/v1/events/${event.id}`;
const STORE = `sale-${event.id}`;
const SOON_MS = 60_000;
const POLL_MS = 5000;

/** step: choose → pay → done; `working` while a request is under way. */
const state = {
  step: 'choose',
  section: event.sections[0],
  chosen: new Map(), // label → section id
  count: 2,
  maps: undefined,
  version: '',
  hold: undefined,
  order: undefined,
  card: event.cards[0].token,
  message: '',
  working: false,
};

const price = (minor) =>
  `${Math.floor(minor / 100)}.${String(minor % 100).padStart(2, '0')} ${event.currency}`;
const rowName = (row) =>
  row < 26
    ? String.fromCharCode(65 + row)
    : rowName(Math.floor(row / 26) - 1) + String.fromCharCode(65 + (row % 26));
const newKey = () =>
  [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('');

/** Elements from names, properties and children; text is always text. */
const el = (tag, properties = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties))
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, '');
    else if (value !== undefined && value !== false) element.setAttribute(name, value);
  element.append(...children.flat().filter((child) => child !== undefined && child !== false));
  return element;
};

// What is kept over a reload: the hold until it runs out, and the order that is being paid.
const remember = () => {
  const { hold, order } = state;
  if (hold === undefined && order?.state !== 'paying') sessionStorage.removeItem(STORE);
  else sessionStorage.setItem(STORE, JSON.stringify({ hold, order }));
};

// Asking. A lost answer is asked for again with the same key; a refusal says in words what to do next.
const ask = async (method, path, { body, key } = {}) => {
  for (let attempt = 1; ; attempt++)
    try {
      const answer = await fetch(path, {
        method,
        headers: {
          accept: 'application/json',
          ...(body === undefined ? {} : { 'content-type': 'application/json' }),
          ...(key === undefined ? {} : { 'idempotency-key': key }),
        },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      });
      const value = answer.status === 204 ? {} : await answer.json();
      if (answer.status === 503 && attempt < 4 && key !== undefined) throw new Error('repeat');
      return { status: answer.status, value };
    } catch {
      // The network failed, or the server asked to come back: the key makes repeating safe.
      if (attempt >= 4) return { status: 0, value: {} };
      await new Promise((resolve) => setTimeout(resolve, 700 * attempt));
    }
};
const wordsFor = ({ status, value }) => {
  if (status === 0)
    return 'The connection was lost. Check it, then press the button again; nothing is booked twice.';
  if (value.code === 'session-required')
    return 'Your time inside has ended. Reload this page to get back in line.';
  return value.title ?? 'That did not work. Try again.';
};
const say = (message) => {
  state.message = message;
  render();
  document.querySelector('.alert')?.scrollIntoView({ block: 'nearest' });
};

// Seats
const labelOf = (section, offset) => {
  const number = (offset % (section.perRow + 1)) + 1;
  return section.kind === 'area'
    ? String(number)
    : `${rowName(Math.floor(offset / (section.perRow + 1)))}${number}`;
};
const isMine = (section, label) => state.hold?.section === section.id && state.hold.seats.includes(label);
const freeIn = (section) =>
  state.maps === undefined ? undefined : state.maps[section.id].split('f').length - 1;

const paintSeat = (button, section, offset) => {
  const label = labelOf(section, offset);
  const free = state.maps?.[section.id]?.[offset] === 'f';
  const mine = isMine(section, label);
  const chosen = state.chosen.get(label) === section.id;
  const row = rowName(Math.floor(offset / (section.perRow + 1)));
  const number = (offset % (section.perRow + 1)) + 1;
  const says = mine ? 'yours' : chosen ? 'chosen' : free ? 'free' : 'taken';
  button.dataset.seat = mine ? 'mine' : free ? 'free' : 'taken';
  button.setAttribute('aria-pressed', String(chosen));
  button.setAttribute('aria-disabled', String(!free));
  button.setAttribute(
    'aria-label',
    `${section.name} row ${row} seat ${number}, ${price(section.priceMinor)}, ${says}`,
  );
};
const paintAll = () => {
  for (const button of app.querySelectorAll('.seat'))
    paintSeat(button, state.section, Number(button.dataset.offset));
};

const toggle = (section, offset) => {
  const label = labelOf(section, offset);
  if (state.step !== 'choose' || state.maps?.[section.id]?.[offset] !== 'f') return;
  if (state.chosen.get(label) === section.id) state.chosen.delete(label);
  else {
    // A hold is of one section: choosing in another begins anew.
    if ([...state.chosen.values()].some((id) => id !== section.id)) state.chosen.clear();
    if (state.chosen.size >= event.seatsPerVisitor)
      return say(`You can take up to ${event.seatsPerVisitor} seats. Take one off first.`);
    state.chosen.set(label, section.id);
  }
  state.message = '';
  renderSide();
  renderMessage();
  paintAll();
};

/** Arrow keys go to the neighbour; one seat of the map is in the tab order. */
const move = (key, button) => {
  const section = state.section;
  const width = section.perRow + 1;
  const offset = Number(button.dataset.offset);
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -width, ArrowDown: width }[key];
  const target = by === undefined ? undefined : app.querySelector(`.seat[data-offset="${offset + by}"]`);
  if (!target) return false;
  button.tabIndex = -1;
  target.tabIndex = 0;
  target.focus();
  return true;
};

const seatMap = (section) => {
  const rows = el('div', { class: 'rows' });
  for (let row = 0; row < section.rows; row++) {
    const line = el('div', { class: 'row', role: 'group', 'aria-label': `Row ${rowName(row)}` });
    line.append(el('span', { 'aria-hidden': 'true' }, rowName(row)));
    for (let seat = 0; seat < section.perRow; seat++) {
      const offset = row * (section.perRow + 1) + seat;
      const button = el('button', { type: 'button', class: 'seat', 'data-offset': offset }, String(seat + 1));
      button.tabIndex = offset === 0 ? 0 : -1;
      paintSeat(button, section, offset);
      line.append(button);
    }
    line.append(el('span', { 'aria-hidden': 'true' }, rowName(row)));
    rows.append(line);
  }
  rows.addEventListener('click', ({ target }) => {
    const button = target.closest('.seat');
    if (button) toggle(section, Number(button.dataset.offset));
  });
  rows.addEventListener('keydown', (pressed) => {
    const button = pressed.target.closest('.seat');
    if (button && move(pressed.key, button)) pressed.preventDefault();
  });
  return el(
    'div',
    {},
    el('div', { class: 'stage', 'aria-hidden': 'true' }, 'Stage'),
    el(
      'div',
      { class: 'map', role: 'group', 'aria-label': `Seats of ${section.name}; arrow keys move` },
      rows,
    ),
    el(
      'ul',
      { class: 'key', 'aria-hidden': 'true' },
      el('li', {}, el('i'), 'free'),
      el('li', {}, el('i', { class: 'chosen' }), 'chosen'),
      el('li', {}, el('i', { class: 'taken' }), 'taken'),
    ),
  );
};

// Steps
const keep = (hold) => {
  state.hold = { ...hold, endsAt: Date.now() + hold.expiresInMs };
  state.chosen.clear();
  state.step = 'pay';
  state.message = '';
  remember();
};
const backToChoosing = (message = '') => {
  Object.assign(state, { step: 'choose', hold: undefined, payKey: undefined, message });
  remember();
};

/** One request at a time; the buttons show it. */
const busy = async (work) => {
  if (state.working) return;
  state.working = true;
  render();
  await work();
  state.working = false;
  render();
  document.querySelector('[data-focus]')?.focus();
};

const takeHold = (wish) =>
  busy(async () => {
    const answer = await ask('POST', `${api}/holds`, { key: newKey(), body: wish });
    if (answer.status === 201) return keep(answer.value);
    state.message = wordsFor(answer);
    if (answer.value.code === 'seats-taken') state.chosen.clear();
    await refresh();
  });
const holdChosen = () => {
  const section = [...state.chosen.values()][0];
  takeHold({ section, seats: [...state.chosen.keys()] });
};

const giveBack = () =>
  busy(async () => {
    const answer = await ask('DELETE', `/v1/holds/${state.hold.id}`);
    if (answer.status === 204 || answer.status === 404 || answer.status === 409) backToChoosing();
    else state.message = wordsFor(answer);
    await refresh();
  });

const pay = () =>
  busy(async () => {
    // The same key until the answer is known, so that pressing again after a lost answer pays once.
    state.payKey ??= { key: newKey(), card: state.card };
    if (state.payKey.card !== state.card) state.payKey = { key: newKey(), card: state.card };
    const answer = await ask('POST', '/v1/orders', {
      key: state.payKey.key,
      body: { holdId: state.hold.id, payment: { method: 'card', token: state.card } },
    });
    if (answer.status === 201 || answer.status === 202) {
      state.order = answer.value;
      remember();
      return settle();
    }
    if (answer.status !== 0) state.payKey = undefined;
    if (['hold-expired', 'hold-missing', 'seats-taken'].includes(answer.value.code))
      backToChoosing(wordsFor(answer));
    else state.message = wordsFor(answer);
  });

/** Waits for the bank, then shows how it ended. One's own order needs no session. */
const settle = async () => {
  while (state.order.state === 'paying' || state.order.state === 'late') {
    state.message = '';
    renderSide();
    await new Promise((resolve) => setTimeout(resolve, 1000));
    const answer = await ask('GET', `/v1/orders/${state.order.id}`);
    if (answer.status === 200) state.order = answer.value;
  }
  if (state.order.state === 'failed') {
    state.order = undefined;
    state.payKey = undefined;
    state.message =
      'The payment was declined. Try another card; your seats are kept until the time runs out.';
    return remember();
  }
  if (state.order.state === 'expired') {
    state.order = undefined;
    return backToChoosing('The time to pay ran out. You were not charged; choose seats again.');
  }
  state.step = 'done';
  state.hold = undefined;
  remember();
  stopWatching();
};

// Drawing
const stepper = () => {
  const output = el('output', { 'aria-live': 'polite' }, String(state.count));
  const by = (step) => () => {
    state.count = Math.min(event.seatsPerVisitor, Math.max(1, state.count + step));
    output.textContent = String(state.count);
    app.querySelector('#find').textContent = findText();
  };
  return el(
    'span',
    { class: 'stepper', role: 'group', 'aria-label': 'How many' },
    el('button', { type: 'button', 'aria-label': 'One fewer', onclick: by(-1) }, '−'),
    output,
    el('button', { type: 'button', 'aria-label': 'One more', onclick: by(1) }, '+'),
  );
};
const findText = () =>
  state.section.kind === 'area'
    ? `Take ${state.count} ${state.count === 1 ? 'place' : 'places'} · ${price(state.count * state.section.priceMinor)}`
    : state.count === 1
      ? 'Find the best seat'
      : `Find ${state.count} together`;
const picker = () =>
  el(
    'div',
    { class: 'picker' },
    stepper(),
    el(
      'button',
      {
        type: 'button',
        id: 'find',
        class: state.section.kind === 'area' ? undefined : 'quiet',
        disabled: state.working,
        onclick: () => takeHold({ section: state.section.id, count: state.count }),
      },
      findText(),
    ),
  );

const tabs = () => {
  const list = el('div', { class: 'tabs', role: 'tablist', 'aria-label': 'Sections' });
  for (const section of event.sections) {
    const selected = section === state.section;
    list.append(
      el(
        'button',
        {
          type: 'button',
          role: 'tab',
          id: `tab-${section.id}`,
          'aria-selected': String(selected),
          'aria-controls': 'panel',
          tabindex: selected ? 0 : -1,
          onclick: () => openSection(section),
        },
        section.name,
        el('small', {}, price(section.priceMinor)),
        el('small', { class: 'left', 'data-left': section.id }),
      ),
    );
  }
  list.addEventListener('keydown', ({ key }) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[key];
    if (by === undefined) return;
    const at = event.sections.indexOf(state.section) + by + event.sections.length;
    openSection(event.sections[at % event.sections.length]);
    document.getElementById(`tab-${state.section.id}`).focus();
  });
  return list;
};
const openSection = (section) => {
  state.section = section;
  renderMain();
};

const area = (section) =>
  el(
    'div',
    { class: 'area' },
    el('p', {}, 'Places are not numbered: stand where you like.'),
    el('div', { class: 'meter', 'aria-hidden': 'true' }, el('i', { 'data-meter': section.id })),
    el('p', { class: 'muted', 'data-left-long': section.id }),
    picker(),
  );

const paintCounts = () => {
  for (const section of event.sections) {
    const free = freeIn(section);
    const text = free === undefined ? '…' : free === 0 ? 'sold out' : `${free} left`;
    const short = app.querySelector(`[data-left="${section.id}"]`);
    if (short) short.textContent = text;
    const long = app.querySelector(`[data-left-long="${section.id}"]`);
    if (long)
      long.textContent = free === undefined ? '' : `${free} of ${section.rows * section.perRow} places left`;
    const meter = app.querySelector(`[data-meter="${section.id}"]`);
    if (meter && free !== undefined) meter.style.width = `${(100 * free) / (section.rows * section.perRow)}%`;
  }
};

const seatLines = (section, seats, each) =>
  el(
    'ul',
    { class: 'seats' },
    seats.map((seat) =>
      el(
        'li',
        {},
        el('span', {}, `${section.name} `, section.kind === 'area' ? '' : el('strong', {}, seat)),
        each && el('em', {}, price(each)),
      ),
    ),
  );
const totalLine = (minor) =>
  el('p', { class: 'total' }, el('span', {}, 'Total'), el('strong', {}, price(minor)));

const chooseSide = () => {
  const seats = [...state.chosen.keys()];
  const section = event.sections.find(({ id }) => id === [...state.chosen.values()][0]);
  if (section === undefined)
    return [
      el('h2', {}, 'Your seats'),
      el('p', { class: 'muted' }, 'Tap seats on the map, or let us find the best that are left.'),
    ];
  return [
    el('h2', {}, 'Your seats'),
    seatLines(section, seats, section.priceMinor),
    totalLine(seats.length * section.priceMinor),
    el(
      'button',
      { type: 'button', disabled: state.working, onclick: holdChosen },
      state.working
        ? 'One moment…'
        : `Hold ${seats.length === 1 ? 'this seat' : `these ${seats.length} seats`}`,
    ),
    el('p', { class: 'muted hint' }, 'Kept for you while you pay.'),
  ];
};

const paySide = () => {
  const { hold, order } = state;
  const section = event.sections.find(({ id }) => id === hold.section);
  const waiting = order?.state === 'paying' || order?.state === 'late';
  return [
    el('h2', { tabindex: -1, 'data-focus': true }, waiting ? 'Waiting for your bank…' : 'Kept for you'),
    waiting
      ? el('p', { class: 'muted', role: 'status' }, 'Keep this page open. Your seats stay yours meanwhile.')
      : el(
          'p',
          { class: 'count' },
          el('span', { class: 'muted' }, 'Time left to pay'),
          el('strong', { id: 'clock' }),
        ),
    seatLines(section, hold.seats, section.priceMinor),
    totalLine(hold.amountMinor),
    el(
      'form',
      {
        hidden: waiting,
        onsubmit: (submitted) => {
          submitted.preventDefault();
          pay();
        },
      },
      el(
        'fieldset',
        { disabled: state.working },
        el('legend', {}, 'Test card'),
        event.cards.map(({ token, name, says }) =>
          el(
            'label',
            { class: 'choice' },
            el('input', {
              type: 'radio',
              name: 'card',
              value: token,
              checked: token === state.card,
              onchange: () => {
                state.card = token;
              },
            }),
            el('span', {}, name, el('small', {}, says)),
          ),
        ),
      ),
      el('button', { disabled: state.working }, state.working ? 'Paying…' : `Pay ${price(hold.amountMinor)}`),
      el(
        'button',
        { type: 'button', class: 'quiet', disabled: state.working, onclick: giveBack },
        'Give the seats back',
      ),
    ),
  ];
};

const confirmation = ({ order }) =>
  el(
    'section',
    { class: 'card order', 'data-tone': order.state === 'paid' ? 'ok' : 'bad' },
    el(
      'h2',
      { tabindex: -1, 'data-focus': true },
      order.state === 'paid' ? 'You are going!' : 'Your money is on its way back',
    ),
    el(
      'p',
      { class: 'muted' },
      order.state === 'paid'
        ? 'Your order is confirmed and paid. Show these codes at the door.'
        : 'The seats were gone before the payment arrived. Nothing more is needed from you.',
    ),
    el(
      'dl',
      {},
      el('div', {}, el('dt', {}, 'Order'), el('dd', {}, el('code', { id: 'order-number' }, order.id))),
      el('div', {}, el('dt', {}, 'Total'), el('dd', {}, price(order.amountMinor))),
    ),
    el(
      'ul',
      { class: 'tickets' },
      order.tickets.map(({ code, seat }) =>
        el('li', {}, el('span', {}, `${order.sectionName} `, el('strong', {}, seat)), el('code', {}, code)),
      ),
    ),
    el('p', { class: 'links' }, el('a', { href: '/demo/orders' }, 'My orders')),
  );

const renderMessage = () => {
  const slot = app.querySelector('[data-slot="message"]');
  slot?.replaceChildren(
    ...(state.message ? [el('p', { class: 'alert', role: 'alert' }, state.message)] : []),
  );
};
const renderSide = () => {
  const side = app.querySelector('[data-slot="side"]');
  if (!side) return;
  side.dataset.step = state.step;
  side.replaceChildren(...(state.step === 'pay' ? paySide() : chooseSide()));
  tickClock();
};
const renderMain = () => {
  const main = app.querySelector('[data-slot="main"]');
  if (!main) return;
  const { section } = state;
  main.replaceChildren(
    tabs(),
    el(
      'div',
      { role: 'tabpanel', id: 'panel', 'aria-labelledby': `tab-${section.id}` },
      section.kind === 'area' ? area(section) : [picker(), seatMap(section)],
    ),
  );
  paintCounts();
};
/** Draws the step anew; within a step only what changed. */
let drawn = '';
const render = () => {
  if (drawn !== state.step) {
    drawn = state.step;
    app.replaceChildren(
      el('div', { 'data-slot': 'message' }),
      state.step === 'done'
        ? el('main', { class: 'done' }, confirmation(state))
        : el(
            'main',
            { class: state.step === 'choose' ? 'columns' : 'narrow paying', id: 'choose' },
            state.step === 'choose' &&
              el('section', { class: 'card', 'data-slot': 'main', 'aria-label': 'Seats' }),
            el('aside', { class: 'card side', 'data-slot': 'side', 'aria-label': 'Your order' }),
          ),
    );
    renderMain();
  }
  renderMessage();
  renderSide();
  paintAll();
  const find = app.querySelector('#find');
  if (find) find.disabled = state.working;
};

const tickClock = () => {
  const clock = document.getElementById('clock');
  if (!clock || state.hold === undefined) return;
  const leftMs = Math.max(0, state.hold.endsAt - Date.now());
  const seconds = Math.ceil(leftMs / 1000);
  clock.textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')}`;
  clock.parentElement.toggleAttribute('data-soon', leftMs < SOON_MS);
  if (leftMs === 0 && !state.working && state.order === undefined) {
    backToChoosing(
      'The time to pay ran out, so the seats went back on sale. You were not charged; choose again.',
    );
    render();
  }
};
setInterval(tickClock, 500);

// Watching: an event stream where there is one, asking every few seconds where there is none.
const show = ({ version, maps }) => {
  state.version = version;
  state.maps = maps;
  for (const [label, id] of state.chosen) {
    const section = event.sections.find((known) => known.id === id);
    const at = [...maps[id]].findIndex((_, offset) => labelOf(section, offset) === label);
    if (maps[id][at] !== 'f') lose(label);
  }
  paintAll();
  paintCounts();
};
const lose = (label) => {
  state.chosen.delete(label);
  state.message = `Seat ${label} has just been taken by someone else. Choose another.`;
  renderMessage();
  renderSide();
};
const refresh = async () => {
  const answer = await ask('GET', `${api}/seats`);
  if (answer.status === 200) show(answer.value);
  return answer;
};

let source;
let pollTimer;
const stopWatching = () => {
  source?.close();
  clearTimeout(pollTimer);
};
const poll = async () => {
  const answer = await refresh();
  if (state.step === 'done') return;
  if (answer.value.code === 'session-required') {
    if (state.order === undefined) say(wordsFor(answer));
    return;
  }
  pollTimer = setTimeout(poll, POLL_MS);
};
const watch = () => {
  source = new EventSource(`${api}/seats/events`);
  source.addEventListener('seats', ({ data }) => show(JSON.parse(data)));
  source.addEventListener('changes', ({ data }) => {
    const { from, version, changes } = JSON.parse(data);
    // A frame that does not follow what we have: one was missed, so the whole is asked for.
    if (from !== state.version || state.maps === undefined) return refresh();
    const maps = { ...state.maps };
    for (const [section, offset, character] of changes)
      maps[section] = maps[section].slice(0, offset) + character + maps[section].slice(offset + 1);
    show({ version, maps });
  });
  source.addEventListener('error', () => {
    // The browser tries again by itself, unless it was refused; then we ask from time to time.
    if (source.readyState === EventSource.CLOSED && state.step !== 'done') poll();
  });
};

const resume = () => {
  try {
    const kept = JSON.parse(sessionStorage.getItem(STORE) ?? 'null');
    if (kept?.hold && (kept.order || kept.hold.endsAt > Date.now())) {
      state.hold = kept.hold;
      state.order = kept.order;
      state.step = 'pay';
      if (kept.order?.state === 'paying') busy(settle);
    }
  } catch {
    sessionStorage.removeItem(STORE); // Not ours, or cut short: begin anew.
  }
};

app.hidden = false;
resume();
render();
watch();
