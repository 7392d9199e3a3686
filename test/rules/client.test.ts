// The parts of the browser client that only count: how long it waits, which transport it takes, how it reads a stream,
// and where a place stands between two messages. The rest of it runs in browsers (test/browser/client-browser.test.ts).

import { readFileSync } from 'node:fs';
import t from 'tap';
import {
  climbMs,
  createDrift,
  createReader,
  mayReopen,
  nextTransport,
  pauseMs,
} from '../../client/anteroom.js';
import { createAssets } from '../../gateway/page/assets.ts';
import { random, seedOf } from '../support/random.ts';

const draw = random(seedOf(t, 1));

t.test('a pause is drawn from the whole range, which doubles up to half a minute', async (t) => {
  for (const [failures, longest] of [
    [0, 500],
    [1, 1000],
    [2, 2000],
    [5, 16_000],
    [6, 30_000],
    [40, 30_000],
    [2000, 30_000],
  ] as const) {
    t.equal(
      pauseMs(failures, 0, () => 0),
      0,
      'at best none at all',
    );
    const late = pauseMs(failures, 0, () => 0.999);
    t.ok(late > 0.99 * longest && late <= longest, `${failures} failures: ${late} ms`);
  }
  const pauses = Array.from({ length: 1000 }, () => pauseMs(6, 0, draw.next));
  for (let tenth = 0; tenth < 10; tenth += 1)
    t.ok(
      pauses.some((ms) => Math.floor(ms / 3000) === tenth),
      `some in tenth ${tenth}`,
    );
});

t.test('what the server asks for is waited out by everyone, and not by all at once', async (t) => {
  const pauses = Array.from({ length: 1000 }, () => pauseMs(1, 10_000, draw.next));
  t.ok(Math.min(...pauses) >= 10_000);
  t.ok(Math.max(...pauses) <= 10_000 * 1.25 + 1000);
  t.ok(Math.max(...pauses) - Math.min(...pauses) > 2000);
});

t.test('a transport is given up after two tries in vain, after three where it has worked', async (t) => {
  const [events, socket, poll] = [0, 1, 2];
  t.equal(nextTransport(events, 1, undefined), events);
  t.equal(nextTransport(events, 2, undefined), socket);
  t.equal(nextTransport(events, 2, true), events);
  t.equal(nextTransport(events, 3, true), socket);
  t.equal(nextTransport(socket, 2, false), poll);
  t.equal(nextTransport(poll, 99, false), poll, 'below polling there is nothing');
});

t.test('streams are tried again after a minute or so, then ever more seldom', async (t) => {
  t.same(
    [0, 1, 2, 3, 9].map((climbs) => climbMs(climbs, () => 0.5)),
    [60_000, 120_000, 240_000, 480_000, 900_000],
  );
  t.equal(
    climbMs(0, () => 0),
    30_000,
  );
});

t.test('close codes say whether it is worth coming back', async (t) => {
  for (const code of [1001, 1006, 1012, 1013, 1014, 4100, 4199, 4200, 4299]) t.ok(mayReopen(code), `${code}`);
  for (const code of [1000, 1002, 1003, 1005, 1008, 1011, 1015, 3000, 4000, 4003, 4010, 4099, 4300, 4999])
    t.notOk(mayReopen(code), `${code}`);
});

t.test('a stream is read alike however it is cut into pieces', async (t) => {
  const text =
    'retry: 1500\n\n: a heartbeat\n\nid: 7-1\nevent: position\ndata: {"position":3}\n\n' +
    'event: notice\r\ndata: {"text":\r\ndata:"Hé"}\r\n\r\nevent: empty\n\ndata\n\nevent:state\ndata:{}\n\nevent: cut\ndata: {';
  const expected = [
    ['retry', 1500],
    ['position', '{"position":3}', '7-1'],
    ['notice', '{"text":\n"Hé"}', undefined],
    ['', '', undefined],
    ['state', '{}', undefined],
  ];
  for (let round = 0; round < 200; round += 1) {
    const heard: unknown[] = [];
    const read = createReader({
      onEvent: (...event) => heard.push(event),
      onRetry: (ms) => heard.push(['retry', ms]),
    });
    for (let at = 0; at < text.length; ) {
      const piece = text.slice(at, at + 1 + draw.below(round === 0 ? text.length : 20));
      read(piece);
      at += piece.length;
    }
    t.same(heard, expected, `round ${round}`);
  }
});

t.test('a line without end is not gathered for ever', async (t) => {
  const read = createReader({ onEvent: () => t.fail('nothing is told'), onRetry: () => {} });
  t.throws(() => {
    for (let kilobytes = 0; kilobytes < 100; kilobytes += 1) read('x'.repeat(1024));
  }, RangeError);
});

t.test('between messages a place goes on at the rate that was told, a little slower', async (t) => {
  const drift = createDrift();
  t.equal(drift.at(0), undefined);
  t.equal(drift.hear({ position: 1000, perMinute: 600, nextMs: 20_000 }, 0), 1000);
  t.equal(drift.at(0), 1000);
  t.equal(drift.at(10_000), 930, 'ten seconds at ten a second, less three tenths');
  t.equal(drift.at(20_000), 860);
  t.equal(drift.at(900_000), 860, 'and stops when the next message is late: nobody knows');
  t.equal(drift.hear({ position: 900, perMinute: 600, nextMs: 20_000 }, 901_000), 860, 'it does not rise');
  t.equal(drift.hear({ position: 2000, perMinute: 0 }, 902_000, true), 2000, 'unless it may');
  t.equal(drift.hear({ position: 5, perMinute: 6000, nextMs: 30_000 }, 903_000), 5);
  t.equal(drift.at(933_000), 1, 'never below 1');
  drift.forget();
  t.equal(drift.at(940_000), undefined);
  t.equal(drift.hear({ position: 70 }, 941_000), 70, 'another visit begins anew');
});

t.test('where news comes every second nothing is guessed', async (t) => {
  const drift = createDrift();
  drift.hear({ position: 50, perMinute: 6000, nextMs: 1000 }, 0);
  t.equal(drift.at(900), 50);
});

t.test(
  'whatever comes, in whatever order and by whatever clock, it never rises and never ends below 1',
  async (t) => {
    for (let round = 0; round < 300; round += 1) {
      const drift = createDrift();
      let nowMs = 0;
      let before = Number.POSITIVE_INFINITY;
      for (let step = 0; step < 60; step += 1) {
        // Clocks of phones are set back now and then.
        nowMs += draw.below(20) === 0 ? -draw.below(60_000) : draw.below(10_000);
        const heard =
          draw.below(2) === 0
            ? drift.at(nowMs)
            : drift.hear(
                {
                  position: 1 + draw.below(5000),
                  ...(draw.below(3) === 0
                    ? {}
                    : { perMinute: draw.below(100_000), nextMs: draw.below(30_000) }),
                },
                nowMs,
              );
        if (heard === undefined) continue;
        if (heard > before || heard < 1 || !Number.isInteger(heard))
          t.fail(`round ${round}, step ${step}: ${heard} after ${before}`);
        before = heard;
      }
    }
    t.pass('300 walks');
  },
);

t.test('the client is as small as its guide says', async (t) => {
  const client = createAssets().find(({ name }) => name === 'client');
  const said = /(\d+\.\d) KB/.exec(
    readFileSync(new URL('../../client/README.md', import.meta.url), 'utf8'),
  )?.[1];
  t.equal(((client?.zipped.length ?? 0) / 1024).toFixed(1), said);
});
