// What a recovery makes of what was known: the watcher accuses nobody of what Redis forgot, and the check of a ledger
// says what it is not sure of. A loss forgets all, everything else only makes unsure.

import t from 'tap';
import { createWatch, type Findings } from '../../dispatcher/watcher.ts';
import { type EntryRecord, parseEntry, recoveryReasons } from '../../line/entries.ts';
import type { LedgerEvent } from '../../line/ledger.ts';
import { createLedgerCheck } from '../../line/ledger-check.ts';

t.test('operators are told in words why, whatever the reason', async (t) => {
  // A script of the page: it has no types.
  const { REASONS } = await import(new URL('../../admin/page/recovery.js', import.meta.url).href);
  t.same(Object.keys(REASONS).sort(), [...recoveryReasons].sort());
});

const place = (name: string): string => name.padEnd(16, '_');
const limits = {
  ...{ newUsersPerMinute: 6000, effectiveBurst: 10, totalActiveUsers: 3, sale: 1 },
  queueingMethod: 'fifo',
};
const flat = (fields: Record<string, string | number>): EntryRecord =>
  parseEntry(Object.entries(fields).flatMap(([name, value]) => [name, String(value)]))!;
const called = (atMs: number, visits: string) =>
  flat({ kind: 'promoted', atMs, deadlineMs: atMs + 60_000, visits, parked: '', ...limits });
const visits = (...list: [string, number][]) =>
  list.map(([name, number]) => `${place(name)} ${number}`).join(',');
const back = (reason: string, atMs: number) =>
  flat({ kind: 'recovering', reason, atMs, untilMs: atMs + 1000, head: 0, ...limits });
const NONE: Findings = { overshoot: 0, duplicates: 0, inversions: 0, adoptedOverCap: 0 };

for (const reason of [...recoveryReasons, 'of tomorrow', ''])
  t.test(
    `after ${reason || 'a recovery without a reason'} nobody is accused of what was forgotten`,
    async (t) => {
      const watch = createWatch();
      const see = (record: EntryRecord) => t.same(watch.observe(record), NONE, JSON.stringify(record));
      see(called(1000, visits(['a', 1], ['b', 2], ['c', 3])));
      see(flat({ kind: 'ended', atMs: 1500, visits: visits(['a', 1]), reason: 'purchase' }));
      // Called and not come yet; one left whose end Redis may have forgotten, too.
      see(back(reason, 2000));
      see(called(5000, visits(['a', 1], ['b', 2], ['c', 3])));
    },
  );

t.test('what is older than what may be forgotten is held against whoever does it again', async (t) => {
  for (const reason of ['restart', 'failover']) {
    const watch = createWatch();
    watch.observe(called(1000, visits(['a', 1])));
    watch.observe(back(reason, 60_000));
    t.match(watch.observe(called(63_000, visits(['a', 1]))), { duplicates: 1 }, reason);
  }
});

const joined = (atMs: number, ...numbers: number[]): LedgerEvent => ({
  kind: 'joined',
  atMs,
  visits: numbers.map((number) => [place(`p${number}`), number]),
});
const promoted = (atMs: number, ...numbers: number[]): LedgerEvent => ({
  ...{ kind: 'promoted', atMs, deadlineMs: atMs + 1 },
  visits: numbers.map((number) => [place(`p${number}`), number]),
});
const checked = (...rows: LedgerEvent[]) => {
  const check = createLedgerCheck({ seed: undefined });
  for (const [index, row] of rows.entries()) {
    const fault = check.take({ ...row, seq: index + 1 });
    if (fault !== undefined) return { fault: fault.says };
  }
  return { fault: check.finish()?.says, summary: check.summary() };
};
const recovering = (atMs: number, reason?: string): LedgerEvent => ({
  ...{ kind: 'recovering', atMs, untilMs: atMs, limits },
  ...(reason === undefined ? {} : { reason }),
});

t.test('a ledger in which Redis came back verifies, and says of how many it is not sure', async (t) => {
  for (const reason of ['restart', 'failover', 'older', 'of tomorrow', undefined]) {
    const sale = [
      { kind: 'settings', atMs: 0, version: 1, limits } as LedgerEvent,
      joined(0, 1, 2, 3, 4, 5),
      promoted(1000, 1, 2),
      recovering(2000, reason),
      { kind: 'resumed', atMs: 2500, limits, inside: 1, tokens: 0, tokensAt: 2000 } as LedgerEvent,
      // Of the two who were called one was forgotten, and is called again before the next.
      promoted(5000, 2, 3),
      { kind: 'ended', atMs: 6000, visits: [[place('p1'), 1]], reason: 'purchase' } as LedgerEvent,
      promoted(7000, 4),
    ];
    const { fault, summary } = checked(...sale);
    t.equal(fault, undefined, String(reason));
    t.match(summary, { losses: 0, recoveries: [{ seq: 4, unsure: 5 }] });
    const { fault: tooMany } = checked(...sale, promoted(8000, 5));
    t.match(tooMany, /above the cap/, 'the cap is followed again once it is known how many are inside');
    const { fault: tooFast } = checked(...sale.slice(0, 4), promoted(2001, 3));
    t.match(tooFast, /the rate of 6,000 a minute allowed/, 'the rate always');
  }
});

t.test('a loss forgets everybody: whoever went in after it has to be on record again', async (t) => {
  const sale = [
    { kind: 'settings', atMs: 0, version: 1, limits } as LedgerEvent,
    joined(0, 1, 2),
    recovering(2000, 'lost'),
  ];
  t.match(checked(...sale, promoted(5000, 1)).fault, /went in without having joined/);
  const restored = { ...joined(3000, 1), kind: 'restored' } as LedgerEvent;
  t.match(checked(...sale, restored, promoted(5000, 1)), {
    fault: undefined,
    summary: { losses: 1, recoveries: [] },
  });
});
