// Types of origin.js, the origin's side of a waiting room, for Node 20 or later.

export type Refusal =
  /** 401: there is neither a context nor a pass. */
  | 'gate-missing'
  /** 403, all of these. */
  | 'context-invalid'
  | 'context-expired'
  | 'context-other-room'
  | 'pass-invalid'
  | 'pass-expired'
  /** 503: the public keys have never been read and cannot be read now. */
  | 'keys-unavailable';

export type Session = {
  /** Names the session when it is ended: `Anteroom-Session-Id`, and `jti` of a pass. */
  id: string;
  placeId: string;
  number: number;
  sale: number;
};

export type Read = {
  outcome: 'valid';
  /** Stays the same for one browser, or one signed-in user. A pass does not say it. */
  visitor: string | undefined;
  room: string;
  /** Undefined when the room let the request through without a line. */
  session: Session | undefined;
};
export type Refused = { outcome: Refusal; cause?: unknown };

type Clock = { nowMs?: (() => number) | undefined };
export type ContextOptions = {
  room: string;
  /** What `npm run keys -- context <room>` prints. */
  keys: string;
};
export type PassOptions = {
  /** Address of `/.well-known/jwks.json`. */
  jwks: string;
  /** The public address of the waiting room, `iss` of its passes. */
  issuer: string;
};
export type ServiceOptions = {
  /** Origin of the gateway, e.g. `http://10.0.0.5:8080`, without a slash at its end. */
  url: string;
  /** What `npm run keys -- service <room>` prints. */
  token: string;
};

/** Reads the value of `Anteroom-Context`. Takes some microseconds. */
export function createContextReader(
  options: ContextOptions & Clock,
): (text: string | undefined) => Read | Refused;

/** Reads a pass. The first, and one whose key is unknown, waits for the public keys. Never throws. */
export function createPassReader(
  options: { room: string } & PassOptions & Clock,
): (text: string | undefined) => Promise<Read | Refused>;

/** Ends a session by its id. Throws when the gateway does not answer, or refuses the token. */
export function createSessionEnder(
  options: ServiceOptions,
): (room: string, sessionId: string) => Promise<{ outcome: 'ended' | 'missing' }>;

export type Anteroom = Omit<Read, 'outcome'> & {
  /**
   * Ends the session; its slot is free. With `service`: at once, by a request to the gateway. Without it the gateway is
   * told by a header of this answer (`told`), so call it before the answer begins; a proxy in auth mode does not listen.
   */
  end(): Promise<{ outcome: 'ended' | 'missing' | 'told' }>;
};

export type GuardOptions = {
  room: string;
  /** Contexts are taken. */
  keys?: string | undefined;
  /** Passes are taken, as `Authorization: Bearer`, where there is no context. */
  passes?: PassOptions | undefined;
  service?: ServiceOptions | undefined;
} & Clock;

/**
 * Express middleware, and a Fastify `onRequest` hook. Sets `request.anteroom`, or answers with problem+json. The types
 * are wide because neither framework is needed to use it.
 */
export function createGuard(
  options: GuardOptions,
): (request: unknown, response: unknown, next: (error?: Error) => void) => void;
