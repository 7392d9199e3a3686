// The bounded memory: what was used lately stays, the rest goes, and it never grows beyond two generations.

import t from 'tap';
import { createRecent } from '../../kernel/recent.ts';

t.test('what was set or asked for lately is there, and no more than two generations are kept', (t) => {
  const recent = createRecent<string, number>(10);
  for (let index = 0; index < 1000; index += 1) {
    recent.set(`key ${index}`, index);
    t.equal(recent.get('kept') ?? recent.set('kept', -1), -1, 'asked for each time, so never forgotten');
    if (recent.size > 20) t.fail(`${recent.size} entries`);
    if (recent.get(`key ${index}`) !== index) t.fail(`key ${index} is gone at once`);
  }
  t.equal(recent.get('key 0'), undefined, 'nobody asked for it');
  recent.set('kept', 5);
  recent.set('kept', 6);
  t.equal(recent.get('kept'), 6, 'the newest value');
  recent.clear();
  t.equal(recent.get('kept'), undefined);
  t.equal(recent.size, 0);
  t.end();
});
