// Whether the headers are those a browser sends. Only what every current browser does is held against anyone:
// privacy settings and in-app browsers leave out a lot.

import type { Check } from './check.ts';

/** Since these versions the browser always sends Sec-Fetch-* on https and localhost (MDN, Sec-Fetch-Site). */
const FETCH_METADATA_SINCE: Record<string, number> = { Chrome: 80, Edge: 80, Opera: 67, Firefox: 95 };

export const headersBare: Check = {
  id: 'headers-bare',
  family: 'headers',
  find: ({ accept, language }) =>
    !accept && !language
      ? 'The request lacks the headers that every browser sends (Accept, Accept-Language).'
      : undefined,
};
export const headersNoLanguage: Check = {
  id: 'headers-no-language',
  family: 'headers',
  find: ({ accept, language }) =>
    accept && !language ? 'The request does not say which languages its reader knows.' : undefined,
};
export const headersNoMetadata: Check = {
  id: 'headers-no-metadata',
  family: 'headers',
  find: ({ browser, fetchMetadata }) => {
    const since = FETCH_METADATA_SINCE[browser.name];
    return since !== undefined && browser.major >= since && !fetchMetadata
      ? `The request says it is ${browser.name} ${browser.major} but lacks headers that this browser always sends.`
      : undefined;
  },
};
export const headersBrandMismatch: Check = {
  id: 'headers-brand-mismatch',
  family: 'headers',
  find: ({ browser, brands }) => {
    const major = /"(?:Google Chrome|Chromium|Microsoft Edge)";v="(\d+)"/.exec(brands)?.[1];
    return major !== undefined && ['Chrome', 'Edge'].includes(browser.name) && Number(major) !== browser.major
      ? `The request names two different versions of its browser (${browser.major} and ${major}).`
      : undefined;
  },
};
