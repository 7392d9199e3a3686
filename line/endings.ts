// How a stream ends, and what its client does next. Each ending has one word and one close code; the word is the
// `reason` of the `ended` message on both transports, the code is what a WebSocket closes with. The ranges tell a client
// what to do even about a code that it does not know. docs/reference/messages.md is made from these tables.

export const endings = {
  finished: {
    code: 4000,
    says: 'The visit is over: its session ended, or two turns were missed. Join again for a new place.',
  },
  left: { code: 4001, says: 'The place was given up, here or in another tab.' },
  closed: { code: 4002, says: 'The sale is closed.' },
  newSale: { code: 4003, says: 'Another sale has begun in this room. Join again.' },
  tooManyMessages: { code: 4010, says: 'More was sent over the socket than it takes. Nothing needs to be.' },
  restarting: {
    code: 4100,
    says: 'This process stops. The close reason is `restarting` and the milliseconds to wait; another one goes on.',
  },
  tokenExpired: {
    code: 4200,
    says: 'The user token that the stream was opened with has run out. Get a new one, then open the stream again.',
  },
} as const satisfies Record<string, { code: number; says: string }>;

export type Ending = keyof typeof endings;

/** What a client does, by code; `to` included. */
export const closeRanges: readonly { from: number; to: number; act: string }[] = [
  { from: 1000, to: 1000, act: 'Do not reconnect: all is said.' },
  {
    from: 1001,
    to: 1001,
    act: 'Reconnect after a random time: the process is gone. The same goes for 1006 and 1012.',
  },
  {
    from: 1002,
    to: 1011,
    act: 'Do not reconnect as before: something was sent that is not understood here.',
  },
  { from: 4000, to: 4099, act: 'Do not reconnect: this stream has nothing more to say.' },
  {
    from: 4100,
    to: 4199,
    act: 'Reconnect after the milliseconds in the close reason; without any, after a random 1 to 5 s.',
  },
  { from: 4200, to: 4299, act: 'Renew the user token first, then reconnect.' },
];

/** The reason of a close that asks its client back after a while; read by clients as the word and a number. */
export const closeReason = (word: Ending, retryMs?: number): string =>
  retryMs === undefined ? word : `${word} ${retryMs}`;
