// The two files of the page, named by their content, so that a browser may keep them for ever and never uses an old
// one with a new page.

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';

export type Asset = { path: string; type: string; body: Buffer };

const asset = (name: 'sale.js' | 'sale.css', type: string): Asset => {
  const body = readFileSync(new URL(`./${name}`, import.meta.url));
  const hash = createHash('sha256').update(body).digest('hex').slice(0, 12);
  return { path: `/demo/assets/${name.replace('.', `.${hash}.`)}`, type, body };
};

export const readAssets = (): { script: Asset; style: Asset } => ({
  script: asset('sale.js', 'text/javascript; charset=utf-8'),
  style: asset('sale.css', 'text/css; charset=utf-8'),
});

/** Everything from our own origin, nothing inline, no frames, forms only to ourselves. */
export const securityPolicy =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
