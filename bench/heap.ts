// Garbage of another process taken away before its memory is read: without it a figure a connection would say when the
// collector ran last. Spoken over the inspector's own protocol (Chrome DevTools Protocol, HeapProfiler and Runtime).

import { WebSocket } from 'ws';

const ANSWER_MS_MAX = 30_000;

export type Heap = { heapBytes: number; externalBytes: number };

/** What `node --inspect=127.0.0.1:PORT` holds after two collections. */
export const heapOf = async (inspector: number): Promise<Heap> => {
  const targets = await (await fetch(`http://127.0.0.1:${inspector}/json`)).json();
  // The inspector answers with a list of targets; the first is the program.
  const [target] = targets as { webSocketDebuggerUrl: string }[];
  if (target === undefined) throw new Error('the inspector has nothing to look into');
  const socket = new WebSocket(target.webSocketDebuggerUrl);
  const timer = setTimeout(() => socket.terminate(), ANSWER_MS_MAX);
  try {
    await new Promise((resolve, reject) => {
      socket.once('open', resolve);
      socket.once('error', reject);
    });
    let id = 0;
    const ask = (method: string, params: object = {}): Promise<string> =>
      new Promise((resolve, reject) => {
        id += 1;
        socket.once('close', () => reject(new Error(`${method} was not answered`)));
        socket.once('message', (data) => resolve(String(data)));
        socket.send(JSON.stringify({ id, method, params }));
      });
    await ask('HeapProfiler.collectGarbage');
    await ask('HeapProfiler.collectGarbage');
    const answer = await ask('Runtime.evaluate', {
      expression: 'JSON.stringify(process.memoryUsage())',
      returnByValue: true,
    });
    // As asked for: a text that is what memoryUsage() gives.
    const { result } = JSON.parse(answer) as { result: { result: { value: string } } };
    const usage = JSON.parse(result.result.value) as { heapUsed: number; external: number };
    return { heapBytes: usage.heapUsed, externalBytes: usage.external };
  } finally {
    clearTimeout(timer);
    socket.close();
  }
};
