// The fuzzer's run: one whole Anteroom, an origin behind it that writes everything down, and connections that send
// damaged requests, straight to the gateway or through a proxy with the file of deploy/. Three things are judged: the
// process lives, nothing waits, and nothing is read in another way than it was framed: by the sender, or, behind a
// proxy, by that.

import { Fan } from '../support/fan.ts';
import { startHaproxy } from '../support/haproxy.ts';
import { startNginx } from '../support/nginx.ts';
import { random } from '../support/random.ts';
import { createSystem } from '../support/system.ts';
import { CANARY, type Case, caseOf, HOST, IDENTITY } from './mutations.ts';
import { echoOf, startOrigin } from './origin.ts';
import { type Pause, watchPauses } from './pauses.ts';
import {
  hasSecondReading,
  keyOf,
  type Reading,
  type ReadRequest,
  readAnswers,
  readStrictly,
} from './reading.ts';
import { startTap } from './tap.ts';
import { HANG_MS, type Result, send } from './wire.ts';

type Teardown = { teardown(work: () => unknown): void };

export type Way = 'straight' | 'nginx' | 'haproxy';
export const WAYS: readonly Way[] = ['straight', 'nginx', 'haproxy'];

export type FuzzOptions = {
  way: Way;
  /** How long it sends, or how many cases. */
  until: { seconds: number } | { cases: number };
  seed: number;
  /** Only this one, for a replay. */
  only?: number;
};

export type FuzzTally = {
  connections: number;
  /** Whole requests that were sent, by the strict reading. */
  requests: number;
  /** Of all that was sent, what the origin has seen. */
  proxied: number;
  answered: number;
  crashes: number;
  hangs: number;
  misread: number;
  /** Cases that were slow at first, and were sent again. */
  repeated: number;
  pauses: readonly Pause[];
  /** Not judged for misreading: see `nameless` in reading.ts. */
  nameless: number;
  /**
   * Neither answered nor closed at once, and not judged for it: heads that the library does not take (see `untaken` in
   * reading.ts) or that are none. It hands them to nobody, and closes them itself after ten seconds.
   */
  leftToLibrary: number;
};

const CONNECTIONS = 24;
/** A case that pauses of the machine keep slow says nothing after so many. */
const TRIES_MAX = 6;
const FAULTS_SHOWN_MAX = 10;
const FAULT_EVENTS =
  /"event":"(?:server-failed|request-failed|stream-failed|refusal-unwritable|uncaught[^"]*)"/;

const escaped = (bytes: Buffer): string => {
  const text = JSON.stringify(bytes.toString('latin1'));
  return text.length > 4000 ? `${text.slice(0, 2000)} … ${text.slice(-2000)}` : text;
};

/** A question that may be answered whatever body is still to come: the answer does not depend on it. */
const isSafe = (bytes: Buffer, at: number): boolean =>
  /^(?:GET|HEAD|OPTIONS) /.test(bytes.toString('latin1', at, at + 8));

type Fault = 'crashes' | 'hangs' | 'misread';
const emptyTally = () => ({
  connections: 0,
  requests: 0,
  proxied: 0,
  answered: 0,
  crashes: 0,
  hangs: 0,
  misread: 0,
  repeated: 0,
  nameless: 0,
  leftToLibrary: 0,
});

/** Starts the system and its origin; `run` may be called once after another. */
export const startFuzz = async (
  t: Teardown,
  say: (text: string) => void,
): Promise<{ run(options: FuzzOptions): Promise<FuzzTally> }> => {
  let tally = emptyTally();
  const underWay = new Map<number, Case>();
  /** How often each request may still be seen by the origin. */
  const expected = new Map<string, number>();
  const namelessIds = new Set<string>();
  /** For ids that were damaged, too. */
  const namelessTargets = new Set<string>();
  let replay = '';
  const fault = (kind: Fault, what: string, index?: number, sent?: Case): void => {
    tally[kind] += 1;
    if (tally[kind] > FAULTS_SHOWN_MAX) return;
    say(`${kind}: ${what}`);
    if (sent === undefined) return;
    say(`  npm run fuzz:http -- ${replay} --case ${index}`);
    say(`  ${sent.done.join(', ')}; cuts ${sent.cuts.join(' ')}; ${sent.end}`);
    say(`  ${escaped(sent.bytes)}`);
  };
  const allow = (request: ReadRequest): void => {
    const key = keyOf(request);
    expected.set(key, (expected.get(key) ?? 0) + 1);
    // What an origin has not seen by now it will never see.
    if (expected.size > 50_000) for (const old of [...expected.keys()].slice(0, 25_000)) expected.delete(old);
  };
  const isNameless = ({ target }: ReadRequest, text: string): boolean =>
    namelessTargets.has(target) || (text.match(/k\d+x\d+n\d+/g) ?? []).some((id) => namelessIds.has(id));

  const origin = await startOrigin({
    seen(request: ReadRequest) {
      tally.proxied += 1;
      const key = keyOf(request);
      const left = expected.get(key) ?? 0;
      if (left > 0) expected.set(key, left - 1);
      else if (!isNameless(request, key))
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
  t.teardown(() => {
    over = true;
  });
  let logAt = 0;
  const readLog = (): void => {
    const text = system.output().slice(logAt);
    logAt += text.length;
    for (const written of text.split('\n'))
      if (FAULT_EVENTS.test(written)) fault('crashes', `logged: ${written.slice(0, 1500)}`);
  };
  const health = (): Promise<number> =>
    fetch(`http://127.0.0.1:${system.ports.metrics}/live`, { signal: AbortSignal.timeout(60_000) }).then(
      (answer) => answer.status,
      // Not reachable at all is not alive either.
      () => 0,
    );
  const checkHealth = async (): Promise<void> => {
    const live = await health();
    if (live !== 200 && !over) fault('crashes', `health answered ${live} during\n${whatRan()}`);
    readLog();
  };

  const portOf = async (way: Way): Promise<number> => {
    if (way === 'straight') return system.ports.public;
    const tap = await startTap(system.ports.public, { framed: allow });
    t.teardown(() => tap.close());
    const at = `127.0.0.1:${tap.port}`;
    const behind = { gateway: at, origin: at, name: HOST };
    const front =
      way === 'nginx'
        ? await startNginx(t, 'anteroom.conf', behind)
        : await startHaproxy(t, 'haproxy.cfg', behind);
    return front.port;
  };

  let controls = 0;
  const controlHeaders = {
    host: HOST,
    'user-agent': 'Mozilla/5.0 (Windows NT 10.0; Win64; x64) Chrome/140.0.0.0 Safari/537.36',
    'x-forwarded-for': '198.51.100.1',
  };
  const watch = (port: number, way: Way) =>
    watchPauses({
      port,
      pid: child.pid ?? 0,
      say,
      controls: [
        {
          name: 'the gateway',
          method: 'GET',
          path: () => '/.well-known/jwks.json',
          headers: controlHeaders,
        },
        {
          name: 'Redis',
          method: 'POST',
          path: () => '/v1/rooms/demo/places',
          headers: { ...controlHeaders, 'content-type': 'application/json', cookie },
          body: '{}',
        },
        {
          name: 'the origin',
          method: 'GET',
          path() {
            controls += 1;
            const target = `/o/control-${controls}`;
            // Behind a proxy the tap sees it.
            if (way === 'straight') allow({ method: 'GET', target, headers: [], body: Buffer.alloc(0) });
            return target;
          },
          headers: controlHeaders,
        },
      ],
    });

  const run = async ({ way, until, seed, only }: FuzzOptions): Promise<FuzzTally> => {
    tally = emptyTally();
    replay = `--seed ${seed}${way === 'straight' ? '' : ` --behind ${way}`}`;
    const port = await portOf(way);

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

    const judge = (index: number, sent: Case, reading: Reading, result: Result): 'fine' | 'slow' => {
      const { requests, rest } = reading;
      const { came, closed } = result;
      const read = readAnswers(
        came,
        requests.map(({ method }) => method),
      );
      // A proxy answers in its own words what it refuses, and may take more for a request than a strict reader does.
      const isJudged = way === 'straight' || (rest === 'nothing' && !reading.untaken);
      if (read === undefined) {
        if (isJudged)
          fault('misread', `what came back is no answer: ${escaped(came.subarray(0, 500))}`, index, sent);
        return 'fine';
      }
      const { answers } = read;
      tally.answered += answers.length;
      const streaming = answers.at(-1)?.keepsOpen === true;
      if (isJudged && !reading.nameless) {
        const told = `${answers.length} answers (${answers.map(({ status }) => status).join(' ')}) to ${requests.length} requests and ${rest} (${reading.fault})`;
        if (answers.length > requests.length + (rest === 'nothing' ? 0 : 1))
          fault('misread', told, index, sent);
        else if (
          answers.length > requests.length &&
          (answers.at(-1)?.status ?? 0) < 400 &&
          !(rest === 'body-missing' && answers.at(-1)?.echo === '' && isSafe(sent.bytes, reading.restAt))
        )
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
      else if (result.untilMs - result.fromMs > HANG_MS) return 'slow';
      return 'fine';
    };

    const pauses = watch(port, way);
    const tryOne = async (index: number): Promise<void> => {
      const { sent, reading, ids } = make(index);
      if (sent.bytes.length === 0) return;
      if (reading.nameless) {
        tally.nameless += 1;
        for (const id of ids) namelessIds.add(id);
        for (const [, target = ''] of sent.bytes.toString('latin1').matchAll(/ (\/\S*) HTTP\//g))
          namelessTargets.add(target);
      }
      tally.connections += 1;
      tally.requests += reading.requests.length;
      underWay.set(index, sent);
      const once = async () => {
        if (way === 'straight') for (const request of reading.requests) allow(request);
        const result = await send(port, sent, reading);
        return { result, judged: judge(index, sent, reading, result) };
      };
      try {
        // What was slow while all was slow says nothing; what is slow twice is slow because of what was sent.
        for (let slowTimes = 0, tries = 0; tries < TRIES_MAX; tries += 1) {
          const { result, judged } = await once();
          if (judged === 'fine') return;
          tally.repeated += 1;
          if (pauses.touched(result.fromMs, result.untilMs)) {
            if (!(await pauses.calm())) return fault('hangs', 'a pause did not end', index, sent);
            continue;
          }
          slowTimes += 1;
          if (slowTimes === 2)
            return fault(
              'hangs',
              `neither answered nor closed within ${HANG_MS} ms (${reading.rest})`,
              index,
              sent,
            );
        }
      } catch (error) {
        if (!over) fault('crashes', `no connection: ${error}`, index, sent);
      } finally {
        underWay.delete(index);
      }
    };

    if (only !== undefined) {
      const { sent, reading } = make(only);
      say(`${sent.done.join(', ')}; cuts ${sent.cuts.join(' ')}; ${sent.end}\n${escaped(sent.bytes)}`);
      say(`${reading.requests.length} requests, then ${reading.rest} ${reading.fault}`);
      if (way === 'straight') for (const request of reading.requests) allow(request);
      const { came, closed, fromMs, untilMs } = await send(port, sent, reading);
      say(`${escaped(came)}\n${closed ? 'closed' : 'left open'} after ${Math.round(untilMs - fromMs)} ms`);
      await tryOne(only);
    } else {
      const begunMs = performance.now();
      let index = 0;
      const isOver = (): boolean =>
        'cases' in until ? index >= until.cases : performance.now() >= begunMs + until.seconds * 1000;
      const worker = async (): Promise<void> => {
        while (!isOver() && !over) {
          index += 1;
          await tryOne(index);
        }
      };
      const health = setInterval(() => void checkHealth(), 1000);
      await Promise.all(Array.from({ length: CONNECTIONS }, worker));
      clearInterval(health);
    }
    pauses.stop();
    if (!over) await checkHealth();
    return { ...tally, pauses: pauses.list };
  };
  return { run };
};
