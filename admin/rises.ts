// A change that would let in far more people at once, or that clears the room for a new sale, is shown before it is
// made: the first try answers with what
// would change and a signed confirmation, and only the same change sent again with it takes effect. Pure, apart
// from the signature.

import { Refusal } from '../kernel/errors.ts';
import type { Tokens } from '../kernel/token.ts';
import { burstOf, type Settings } from '../line/settings.ts';

export type Rise = { field: string; from: number | string; to: number | string };

/** More than doubled, and by at least 100: a slip of the finger on a small room is no danger. */
const isSteep = (from: number, to: number): boolean => to > from * 2 && to - from >= 100;

/** What in this change opens the door much wider. */
export const risesOf = (before: Settings, after: Settings): Rise[] => {
  const rises: Rise[] = [];
  const numbers = [
    { field: 'newUsersPerMinute', from: before.newUsersPerMinute, to: after.newUsersPerMinute },
    { field: 'burst', from: burstOf(before), to: burstOf(after) },
  ];
  for (const rise of numbers) if (isSteep(rise.from, rise.to)) rises.push(rise);
  if (after.queueingMethod === 'passthrough' && before.queueingMethod !== 'passthrough')
    rises.push({ field: 'queueingMethod', from: before.queueingMethod, to: after.queueingMethod });
  if (after.sale !== before.sale) rises.push({ field: 'sale', from: before.sale, to: after.sale });
  return rises;
};

const CONFIRM_MS = 120_000;

/**
 * Lets a change through, or throws `preview-required`. A confirmation is for one operator, one room, the version
 * that was looked at and exactly these rises.
 */
export const requireLook = (options: {
  tokens: Tokens;
  nowMs: number;
  operatorId: string;
  room: string;
  version: number;
  before: Settings;
  after: Settings;
  confirm: string | undefined;
}): void => {
  const { tokens, nowMs, operatorId, room, version, before, after, confirm } = options;
  const rises = risesOf(before, after);
  const [first] = rises;
  if (first === undefined) return;
  const what = [operatorId, room, version, rises.map(({ field, to }) => `${field}=${to}`).join('&')];
  if (confirm !== undefined) {
    const [purpose, expiresAtMs, ...signed] = tokens.verify('operator-csrf', confirm) ?? [];
    const isSame = signed.length === what.length && signed.every((part, index) => part === what[index]);
    if (purpose === 'confirm' && typeof expiresAtMs === 'number' && expiresAtMs > nowMs && isSame) return;
  }
  const expiresAtMs = Math.floor(nowMs + CONFIRM_MS);
  throw new Refusal('preview-required', {
    detail: rises.map(({ field, from, to }) => `${field} from ${from} to ${to}`).join('; '),
    extra: {
      preview: {
        from: first.from,
        to: first.to,
        changes: rises,
        expiresAt: expiresAtMs,
        confirm: tokens.sign('operator-csrf', ['confirm', expiresAtMs, ...what]),
      },
    },
  });
};
