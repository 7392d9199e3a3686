// Says what commonly goes wrong: `npm run doctor [-- <address of a page>]`. It reads the configuration of its own
// environment, the rooms from PostgreSQL (or from Redis where the stores are embedded: start Anteroom first), and,
// when an address is given, what that page answers to a browser without a session. Changes nothing. Exit 0 without
// errors, 1 with some, 2 when it cannot look. What is found: line/checkup.ts.

import { join } from 'node:path';
import { type Config, ConfigFault, readConfig } from '../kernel/config.ts';
import { parseRoomId } from '../kernel/ids.ts';
import { roomKey, roomsKey } from '../kernel/keys.ts';
import { silentLog } from '../kernel/log.ts';
import { connectRedis, createRedis, type Redis } from '../kernel/redis.ts';
import { embeddedSocket } from '../kernel/redis-server.ts';
import { withoutSecret } from '../kernel/redis-url.ts';
import { createSql } from '../kernel/sql.ts';
import { examine, type Facts, type PageFacts, type RoomFacts } from '../line/checkup.ts';
import { hostOf, indexRoutes } from '../line/routes.ts';
import { readStoredSettings, type Settings } from '../line/settings.ts';

const ANSWER_MS_MAX = 10_000;
const ASSETS_MAX = 50;

const openRedis = async (config: Config): Promise<Redis | undefined> => {
  const url = config.redisUrl === '' ? embeddedSocket(join(config.dataFolder, 'redis')) : config.redisUrl;
  if (url === undefined) return undefined;
  const client = createRedis({ url, config, log: silentLog, purpose: 'doctor' });
  try {
    await connectRedis(client, withoutSecret(url));
    return client;
  } catch {
    client.disconnect();
    return undefined; // Told as a finding.
  }
};

const roomsInRedis = async (redis: Redis): Promise<RoomFacts[]> => {
  const found: RoomFacts[] = [];
  for (const name of await redis.smembers(roomsKey)) {
    const room = parseRoomId(name);
    if (room === undefined) continue;
    const [settings, version] = await redis.hmget(roomKey(room, 'room'), 'settings', 'version');
    if (settings != null)
      found.push({ room, settings: JSON.parse(settings), versionInRedis: Number(version ?? 0) });
  }
  return found;
};

/** As they are stored: what cannot be read as settings is a finding too. */
const roomsInSql = async (config: Config): Promise<RoomFacts[] | undefined> => {
  try {
    const sql = await createSql({ config, log: silentLog });
    try {
      const rows = await sql.query('SELECT id, settings, version FROM rooms ORDER BY id');
      return rows.flatMap(({ id, settings, version }) => {
        const room = parseRoomId(id);
        return room === undefined ? [] : [{ room, settings, version: Number(version) }];
      });
    } finally {
      await sql.close();
    }
  } catch {
    return undefined; // Told as a finding.
  }
};

/** Paths on the page's own host that its styles, scripts and pictures have. */
const assetsOf = (html: string, page: string): string[] => {
  const paths = new Set<string>();
  for (const [, path] of html.matchAll(
    /<(?:link|script|img)\b[^>]*?\b(?:href|src)\s*=\s*["']([^"']+)["']/gi,
  )) {
    if (!URL.canParse(path!, page)) continue;
    const url = new URL(path!, page);
    if (url.host === new URL(page).host && url.protocol.startsWith('http')) paths.add(url.pathname);
  }
  return [...paths].slice(0, ASSETS_MAX);
};

type Fetched = { status: number; headers: Headers; text: string };
const fetched = async (url: string): Promise<Fetched> => {
  try {
    const answer = await fetch(url, {
      headers: { accept: 'text/html', 'user-agent': 'Mozilla/5.0 (anteroom doctor)' },
      redirect: 'manual',
      signal: AbortSignal.timeout(ANSWER_MS_MAX),
    });
    return { status: answer.status, headers: answer.headers, text: await answer.text() };
  } catch {
    return { status: 0, headers: new Headers(), text: '' }; // Told as a finding.
  }
};

/** Where the page is at its origin; undefined where no room guards it. */
const atOrigin = (url: URL, rooms: readonly RoomFacts[], config: Config): string | undefined => {
  const usable = rooms.map(({ room, settings }): [RoomFacts['room'], Settings] => [
    room,
    readStoredSettings(settings).settings,
  ]);
  const routes = indexRoutes(usable.map(([room, settings]) => [room, settings.routes]));
  const guarded = routes.guarding(hostOf(url.host) ?? '', url.pathname);
  const settings = usable.find(([room]) => room === guarded?.room)?.[1];
  if (guarded === undefined || settings === undefined) return undefined;
  const booking = config.bookingUrl || `http://${config.host}:${config.bookingPort}`;
  const origin = settings.origin === 'booking-core' ? booking : settings.origin;
  return origin + (settings.stripPrefix ? url.pathname.slice(guarded.prefix.length) || '/' : url.pathname);
};

const lookAt = async (text: string, rooms: readonly RoomFacts[], config: Config): Promise<PageFacts> => {
  const url = new URL(text);
  const page = await fetched(url.href);
  const isWaitingPage = /<form id="act-form"[^>]* action="\/rooms\//.test(page.text);
  const assets = [];
  if (isWaitingPage)
    for (const path of assetsOf(page.text, url.href))
      assets.push({ path, status: (await fetched(new URL(path, url).href)).status });
  const inside = atOrigin(url, rooms, config);
  const behind = inside === undefined ? undefined : await fetched(inside);
  return {
    url: url.href,
    status: page.status,
    isWaitingPage,
    headers: new Map(page.headers),
    assets,
    originAssets: behind?.status === 200 ? assetsOf(behind.text, inside!) : [],
  };
};

const gather = async (config: Config, address: string | undefined): Promise<Facts> => {
  const redis = await openRedis(config);
  try {
    const inRedis = redis === undefined ? [] : await roomsInRedis(redis);
    const inSql = config.databaseUrl === '' ? undefined : await roomsInSql(config);
    const versions = new Map(inRedis.map(({ room, versionInRedis }) => [room, versionInRedis]));
    const rooms = inSql?.map((known) => ({ ...known, versionInRedis: versions.get(known.room) })) ?? inRedis;
    return {
      config,
      redis: redis === undefined ? 'unreachable' : 'reached',
      database: config.databaseUrl === '' ? 'unread' : inSql === undefined ? 'unreachable' : 'reached',
      rooms,
      nowMs: Date.now(),
      ...(address === undefined ? {} : { page: await lookAt(address, rooms, config) }),
    };
  } finally {
    redis?.disconnect();
  }
};

const main = async (): Promise<number> => {
  const [address, ...more] = process.argv.slice(2);
  if (more.length > 0 || (address !== undefined && !/^https?:\/\//.test(address)))
    throw new Error('usage: npm run doctor [-- <http or https address of a page>]');
  const facts = await gather(readConfig(process.env), address);
  const findings = examine(facts);
  for (const { code, severity, room, says } of findings)
    console.log(`${severity.padEnd(7)} ${code}${room === '' ? '' : `, room ${room}`}\n        ${says}`);
  const errors = findings.filter(({ severity }) => severity === 'error').length;
  const count = (value: number, word: string): string => `${value} ${word}${value === 1 ? '' : 's'}`;
  console.log(
    `looked at ${count(facts.rooms.length, 'room')}: ${count(errors, 'error')}, ${count(findings.length - errors, 'other finding')}`,
  );
  return errors > 0 ? 1 : 0;
};

main().then(
  (code) => {
    process.exitCode = code;
  },
  (error: unknown) => {
    console.error(error instanceof ConfigFault || error instanceof Error ? error.message : String(error));
    process.exitCode = 2;
  },
);
