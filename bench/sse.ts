// What a waiting fan costs: N event streams on the broker while the line moves at the demo's 60 a minute, with the
// real cadence. Counts the frames that arrive and the CPU the server process used meanwhile.

import { Agent } from 'node:http';
import { createFan, type FanStream, loopbackAddress } from './fan.ts';
import { cpuSecondsOf, readHostTimes, stealBetween } from './machine.ts';
import { median, type Row, rounded } from './report.ts';
import { pinAll } from './rounds.ts';
import { pause, startSystem } from './system.ts';

const AT_ONCE = 50;
const WINDOWS = 5;
const STEAL_MAX = 0.05;
const SETTLE_MS = 8000;

export const runSse = async (
  quick: boolean,
): Promise<{ rows: Row[]; rounds: Row[]; conditions: string[] }> => {
  const streams = quick ? 500 : 2000;
  const windowSeconds = quick ? 5 : 12;
  const system = await startSystem({ ANTEROOM_DEMO: 'on' });
  const agent = new Agent({ keepAlive: true, maxSockets: AT_ONCE });
  const open: FanStream[] = [];
  let frames = 0;
  let lost = 0;
  try {
    const pinned = pinAll([system.pid]);
    // The first seconds of a process are compiling and seeding; they would count as idling.
    await pause(SETTLE_MS);
    const idle: number[] = [];
    for (let window = 0; window < WINDOWS; window++) {
      const from = cpuSecondsOf(system.pid);
      await pause(windowSeconds * 1000);
      idle.push((cpuSecondsOf(system.pid) - from) / windowSeconds);
    }
    const idlePerSecond = median(idle);
    const noise = Math.max(...idle) - Math.min(...idle);

    let next = 0;
    const worker = async (): Promise<void> => {
      while (next < streams) {
        const fan = createFan({ base: system.base, agent, localAddress: loopbackAddress(next) });
        next += 1;
        const joined = await fan.ask('POST', '/v1/rooms/demo/places', { body: {} });
        if (joined.status !== 201) throw new Error(`a join was answered ${joined.status}`);
        open.push(
          await fan.listen(
            '/v1/rooms/demo/events',
            () => {
              frames += 1;
            },
            () => {
              lost += 1;
            },
          ),
        );
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
    await pause(2000);

    const rounds: Row[] = [];
    const kept: { frames: number; cpu: number }[] = [];
    for (let round = 0; round < WINDOWS * 2 && kept.length < WINDOWS; round++) {
      const host = readHostTimes();
      const [cpuFrom, framesFrom] = [cpuSecondsOf(system.pid), frames];
      await pause(windowSeconds * 1000);
      const sample = { frames: frames - framesFrom, cpu: cpuSecondsOf(system.pid) - cpuFrom };
      const steal = stealBetween(host, readHostTimes());
      rounds.push({
        round,
        frames: sample.frames,
        cpuSeconds: rounded(sample.cpu),
        steal: rounded(steal, 3),
      });
      if (steal <= STEAL_MAX) kept.push(sample);
    }
    if (kept.length < WINDOWS)
      throw new Error(`only ${kept.length} windows without stolen CPU; ${WINDOWS} are needed`);
    const cpuPerSecond = median(kept.map((sample) => sample.cpu / windowSeconds));
    const added = cpuPerSecond - idlePerSecond;
    return {
      rows: [
        {
          streams,
          'frames/s': rounded(median(kept.map((sample) => sample.frames / windowSeconds))),
          'CPU of a core': rounded(cpuPerSecond, 3),
          'of it idle': rounded(idlePerSecond, 3),
          'frames/CPU-second': Math.round(median(kept.map((sample) => sample.frames / sample.cpu))),
          'µs CPU a fan and second':
            added > noise
              ? rounded((added / streams) * 1e6)
              : `below noise (±${rounded((noise / streams) * 1e6)})`,
          'streams lost': lost,
        },
      ],
      rounds,
      conditions: [
        `${kept.length} windows of ${windowSeconds} s; ${rounds.length - kept.length} dropped for steal above ${STEAL_MAX * 100} %`,
        pinned,
        'all roles in the one server process: its idle CPU (measured before, no fan) is taken off per fan only',
        'promoted fans do not claim, so some streams end as missed',
      ],
    };
  } finally {
    for (const stream of open) stream.close();
    agent.destroy();
    await system.stop();
  }
};
