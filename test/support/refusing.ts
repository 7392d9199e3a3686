// An address at which nobody listens, and nobody will: its port is held on another address of this machine, so that
// the system gives it to no other process. A port that was merely free a moment ago may be somebody's by the time it
// is asked. (All of 127.0.0.0/8 is this machine: RFC 1122, section 3.2.1.3.)

import { type AddressInfo, createServer } from 'node:net';

type Teardown = { teardown(work: () => unknown): void };

const HELD = '127.0.0.1';
const REFUSING = '127.0.0.2';

export type Refusing = { host: string; port: number; origin: string };

/** Connections are refused until the test itself listens there. */
export const refusingAddress = async (t: Teardown): Promise<Refusing> => {
  const keeper = createServer((wire) => wire.destroy());
  await new Promise<void>((resolve) => keeper.listen(0, HELD, resolve));
  t.teardown(() => keeper.close());
  // Listening on TCP, so the address is not a pipe's name.
  const { port } = keeper.address() as AddressInfo;
  return { host: REFUSING, port, origin: `http://${REFUSING}:${port}` };
};
