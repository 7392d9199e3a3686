// A proxy in front, as a child process: its files in a folder of their own, its port, ready when it takes connections,
// gone with the test. What nginx and HAProxy have in common; each has its starter beside this file.

import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { takePort } from '../../bench/ports.ts';
import { eventually } from './eventually.ts';

export type Teardown = { teardown(work: () => unknown): void };
/** What stands behind it, as `address:port`. */
export type Fronted = {
  gateway: string;
  origin: string;
  /** The name it answers to; the address of this machine where left out. */
  name?: string;
};
export type Front = {
  base: string;
  port: number;
  output(): string;
  /** Ends it as an upgrade of its package would, streams and all. */
  stop(): Promise<void>;
  /** Starts it again on the same port. */
  start(): Promise<void>;
};

/** Puts values of a test where a file for people has its own; a place that is not there exactly once is an error. */
export const settle = (text: string, values: Record<string, string>): string => {
  let settled = text;
  for (const [from, to] of Object.entries(values)) {
    const parts = settled.split(from);
    if (parts.length !== 2)
      throw new Error(`'${from}' stands ${parts.length - 1} times in the file, not once`);
    settled = parts.join(to);
  }
  return settled;
};

const accepts = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const probe = connect(port, '127.0.0.1');
    const answer = (open: boolean) => {
      probe.destroy();
      resolve(open);
    };
    probe.once('connect', () => answer(true));
    probe.once('error', () => answer(false));
  });

type At = { folder: string; port: number };

export const startFront = async (
  t: Teardown,
  made: {
    program: string;
    files: (at: At) => Record<string, string>;
    arguments: (at: At) => string[];
  },
): Promise<Front> => {
  const folder = mkdtempSync(join(tmpdir(), 'anteroom-front-'));
  const port = await takePort();
  for (const [name, text] of Object.entries(made.files({ folder, port })))
    writeFileSync(join(folder, name), text);
  let written = '';
  let child: ChildProcess;
  let gone: Promise<void>;
  const start = async (): Promise<void> => {
    // Debian keeps both programs where only an administrator's PATH looks.
    const started = spawn(made.program, made.arguments({ folder, port }), {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin` },
    });
    child = started;
    let fault: Error | undefined;
    started.once('error', (error) => {
      fault = error;
    });
    gone = new Promise<void>((resolve) => started.once('close', () => resolve()));
    for (const stream of [started.stdout, started.stderr])
      stream.on('data', (chunk: Buffer) => {
        written += chunk.toString('utf8');
      });
    await eventually(`${made.program} takes connections`, async () => {
      if (fault !== undefined || started.exitCode !== null) return true;
      return accepts(port);
    });
    if (fault !== undefined || started.exitCode !== null)
      throw new Error(
        `${made.program} did not start; \`bash scripts/setup --test\` installs it.\n${written}`,
        { cause: fault },
      );
  };
  const end = async (signal: NodeJS.Signals): Promise<void> => {
    child.kill(signal);
    await gone;
  };
  t.teardown(async () => {
    await end('SIGKILL');
    rmSync(folder, { recursive: true, force: true });
  });
  await start();
  return {
    base: `http://127.0.0.1:${port}`,
    port,
    output: () => written,
    stop: () => end('SIGTERM'),
    start,
  };
};
