// Several holders beside each other, as if they were one: the fans of a line are dealt out in turn, so that those who
// come first are the first of each.

import type { Line } from './fleet.ts';
import {
  type Counters,
  type FanNews,
  type Holder,
  type HolderOptions,
  type Lateness,
  startHolder,
} from './holder.ts';

/** Addresses that lie between the first fans of two holders. */
const ADDRESSES_APART = 200_000;

export type Crew = {
  holders: readonly Holder[];
  open(count: number): void;
  settled(): Promise<number>;
  /** What all of them have counted. */
  count(): Promise<Omit<Counters, 'refusedBy'>>;
  /** The fans that have been begun with. */
  isOpened(fan: number): boolean;
  lateness(): Promise<Lateness[]>;
  /** Streams open, as the holders said within the last second. */
  openNow(): number;
  stop(): Promise<void>;
};

/** The fan of a news is its index in the line. */
export const startCrew = (
  line: Line,
  options: Omit<HolderOptions, 'fans' | 'path' | 'headers' | 'source'> & { holders: number },
): Crew => {
  const { holders: size, says, ...rest } = options;
  const latest = new Map<number, Counters>();
  const holders = Array.from({ length: size }, (_, index) =>
    startHolder({
      ...rest,
      ...line.events,
      source: index * ADDRESSES_APART,
      fans: line.cookies.filter((_cookie, fan) => fan % size === index),
      second: (counters) => latest.set(index, counters),
      says: (news: FanNews) => says?.({ ...news, fan: news.fan * size + index }),
    }),
  );
  const shareOf = (count: number, index: number): number =>
    Math.floor(count / size) + (index < count % size ? 1 : 0);
  return {
    holders,
    open(count) {
      for (const [index, holder] of holders.entries()) holder.open(shareOf(count, index));
    },
    settled: async () => Math.max(...(await Promise.all(holders.map((holder) => holder.settled())))),
    async count() {
      const all = await Promise.all(holders.map((holder) => holder.count()));
      for (const [index, counters] of all.entries()) latest.set(index, counters);
      const sum = (read: (counters: Counters) => number): number =>
        all.reduce((total, counters) => total + read(counters), 0);
      return {
        atMs: Math.max(...all.map(({ atMs }) => atMs)),
        open: sum(({ open }) => open),
        settled: sum(({ settled }) => settled),
        opened: sum(({ opened }) => opened),
        frames: sum(({ frames }) => frames),
        bytes: sum(({ bytes }) => bytes),
        connects: sum(({ connects }) => connects),
        losses: sum(({ losses }) => losses),
        faults: sum(({ faults }) => faults),
        refusals: sum(({ refusals }) => refusals),
      };
    },
    isOpened: (fan) => Math.floor(fan / size) < (latest.get(fan % size)?.opened ?? 0),
    lateness: () => Promise.all(holders.map((holder) => holder.lateness())),
    openNow: () => [...latest.values()].reduce((total, { open }) => total + open, 0),
    async stop() {
      await Promise.all(holders.map((holder) => holder.stop()));
    },
  };
};
