// The fuzzer's run: one whole Anteroom, an origin behind it that writes everything down, and connections that send
// damaged requests. Three things are judged: the process lives, nothing waits, and nothing is read in another way
// than it was framed.

import { connect } from 'node:net';
import { Fan } from '../support/fan.ts';
import { random } from '../support/random.ts';
import { createSystem } from '../support/system.ts';
import { CANARY, type Case, caseOf, IDENTITY } from './mutations.ts';
import { echoOf, startOrigin } from './origin.ts';
import {
  hasSecondReading,
  keyOf,
  type Reading,
  type ReadRequest,
  readAnswers,
  readStrictly,
} from './reading.ts';

type Teardown = { teardown(work: () => unknown): void };

export type FuzzOptions = {
  seconds: number;
  seed: number;
  /** Only this one, for a replay. */
  only?: number;
  say(text: string): void;
};

export type FuzzTally = {
  connections: number;
  /** Whole requests that were sent, by the strict reading. */
  requests: number;
  /** Of them, those the origin has seen. */
  proxied: number;
  answered: number;
  crashes: number;
  hangs: number;
  misread: number;
  /** Not judged for misreading: see `nameless` in reading.ts. */
  nameless: number;
  /**
   * Neither answered nor closed at once, and not judged for it: heads that the library does not take (see `untaken` in
   * reading.ts) or that are none. It hands them to nobody, and closes them itself after ten seconds.
   */
  leftToLibrary: number;
};

const CONNECTIONS = 24;
const HANG_MS = 2000;
/** After the last answer that is due, or after a bad head: one that is not due would come now. */
const GRACE_MS = 10;
const BAD_GRACE_MS = 60;
const FAULTS_SHOWN_MAX = 10;
const FAULT_EVENTS =
  /"event":"(?:server-failed|request-failed|stream-failed|refusal-unwritable|uncaught[^"]*)"/;

const escaped = (bytes: Buffer): string => {
  const text = JSON.stringify(bytes.toString('latin1'));
  return text.length > 4000 ? `${text.slice(0, 2000)} … ${text.slice(-2000)}` : text;
};

type Result = { came: Buffer; closed: boolean; tookMs: number };

/** Sends a case on a connection of its own, until what is due has come, the gateway closes, or it is called a hang. */
const send = (port: number, sent: Case, reading: Reading): Promise<Result> =>
  new Promise((resolve, reject) => {
    const methods = reading.requests.map(({ method }) => method);
    const startedMs = performance.now();
    const pieces: Buffer[] = [];
    let from = 0;
    for (const cut of [...sent.cuts, sent.bytes.length]) {
      if (cut > from) pieces.push(sent.bytes.subarray(from, cut));
      from = cut;
    }
    let came: Buffer = Buffer.alloc(0);
    let allSent = false;
    let grace: NodeJS.Timeout | undefined;
    const wire = connect({ port, host: '127.0.0.1', noDelay: true });
    const hang = setTimeout(() => finish(false), HANG_MS + 1000);
    const finish = (closed: boolean): void => {
      clearTimeout(hang);
      clearTimeout(grace);
      wire.destroy();
      resolve({ came, closed, tookMs: performance.now() - startedMs });
    };
    const look = (): void => {
      if (!allSent || grace !== undefined) return;
      const read = readAnswers(came, methods);
      const streaming = read?.answers.at(-1)?.keepsOpen === true;
      const due = reading.requests.length;
      if (read !== undefined && !streaming && !reading.untaken && read.answers.length < due) return;
      grace = setTimeout(
        () => finish(false),
        (reading.rest === 'bad' || reading.untaken) && !streaming ? BAD_GRACE_MS : GRACE_MS,
      );
    };
    wire.on('data', (chunk) => {
      came = Buffer.concat([came, chunk]);
      look();
    });
    wire.once('end', () => finish(true));
    wire.once('error', (error: NodeJS.ErrnoException) =>
      error.code === 'ECONNRESET' || error.code === 'EPIPE' ? finish(true) : reject(error),
    );
    const next = (): void => {
      const piece = pieces.shift();
      if (wire.destroyed) return;
      if (piece !== undefined) {
        wire.write(piece);
        if (pieces.length > 0) {
          setTimeout(next, 1);
          return;
        }
      }
      allSent = true;
      if (sent.end === 'half-closed') wire.end();
      if (sent.end === 'reset') {
        wire.resetAndDestroy();
        return finish(true);
      }
      look();
    };
    wire.once('connect', next);
  });

export const runFuzz = async (t: Teardown, options: FuzzOptions): Promise<FuzzTally> => {
  const { seed, say } = options;
  const tally: FuzzTally = {
    connections: 0,
    requests: 0,
    proxied: 0,
    answered: 0,
    crashes: 0,
    hangs: 0,
    misread: 0,
    nameless: 0,
    leftToLibrary: 0,
  };
  const underWay = new Map<number, Case>();
  /** How often each request may still be seen by the origin. */
  const expected = new Map<string, number>();
  const namelessIds = new Set<string>();
  const shown = { crashes: 0, hangs: 0, misread: 0 };
  const fault = (kind: 'crashes' | 'hangs' | 'misread', what: string, index?: number, sent?: Case): void => {
    tally[kind] += 1;
    shown[kind] += 1;
    if (shown[kind] > FAULTS_SHOWN_MAX) return;
    say(`${kind}: ${what}`);
    if (sent === undefined) return;
    say(`  npm run fuzz:http -- --seed ${seed} --case ${index}`);
    say(`  ${sent.done.join(', ')}; cuts ${sent.cuts.join(' ')}; ${sent.end}`);
    say(`  ${escaped(sent.bytes)}`);
  };

  const isNameless = (text: string): boolean =>
    (text.match(/k\d+x\d+n\d+/g) ?? []).some((id) => namelessIds.has(id));
  const origin = await startOrigin({
    seen(request: ReadRequest) {
      tally.proxied += 1;
      const key = keyOf(request);
      const left = expected.get(key) ?? 0;
      if (left > 0) expected.set(key, left - 1);
      else if (!isNameless(key))
        fault('misread', `the origin got what nobody sent as a request: ${key.slice(0, 2000)}`);
      const stranger = request.headers.find(
        // A name that was damaged says nothing about anybody, and passes like any other.
        ([name, value]) => value.includes(CANARY) && (IDENTITY.has(name) || name.startsWith('anteroom-')),
      );
      if (stranger !== undefined)
        fault('misread', `an identity from outside came through: ${stranger[0]} (${key})`);
      if (hasSecondReading(request.target))
        fault('misread', `a path with a second reading: ${request.target}`);
    },
    broken: (bytes, why) => fault('misread', `the origin got a broken request (${why}): ${escaped(bytes)}`),
  });
  t.teardown(() => origin.close());

  const system = await createSystem(t, {
    ANTEROOM_DEFAULT_ORIGIN: `http://127.0.0.1:${origin.port}`,
    ANTEROOM_LOG_LEVEL: 'error',
    ANTEROOM_ADDRESS_BURST: '1000000',
    ANTEROOM_ADDRESS_PER_SECOND: '1000000',
    ANTEROOM_VISITOR_BURST: '1000000',
    ANTEROOM_VISITOR_PER_SECOND: '1000000',
    ANTEROOM_STREAMS_PER_VISITOR: '1000',
  });
  const child = await system.start();
  const fan = new Fan({ base: system.base, index: 1 });
  const joined = await fan.join();
  if (joined.status !== 201) throw new Error(`the first join was answered ${joined.status}`);
  const cookie = [...fan.cookies].map(([name, value]) => `${name}=${value}`).join('; ');

  let over = false;
  const whatRan = (): string =>
    [...underWay].map(([index, sent]) => `  case ${index}: ${escaped(sent.bytes)}`).join('\n');
  child.once('exit', (code, signal) => {
    if (over) return;
    over = true;
    fault(
      'crashes',
      `the process ended (${code ?? signal}) during\n${whatRan()}\n${system.output().slice(-3000)}`,
    );
  });
  let logAt = 0;
  const readLog = (): void => {
    const text = system.output().slice(logAt);
    logAt += text.length;
    for (const written of text.split('\n'))
      if (FAULT_EVENTS.test(written)) fault('crashes', `logged: ${written.slice(0, 1500)}`);
  };
  const checkHealth = async (): Promise<void> => {
    const live = await fetch(`http://127.0.0.1:${system.ports.metrics}/live`, {
      signal: AbortSignal.timeout(10_000),
    }).then(
      (answer) => answer.status,
      // Not reachable at all is not alive either.
      () => 0,
    );
    if (live !== 200 && !over) fault('crashes', `health answered ${live} during\n${whatRan()}`);
    readLog();
  };

  const make = (index: number): { sent: Case; reading: Reading; ids: string[] } => {
    const ids: string[] = [];
    const id = (): string => {
      ids.push(`k${seed}x${index}n${ids.length}`);
      return ids.at(-1) ?? '';
    };
    // Two large odd numbers keep neighbours apart.
    const sent = caseOf(random((Math.imul(seed, 0x9e3779b1) ^ Math.imul(index, 0x85ebca6b)) >>> 0), {
      cookie,
      id,
    });
    return { sent, reading: readStrictly(sent.bytes), ids };
  };
  const register = (reading: Reading, times: number): void => {
    for (const request of reading.requests) {
      const key = keyOf(request);
      expected.set(key, (expected.get(key) ?? 0) + times);
    }
  };

  const judge = (
    index: number,
    sent: Case,
    reading: Reading,
    { came, closed, tookMs }: Result,
  ): 'fine' | 'slow' => {
    const { requests, rest } = reading;
    const read = readAnswers(
      came,
      requests.map(({ method }) => method),
    );
    if (read === undefined) {
      fault('misread', `what came back is no answer: ${escaped(came.subarray(0, 500))}`, index, sent);
      return 'fine';
    }
    const { answers } = read;
    tally.answered += answers.length;
    const streaming = answers.at(-1)?.keepsOpen === true;
    if (!reading.nameless) {
      const told = `${answers.length} answers (${answers.map(({ status }) => status).join(' ')}) to ${requests.length} requests and ${rest} (${reading.fault})`;
      if (answers.length > requests.length + (rest === 'nothing' ? 0 : 1))
        fault('misread', told, index, sent);
      else if (answers.length > requests.length && (answers.at(-1)?.status ?? 0) < 400)
        fault('misread', `what is not in order was served: ${told}`, index, sent);
      for (const [at, answer] of answers.entries()) {
        const request = requests[at];
        if (request === undefined || answer.status !== 200) continue;
        const isOrigins = request.target.startsWith('/o/');
        if ((isOrigins || answer.echo !== '') && answer.echo !== echoOf(request))
          fault(
            'misread',
            `answer ${at + 1} is that of another request (${request.method} ${request.target})`,
            index,
            sent,
          );
      }
    }
    if (closed || streaming) return 'fine';
    if (reading.untaken || (rest === 'bad' && answers.length === requests.length)) tally.leftToLibrary += 1;
    else if (tookMs > HANG_MS) return 'slow';
    return 'fine';
  };

  const tryOne = async (index: number): Promise<void> => {
    const { sent, reading, ids } = make(index);
    if (sent.bytes.length === 0) return;
    if (reading.nameless) {
      tally.nameless += 1;
      for (const id of ids) namelessIds.add(id);
    }
    tally.connections += 1;
    tally.requests += reading.requests.length;
    // Once more, in case it has to be tried again.
    register(reading, 1);
    underWay.set(index, sent);
    try {
      if (judge(index, sent, reading, await send(system.ports.public, sent, reading)) === 'slow') {
        // A busy machine is slow, too; what waits twice waits because of what was sent.
        register(reading, 1);
        const again = judge(index, sent, reading, await send(system.ports.public, sent, reading));
        if (again === 'slow')
          fault('hangs', `neither answered nor closed within ${HANG_MS} ms (${reading.rest})`, index, sent);
      }
    } catch (error) {
      if (!over) fault('crashes', `no connection: ${error}`, index, sent);
    } finally {
      underWay.delete(index);
    }
  };

  if (options.only !== undefined) {
    const { sent, reading } = make(options.only);
    say(`${sent.done.join(', ')}; cuts ${sent.cuts.join(' ')}; ${sent.end}\n${escaped(sent.bytes)}`);
    say(`${reading.requests.length} requests, then ${reading.rest} ${reading.fault}`);
    register(reading, 1);
    const result = await send(system.ports.public, sent, reading);
    say(
      `${escaped(result.came)}\n${result.closed ? 'closed' : 'left open'} after ${Math.round(result.tookMs)} ms`,
    );
    await tryOne(options.only);
  } else {
    const untilMs = performance.now() + options.seconds * 1000;
    let index = 0;
    const worker = async (): Promise<void> => {
      while (performance.now() < untilMs && !over) {
        index += 1;
        await tryOne(index);
        // What an origin has not seen by now it will never see.
        if (expected.size > 50_000)
          for (const key of [...expected.keys()].slice(0, 25_000)) expected.delete(key);
      }
    };
    const health = setInterval(() => void checkHealth(), 1000);
    await Promise.all(Array.from({ length: CONNECTIONS }, worker));
    clearInterval(health);
  }
  if (!over) await checkHealth();
  over = true;
  return tally;
};
