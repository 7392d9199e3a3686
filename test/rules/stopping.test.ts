// Stopping: in reverse, one after the other, and nothing keeps the process.

import t from 'tap';
import { createStops } from '../../app/stopping.ts';
import { collect } from '../support/heard.ts';

t.test('parts stop in reverse; one that fails or never ends is logged and passed over', async (t) => {
  const heard = collect();
  const stops = createStops({ stopMs: 600_000, log: heard.log });
  const order: string[] = [];
  const add = (name: string, stop: () => unknown, withinMs?: number): void =>
    stops.add({
      name,
      ...(withinMs === undefined ? {} : { withinMs }),
      stop: () => (order.push(name), stop()),
    });
  add('first', () => undefined);
  add('throws', () => {
    throw new Error('on purpose');
  });
  add('rejects', () => Promise.reject(new Error('on purpose')));
  add('hangs', () => new Promise(() => undefined), 1);
  add('last', async () => undefined);
  await stops.all();
  t.same(order, ['last', 'hangs', 'rejects', 'throws', 'first']);
  t.equal(heard.count('stop-failed'), 2);
  t.equal(heard.count('stop-late'), 1);
});

t.test('a second call stops nothing twice, and waits for the first', async (t) => {
  const stops = createStops({ stopMs: 600_000, log: collect().log });
  const order: string[] = [];
  let end = (): void => undefined;
  stops.add({ name: 'first', stop: () => void order.push('first') });
  stops.add({
    name: 'slow',
    stop: () => {
      order.push('slow');
      return new Promise<void>((resolve) => {
        end = resolve;
      });
    },
  });
  const both = [stops.all(), stops.all().then(() => order.push('second call is over'))];
  t.same(order, ['slow']);
  end();
  await Promise.all(both);
  t.same(order, ['slow', 'first', 'second call is over']);
});
