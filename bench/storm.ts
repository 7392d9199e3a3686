// A broker with 19,000 fans is killed, and all of them come to another one in the same moment, each with its receipt:
// how long until the last has been told where it stands, and rightly? Beside it the same with raw uWebSockets.js,
// which looks nobody up. Those who take others' fans in have been in service: some thousand streams were opened there
// and closed before.

import { startRawStreams } from './beside.ts';
import { quantile } from './entries.ts';
import { startFleet } from './fleet.ts';
import { HELD_MAX, type Holder, type HolderOptions, startHolder } from './holder.ts';
import { cpuSecondsExact } from './machine.ts';
import { commandsOf } from './ordinary.ts';
import { takePort } from './ports.ts';
import { type BenchRedis, commandStat } from './redis.ts';
import { type Row, rounded } from './report.ts';
import { interleave, medianOf, ratioOf, STEAL_MAX } from './rounds.ts';
import { pause } from './system.ts';

const RAW = 'uWebSockets.js, raw';
const OURS = 'ours';
const IDLE_MS = 3000;
/** Streams opened and closed before, a few at a time; the port is shared, so half of them reach the new process. */
const VISITS = { rounds: 20, each: 300 };
/** Room for them in the process that is full already. */
const STREAMS_MAX = HELD_MAX + 2 * VISITS.each;

type Slice = { seconds: number; p50: number; cpu: number; wrong: number; calls: number; commands: number };

/** Calls of clients, and everything with what scripts do inside. */
const askedOf = async (redis: BenchRedis): Promise<{ calls: number; commands: number }> => ({
  commands: await commandsOf(redis),
  calls: (await commandStat(redis.wire, 'evalsha')).calls,
});

type Server = { pid: number; stop(): Promise<void> };

export const runStorm = async (
  quick: boolean,
): Promise<{ rows: Row[]; rounds: Row[]; conditions: string[] }> => {
  const fans = quick ? 1000 : HELD_MAX;
  const stops: (() => Promise<void>)[] = [];
  const keep = <T extends { stop(): Promise<void> }>(started: T): T => {
    stops.unshift(started.stop);
    return started;
  };
  try {
    const fleet = keep(await startFleet({ appendOnly: true }));
    const line = await fleet.createLine({
      name: 'storm',
      fans,
      held: true,
      settings: { newUsersPerMinute: 600, totalActiveUsers: 1_000_000 },
    });
    // Where each fan was told to stand on its present stream, and when: nobody is let in, so it is known.
    let firsts: { fan: number; position: number; atMs: number }[] = [];
    const rawPort = await takePort();
    const starts: Readonly<Record<string, () => Promise<Server>>> = {
      [RAW]: () => startRawStreams({ port: rawPort }),
      [OURS]: () => fleet.startBroker(fleet.port, { ANTEROOM_STREAMS_MAX: String(STREAMS_MAX) }),
    };
    const events: Readonly<Record<string, Pick<HolderOptions, 'port' | 'path' | 'headers'>>> = {
      [RAW]: { ...line.events, port: rawPort, path: '/events' },
      [OURS]: { ...line.events, port: fleet.port },
    };
    const current = new Map<string, Server>();
    const holders = new Map<string, Holder>();
    const visitors = new Map<string, Holder>();
    for (const name of [RAW, OURS]) {
      current.set(name, keep(await starts[name]!()));
      const shared = { reconnect: 'now', fans: line.cookies, inflight: 256 } as const;
      const holder = keep(
        name === RAW
          ? startHolder({ ...shared, ...events[name]! })
          : startHolder({
              ...{ ...shared, ...events[name]!, wantsFirst: true },
              says: (news) => {
                if (news.kind === 'first') firsts.push(news);
              },
            }),
      );
      holders.set(name, holder);
      const few = line.cookies.slice(0, VISITS.each);
      visitors.set(name, keep(startHolder({ ...events[name]!, fans: few, source: fans })));
      holder.open(fans);
      await holder.settled();
    }
    const idleFrom = await askedOf(fleet.redis);
    await pause(IDLE_MS);
    const idleTo = await askedOf(fleet.redis);
    const idle = {
      calls: (idleTo.calls - idleFrom.calls) / IDLE_MS,
      commands: (idleTo.commands - idleFrom.commands) / IDLE_MS,
    };

    const slice = async (name: string): Promise<Slice> => {
      const holder = holders.get(name)!;
      const next = keep(await starts[name]!());
      const visiting = visitors.get(name)!;
      for (let round = 0; round < VISITS.rounds; round += 1) {
        visiting.open(VISITS.each);
        await visiting.settled();
        await visiting.close();
      }
      // What they left is cleared away.
      await pause(1500);
      firsts = [];
      const { losses } = await holder.count();
      const [asked, cpu, begun] = [await askedOf(fleet.redis), cpuSecondsExact(next.pid), Date.now()];
      process.kill(current.get(name)!.pid, 'SIGKILL');
      const settledAtMs = await holder.back({ fans, losses: losses + fans, sinceMs: begun });
      const tookMs = settledAtMs - begun;
      const used = cpuSecondsExact(next.pid) - cpu;
      const after = await askedOf(fleet.redis);
      const spanMs = Date.now() - begun;
      current.set(name, next);
      const counters = await holder.count();
      if (counters.open !== fans) throw new Error(`${name}: ${counters.open} of ${fans} came back`);
      return {
        seconds: tookMs / 1000,
        p50:
          name === RAW
            ? 0
            : quantile(
                firsts.map(({ atMs }) => atMs - begun),
                0.5,
              ),
        cpu: used,
        // A fan may have been told twice when its stream was cut again; the last is what counts.
        wrong:
          name === RAW
            ? 0
            : fans -
              new Set(firsts.filter(({ fan, position }) => position === fan + 1).map(({ fan }) => fan)).size,
        calls: name === RAW ? 0 : (after.calls - asked.calls - idle.calls * spanMs) / fans,
        commands: name === RAW ? 0 : (after.commands - asked.commands - idle.commands * spanMs) / fans,
      };
    };
    const done = await interleave({
      subjects: [RAW, OURS],
      rounds: 5,
      slice,
      rowOf: ({ seconds, p50, cpu, wrong, calls, commands }) => ({
        seconds: rounded(seconds, 3),
        p50Ms: Math.round(p50),
        cpuSeconds: rounded(cpu, 3),
        wrong,
        scriptCalls: rounded(calls, 3),
        commands: rounded(commands, 3),
      }),
    });
    const of = (name: string, read: (slice: Slice) => number): number => medianOf(done, name, read);
    return {
      rows: [
        ...[RAW, OURS].map((subject) => ({
          subject,
          'seconds until all are told': rounded(of(subject, ({ seconds }) => seconds)),
          'fans/s': Math.round(of(subject, ({ seconds }) => fans / seconds)),
          'µs CPU a fan': rounded(
            of(subject, ({ cpu }) => (cpu / fans) * 1e6),
            1,
          ),
          'told wrongly or not': of(subject, ({ wrong }) => wrong),
          'script calls a fan': rounded(of(subject, ({ calls }) => calls)),
          'Redis commands a fan': rounded(of(subject, ({ commands }) => commands)),
        })),
        {
          ratio: 'fans back a second, ours / raw',
          measured: rounded(ratioOf(done, { of: OURS, to: RAW, read: ({ seconds }) => 1 / seconds })),
          wanted: '≥ 0.5',
        },
      ],
      rounds: done.rows,
      conditions: [
        `${fans} fans with receipts, all at once and without any pause (a browser waits what retry says); ${done.kept.length} interleaved rounds kept, ${done.dropped} dropped for more than ${STEAL_MAX * 100} % steal`,
        `the next server takes connections before the other one is killed, and has opened about ${(VISITS.rounds * VISITS.each) / 2} streams; one process each, nothing pinned`,
        'right: the first position is the one the fan has in a line in which nobody is let in',
        `Redis commands with those inside scripts, what is asked with nobody coming (${Math.round(idle.commands * 1000)} a second) taken off`,
      ],
    };
  } finally {
    for (const stop of stops) await stop();
  }
};
