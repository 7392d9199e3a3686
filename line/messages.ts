// The messages a fan receives, one shape for SSE, WebSocket and polling, and how each is written on the wire.

import { cadenceMs } from './cadence.ts';
import { type EtaSeconds, etaOf, speedOf } from './eta.ts';
import { aheadOf } from './position.ts';
import { gateStateOf, isOrderDrawn, type Snapshot } from './snapshot.ts';

export type PositionMessage = {
  /** In line, from 1. Counts everyone ahead, parked included. */
  position: number;
  ahead: number;
  waiting: number;
  etaSeconds?: EtaSeconds;
  perMinute: number;
  /** 0 at joining, 1 at the turn. */
  progress: number;
  nextMs: number;
};
/** Where each admission is drawn by lot nobody stands before anybody: how many wait is all there is to tell. */
export type DrawnMessage = { order: 'drawn'; waiting: number; perMinute: number; nextMs: number };

/**
 * What to say to someone at `score`. `shown` is the lowest number of people ahead said so far (undefined: none),
 * `joinedAhead` the first: a position never rises by itself.
 */
export const positionMessage = (
  snapshot: Snapshot,
  at: { score: number; shown?: number | undefined; joinedAhead?: number | undefined; nowMs: number },
): PositionMessage | DrawnMessage => {
  const moving = gateStateOf(snapshot, at.nowMs) === 'open';
  const perMinute = moving ? Math.round(speedOf(snapshot)) : 0;
  if (isOrderDrawn(snapshot))
    return { order: 'drawn', waiting: snapshot.waiting, perMinute, nextMs: cadenceMs(undefined) };
  const ahead = Math.min(aheadOf(snapshot, at.score), at.shown ?? Number.POSITIVE_INFINITY);
  const eta = etaOf(snapshot, ahead, moving);
  const from = Math.max(at.joinedAhead ?? ahead, ahead) + 1;
  const message: PositionMessage = {
    position: ahead + 1,
    ahead,
    waiting: snapshot.waiting,
    perMinute,
    progress: Math.round((1 - (ahead + 1) / from) * 1000) / 1000,
    nextMs: Math.round(cadenceMs(eta?.[0])),
  };
  if (eta !== undefined) message.etaSeconds = eta;
  return message;
};

export type Message =
  | { type: 'position'; data: PositionMessage | DrawnMessage }
  | {
      type: 'state';
      data: { state: string; gate?: string; opensAtMs?: number; number?: number; receipt?: string };
    }
  | {
      type: 'promoted';
      data: { claimToken: string; deadlineMs: number; serverNowMs: number; number: number };
    }
  | { type: 'notice'; data: { id: string; text: string; level: string } }
  | { type: 'ended'; data: { reason: string } };

/** A server-sent event (WHATWG HTML, section 9.2). JSON has no raw newline, so one data line is enough. */
export const sseFrame = (message: Message, id?: string): string =>
  `${id === undefined ? '' : `id: ${id}\n`}event: ${message.type}\ndata: ${JSON.stringify(message.data)}\n\n`;

export const socketFrame = (message: Message, id?: string): string =>
  JSON.stringify({ type: message.type, ...(id === undefined ? {} : { id }), ...message.data });
