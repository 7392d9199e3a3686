// Anteroom behind the proxies people have, with the files of deploy/: nginx and HAProxy, each carrying everything and
// each in auth mode, where it carries the admitted by itself. All four are real, in front of one real system and one
// origin that keeps what reached it. What is promised is the same through each, so each goes through the same tests.

import { createHash } from 'node:crypto';
import { createServer, type IncomingHttpHeaders } from 'node:http';
import type { AddressInfo } from 'node:net';
import t, { type Test } from 'tap';
import { isPlainPath } from '../../kernel/path.ts';
import { createTokens, parseKeys, type Tokens } from '../../kernel/token.ts';
import { readContext } from '../../line/context.ts';
import { signService } from '../../line/service.ts';
import { openSocket, rawRequest } from '../support/client.ts';
import { eventually } from '../support/eventually.ts';
import { Fan } from '../support/fan.ts';
import type { Front } from '../support/front.ts';
import { startHaproxy } from '../support/haproxy.ts';
import { ambiguousFraming, oddRequestLines, pathTricks, requestText } from '../support/hostile.ts';
import { startNginx } from '../support/nginx.ts';
import { startRedis } from '../support/redis.ts';
import { createSystem, type System, UNHURRIED } from '../support/system.ts';

t.setTimeout(600_000);

type Seen = { method: string; path: string; headers: IncomingHttpHeaders };
const seen: Seen[] = [];
const origin = createServer((request, response) => {
  seen.push({ method: request.method ?? '', path: request.url ?? '', headers: request.headers });
  request.resume();
  request.on('end', () => response.setHeader('anteroom-session', 'keep').end('inside'));
});
origin.on('upgrade', (request, wire) => {
  seen.push({ method: 'UPGRADE', path: request.url ?? '', headers: request.headers });
  const key = `${request.headers['sec-websocket-key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`;
  const accept = createHash('sha1').update(key).digest('base64');
  wire.write(
    `HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: ${accept}\r\n\r\n`,
  );
  wire.write(Buffer.from([0x81, 2, 0x68, 0x69])); // One text frame: hi
});

let system: System;
let stopSystem: () => Promise<unknown>;
let tokens: Tokens;
let service: string;
const fronts: Record<string, Front & { auth: boolean }> = {};
let people = 0;
const fanAt = (front: Front): Fan => {
  people += 1;
  return new Fan({ base: front.base, room: 'shop', index: people });
};
const HTML = { accept: 'text/html,application/xhtml+xml' };
const WANTED = '/shop/seats?row=5&a=%20b';

t.before(async () => {
  await new Promise<void>((resolve) => origin.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    origin.closeAllConnections();
    origin.close();
  });
  // `listen` on a port was awaited, so the address is one of TCP.
  const originAt = `127.0.0.1:${(origin.address() as AddressInfo).port}`;
  const redis = await startRedis(t);
  system = await createSystem(t, {
    ANTEROOM_REDIS_URL: redis.url,
    ANTEROOM_LOG_LEVEL: 'warn',
    ANTEROOM_LEDGER: 'off',
    ANTEROOM_DEMO: 'off',
    ANTEROOM_ROLES: 'gateway,broker,dispatcher,admin',
    ANTEROOM_ADDRESS_PER_SECOND: '10000',
    ANTEROOM_ADDRESS_BURST: '10000',
    ANTEROOM_VISITOR_PER_SECOND: '10000',
    ANTEROOM_VISITOR_BURST: '10000',
  });
  const behind = { gateway: `127.0.0.1:${system.ports.public}`, origin: originAt };
  fronts.nginx = { ...(await startNginx(t, 'anteroom.conf', behind)), auth: false };
  fronts['nginx in auth mode'] = { ...(await startNginx(t, 'anteroom-auth.conf', behind)), auth: true };
  fronts.haproxy = { ...(await startHaproxy(t, 'haproxy.cfg', behind)), auth: false };
  fronts['haproxy in auth mode'] = { ...(await startHaproxy(t, 'haproxy-auth.cfg', behind)), auth: true };
  // A page has one public address; here it has four.
  const bases = Object.values(fronts).map(({ base }) => base);
  const child = await system.start({ env: { ANTEROOM_ALLOWED_ORIGINS: bases.join(',') } });
  stopSystem = () => system.end(child, 'SIGKILL');
  tokens = createTokens({ keys: parseKeys(system.keys)!, issuer: '' });
  service = signService(tokens, { scope: '*', expiresAtMs: Date.now() + 3_600_000 });
  const made = await fetch(`${system.admin}/v1/rooms`, {
    method: 'POST',
    headers: { authorization: `Bearer ${system.operatorToken}`, 'content-type': 'application/json' },
    body: JSON.stringify({
      room: 'shop',
      title: 'Shop',
      routes: ['/shop', '/admin'],
      origin: `http://${originAt}`,
      newUsersPerMinute: 60_000,
      totalActiveUsers: 1000,
      ...UNHURRIED,
    }),
  });
  t.equal(made.status, 201, await made.text());
  await eventually('the room is known', async () => {
    const answers = await Promise.all(bases.map((base) => fetch(`${base}/v1/rooms/shop`)));
    return answers.every(({ status }) => status === 200);
  });
});

/** From the waiting page to the origin; answers who went in. */
const enter = async (t: Test, front: Front, channel: 'sse' | 'socket'): Promise<Fan> => {
  const fan = fanAt(front);
  const count = seen.length;
  const page = await fan.ask('GET', WANTED, { headers: HTML });
  t.equal(page.status, 200);
  t.match(page.headers['content-type'], 'text/html');
  t.equal(page.headers['cache-control'], 'no-store');
  t.notOk('www-authenticate' in page.headers, 'no browser asks for a password');
  t.match(page.text, 'value="/shop/seats?row=5&amp;a=%20b"', 'it knows where to go afterwards');
  const script = /src="(\/rooms\/_\/page-[^"]+)"/.exec(page.text)?.[1] ?? '';
  t.equal((await fan.ask('GET', script)).status, 200, 'with its script');
  const asked = await fan.ask('GET', WANTED);
  t.same([asked.status, asked.json.code], [429, 'session-required'], 'a program is told in its own words');
  t.equal(seen.length, count, 'none of it was seen by the origin');

  const joined = await fan.join();
  t.equal(joined.status, 201, joined.text);
  const turn = await fan.wait(channel);
  if (channel === 'sse') {
    const claimed = await fan.claim('claim' in turn ? turn.claim : '');
    t.equal(claimed.status, 200, claimed.text);
  } else {
    const entered = await fan.ask('POST', '/rooms/shop', {
      raw: new URLSearchParams({ act: 'enter', returnTo: WANTED }).toString(),
      headers: { 'content-type': 'application/x-www-form-urlencoded', origin: front.base },
    });
    t.same([entered.status, entered.headers.location], [303, WANTED], entered.text);
  }
  return fan;
};

for (const name of ['nginx', 'nginx in auth mode', 'haproxy', 'haproxy in auth mode'])
  t.test(`through ${name}`, async (t) => {
    const front = fronts[name]!;
    const insiders: Fan[] = [];

    for (const channel of ['sse', 'socket'] as const)
      await t.test(
        `one waits over ${channel}, gets to the wanted page, and is out when the session ends`,
        async (t) => {
          const fan = await enter(t, front, channel);
          const inside = await fan.ask('GET', WANTED, { headers: HTML });
          t.same([inside.status, inside.text], [200, 'inside']);
          t.notOk('anteroom-session' in inside.headers, 'words for the gateway stay behind');
          t.notOk('anteroom-context' in inside.headers);
          const reached = seen.at(-1)!;
          t.equal(reached.path, WANTED, 'the address arrives as it was sent');
          const { headers } = reached;
          const id = String(headers['anteroom-session-id']);
          const context = readContext(tokens, String(headers['anteroom-context']), Date.now());
          t.equal(`${context?.visit?.placeId}.${context?.visit?.number}`, id);
          t.equal(context?.visitorId, headers['anteroom-visitor']);
          t.equal(headers['anteroom-room'], 'shop');
          t.equal(headers['x-forwarded-for'], '127.0.0.1', 'the address of the socket');
          t.equal(headers['x-forwarded-proto'], 'http');
          t.equal(headers['x-forwarded-host'], `127.0.0.1:${front.port}`);

          const posted = await fan.ask('POST', '/shop/order', { body: { seats: 2 } });
          t.same([posted.status, posted.text], [200, 'inside']);
          t.match(seen.at(-1), { method: 'POST', headers: { 'content-length': '11' } });
          if (channel === 'socket') return insiders.push(fan);

          const ended = await fan.ask('POST', '/v1/rooms/shop/sessions/end', {
            body: { session: id },
            headers: { authorization: `Bearer ${service}` },
          });
          t.equal(ended.status, 204, ended.text);
          const count = seen.length;
          t.match(
            (await fan.ask('GET', WANTED, { headers: HTML })).text,
            'returnTo',
            'the waiting page, at once',
          );
          t.equal(seen.length, count);
        },
      );

    await t.test('what a client says of itself is not believed', async (t) => {
      const fan = insiders[0]!;
      await fan.ask('GET', WANTED);
      const { headers: honest } = seen.at(-1)!;
      const forged = {
        'x-forwarded-for': '6.6.6.6',
        'x-forwarded-host': 'evil.test',
        'x-forwarded-proto': 'https',
        'x-real-ip': '6.6.6.6',
        forwarded: 'for=6.6.6.6',
        'x-original-uri': '/free',
        'x-original-method': 'GET',
        'x-original-host': 'evil.test',
        'x-original-url': '/free',
        'x-rewrite-url': '/free',
        'anteroom-context': String(honest['anteroom-context']),
        'anteroom-visitor': 'a:AAAAAAAAAAAAAAAAAAAAAA',
        'anteroom-room': 'other',
        'anteroom-session-id': 'AAAAAAAAAAAAAAAA.1',
        anteroom_context: 'x',
      };
      const count = seen.length;
      const stranger = fanAt(front);
      const refused = await stranger.ask('GET', WANTED, { headers: forged });
      t.same([refused.status, refused.json.code], [429, 'session-required']);
      t.equal(seen.length, count, 'a stranger stays one, with the context of somebody else');

      t.equal((await fan.ask('GET', WANTED, { headers: forged })).text, 'inside');
      const { headers } = seen.at(-1)!;
      for (const told of ['anteroom-visitor', 'anteroom-room', 'anteroom-session-id', 'x-forwarded-proto'])
        t.equal(headers[told], honest[told], told);
      for (const told of ['x-forwarded-for', 'x-forwarded-host']) t.equal(headers[told], honest[told], told);
      for (const gone of ['x-real-ip', 'forwarded', 'anteroom_context', 'x-rewrite-url'])
        t.notOk(gone in headers, gone);
      for (const told of Object.keys(headers)) t.notMatch(told, /^x-original-/);
      if (front.auth) {
        const free = await stranger.ask('GET', '/free', { headers: forged });
        t.equal(free.text, 'inside', 'what no room guards needs no session');
        for (const told of Object.keys(seen.at(-1)!.headers))
          t.notMatch(told, /^anteroom/, `and reaches the origin without ${told}`);
      }
      for (const base of ['/v1/authorize', '/_anteroom']) {
        const asked = await fanAt(front).ask('GET', base, {
          headers: { ...forged, 'x-original-uri': '/shop' },
        });
        t.notOk('anteroom-context' in asked.headers, `${base} is not for visitors`);
      }
      const elsewhere = await rawRequest(front.port, requestText('evil.test', 'GET /shop HTTP/1.1'));
      t.notMatch(elsewhere.text, 'inside', 'another name is not served');
    });

    await t.test('cookies of the waiting room stay there, those of the origin arrive', async (t) => {
      const { cookie } = insiders[0]!.headers();
      const room = `__Host-ar_r_other=b; ar_r_one=c; ${cookie}`;
      for (const [sent, arrives] of [
        [room, undefined],
        [`shop=1; ${room}; cart=a=b`, 'shop=1; cart=a=b'],
        [`${room}; bar_v=1; cart=ar_v=2`, 'bar_v=1; cart=ar_v=2'],
        [`shop=1; ${room}`, 'shop=1'],
      ] as const) {
        const bytes = requestText(`127.0.0.1:${front.port}`, 'GET /shop HTTP/1.1', `cookie: ${sent}`);
        const { text } = await rawRequest(front.port, bytes);
        t.match(text, 'inside');
        t.equal(seen.at(-1)!.headers.cookie, arrives);
      }
    });

    await t.test('a WebSocket of the origin opens for whoever is inside', async (t) => {
      const open = (fan: Fan) =>
        openSocket(`${front.base}/shop/live`.replace('http', 'ws'), { headers: fan.headers() });
      const socket = await open(insiders[0]!);
      t.equal(socket.answered, 101);
      t.equal(await socket.next(), 'hi');
      socket.close();
      const count = seen.length;
      t.equal((await open(fanAt(front))).answered, 429);
      t.equal(seen.length, count);
    });

    await t.test('nothing ambiguous reaches the protected page', async (t) => {
      const host = `127.0.0.1:${front.port}`;
      const smuggled = requestText(host, 'GET /admin HTTP/1.1');
      const framing = Object.entries(ambiguousFraming(host, '/admin'));
      const strange: [string, string][] = [
        ...framing,
        ...framing.map(([name, bytes]): [string, string] => [`${name}, and one behind it`, bytes + smuggled]),
        ...pathTricks.map((path): [string, string] => [path, requestText(host, `GET ${path} HTTP/1.1`)]),
        ...oddRequestLines.map((line): [string, string] => [line, requestText(host, line)]),
        ['a header without a name', requestText(host, 'POST /admin HTTP/1.1', ': x', 'content-length: 3')],
        ['a tunnel', requestText(host, 'GET /admin HTTP/1.1', 'upgrade: h2c', 'connection: upgrade')],
      ];
      const count = seen.length;
      const othersServed = async () => {
        for (let times = 0; times < 2; times += 1)
          await rawRequest(
            front.port,
            requestText(host, 'GET /v1/rooms/front HTTP/1.1', 'connection: close'),
          );
      };
      await Promise.all(
        strange.map(async ([name, bytes]) => {
          const { text } = await rawRequest(front.port, bytes, { unlessSilent: othersServed });
          t.notMatch(text, /\r\n\r\ninside/, name);
        }),
      );
      t.same(seen.slice(count), [], 'from strangers nothing at all');

      // Whoever is inside may send what they like: what reaches the origin is in its one plain form.
      const cookie = `cookie: ${insiders[0]!.headers().cookie}`;
      await Promise.all(
        pathTricks.map((path) =>
          rawRequest(front.port, requestText(host, `GET ${path} HTTP/1.1`, cookie), {
            unlessSilent: othersServed,
          }),
        ),
      );
      for (const { path } of seen.slice(count)) t.ok(isPlainPath(path), path);
    });
  });

t.test('without a gateway nobody gets through, by any of them', async (t) => {
  const fans = await Promise.all(
    Object.entries(fronts).map(async ([name, front]) => ({ name, fan: await enter(t, front, 'sse') })),
  );
  for (const { name, fan } of fans) t.equal((await fan.ask('GET', WANTED)).text, 'inside', name);
  await stopSystem();
  const count = seen.length;
  for (const { name, fan } of fans) {
    const answer = await fan.ask('GET', WANTED);
    t.ok(answer.status >= 500, `${name} answers ${answer.status}`);
  }
  t.equal(seen.length, count);
});
