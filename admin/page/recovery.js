// What a room says of itself after Redis lost something: why, how many places are back, how many sessions were
// taken back and how many of those stand above the cap, and when it goes on. It stays for a while after the end,
// for the operator who comes late.

import { el, formatNumber, formatWhen } from './dom.js';

export const REASONS = {
  lost: 'Redis lost its data. Places come back in their order, from the receipts that people keep.',
  restart: 'Redis started again, or took a new replication id. The last second may be missing.',
  failover: 'Another Redis server took over. The last second may be missing.',
  older:
    'Redis came back with older data. Places of since then come back from receipts; some people may be called twice.',
};
const SHOWN_AFTER_MS = 10 * 60 * 1000;

/** The sentence; `atMs` is the time of the numbers. */
export const recoveryWords = (recovery, atMs) => {
  const { untilMs, lostWaiting, restored, adopted, adoptedOverCap } = recovery;
  const over = adopted > 0 ? ` (${formatNumber(adoptedOverCap)} above the cap)` : '';
  const numbers = [
    lostWaiting > 0
      ? `${formatNumber(restored)} of ${formatNumber(lostWaiting)} places back`
      : restored > 0
        ? `${formatNumber(restored)} places back`
        : 'no place is missing',
    `${formatNumber(adopted)} ${adopted === 1 ? 'session' : 'sessions'} taken back${over}`,
  ].join(', ');
  return atMs < untilMs
    ? `Recovering: ${numbers}, ends in ${formatNumber(Math.ceil((untilMs - atMs) / 1000))} s`
    : `Recovered ${formatWhen(untilMs)}: ${numbers}`;
};

export const createRecovery = () => {
  const words = el('p', { class: 'words' });
  const why = el('p', { class: 'note' });
  const fill = el('i');
  const meter = el('div', { class: 'meter', 'aria-hidden': 'true' }, fill);
  const node = el(
    'section',
    { class: 'card recovery', hidden: true, 'aria-label': 'Recovery' },
    words,
    meter,
    why,
  );
  return {
    node,
    show({ recovery, atMs }) {
      node.hidden = recovery === undefined || atMs > recovery.untilMs + SHOWN_AFTER_MS;
      if (node.hidden) return;
      const running = atMs < recovery.untilMs;
      node.classList.toggle('running', running);
      words.textContent = recoveryWords(recovery, atMs);
      why.textContent = REASONS[recovery.reason] ?? '';
      meter.hidden = recovery.lostWaiting === 0;
      fill.style.width = `${Math.min(100, (recovery.restored / Math.max(1, recovery.lostWaiting)) * 100)}%`;
    },
  };
};
