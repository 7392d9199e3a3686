// Which room guards an address. The index is compared with a plain reading of the rules, over random rooms; and what
// hosts and paths may look like is written out by hand.

import fc from 'fast-check';
import t from 'tap';
import { parseRoomId, type RoomId } from '../../kernel/ids.ts';
import { isPlainPath } from '../../kernel/path.ts';
import { hostOf, indexRoutes, isBelow, parseRoute, routeOf, routeText } from '../../line/routes.ts';
import { parseSettings } from '../../line/settings.ts';
import { seedOf } from '../support/random.ts';

fc.configureGlobal({ seed: seedOf(t, 1) });

const room = (name: string): RoomId => parseRoomId(name)!;
const index = (rooms: Record<string, string[]>) =>
  indexRoutes(Object.entries(rooms).map(([name, routes]) => [room(name), routes]));

t.test('the longest prefix wins, whatever order the rooms come in', async (t) => {
  const rooms = { all: ['/'], shop: ['/shop'], sale: ['/shop/sale'] };
  for (const routes of [index(rooms), index(Object.fromEntries(Object.entries(rooms).reverse()))])
    for (const [path, wanted] of [
      ['/', 'all'],
      ['/other', 'all'],
      ['/shopping', 'all'],
      ['/shop', 'shop'],
      ['/shop/', 'shop'],
      ['/shop/sales', 'shop'],
      ['/shop/sale', 'sale'],
      ['/shop/sale/1/2/3', 'sale'],
    ] as const)
      t.equal(routes.guarding('tickets.example', path)?.room, wanted, path);
  t.equal(index({ shop: ['/shop'] }).guarding('', '/'), undefined);
  t.equal(index({}).guarding('tickets.example', '/shop'), undefined);
});

t.test('of one prefix the exact host wins, then the nearest `*.`, then any host', async (t) => {
  const routes = index({
    any: ['/s'],
    wide: ['*.example/s'],
    near: ['*.tickets.example/s'],
    exact: ['www.tickets.example/s'],
    long: ['/s/long'],
  });
  for (const [host, wanted] of [
    ['www.tickets.example', 'exact'],
    ['m.tickets.example', 'near'],
    ['a.b.tickets.example', 'near'],
    ['tickets.example', 'wide'],
    ['example', 'any'],
    ['', 'any'],
    ['127.0.0.1', 'any'],
    ['nottickets.example', 'wide'],
  ] as const)
    t.equal(routes.guarding(host, '/s/x')?.room, wanted, host);
  t.equal(routes.guarding('www.tickets.example', '/s/long/x')?.room, 'long', 'a longer prefix comes first');
  t.equal(index({ b: ['/s'], a: ['/s'] }).guarding('', '/s')?.room, 'a', 'two rooms of one route: by name');
});

t.test('no case of letters is a door beside the room, and the prefix that matched is as long', async (t) => {
  const routes = index({ sale: ['tickets.example/Sale'] });
  for (const path of ['/sale', '/SALE/x', '/Sale', '/sAlE/Y']) {
    const found = routes.guarding('tickets.example', path);
    t.equal(found?.room, 'sale', path);
    t.equal(path.slice(found?.prefix.length).toLowerCase(), path.toLowerCase().replace('/sale', ''));
  }
});

t.test('the name in a Host header is read without case, port and trailing dot', async (t) => {
  for (const [header, wanted] of [
    ['Tickets.Example', 'tickets.example'],
    ['tickets.example:8443', 'tickets.example'],
    ['tickets.example.', 'tickets.example'],
    ['tickets.example.:443', 'tickets.example'],
    ['tickets.example:', 'tickets.example'],
    ['xn--bcher-kva.example', 'xn--bcher-kva.example'],
    ['192.0.2.1:80', '192.0.2.1'],
    ['[2001:DB8::1]:80', '[2001:db8::1]'],
    ['[::1]', '[::1]'],
    ['', ''],
    [undefined, ''],
  ] as const)
    t.equal(hostOf(header), wanted, String(header));
  for (const header of [
    'a b',
    'user@tickets.example',
    'tickets.example/x',
    'tickets.example:80:80',
    'tickets.example:x',
    'tickets.example,evil.example',
    'tickets%2eexample',
    'bücher.example',
    '[::1',
    '[zone%eth0]',
    `${'a'.repeat(254)}.example`,
    'tickets.example\u0000',
  ])
    t.equal(hostOf(header), undefined, header);
});

t.test('routes of settings are kept in one form, and what cannot be one is refused in words', async (t) => {
  const read = parseSettings({
    routes: ['Bücher.Example/Größe/', 'TICKETS.example./', '*.Tickets.example/a/', '[2001:DB8::1]/x', '/'],
  });
  t.match(read, {
    outcome: 'ok',
    settings: {
      routes: [
        'xn--bcher-kva.example/Gr%C3%B6%C3%9Fe',
        'tickets.example/',
        '*.tickets.example/a',
        '[2001:db8::1]/x',
        '/',
      ],
    },
  });
  if (read.outcome === 'ok')
    t.same(parseSettings(read.settings), read, 'reading what was kept changes nothing');
  for (const [route, says] of [
    ['tickets.example:8080/x', /port/],
    ['[::1]:80/x', /port/],
    ['https://tickets.example/x', /https/],
    ['/buy/*', /`\*`/],
    ['tickets.example', /such as/],
    ['tick ets.example/x', /name/],
    ['*tickets.example/x', /name/],
    ['a..b/x', /name/],
    ['-a.example/x', /name/],
    ['/a//b', /plain form/],
    ['/a/../b', /plain form/],
    ['/%61', /plain form/],
    ['/a;b', /plain form/],
    [`/${'a'.repeat(201)}`, /plain form/],
    [7, /such as/],
  ] as const) {
    const fault = parseSettings({ routes: [route] });
    t.match(fault, { outcome: 'faults', faults: [{ field: 'routes', says }] }, String(route));
  }
});

const label = fc.constantFrom('a', 'B', 'c1', 'sale');
const anyHost = fc.oneof(
  fc.constant(''),
  fc
    .array(fc.constantFrom('a', 'b', 'example'), { minLength: 1, maxLength: 4 })
    .map((parts) => parts.join('.')),
);
const anyPath = fc.array(label, { maxLength: 4 }).map((parts) => `/${parts.join('/')}`);
const anyRoute = fc
  .tuple(anyHost, fc.boolean(), anyPath)
  .map(([host, wild, path]) => `${wild && host !== '' ? '*.' : ''}${host}${path}`);

t.test('the index answers what reading all routes one by one would', async () => {
  const rooms = fc.array(fc.array(anyRoute, { maxLength: 3 }), { maxLength: 6 });
  const slowly = (routes: string[][], host: string, path: string): string | undefined => {
    const all = routes.flatMap((texts, at) => texts.map((text) => ({ ...routeOf(text), room: `r${at}` })));
    const fits = all.filter(
      (route) =>
        isBelow(path.toLowerCase(), route.prefix.toLowerCase()) &&
        (route.host === '' ||
          route.host === host ||
          (route.host.startsWith('*.') && host.endsWith(route.host.slice(1)))),
    );
    const rank = (route: (typeof all)[number]): number =>
      route.prefix.length * 10_000 + (route.host === host ? 1000 : 0) + route.host.length;
    return fits.sort((a, b) => rank(b) - rank(a) || (a.room < b.room ? -1 : 1))[0]?.room;
  };
  fc.assert(
    fc.property(rooms, anyHost, anyPath, (routes, host, path) => {
      const indexed = indexRoutes(routes.map((texts, at) => [room(`r${at}`), texts]));
      return indexed.guarding(host, path)?.room === slowly(routes, host, path);
    }),
    { numRuns: 2000 },
  );
});

t.test('every route that is taken is in plain form and comes back the same', async () => {
  fc.assert(
    fc.property(fc.oneof(anyRoute, fc.string({ maxLength: 30 }), fc.webUrl()), (text) => {
      const route = parseRoute(text);
      if (typeof route === 'string') return true;
      const again = parseRoute(routeText(route));
      return isPlainPath(route.prefix || '/') && JSON.stringify(again) === JSON.stringify(route);
    }),
    { numRuns: 2000 },
  );
});
