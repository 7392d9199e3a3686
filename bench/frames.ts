// Frames a second of CPU: how much of a core a server uses to say something to everyone it holds. All subjects hold
// the same number of streams and send as many frames a second, in turn and in one run, so that what is compared is the
// price of a frame and not who is the limit.

import {
  type Sender,
  startBetterSse,
  startNchan,
  startRawStreams,
  startSender,
  startSocketIo,
  startWs,
} from './beside.ts';
import { type Fleet, type Line, startFleet } from './fleet.ts';
import { type Holder, type HolderOptions, startHolder } from './holder.ts';
import { cpuSecondsExact } from './machine.ts';
import { takePort } from './ports.ts';
import { type Row, rounded } from './report.ts';
import { type Interleaved, interleave, medianOf, pinAll, ratioOf, STEAL_MAX } from './rounds.ts';
import { callOf, loadScript } from './script.ts';
import { pause } from './system.ts';

const ROOM = 'shared';
const NEAR_ROOM = 'near';
/** The room of the shared frame opens tomorrow: there its fans hear notices and nothing else. */
const TOMORROW_MS = 86_400_000;
/** Everybody is near, and hears where they stand once a second. */
const NEAR_SECONDS = 40;
const ARRIVE_MS_MAX = 10_000;

type Plan = { fans: number; seconds: number; beats: number };
type Slice = { frames: number; cpu: number; seconds: number; bytes: number };
type Subject = { name: string; slice(): Promise<Slice> };

const planFor = (quick: boolean): Plan =>
  quick ? { fans: 1000, seconds: 1, beats: 4 } : { fans: 10_000, seconds: 2, beats: 3 };

/** One server, everybody it holds, and `beats` broadcasts a second. */
const broadcastSubject = (
  name: string,
  { sender, holder, plan, idle = 0 }: { sender: Sender; holder: Holder; plan: Plan; idle?: number },
): Subject => ({
  name,
  async slice() {
    const total = plan.seconds * plan.beats;
    const [before, cpu, begun] = [await holder.count(), cpuSecondsExact(sender.pid), performance.now()];
    for (let beat = 0; beat < total; beat++) {
      await sender.say();
      await pause(Math.max(0, begun + ((beat + 1) * 1000) / plan.beats - performance.now()));
    }
    let after = await holder.count();
    while (
      after.frames - before.frames < total * plan.fans &&
      performance.now() - begun < plan.seconds * 1000 + ARRIVE_MS_MAX
    ) {
      await pause(5);
      after = await holder.count();
    }
    const seconds = (performance.now() - begun) / 1000;
    return {
      frames: after.frames - before.frames,
      bytes: after.bytes - before.bytes,
      cpu: cpuSecondsExact(sender.pid) - cpu - idle * seconds,
      seconds,
    };
  },
});

/** What a process uses a second for being there, with its streams open and silent. */
const idleOf = async (pid: number, seconds: number): Promise<number> => {
  const cpu = cpuSecondsExact(pid);
  await pause(seconds * 1000);
  return (cpuSecondsExact(pid) - cpu) / seconds;
};

const startHeld = async (options: HolderOptions, count: number): Promise<Holder> => {
  const holder = startHolder(options);
  holder.open(count);
  await holder.settled();
  return holder;
};

type Keep = <T extends { stop(): Promise<void> }>(started: T) => T;

const besideSubject = async (
  name: string,
  options: {
    start: () => Promise<Sender>;
    keep: Keep;
    plan: Plan;
    path: string;
    mode: 'sse' | 'ws' | 'socketio';
  },
): Promise<Subject> => {
  const { start, keep, plan, path, mode } = options;
  const sender = keep(await start());
  pinAll([sender.pid]);
  const holder = keep(
    await startHeld({ port: sender.port, path, headers: {}, fans: plan.fans, mode }, plan.fans),
  );
  return broadcastSubject(name, { sender, holder, plan });
};

type Ours = { subject: Subject; idle: number };

/** A broker of ours on a port and a core of its own, and how its fans ask for what it holds. */
const startOurs = async ({ fleet, line, mode }: { fleet: Fleet; line: Line; mode: 'sse' | 'ws' }) => {
  const port = await takePort();
  const broker = await fleet.startBroker(port);
  pinAll([broker.pid]);
  return { broker, asked: { port, ...(mode === 'sse' ? line.events : line.socket), fans: line.cookies } };
};

const sharedSubject = async (
  name: string,
  options: { fleet: Fleet; line: Line; keep: Keep; plan: Plan; mode: 'sse' | 'ws' },
): Promise<Ours> => {
  const { fleet, keep, plan } = options;
  const { broker, asked } = await startOurs(options);
  const holder = keep(await startHeld(asked, plan.fans));
  const { wire } = fleet.redis;
  const notice = await loadScript(wire, 'room.notice');
  let said = 0;
  const say = async (): Promise<void> => {
    said += 1;
    const given = { nowMs: '', noticeId: `n${said % 10}`, text: 'x'.repeat(40), level: 'info' };
    await wire.ask(callOf(notice, ROOM, given));
  };
  await pause(2000);
  const idle = await idleOf(broker.pid, 2 * plan.seconds);
  const sender = { pid: broker.pid, port: asked.port, say, stop: broker.stop };
  return { subject: broadcastSubject(name, { sender, holder, plan, idle }), idle };
};

/** Positions, each fan's own, at the cadence of those who are near: opened for the slice, and closed after it. */
const personalSubject = async (
  name: string,
  options: { fleet: Fleet; line: Line; keep: Keep; plan: Plan; mode: 'sse' | 'ws' },
): Promise<Ours> => {
  const { keep, plan } = options;
  const { broker, asked } = await startOurs(options);
  const holder = keep(startHolder(asked));
  await pause(2000);
  const idle = await idleOf(broker.pid, 2 * plan.seconds);
  const slice = async (): Promise<Slice> => {
    holder.open(plan.fans);
    await holder.settled();
    // The first second is still that of the opening.
    await pause(1200);
    const [before, cpu, begun] = [await holder.count(), cpuSecondsExact(broker.pid), performance.now()];
    await pause(plan.seconds * 1000);
    const after = await holder.count();
    const used = cpuSecondsExact(broker.pid) - cpu;
    const seconds = (performance.now() - begun) / 1000;
    await holder.close();
    await pause(300);
    return {
      frames: after.frames - before.frames,
      bytes: after.bytes - before.bytes,
      cpu: used - idle * seconds,
      seconds,
    };
  };
  return { subject: { name, slice }, idle };
};

type Verdict = { of: string; to: string; wanted: string };

const run = async (
  subjects: readonly Subject[],
  options: { plan: Plan; verdicts: readonly Verdict[]; conditions: readonly string[] },
): Promise<{ rows: Row[]; rounds: Row[]; conditions: string[] }> => {
  const { plan, verdicts, conditions } = options;
  const byName = new Map(subjects.map((subject) => [subject.name, subject]));
  // Not counted: functions are compiled.
  for (const subject of subjects) await subject.slice();
  const done: Interleaved<Slice> = await interleave({
    subjects: [...byName.keys()],
    rounds: 5,
    slice: (name) => byName.get(name)!.slice(),
    rowOf: ({ frames, cpu, seconds, bytes }) => ({
      frames,
      seconds: rounded(seconds),
      cpuSeconds: rounded(cpu, 3),
      framesPerCpuSecond: Math.round(frames / cpu),
      bytesAFrame: Math.round(bytes / frames),
    }),
  });
  const price = ({ frames, cpu }: Slice): number => frames / cpu;
  return {
    rows: [
      ...subjects.map(({ name }) => ({
        subject: name,
        'frames/CPU-second': Math.round(medianOf(done, name, price)),
        'µs CPU a frame': rounded(medianOf(done, name, (slice) => 1e6 / price(slice))),
        'frames/s': Math.round(medianOf(done, name, ({ frames, seconds }) => frames / seconds)),
        'bytes a frame': Math.round(medianOf(done, name, ({ bytes, frames }) => bytes / frames)),
      })),
      ...verdicts.map(({ of, to, wanted }) => ({
        ratio: `${of} / ${to}`,
        measured: rounded(ratioOf(done, { of, to, read: price })),
        wanted,
      })),
    ],
    rounds: done.rows,
    conditions: [
      `${plan.fans} streams a server, ${plan.beats} broadcasts a second, slices of ${plan.seconds} s; positions come once a second`,
      `${done.kept.length} interleaved rounds kept, ${done.dropped} dropped for more than ${STEAL_MAX * 100} % steal; medians over the rounds`,
      'CPU is what the server process ran (schedstat), that of sending in the kernel included; all servers on core 0, holders on the last',
      ...conditions,
    ],
  };
};

const lines = async (fleet: Fleet, plan: Plan): Promise<{ shared: Line; near: Line }> => ({
  shared: await fleet.createLine({
    name: ROOM,
    fans: plan.fans,
    settings: { prequeueStartsAt: 1, opensAt: Date.now() + TOMORROW_MS },
  }),
  near: await fleet.createLine({
    name: NEAR_ROOM,
    fans: plan.fans,
    held: true,
    settings: {
      newUsersPerMinute: Math.ceil((plan.fans * 60) / NEAR_SECONDS),
      totalActiveUsers: 1_000_000,
    },
  }),
});

const idleSentence = (shared: Ours, personal: Ours): string =>
  `ours is a gateway and broker with Redis, as it is deployed; what it uses with everybody silent (${rounded(shared.idle * 1000, 1)} and ${rounded(personal.idle * 1000, 1)} ms of CPU a second) is taken off`;

const withStops = async <T>(work: (keep: Keep) => Promise<T>): Promise<T> => {
  const stops: (() => Promise<void>)[] = [];
  try {
    return await work((started) => {
      stops.unshift(started.stop);
      return started;
    });
  } finally {
    for (const stop of stops) await stop();
  }
};

export const runSse = (quick: boolean): Promise<{ rows: Row[]; rounds: Row[]; conditions: string[] }> =>
  withStops(async (keep) => {
    const plan = planFor(quick);
    const fleet = keep(await startFleet({ appendOnly: false }));
    const line = await lines(fleet, plan);
    const mode = 'sse';
    const beside = (name: string, start: () => Promise<Sender>): Promise<Subject> =>
      besideSubject(name, { start, keep, plan, path: '/events', mode });
    const loop = await beside('C loop that only sends', startSender);
    const raw = await beside('uWebSockets.js, raw', () => startRawStreams());
    const nchan = await beside('nchan', startNchan);
    const better = await beside('better-sse', startBetterSse);
    const shared = await sharedSubject('ours, shared frame', { fleet, line: line.shared, keep, plan, mode });
    const personal = await personalSubject('ours, personalised', {
      fleet,
      line: line.near,
      keep,
      plan,
      mode,
    });
    const [ours, own] = [shared.subject.name, personal.subject.name];
    return run([loop, raw, nchan, better, shared.subject, personal.subject], {
      plan,
      verdicts: [
        { of: ours, to: loop.name, wanted: '≥ 0.9' },
        { of: ours, to: nchan.name, wanted: '≥ 1.2' },
        { of: own, to: ours, wanted: '≥ 0.85' },
        { of: ours, to: raw.name, wanted: 'stated' },
        { of: ours, to: better.name, wanted: 'stated' },
      ],
      conditions: [idleSentence(shared, personal)],
    });
  });

export const runWs = (quick: boolean): Promise<{ rows: Row[]; rounds: Row[]; conditions: string[] }> =>
  withStops(async (keep) => {
    const plan = planFor(quick);
    const fleet = keep(await startFleet({ appendOnly: false }));
    const line = await lines(fleet, plan);
    const raw = await besideSubject('uWebSockets.js, raw', {
      start: () => startRawStreams(),
      ...{ keep, plan, path: '/socket', mode: 'ws' },
    });
    const ws = await besideSubject('ws', { start: startWs, keep, plan, path: '/', mode: 'ws' });
    const io = await besideSubject('socket.io', {
      start: startSocketIo,
      ...{ keep, plan, path: '/socket.io/?EIO=4&transport=websocket', mode: 'socketio' },
    });
    const mode = 'ws';
    const shared = await sharedSubject('ours, shared frame', { fleet, line: line.shared, keep, plan, mode });
    const personal = await personalSubject('ours, personalised', {
      fleet,
      line: line.near,
      keep,
      plan,
      mode,
    });
    const [ours, own] = [shared.subject.name, personal.subject.name];
    return run([raw, ws, io, shared.subject, personal.subject], {
      plan,
      verdicts: [
        { of: ours, to: raw.name, wanted: 'stated' },
        { of: ours, to: ws.name, wanted: 'stated' },
        { of: ours, to: io.name, wanted: 'stated' },
        { of: own, to: ours, wanted: 'stated' },
      ],
      conditions: [idleSentence(shared, personal)],
    });
  });
