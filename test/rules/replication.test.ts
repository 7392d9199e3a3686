// Which history of Redis a room lives in, as a dispatcher sees it: what it remembers, what it reads, how often it asks.

import t from 'tap';
import { memoryAfter, replicationIn, textOf } from '../../dispatcher/replication.ts';
import { defaultSettings } from '../../line/settings.ts';

const read = (more: object = {}) => ({
  head: 10,
  nextNumber: 20,
  epoch: 1,
  atMs: 1000,
  waiting: 5,
  parked: 2,
  settings: defaultSettings,
  ...more,
});

t.test('within an epoch and a sale what is remembered only grows; a new one begins anew', async (t) => {
  const first = memoryAfter(undefined, read());
  t.same(first, { head: 10, nextNumber: 20, epoch: 1, sale: defaultSettings.sale, atMs: 1000, waiting: 7 });
  t.match(
    memoryAfter(first, read({ head: 8, nextNumber: 18, atMs: 2000 })),
    { head: 10, nextNumber: 20, atMs: 2000 },
    'a server that lacks something does not make us forget it',
  );
  t.match(memoryAfter(first, read({ head: 8, nextNumber: 18, epoch: 2 })), {
    head: 8,
    nextNumber: 18,
    epoch: 2,
  });
  const sale = { ...defaultSettings, sale: defaultSettings.sale + 1 };
  t.match(memoryAfter(first, read({ head: -5, nextNumber: 0, settings: sale })), { head: -5, nextNumber: 0 });
});

t.test('a room in which nothing happens is not written again', async (t) => {
  const first = memoryAfter(undefined, read());
  t.equal(textOf(memoryAfter(first, read({ atMs: 9000 }))), textOf(first));
  t.not(textOf(memoryAfter(first, read({ waiting: 6 }))), textOf(first));
});

t.test('the id is that of a primary; a replica carries the id of another', async (t) => {
  const id = '0123456789abcdef0123456789abcdef01234567';
  const info = (role: string, before: string) =>
    `# Replication\r\nrole:${role}\r\nconnected_slaves:0\r\nmaster_replid:${id}\r\nmaster_replid2:${before}\r\n`;
  const other = id.split('').reverse().join('');
  t.same(replicationIn(info('master', '0'.repeat(40))), { id, before: '' });
  t.same(replicationIn(info('master', other)), { id, before: other }, 'one that took over says from whom');
  t.same(replicationIn(info('master', 'x')), { id, before: '' });
  t.equal(replicationIn(info('slave', other)), undefined);
  t.equal(replicationIn('role:master\r\n'), undefined);
  t.equal(replicationIn(''), undefined);
});
