// Text into HTML, escaped by default: what a template is given as a value is text, unless it is HTML made here.

export class Html {
  readonly text: string;
  constructor(text: string) {
    this.text = text;
  }
}

export type Piece = string | number | Html | undefined | readonly Piece[];

const ESCAPES: Record<string, string> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};
const escaped = (text: string): string => text.replace(/[&<>"']/g, (character) => ESCAPES[character] ?? '');

const piece = (value: Piece): string => {
  if (value === undefined) return '';
  if (value instanceof Html) return value.text;
  if (typeof value === 'object') return value.map(piece).join('');
  return escaped(String(value));
};

export const html = (strings: TemplateStringsArray, ...values: Piece[]): Html =>
  new Html(strings.map((text, index) => text + piece(values[index])).join(''));

/** JSON that cannot leave its script element, whatever the names in it say. */
export const jsonInHtml = (value: unknown): Html => new Html(JSON.stringify(value).replace(/</g, '\\u003c'));
