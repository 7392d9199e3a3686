// A chart as SVG text, written by hand: a few series over a few sizes, both axes logarithmic, because what matters
// is how something grows. A series that does not depend on the size is a level line. No clock, no file, no font.

export type Series = {
  name: string;
  colour: string;
  /** One value a size, all above 0. */
  values: readonly number[];
};

export type Chart = {
  title: string;
  /** What stands below: machine, commit, date. */
  note: string;
  x: { label: string; ticks: readonly string[] };
  y: { label: string };
  /** A point and its value at each size; `none` where there are too many to read, and the last is told alone. */
  marks?: 'all' | 'none';
  series: readonly Series[];
};

const SIZE = { width: 920, height: 480, left: 80, right: 310, top: 56, bottom: 84 } as const;
/** Names at the right end, and values at a size, keep this distance from each other. */
const NAME_GAP = 17;
const VALUE_GAP = 12;

const escaped = (text: string): string => text.replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);

/** Three digits are all a chart can promise. */
const shortNumber = (value: number): string =>
  Number(value.toPrecision(3)).toLocaleString('en', { maximumFractionDigits: 6 });

/** Moves labels down just enough that none covers another; the answer is in the order given. */
export const spread = (heights: readonly number[], gap: number): number[] => {
  const placed = [...heights];
  let last = Number.NEGATIVE_INFINITY;
  for (const index of [...heights.keys()].sort((a, b) => heights[a]! - heights[b]!)) {
    last = Math.max(heights[index]!, last + gap);
    placed[index] = last;
  }
  return placed;
};

export const chartSvg = ({ title, note, x, y, series, marks = 'all' }: Chart): string => {
  const { width, height, left, right, top, bottom } = SIZE;
  const all = series.flatMap(({ values }) => values);
  const low = Math.floor(Math.log10(Math.min(...all)));
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...all))));
  const steps = Math.max(1, x.ticks.length - 1);
  const xOf = (index: number): number => left + (index / steps) * (width - left - right);
  const yOf = (value: number): number =>
    top + ((high - Math.log10(value)) / (high - low)) * (height - top - bottom);
  const at = (value: number): string => value.toFixed(1);
  const text = (
    from: readonly [x: number, y: number],
    words: string,
    more: { anchor?: string; fill?: string; size?: number; weight?: number } = {},
  ): string => {
    const { anchor = 'start', fill = '#333', size = 12, weight = 400 } = more;
    return `<text x="${at(from[0])}" y="${at(from[1])}" text-anchor="${anchor}" fill="${fill}" font-size="${size}" font-weight="${weight}">${escaped(words)}</text>`;
  };

  const lines: string[] = [];
  for (let power = low; power <= high; power++) {
    const height = yOf(10 ** power);
    lines.push(
      `<path d="M${at(left)} ${at(height)}H${at(width - right)}" stroke="#ddd"/>`,
      text([left - 10, height + 4], shortNumber(10 ** power), { anchor: 'end' }),
    );
  }
  for (const [index, tick] of x.ticks.entries())
    lines.push(text([xOf(index), height - bottom + 22], tick, { anchor: 'middle' }));

  const ends = spread(
    series.map(({ values }) => yOf(values.at(-1)!) + 4),
    NAME_GAP,
  );
  for (const [order, { name, colour, values }] of series.entries()) {
    const points = values.map((value, index) => `${at(xOf(index))} ${at(yOf(value))}`);
    lines.push(`<path d="M${points.join('L')}" fill="none" stroke="${colour}" stroke-width="2"/>`);
    for (const [index, value] of marks === 'all' ? values.entries() : [])
      lines.push(`<circle cx="${at(xOf(index))}" cy="${at(yOf(value))}" r="3.5" fill="${colour}"/>`);
    lines.push(text([width - right + 40, ends[order]!], name, { fill: colour, weight: 600 }));
  }
  for (const index of marks === 'all' ? x.ticks.keys() : [x.ticks.length - 1]) {
    const heights = spread(
      series.map(({ values }) => yOf(values[index]!) - 8),
      VALUE_GAP,
    );
    for (const [order, { colour, values }] of series.entries())
      lines.push(
        text([xOf(index) + 6, heights[order]!], shortNumber(values[index]!), { fill: colour, size: 11 }),
      );
  }
  const middle = left + (width - left - right) / 2;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="system-ui, sans-serif" role="img" aria-label="${escaped(title)}">
<rect width="${width}" height="${height}" fill="#fff"/>
${text([left, 28], title, { size: 16, weight: 600, fill: '#111' })}
${lines.join('\n')}
${text([middle, height - bottom + 44], x.label, { anchor: 'middle' })}
${text([left - 66, top - 12], y.label)}
${text([left, height - 14], note, { size: 11, fill: '#666' })}
</svg>
`;
};
