// The system's Firefox, without a window, driven by WebDriver BiDi over its own port (w3c.github.io/webdriver-bidi): no
// geckodriver, which Debian does not have, and no Playwright, whose Firefox is one of its own.

import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { takePort } from '../../bench/ports.ts';
import { openSocket, type TestSocket } from './client.ts';
import { eventually } from './eventually.ts';

type Teardown = { teardown(work: () => unknown): void };

export type FirefoxTab = {
  goto(url: string): Promise<void>;
  /** The value of an expression, as JSON. */
  evaluate(expression: string): Promise<unknown>;
};

const PATHS = ['/usr/bin/firefox-esr', '/usr/bin/firefox'];
const COMMAND_MS_MAX = 30_000;

/** Sends one command after the other; events in between are passed over. */
const commander = (socket: TestSocket) => {
  let id = 0;
  return async (method: string, params: object): Promise<Record<string, unknown>> => {
    id += 1;
    socket.send(JSON.stringify({ id, method, params }));
    for (;;) {
      const text = await socket.next(COMMAND_MS_MAX);
      if (text === undefined) throw new Error(`Firefox hung up during ${method}`);
      const answer = JSON.parse(text);
      if (answer.id !== id) continue;
      if (answer.type === 'error') throw new Error(`${method}: ${answer.error}: ${answer.message}`);
      return answer.result;
    }
  };
};

export const openFirefox = async (t: Teardown): Promise<{ version: string; tab: FirefoxTab }> => {
  const path = PATHS.find((one) => existsSync(one));
  if (path === undefined)
    throw new Error('There is no Firefox on this machine; `bash scripts/setup --firefox` installs it.');
  const folder = mkdtempSync(join(tmpdir(), 'anteroom-firefox-'));
  const port = await takePort();
  // A group of its own, so that its helper processes end with it.
  const child: ChildProcess = spawn(
    path,
    ['--headless', '--no-remote', '--profile', folder, `--remote-debugging-port=${port}`, 'about:blank'],
    {
      stdio: 'ignore',
      detached: true,
      env: { ...process.env, HOME: folder, MOZ_CRASHREPORTER_DISABLE: '1' },
    },
  );
  const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  t.teardown(async () => {
    if (child.exitCode === null && child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
    await gone;
    rmSync(folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
  });
  let socket: TestSocket | undefined;
  await eventually(
    'Firefox takes commands',
    async () => {
      socket = await openSocket(`ws://127.0.0.1:${port}/session`);
      return socket.answered === 101;
    },
    60_000,
  );
  const command = commander(socket!);
  const session = await command('session.new', { capabilities: {} });
  const { contexts } = await command('browsingContext.getTree', {});
  // What getTree answers, as the specification has it; Firefox opened one tab.
  const [{ context }] = contexts as [{ context: string }];
  return {
    // As above.
    version: (session.capabilities as { browserVersion: string }).browserVersion,
    tab: {
      async goto(url) {
        await command('browsingContext.navigate', { context, url, wait: 'complete' });
      },
      async evaluate(expression) {
        const answer = await command('script.evaluate', {
          expression: `Promise.resolve(${expression}).then((value) => JSON.stringify(value ?? null))`,
          target: { context },
          awaitPromise: true,
        });
        if (answer.type !== 'success')
          throw new Error(`${expression}: ${JSON.stringify(answer.exceptionDetails)}`);
        // A string was asked for.
        return JSON.parse((answer.result as { value: string }).value);
      },
    },
  };
};
