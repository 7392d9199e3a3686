// The address of Redis, read once at the edge: what it says, what is refused, and that no message holds a secret.

import t from 'tap';
import { ConfigFault, readConfig } from '../../kernel/config.ts';
import { parseRedisPlace, withoutSecret } from '../../kernel/redis-url.ts';

t.test('an address of sentinels names them, the primary, the database and who we are', async (t) => {
  t.same(parseRedisPlace('redis+sentinel://fan:p%40ss@a:26379,b.example:26380,[::1]:26381/anteroom/3'), {
    outcome: 'ok',
    place: {
      kind: 'sentinels',
      nodes: [
        { host: 'a', port: 26379 },
        { host: 'b.example', port: 26380 },
        { host: '::1', port: 26381 },
      ],
      name: 'anteroom',
      username: 'fan',
      password: 'p@ss',
      db: 3,
    },
  });
  t.match(
    parseRedisPlace('redis+sentinel://:secret@a,b,c/anteroom'),
    {
      outcome: 'ok',
      place: { nodes: [{ port: 26379 }, {}, {}], username: undefined, password: 'secret', db: 0 },
    },
    'ports, user and database may be left out',
  );
});

t.test('an address of one server, or a path, stays as it is', async (t) => {
  for (const url of [
    'redis://127.0.0.1:6379',
    'rediss://u:p@cache.example:6380/2',
    '/run/anteroom/redis.sock',
  ])
    t.same(parseRedisPlace(url), { outcome: 'ok', place: { kind: 'server', url } });
});

t.test('a bad address is one more fault at start, and is never quoted', async (t) => {
  const bad = [
    ['redis+sentinel://a:26379,b:26379', /names no primary/],
    ['redis+sentinel://a:26379/', /names no primary/],
    ['redis+sentinel://a:26379/two words', /names no primary/],
    ['redis+sentinel:///anteroom', /number 1/],
    ['redis+sentinel://a,,b/anteroom', /number 2/],
    ['redis+sentinel://a:0/anteroom', /number 1/],
    ['redis+sentinel://a:65536/anteroom', /number 1/],
    ['redis+sentinel://a/anteroom/first', /database/],
    ['redis+sentinel://a/anteroom/0/1', /database/],
    ['redis+sentinel://u:%hunter2@a/anteroom', /%-escape/],
    [`redis+sentinel://${Array.from({ length: 17 }, () => 'a').join(',')}/anteroom`, /more than 16/],
    ['http://u:hunter2@a', /must begin with/],
    ['localhost:6379', /must begin with/],
  ] as const;
  for (const [url, says] of bad) {
    const parsed = parseRedisPlace(url);
    t.match(parsed.outcome === 'fault' ? parsed.says : '', says, url);
    t.throws(() => readConfig({ ANTEROOM_REDIS_URL: url }), ConfigFault);
    try {
      readConfig({ ANTEROOM_REDIS_URL: url });
    } catch (error) {
      t.match(String(error), /ANTEROOM_REDIS_URL/);
      t.notMatch(String(error), /hunter2/);
    }
  }
});

t.test('a message never holds the secret part of an address', async (t) => {
  for (const url of [
    'redis://:hunter2@a:6379/1',
    'redis://u:hunt/hunter2@a:6379',
    'redis://u:h@hunter2@a:6379',
    'redis+sentinel://u:hunter2@a:1,b:2/anteroom',
    'redis://a:6379?password=hunter2',
  ])
    t.notMatch(withoutSecret(url), /hunter2/);
  t.equal(withoutSecret('redis+sentinel://u:p@a:1,b:2/anteroom'), 'redis+sentinel://a:1,b:2/anteroom');
});
