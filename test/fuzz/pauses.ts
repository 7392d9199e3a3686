// Whose fault is it that something waited? While the fuzzer sends, ordinary requests go out beside it on connections of
// their own (one that the gateway answers by itself, one that needs Redis, one for the origin), and the fuzzer looks how
// late its own timers are. When any of these is late there is a pause; what the machine and the gateway did in it is
// written down with it. A case that was slow in a pause says nothing yet, and is sent again when the pause is over.

import { readFileSync } from 'node:fs';
import { request } from 'node:http';

/** A control request, or a timer of the fuzzer, that takes longer than this is a pause. */
const LATE_MS = 500;
/** Shorter ones are only counted. */
const SHOWN_MS = 1000;
const EVERY_MS = 200;
const ANSWER_MS_MAX = 30_000;
/** Late moments closer than this are one pause. */
const APART_MS = 400;
/** A pause that is longer is no pause: the gateway does not come back. */
const CALM_MS_MAX = 60_000;
const SAMPLES_MAX = 600;
/** Linux counts CPU in hundredths of a second for every program (sysconf(_SC_CLK_TCK)). */
const MS_PER_TICK = 10;

export type Control = {
  name: string;
  method: 'GET' | 'POST';
  path(): string;
  headers: Readonly<Record<string, string>>;
  body?: string;
};
export type Pause = { fromMs: number; untilMs: number; seenBy: ReadonlySet<string>; during: string };
export type Pauses = {
  /** All that are over. */
  readonly list: readonly Pause[];
  /** Whether anything was late between two moments, or is late now. */
  touched(fromMs: number, untilMs: number): boolean;
  /** Resolves when every control is prompt again; answers false when that does not come. */
  calm(): Promise<boolean>;
  stop(): void;
};

type Sample = { atMs: number; gateway: number; fuzzer: number; stolen: number; disk: number };

const ticksOf = (pid: number): number => {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  // Behind the name in parentheses: field 3 is first, so 14 and 15 (utime, stime) are at 11 and 12 (proc(5)).
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return Number(fields[11]) + Number(fields[12]);
};

const sampleOf = (pid: number): Sample => {
  const atMs = performance.now();
  try {
    const cpu = readFileSync('/proc/stat', 'utf8').split('\n', 1)[0]?.split(/\s+/) ?? [];
    return {
      atMs,
      gateway: ticksOf(pid) * MS_PER_TICK,
      fuzzer: ticksOf(process.pid) * MS_PER_TICK,
      disk: Number(cpu[5]) * MS_PER_TICK,
      stolen: Number(cpu[8]) * MS_PER_TICK,
    };
  } catch {
    // Not Linux, or the gateway is gone (which is a crash, told elsewhere): pauses are found all the same.
    return { atMs, gateway: 0, fuzzer: 0, stolen: 0, disk: 0 };
  }
};

const between = (samples: readonly Sample[], fromMs: number, untilMs: number): string => {
  const first = samples.findLast(({ atMs }) => atMs <= fromMs) ?? samples[0];
  const last = samples.find(({ atMs }) => atMs >= untilMs) ?? samples.at(-1);
  if (first === undefined || last === undefined) return 'nothing is known of it';
  const seconds = (read: (sample: Sample) => number): string =>
    ((read(last) - read(first)) / 1000).toFixed(2);
  return `in ${seconds(({ atMs }) => atMs)} s the gateway used ${seconds(({ gateway }) => gateway)} s of CPU, the fuzzer ${seconds(({ fuzzer }) => fuzzer)} s; stolen ${seconds(({ stolen }) => stolen)} s, waiting for disks ${seconds(({ disk }) => disk)} s`;
};

/** Sends one and waits for its end, whatever it is; a refused connection is an answer, too. */
const ask = (port: number, { method, path, headers, body }: Control): Promise<void> =>
  new Promise((resolve) => {
    const asked = request(
      {
        host: '127.0.0.1',
        port,
        method,
        path: path(),
        agent: false,
        headers: { ...headers, ...(body === undefined ? {} : { 'content-length': body.length }) },
        timeout: ANSWER_MS_MAX,
      },
      (answer) => {
        answer.resume();
        answer.once('close', resolve);
      },
    );
    asked.once('timeout', () => asked.destroy());
    asked.once('error', () => resolve());
    asked.end(body);
  });

export const watchPauses = (options: {
  port: number;
  pid: number;
  controls: readonly Control[];
  say(text: string): void;
}): Pauses => {
  const { port, pid, controls, say } = options;
  const samples: Sample[] = [];
  const list: Pause[] = [];
  /** Of each control that is under way: since when. */
  const since = new Map<string, number>();
  let open: { fromMs: number; untilMs: number; seenBy: Set<string> } | undefined;
  let stopped = false;

  const late = (name: string, fromMs: number, untilMs: number): void => {
    open ??= { fromMs, untilMs, seenBy: new Set() };
    open.fromMs = Math.min(open.fromMs, fromMs);
    open.untilMs = Math.max(open.untilMs, untilMs);
    open.seenBy.add(name);
  };
  const close = (): void => {
    if (open === undefined) return;
    const { fromMs, untilMs, seenBy } = open;
    open = undefined;
    const pause: Pause = { fromMs, untilMs, seenBy, during: between(samples, fromMs, untilMs) };
    list.push(pause);
    if (untilMs - fromMs < SHOWN_MS) return;
    say(
      `pause of ${((untilMs - fromMs) / 1000).toFixed(1)} s, seen by ${[...seenBy].join(', ')}: ${pause.during}`,
    );
  };

  let lookedAtMs = performance.now();
  const look = (): void => {
    const nowMs = performance.now();
    samples.push(sampleOf(pid));
    if (samples.length > SAMPLES_MAX) samples.shift();
    if (nowMs - lookedAtMs - EVERY_MS > LATE_MS) late('the fuzzer', lookedAtMs, nowMs);
    lookedAtMs = nowMs;
    for (const [name, fromMs] of since) if (nowMs - fromMs > LATE_MS) late(name, fromMs, nowMs);
    if (open !== undefined && nowMs - open.untilMs > APART_MS) close();
  };
  const timer = setInterval(look, EVERY_MS);

  for (const control of controls) {
    const again = async (): Promise<void> => {
      while (!stopped) {
        const fromMs = performance.now();
        since.set(control.name, fromMs);
        await ask(port, control);
        since.delete(control.name);
        const untilMs = performance.now();
        if (untilMs - fromMs > LATE_MS) late(control.name, fromMs, untilMs);
        await new Promise((resolve) => setTimeout(resolve, EVERY_MS).unref());
      }
    };
    void again();
  }

  const touched = (fromMs: number, untilMs: number): boolean =>
    (open !== undefined && open.untilMs >= fromMs) ||
    list.some((pause) => pause.untilMs >= fromMs && pause.fromMs <= untilMs);

  return {
    list,
    touched,
    async calm() {
      const deadlineMs = performance.now() + CALM_MS_MAX;
      // At least one look, so that what is late right now has been noticed.
      do await new Promise((resolve) => setTimeout(resolve, EVERY_MS + LATE_MS));
      while (open !== undefined && performance.now() < deadlineMs);
      return open === undefined;
    },
    stop() {
      stopped = true;
      clearInterval(timer);
      close();
    },
  };
};
