// Takes the snapshots: counts once a second for everybody, at the scores that the last snapshot calls for, and keeps
// what comes of it. Any number of dispatchers may do so: who comes second finds a fresh one, and of two at one
// instant the first is kept. It also learns how well the estimates of waiting times hold.

import type { Config } from '../kernel/config.ts';
import type { RoomId } from '../kernel/ids.ts';
import { roomKey } from '../kernel/keys.ts';
import type { Metrics } from '../kernel/metrics.ts';
import type { Redis } from '../kernel/redis.ts';
import { type Estimate, EVERY_MS, estimateNow, OPEN_MAX, settleEstimates } from '../line/calibration.ts';
import { type Composed, LIST_MAX, parseSnapshot, type Snapshot, snapshotText } from '../line/snapshot.ts';
import { survey } from '../line/survey.ts';
import { calibrate, measure, roomKeys, snapshot } from '../lua/room.ts';

/** Others may keep snapshots while this one looks for the newest. */
const RELOADS_MAX = 3;

type Learnt = { open: Estimate[]; written: number; writtenAtMs: number };

export type Surveyor = {
  /** Takes a snapshot unless there is a fresh one; the snapshot when it was this one that was kept. */
  measure(room: RoomId): Promise<Snapshot | undefined>;
};

export const createSurveyor = (options: {
  config: Pick<Config, 'snapshotMs'>;
  redis: Redis;
  metrics: Metrics;
  /** '' is Redis's own clock. */
  nowMs?: () => number | '';
}): Surveyor => {
  const { config, redis, metrics } = options;
  const nowMs = options.nowMs ?? (() => '' as const);
  const latest = new Map<RoomId, Snapshot>();
  const learnt = new Map<RoomId, Learnt>();

  /** The snapshot that the next one goes on from, whoever took it. */
  const reload = async (room: RoomId): Promise<Snapshot | undefined> => {
    const text = await redis.get(roomKey(room, 'snapshot'));
    const read = text === null ? undefined : parseSnapshot(text);
    if (read === undefined) latest.delete(room);
    else latest.set(room, read);
    return read;
  };

  /** Counts until it is enough, after the snapshot that is in Redis; undefined when there is nothing to keep. */
  const count = async (room: RoomId): Promise<Composed | undefined> => {
    let before = latest.get(room);
    let reloads = 0;
    for (;;) {
      const counts = survey(before);
      let step = counts.next();
      let isOfAnother = false;
      while (step.done !== true && !isOfAnother) {
        const done = await measure.run(redis, roomKeys(room), {
          nowMs: nowMs(),
          freshMs: Math.floor(config.snapshotMs * 0.9),
          listMax: LIST_MAX,
          ...step.value,
        });
        if (done.outcome !== 'measured') return undefined;
        isOfAnother =
          Number(done.room.get('snapshotAt') ?? 0) !== (before?.atMs ?? 0) &&
          (before !== undefined || reloads === 0);
        if (!isOfAnother) step = counts.next(done);
      }
      if (step.done === true) return step.value;
      before = reloads < RELOADS_MAX ? await reload(room) : undefined;
      reloads += 1;
    }
  };

  /** Settles the estimates that are known now, writes a new one down, and keeps what was learnt. */
  const learn = async (room: RoomId, now: Snapshot): Promise<void> => {
    const known = learnt.get(room) ?? { open: [], written: 0, writtenAtMs: 0 };
    const { open, calibration } = settleEstimates(known.open, now, now.calibration);
    let { written, writtenAtMs } = known;
    if (now.atMs - writtenAtMs >= EVERY_MS && open.length < OPEN_MAX) {
      const estimate = estimateNow(now, written);
      written += 1;
      writtenAtMs = now.atMs;
      if (estimate !== undefined) open.push(estimate);
    }
    learnt.set(room, { open, written, writtenAtMs });
    const settled = calibration.total - now.calibration.total;
    if (settled === 0) return;
    const { p50Factor, p90Factor, right, total } = calibration;
    const kept = await calibrate.run(redis, roomKeys(room), {
      seenTotal: now.calibration.total,
      p50Factor,
      p90Factor,
      right,
      total,
    });
    if (kept.outcome !== 'calibrated') return;
    const held = right - now.calibration.right;
    metrics.inc('eta_settled_total', { room, outcome: 'held' }, held);
    metrics.inc('eta_settled_total', { room, outcome: 'late' }, settled - held);
  };

  const show = (room: RoomId, now: Snapshot): void => {
    for (const state of ['waiting', 'parked', 'withheld', 'promoted', 'active'] as const)
      metrics.set('places', { room, state }, now[state]);
    metrics.set('anchors', { room }, now.anchors.length);
  };

  return {
    async measure(room) {
      const begun = performance.now();
      const composed = await count(room);
      if (composed === undefined) return undefined;
      const { snapshot: now, basedOnMs, pace } = composed;
      const kept = await snapshot.run(redis, roomKeys(room), {
        epoch: now.epoch,
        basedOnMs,
        atMs: now.atMs,
        pace,
        nearScore: now.nearScore,
        json: snapshotText(now),
      });
      if (kept.outcome !== 'kept') return undefined;
      latest.set(room, now);
      metrics.observe('snapshot_seconds', {}, (performance.now() - begun) / 1000);
      show(room, now);
      await learn(room, now);
      return now;
    },
  };
};
