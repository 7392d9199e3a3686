// npm run crowd -- --fans 2000: simulated fans at a running demo, so that a newcomer sees the line move. They join,
// hold their stream, claim when it is their turn; most buy, some leave the line, some walk away without a word. It
// is bounded in fans and in time, and goes only to this machine: it must never be a tool against someone's site.

import { randomUUID } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import { Agent } from 'node:http';
import { type CrowdOptions, readCrowdOptions } from './crowd-options.ts';
import { createFan, type Fan, type FanStream, loopbackAddress } from './fan.ts';
import { pause } from './system.ts';

const BUYING_SHARE = 0.6;
const LEAVING_SHARE = 0.05;
const ABANDONING_SHARE = 0.05;
const RECONNECT_MS = 1000;

/** Where the fans are now; their sum is the number who have started. */
const createTally = () => ({ joining: 0, waiting: 0, inside: 0, bought: 0, left: 0, gone: 0, errors: 0 });
type Tally = ReturnType<typeof createTally>;
type Where = keyof Tally;

type Crowd = {
  options: CrowdOptions;
  tally: Tally;
  faults: Map<string, number>;
  signal: AbortSignal;
  agent: Agent;
};

/** Pauses, or ends early when the crowd is sent home. */
const rest = (ms: number, signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener('abort', done);
    if (signal.aborted) done();
  });

type Turn = { outcome: 'promoted'; claimToken: string } | { outcome: 'ended' } | { outcome: 'home' };

/** Holds the stream until it is this fan's turn, reconnecting when it breaks; ends when the crowd goes home. */
const waitForTurn = async (
  fan: Fan,
  path: string,
  patienceMs: number,
  signal: AbortSignal,
): Promise<Turn> => {
  const until = performance.now() + patienceMs;
  while (!signal.aborted && performance.now() < until) {
    let stream: FanStream | undefined;
    const turn = await new Promise<Turn | undefined>((resolve) => {
      const timer = setTimeout(() => resolve(undefined), Math.min(until - performance.now(), 2 ** 31 - 1));
      const sentHome = (): void => resolve(undefined);
      signal.addEventListener('abort', sentHome, { once: true });
      const settle = (value: Turn | undefined): void => {
        clearTimeout(timer);
        signal.removeEventListener('abort', sentHome);
        resolve(value);
      };
      fan
        .listen(
          path,
          ({ event, data }) => {
            if (event === 'promoted') settle({ outcome: 'promoted', claimToken: String(data.claimToken) });
            if (event === 'ended') settle({ outcome: 'ended' });
          },
          () => settle(undefined),
        )
        .then(
          (opened) => {
            stream = opened;
          },
          () => settle(undefined), // Refused or cut: tried again below, as a browser would.
        );
    });
    stream?.close();
    if (turn !== undefined) return turn;
    if (performance.now() < until) await rest(RECONNECT_MS * (0.5 + Math.random()), signal);
  }
  return { outcome: 'home' };
};

/** One of the sections, two seats of it, paid with a card that works; answers whether it was bought. */
const buy = async (fan: Fan, event: string, signal: AbortSignal): Promise<boolean> => {
  const seats = await fan.ask('GET', `/v1/events/${event}/seats`);
  const maps = seats.json.maps;
  const sections = typeof maps === 'object' && maps !== null ? Object.keys(maps) : [];
  await rest(500 + Math.random() * 3000, signal);
  while (sections.length > 0) {
    const [section] = sections.splice(Math.floor(Math.random() * sections.length), 1);
    const held = await fan.ask('POST', `/v1/events/${event}/holds`, {
      body: { section, count: 1 + Math.floor(Math.random() * 2) },
      headers: { 'idempotency-key': randomUUID() },
    });
    if (held.status === 409) continue;
    if (held.status !== 201) throw new Error(`hold ${held.status} ${String(held.json.code ?? '')}`);
    await rest(500 + Math.random() * 3000, signal);
    const ordered = await fan.ask('POST', '/v1/orders', {
      body: { holdId: held.json.id, payment: { method: 'card', token: 'ok' } },
      headers: { 'idempotency-key': randomUUID() },
    });
    if (ordered.status === 201 || ordered.status === 202) return true;
    throw new Error(`order ${ordered.status} ${String(ordered.json.code ?? '')}`);
  }
  return false;
};

/** The whole visit of one fan. */
const visit = async (crowd: Crowd, index: number): Promise<void> => {
  const { options, tally, signal, agent } = crowd;
  const place = `/v1/rooms/${options.room}/places`;
  let where: Where = 'joining';
  const move = (to: Where): void => {
    tally[where] -= 1;
    tally[to] += 1;
    where = to;
  };
  tally.joining += 1;
  try {
    const own = new URL(options.base).hostname.startsWith('127.')
      ? { localAddress: loopbackAddress(index) }
      : {};
    const fan = createFan({ base: options.base, agent, ...own });
    const joined = await fan.ask('POST', place, { body: {} });
    if (joined.status !== 201 && joined.status !== 200)
      throw new Error(`join ${joined.status} ${String(joined.json.code ?? '')}`);
    move('waiting');

    const fate = Math.random();
    const leaving = fate < LEAVING_SHARE;
    const impatient = leaving || fate < LEAVING_SHARE + ABANDONING_SHARE;
    const patienceMs = impatient ? 5000 + Math.random() * 60_000 : options.seconds * 1000;
    const path = `/v1/rooms/${options.room}/events`;
    const turn = await waitForTurn(fan, path, patienceMs, signal);
    if (signal.aborted) return;
    if (turn.outcome === 'home' && leaving) await fan.ask('DELETE', `${place}/me`);
    if (turn.outcome !== 'promoted') return move(leaving && turn.outcome === 'home' ? 'left' : 'gone');

    const claimed = await fan.ask('POST', `/v1/rooms/${options.room}/pass`, {
      body: { claim: turn.claimToken },
    });
    if (claimed.status !== 200) throw new Error(`claim ${claimed.status} ${String(claimed.json.code ?? '')}`);
    move('inside');
    if (Math.random() < BUYING_SHARE) return move((await buy(fan, options.room, signal)) ? 'bought' : 'left');
    await rest(2000 + Math.random() * 8000, signal);
    // Half of the others say goodbye; the rest just close the tab, and their slot comes back when it runs out.
    if (Math.random() < 0.5) return move('gone');
    await fan.ask('DELETE', `${place}/me`);
    move('left');
  } catch (error) {
    const says = error instanceof Error ? error.message : String(error);
    if (signal.aborted) return;
    crowd.faults.set(says, (crowd.faults.get(says) ?? 0) + 1);
    move('errors');
  }
};

const COLUMNS = 24;

const lineOf = ({ options, tally }: Crowd, started: number, sinceMs: number): string => {
  const done = tally.bought + tally.left + tally.gone + tally.errors;
  const filled = Math.round((done / options.fans) * COLUMNS);
  const bar = `[${'#'.repeat(filled)}${'.'.repeat(COLUMNS - filled)}]`;
  const joined = started - tally.joining;
  return `${bar} ${Math.round((performance.now() - sinceMs) / 1000)} s  joined ${joined}/${options.fans}  waiting ${tally.waiting}  inside ${tally.inside}  bought ${tally.bought}  left ${tally.left}  gone ${tally.gone}  errors ${tally.errors}`;
};

const run = async (options: CrowdOptions): Promise<void> => {
  const home = new AbortController();
  // Every waiting fan listens for the way home; Node takes more than ten for a leak.
  setMaxListeners(0, home.signal);
  const crowd: Crowd = {
    options,
    tally: createTally(),
    faults: new Map(),
    signal: home.signal,
    agent: new Agent({ keepAlive: false }),
  };
  const sinceMs = performance.now();
  let started = 0;
  const redraws = process.stdout.isTTY === true;
  const show = (): void => {
    const line = lineOf(crowd, started, sinceMs);
    if (redraws) process.stdout.write(`\r\x1b[2K${line.slice(0, (process.stdout.columns ?? 200) - 1)}`);
    else process.stdout.write(`${line}\n`);
  };
  const drawing = setInterval(show, redraws ? 200 : 2000);
  const timeUp = setTimeout(() => home.abort(), options.seconds * 1000);
  const interrupted = (): void => home.abort();
  process.once('SIGINT', interrupted);
  process.once('SIGTERM', interrupted);

  const visits: Promise<void>[] = [];
  // Ten small groups a second; `rate` fans a second together, however late a timer is.
  while (started < options.fans && !home.signal.aborted) {
    const due = Math.min(options.fans, Math.ceil(((performance.now() - sinceMs) / 1000) * options.rate));
    while (started < due) {
      visits.push(visit(crowd, started));
      started += 1;
    }
    await rest(100, home.signal);
  }
  const all = Promise.all(visits);
  await Promise.race([all, new Promise((resolve) => home.signal.addEventListener('abort', resolve))]);
  // Those sent home close their streams; a request under way gets a moment.
  await Promise.race([all, pause(2000)]);
  clearInterval(drawing);
  clearTimeout(timeUp);
  crowd.agent.destroy();
  show();
  process.stdout.write(
    `${redraws ? '\n' : ''}${home.signal.aborted ? 'Sent home' : 'All done'} after ${Math.round((performance.now() - sinceMs) / 1000)} s.\n`,
  );
  for (const [says, count] of crowd.faults) process.stdout.write(`  ${count} × ${says}\n`);
};

const main = async (): Promise<void> => {
  const options = readCrowdOptions(process.argv.slice(2));
  const reachable = await fetch(`${options.base}/v1/rooms/${options.room}`).then(
    (answer) => answer.status,
    () => 0, // Said in words below.
  );
  if (reachable !== 200)
    throw new Error(
      reachable === 404
        ? `There is no room '${options.room}' at ${options.base}.`
        : `Nothing answers at ${options.base}. Start it first: npm start`,
    );
  await run(options);
};

main().then(
  () => process.exit(0),
  (error: unknown) => {
    console.error(error instanceof Error ? error.message : String(error));
    process.exit(1);
  },
);
