// A time wheel: one timer for all connections, and nothing per connection but the slot it waits in. 512 slots of
// 100 ms hold any delay up to 51 s. Moving someone to another slot leaves the old entry behind; it is skipped
// when its slot comes, because the connection no longer names it.

export const SLOT_MS = 100;
const SLOTS = 512;

export type Scheduled = { slot: number };

export type Wheel<T extends Scheduled> = {
  schedule(item: T, delayMs: number): void;
  /** Everything due since the last call, and how late it is; `run` may schedule again. */
  turn(nowMs: number, run: (item: T, lateMs: number) => void): void;
};

export const createWheel = <T extends Scheduled>(nowMs: number): Wheel<T> => {
  const slots: T[][] = Array.from({ length: SLOTS }, () => []);
  let tick = Math.floor(nowMs / SLOT_MS);
  return {
    schedule(item, delayMs) {
      const ticks = Math.min(SLOTS - 1, Math.max(1, Math.floor(delayMs / SLOT_MS)));
      const slot = (tick + ticks) % SLOTS;
      // There already: one entry is enough, or whoever is put off again and again would fill the slot.
      if (item.slot === slot) return;
      item.slot = slot;
      slots[slot]!.push(item);
    },
    turn(now, run) {
      const until = Math.floor(now / SLOT_MS);
      // After a long pause each slot is due at most once.
      if (until - tick > SLOTS) tick = until - SLOTS;
      while (tick < until) {
        tick += 1;
        const index = tick % SLOTS;
        const due = slots[index]!;
        if (due.length === 0) continue;
        slots[index] = [];
        const lateMs = Math.max(0, now - tick * SLOT_MS);
        for (const item of due)
          if (item.slot === index) {
            item.slot = -1;
            run(item, lateMs);
          }
      }
    },
  };
};
