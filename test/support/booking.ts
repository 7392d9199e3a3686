// booking-core with its sandbox provider on private ports, and visitors as the gateway would present them.

import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { takePort } from '../../bench/ports.ts';
import { createBookingCore, seedEvent } from '../../booking-core/booking-core.ts';
import { demoEvent } from '../../booking-core/demo.ts';
import type { SaleEvent } from '../../booking-core/inventory.ts';
import { createSandbox } from '../../booking-core/sandbox/sandbox.ts';
import { type Config, readConfig } from '../../kernel/config.ts';
import { createFetcher } from '../../kernel/fetch.ts';
import { parsePlaceId, parseRoomId, parseVisitorId } from '../../kernel/ids.ts';
import { silentLog } from '../../kernel/log.ts';
import type { Redis } from '../../kernel/redis.ts';
import type { Sql } from '../../kernel/sql.ts';
import { createTokens, generateKey, parseKeys } from '../../kernel/token.ts';
import { signContext } from '../../line/context.ts';

type Teardown = { teardown(work: () => unknown): void };
export type Answer = { status: number; body: Record<string, unknown>; headers: Headers };

export type Fan = {
  visitorId: string;
  /** What the gateway would add to a request of this fan; `session: false` as after the session has ended. */
  context(options?: { session?: boolean }): Record<string, string>;
  ask(
    method: string,
    path: string,
    options?: { body?: unknown; key?: string; session?: boolean },
  ): Promise<Answer>;
  /** A hold of so many seats of a section; throws when it is refused. */
  hold(section: string, seats: number | string[]): Promise<string>;
  pay(holdId: string, token: string, key?: string): Promise<Answer>;
};

export type Booking = {
  config: Config;
  base: string;
  fan(name: string): Fan;
  restart(): Promise<void>;
  /** As if the provider had been restarted: what it still had to charge it charges now. */
  restartProvider(): Promise<void>;
};

let keys = 0;
/** A fresh idempotency key. */
export const newKey = (): string => `test-key-${++keys}`;

export const startBooking = async (
  t: Teardown,
  options: { sql: Sql; redis: Redis; config?: Partial<Config>; event?: SaleEvent },
): Promise<Booking> => {
  const { sql, redis, event = demoEvent } = options;
  const folder = mkdtempSync(join(tmpdir(), 'anteroom-booking-'));
  const config: Config = {
    ...readConfig({}),
    dataFolder: folder,
    bookingPort: await takePort(),
    sandboxPort: await takePort(),
    reconcileMs: 100,
    paymentTimeoutMs: 60_000,
    ...options.config,
  };
  const base = `http://127.0.0.1:${config.bookingPort}`;
  const tokens = createTokens({ keys: parseKeys(generateKey('test')) ?? [], issuer: 'test' });
  const fetcher = createFetcher({ connectionsMax: 64, headersTimeoutMs: 60_000, connectTimeoutMs: 60_000 });
  // With `sandboxUrl` the provider is somebody else's: whoever shares a database shares that, too.
  const startProvider = async () => {
    if (config.sandboxUrl !== '') return undefined;
    const started = createSandbox({ config, log: silentLog });
    await started.start();
    return started;
  };
  let sandbox = await startProvider();
  await seedEvent(sql, redis, event);
  const start = () => createBookingCore({ config, sql, redis, tokens, log: silentLog, fetcher });
  let role = await start();
  t.teardown(async () => {
    await role.stop();
    await sandbox?.stop();
    await fetcher.close();
    rmSync(folder, { recursive: true, force: true });
  });

  const fan = (name: string): Fan => {
    const hash = createHash('sha256').update(name).digest('base64url');
    const visitorId = parseVisitorId(`a:${hash.slice(0, 22)}`)!;
    const visit = {
      room: parseRoomId('demo')!,
      placeId: parsePlaceId(hash.slice(0, 16))!,
      number: 7,
      sale: 1,
    };
    const context: Fan['context'] = ({ session = true } = {}) => ({
      'anteroom-context': signContext(tokens, session ? { visitorId, visit } : { visitorId }, Date.now()),
    });
    const ask: Fan['ask'] = async (method, path, { body, key, session = true } = {}) => {
      const answer = await fetch(`${base}${path}`, {
        method,
        redirect: 'manual',
        headers: {
          ...context({ session }),
          ...(key === undefined ? {} : { 'idempotency-key': key }),
          ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        },
        ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
      });
      const text = await answer.text();
      // Every JSON answer of booking-core is an object; anything else is kept as text for the test to see.
      const parsed = /json/.test(answer.headers.get('content-type') ?? '')
        ? (JSON.parse(text) as Record<string, unknown>)
        : { text };
      return { status: answer.status, body: parsed, headers: answer.headers };
    };
    return {
      visitorId,
      context,
      ask,
      async hold(section, seats) {
        const wish = typeof seats === 'number' ? { section, count: seats } : { section, seats };
        const taken = await ask('POST', `/v1/events/${event.id}/holds`, { key: newKey(), body: wish });
        if (taken.status !== 201) throw new Error(`no hold: ${JSON.stringify(taken.body)}`);
        return String(taken.body.id);
      },
      pay: (holdId, token, key = newKey()) =>
        ask('POST', '/v1/orders', { key, body: { holdId, payment: { method: 'card', token } } }),
    };
  };
  return {
    config,
    base,
    fan,
    async restart() {
      await role.stop();
      role = await start();
    },
    async restartProvider() {
      await sandbox?.stop();
      sandbox = await startProvider();
    },
  };
};

/** Free, held and sold seats of an event's maps. */
export const countSeats = (maps: unknown): { f: number; h: number; s: number } => {
  const text = Object.values(maps as Record<string, string>).join(''); // The route's answer; a wrong one miscounts.
  const count = (character: string) => text.split(character).length - 1;
  return { f: count('f'), h: count('h'), s: count('s') };
};
