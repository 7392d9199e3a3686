// Master keys over the years: one signs, all verify, the root never moves, and what is dropped is dropped late enough.
// And in production nobody starts with keys that others could know.

import { execFile } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import t from 'tap';
import { ConfigFault, readConfig } from '../../kernel/config.ts';
import {
  addKey,
  dropKeys,
  formatKeys,
  generateKey,
  generateKeys,
  loadKeys,
  type MasterKey,
  madeAtMs,
  parseKeys,
  saveKeys,
  useKey,
} from '../../kernel/master-keys.ts';
import { createTokens } from '../../kernel/token.ts';

const DAY_MS = 86_400_000;
const START_MS = Date.UTC(2026, 10, 21, 12);
const kids = (keys: readonly MasterKey[]): string[] => keys.map(({ kid }) => kid);
const tokensOf = (keys: readonly MasterKey[]) => createTokens({ keys, issuer: 'http://test' });
const saltOf = (keys: readonly MasterKey[]): string => tokensOf(keys).derive('place-salt').toString('hex');
const changed = (change: ReturnType<typeof addKey>): { keys: MasterKey[]; kid: string } => {
  if (change.outcome === 'refused') throw new Error(change.says);
  return change;
};

t.test('a new site has a key that signs, dated, and a root that does not', async (t) => {
  const keys = parseKeys(generateKeys())!;
  t.equal(keys.length, 2);
  t.equal(keys[1]?.kid, 'root');
  t.ok(Math.abs((madeAtMs(keys[0]!.kid) ?? 0) - Date.now()) < 2 * DAY_MS);
  t.match(tokensOf(keys).sign('visitor', [1]), new RegExp(`^${keys[0]?.kid}\\.`));
  const rootSigned = tokensOf([{ kid: 'root', secret: keys[1]!.secret }, keys[0]!]);
  t.match(rootSigned.sign('visitor', [1]), new RegExp(`^${keys[0]?.kid}\\.`), 'wherever the root stands');
  const forged = createTokens({ keys: [{ kid: 'root2', secret: keys[1]!.secret }], issuer: 'x' })
    .sign('visitor', [1])
    .replace(/^root2/, 'root');
  t.equal(tokensOf(keys).verify('visitor', forged), undefined, 'the root verifies nothing');
  t.equal(parseKeys(generateKey('root')), undefined, 'a root alone signs nothing');
  t.equal(parseKeys(Array.from({ length: 17 }, (_, n) => generateKey(`k${n}`)).join(',')), undefined);
  t.ok(parseKeys(Array.from({ length: 16 }, (_, n) => generateKey(`k${n}`)).join(',')));
  t.equal(formatKeys(parseKeys(formatKeys(keys))!), formatKeys(keys), 'the text of keys is their text');
});

t.test(
  'half a year of rotations moves no secret that must not move, and refuses no living token',
  async (t) => {
    for (const first of [generateKeys(), generateKey('old'), `${generateKey('new')},${generateKey('old')}`]) {
      let keys = parseKeys(first)!;
      const salt = saltOf(keys);
      const draw = tokensOf(keys).derive('draw').toString('hex');
      const lifeDays = 31;
      let living: { token: string; signedAtMs: number }[] = [];
      let most = 0;
      let tokens = tokensOf(keys);
      const put = (next: MasterKey[], day: number): void => {
        if (formatKeys(next) === formatKeys(keys)) return;
        keys = next;
        tokens = tokensOf(keys);
        if (!living.every(({ token }) => tokens.verify('visitor', token) !== undefined))
          t.fail(`a living token was refused on day ${day}`);
      };
      for (let day = 0; day < 200; day += 1) {
        const nowMs = START_MS + day * DAY_MS;
        living = living.filter(({ signedAtMs }) => nowMs - signedAtMs <= lifeDays * DAY_MS);
        // A key a fortnight, used up to a week after it was made: a process in between knows both.
        if (day % 14 === 0) put(changed(addKey(keys, nowMs)).keys, day);
        if (day % 14 === 6) put(changed(useKey(keys, keys[1]!.kid, nowMs)).keys, day);
        put(dropKeys(keys, { nowMs, lifeDays }).keys, day);
        most = Math.max(most, keys.length);
        living.push({ token: tokens.sign('visitor', [day]), signedAtMs: nowMs });
      }
      t.equal(saltOf(keys), salt, 'the salt of places has not moved');
      t.equal(tokensOf(keys).derive('draw').toString('hex'), draw);
      t.ok(most <= 8, `never more than ${most} keys`);
      t.notOk(kids(keys).includes('old'), 'the first key is long gone');
    }
  },
);

t.test('a key is only used while it is young, and only dropped behind one that is old', async (t) => {
  const first = parseKeys(generateKeys())!;
  const added = changed(addKey(first, START_MS));
  t.equal(added.keys[1]?.kid, added.kid, 'it verifies before it signs');
  t.equal(useKey(added.keys, added.kid, START_MS + 9 * DAY_MS).outcome, 'refused', 'made too long ago');
  t.equal(useKey(added.keys, 'nobody', START_MS).outcome, 'refused');
  t.equal(useKey(added.keys, 'root', START_MS).outcome, 'refused', 'the root never signs');
  const used = changed(useKey(added.keys, added.kid, START_MS)).keys;
  t.equal(used[0]?.kid, added.kid);
  const dropAfter = (days: number) =>
    dropKeys(used, { nowMs: START_MS + days * DAY_MS, lifeDays: 31 }).dropped;
  t.same(dropAfter(38), [], 'something of it may be alive');
  t.same(dropAfter(40), [first[0]?.kid]);
  const undated = parseKeys(`${generateKey('b')},${generateKey('a')},${generateKey('root')}`)!;
  t.same(dropKeys(undated, { nowMs: START_MS, lifeDays: 1 }).dropped, [], 'nobody knows how old they are');
  const rootless = used.filter(({ kid }) => kid !== 'root');
  t.same(dropKeys(rootless, { nowMs: START_MS + 900 * DAY_MS, lifeDays: 1 }).dropped, [], 'it is the root');
  const full = parseKeys(Array.from({ length: 16 }, (_, n) => generateKey(`k${n}`)).join(','))!;
  t.equal(addKey(full, START_MS).outcome, 'refused', 'sixteen at most');
  for (const kid of ['26112', '261321aa', '260230aa', 'x', 'root', '261121', '261121aaa'])
    t.equal(madeAtMs(kid), undefined, `${kid} is no date`);
  t.equal(madeAtMs('261121zz'), Date.UTC(2026, 10, 21));
});

t.test('ledger heads outlive the keys they were made beside', async (t) => {
  const first = parseKeys(generateKeys())!;
  const head = { room: 'demo', sale: 1, seq: 1, hash: 'h', atMs: 1 };
  const kidOf = async (keys: readonly MasterKey[]): Promise<string> => {
    const [part = ''] = (await tokensOf(keys).signLedgerHead(head)).split('.');
    return JSON.parse(Buffer.from(part, 'base64url').toString('utf8')).kid;
  };
  const other = changed(addKey([generateNew(), first[1]!], START_MS)).keys;
  t.equal(await kidOf(first), 'root-ledger');
  const before = (await tokensOf(first).jwks()).keys.find(({ kid }) => kid === 'root-ledger')?.x;
  const after = (await tokensOf(other).jwks()).keys.find(({ kid }) => kid === 'root-ledger')?.x;
  t.type(before, 'string');
  t.equal(after, before, 'the same public key, whatever signs the cookies');
});
const generateNew = (): MasterKey => parseKeys(generateKey('fresh'))![0]!;

t.test('the key file is replaced whole and stays its owner’s', async (t) => {
  const folder = t.testdir({});
  const file = join(folder, 'keys');
  const first = await loadKeys(file);
  t.equal(await loadKeys(file), first, 'made once');
  t.equal(statSync(file).mode & 0o777, 0o600);
  // Left behind by somebody who was killed while writing.
  writeFileSync(`${file}.next`, 'half', { mode: 0o644 });
  await saveKeys(file, generateKey('b'));
  t.match(await loadKeys(file), /^b:/);
  t.equal(statSync(file).mode & 0o777, 0o600);
  t.same(readdirSync(folder), ['keys'], 'nothing is left beside it');
});

t.test(
  'npm run keys: new, add, use, rotate, drop and list, on the environment and on the file',
  async (t) => {
    const folder = t.testdir({});
    const run = async (args: string[], env: Record<string, string> = {}) =>
      promisify(execFile)(process.execPath, ['--import', 'tsx/esm', 'scripts/keys.ts', ...args], {
        env: { PATH: process.env.PATH, ANTEROOM_DATA: join(folder, 'data'), ...env },
      });
    const made = (await run([])).stdout.trim();
    const first = parseKeys(made)!;
    const added = (await run(['add'], { ANTEROOM_KEYS: made, ANTEROOM_ENV: 'production' })).stdout.trim();
    const [, kid = ''] = kids(parseKeys(added)!);
    t.same(kids(parseKeys(added)!), [first[0]!.kid, kid, 'root']);
    const used = (await run(['use', kid], { ANTEROOM_KEYS: added })).stdout.trim();
    t.same(kids(parseKeys(used)!), [kid, first[0]!.kid, 'root']);
    t.equal(saltOf(parseKeys(used)!), saltOf(first));
    t.match((await run(['list'], { ANTEROOM_KEYS: used })).stdout, `${kid}  made 20`);

    mkdirSync(join(folder, 'data'));
    const file = join(folder, 'data', 'keys');
    writeFileSync(file, generateKey('plain'), { mode: 0o600 });
    const salt = saltOf(parseKeys(await loadKeys(file))!);
    const rotated = await run(['rotate']);
    t.equal(rotated.stdout, '', 'a secret that has a file is not printed');
    const after = parseKeys(readFileSync(file, 'utf8').trim())!;
    t.same(kids(after).slice(1), ['plain', 'root']);
    t.equal(saltOf(after), salt);
    t.match((await run(['drop'])).stderr, 'No key is old enough');
    await t.rejects(run(['use', 'plain']), /was not made within/);
    await t.rejects(run(['destroy']), /there is no destroy/);
    await t.rejects(run(['add'], { ANTEROOM_KEYS: 'x' }), /malformed/);
    await t.rejects(run(['add'], { ANTEROOM_DATA: join(folder, 'nowhere') }), /set ANTEROOM_KEYS/);
  },
);

t.test(
  'production does not start with keys that others know, and says all that is missing at once',
  async (t) => {
    const production = {
      ANTEROOM_ENV: 'production',
      ANTEROOM_KEYS: generateKeys(),
      ANTEROOM_PUBLIC_URL: 'https://tickets.example',
      ANTEROOM_SANDBOX_SECRET: 'not-the-default',
    };
    t.ok(readConfig(production));
    const zeros = `a:${Buffer.alloc(32).toString('base64url')}`;
    const words = `a:${Buffer.from('change me change me change me change me').toString('base64url')}`;
    const jwks = {
      ANTEROOM_USER_JWT_ISSUER: 'https://shop.example',
      ANTEROOM_USER_JWT_AUDIENCE: 'tickets',
    };
    const cases: [Record<string, string>, RegExp][] = [
      [{ ANTEROOM_KEYS: '' }, /ANTEROOM_KEYS is needed/],
      [{ ANTEROOM_KEYS: 'x' }, /ANTEROOM_KEYS is malformed/],
      [{ ANTEROOM_KEYS: zeros }, /not drawn at random/],
      [{ ANTEROOM_KEYS: words }, /not drawn at random/],
      [{ ANTEROOM_KEYS: `${generateKey('a')},root:${'A'.repeat(43)}` }, /not drawn at random/],
      [{ ANTEROOM_PUBLIC_URL: '' }, /ANTEROOM_PUBLIC_URL is needed/],
      [{ ANTEROOM_SANDBOX_SECRET: '' }, /ANTEROOM_SANDBOX_SECRET must be set/],
      [{ ...jwks, ANTEROOM_USER_JWKS_URL: 'http://shop.example/keys' }, /must be https/],
      [{ ...jwks, ANTEROOM_USER_JWKS_URL: 'ftp://shop.example/keys' }, /http or https/],
      [{ ...jwks, ANTEROOM_USER_JWKS_URL: 'https://a:b@shop.example/keys' }, /user or a password/],
      [{ ANTEROOM_USER_JWKS_URL: 'https://shop.example/keys' }, /ISSUER and .*AUDIENCE/],
    ];
    for (const [env, says] of cases) t.throws(() => readConfig({ ...production, ...env }), says);
    for (const url of [
      'http://127.0.0.1:9/k',
      'http://localhost/k',
      'http://[::1]/k',
      'https://shop.example/k',
    ])
      t.ok(readConfig({ ...production, ...jwks, ANTEROOM_USER_JWKS_URL: url }), url);
    const url = { ...jwks, ANTEROOM_USER_JWKS_URL: 'https://shop.example/k' };
    for (const algorithms of ['none', 'HS256', 'RS256,HS256', 'rs256', 'constructor', ','])
      t.throws(
        () => readConfig({ ...url, ANTEROOM_USER_JWT_ALGORITHMS: algorithms }),
        /ALGORITHMS must be of/,
      );
    t.throws(() => readConfig({ ...url, ANTEROOM_USER_JWT_TYP: 'a b' }), /media type/);
    t.throws(() => readConfig({ ...url, ANTEROOM_USER_JWKS_FILE: 'x' }), /one or the other/);
    try {
      readConfig({ ANTEROOM_ENV: 'production' });
      t.fail('it would have started');
    } catch (error) {
      t.equal(error instanceof ConfigFault ? error.faults.length : 0, 3, 'keys, address and sandbox secret');
    }
    const started = promisify(execFile)(process.execPath, ['--import', 'tsx/esm', 'main.ts'], {
      env: { PATH: process.env.PATH, ANTEROOM_ENV: 'production', ANTEROOM_DATA: t.testdir({}) },
    });
    await t.rejects(started, /ANTEROOM_KEYS is needed in production/);
  },
);
