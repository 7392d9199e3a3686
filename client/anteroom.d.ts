// Types of anteroom.js, the browser's side of a waiting room. Times are milliseconds since 1970 by the server's
// clock where a name ends in Ms and says when, durations otherwise.

/** Where a place stands, and the conditions in which nothing can be said about it. */
export type PlaceState =
  | 'waiting'
  | 'parked'
  | 'withheld'
  | 'promoted'
  | 'active'
  | 'notOpen'
  | 'recovering'
  | 'unavailable';

export type Position = {
  /** 1 is next. Missing with `order: 'drawn'`: each admission is drawn by lot, and `waiting` is all there is to tell. */
  position?: number;
  order?: 'drawn';
  ahead?: number;
  waiting?: number;
  /** Half of all are in before the first, nine in ten before the second. */
  etaSeconds?: readonly [p50: number, p90: number];
  perMinute?: number;
  /** 0 to 1. */
  progress?: number;
  /** When to expect the next one. */
  nextMs?: number;
};

export type StateMessage = {
  state: PlaceState;
  number?: number;
  verdict?: 'challenge' | 'tarpit' | 'block';
  opensAtMs?: number;
  /** What keeps the line from moving; `open` when nothing does. */
  gate?: 'open' | 'suspended' | 'queueAll' | 'passthrough' | 'notOpen' | 'closed' | 'recovering';
  suspended?: boolean;
  /** With `parked`: a turn went by unclaimed, and only an act of the visitor (`join`) brings the place back. */
  missed?: boolean;
  /** Why it changed, as a word or as a sentence for people. */
  reason?: string;
  reference?: string;
};

export type Promoted = { claimToken: string; deadlineMs: number; serverNowMs?: number };
export type Notice = { id?: string; text: string; level?: 'info' | 'warn' | 'bad' };
/** `missed` and `closed` keep the place: `join` may bring it back. */
export type Ended = { reason: 'finished' | 'left' | 'missed' | 'closed' | 'newSale' };

export type ConnectionState = 'connecting' | 'live' | 'polling' | 'reconnecting' | 'offline';
export type Transport = 'events' | 'socket' | 'poll';

export type Entered = {
  outcome: 'entered';
  session?: { id: string; room: string; number: number; expiresAtMs: number };
  /** A JWT for an origin that checks by itself, or to be redeemed once on another host. */
  pass?: string;
  expiresAtMs?: number;
};
export type Refused = { outcome: 'refused'; code?: string };

export type AnteroomOptions = {
  room: string;
  /** Origin of the gateway, e.g. `https://tickets.example`; empty for the page's own. */
  base?: string;
  /** What the page shows already, if anything: the position does not rise above it without a reason. */
  position?: number;
  number?: number;
  /** The position never rises from one call to the next, unless `onState` gave a reason before. */
  onPosition?: (position: Position) => void;
  onState?: (state: StateMessage) => void;
  /** Once for each turn; after a state other than `promoted`, again. */
  onPromoted?: (promoted: Promoted) => void;
  /** Once per notice id; an empty text takes the notice away. */
  onNotice?: (notice: Notice) => void;
  /** Nothing follows until `join` is called again. */
  onEnded?: (ended: Ended) => void;
  onConnection?: (state: ConnectionState, transport: Transport) => void;
};

export type Anteroom = {
  /** Joins, or takes back the place that is held, then listens; repeats by itself until there is an answer. */
  join(): Promise<void>;
  /**
   * Makes the session of this visit, or takes it over from the visitor's other browser: with the state `active` this
   * goes in again. Repeats until the deadline when no answer comes.
   */
  claim(): Promise<Entered | Refused>;
  /** Gives the place up for good. */
  leave(): Promise<{ outcome: 'left' } | Refused>;
  /**
   * The position now: between two messages it goes on at the rate that the last one told, a little slower. Undefined
   * where there is none to tell. Never rises unless `onPosition` said so, never below 1.
   */
  position(): number | undefined;
  /** Stops listening; the place stays. */
  close(): void;
};

export function createAnteroom(options: AnteroomOptions): Anteroom;

// The parts that only count, for tests and for clients that are written anew.

export function pauseMs(failures: number, askedMs?: number, random?: () => number): number;
export function nextTransport(transport: number, tries: number, worked: boolean | undefined): number;
export function climbMs(climbs: number, random?: () => number): number;
export function mayReopen(code: number): boolean;
export function createReader(on: {
  onEvent: (type: string, data: string, id: string | undefined) => void;
  onRetry: (ms: number) => void;
}): (piece: string) => void;
export function createDrift(): {
  at(nowMs: number): number | undefined;
  hear(message: Position, nowMs: number, mayRise?: boolean): number | undefined;
  forget(): void;
};
