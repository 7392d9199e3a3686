// The bad network that other tests lean on: a fault that is not really there would let them pass for nothing.

import { createServer, connect as openSocket, type Socket } from 'node:net';
import t, { type Test } from 'tap';
import { eventually } from '../support/eventually.ts';
import { startFaultProxy } from '../support/fault-proxy.ts';

/** A server that answers each line with the same line, and keeps what it has heard. */
const startEcho = async (t: Test) => {
  const heard: string[] = [];
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => sockets.delete(socket));
    socket.on('data', (piece) => {
      heard.push(piece.toString());
      socket.write(piece);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  });
  const address = server.address();
  return { heard: () => heard.join(''), port: typeof address === 'object' && address ? address.port : 0 };
};
const openClient = async (t: Test, port: number) => {
  const socket = openSocket({ port, host: '127.0.0.1' });
  const seen = { text: '', ended: '' };
  socket.on('data', (piece) => {
    seen.text += piece.toString();
  });
  socket.on('end', () => {
    seen.ended ||= 'close';
  });
  socket.on('error', () => {
    seen.ended ||= 'reset';
  });
  socket.on('close', () => {
    seen.ended ||= 'close';
  });
  t.teardown(() => socket.destroy());
  await new Promise((resolve) => socket.once('connect', resolve));
  return { socket, seen };
};

t.test('a clear proxy passes everything on, in order', async (t) => {
  const echo = await startEcho(t);
  const proxy = await startFaultProxy(t, { port: echo.port, seed: 1 });
  const { socket, seen } = await openClient(t, proxy.port);
  const all = Array.from({ length: 500 }, (_, index) => `${index}\n`).join('');
  for (let index = 0; index < 500; index += 1) socket.write(`${index}\n`);
  await eventually('all is back', () => seen.text === all);
  t.equal(echo.heard(), all);
  t.equal(proxy.counts().cuts, 0);
});

t.test('latency delays, and keeps the order however it jitters', async (t) => {
  const echo = await startEcho(t);
  const proxy = await startFaultProxy(t, { port: echo.port, seed: 2 });
  const { socket, seen } = await openClient(t, proxy.port);
  proxy.set({ kind: 'latency', ms: 100, jitterMs: 100 });
  const begun = performance.now();
  const all = 'abcdefghijklmnopqrstuvwxyz';
  for (const letter of all) {
    socket.write(letter);
    await new Promise((resolve) => setImmediate(resolve));
  }
  await eventually('all is back', () => seen.text.length === all.length);
  t.equal(seen.text, all);
  // A machine that is late makes it longer, never shorter.
  t.ok(performance.now() - begun >= 100, 'there and back take at least twice the least delay of 50 ms');
});

t.test('a blackhole holds both directions and refuses nothing, and what it held flows on', async (t) => {
  const echo = await startEcho(t);
  const proxy = await startFaultProxy(t, { port: echo.port, seed: 3 });
  const { socket, seen } = await openClient(t, proxy.port);
  proxy.set({ kind: 'blackhole' });
  socket.write('held');
  const late = await openClient(t, proxy.port);
  late.socket.write('too');
  const probe = await startFaultProxy(t, { port: echo.port, seed: 3 });
  const control = await openClient(t, probe.port);
  control.socket.write('control');
  await eventually('a clear path answers meanwhile', () => control.seen.text === 'control');
  t.equal(echo.heard(), 'control');
  t.equal(seen.text + late.seen.text + seen.ended + late.seen.ended, '');
  proxy.set({ kind: 'clear' });
  await eventually('it flows on', () => seen.text === 'held' && late.seen.text === 'too');
});

t.test('half-open: the request arrives and the answer does not, or the other way round', async (t) => {
  const echo = await startEcho(t);
  const proxy = await startFaultProxy(t, { port: echo.port, seed: 4 });
  const { socket, seen } = await openClient(t, proxy.port);
  proxy.set({ kind: 'halfOpen', stops: 'replies' });
  socket.write('one');
  await eventually('it was heard', () => echo.heard() === 'one');
  t.equal(seen.text, '');
  proxy.set({ kind: 'halfOpen', stops: 'requests' });
  await eventually('the answer is let go', () => seen.text === 'one');
  socket.write('two');
  await eventually('it is held', () => socket.writableLength === 0);
  t.equal(echo.heard(), 'one');
  proxy.set({ kind: 'clear' });
  await eventually('both are through', () => seen.text === 'onetwo');
});

t.test('a lost reply: the server has done it, the client sees a reset', async (t) => {
  const echo = await startEcho(t);
  const proxy = await startFaultProxy(t, { port: echo.port, seed: 5 });
  const { socket, seen } = await openClient(t, proxy.port);
  proxy.set({ kind: 'lostReplies', chance: 1 });
  socket.write('done');
  await eventually('the connection is gone', () => seen.ended !== '');
  t.equal(echo.heard(), 'done');
  t.equal(seen.text, '');
  t.equal(proxy.counts().repliesLost, 1);
});

t.test(
  'cuts happen about as often as asked, by reset and by close, and the same seed draws the same',
  async (t) => {
    const outcomes = async (seed: number): Promise<string> => {
      const echo = await startEcho(t);
      const proxy = await startFaultProxy(t, { port: echo.port, seed });
      proxy.set({ kind: 'cut', chance: 0.25 });
      let text = '';
      for (let index = 0; index < 40; index += 1) {
        const { socket, seen } = await openClient(t, proxy.port);
        socket.write('x');
        await eventually('answered or cut', () => seen.text === 'x' || seen.ended !== '');
        text += seen.ended === '' ? '.' : seen.ended === 'reset' ? 'r' : 'c';
        socket.destroy();
        await eventually('it is forgotten', () => proxy.counts().open === 0);
      }
      return text;
    };
    const first = await outcomes(7);
    t.match(first, /r/);
    t.match(first, /c/);
    t.match(first, /\./);
    t.equal(await outcomes(7), first);
  },
);

t.test(
  'the mixed fault is late more than it is broken, and gets everything through while it is whole',
  async (t) => {
    const echo = await startEcho(t);
    const proxy = await startFaultProxy(t, { port: echo.port, seed: 8 });
    const { socket, seen } = await openClient(t, proxy.port);
    proxy.set({ kind: 'mixed', ms: 20, lossChance: 0.2, cutChance: 0 });
    let all = '';
    for (let index = 0; index < 30; index += 1) {
      all += String(index % 10);
      socket.write(String(index % 10));
      await eventually('it came back', () => seen.text === all);
    }
    t.ok(proxy.counts().late > 0, 'some pieces came late');
    t.equal(seen.ended, '');
  },
);
