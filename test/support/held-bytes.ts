// How much somebody in the middle holds who passes bytes on:
//
//   sender ──▶ kernel ──▶ middle ──▶ kernel ──▶ taker
//
// It is what left the sender, minus what the taker has read, minus what the kernel keeps of both connections. The
// kernel's part may be megabytes, and differs from system to system; Linux tells it (/proc/net/tcp, see proc_pid_net(5)),
// so the rest is exact, however large the buffers and however slow the machine.
//
// When to count needs no waiting for stillness in time, either. All three ends live in this process, on one event
// loop: a middle that wants to read what lies ready for it does so within one turn of the loop. One that has left it
// for TURNS of them reads no more.

import { readFileSync } from 'node:fs';
import { eventually } from './eventually.ts';

/** The ports of one connection, in the direction in which the bytes go; without `to`, all connections from there. */
export type Pipe = { from: number; to?: number };

const TABLE = '/proc/net/tcp';
const TURNS = 20;

/** For `skip`: why there is no counting here; false where there is. */
export const countsNothing = process.platform === 'linux' ? false : `only Linux has ${TABLE}`;

/** Bytes of each pipe: written and not acknowledged at its `from`, arrived and not read at its `to`. */
const queuesOf = (pipes: readonly Pipe[]): { unsent: number; unread: number }[] => {
  const queues = pipes.map(() => ({ unsent: 0, unread: 0 }));
  for (const line of readFileSync(TABLE, 'latin1').split('\n').slice(1)) {
    // sl, local address:port, remote address:port, state, tx_queue:rx_queue, …; all of it hexadecimal.
    const [, local = '', remote = '', , waiting = ''] = line.trim().split(/\s+/);
    const [here = 0, there = 0] = [local, remote].map((address) =>
      Number.parseInt(address.split(':')[1] ?? '', 16),
    );
    const [unsent = 0, unread = 0] = waiting.split(':').map((bytes) => Number.parseInt(bytes, 16));
    for (const [index, { from, to }] of pipes.entries()) {
      const isOf = (ours: number, other: number) => ours === from && (to === undefined || other === to);
      if (isOf(here, there)) queues[index]!.unsent += unsent;
      if (isOf(there, here)) queues[index]!.unread += unread;
    }
  }
  return queues;
};

/**
 * Waits until the middle leaves bytes unread (the taker having stopped), or has read whatever there is; answers how
 * many it holds. `sent` is what the kernel took from the sender, `taken` what the taker read from the kernel.
 */
export const heldBytes = async (
  what: string,
  way: { into: Pipe; outOf: Pipe; total: number; sent(): number; taken(): number },
): Promise<number> => {
  let held = 0;
  await eventually(`${what}: the middle reads no more`, async () => {
    let first = '';
    for (let turn = 0; turn <= TURNS; turn += 1) {
      const [into, outOf] = queuesOf([way.into, way.outOf]);
      if (into === undefined || outOf === undefined) return false;
      const [sent, taken] = [way.sent(), way.taken()];
      const now = JSON.stringify([into, outOf, sent, taken]);
      if (turn === 0) first = now;
      const hasAll = sent >= way.total && into.unsent === 0;
      if (now !== first || (into.unread === 0 && !hasAll)) return false;
      held = sent - taken - into.unsent - into.unread - outOf.unsent - outOf.unread;
      await new Promise((resolve) => setImmediate(resolve));
    }
    return true;
  });
  return held;
};
