// Every refusal a client can see, once: its status, whether trying again helps, and a public text that says what
// to do next. Private detail goes to the log, never into the answer. docs/reference/errors.md is generated from
// this table, and a test compares the two. Adding a code: one row here, one test that provokes it.

export const errorTable = {
  // What the caller sent
  'bad-json': [400, 'The body is not valid JSON. Send one JSON object.'],
  'bad-field': [400, 'A field is missing, unknown or out of its range. See `detail`.'],
  'bad-path': [
    400,
    'The path is not in its plain form. Send it without dot segments, doubled slashes or encoded letters.',
  ],
  'bad-header': [400, 'A header is duplicated or malformed. Send each once.'],
  'bad-id': [400, 'The identifier in the path has the wrong form.'],
  'idempotency-key-missing': [
    400,
    'Send an `Idempotency-Key` header of 8 to 64 letters, digits, `-` or `_`.',
  ],
  'body-too-large': [413, 'The body is larger than this route takes.'],
  'wrong-type': [415, 'Send the body as `application/json`.'],
  'not-found': [404, 'There is nothing at this address.'],
  'wrong-method': [405, 'This address does not take that method. See the `Allow` header.'],
  'upgrade-required': [426, 'This address is a WebSocket. Open it as one.'],
  // Who the caller is
  'token-invalid': [401, 'The token is not valid here. Sign in again.'],
  'token-missing': [401, 'Sign in first: send an `Authorization: Bearer` header.'],
  'token-expired': [401, 'The token has expired. Sign in again, or ask its issuer for a new one.'],
  'sign-in-unavailable': [
    503,
    'It cannot be checked for a moment who you are. Your place is safe; this will be tried again.',
    5,
  ],
  'token-other-room': [403, 'This token is for another room. Use one made for this room.'],
  'role-missing': [403, 'Your role does not allow this.'],
  'not-yours': [403, 'This belongs to someone else.'],
  'proxy-unknown': [403, 'Only a proxy that this installation trusts may ask here. See `detail`.'],
  'origin-refused': [403, 'Requests from that page are not accepted here.'],
  // The line
  'session-other-room': [
    403,
    'Your session belongs to another waiting room. Join the right one at `join`, and wait for your turn.',
  ],
  'session-required': [429, 'A waiting room guards this address. Join at `join` and wait for your turn.'],
  'admission-required': [
    401,
    'A waiting room guards that address. Wait at `page`, or join at `join` and wait for your turn.',
  ],
  'room-unknown': [404, 'There is no such room.'],
  'room-closed': [403, 'This sale is closed. No one can join any more.'],
  'room-not-open': [403, 'This waiting room has not opened yet. Come back at `opensAt`.'],
  'room-full': [503, 'The line has reached its limit. Try again in a few minutes.', 60],
  'room-recovering': [503, 'The line is being restored. Keep this page open; your place is safe.', 2],
  'place-missing': [404, 'You have no place in this line. Join first.'],
  'place-finished': [410, 'This visit is over. Join again to get a new place.'],
  'not-your-turn': [409, 'It is not your turn yet. Keep waiting; your place is safe.'],
  'receipt-invalid': [400, 'This receipt is not valid for this room and sale.'],
  'pass-invalid': [
    400,
    'This pass is not valid for this room and sale. Enter from the waiting page to get one.',
  ],
  'pass-expired': [410, 'This pass has expired. Enter from the waiting page again to get a new one.'],
  'pass-redeemed': [
    409,
    'This pass has been used. Enter again from the waiting page where you had your turn.',
  ],
  'session-superseded': [
    409,
    'This visit has moved to another browser since. Enter again from the waiting page to go on here.',
  ],
  'session-missing': [404, 'There is no such session now. If it was there before, it has ended already.'],
  blocked: [
    403,
    'We could not let this request in. If you are a person, use the link on this page to tell us.',
  ],
  challenge: [403, 'Please show that you are a person first.'],
  'too-many-requests': [429, 'You are sending requests too quickly. Wait a moment, then try again.', 1],
  'too-many-streams': [429, 'Too many streams are open for you. Close another tab first.', 10],
  'streams-full': [
    503,
    'This server holds as many streams as it can. Try again soon, or at `elsewhere` where that is given.',
    5,
  ],
  // What is behind
  unavailable: [
    503,
    'The line cannot be reached for a moment. Your place is safe; this will be tried again.',
    2,
  ],
  overloaded: [503, 'The server is full for a moment. Try again soon.', 2],
  busy: [
    503,
    'Very many people are here at this moment. Come back after the seconds in `Retry-After`; a place in line is kept.',
  ],
  'origin-unreachable': [
    502,
    'The sale is not answering at the moment. Try again soon; your turn is kept.',
    5,
  ],
  'origin-timeout': [504, 'The sale took too long to answer. Try again soon; your turn is kept.', 5],
  internal: [500, 'Something went wrong on our side. Try again.'],
  // Booking
  'event-unknown': [404, 'There is no such event.'],
  'seats-taken': [409, 'At least one of those seats has just been taken. Choose others.'],
  'seats-none-together': [409, 'There are not that many seats left together. Try fewer, or another section.'],
  'seat-limit': [409, 'That would be more seats than one person may hold.'],
  'price-changed': [
    409,
    'The price has changed since you chose. Nothing was charged; choose your seats again.',
  ],
  'hold-cooling': [
    429,
    'You have changed your seats many times in a short while. Wait a moment before you choose again.',
  ],
  'hold-missing': [404, 'There is no such hold. It may have run out; choose seats again.'],
  'hold-expired': [409, 'The hold has run out. Choose seats again.'],
  'order-missing': [404, 'There is no such order.'],
  'order-state': [409, 'The order is not in a state that allows this.'],
  'payment-declined': [
    402,
    'The payment was declined. Try another card; your seats are kept until the hold runs out.',
  ],
  'payment-returned': [
    402,
    'You were charged a different amount from the one you were shown, and all of it is being refunded. Your seats are kept until the hold runs out; try again.',
  ],
  'database-unavailable': [503, 'Orders cannot be taken for a moment. Nothing was charged; try again.', 3],
  'idempotency-conflict': [422, 'This `Idempotency-Key` was used for a different request.'],
  'idempotency-busy': [409, 'The first request with this key is still running. Try again.', 1],
  rebuilding: [503, 'Seats are being counted again. Try again in a few seconds.', 3],
  // Admin
  'settings-invalid': [422, 'The settings were not applied. See `faults`.'],
  'settings-conflict': [409, 'Someone changed the settings meanwhile. Reload and try again.'],
  'preview-required': [
    409,
    'This would let in far more people at once. Look at `preview`, then send the same again with its `confirm`.',
  ],
  'ledger-missing': [404, 'No ledger was kept of this sale.'],
  'ledger-sealed': [
    409,
    'The order of the draw stays sealed until the room opens. Download the ledger after that.',
  ],
  'settings-unavailable': [
    503,
    'Settings cannot be read or changed for a moment. The line goes on; try again.',
    3,
  ],
  'room-exists': [409, 'There is a room of that name already.'],
  'operator-missing': [404, 'There is no such operator.'],
  'decision-missing': [404, 'There is no such decision, or it has been trimmed.'],
} as const satisfies Record<string, readonly [status: number, text: string, retryAfterSeconds?: number]>;

export type ErrorCode = keyof typeof errorTable;

/** The body of RFC 9457 problem details, with `code` as our extension member. */
export type Problem = {
  type: string;
  title: string;
  status: number;
  code: ErrorCode;
  detail?: string;
  [extension: string]: unknown;
};

/**
 * A request refused at the edge. Thrown inside a route; kernel/http.ts turns it into problem+json.
 * `detail` is public: name the field and its range, never a value that came from somewhere else.
 */
export class Refusal extends Error {
  readonly code: ErrorCode;
  readonly detail: string | undefined;
  readonly extra: Record<string, unknown>;
  /** Sent along with the answer. */
  readonly headers: readonly (readonly [name: string, value: string])[];

  constructor(
    code: ErrorCode,
    options: {
      detail?: string | undefined;
      extra?: Record<string, unknown>;
      headers?: Refusal['headers'];
      cause?: unknown;
    } = {},
  ) {
    // A refusal is an answer, not a fault: where it was thrown says nothing, and finding out costs several times
    // the rest of the answer. What caused it, when something did, brings a stack of its own.
    const limit = Error.stackTraceLimit;
    Error.stackTraceLimit = 0;
    super(code, options.cause === undefined ? {} : { cause: options.cause });
    Error.stackTraceLimit = limit;
    this.name = 'Refusal';
    this.code = code;
    this.detail = options.detail;
    this.extra = options.extra ?? {};
    this.headers = options.headers ?? [];
  }
}

export const statusOf = (code: ErrorCode): number => errorTable[code][0];
/** When to come back: as `extra.retryAfterMs` says, where the refusal knows better than its row. */
export const retryAfterSecondsOf = (
  code: ErrorCode,
  extra: Record<string, unknown> = {},
): number | undefined => {
  if (typeof extra.retryAfterMs === 'number') return Math.max(1, Math.ceil(extra.retryAfterMs / 1000));
  const row: readonly [number, string, number?] = errorTable[code];
  return row[2];
};

export const problemOf = (
  code: ErrorCode,
  options: { detail?: string | undefined; extra?: Record<string, unknown> } = {},
): Problem => ({
  ...options.extra,
  type: `urn:anteroom:error:${code}`,
  title: errorTable[code][1],
  status: errorTable[code][0],
  code,
  ...(options.detail === undefined ? {} : { detail: options.detail }),
});
