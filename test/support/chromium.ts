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
