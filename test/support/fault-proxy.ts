// A TCP proxy that plays a bad network between us and Redis. What goes wrong is drawn from a seeded generator, so
// that a failing run can be asked for again; the draws follow the traffic, so a replay is alike and not identical.
// A reset, a half-open connection and a lost reply are what TCP shows of cables, and the rest is what it hides.

import { createServer, connect as openSocket, type Socket } from 'node:net';
import { random, seedOf } from './random.ts';

type Test = { teardown(work: () => unknown): void; comment(text: string): void };

export type Fault =
  | { kind: 'clear' }
  /** Each piece is late by `ms`, give or take half of `jitterMs`; order is kept. */
  | { kind: 'latency'; ms: number; jitterMs?: number }
  /** Before a piece of either direction, with this chance, the connection ends: half of them by RST, half by FIN. */
  | { kind: 'cut'; chance: number }
  /** One direction stops; the other goes on. What was stopped flows on when the fault ends. */
  | { kind: 'halfOpen'; stops: 'requests' | 'replies' }
  /** Nothing gets through and nothing is refused, as when a cable is pulled. */
  | { kind: 'blackhole' }
  /** Requests are delivered; with this chance a reply is thrown away and the connection is reset. */
  | { kind: 'lostReplies'; chance: number }
  /**
   * Latency and loss as an application sees them: a lost piece is not lost but late by a retransmission (200 ms,
   * the least that Linux waits, doubled each time it is lost again). Rarely the connection breaks.
   */
  | { kind: 'mixed'; ms: number; lossChance: number; cutChance: number };

export type FaultProxy = {
  port: number;
  url: string;
  seed: number;
  set(fault: Fault): void;
  /** Sends new connections to another port, as a switched address would; those that are open stay. */
  pointAt(port: number): void;
  /** Resets every open connection. */
  cutAll(): void;
  /** What has happened so far, so that a test can say that its fault was really there. */
  counts(): { connections: number; open: number; cuts: number; repliesLost: number; late: number };
};

type Direction = 'requests' | 'replies';
/** One direction of one connection: pieces wait here until they are due, in order. */
type Lane = {
  from: Socket;
  to: Socket;
  queue: { piece: Buffer; dueMs: number }[];
  bytes: number;
  ended: boolean;
};

const HELD_BYTES_MAX = 1_048_576;
const RETRANSMISSION_MS = 200;
const STEP_MS = 2;

export const startFaultProxy = async (
  t: Test,
  options: { port: number; seed?: number },
): Promise<FaultProxy> => {
  const seed = options.seed ?? seedOf(t, 1);
  const draw = random(seed);
  const links = new Set<{ client: Socket; server: Socket; lanes: Record<Direction, Lane> }>();
  const counts = { connections: 0, cuts: 0, repliesLost: 0, late: 0 };
  let target = options.port;
  let fault: Fault = { kind: 'clear' };
  type Link = typeof links extends Set<infer L> ? L : never;

  const stopped = (direction: Direction): boolean =>
    fault.kind === 'blackhole' || (fault.kind === 'halfOpen' && fault.stops === direction);

  const delayMs = (): number => {
    if (fault.kind === 'latency') return fault.ms + (fault.jitterMs ?? 0) * (draw.next() - 0.5);
    if (fault.kind !== 'mixed') return 0;
    let late = fault.ms;
    for (let again = RETRANSMISSION_MS; draw.next() < fault.lossChance && again < 5000; again *= 2) {
      late += again;
      counts.late += 1;
    }
    return late;
  };

  const end = (link: Link, how: 'reset' | 'close'): void => {
    links.delete(link);
    for (const socket of [link.client, link.server]) {
      if (how === 'reset') socket.resetAndDestroy();
      else socket.end();
      // A peer that never closes must not keep the test.
      if (how === 'close') setTimeout(() => socket.destroy(), 200).unref();
    }
  };
  const cut = (link: Link): void => {
    counts.cuts += 1;
    end(link, draw.next() < 0.5 ? 'reset' : 'close');
  };

  /** Whether the connection survives this piece. */
  const survives = (link: Link, direction: Direction): boolean => {
    if (fault.kind === 'lostReplies' && direction === 'replies' && draw.next() < fault.chance) {
      counts.repliesLost += 1;
      counts.cuts += 1;
      end(link, 'reset');
      return false;
    }
    const chance = fault.kind === 'cut' ? fault.chance : fault.kind === 'mixed' ? fault.cutChance : 0;
    if (chance > 0 && draw.next() < chance) {
      cut(link);
      return false;
    }
    return true;
  };

  const forward = (link: Link, direction: Direction): void => {
    const lane = link.lanes[direction];
    if (stopped(direction)) return;
    const nowMs = performance.now();
    for (let next = lane.queue[0]; next !== undefined && next.dueMs <= nowMs; next = lane.queue[0]) {
      lane.queue.shift();
      lane.bytes -= next.piece.length;
      lane.to.write(next.piece);
    }
    if (lane.bytes < HELD_BYTES_MAX && lane.from.isPaused()) lane.from.resume();
    if (lane.ended && lane.queue.length === 0) {
      links.delete(link);
      lane.to.end();
    }
  };

  const take = (link: Link, direction: Direction, piece: Buffer): void => {
    if (!links.has(link) || !survives(link, direction)) return;
    const lane = link.lanes[direction];
    const before = lane.queue.at(-1)?.dueMs ?? 0;
    lane.queue.push({ piece, dueMs: Math.max(before, performance.now() + delayMs()) });
    lane.bytes += piece.length;
    if (lane.bytes >= HELD_BYTES_MAX) lane.from.pause();
    forward(link, direction);
  };

  const proxy = createServer({ allowHalfOpen: false }, (client) => {
    counts.connections += 1;
    const server = openSocket({ port: target, host: '127.0.0.1' });
    const lane = (from: Socket, to: Socket): Lane => ({ from, to, queue: [], bytes: 0, ended: false });
    const link: Link = {
      client,
      server,
      lanes: { requests: lane(client, server), replies: lane(server, client) },
    };
    links.add(link);
    for (const [direction, { from }] of [
      ['requests', link.lanes.requests],
      ['replies', link.lanes.replies],
    ] as const) {
      from.setNoDelay(true);
      from.on('data', (piece: Buffer) => take(link, direction, piece));
      // A fault of one side ends both; that is what the other side would have seen.
      from.on('error', () => end(link, 'reset'));
      from.on('end', () => {
        link.lanes[direction].ended = true;
        forward(link, direction);
      });
    }
  });
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  const timer = setInterval(() => {
    for (const link of [...links]) {
      forward(link, 'requests');
      forward(link, 'replies');
    }
  }, STEP_MS);
  const cutAll = (): void => {
    for (const link of [...links]) end(link, 'reset');
  };
  t.teardown(async () => {
    clearInterval(timer);
    cutAll();
    await new Promise((resolve) => proxy.close(resolve));
  });
  const address = proxy.address();
  if (address === null || typeof address === 'string') throw new Error('the proxy has no port');
  return {
    port: address.port,
    url: `redis://127.0.0.1:${address.port}`,
    seed,
    set(next) {
      fault = next;
    },
    pointAt(port) {
      target = port;
    },
    cutAll,
    counts: () => ({ ...counts, open: links.size }),
  };
};
