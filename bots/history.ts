// How often each network joined in the last minute: a counter a second for 60 seconds, summed. Memory is bounded;
// when more networks than that show up at once, counting starts again, which only ever judges milder.

const SECONDS = 60;
const NETWORKS_MAX = 50_000;

/** Most networks join once: the counters are made when one does so again. */
type Counts = { perSecond: Uint32Array | undefined; lastSecond: number; sum: number };

export type History = {
  /** How many there were in the last minute, without counting one. */
  recent(network: string, nowMs: number): number;
  /** Counts one join and answers how many there were in the last minute, this one included. */
  count(network: string, nowMs: number): number;
};

export const createHistory = (): History => {
  const networks = new Map<string, Counts>();
  return {
    recent(network, nowMs) {
      const counts = networks.get(network);
      if (counts === undefined) return 0;
      const { perSecond, lastSecond } = counts;
      const from = Math.max(lastSecond, Math.floor(nowMs / 1000)) - SECONDS + 1;
      if (perSecond === undefined) return lastSecond >= from ? counts.sum : 0;
      let sum = 0;
      for (let second = from; second <= lastSecond; second += 1) sum += perSecond[second % SECONDS]!;
      return sum;
    },
    count(network, nowMs) {
      const second = Math.floor(nowMs / 1000);
      const counts = networks.get(network);
      if (counts === undefined) {
        if (networks.size >= NETWORKS_MAX) networks.clear();
        networks.set(network, { perSecond: undefined, lastSecond: second, sum: 1 });
        return 1;
      }
      if (counts.perSecond === undefined) {
        counts.perSecond = new Uint32Array(SECONDS);
        counts.perSecond[counts.lastSecond % SECONDS] = 1;
      }
      const { perSecond } = counts;
      const passed = Math.min(SECONDS, Math.max(0, second - counts.lastSecond));
      for (let step = 1; step <= passed; step += 1) {
        const index = (counts.lastSecond + step) % SECONDS;
        counts.sum -= perSecond[index]!;
        perSecond[index] = 0;
      }
      counts.lastSecond = Math.max(counts.lastSecond, second);
      perSecond[counts.lastSecond % SECONDS]! += 1;
      counts.sum += 1;
      return counts.sum;
    },
  };
};
