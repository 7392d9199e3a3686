// Messages to everyone in the room: the one that is showing now, and writing the next.

import { post } from './api.js';
import { el, field, showProblem, toast } from './dom.js';

const CHARS_MAX = 280;

export const createMessages = ({ path, mayTune, changed }) => {
  const now = el('div', { 'aria-live': 'polite' });
  const text = el('textarea', {
    maxlength: String(CHARS_MAX),
    placeholder: 'Doors open in ten minutes. Your place is safe.',
  });
  const level = el('select', {}, [
    el('option', { value: 'info', text: 'Information' }),
    el('option', { value: 'warning', text: 'Warning' }),
  ]);
  const left = el('span', { class: 'muted small' });
  const button = el('button', { class: 'primary', type: 'submit', text: 'Send to everyone' });
  let shown;

  const refresh = () => {
    left.textContent = `${CHARS_MAX - [...text.value].length} characters left`;
    button.disabled = text.value.trim() === '';
  };
  const send = async (body, done) => {
    button.disabled = true;
    try {
      await post(`${path}/notices`, body);
      toast(done);
      if (body.text !== '') text.value = '';
      changed();
    } catch (error) {
      showProblem(error);
    }
    refresh();
  };
  refresh();

  const form = el(
    'form',
    {
      oninput: refresh,
      onsubmit(event) {
        event.preventDefault();
        send(
          { text: text.value.trim(), level: level.value },
          'Message sent; fans see it within two seconds.',
        );
      },
    },
    el(
      'div',
      { class: 'stack' },
      field({ id: 'message', label: 'New message', input: text }),
      el(
        'div',
        { class: 'form-foot' },
        left,
        el(
          'div',
          { class: 'actions' },
          el('div', {}, el('label', { class: 'unseen', for: 'level', text: 'Kind of message' }), level),
          button,
        ),
      ),
    ),
  );
  level.id = 'level';

  return {
    node: el(
      'section',
      { class: 'card' },
      el('div', { class: 'card-head' }, el('h2', { text: 'Message to fans' })),
      now,
      mayTune ? form : undefined,
    ),
    show(notice) {
      const key = `${notice.level} ${notice.text}`;
      if (key === shown) return;
      shown = key;
      if (notice.text === '') {
        now.replaceChildren(mayTune ? '' : el('p', { class: 'muted', text: 'No message is showing.' }));
        return;
      }
      now.replaceChildren(
        el(
          'div',
          { class: `said ${notice.level === 'warning' ? 'warning' : ''}` },
          el(
            'div',
            { class: 'row' },
            'Showing now',
            mayTune
              ? el('button', {
                  class: 'quiet little',
                  type: 'button',
                  text: 'Take down',
                  onclick: () => send({ text: '' }, 'The message is gone.'),
                })
              : undefined,
          ),
          notice.text,
        ),
      );
    },
  };
};
