// The system's Chromium for tests, quiet and alone: it makes no requests but those of the page.

import { existsSync } from 'node:fs';
import { type Browser, chromium } from 'playwright-core';

const PATHS = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];

const chromiumPath = (): string => {
  const found = PATHS.find((path) => existsSync(path));
  if (found === undefined)
    throw new Error('There is no Chromium on this machine; `bash scripts/setup --test` installs it.');
  return found;
};

/** What this Chromium would send with a window; headless, it says so, and is asked to show that it is a person. */
export const windowedAgent = (browser: Browser): string =>
  `Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/${browser.version().split('.')[0]}.0.0.0 Safari/537.36`;

export const launchChromium = (): Promise<Browser> =>
  chromium.launch({
    executablePath: chromiumPath(),
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });
