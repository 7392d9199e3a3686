// Addresses: one text for each, networks that hold what they say, and whose word about the fan's address is taken.

import { isIP } from 'node:net';
import fc from 'fast-check';
import t from 'tap';
import { createProxy } from '../../gateway/proxy.ts';
import {
  addressPrefix,
  addressText,
  claimedAddressHeaders,
  createNetworks,
  createTrust,
  parseAddress,
} from '../../kernel/address.ts';
import type { Fetcher } from '../../kernel/fetch.ts';
import type { Request } from '../../kernel/http.ts';
import { createMetrics } from '../../kernel/metrics.ts';
import { readTrace } from '../../kernel/traceparent.ts';
import { seedOf } from '../support/random.ts';

fc.configureGlobal({ seed: seedOf(t, 1) });

const bytesOf = (text: string): Uint8Array => parseAddress(text)!;
const v4 = fc.ipV4();
const v6 = fc.uint8Array({ minLength: 16, maxLength: 16 }).map(addressText);
const address = fc.oneof(v4, v6, fc.ipV6());

t.test('an address has one text, whichever of its spellings comes', async (t) => {
  for (const [given, text] of [
    ['192.0.2.1', '192.0.2.1'],
    ['::ffff:192.0.2.1', '192.0.2.1'],
    ['::FFFF:C000:0201', '192.0.2.1'],
    ['2001:DB8:0:0:0:0:0:1', '2001:db8::1'],
    ['2001:0db8::0001', '2001:db8::1'],
    ['2001:db8:0:1:0:0:0:1', '2001:db8:0:1::1'],
    ['0:0:0:0:0:0:0:0', '::'],
    ['::192.0.2.1', '::c000:201'],
    ['64:ff9b::192.0.2.1', '64:ff9b::c000:201'],
  ] as const)
    t.equal(addressText(bytesOf(given)), text, given);
  for (const given of [
    '',
    '192.0.2',
    '192.0.2.256',
    '192.0.2.01',
    '0300.0.2.1',
    '0x7f.0.0.1',
    '2130706433',
    '192.0.2.1.',
    ' 192.0.2.1',
    '1::2::3',
    '2001:db8::12345',
    '2001:db8::1%eth0',
    'fe80::1%25en0',
    '[::1]',
    '::ffff:192.0.2.01',
    '1:2:3:4:5:6:7:8:9',
    'localhost',
    `${'0'.repeat(60)}::1`,
  ])
    t.equal(parseAddress(given), undefined, given);
  t.equal(addressText(new Uint8Array(7)), '', 'bytes of no address');
});

t.test('reading and writing are each other’s inverse', async () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 16, maxLength: 16 }), (bytes) => {
      const text = addressText(bytes);
      return isIP(text) > 0 && Buffer.from(bytes).equals(Buffer.from(bytesOf(text)));
    }),
  );
  fc.assert(
    fc.property(
      address,
      (text) => addressText(bytesOf(addressText(bytesOf(text)))) === addressText(bytesOf(text)),
    ),
  );
  fc.assert(
    fc.property(
      v4,
      (text) => addressText(bytesOf(`::ffff:${text}`)) === text && addressText(bytesOf(text)) === text,
    ),
  );
});

t.test('nothing that is no address is taken for one', async () => {
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.stringMatching(/^[0-9a-f:.%[\]]{0,50}$/)), (text) => {
      const bytes = parseAddress(text);
      return bytes === undefined
        ? isIP(text) === 0 || text.length > 45 || text.includes('%')
        : isIP(text) > 0;
    }),
    { numRuns: 2000 },
  );
});

t.test('a network holds its addresses and no others, and one family never the other', async (t) => {
  const bits = (text: string): string =>
    [...bytesOf(text)].map((byte) => byte.toString(2).padStart(8, '0')).join('');
  fc.assert(
    fc.property(v4, v4, fc.nat(32), (a, b, width) => {
      const inside = bits(a).slice(96, 96 + width) === bits(b).slice(96, 96 + width);
      return createNetworks([`${a}/${width}`])(b) === inside;
    }),
  );
  fc.assert(
    fc.property(v6, v6, fc.nat(128), (a, b, width) => {
      if (isIP(a) === 4 || isIP(b) === 4) return true;
      const inside = bits(a).slice(0, width) === bits(b).slice(0, width);
      return createNetworks([`${a}/${width}`])(b) === inside;
    }),
  );
  fc.assert(
    fc.property(v4, (text) => !createNetworks(['::/0'])(text) && createNetworks(['0.0.0.0/0'])(text)),
  );
  t.ok(createNetworks(['::ffff:10.0.0.0/104'])('10.9.9.9'), 'a mapped network is one of IPv4');
  t.notOk(createNetworks(['10.0.0.0/8'])(''), 'no address is in none');
  for (const text of [
    '10.0.0.0/33',
    '10.0.0.0/-1',
    '10.0.0.0/8/8',
    '10.0.0.0/',
    '10.0.0.0/8 ',
    'x',
    '::/129',
  ])
    t.throws(() => createNetworks([text]), /neither an address nor a prefix/, text);
});

t.test('a prefix is the same for all of a network', async () => {
  const spread = { v4: [32, 24], v6: [64, 56, 48] };
  fc.assert(
    fc.property(address, (text) => {
      const own = isIP(addressText(bytesOf(text))) === 4 ? spread.v4 : spread.v6;
      return own.every((width) => {
        const prefix = addressPrefix(text, { v4: width, v6: width });
        return createNetworks([prefix])(text) && prefix.endsWith(`/${width}`);
      });
    }),
  );
});

t.test('the fan is the first from the right that no trusted proxy vouches for', async (t) => {
  const read = createTrust(['10.0.0.0/8', '2001:db8:cafe::/48']).addressOf;
  const proxy = Uint8Array.of(10, 0, 0, 1);
  for (const [header, wanted] of [
    ['192.0.2.1', '192.0.2.1'],
    ['198.51.100.9, 192.0.2.1', '192.0.2.1'],
    ['198.51.100.9, 192.0.2.1, 10.0.0.7', '192.0.2.1'],
    ['192.0.2.1, 2001:DB8:CAFE::1, 10.0.0.7', '192.0.2.1'],
    ['10.0.0.3, 10.0.0.2', '10.0.0.3'],
    ['::ffff:192.0.2.1', '192.0.2.1'],
    ['192.0.2.1:4711', '192.0.2.1'],
    ['[2001:db8::1]:4711', '2001:db8::1'],
    ['[2001:db8::1]', '2001:db8::1'],
    [' 192.0.2.1 ', '192.0.2.1'],
    ['192.0.2.1,', '10.0.0.1'],
    ['unknown', '10.0.0.1'],
    ['192.0.2.01', '10.0.0.1'],
    ['fe80::1%eth0', '10.0.0.1'],
    ['192.0.2.1, garbage, 10.0.0.7', '10.0.0.7'],
    ['', '10.0.0.1'],
    [undefined, '10.0.0.1'],
  ] as const)
    t.equal(
      read(proxy, () => header),
      wanted,
      String(header),
    );
  const stranger = Uint8Array.of(192, 0, 2, 99);
  t.equal(
    read(stranger, () => t.fail('a stranger’s header was read') as never),
    '192.0.2.99',
  );
  t.equal(
    createTrust([]).addressOf(proxy, () => '192.0.2.1'),
    '10.0.0.1',
    'nobody is trusted',
  );
});

t.test('two hundred entries and garbage do no harm', async (t) => {
  const read = createTrust(['10.0.0.0/8']).addressOf;
  const proxy = Uint8Array.of(10, 0, 0, 1);
  const own = Array.from({ length: 200 }, (_, index) => `10.1.0.${index}`);
  t.equal(
    read(proxy, () => own.join(', ')),
    '10.1.0.184',
    'followed for sixteen and no further',
  );
  t.equal(
    read(proxy, () => `192.0.2.1, ${own.join(', ')}`),
    '10.1.0.184',
  );
  t.equal(
    read(proxy, () => `${own.join(', ')}, 192.0.2.1`),
    '192.0.2.1',
  );
  fc.assert(
    fc.property(
      fc.array(fc.oneof(address, fc.string(), fc.constant('10.0.0.2')), { maxLength: 200 }),
      (entries) => {
        const found = read(proxy, () => entries.join(','));
        return isIP(found) > 0 && addressText(bytesOf(found)) === found;
      },
    ),
  );
  fc.assert(
    fc.property(fc.array(fc.string(), { maxLength: 20 }), v4, (before, fan) => {
      const wanted = fan.startsWith('10.') ? undefined : fan;
      return wanted === undefined || read(proxy, () => [...before, fan].join(',')) === wanted;
    }),
  );
});

t.test('no header in which others name an address reaches an origin', async (t) => {
  let passed: readonly string[] = [];
  const fetcher: Pick<Fetcher, 'send'> = {
    send: async (ask) => {
      passed = ask.headers;
      return { status: 200, headers: [], body: (async function* () {})() };
    },
  };
  const headers = [...claimedAddressHeaders].map((name): [string, string] => [name, '203.0.113.66']);
  const request: Request = {
    ...{ method: 'GET', path: '/', query: '', params: {}, id: 'r', address: '192.0.2.1', viaProxy: false },
    ...{ trace: readTrace(() => undefined), ids: { requestId: 'r', traceId: '' } },
    ...{ headers, flatHeaders: headers.flat(), body: Buffer.alloc(0), signal: new AbortController().signal },
    header: (name) => headers.find(([known]) => known === name)?.[1],
    cookie: () => undefined,
  };

  await createProxy({ fetcher, metrics: createMetrics({ processMetrics: false }) })({
    ...{ request, origin: 'http://o', path: '/', context: [], setCookies: [] },
    ...{ proto: 'https', timeoutMs: 1000 },
  });
  t.ok(headers.length >= 25);
  t.notMatch(JSON.stringify(passed), '203.0.113.66');
  t.equal(passed[passed.indexOf('x-forwarded-for') + 1], '192.0.2.1');
  t.equal(passed.filter((text) => text === 'x-forwarded-for').length, 1);
});
