// What commonly goes wrong with an installation, worked out from its configuration, its rooms and what its addresses
// answer. Pure: scripts/doctor.ts gathers the facts and prints. A finding is a code that does not change, and a sentence
// that says what to do. `error` means that people get past the line, or cannot get in; `warning` that they may; `note`
// that somebody should know.

import type { Config } from '../kernel/config.ts';
import type { RoomId } from '../kernel/ids.ts';
import type { BypassRule } from './bypass.ts';
import { indexRoutes, isBelow, openBookingPaths, type Route, routeOf } from './routes.ts';
import { burstOf, parseSettings, readStoredSettings, type Settings } from './settings.ts';

export type Severity = 'error' | 'warning' | 'note';

/** Code → how bad it is. docs/operate.md explains how to run the check, and each finding what to do. */
export const findingTable = {
  // The installation
  'redis-unreachable': 'error',
  'database-unreachable': 'error',
  'room-not-applied': 'error',
  'stores-embedded': 'warning',
  'public-url-missing': 'error',
  'public-url-plain': 'warning',
  'proxies-missing': 'error',
  'proxies-everyone': 'error',
  'listens-everywhere': 'warning',
  'operator-token-short': 'warning',
  'limit-crowd': 'warning',
  'origin-foreign-site': 'warning',
  'default-origin-loop': 'error',
  // A room
  'settings-invalid': 'error',
  'route-none': 'warning',
  'route-same': 'error',
  'route-twice': 'warning',
  'route-inside': 'note',
  'route-open': 'error',
  'route-asset': 'warning',
  'route-host-other': 'warning',
  'route-host-beside': 'warning',
  'origin-loop': 'error',
  'identity-keyless': 'error',
  'identity-anonymous-keys': 'note',
  'nobody-enters': 'warning',
  'nobody-waits': 'warning',
  'closed-past': 'warning',
  'cap-limits': 'note',
  'burst-above-cap': 'warning',
  'claim-short': 'warning',
  'redis-gone-closed': 'note',
  'bypass-everything': 'error',
  'bypass-unreachable': 'warning',
  'bypass-keyless': 'warning',
  'bypass-proxied': 'error',
  // A page that was asked for
  'page-unreachable': 'error',
  'page-not-guarded': 'error',
  'page-asset-broken': 'error',
  'page-headers-missing': 'warning',
  'asset-nowhere': 'error',
  'asset-other-room': 'error',
} as const satisfies Record<string, Severity>;

export type FindingCode = keyof typeof findingTable;
export type Finding = { code: FindingCode; severity: Severity; room: string; says: string };

export type RoomFacts = {
  room: RoomId;
  /** As stored; parsed here. */
  settings: unknown;
  /** Undefined where there is only one of the stores to read. */
  version?: number;
  versionInRedis?: number | undefined;
};

/** What came back for the address of a page, asked for as a browser without a session. */
export type PageFacts = {
  url: string;
  status: number;
  isWaitingPage: boolean;
  headers: ReadonlyMap<string, string>;
  /** Styles, scripts and pictures of the answer, and what each of them answered. */
  assets: readonly { path: string; status: number }[];
  /** Paths of styles, scripts and pictures that the page at the origin asks for on the same host. */
  originAssets: readonly string[];
};

export type Facts = {
  config: Config;
  redis: 'reached' | 'unreachable';
  /** `unread` where Redis alone is asked. */
  database: 'reached' | 'unreachable' | 'unread';
  rooms: readonly RoomFacts[];
  page?: PageFacts;
  nowMs: number;
};

type Say = (code: FindingCode, says: string, room?: string) => void;

const isLoopback = (host: string): boolean =>
  /^(?:localhost|127\.\d+\.\d+\.\d+|\[?::1\]?)$/.test(host.toLowerCase());
const urlOf = (text: string): URL | undefined => (URL.canParse(text) ? new URL(text) : undefined);
const CROWD = 1000;
const CLAIM_SECONDS_MIN = 30;

/** Two addresses that end at our own public port. */
const isOurselves = (address: string, config: Config): boolean => {
  const url = urlOf(address);
  if (url === undefined) return false;
  const own = urlOf(config.publicUrl);
  if (own !== undefined && url.host === own.host) return true;
  const port = url.port === '' ? (url.protocol === 'https:' ? 443 : 80) : Number(url.port);
  const here = isLoopback(url.hostname) || url.hostname === config.host;
  return here && port === config.publicPort;
};

const examineInstallation = ({ config, redis, database }: Facts, say: Say): void => {
  const publicUrl = urlOf(config.publicUrl);
  if (redis === 'unreachable')
    say('redis-unreachable', 'Redis cannot be reached: start it, or correct ANTEROOM_REDIS_URL.');
  if (database === 'unreachable')
    say('database-unreachable', 'PostgreSQL cannot be reached: start it, or correct ANTEROOM_DATABASE_URL.');
  if (config.environment === 'production' && (config.redisUrl === '' || config.databaseUrl === ''))
    say(
      'stores-embedded',
      'Embedded stores serve one process on one machine: set ANTEROOM_REDIS_URL and ANTEROOM_DATABASE_URL.',
    );
  if (publicUrl === undefined) {
    if (!isLoopback(config.host))
      say('public-url-missing', 'Set ANTEROOM_PUBLIC_URL to the address fans type: cookies follow from it.');
  } else if (publicUrl.protocol === 'http:' && !isLoopback(publicUrl.hostname))
    say(
      'public-url-plain',
      'Fans come by plain http, so cookies are neither `Secure` nor `__Host-`: serve https and set ANTEROOM_PUBLIC_URL to it.',
    );
  // We speak plain HTTP, so something in front ends TLS, and every request comes from it.
  if (publicUrl?.protocol === 'https:' && config.tlsCert === '' && config.trustedProxies.length === 0)
    say(
      'proxies-missing',
      'A proxy ends TLS in front of Anteroom and is not trusted, so all fans share its address and its limit: name it in ANTEROOM_TRUSTED_PROXIES.',
    );
  if (config.trustedProxies.some((text) => /\/0$/.test(text)))
    say(
      'proxies-everyone',
      'ANTEROOM_TRUSTED_PROXIES trusts everybody, so anyone can choose an address: name your proxies alone.',
    );
  if (config.environment === 'production' && (config.host === '0.0.0.0' || config.host === '::'))
    say(
      'listens-everywhere',
      'Every port listens on all addresses, the admin, booking and metrics ports too: let a firewall keep all but the public one.',
    );
  if (config.operatorToken !== '' && config.operatorToken.length < 32)
    say(
      'operator-token-short',
      'ANTEROOM_OPERATOR_TOKEN can be guessed: give it 32 or more random characters.',
    );
  if (config.addressBurst < CROWD)
    say(
      'limit-crowd',
      `ANTEROOM_ADDRESS_BURST is ${config.addressBurst}: a carrier hides thousands behind one address, so set it to ${CROWD} or more.`,
    );
  // Two labels are a guess at the site, and err towards silence (`co.uk`).
  for (const origin of config.allowedOrigins) {
    const [foreign, own] = [urlOf(origin)?.hostname, publicUrl?.hostname];
    if (foreign === undefined || own === undefined) continue;
    const site = (host: string): string => host.split('.').slice(-2).join('.');
    if (site(foreign) !== site(own))
      say(
        'origin-foreign-site',
        `${origin} is of another site, and browsers keep our cookies from its requests: let its pages keep receipt and tokens themselves.`,
      );
  }
  if (config.defaultOrigin !== '' && isOurselves(config.defaultOrigin, config))
    say('default-origin-loop', 'ANTEROOM_DEFAULT_ORIGIN is Anteroom itself: name the server behind it.');
};

type Room = { room: RoomId; settings: Settings; routes: readonly Route[] };

/** Why a rule lets nearly everyone through; undefined when it names somebody. */
const everyoneBy = (rule: BypassRule, routes: readonly Route[]): string | undefined => {
  const names =
    rule.claims !== undefined || rule.headers?.some(({ sha256 }) => sha256 !== undefined) === true;
  if (names) return undefined;
  if (rule.addresses !== undefined)
    return rule.addresses.some((text) => /\/[0-7]$/.test(text))
      ? 'its networks hold whole continents'
      : undefined;
  const covers = (rule.paths ?? ['/']).some((path) =>
    routes.some(({ prefix }) => isBelow(prefix, path === '/' ? '' : path)),
  );
  if (!covers || (rule.methods !== undefined && !rule.methods.includes('GET'))) return undefined;
  return rule.headers !== undefined
    ? 'anybody can send the header it asks for'
    : 'its paths cover a whole route of the room';
};

const examineBypass = ({ config }: Facts, { room, settings, routes }: Room, say: Say): void => {
  for (const rule of settings.bypass) {
    const everyone = everyoneBy(rule, routes);
    if (everyone !== undefined)
      say(
        'bypass-everything',
        `The rule ${rule.name} lets nearly everyone past the line: ${everyone}.`,
        room,
      );
    const within = (path: string): boolean =>
      routes.some(({ prefix }) => isBelow(path, prefix) || isBelow(prefix, path === '/' ? '' : path));
    if (rule.paths !== undefined && !rule.paths.some(within))
      say(
        'bypass-unreachable',
        `The rule ${rule.name} names no path that this room guards: mind the case of letters, or drop it.`,
        room,
      );
    if (rule.claims !== undefined && config.jwksUrl === '' && config.jwksFile === '')
      say(
        'bypass-keyless',
        `The rule ${rule.name} asks for claims, and no user token can be verified: set ANTEROOM_USER_JWKS_URL.`,
        room,
      );
    const proxied = config.trustedProxies.length === 0 && config.publicUrl.startsWith('https:');
    if (rule.addresses !== undefined && proxied)
      say(
        'bypass-proxied',
        `The rule ${rule.name} goes by addresses, and all requests seem to come from the proxy: name it in ANTEROOM_TRUSTED_PROXIES first.`,
        room,
      );
  }
};

const ASSET =
  /\.(?:css|js|mjs|png|jpe?g|gif|svg|webp|avif|ico|woff2?)$|\/(?:assets|static|images?|img|css|js|fonts)$/i;

const examineRoutes = ({ config }: Facts, { room, settings, routes }: Room, say: Say): void => {
  if (routes.length === 0)
    say('route-none', 'The room guards nothing: give it routes, unless another proxy asks for it.', room);
  const publicHost = urlOf(config.publicUrl)?.hostname;
  for (const [index, { host, prefix }] of routes.entries()) {
    const text = settings.routes[index]!;
    const same = (other: Route): boolean =>
      other.prefix.toLowerCase() === prefix.toLowerCase() && (other.host === host || other.host === '');
    if (routes.some((other, at) => at !== index && (at < index || other.host !== host) && same(other)))
      say(
        'route-twice',
        `The route ${text} is covered by another of the room (case does not count): drop one.`,
        room,
      );
    const open = openBookingPaths.find((path) => prefix !== '' && isBelow(prefix.toLowerCase(), path));
    if (open !== undefined)
      say(
        'route-open',
        `The route ${text} is never guarded: ${open} is open to everyone. Choose another path.`,
        room,
      );
    if (ASSET.test(prefix))
      say(
        'route-asset',
        `The route ${text} guards styles, scripts or pictures: pages outside of the room cannot load them. Serve them from elsewhere, or let them pass by a rule.`,
        room,
      );
    if (host === '') continue;
    if (
      publicHost !== undefined &&
      host !== publicHost &&
      !(host.startsWith('*.') && publicHost.endsWith(host.slice(1)))
    )
      say(
        'route-host-other',
        `The route ${text} is on another host than ANTEROOM_PUBLIC_URL, and cookies belong to a host: take sessions there by a pass.`,
        room,
      );
    if (config.defaultOrigin !== '')
      say(
        'route-host-beside',
        `The route ${text} guards one host, and requests that name another host go to ANTEROOM_DEFAULT_ORIGIN without a session: let that refuse hosts it does not know, or drop the host from the route.`,
        room,
      );
  }
};

const examineRoom = (facts: Facts, known: Room, say: Say): void => {
  const { config, nowMs } = facts;
  const { room, settings } = known;
  examineRoutes(facts, known, say);
  examineBypass(facts, known, say);
  if (settings.origin !== 'booking-core' && isOurselves(settings.origin, config))
    say(
      'origin-loop',
      'The origin is Anteroom itself, so every request would go round: name the server behind it.',
      room,
    );
  const keyless = config.jwksUrl === '' && config.jwksFile === '';
  if (settings.identity === 'required' && keyless)
    say(
      'identity-keyless',
      'The room asks for a verified user, and no user token can be verified: set ANTEROOM_USER_JWKS_URL.',
      room,
    );
  if (settings.identity === 'anonymous' && !keyless)
    say(
      'identity-anonymous-keys',
      'The room does not look at user tokens, so signing in gives nobody their place back.',
      room,
    );
  const stopped = settings.suspended
    ? 'it is suspended'
    : settings.queueAll
      ? 'everyone queues (queueAll)'
      : settings.queueingMethod === 'reject'
        ? 'queueingMethod is reject'
        : undefined;
  if (stopped !== undefined) say('nobody-enters', `Nobody goes in: ${stopped}.`, room);
  if (settings.queueingMethod === 'passthrough')
    say('nobody-waits', 'Nobody waits: queueingMethod is passthrough.', room);
  if (settings.closesAt !== 0 && settings.closesAt <= nowMs)
    say('closed-past', 'closesAt has passed, so nobody can join: move it, or begin the next sale.', room);
  const perMinute = Math.floor((settings.totalActiveUsers * 60) / settings.absoluteSessionSeconds);
  if (perMinute < settings.newUsersPerMinute)
    say(
      'cap-limits',
      `If everyone stays for absoluteSessionSeconds, the cap lets in ${perMinute} a minute and not ${settings.newUsersPerMinute}.`,
      room,
    );
  if (burstOf(settings) > settings.totalActiveUsers)
    say(
      'burst-above-cap',
      'The burst is larger than totalActiveUsers: lower it, the cap holds it anyway.',
      room,
    );
  if (settings.claimSeconds < CLAIM_SECONDS_MIN)
    say(
      'claim-short',
      `claimSeconds is ${settings.claimSeconds}: a phone in a pocket wakes later. Give ${CLAIM_SECONDS_MIN} or more.`,
      room,
    );
  if (settings.whenRedisIsGone === 'closed')
    say(
      'redis-gone-closed',
      'While Redis is away nobody passes, people at the checkout included; `bounded` lets those pass who were inside.',
      room,
    );
};

const examineOverlaps = (rooms: readonly Room[], say: Say): void => {
  const all = rooms.flatMap(({ room, routes }) => routes.map((route) => ({ ...route, room })));
  for (const [index, one] of all.entries())
    for (const other of all.slice(index + 1)) {
      if (one.room === other.room || one.host !== other.host) continue;
      const [a, b] = [one.prefix.toLowerCase(), other.prefix.toLowerCase()];
      const where = `${one.host}${one.prefix || '/'}`;
      if (a === b)
        say(
          'route-same',
          `${where} is a route of ${other.room} too (case does not count), and one room has it: drop one.`,
          one.room,
        );
      else if (isBelow(a, b) || isBelow(b, a)) {
        const [inner, outer] = isBelow(a, b) ? [one, other] : [other, one];
        say(
          'route-inside',
          `${inner.host}${inner.prefix} stands inside ${outer.room} and is guarded by ${inner.room} alone.`,
          inner.room,
        );
      }
    }
};

const examinePage = ({ config, page }: Facts, rooms: readonly Room[], say: Say): void => {
  if (page === undefined) return;
  const url = new URL(page.url);
  if (page.status === 0 || page.status >= 500)
    return say(
      'page-unreachable',
      `${page.url} does not answer: check the proxy in front, and what is behind.`,
    );
  const routes = indexRoutes(rooms.map(({ room, settings }) => [room, settings.routes]));
  const guarded = routes.guarding(url.hostname, url.pathname);
  const waits = rooms.find(({ room }) => room === guarded?.room)?.settings.queueingMethod !== 'passthrough';
  if (!page.isWaitingPage && waits)
    say(
      'page-not-guarded',
      `${page.url} was answered without a session: no room guards it, or something in front answers for it.`,
    );
  for (const { path, status } of page.assets)
    if (status !== 200)
      say(
        'page-asset-broken',
        `${path}, which the waiting page needs, answers ${status}: let the proxy in front pass it to Anteroom.`,
      );
  if (page.isWaitingPage)
    for (const name of ['content-security-policy', 'x-content-type-options'])
      if (!page.headers.has(name))
        say(
          'page-headers-missing',
          `The waiting page came without ${name}: the proxy in front takes it away.`,
        );
  for (const path of page.originAssets) {
    const by = routes.guarding(url.hostname, path);
    if (by === undefined && config.defaultOrigin === '')
      say(
        'asset-nowhere',
        `${path}, which the page needs, is behind no room, and there is no ANTEROOM_DEFAULT_ORIGIN: it answers 404.`,
      );
    else if (by !== undefined && by.room !== guarded?.room)
      say(
        'asset-other-room',
        `${path}, which the page needs, is guarded by ${by.room}, where its visitors have no session.`,
      );
  }
};

/** Everything that is found, errors first. */
export const examine = (facts: Facts): Finding[] => {
  const findings: Finding[] = [];
  const say: Say = (code, says, room = '') =>
    void findings.push({ code, severity: findingTable[code], room, says });
  examineInstallation(facts, say);
  const rooms: Room[] = [];
  for (const { room, settings, version, versionInRedis } of facts.rooms) {
    const parsed = parseSettings(settings);
    if (parsed.outcome === 'faults') {
      const faults = parsed.faults.map(({ field, says }) => `${field} ${says}`).join('; ');
      say('settings-invalid', `The settings cannot be used: ${faults}.`, room);
    }
    // As they are taken, whoever wrote them.
    const { settings: taken } = readStoredSettings(settings);
    rooms.push({ room, settings: taken, routes: taken.routes.map(routeOf) });
    if (version !== undefined && facts.redis === 'reached' && version !== versionInRedis)
      say(
        'room-not-applied',
        `Redis has version ${versionInRedis ?? 'none'} of the settings and not ${version}: restart a dispatcher.`,
        room,
      );
  }
  for (const known of rooms) examineRoom(facts, known, say);
  examineOverlaps(rooms, say);
  examinePage(facts, rooms, say);
  const order: readonly Severity[] = ['error', 'warning', 'note'];
  return findings.sort((a, b) => order.indexOf(a.severity) - order.indexOf(b.severity));
};
