// The WebSocket framing of RFC 6455, section 5, from the side of a client: what an origin sends is read into whole
// messages, what goes to it is masked. No extension is agreed to, so the reserved bits must be zero. Pure; who holds
// the socket is kernel/origin-socket.ts.

import { randomBytes } from 'node:crypto';

export const OPCODE = { more: 0, text: 1, binary: 2, close: 8, ping: 9, pong: 10 } as const;
/** Section 5.5. */
const CONTROL_BYTES_MAX = 125;
const NOTHING = Buffer.alloc(0);

export type Message = { opcode: number; payload: Buffer };
/** A fault ends the connection: nothing after it can be trusted. `code` is the close code that says why. */
export type Frames = { messages: Message[]; fault?: { code: number; says: string } };

/** One whole, masked message in one frame. The mask protects proxies on the way, and must be unpredictable. */
export const maskedFrame = (opcode: number, payload: Uint8Array): Buffer => {
  const { length } = payload;
  const headBytes = length < 126 ? 2 : length < 65_536 ? 4 : 10;
  const frame = Buffer.allocUnsafe(headBytes + 4 + length);
  frame[0] = 0x80 | opcode;
  if (headBytes === 2) frame[1] = 0x80 | length;
  else if (headBytes === 4) {
    frame[1] = 0x80 | 126;
    frame.writeUInt16BE(length, 2);
  } else {
    frame[1] = 0x80 | 127;
    frame.writeBigUInt64BE(BigInt(length), 2);
  }
  const mask = randomBytes(4);
  mask.copy(frame, headBytes);
  const at = headBytes + 4;
  for (let index = 0; index < length; index += 1) frame[at + index] = payload[index]! ^ mask[index & 3]!;
  return frame;
};

/** The payload of a close frame; 1005 stands for none (section 7.4.1). */
export const closePayload = (code: number, reason: string): Buffer => {
  if (code === 1005) return NOTHING;
  const text = Buffer.from(reason).subarray(0, CONTROL_BYTES_MAX - 2);
  const payload = Buffer.alloc(2 + text.length);
  payload.writeUInt16BE(code);
  text.copy(payload, 2);
  return payload;
};

/** Reads pieces of a connection, in order; a message longer than `bytesMax` is a fault as soon as it is declared. */
export const createFrameReader = (bytesMax: number): ((piece: Buffer) => Frames) => {
  let pending: Buffer[] = [];
  let pendingBytes = 0;
  /** Bytes without which nothing more can be read: pieces of a long message are not joined before it is there. */
  let neededBytes = 2;
  let parts: Buffer[] = [];
  let partsBytes = 0;
  let partsOpcode = 0;

  return (piece) => {
    pending.push(piece);
    pendingBytes += piece.length;
    const messages: Message[] = [];
    const fault = (code: number, says: string): Frames => ({ messages, fault: { code, says } });
    while (pendingBytes >= neededBytes) {
      const all = pending.length === 1 ? pending[0]! : Buffer.concat(pending);
      pending = [all];
      const [first, second] = [all[0]!, all[1]!];
      const [isLast, opcode, short] = [(first & 0x80) !== 0, first & 15, second & 127];
      if ((first & 0x70) !== 0) return fault(1002, 'a reserved bit is set');
      if ((second & 0x80) !== 0) return fault(1002, 'a server masks nothing');
      const at = short < 126 ? 2 : short === 126 ? 4 : 10;
      neededBytes = at;
      if (all.length < at) break;
      const length =
        short < 126 ? short : short === 126 ? all.readUInt16BE(2) : Number(all.readBigUInt64BE(2));
      const isControl = opcode >= OPCODE.close;
      if (isControl ? opcode > OPCODE.pong : opcode > OPCODE.binary) return fault(1002, 'an unknown opcode');
      if (isControl && (!isLast || length > CONTROL_BYTES_MAX)) return fault(1002, 'a long control frame');
      if (!isControl && (opcode === OPCODE.more) !== parts.length > 0)
        return fault(1002, 'a message inside another, or its middle without its start');
      if (!isControl && partsBytes + length > bytesMax) return fault(1009, 'the message is too long');
      neededBytes = at + length;
      if (all.length < neededBytes) break;
      const payload = all.subarray(at, neededBytes);
      pending = [all.subarray(neededBytes)];
      pendingBytes = all.length - neededBytes;
      neededBytes = 2;
      if (isControl) {
        messages.push({ opcode, payload });
        continue;
      }
      if (opcode !== OPCODE.more) partsOpcode = opcode;
      parts.push(payload);
      partsBytes += length;
      if (!isLast) continue;
      messages.push({ opcode: partsOpcode, payload: parts.length === 1 ? payload : Buffer.concat(parts) });
      parts = [];
      partsBytes = 0;
    }
    return { messages };
  };
};
