// HMAC-SHA-256 (RFC 2104) without an object a message. `createHmac` makes a stream, a native handle and its finaliser
// for each, which under load costs more than the hashing: a join has three. Here the padded key is kept ready, and
// two one-shot hashes do the rest; a test compares every length with `createHmac`.

import { createHmac, hash } from 'node:crypto';

const BLOCK_BYTES = 64;
const DIGEST_BYTES = 32;
const MESSAGE_BYTES_MAX = 1024;
/** UTF-8 takes at most three bytes for a UTF-16 unit. */
const BYTES_PER_UNIT_MAX = 3;

/** A key of 32 bytes made ready: `mac(message)` is its HMAC-SHA-256 of the message as UTF-8, 32 bytes. */
export type Mac = (message: string) => Buffer;

export const createMac = (key: Buffer): Mac => {
  if (key.length > BLOCK_BYTES) throw new Error('a key longer than a block must be hashed first');
  const inner = Buffer.alloc(BLOCK_BYTES + MESSAGE_BYTES_MAX);
  const outer = Buffer.alloc(BLOCK_BYTES + DIGEST_BYTES);
  for (let index = 0; index < BLOCK_BYTES; index += 1) {
    inner[index] = (key[index] ?? 0) ^ 0x36;
    outer[index] = (key[index] ?? 0) ^ 0x5c;
  }
  return (message) => {
    if (message.length * BYTES_PER_UNIT_MAX > MESSAGE_BYTES_MAX)
      return createHmac('sha256', key).update(message).digest();
    const bytes = inner.write(message, BLOCK_BYTES);
    outer.write(hash('sha256', inner.subarray(0, BLOCK_BYTES + bytes), 'binary'), BLOCK_BYTES, 'latin1');
    return hash('sha256', outer, 'buffer');
  };
};
