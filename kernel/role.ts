// A role is a part of the system that can run in a process of its own: it starts, may be asked whether it is
// ready, and stops. main.ts starts them in order and stops them in reverse.

export const roleNames = ['dispatcher', 'booking-core', 'admin', 'broker', 'gateway'] as const;
export type RoleName = (typeof roleNames)[number];

export type Role = {
  name: RoleName;
  /** Resolves when the role has finished what it had begun; the caller sets the deadline. */
  stop(): Promise<void>;
  /** Dependencies by name; false means not ready. Answered within 1 s. */
  ready(): Promise<Record<string, boolean>>;
  /** What does not work although everything it needs is there: `demo room.reap`. */
  failing?(): string[];
};
