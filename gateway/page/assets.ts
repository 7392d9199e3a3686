// The files that the pages need, as they travel: one stylesheet, one script (the words, the browser client and the
// page's own code joined, so that a crowd makes one request instead of three), and the client alone for pages of
// others. Each is named by its content, so it may be kept for ever and a new version is a new address.
//
// There is no bundler: comments and spare white space stay at home, `import` lines and `export` words go. The
// sources keep to what that needs: no template literal over lines or inside another, no quote in a regular
// expression, one scope for all three.

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';

export type Asset = {
  name: 'style' | 'script' | 'client';
  path: string;
  contentType: string;
  body: string;
  /** The same for whoever takes gzip, which is every browser: a crowd's first load is a third of it. */
  zipped: Buffer;
  hash: string;
};

/** The client's lasting address, for pages of others; what stands there may be newer tomorrow. */
export const CLIENT_PATH = '/rooms/_/client.js';

const source = (path: string): string => readFileSync(new URL(path, import.meta.url), 'utf8');

/** Without comments, indentation and the spaces and line ends next to punctuation; strings stay as they are. */
const carried = (text: string, punctuation: RegExp): string =>
  text
    .replace(/^\s*\/\*[\s\S]*?\*\/\s*$/gm, '')
    .split('\n')
    .map((line) => line.replace(/(^|\s)\/\/( .*)?$/, '').trim())
    .filter((line) => line !== '')
    .map((line) =>
      line
        .split(/('(?:[^'\\]|\\.)*'|"[^"]*"|`[^`]*`)/)
        .map((part, index) => (index % 2 === 1 ? part : part.replace(punctuation, '$1')))
        .join(''),
    )
    .join('\n')
    .replace(/([;{,([])\n/g, '$1');

const script = (text: string): string =>
  carried(text, /\s*([=,;:?{}()<>&|[\]!*/%]|(?<=[\w)\]] )[+-](?==| [\w(]))\s*/g)
    .replace(/\n(?=[?:.)\]}&|])/g, '')
    .replace(/[,;](?=[}\]])/g, '');
const style = (text: string): string =>
  carried(text, /\s*([{}:;,>])\s*/g)
    .replace(/;?\n?}/g, '}')
    .replace(/\n/g, '');

const joined = (text: string): string =>
  script(text.replace(/^import [^;]*;$/gm, '').replace(/^export (?=const )/gm, ''));

const assetOf = (name: Asset['name'], ending: 'css' | 'js', body: string): Asset => {
  const hash = createHash('sha256').update(body).digest('hex').slice(0, 12);
  return {
    name,
    hash,
    body,
    zipped: gzipSync(body, { level: 9 }),
    path: `/rooms/_/${name === 'client' ? 'client' : 'page'}-${hash}.${ending}`,
    contentType: ending === 'css' ? 'text/css; charset=utf-8' : 'text/javascript; charset=utf-8',
  };
};

/** Reads four small files; the same files give the same addresses in every process. */
export const createAssets = (): readonly Asset[] => {
  // The client is read, not imported: it runs in browsers only.
  const client = source('../../client/anteroom.js');
  return [
    assetOf('style', 'css', style(source('./page.css'))),
    assetOf('script', 'js', [source('./words.js'), client, source('./page.js')].map(joined).join('\n')),
    assetOf('client', 'js', script(client)),
  ];
};
