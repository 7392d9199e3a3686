// A whole Anteroom as child processes, the way it really runs: its own ports, its own data folder, on a Redis the
// test can see into. Every step of a test goes over HTTP.

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { takePort } from '../../bench/ports.ts';
import { removeEmbeddedPostgres } from '../../kernel/postgres-server.ts';
import { generateKey } from '../../kernel/token.ts';
import { eventually } from './eventually.ts';
import { startPostgres } from './postgres.ts';

type Teardown = { teardown(work: () => unknown): void };

export type Ports = { public: number; admin: number; booking: number; sandbox: number; metrics: number };
export type System = {
  ports: Ports;
  base: string;
  admin: string;
  folder: string;
  operatorToken: string;
  keys: string;
  /** Everything the processes have written, for messages of failed tests and for canaries. */
  output(): string;
  /** Starts a process with these roles (all when left out); resolves when it is ready. */
  start(options?: {
    roles?: string;
    metricsPort?: number;
    env?: Record<string, string>;
    /** What its clock says beside the truth, in faketime's words: `+10m`. */
    clock?: string;
    /** Most file descriptors it may have. */
    descriptors?: number;
  }): Promise<ChildProcess>;
  /** Ends a process with a signal and waits for its exit; answers the exit code. */
  end(child: ChildProcess, signal: NodeJS.Signals): Promise<number | null>;
};

const root = fileURLToPath(new URL('../../', import.meta.url));
/** A start that takes longer has failed, however slow the machine. */
const READY_MS_MAX = 120_000;
/** The end of what it wrote, for the message of a failed start. */
const SHOWN_CHARACTERS = 3000;

/**
 * Deadlines that are there for broken peers. On a machine that stands still for a moment they would strike requests
 * of tests that are about something else, so they are long here; a test that is about one of them sets it.
 */
const PATIENT = {
  ANTEROOM_REDIS_TIMEOUT_MS: '60000',
  ANTEROOM_DATABASE_TIMEOUT_MS: '60000',
  ANTEROOM_ORIGIN_TIMEOUT_MS: '120000',
  ANTEROOM_ORIGIN_CONNECT_MS: '60000',
  ANTEROOM_ORIGIN_BODY_MS: '120000',
  ANTEROOM_PAYMENT_TIMEOUT_MS: '60000',
  ANTEROOM_SLOW_READER_MS: '60000',
  // A late event loop is the machine's, not an overload.
  ANTEROOM_OVERLOAD_LAG_MS: '60000',
};

/**
 * What `faketime` puts into the environment of a program. Taken from it instead of running it around ours: it stays
 * beside the program it starts, and a signal to it would not reach ours.
 */
const wrongClock = (clock: string): Record<string, string> => {
  const listed = spawnSync('faketime', ['--exclude-monotonic', '-f', clock, 'env'], { encoding: 'utf8' });
  if (listed.status !== 0) throw new Error(`faketime answered ${listed.status}: ${listed.stderr}`);
  const variables = listed.stdout
    .split('\n')
    .filter((line) => /^(LD_PRELOAD|DYLD_\w+|FAKETIME\w*|DONT_FAKE_MONOTONIC)=/.test(line))
    .map((line): [string, string] => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]);
  // The shared memory it names is gone with it.
  return Object.fromEntries(variables.filter(([name]) => name !== 'FAKETIME_SHARED'));
};

/**
 * Settings of a room in which no turn, session or presence runs out by itself: for tests in which somebody has to act
 * in time, and would not on a machine that stands still for a moment.
 */
export const UNHURRIED = {
  claimSeconds: 3600,
  sessionSeconds: 3600,
  absoluteSessionSeconds: 7200,
  graceSeconds: 600,
} as const;

/** Its database is one of its own on the server of all tests; with `embedded` it starts a server by itself. */
export const createSystem = async (
  t: Teardown,
  env: Record<string, string> = {},
  database: 'server' | 'embedded' = 'server',
): Promise<System> => {
  const isOurs = database === 'server' && env.ANTEROOM_DATABASE_URL === undefined;
  const { url: databaseUrl } = isOurs ? await startPostgres(t) : { url: '' };
  const [publicPort, admin, booking, sandbox, metrics] = [
    await takePort(),
    await takePort(),
    await takePort(),
    await takePort(),
    await takePort(),
  ];
  const ports: Ports = { public: publicPort, admin, booking, sandbox, metrics };
  const folder = mkdtempSync(join(tmpdir(), 'anteroom-'));
  chmodSync(folder, 0o711); // Root's PostgreSQL is somebody else, who has to enter it.
  const operatorToken = `aro_${'t'.repeat(43)}`;
  const keys = generateKey('t');
  const children = new Set<ChildProcess>();
  let written = '';

  const end = async (child: ChildProcess, signal: NodeJS.Signals): Promise<number | null> => {
    children.delete(child);
    if (child.exitCode !== null || child.signalCode !== null) return child.exitCode;
    const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()));
    child.kill(signal);
    await gone;
    return child.exitCode;
  };
  t.teardown(async () => {
    for (const child of [...children]) await end(child, 'SIGTERM');
    removeEmbeddedPostgres(join(folder, 'postgres'));
    rmSync(folder, { recursive: true, force: true });
  });

  return {
    ports,
    base: `http://127.0.0.1:${ports.public}`,
    admin: `http://127.0.0.1:${ports.admin}`,
    folder,
    operatorToken,
    keys,
    output: () => written,
    end,
    async start(options = {}) {
      const metricsPort = options.metricsPort ?? ports.metrics;
      const program = [process.execPath, '--import', 'tsx/esm', 'main.ts'];
      // `exec` leaves no shell in between that would take our signals.
      const limited = ['sh', '-c', `ulimit -n ${options.descriptors}; exec "$0" "$@"`, ...program];
      const [command, ...rest] = options.descriptors === undefined ? program : limited;
      const child = spawn(command!, rest, {
        cwd: root,
        stdio: ['ignore', 'pipe', 'pipe'],
        env: {
          PATH: process.env.PATH,
          HOME: process.env.HOME,
          ANTEROOM_DATA: folder,
          ANTEROOM_DATABASE_URL: databaseUrl,
          ANTEROOM_PORT: String(ports.public),
          ANTEROOM_ADMIN_PORT: String(ports.admin),
          ANTEROOM_BOOKING_PORT: String(ports.booking),
          ANTEROOM_SANDBOX_PORT: String(ports.sandbox),
          ANTEROOM_METRICS_PORT: String(metricsPort),
          ANTEROOM_OPERATOR_TOKEN: operatorToken,
          ANTEROOM_KEYS: keys,
          ANTEROOM_DEMO: 'on',
          // Fans of a test come from many addresses, as a trusted proxy would tell them.
          ANTEROOM_TRUSTED_PROXIES: '127.0.0.1',
          ...PATIENT,
          ...(options.roles === undefined ? {} : { ANTEROOM_ROLES: options.roles }),
          ...env,
          ...options.env,
          ...(options.clock === undefined ? {} : wrongClock(options.clock)),
        },
      });
      children.add(child);
      const collect = (chunk: Buffer) => {
        written += chunk.toString('utf8');
      };
      child.stdout?.on('data', collect);
      child.stderr?.on('data', collect);
      const isGone = () => child.exitCode !== null || child.signalCode !== null;
      try {
        await eventually(
          'the system is ready',
          async () => {
            if (isGone()) return true;
            const answer = await fetch(`http://127.0.0.1:${metricsPort}/ready`);
            if (answer.status === 200) return true;
            throw new Error(`/ready answered ${answer.status}: ${await answer.text()}`);
          },
          READY_MS_MAX,
        );
      } catch (cause) {
        const { message } = cause instanceof Error ? cause : new Error(String(cause));
        const why = cause instanceof Error ? `: ${String(cause.cause)}` : '';
        throw new Error(`${message}${why}\nThe processes wrote:\n${written.slice(-SHOWN_CHARACTERS)}`, {
          cause,
        });
      }
      if (isGone())
        throw new Error(
          `the process ended with ${child.exitCode ?? child.signalCode}:\n${written.slice(-SHOWN_CHARACTERS)}`,
        );
      return child;
    },
  };
};
