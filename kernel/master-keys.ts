// The master keys: the text that all processes share (`ANTEROOM_KEYS`, or the file `keys` of a data folder), and how
// it changes over the years. Pure but for the file; what is derived from the keys is kernel/token.ts's.
//
//   keys = kid ":" base64url(32 bytes) { "," kid ":" base64url(32 bytes) }
//
// The first key signs, all verify, so a key is replaced by putting another in front. One entry has the kid `root` and
// signs nothing: from it come the secrets that must not move when keys do (place salt, draw, ledger). A text without
// a root takes them from its oldest key; whoever adds a key to such a text gets that key's secret written down as the
// root, so that the key itself may be dropped one day without anyone losing a place.
//
// A kid that we make begins with the day it was made (yymmdd). A key has signed nothing since the key in front of it
// came into use; after the longest life of anything signed it is of no use to anybody and may be dropped.

import { randomBytes } from 'node:crypto';
import { open, readFile, rename, rm } from 'node:fs/promises';
import { systemClock } from './clock.ts';

export type MasterKey = { kid: string; secret: Buffer };

export const ROOT_KID = 'root';
const SECRET_BYTES = 32;
/** More than a site ever has at once; each one is tried for passes and published. */
const KEYS_MAX = 16;
const DAY_MS = 86_400_000;
/** From making a key to letting it sign: the time to tell all processes of it. Ages are counted with this margin. */
export const USE_DAYS_MAX = 7;
/** A receipt's cookie lives a month; a visitor's as long as the configuration says. */
export const RECEIPT_DAYS = 31;

const isRoot = (key: MasterKey): boolean => key.kid === ROOT_KID;
export const signingKeys = (keys: readonly MasterKey[]): MasterKey[] => keys.filter((key) => !isRoot(key));
/** The key from which secrets come that never move; undefined in a text without any key. */
export const rootOf = (keys: readonly MasterKey[]): MasterKey | undefined =>
  keys.find(isRoot) ?? keys[keys.length - 1];

/** Parses `kid:base64url,…`; answers undefined if any is malformed, shorter than 32 bytes or repeated. */
export const parseKeys = (text: string): MasterKey[] | undefined => {
  const keys: MasterKey[] = [];
  for (const part of text.split(',', KEYS_MAX + 1)) {
    const match = /^([a-z0-9]{1,8}):([A-Za-z0-9_-]{43,128})$/.exec(part.trim());
    if (match === null || keys.length >= KEYS_MAX) return undefined;
    const kid = match[1]!;
    if (keys.some((key) => key.kid === kid)) return undefined;
    keys.push({ kid, secret: Buffer.from(match[2]!, 'base64url') });
  }
  return signingKeys(keys).length === 0 ? undefined : keys;
};

/** The text of keys: those that sign in their order, the root last. */
export const formatKeys = (keys: readonly MasterKey[]): string =>
  [...signingKeys(keys), ...keys.filter(isRoot)]
    .map(({ kid, secret }) => `${kid}:${secret.toString('base64url')}`)
    .join(',');

/**
 * Whether a secret looks like one that was drawn and not typed: 32 random bytes have some 30 different values, and
 * fewer than 16 once in 10^14 draws. It finds `AAAA…` and repeated words, nothing cleverer.
 */
export const looksDrawn = (key: MasterKey): boolean => new Set(key.secret).size >= 16;

const two = (value: number): string => String(value).padStart(2, '0');
/** yymmdd and two random characters. */
const newKid = (nowMs: number, taken: readonly MasterKey[]): string => {
  const day = new Date(nowMs);
  const date = `${two(day.getUTCFullYear() % 100)}${two(day.getUTCMonth() + 1)}${two(day.getUTCDate())}`;
  for (;;) {
    const kid = `${date}${randomBytes(1).toString('hex')}`;
    if (!taken.some((key) => key.kid === kid)) return kid;
  }
};

/** The day a key was made, in ms; undefined where the kid does not say. */
export const madeAtMs = (kid: string): number | undefined => {
  const [, year, month, day] = /^(\d\d)(\d\d)(\d\d)[a-z0-9]{2}$/.exec(kid) ?? [];
  if (year === undefined) return undefined;
  const atMs = Date.UTC(2000 + Number(year), Number(month) - 1, Number(day));
  const read = new Date(atMs);
  // 13 as a month rolls over into the next year: such a kid is not a date.
  return read.getUTCMonth() + 1 === Number(month) && read.getUTCDate() === Number(day) ? atMs : undefined;
};

/** One new key in the form parseKeys takes. */
export const generateKey = (kid: string = newKid(systemClock.nowMs(), [])): string =>
  formatKeys([{ kid, secret: randomBytes(SECRET_BYTES) }]);

/** What a new site needs: a key that signs, and the root. */
export const generateKeys = (): string => `${generateKey()},${generateKey(ROOT_KID)}`;

export type KeysChange =
  | { outcome: 'changed'; keys: MasterKey[]; kid: string }
  | { outcome: 'refused'; says: string };

/** The same keys with their root written down, so that none of them is needed for it any more. */
const withRoot = (keys: readonly MasterKey[]): MasterKey[] =>
  keys.some(isRoot) ? [...keys] : [...keys, { kid: ROOT_KID, secret: keys[keys.length - 1]!.secret }];

/** A new key in the second place: it verifies and does not sign yet. */
export const addKey = (keys: readonly MasterKey[], nowMs: number): KeysChange => {
  const rooted = withRoot(keys);
  if (rooted.length >= KEYS_MAX)
    return { outcome: 'refused', says: `there are ${KEYS_MAX} keys already; drop some` };
  const [first, ...rest] = signingKeys(rooted);
  const added: MasterKey = { kid: newKid(nowMs, rooted), secret: randomBytes(SECRET_BYTES) };
  return { outcome: 'changed', keys: [first!, added, ...rest, ...rooted.filter(isRoot)], kid: added.kid };
};

/** Moves a key to the front, where it signs. Only a young one: ages of keys are counted from their making. */
export const useKey = (keys: readonly MasterKey[], kid: string, nowMs: number): KeysChange => {
  const chosen = signingKeys(keys).find((key) => key.kid === kid);
  if (chosen === undefined) return { outcome: 'refused', says: `there is no key ${kid}` };
  const atMs = madeAtMs(kid);
  if (atMs === undefined || nowMs - atMs > (USE_DAYS_MAX + 1) * DAY_MS)
    return {
      outcome: 'refused',
      says: `${kid} was not made within the last ${USE_DAYS_MAX} days; add a new one and use that`,
    };
  return { outcome: 'changed', keys: [chosen, ...withRoot(keys).filter((key) => key !== chosen)], kid };
};

/**
 * Takes away the keys of which nothing signed can be alive: those behind one that was made `lifeDays` and the time
 * between making and using ago. Without a root nothing is taken away, because the oldest key is the root then.
 */
export const dropKeys = (
  keys: readonly MasterKey[],
  options: { nowMs: number; lifeDays: number },
): { keys: MasterKey[]; dropped: string[] } => {
  const { nowMs, lifeDays } = options;
  const limitMs = (lifeDays + USE_DAYS_MAX + 1) * DAY_MS;
  const kept: MasterKey[] = [];
  const dropped: string[] = [];
  let isBehindOld = false;
  for (const key of signingKeys(keys)) {
    if (isBehindOld && keys.some(isRoot)) dropped.push(key.kid);
    else kept.push(key);
    const atMs = madeAtMs(key.kid);
    if (atMs !== undefined && nowMs - atMs > limitMs) isBehindOld = true;
  }
  return { keys: [...kept, ...keys.filter(isRoot)], dropped };
};

/** Replaces the keys of a data folder whole or not at all, readable by their owner only. */
export const saveKeys = async (file: string, text: string): Promise<void> => {
  const next = `${file}.next`;
  await rm(next, { force: true });
  const handle = await open(next, 'wx', 0o600);
  try {
    await handle.writeFile(`${text}\n`);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(next, file);
};

/** The keys of a data folder; made on the first start. */
export const loadKeys = async (file: string): Promise<string> => {
  try {
    return (await readFile(file, 'utf8')).trim();
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error;
    const keys = generateKeys();
    await saveKeys(file, keys);
    return keys;
  }
};
