// From being let in to being told, with 10,000 waiting and promotions at a steady rate; and how late the frames of
// positions are, with 60,000 waiting: each message says when the next one comes.

import { startCrew } from './crew.ts';
import { followEntries, quantile } from './entries.ts';
import { type Fleet, release, startFleet } from './fleet.ts';
import { quantileOf } from './holder.ts';
import { readHostTimes, stealBetween } from './machine.ts';
import { takePort } from './ports.ts';
import { type Row, rounded } from './report.ts';
import { pause } from './system.ts';

const PER_PROCESS = 15_000;
const PER_SECOND = 100;
const LINE_SECONDS = 3600;

type Told = { delays: number[]; never: number };

const measureTold = async (fleet: Fleet, fans: number, seconds: number): Promise<Told> => {
  const port = await takePort();
  const broker = await fleet.startBroker(port);
  const line = await fleet.createLine({
    name: 'latency',
    fans,
    held: true,
    settings: { newUsersPerMinute: PER_SECOND * 60, totalActiveUsers: 1_000_000, claimSeconds: 600 },
  });
  const heard = new Map<number, number>();
  const crew = startCrew(line, {
    port,
    holders: 1,
    says(news) {
      if (news.kind === 'promoted' && !heard.has(news.fan)) heard.set(news.fan, news.atMs);
    },
  });
  try {
    crew.open(fans);
    await crew.settled();
    const followed = followEntries(fleet.redis, line.room);
    await release(fleet.redis, line.room);
    await pause(seconds * 1000);
    await followed.stop();
    await pause(2000);
    const told: Told = { delays: [], never: 0 };
    for (const [fan, placeId] of line.places.entries()) {
      const admitted = followed.admitted.get(placeId);
      const atMs = heard.get(fan);
      if (admitted === undefined) continue;
      if (atMs === undefined) told.never += 1;
      else told.delays.push(atMs - admitted.atMs);
    }
    return told;
  } finally {
    await crew.stop();
    await broker.stop();
  }
};

const measureLate = async (fleet: Fleet, fans: number, seconds: number) => {
  const size = Math.ceil(fans / PER_PROCESS);
  const port = await takePort();
  const brokers = await Promise.all(Array.from({ length: size }, () => fleet.startBroker(port)));
  const line = await fleet.createLine({
    name: 'late',
    fans,
    settings: { newUsersPerMinute: Math.ceil((fans * 60) / LINE_SECONDS), totalActiveUsers: 1_000_000 },
  });
  const crew = startCrew(line, { port, holders: size });
  try {
    crew.open(fans);
    await crew.settled();
    await pause(2000);
    await crew.lateness();
    await pause(seconds * 1000);
    const counts = await crew.lateness();
    return {
      frames: counts.flat().reduce((sum, [, count]) => sum + count, 0),
      p50: quantileOf(counts, 0.5),
      p99: quantileOf(counts, 0.99),
      worst: quantileOf(counts, 1),
      size,
    };
  } finally {
    await crew.stop();
    for (const { stop } of brokers) await stop();
  }
};

export const runLatency = async (
  quick: boolean,
): Promise<{ rows: Row[]; rounds: Row[]; conditions: string[] }> => {
  const plan = quick
    ? { waiting: 1000, toldSeconds: 5, late: 2000, lateSeconds: 8 }
    : { waiting: 10_000, toldSeconds: 30, late: 60_000, lateSeconds: 45 };
  const host = readHostTimes();
  const fleet = await startFleet({ appendOnly: true });
  try {
    const told = await measureTold(fleet, plan.waiting, plan.toldSeconds);
    const late = await measureLate(fleet, plan.late, plan.lateSeconds);
    const row = (what: string, measured: number, wanted = ''): Row => ({ what, measured, wanted });
    return {
      rows: [
        row('promoted → told, p50 ms', rounded(quantile(told.delays, 0.5), 1)),
        row('promoted → told, p99 ms', rounded(quantile(told.delays, 0.99), 1), '≤ 100'),
        row('promoted → told, longest ms', rounded(quantile(told.delays, 1), 1)),
        row('promoted and told', told.delays.length),
        row('promoted and not told', told.never, '0'),
        row('position frames late, p50 ms', late.p50),
        row('position frames late, p99 ms', late.p99, '≤ 250'),
        row('position frames late, worst ms', late.worst),
        row('position frames whose time was promised', late.frames),
      ],
      rounds: [],
      conditions: [
        `told: ${plan.waiting} waiting on one broker, ${PER_SECOND} turns a second for ${plan.toldSeconds} s; from the time in the record (Redis's clock, read in the dispatcher's tick) to the frame in the holder, one clock for both`,
        `late: ${plan.late} waiting on ${late.size} brokers behind one port, a line of ${LINE_SECONDS} s that moves, ${plan.lateSeconds} s; milliseconds after what the frame before had said (nextMs), early counts as 0, and jitter added to the promise as lateness`,
        `all processes and holders on the same cores, nothing pinned; ${rounded(stealBetween(host, readHostTimes()) * 100, 1)} % of the CPU was stolen by the host meanwhile`,
      ],
    };
  } finally {
    await fleet.stop();
  }
};
