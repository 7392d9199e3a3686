// The crowd is bounded and goes to this machine only.

import t from 'tap';
import { isOwnMachine, readCrowdOptions } from '../../bench/crowd-options.ts';
import { loopbackAddress } from '../../bench/fan.ts';

t.test('the crowd goes to this machine and to no other', async (t) => {
  for (const base of ['http://127.0.0.1:8080', 'http://127.9.8.7', 'http://[::1]:80', 'http://localhost:1'])
    t.ok(isOwnMachine(base), base);
  for (const base of [
    'http://example.com',
    'http://127.0.0.1.example.com',
    'http://localhost.example.com',
    'http://127.0.0.1@example.com',
    'http://10.0.0.1',
    'http://0.0.0.0',
    'http://[::2]',
    'https://127.0.0.1',
    'ftp://127.0.0.1',
    'nonsense',
    '',
  ])
    t.notOk(isOwnMachine(base), base);
  t.throws(() => readCrowdOptions(['--base', 'http://example.com']), /on this machine/);
});

t.test('fans, seconds and rate are bounded, and unknown options are refused', async (t) => {
  t.match(readCrowdOptions([]), { fans: 2000, seconds: 600, rate: 200, room: 'demo' });
  t.match(readCrowdOptions(['--fans', '5', '--base', 'http://localhost:9/']), {
    fans: 5,
    base: 'http://localhost:9',
  });
  for (const given of [
    ['--fans', '0'],
    ['--fans', '15001'],
    ['--fans', '1e3'],
    ['--fans'],
    ['--seconds', '7201'],
    ['--rate', '-1'],
    ['--room', '../x'],
    ['--loud', '1'],
  ])
    t.throws(() => readCrowdOptions(given), given.join(' '));
});

t.test('each fan has an address of its own', async (t) => {
  const addresses = Array.from({ length: 15_000 }, (_, index) => loopbackAddress(index));
  t.equal(new Set(addresses).size, 15_000);
  for (const address of addresses) if (!/^127(\.([1-9]\d{0,2})){3}$/.test(address)) t.fail(address);
});
