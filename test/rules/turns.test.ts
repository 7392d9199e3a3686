// Each room's work apart: what fails waits ever longer and holds up nobody, and is named until it works again.

import t from 'tap';
import { createTurns, PAUSE_MS, PAUSE_MS_MAX } from '../../dispatcher/turns.ts';
import { parseRoomId } from '../../kernel/ids.ts';
import { silentLog } from '../../kernel/log.ts';
import { createMetrics } from '../../kernel/metrics.ts';

const [bad, good] = [parseRoomId('bad')!, parseRoomId('good')!];
const start = () => {
  const metrics = createMetrics({ processMetrics: false });
  const time = { nowMs: 0 };
  const turns = createTurns({ log: silentLog, metrics, nowMs: () => time.nowMs });
  let tried = 0;
  const fail = () =>
    turns.attempt(bad, 'room.reap', async () => {
      tried += 1;
      throw new TypeError('an entry that nobody can read');
    });
  const isFailing = async (room: string) =>
    (await metrics.text()).includes(`anteroom_room_failing{room="${room}"} 1`);
  return { turns, time, fail, isFailing, tried: () => tried };
};

t.test(
  'what fails is tried again after twice the pause, up to the longest, and other work goes on',
  async (t) => {
    const { turns, time, fail, isFailing, tried } = start();
    let pauseMs = PAUSE_MS;
    for (let times = 1; times <= 8; times += 1) {
      t.equal(await fail(), undefined);
      t.equal(tried(), times);
      time.nowMs += pauseMs - 1;
      await fail();
      t.equal(tried(), times, `not before ${pauseMs} ms`);
      t.equal(await turns.attempt(bad, 'room.promote', async () => 'done'), 'done', 'other work of the room');
      t.equal(await turns.attempt(good, 'room.reap', async () => 'done'), 'done', 'the same work of others');
      time.nowMs += 1;
      pauseMs = Math.min(PAUSE_MS_MAX, 2 * pauseMs);
    }
    t.same(turns.failing(), ['bad room.reap']);
    t.same([await isFailing('bad'), await isFailing('good')], [true, false]);
    t.equal(await turns.attempt(bad, 'room.reap', async () => 'done'), 'done');
    t.same(turns.failing(), []);
    t.equal(await isFailing('bad'), false);
  },
);

t.test(
  'a server that is away is nobody’s failing, and when it is back everything is tried at once',
  async (t) => {
    const { turns, fail, tried } = start();
    await t.rejects(
      turns.attempt(good, 'room.promote', () => Promise.reject(new Error('Connection is closed.'))),
      /Connection is closed/,
    );
    t.same(turns.failing(), []);
    await fail();
    await fail();
    t.equal(tried(), 1);
    turns.reset();
    await fail();
    t.equal(tried(), 2);
  },
);
