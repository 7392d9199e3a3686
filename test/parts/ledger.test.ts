// What an exported ledger promises: whoever has the public keys can recompute the sale from it, and whatever was
// altered afterwards is found, with the first row that is wrong.

import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { eventOf, type JoinRecord, mergeRecords, type Read } from '../../dispatcher/ledger-plan.ts';
import { createHeadVerifier, createTokens, generateKey, parseKeys } from '../../kernel/token.ts';
import type { EntryRecord } from '../../line/entries.ts';
import { chained, chainStart, type LedgerEvent, type LedgerVisit } from '../../line/ledger.ts';
import { verifyLedger } from '../../line/ledger-verify.ts';
import { exported, honestSale, placeOf, T0 } from '../support/ledger-sale.ts';
import { random, seedOf } from '../support/random.ts';

const tokens = createTokens({ keys: parseKeys(generateKey('t'))!, issuer: 'http://test' });
const strangers = createTokens({ keys: parseKeys(generateKey('t'))!, issuer: 'http://test' });
const jwks = await tokens.jwks();
const drawSeed = createHash('sha256').update('a draw').digest();
const commitment = createHash('sha256').update(drawSeed).digest('hex');
const all = { tokens, jwks, drawSeed, commitment };

async function* bytes(text: string, chunk = 4096): AsyncGenerator<Uint8Array> {
  const whole = Buffer.from(text);
  for (let at = 0; at < whole.length; at += chunk) yield whole.subarray(at, at + chunk);
}
const verify = (lines: readonly string[], options: Parameters<typeof verifyLedger>[1] = { jwks }) =>
  verifyLedger(bytes(`${lines.join('\n')}\n`), options);
/** The text without its hash, changed, with a hash of its own: one link of the chain made again. */
const changed = (line: string, change: (row: Record<string, unknown>) => void): string => {
  const row = JSON.parse(line);
  change(row);
  return JSON.stringify(row);
};
/** Makes the whole chain again over what the rows say, and keeps the signed heads as they are. */
const rechained = (lines: readonly string[]): string[] => {
  let end = chainStart('demo', 1);
  const rows = lines.slice(1).map((line) => {
    const { seq: _, hash: __, ...event } = JSON.parse(line);
    const next = chained(end, event);
    end = next.end;
    return next.line;
  });
  return [JSON.stringify({ ...JSON.parse(lines[0]!), rows: rows.length }), ...rows];
};

const firstSeed = seedOf(t, 1);
const seeds = Array.from({ length: 25 }, (_, index) => firstSeed + index);

t.test('an honest sale is verified, whatever happened in it', async (t) => {
  for (const seed of seeds) {
    const events = honestSale(seed, { steps: 400, drawSeed });
    const verdict = await verify(await exported(events, all));
    if (verdict.outcome !== 'verified') return t.fail(`seed ${seed}: ${JSON.stringify(verdict)}`);
    const { summary } = verdict;
    const count = (kind: string): number =>
      events.reduce(
        (sum, event) => sum + (event.kind === kind && 'visits' in event ? event.visits.length : 0),
        0,
      );
    t.equal(summary.promoted, count('promoted'), `seed ${seed}: all who went in`);
    t.equal(summary.joined, count('joined'));
    t.ok(summary.drawn > 0 && summary.isOver && summary.gaps.length === 0);
  }
});

t.test('a mutation is found, and the first row that is wrong is named', async (t) => {
  for (const seed of seeds) {
    const dice = random(seed);
    const lines = await exported(honestSale(seed, { steps: 200, drawSeed }), all);
    const rowOf = (kind: string): number => {
      const found = lines.flatMap((line, index) => (JSON.parse(line).kind === kind ? [index] : []));
      return found.length === 0 ? 0 : dice.pick(found);
    };
    const is = async (what: string, mutated: readonly string[], seq: number): Promise<void> => {
      const verdict = await verify(mutated);
      t.match(verdict, { outcome: 'wrong', seq }, `seed ${seed}: ${what}`);
    };
    const at = rowOf('promoted') || rowOf('joined');
    const later = changed(lines[at]!, (row) => {
      row.atMs = Number(row.atMs) + 1;
    });
    await is('a time was altered', lines.with(at, later), at);
    await is('a row was taken out', lines.toSpliced(at, 1), at);
    await is('a row was put in', lines.toSpliced(at, 0, lines[at]!), at + 1);
    await is('two rows were swapped', lines.with(at, lines[at + 1]!).with(at + 1, lines[at]!), at);
    const joined = rowOf('joined');
    const renumbered = changed(lines[joined]!, (row) => {
      const visits = row.visits as [string, number][]; // A row of kind joined, made by exported().
      visits[0]![1] += 1;
    });
    await is('a number was changed', lines.with(joined, renumbered), joined);

    // With the chain made again only a signature can tell, unless the rules do first.
    const nextHead = (from: number): number =>
      from + lines.slice(from).findIndex((line) => JSON.parse(line).kind === 'head');
    const again = await verify(rechained(lines.with(at, later)));
    t.match(again, { outcome: 'wrong' }, `seed ${seed}: altered and chained again`);
    if (again.outcome === 'wrong') {
      t.ok(again.seq >= at && again.seq <= nextHead(at), `seed ${seed}: no later than the next head`);
      if (again.seq === nextHead(at)) t.match(again.says, /was altered after it was signed/);
    }
    t.match(
      await verify(rechained(lines.toSpliced(at, 1))),
      { outcome: 'wrong' },
      'taken out, chained again',
    );
    const noHeads = lines.filter((line, index) => index === 0 || JSON.parse(line).kind !== 'head');
    t.match(
      await verify(rechained(noHeads)),
      { outcome: 'wrong', seq: 1, says: /no signed head/ },
      'a chain that nobody has signed proves nothing',
    );
    const head = rowOf('head');
    const forged = await strangers.signLedgerHead({
      room: 'demo',
      sale: 1,
      seq: head - 1,
      hash: 'x',
      atMs: 1,
    });
    const withForged = rechained(
      lines.with(
        head,
        changed(lines[head]!, (row) => {
          row.jws = forged;
        }),
      ),
    );
    t.match(
      await verify(withForged),
      { outcome: 'wrong', seq: head, says: /not signed with a key of the site/ },
      'the head of another key',
    );
    const moved = rechained(lines.toSpliced(head, 1).toSpliced(head - 1, 0, lines[head]!));
    t.match(
      await verify(moved),
      { outcome: 'wrong', seq: head - 1, says: /it was moved/ },
      'a head that moved',
    );
  }
});

const sale = (...more: LedgerEvent[]): LedgerEvent[] => [
  {
    kind: 'settings',
    atMs: T0,
    version: 1,
    limits: {
      newUsersPerMinute: 60,
      effectiveBurst: 2,
      totalActiveUsers: 3,
      sale: 1,
      queueingMethod: 'fifo',
    },
  },
  ...more,
];
const v = (number: number, score?: number): LedgerVisit =>
  score === undefined ? [placeOf(number), number] : [placeOf(number), number, score];
const joined = (atMs: number, ...numbers: number[]): LedgerEvent => ({
  kind: 'joined',
  atMs: T0 + atMs,
  visits: numbers.map((number) => v(number)),
});
const promoted = (atMs: number, numbers: number[], parked: number[] = []): LedgerEvent => ({
  kind: 'promoted',
  atMs: T0 + atMs,
  deadlineMs: T0 + atMs + 60_000,
  visits: numbers.map((number) => v(number)),
  ...(parked.length > 0 ? { parked: parked.map(placeOf) } : {}),
});

t.test('a sale that broke a rule is told by the row, even when everything in it is signed', async (t) => {
  const lot = v(3, -5);
  const unfair: [string, LedgerEvent[], number, RegExp][] = [
    [
      'out of order',
      [joined(0, 1, 2, 3), promoted(100, [2])],
      3,
      /^number 2 \(p0+2\) went in at \d\d:\d\d:00\.100 before number 1 \(p0+1\), who was waiting since \d\d:\d\d:00\.000$/,
    ],
    ['out of order among the parked', [joined(0, 1, 2, 3), promoted(1, [3], [1])], 3, /before number 2/],
    ['too many at once', [joined(0, 1, 2, 3), promoted(1, [1, 2, 3])], 3, /allowed 2$/],
    ['too soon', [joined(0, 1, 2, 3), promoted(0, [1, 2]), promoted(999, [3])], 4, /allowed 0$/],
    [
      'above the cap',
      [joined(0, 1, 2, 3, 4), promoted(0, [1, 2]), promoted(1000, [3]), promoted(2000, [4])],
      5,
      /on top of 3 inside, above the cap of 3$/,
    ],
    [
      'twice in one visit',
      [joined(0, 1), promoted(0, [1]), promoted(1000, [1])],
      4,
      /went in twice in one visit$/,
    ],
    ['never joined', [joined(0, 1), promoted(0, [2])], 3, /without having joined$/],
    [
      'another number',
      [joined(0, 1, 3), { ...promoted(0, []), visits: [[placeOf(1), 2]] } as LedgerEvent],
      3,
      /holds number 1$/,
    ],
    [
      'what a clock that went back earns twice',
      [
        joined(0, 1, 2, 3),
        promoted(5000, [1, 2]),
        { kind: 'clock', atMs: T0, wasMs: T0 + 5000 },
        promoted(999, [3]),
      ],
      5,
      /allowed 0$/,
    ],
    ['numbers that fall', [joined(0, 5), joined(1, 4)], 3, /was given after/],
    [
      'a place twice',
      [joined(0, 1), { ...joined(1), visits: [[placeOf(1), 2]] } as LedgerEvent, joined(2, 3)],
      3,
      /joined again while waiting$/,
    ],
    ['a lot nobody drew', [{ kind: 'joined', atMs: T0, visits: [lot] }], 2, /^the lot of number 3/],
    [
      'a score that is no lot',
      [{ kind: 'joined', atMs: T0, visits: [v(3, 1)] }],
      2,
      /neither the number nor a lot$/,
    ],
    [
      'withheld',
      [{ ...joined(0, 1), withheld: [placeOf(1)] } as LedgerEvent, promoted(1, [1])],
      3,
      /while withheld$/,
    ],
    [
      'stood up again out of nothing',
      [joined(0, 9), { kind: 'restored', atMs: T0, visits: [v(1)] }],
      3,
      /although nothing had been lost$/,
    ],
    [
      'taken back out of nothing',
      [{ kind: 'adopted', atMs: T0, visits: [v(1)] }],
      2,
      /although nothing had been lost$/,
    ],
    [
      'after a change of settings the old rate counts until then',
      [
        joined(0, 1, 2, 3),
        promoted(0, [1, 2]),
        {
          kind: 'settings',
          atMs: T0 + 500,
          version: 2,
          limits: {
            newUsersPerMinute: 6000,
            effectiveBurst: 2,
            totalActiveUsers: 9,
            sale: 1,
            queueingMethod: 'fifo',
          },
        },
        promoted(504, [3]),
      ],
      5,
      /allowed 0$/,
    ],
    [
      'nobody goes in on the tokens of before a loss',
      [
        {
          kind: 'recovering',
          reason: 'lost',
          atMs: T0 + 9000,
          untilMs: T0 + 9000,
          limits: {
            newUsersPerMinute: 60,
            effectiveBurst: 2,
            totalActiveUsers: 3,
            sale: 1,
            queueingMethod: 'fifo',
          },
        },
        joined(9000, 1),
        promoted(9001, [1]),
      ],
      4,
      /allowed 0$/,
    ],
  ];
  for (const [what, events, seq, says] of unfair)
    t.match(await verify(await exported(sale(...events), all)), { outcome: 'wrong', seq, says }, what);
});

t.test('what is no fault is not called one', async (t) => {
  const fair: [string, LedgerEvent[]][] = [
    [
      'a miss gives its token back',
      [
        joined(0, 1, 2, 3),
        promoted(0, [1, 2]),
        { kind: 'missed', atMs: T0 + 1, visits: [v(1)] },
        promoted(1, [3]),
      ],
    ],
    [
      'whoever left does not hold the line up',
      [joined(0, 1, 2), { kind: 'left', atMs: T0, visits: [v(1)], state: 'waiting' }, promoted(1, [2])],
    ],
    [
      'someone who left and came back within a millisecond',
      [
        joined(0, 1, 2),
        { kind: 'joined', atMs: T0 + 5, visits: [[placeOf(1), 3]] },
        { kind: 'left', atMs: T0 + 5, visits: [v(1)], state: 'waiting' },
        promoted(6, [2]),
        { ...promoted(7, []), visits: [[placeOf(1), 3]] } as LedgerEvent,
      ],
    ],
    [
      'a clock that was set back counts from there',
      [
        joined(0, 1, 2, 3),
        promoted(5000, [1, 2]),
        { kind: 'clock', atMs: T0, wasMs: T0 + 5000 },
        promoted(1000, [3]),
      ],
    ],
    [
      'after a gap nobody known before it holds the line up',
      [
        joined(0, 1, 2),
        { kind: 'gap', atMs: T0, stream: 'entries', reason: 'trimmed', records: 7 },
        promoted(1, [2]),
      ],
    ],
  ];
  for (const [what, events] of fair) {
    const verdict = await verify(await exported(sale(...events), all));
    t.match(verdict, { outcome: 'verified' }, what);
  }
  const settings = sale()[0] as Extract<LedgerEvent, { kind: 'settings' }>; // The first event of every sale here.
  const random: LedgerEvent = { ...settings, limits: { ...settings.limits, queueingMethod: 'random' } };
  const verdict = await verify(await exported([random, joined(0, 1, 2), promoted(1, [2])], all));
  t.match(verdict, { outcome: 'verified', summary: { atRandom: 1 } }, 'at random there is no order to check');
});

t.test('a head belongs to its sale, and no other kind of token is one', async (t) => {
  const lines = await exported(sale(joined(0, 1)), all);
  const header = JSON.parse(lines[0]!);
  t.match(
    await verify([JSON.stringify({ ...header, sale: 2 }), ...lines.slice(1)]),
    { outcome: 'wrong', seq: 1 },
    'the chain begins with the name of its sale',
  );
  const end = JSON.parse(lines.at(-2)!);
  const other = await tokens.signLedgerHead({
    room: 'demo',
    sale: 2,
    seq: end.seq,
    hash: end.hash,
    atMs: T0,
  });
  const head = chained(end, { kind: 'head', atMs: T0, jws: other }).line;
  t.match(await verify(lines.with(-1, head)), { outcome: 'wrong', says: /belongs to room demo, sale 2/ });
  const pass = await tokens.signPass({
    ...{ room: 'demo', sale: 1, placeId: placeOf(1), number: 1, serial: 1, sessionId: 's' },
    ...{ lifeSeconds: 60, nowMs: Date.now() },
  });
  t.equal(await createHeadVerifier(jwks)(pass), undefined, 'a pass is no head');
  t.same(
    await tokens.verifyPass(other, { room: 'demo', nowMs: T0 }),
    { outcome: 'invalid' },
    'and a head is no pass',
  );
  t.match(await verify(await exported(sale(joined(0, 1)), { ...all, commitment: '0'.repeat(64) })), {
    outcome: 'wrong',
    seq: 0,
    says: /committed to/,
  });
});

const limits = {
  newUsersPerMinute: 1,
  effectiveBurst: 1,
  totalActiveUsers: 1,
  sale: 1,
  queueingMethod: 'fifo',
};

t.test(
  'a join never stands after what it led to, whatever the clock did and however little was read',
  async (t) => {
    for (const seed of seeds.slice(0, 10)) {
      const dice = random(seed);
      const joins: Read<JoinRecord>[] = [];
      const entries: Read<EntryRecord>[] = [];
      let now = T0;
      let number = 0;
      let served = 0;
      for (let step = 0; step < 300; step += 1) {
        // A clock that is set back now and then, by up to five seconds.
        now += dice.below(20) === 0 ? -dice.below(5000) : dice.below(300);
        if (dice.below(2) === 0) {
          const visits = Array.from({ length: 1 + dice.below(3) }, () => v(++number));
          joins.push({
            id: `${step}-0`,
            record: { kind: 'joined', atMs: now, sale: 1, visits, withheld: [] },
          });
        } else if (served < number) {
          served += 1;
          const visits = [{ placeId: placeOf(served), number: served }];
          entries.push({
            id: `${step}-0`,
            record: { kind: 'promoted', atMs: now, deadlineMs: now, visits, parked: [], limits },
          });
        }
      }
      const joined = new Set<number>();
      let written = 0;
      for (let j = 0, e = 0; j < joins.length || e < entries.length; ) {
        const size = 1 + dice.below(9);
        const steps = mergeRecords({
          joins: joins.slice(j, j + size),
          entries: entries.slice(e, e + size),
          joinsAreAll: j + size >= joins.length,
          entriesAreAll: e + size >= entries.length,
          sale: 1,
        });
        for (const step of steps) {
          written += 1;
          if (step.from === 'joins') for (const [, given] of step.record?.visits ?? []) joined.add(given);
          else if (
            step.record?.kind === 'promoted' &&
            !step.record.visits.every((one) => joined.has(one.number))
          )
            t.fail(`seed ${seed}: promoted before the join`);
        }
        const taken = steps.filter(({ from }) => from === 'joins').length;
        j += taken;
        e += steps.length - taken;
        if (steps.length === 0) return t.fail(`seed ${seed}: it stands still`);
      }
      t.equal(written, joins.length + entries.length, `seed ${seed}: each once`);
    }
  },
);

t.test('every record of the streams has its row', async (t) => {
  const placeId = placeOf(1);
  const visits = [{ placeId, number: 1 }];
  const kindOf = (record: EntryRecord): string | undefined =>
    eventOf({ from: 'entries', id: '1-0', record })?.kind;
  const at = { atMs: T0 };
  t.equal(kindOf({ kind: 'adopted', ...at, visits }), 'adopted');
  t.equal(kindOf({ kind: 'released', ...at, places: [placeId] }), 'released');
  t.equal(kindOf({ kind: 'ended', ...at, visits, reason: 'order' }), 'ended');
  t.equal(kindOf({ kind: 'missed', ...at, visits: [], finished: visits }), 'missed');
  t.equal(kindOf({ kind: 'recovering', reason: 'lost', ...at, untilMs: T0, head: 0, limits }), 'recovering');
  t.equal(kindOf({ kind: 'over', ...at }), 'over');
  t.equal(kindOf({ kind: 'clock', ...at, wasMs: T0 + 9 }), 'clock');
  t.equal(kindOf({ kind: 'superseded', ...at, visits, serial: 1 }), undefined, 'the line is as it was');
  t.equal(kindOf({ kind: 'notice', ...at, id: '', text: '', level: '' }), undefined);
  const restored = { kind: 'restored', ...at, sale: 1, visits: [v(1, -9)], withheld: [placeId] } as const;
  t.same(
    eventOf({ from: 'joins', id: '1-0', record: { ...restored, visits: [v(1, -9)], withheld: [placeId] } }),
    {
      kind: 'restored',
      ...at,
      visits: [v(1, -9)],
      withheld: [placeId],
    },
  );
});

t.test('a file that is no ledger is told so in a sentence', async (t) => {
  const lines = await exported(sale(joined(0, 1), promoted(1, [1])), all);
  const text = `${lines.join('\n')}\n`;
  const cases: [string, string, RegExp][] = [
    ['empty', '', /^the file is empty$/],
    ['a page', '<!doctype html>\n<p>no', /^line 1 is not JSON/],
    ['text without an end', 'hello', /not lines of JSON/],
    ['other JSON', '{"a":1}\n', /^the first line is not that of an exported ledger/],
    ['cut within a row', text.slice(0, -20), /has no end: the file was cut off/],
    ['cut after a row', `${lines.slice(0, -1).join('\n')}\n`, /^the file ends after row 3 of 4/],
    ['garbage inside', text.replace('"kind":"promoted"', '"kind":promoted'), /^line 4 is not JSON/],
  ];
  for (const [what, content, says] of cases)
    for (const chunk of [7, 100_000])
      t.match(await verifyLedger(bytes(content, chunk)), { outcome: 'unreadable', says }, what);
  let read = 0;
  const endless = async function* (): AsyncGenerator<Uint8Array> {
    for (; read < 1024; read += 1) yield Buffer.alloc(1024 * 1024, 120);
  };
  t.match(await verifyLedger(endless()), { outcome: 'unreadable', says: /longer than 4 MB/ });
  t.ok(read < 10, 'a line of a gigabyte is not read to its end');
});

t.test('the command answers 0, 1 or 2, and says why', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'anteroom-verify-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const root = fileURLToPath(new URL('../../', import.meta.url));
  const run = (...args: string[]): Promise<{ code: number; out: string }> =>
    new Promise((resolve) => {
      execFile(
        process.execPath,
        ['--import', 'tsx/esm', 'scripts/verify.ts', ...args],
        { cwd: root },
        (error, stdout, stderr) =>
          resolve({ code: error === null ? 0 : Number(error.code), out: stdout + stderr }),
      );
    });
  const good = join(folder, 'good.ndjson');
  const keys = join(folder, 'jwks.json');
  const bad = join(folder, 'bad.ndjson');
  const honest = await exported(honestSale(1, { steps: 300, drawSeed }), all);
  writeFileSync(good, `${honest.join('\n')}\n`);
  writeFileSync(keys, JSON.stringify(jwks));
  writeFileSync(bad, `${(await exported(sale(joined(0, 1, 2), promoted(1, [2])), all)).join('\n')}\n`);
  const server = createServer((_, response) => void response.end(JSON.stringify(jwks)));
  await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  const address = server.address() as AddressInfo; // A server that listens on a port has one of this form.

  t.match(await run(good), { code: 0, out: /thumbprints[\s\S]*\nverified\n$/ }, 'with the keys in it');
  const withKeys = await run(good, '--jwks', keys);
  t.match(withKeys, { code: 0, out: /\nverified\n$/ });
  t.notMatch(withKeys.out, /thumbprints/);
  t.match(await run(good, '--jwks', `http://127.0.0.1:${address.port}/`), { code: 0 });
  t.match(await run(bad), { code: 1, out: /^NOT verified\nrow 3: number 2 .* before number 1 / });
  const other = join(folder, 'other.json');
  writeFileSync(other, JSON.stringify(await strangers.jwks()));
  t.match(await run(good, '--jwks', other), { code: 1, out: /not signed with a key of the site/ });
  t.match(await run(join(folder, 'none')), { code: 2, out: /there is no such file/ });
  t.match(await run(good, '--jwks', good), { code: 2, out: /is not a set of public keys/ });
  t.match(await run(folder), { code: 2 });
  t.match(await run(), { code: 2, out: /usage/ });
});
