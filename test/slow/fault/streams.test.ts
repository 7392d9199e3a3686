// Thousands of streams on real processes: a deploy in the middle of a sale (P7), and clients that never read (P4).
// ANTEROOM_STREAM_FANS, ANTEROOM_STALLED and ANTEROOM_STALL_SECONDS make both larger. The kernel takes up to 4 MiB for
// a reader that never reads before it refuses, so thousands of those need a network with small buffers, of their own:
// unshare -n sh -c 'ip link set lo up; sysctl -w net.ipv4.tcp_wmem="4096 16384 65536"; npx tap run test/slow/fault/streams.test.ts'

import type { ChildProcess } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import t, { type Test } from 'tap';
import { takePort } from '../../../bench/ports.ts';
import { parseRoomId } from '../../../kernel/ids.ts';
import { notice, roomKeys } from '../../../lua/room.ts';
import { eventually } from '../../support/eventually.ts';
import type { Fan } from '../../support/fan.ts';
import { ledgerVerifies } from '../../support/ledger-verdict.ts';
import { startPostgres } from '../../support/postgres.ts';
import { startRedis, type TestRedis } from '../../support/redis.ts';
import { joinFans, tune } from '../../support/sale.ts';
import { createSystem, type System } from '../../support/system.ts';

const FANS = Number(process.env.ANTEROOM_STREAM_FANS ?? 3000);
const STALLED = Number(process.env.ANTEROOM_STALLED ?? 1000);
const STALL_SECONDS = Number(process.env.ANTEROOM_STALL_SECONDS ?? 20);
t.setTimeout((300 + 2 * STALL_SECONDS) * 1000);

const keys = roomKeys(parseRoomId('demo')!);
let redis: TestRedis;
let system: System;
let fans: Fan[];
const fronts: { child: ChildProcess; metricsPort: number }[] = [];
const startFront = async (): Promise<void> => {
  const metricsPort = await takePort();
  fronts.push({ child: await system.start({ roles: 'gateway,broker', metricsPort }), metricsPort });
};
t.before(async () => {
  redis = await startRedis(t);
  const postgres = await startPostgres(t);
  system = await createSystem(t, {
    ANTEROOM_REDIS_URL: redis.url,
    ANTEROOM_DATABASE_URL: postgres.url,
    ANTEROOM_LOG_LEVEL: 'error',
  });
  await system.start({ roles: 'admin,dispatcher', metricsPort: await takePort() });
  await startFront();
  await startFront();
  await tune(system, { suspended: true, newUsersPerMinute: 6000, totalActiveUsers: 100_000 });
  fans = await joinFans(system, { count: Math.max(FANS, STALLED + 1), from: 0 });
});
// Whatever happened in a scenario, the record of the sale is whole and true.
const scenario = (name: string, work: (t: Test) => Promise<void>) =>
  t.test(name, async (t) => {
    await work(t);
    await ledgerVerifies(t, system);
  });

const metric = async (metricsPort: number, name: string): Promise<number> => {
  const text = await (await fetch(`http://127.0.0.1:${metricsPort}/metrics`)).text();
  const values = [...text.matchAll(new RegExp(`^anteroom_${name}(?:{[^}]*})? (\\S+)$`, 'gm'))];
  return values.reduce((sum, [, value]) => sum + Number(value), 0);
};
const streamsOpen = async (): Promise<number> => {
  const each = await Promise.all(fronts.map(({ metricsPort }) => metric(metricsPort, 'streams_open')));
  return each.reduce((sum, open) => sum + open, 0);
};
const headOf = (fan: Fan): string => {
  const headers = Object.entries(fan.headers({ accept: 'text/event-stream', host: 'tickets.test' }));
  return `GET /v1/rooms/demo/events HTTP/1.1\r\n${headers.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n`;
};

/** An EventSource in short: comes back after the pause it was told, and remembers where it stands. */
const holdStream = (fan: Fan, told: { reconnectsMs: number[]; refusals: string[] }) => {
  const held = { position: 0, number: fan.number, over: false, wire: undefined as Socket | undefined };
  const open = (): void => {
    let retryMs = 1000;
    let rest = '';
    const wire = connect(system.ports.public, '127.0.0.1');
    held.wire = wire;
    held.position = 0;
    wire.setEncoding('latin1');
    wire.on('error', () => undefined); // `close` follows, and says all there is to say.
    wire.on('connect', () => wire.write(headOf(fan)));
    wire.on('data', (text: string) => {
      rest = (rest + text).slice(-8192);
      const status = /^HTTP\/1.1 (\d+)/.exec(rest)?.[1];
      if (status !== undefined && status !== '200') told.refusals.push(status);
      for (const [, ms] of rest.matchAll(/retry: (\d+)\n/g)) retryMs = Number(ms);
      for (const [, position] of rest.matchAll(/"position":(\d+)/g)) held.position = Number(position);
      rest = rest.slice(rest.lastIndexOf('\n\n') + 2);
    });
    wire.once('close', () => {
      if (held.over) return;
      setTimeout(() => {
        if (held.over) return;
        told.reconnectsMs.push(performance.now());
        open();
      }, retryMs);
    });
  };
  open();
  return held;
};

scenario('P7: a deploy loses no place and spreads those who come back', async (t) => {
  const told = { reconnectsMs: [] as number[], refusals: [] as string[] };
  const held = fans.slice(0, FANS).map((fan) => holdStream(fan, told));
  t.teardown(() => {
    for (const one of held) {
      one.over = true;
      one.wire?.destroy();
    }
  });
  await eventually('all know where they stand', () => held.every(({ position }) => position > 0), 60_000);
  const before = held.map(({ position }) => position);
  const leaving = fronts.shift()!;
  const moved = await metric(leaving.metricsPort, 'streams_open');
  t.ok(moved > FANS / 10, `${moved} of ${FANS} streams are on the process that goes`);
  const begun = performance.now();
  t.equal(await system.end(leaving.child, 'SIGTERM'), 0, 'it ends by itself');
  t.ok(performance.now() - begun < 60_000, 'within a minute');
  await eventually(
    'all are back and know where they stand',
    async () => held.every(({ position }) => position > 0) && (await streamsOpen()) === FANS,
    60_000,
  );
  t.same(
    held.map(({ position }) => position),
    before,
    'everybody stands where they stood',
  );
  t.equal(await redis.client.zcard(keys.line), fans.length, 'and nobody has lost a place');
  t.same(told.refusals, [], 'nor was anybody refused');
  t.ok(told.reconnectsMs.length >= moved, `${told.reconnectsMs.length} came back`);
  // Half-second bins over the time from the first to the last.
  const from = Math.min(...told.reconnectsMs);
  const bins = new Map<number, number>();
  for (const atMs of told.reconnectsMs) {
    const bin = Math.floor((atMs - from) / 500);
    bins.set(bin, (bins.get(bin) ?? 0) + 1);
  }
  const span = (Math.max(...told.reconnectsMs) - from) / 500;
  const steady = told.reconnectsMs.length / Math.max(1, span);
  const peak = Math.max(...bins.values());
  t.ok(
    peak <= 2 * steady,
    `at most ${peak} in half a second, where ${Math.round(steady)} would be even, over ${Math.round(span / 2)} s`,
  );
  await startFront();
});

/** What the process itself holds in memory, in bytes: what the kernel keeps for its sockets is not part of it. */
const residentBytes = (child: ChildProcess): number => {
  const kib = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))?.[1];
  return Number(kib) * 1024;
};

scenario('P4: clients that never read delay nobody, cost bounded memory and are closed', async (t) => {
  // All on one process of its own, so that its memory is theirs.
  for (const { child } of fronts.splice(0)) await system.end(child, 'SIGTERM');
  await startFront();
  const front = fronts[0]!;
  const [honest, ...all] = fans;
  const others = all.slice(0, STALLED);
  let heard = 0;
  const reading = connect(system.ports.public, '127.0.0.1');
  reading.on('error', () => undefined); // The test ends it.
  reading.setEncoding('latin1');
  reading.on('data', (text: string) => {
    heard += text.split('event: notice\n').length - 1;
  });
  reading.write(headOf(honest!));
  const wires = new Set<Socket>();
  const stall = (fan: Fan): void => {
    const wire = connect({ port: system.ports.public, host: '127.0.0.1' });
    // A socket that is paused before it is connected is never read.
    wire.pause();
    wire.on('error', () => undefined); // Being reset is the point.
    wire.write(headOf(fan));
    wires.add(wire);
  };
  t.teardown(() => {
    for (const wire of [...wires, reading]) wire.destroy();
  });
  const text = 'x'.repeat(8000);
  let said = 0;
  const speak = async (): Promise<void> => {
    said += 1;
    await notice.run(redis.client, keys, { nowMs: '', noticeId: `n${said}`, text, level: 'info' });
    await eventually('whoever reads has heard it', () => heard >= said, 20_000);
  };
  await eventually('one reads', async () => (await metric(front.metricsPort, 'streams_open')) === 1);
  // A process that has just begun grows by tens of MiB whatever it does, and no connection is to blame for that.
  while (said < 500) await speak();
  const idleBytes = residentBytes(front.child);
  for (const fan of others) stall(fan);
  await eventually(
    'all open',
    async () => (await metric(front.metricsPort, 'streams_open')) === others.length + 1,
    60_000,
  );
  let worst = 0;
  const say = async (): Promise<void> => {
    await speak();
    const open = await metric(front.metricsPort, 'streams_open');
    // What those who were just cut have left behind is free, but not given back to the system at once.
    if (open > 0.9 * others.length) worst = Math.max(worst, (residentBytes(front.child) - idleBytes) / open);
  };
  const cut = (): Promise<number> => metric(front.metricsPort, 'slow_readers_total');
  /** Until all that stall have been cut once more. */
  const round = async (): Promise<void> => {
    const wanted = (await cut()) + others.length;
    await eventually(
      'all that never read are cut',
      async () => {
        await say();
        return (await cut()) >= wanted;
      },
      120_000,
    );
  };
  const untilMs = performance.now() + STALL_SECONDS * 1000;
  let rounds = 0;
  do {
    await round();
    rounds += 1;
    for (const wire of wires) wire.destroy();
    wires.clear();
    if (performance.now() < untilMs) for (const fan of others) stall(fan);
  } while (performance.now() < untilMs);
  await eventually(
    'the one that reads is still there, and nobody else',
    async () => (await metric(front.metricsPort, 'streams_open')) === 1,
  );
  t.equal(heard, said, 'and has heard every word');
  t.ok(worst <= 65_536, `${Math.round(worst / 1024)} KiB of memory for each open connection at most`);
  t.comment(`${rounds} rounds of ${others.length}, ${said} notices of ${text.length} bytes`);
});
