// What it costs to hold a fan who waits: memory of the process and CPU a second, with 5,000 to 100,000 of them. The
// line is an hour long and moves, as a sale's does: a sixtieth is near and hears every second, most hear every half
// minute. Beside it a raw uWebSockets.js stream, which is never told anything.

import { FRAME, type Sender, startRawStreams } from './beside.ts';
import { chartSvg } from './chart.ts';
import { type Crew, startCrew } from './crew.ts';
import { type Fleet, startFleet } from './fleet.ts';
import { heapOf } from './heap.ts';
import { HELD_MAX, startHolder } from './holder.ts';
import { cpuSecondsExact, ownBytesOf, readHostTimes, readMachine, stealBetween } from './machine.ts';
import { takePort } from './ports.ts';
import { type Row, rounded } from './report.ts';
import { pause } from './system.ts';

const SIZES = [5000, 19_000, 60_000, 100_000] as const;
const QUICK_SIZES = [500, 2000] as const;
/** The kernel deals connections out by chance; none may get more than a process takes. */
const PER_PROCESS = 17_000;
const LINE_SECONDS = 3600;

type Memory = { ownBytes: number; heapBytes: number };

/** Of each process, after the garbage is gone. */
const memoryOf = async (processes: readonly { pid: number; inspector: number }[]): Promise<Memory> => {
  const sum: Memory = { ownBytes: 0, heapBytes: 0 };
  for (const { pid, inspector } of processes) {
    const { heapBytes, externalBytes } = await heapOf(inspector);
    sum.heapBytes += heapBytes + externalBytes;
    sum.ownBytes += ownBytesOf(pid);
  }
  return sum;
};

const growth = (from: Memory, to: Memory, fans: number): Memory => ({
  ownBytes: (to.ownBytes - from.ownBytes) / fans,
  heapBytes: (to.heapBytes - from.heapBytes) / fans,
});

/** A raw stream's memory, with as many of them in one process as a broker holds at this size. */
const measureFloor = async (fans: number): Promise<Memory> => {
  const inspector = await takePort();
  const sender: Sender = await startRawStreams({ inspector });
  const holder = startHolder({ port: sender.port, path: '/events', headers: {}, fans });
  try {
    const processes = [{ pid: sender.pid, inspector }];
    const from = await memoryOf(processes);
    holder.open(fans);
    await holder.settled();
    return growth(from, await memoryOf(processes), fans);
  } finally {
    await holder.stop();
    await sender.stop();
  }
};

type Measured = {
  fans: number;
  processes: number;
  memory: Memory;
  floor: Memory;
  micros: number;
  framesPerSecond: number;
  idleMillis: number;
  losses: number;
};

const measure = async (
  fleet: Fleet,
  options: { fans: number; windowMs: number; idleMs: number },
): Promise<Measured> => {
  const { fans, windowMs, idleMs } = options;
  const size = fans <= HELD_MAX ? 1 : Math.ceil(fans / PER_PROCESS);
  const line = await fleet.createLine({
    name: `idle-${fans}`,
    fans,
    settings: { newUsersPerMinute: Math.ceil((fans * 60) / LINE_SECONDS), totalActiveUsers: 10_000_000 },
  });
  const port = await takePort();
  const processes = await Promise.all(
    Array.from({ length: size }, async () => {
      const inspector = await takePort();
      const settings = { NODE_OPTIONS: `--inspect=127.0.0.1:${inspector}` };
      return { ...(await fleet.startBroker(port, settings)), inspector };
    }),
  );
  const crew: Crew = startCrew(line, { port, holders: size, reconnect: 'retry' });
  const spent = (): number => processes.reduce((sum, { pid }) => sum + cpuSecondsExact(pid), 0);
  try {
    await pause(3000);
    const from = await memoryOf(processes);
    const idleFrom = spent();
    await pause(idleMs);
    const idle = (spent() - idleFrom) / (idleMs / 1000);
    crew.open(fans);
    await crew.settled();
    // What came with opening is cleaned up, by the collector and by the compiler.
    await pause(3000);
    const [before, cpu, begun] = [await crew.count(), spent(), performance.now()];
    await pause(windowMs);
    const after = await crew.count();
    const seconds = (performance.now() - begun) / 1000;
    const used = (spent() - cpu) / seconds;
    const memory = growth(from, await memoryOf(processes), fans);
    return {
      fans,
      processes: size,
      memory,
      floor: { ownBytes: 0, heapBytes: 0 },
      micros: ((used - idle) / fans) * 1e6,
      framesPerSecond: (after.frames - before.frames) / seconds,
      idleMillis: idle * 1000,
      losses: after.losses,
    };
  } finally {
    await crew.stop();
    for (const { stop } of processes) await stop();
  }
};

const chartOf = (all: readonly Measured[]): string => {
  const machine = readMachine();
  const values = (read: (measured: Measured) => number): number[] =>
    all.map((measured) => Math.max(0.01, read(measured)));
  return chartSvg({
    title: 'What a waiting fan costs',
    note: `${machine.cpu}, commit ${machine.commit}. Memory of the process without kernel buffers; a line of an hour.`,
    x: { label: 'streams open', ticks: all.map(({ fans }) => fans.toLocaleString('en')) },
    y: { label: 'bytes, µs CPU a second' },
    series: [
      { name: 'bytes a fan', colour: '#0b62a4', values: values(({ memory }) => memory.ownBytes) },
      { name: 'bytes, raw uWebSockets', colour: '#2b7a3d', values: values(({ floor }) => floor.ownBytes) },
      { name: 'µs CPU a fan and second', colour: '#b4500b', values: values(({ micros }) => micros) },
    ],
  });
};

export const runIdle = async (
  quick: boolean,
): Promise<{ rows: Row[]; rounds: Row[]; conditions: string[]; chart: string }> => {
  const window = quick ? { windowMs: 5000, idleMs: 2000 } : { windowMs: 30_000, idleMs: 5000 };
  const host = readHostTimes();
  const fleet = await startFleet({ appendOnly: false });
  try {
    const all: Measured[] = [];
    for (const fans of quick ? QUICK_SIZES : SIZES) {
      process.stderr.write(`  ${fans}\n`);
      const measured = await measure(fleet, { fans, ...window });
      const floor = await measureFloor(Math.floor(fans / measured.processes));
      all.push({ ...measured, floor });
    }
    const rows = all.map(({ fans, processes, memory, floor, micros, framesPerSecond, losses }) => ({
      fans,
      processes,
      'bytes a fan': Math.round(memory.ownBytes),
      'of the heap': Math.round(memory.heapBytes),
      'raw, bytes': Math.round(floor.ownBytes),
      'of its heap': Math.round(floor.heapBytes),
      'memory × raw': rounded(memory.ownBytes / floor.ownBytes),
      'µs CPU a fan and second': rounded(micros),
      'frames/s': Math.round(framesPerSecond),
      'streams lost': losses,
    }));
    return {
      rows,
      rounds: all.map(({ fans, idleMillis }) => ({
        fans,
        'ms CPU a second with nobody, all processes': rounded(idleMillis, 1),
      })),
      conditions: [
        'wanted: memory ≤ 1.5 × raw, ≤ 2 µs of CPU a fan and second',
        `a line of ${LINE_SECONDS} s that moves: each fan hears at the real cadence; frames and CPU over ${window.windowMs / 1000} s after all have come, what the processes use with nobody connected taken off`,
        'bytes: memory of the process for itself (RssAnon), heap: with what it holds outside; both after two collections asked for over the inspector, before and after the fans',
        `raw: one uWebSockets.js process that has sent one frame (${FRAME.length} bytes) to each, with as many as one broker holds`,
        `gateway and broker in each process, up to ${HELD_MAX} streams a process; nothing pinned`,
        `${rounded(stealBetween(host, readHostTimes()) * 100, 1)} % of the CPU was stolen by the host meanwhile`,
      ],
      chart: chartOf(all),
    };
  } finally {
    await fleet.stop();
  }
};
