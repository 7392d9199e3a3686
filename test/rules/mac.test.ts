// The MAC of everything we sign, against the one of Node.

import { createHmac, randomBytes } from 'node:crypto';
import t from 'tap';
import { createMac } from '../../kernel/mac.ts';

t.test('a MAC is the HMAC-SHA-256 of the message, whatever its length and letters', (t) => {
  for (const keyBytes of [1, 32, 64]) {
    const key = randomBytes(keyBytes);
    const mac = createMac(key);
    const wanted = (message: string) => createHmac('sha256', key).update(message).digest('hex');
    for (let length = 0; length < 700; length += 1) {
      // The lengths around a block of the hash and around the room that is kept ready, in one, two and three bytes.
      for (const letter of ['a', 'é', '€']) {
        const message = letter.repeat(length);
        const got = mac(message).toString('hex');
        if (got !== wanted(message)) t.equal(got, wanted(message), `${length} × ${letter}`);
      }
    }
    t.equal(mac('a lone \ud800 half').toString('hex'), wanted('a lone \ud800 half'));
    const first = mac('one');
    mac('another');
    t.equal(first.toString('hex'), wanted('one'), 'an answer is not written over by the next');
  }
  t.throws(() => createMac(randomBytes(65)), /longer than a block/);
  t.end();
});
