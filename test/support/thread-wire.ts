// A peer on a thread of its own, which goes on while this one stands still: for what has arrived during a pause of the
// whole process (a busy machine, a paused container), and must not be taken for late when it goes on.

import { Worker } from 'node:worker_threads';
import { eventually } from './eventually.ts';

type Teardown = { teardown(work: () => unknown): void };

export type ThreadWire = {
  /** Where it listens, or what it is connected to. */
  port: number;
  /** What it has heard so far. */
  heard(): string;
  send(text: string): void;
  /**
   * Stands still until the kernel has taken `text` from the peer, and for `ms` longer: timers are due by then. Comes
   * after `beforeTimers`.
   */
  standStillWhileItSends(text: string, ms: number): void;
};

/** In a turn of the event loop what waits for this comes next to the timers, and after it sockets are read. */
export const beforeTimers = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

const PROGRAM = `
const { connect, createServer } = require('node:net');
const { parentPort, workerData: { port, sent } } = require('node:worker_threads');
const talk = (wire) => {
  wire.on('error', () => undefined);
  wire.on('data', (bytes) => parentPort.postMessage({ heard: bytes.toString('latin1') }));
  parentPort.on('message', (text) => wire.write(text, 'latin1', () => {
    Atomics.add(sent, 0, 1);
    Atomics.notify(sent, 0);
  }));
};
const listening = port === 0
  ? createServer(talk).listen(0, '127.0.0.1', () => parentPort.postMessage({ port: listening.address().port }))
  : connect(port, '127.0.0.1', () => { talk(listening); parentPort.postMessage({ port }); });
`;
const SEND_MS_MAX = 60_000;

/** Connects to `connectTo`, or listens for one connection where that is left out. */
export const startThreadWire = async (t: Teardown, connectTo = 0): Promise<ThreadWire> => {
  const sent = new Int32Array(new SharedArrayBuffer(4));
  const worker = new Worker(PROGRAM, { eval: true, execArgv: [], workerData: { port: connectTo, sent } });
  t.teardown(() => worker.terminate());
  let port = 0;
  let heard = '';
  worker.on('message', (said: { port?: number; heard?: string }) => {
    port = said.port ?? port;
    heard += said.heard ?? '';
  });
  await eventually('the peer is there', () => port !== 0);
  return {
    port,
    heard: () => heard,
    send: (text) => worker.postMessage(text),
    standStillWhileItSends(text, ms) {
      const before = Atomics.load(sent, 0);
      worker.postMessage(text);
      if (Atomics.wait(sent, 0, before, SEND_MS_MAX) === 'timed-out')
        throw new Error('the peer sent nothing');
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
    },
  };
};
