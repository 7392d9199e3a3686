// The last fifteen minutes as two small charts over one time: how many wait (area), and how many are inside and
// were let in per minute (lines). They have scales of their own, because a line of 50,000 beside a cap of 100
// would hide everything that matters about the cap.

import { el, formatClock, formatNumber } from './dom.js';

const SPAN_MS = 15 * 60 * 1000;
const RATE_WINDOW_MS = 60_000;
const LEFT = 46;
const RIGHT = 8;
const UPPER = { top: 24, share: 0.46 };
const GAP = 46;
const BOTTOM = 24;

const svg = (tag, attributes = {}, text) => {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  if (text !== undefined) node.textContent = text;
  return node;
};

/** The next of 1, 2, 5 × 10ⁿ at or above a value: a scale that does not tremble. */
const niceMax = (value) => {
  const power = 10 ** Math.floor(Math.log10(Math.max(1, value)));
  for (const step of [1, 2, 5, 10]) if (value <= step * power) return Math.max(4, step * power);
  return 10 * power;
};

const short = (value) =>
  value >= 1e6
    ? `${+(value / 1e6).toFixed(1)}M`
    : value >= 1e4
      ? `${+(value / 1e3).toFixed(1)}k`
      : formatNumber(value);

/** Samples with the rate of the minute before each; ascending by time. */
const withRates = (samples) => {
  let tail = 0;
  return samples.map((sample) => {
    while (samples[tail].atMs < sample.atMs - RATE_WINDOW_MS) tail += 1;
    const rate = Math.max(0, sample.promotedTotal - samples[tail].promotedTotal);
    return { ...sample, rate };
  });
};

/** At most one point for each two pixels: more cannot be seen and only cost. */
const thinned = (points, max) => {
  const step = Math.ceil(points.length / max);
  return step <= 1 ? points : points.filter((_, index) => index % step === 0 || index === points.length - 1);
};

export const createChart = () => {
  const drawing = svg('svg', {
    role: 'img',
    'aria-label': 'Waiting, inside and let in per minute, last 15 minutes',
  });
  const tip = el('div', { class: 'tip', hidden: true });
  const node = el('div', { class: 'chart' }, drawing, tip);
  let samples = [];
  let points = [];
  let hoverX;

  const layout = () => {
    const width = node.clientWidth;
    const height = drawing.clientHeight;
    const upperHeight = (height - UPPER.top - GAP - BOTTOM) * UPPER.share;
    const lowerTop = UPPER.top + upperHeight + GAP;
    return { width, height, upperHeight, lowerTop, lowerHeight: height - lowerTop - BOTTOM };
  };

  const drawTip = ({ width, height, x }) => {
    tip.hidden = hoverX === undefined || points.length === 0;
    if (tip.hidden) return;
    const near = points.reduce((a, b) =>
      Math.abs(x(b.atMs) - hoverX) < Math.abs(x(a.atMs) - hoverX) ? b : a,
    );
    drawing.append(
      svg('line', {
        class: 'cursor',
        x1: x(near.atMs),
        x2: x(near.atMs),
        y1: UPPER.top,
        y2: height - BOTTOM,
      }),
    );
    const row = (kind, text) => el('div', {}, el('i', { class: `swatch ${kind}` }), text);
    tip.replaceChildren(
      el('b', { text: formatClock(near.atMs) }),
      row('waiting', `${formatNumber(near.waiting)} waiting`),
      row('inside', `${formatNumber(near.active)} inside`),
      row('rate', `${formatNumber(near.rate)} per minute`),
    );
    const at = x(near.atMs) + 12;
    tip.style.left = `${at + tip.offsetWidth > width ? at - tip.offsetWidth - 24 : at}px`;
  };

  const draw = () => {
    const { width, height, upperHeight, lowerTop, lowerHeight } = layout();
    if (width === 0) return;
    const end = samples.at(-1)?.atMs ?? Date.now();
    const x = (ms) => LEFT + ((ms - (end - SPAN_MS)) / SPAN_MS) * (width - LEFT - RIGHT);
    points = thinned(withRates(samples), width / 2).filter(({ atMs }) => atMs >= end - SPAN_MS);
    const most = (name) => points.reduce((max, point) => Math.max(max, point[name]), 0);
    const upperMax = niceMax(most('waiting'));
    const lowerMax = niceMax(Math.max(most('active'), most('rate')));
    const scale = (top, tall, max) => (value) => top + tall - (value / max) * tall;
    const upper = scale(UPPER.top, upperHeight, upperMax);
    const lower = scale(lowerTop, lowerHeight, lowerMax);
    const path = (name, y) =>
      points
        .map(
          (point, index) =>
            `${index === 0 ? 'M' : 'L'}${x(point.atMs).toFixed(1)},${y(point[name]).toFixed(1)}`,
        )
        .join('');

    drawing.setAttribute('viewBox', `0 0 ${width} ${height}`);
    drawing.replaceChildren();
    for (const [y, max] of [
      [upper, upperMax],
      [lower, lowerMax],
    ])
      for (const value of [0, max / 2, max])
        drawing.append(
          svg('line', { class: 'grid', x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
          svg('text', { class: 'axis', x: LEFT - 8, y: y(value) + 4, 'text-anchor': 'end' }, short(value)),
        );
    const minutes = width < 480 ? [15, 10, 5, 0] : [15, 12, 9, 6, 3, 0];
    for (const minute of minutes)
      drawing.append(
        svg(
          'text',
          {
            class: 'axis',
            x: x(end - minute * 60_000),
            y: height - 6,
            'text-anchor': minute === 0 ? 'end' : minute === 15 ? 'start' : 'middle',
          },
          minute === 0 ? 'now' : `${minute} min`,
        ),
      );
    drawing.append(
      svg('text', { class: 'title', x: 0, y: 12 }, 'Waiting'),
      svg('text', { class: 'title', x: 0, y: lowerTop - 14 }, 'Inside, and let in per minute'),
    );
    if (points.length > 1) {
      const base = UPPER.top + upperHeight;
      const area = `${path('waiting', upper)}L${x(points.at(-1).atMs)},${base}L${x(points[0].atMs)},${base}Z`;
      drawing.append(
        svg('path', { class: 'area', d: area }),
        svg('path', { class: 'line waiting', d: path('waiting', upper) }),
        svg('path', { class: 'line inside', d: path('active', lower) }),
        svg('path', { class: 'line rate', d: path('rate', lower) }),
      );
    }
    drawTip({ width, height, x });
  };

  node.addEventListener('pointermove', (event) => {
    hoverX = event.clientX - node.getBoundingClientRect().left;
    draw();
  });
  node.addEventListener('pointerleave', () => {
    hoverX = undefined;
    draw();
  });
  const observer = new ResizeObserver(draw);
  observer.observe(node);

  return {
    node,
    legend: el(
      'div',
      { class: 'legend', 'aria-hidden': 'true' },
      el('span', {}, el('i', { class: 'swatch waiting' }), 'Waiting'),
      el('span', {}, el('i', { class: 'swatch inside' }), 'Inside'),
      el('span', {}, el('i', { class: 'swatch rate' }), 'Per minute'),
    ),
    fill(all) {
      samples = all;
      draw();
    },
    add(sample) {
      if (samples.length > 0 && sample.atMs <= samples.at(-1).atMs) return;
      samples = [...samples.filter(({ atMs }) => atMs > sample.atMs - SPAN_MS - RATE_WINDOW_MS), sample];
      draw();
    },
    stop: () => observer.disconnect(),
  };
};
