// The browser client in Firefox: joins, hears its position, moves, is told that it is its turn, and enters; from the
// waiting page of the gateway, and from a page of another site. `npm run test:firefox` installs Firefox and runs this.

import t from 'tap';
import { openStream } from '../support/client.ts';
import { eventually } from '../support/eventually.ts';
import { startExamplePages } from '../support/example-page.ts';
import { openFirefox } from '../support/firefox.ts';
import { type Room, startGateways } from '../support/gateways.ts';

t.setTimeout(900_000);

const examples = await startExamplePages(t);
const gates = await startGateways(t, {
  count: 1,
  streams: true,
  env: { ANTEROOM_ALLOWED_ORIGINS: `${examples.near},${examples.far}` },
});
const base = gates.bases[0]!;
examples.show(base);
const { tab, version } = await openFirefox(t);
t.comment(`Firefox ${version}`);

/** One is ahead, present over a stream of their own; one goes in with each promotion. */
const openRoom = async (name: string): Promise<Room> => {
  const room = await gates.open(name, { burst: 1 });
  const ahead = gates.fan(room);
  await ahead.join();
  const stream = await openStream(`${base}/v1/rooms/${name}/events`, { headers: ahead.headers() });
  t.teardown(() => stream.close());
  await stream.next();
  await room.measure();
  return room;
};
const promote = async (room: Room): Promise<void> => {
  await room.promote();
  await room.measure();
};
const shows = (selector: string, words: string): Promise<void> =>
  eventually(
    `${selector} says ${words}`,
    async () =>
      String(await tab.evaluate(`document.querySelector('${selector}').textContent`)).includes(words),
    20_000,
  );

t.test('the waiting page waits, moves, and goes in', async () => {
  const room = await openRoom('fox');
  await tab.goto(`${base}/rooms/fox?returnTo=${room.path}`);
  await shows('#connection-words', 'Live');
  await shows('#big', '2');
  await promote(room);
  await shows('#big', '1');
  await promote(room);
  await shows('body', 'inside');
});

t.test('a page of another site waits, keeps its place, and enters with a pass', async (t) => {
  const room = await openRoom('abroad');
  await tab.goto(`${examples.far}/abroad`);
  await shows('#connection', 'live (events)');
  await shows('#position', 'number 2');
  await tab.goto(`${examples.far}/abroad`);
  await shows('#connection', 'live (events)');
  await shows('#position', 'number 2');
  await promote(room);
  await shows('#position', 'number 1');
  await promote(room);
  await shows('#said', 'It is your turn.');
  const entered = await tab.evaluate(
    "new Promise((done) => { document.addEventListener('entered', (event) => done(event.detail), { once: true }); document.getElementById('enter').click(); })",
  );
  t.match(entered, { outcome: 'entered', pass: /^[\w-]+\.[\w-]+\.[\w-]+$/ });
});
