// Who stands in the line, and where the names of things on the visitor's side come from: the visitor cookie, the
// placeId, the draw. All pure; keys come in from outside.

import { createHmac, randomBytes } from 'node:crypto';
import { type PlaceId, parseVisitorId, type RoomId, type VisitorId } from '../kernel/ids.ts';
import type { Mac } from '../kernel/mac.ts';
import type { Tokens } from '../kernel/token.ts';

const VISITOR_BYTES = 16;
const RANDOM_BYTES_KEPT = 256 * VISITOR_BYTES;

/** Asking for random bytes costs the same for 16 as for some thousand: they are asked for in supply. */
const randomSupply = (): (() => Buffer) => {
  let kept = Buffer.alloc(0);
  return () => {
    if (kept.length === 0) kept = randomBytes(RANDOM_BYTES_KEPT);
    const taken = kept.subarray(0, VISITOR_BYTES);
    kept = kept.subarray(VISITOR_BYTES);
    return taken;
  };
};
const randomVisitorBytes = randomSupply();

/** A new anonymous visitor: 128 random bits. */
export const newVisitor = (): VisitorId => `a:${randomVisitorBytes().toString('base64url')}` as VisitorId; // In form by construction.

/** The visitor of a verified user: the hash of issuer and subject, 43 characters. */
export const userVisitor = (subject: string): VisitorId | undefined => parseVisitorId(`u:${subject}`);

export const signVisitor = (tokens: Tokens, visitor: VisitorId, nowMs: number): string =>
  tokens.sign('visitor', [visitor, Math.floor(nowMs / 1000)]);

/** The visitor of a cookie, and whether it is worth renewing (older than a day); undefined when it is not ours. */
export const readVisitor = (
  tokens: Tokens,
  cookie: string | undefined,
  options: { nowMs: number; lifeDays: number },
): { visitor: VisitorId; stale: boolean } | undefined => {
  if (cookie === undefined) return undefined;
  const fields = tokens.verify('visitor', cookie);
  const visitor = parseVisitorId(fields?.[0]);
  const atSeconds = fields?.[1];
  if (visitor === undefined || typeof atSeconds !== 'number') return undefined;
  const ageMs = options.nowMs - atSeconds * 1000;
  if (ageMs > options.lifeDays * 86_400_000) return undefined;
  return { visitor, stale: ageMs > 86_400_000 };
};

/**
 * The place of a visitor in one sale of a room: the first 96 bits of an HMAC. The salt is never rotated, so that
 * joining twice gives the same place, and nobody can compute another's.
 */
export const placeIdOf = (salt: Mac, visit: { room: RoomId; sale: number; visitor: VisitorId }): PlaceId =>
  // 12 bytes are 16 characters of base64url.
  salt(`${visit.room}\n${visit.sale}\n${visit.visitor}`).toString('base64url', 0, 12) as PlaceId;

/** The seed of a draw is derived, never stored; its SHA-256 is published before, the seed itself at opening. */
export const drawSeed = (key: Buffer, draw: { room: RoomId; sale: number; opensAt: number }): Buffer =>
  createHmac('sha256', key).update(`${draw.room}\n${draw.sale}\n${draw.opensAt}`).digest();

/** A place's lot: 40 bits of HMAC(seed, placeId), below zero and so always before any number. */
export const drawScore = (seed: Buffer, placeId: PlaceId): number =>
  createHmac('sha256', seed).update(placeId).digest().readUIntBE(0, 5) - 2 ** 40;

/** Cookie names: `__Host-` where the address is https, plain where it is not (browsers refuse the prefix there). */
export const cookieNames = (publicUrl: string) => {
  const prefix = publicUrl.startsWith('https:') ? '__Host-' : '';
  return {
    secure: prefix !== '',
    visitor: `${prefix}ar_v`,
    receipt: (room: RoomId) => `${prefix}ar_r_${room}`,
    session: (room: RoomId) => `${prefix}ar_s_${room}`,
  };
};
export type CookieNames = ReturnType<typeof cookieNames>;
