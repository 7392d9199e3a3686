// The settings of a room: their names (Cloudflare's terms, which others copied, and a few of ours), ranges and
// what they mean together. Parsing reports every fault at once; what it returns is safe to hand to Redis.

import { type BypassRule, parseBypass } from './bypass.ts';
import { isBelow, parseRoute, routeOf, routeText } from './routes.ts';

/** `fifo` by arrival, `random` by lot at each promotion, `passthrough` without a line, `reject` takes nobody new. */
export type QueueingMethod = 'fifo' | 'random' | 'passthrough' | 'reject';

export type Settings = {
  title: string;
  /** `host/prefix`, `*.host/prefix`, or `/prefix` for any host; kept in their normal form (routes.ts). */
  routes: readonly string[];
  /** Who passes without a session. */
  bypass: readonly BypassRule[];
  /** Where admitted requests go, e.g. `http://127.0.0.1:8082`; `booking-core` stands for our own. */
  origin: string;
  stripPrefix: boolean;
  newUsersPerMinute: number;
  /** Promotions that may run ahead of the rate; 0 means a sixtieth of the rate, at least 1. */
  burst: number;
  totalActiveUsers: number;
  queueingMethod: QueueingMethod;
  sessionSeconds: number;
  sessionRenewal: boolean;
  absoluteSessionSeconds: number;
  claimSeconds: number;
  graceSeconds: number;
  queueAll: boolean;
  suspended: boolean;
  /** Milliseconds since 1970; 0 means none. */
  prequeueStartsAt: number;
  opensAt: number;
  closesAt: number;
  shuffleAtOpen: boolean;
  identity: 'required' | 'optional' | 'anonymous';
  whenRedisIsGone: 'closed' | 'bounded';
  sale: number;
};

export type SettingsFault = { field: string; says: string };
export type ParsedSettings =
  | { outcome: 'ok'; settings: Settings }
  | { outcome: 'faults'; faults: SettingsFault[] };

export const defaultSettings: Settings = {
  title: 'Waiting room',
  routes: [],
  bypass: [],
  origin: 'booking-core',
  stripPrefix: false,
  newUsersPerMinute: 60,
  burst: 0,
  totalActiveUsers: 100,
  queueingMethod: 'fifo',
  sessionSeconds: 300,
  sessionRenewal: true,
  absoluteSessionSeconds: 1800,
  claimSeconds: 60,
  graceSeconds: 30,
  queueAll: false,
  suspended: false,
  prequeueStartsAt: 0,
  opensAt: 0,
  closesAt: 0,
  shuffleAtOpen: false,
  identity: 'optional',
  whenRedisIsGone: 'closed',
  sale: 1,
};

const TIME_MS_MAX = 8_640_000_000_000; // Year 2243; far below 2^53, far above any sale.

/** Smallest and largest of each whole number, both allowed. */
const RANGES = {
  newUsersPerMinute: [1, 6_000_000],
  burst: [0, 1_000_000],
  totalActiveUsers: [1, 10_000_000],
  sessionSeconds: [10, 86_400],
  absoluteSessionSeconds: [10, 604_800],
  claimSeconds: [5, 3600],
  graceSeconds: [5, 600],
  prequeueStartsAt: [0, TIME_MS_MAX],
  opensAt: [0, TIME_MS_MAX],
  closesAt: [0, TIME_MS_MAX],
  sale: [1, 1_000_000],
} as const satisfies Partial<Record<keyof Settings, readonly [number, number]>>;

const CHOICES = {
  queueingMethod: ['fifo', 'random', 'passthrough', 'reject'],
  identity: ['required', 'optional', 'anonymous'],
  whenRedisIsGone: ['closed', 'bounded'],
} as const satisfies Partial<Record<keyof Settings, readonly string[]>>;

const ORIGIN = /^(?:booking-core|https?:\/\/[A-Za-z0-9.:[\]-]{1,253})$/;
/** Paths that are Anteroom's own; a room that guarded them would lock its own door. */
const OWN_PATHS = ['/v1/rooms', '/rooms', '/v1/authorize', '/.well-known/jwks.json'];

/** A whole host may be guarded, because our own paths are answered before any room is looked for. */
const routeFault = (text: unknown): string | undefined => {
  const route = parseRoute(text);
  if (typeof route === 'string') return route;
  const prefix = route.prefix.toLowerCase();
  return prefix !== '' && OWN_PATHS.some((path) => isBelow(path, prefix) || isBelow(prefix, path))
    ? `must not cover ${OWN_PATHS.join(', ')}`
    : undefined;
};

const faultOf = (name: string, value: unknown): string | undefined => {
  if (name in RANGES) {
    const [min, max] = RANGES[name as keyof typeof RANGES]; // `in` has checked the name.
    return Number.isInteger(value) && Number(value) >= min && Number(value) <= max
      ? undefined
      : `must be a whole number from ${min} to ${max}`;
  }
  if (name in CHOICES) {
    const choices: readonly unknown[] = CHOICES[name as keyof typeof CHOICES]; // `in` has checked the name.
    return choices.includes(value) ? undefined : `must be one of ${choices.join(', ')}`;
  }
  switch (name) {
    case 'title':
      return typeof value === 'string' && value.length >= 1 && value.length <= 100
        ? undefined
        : 'must be a text of 1 to 100 characters';
    case 'routes':
      if (!Array.isArray(value) || value.length > 20) return 'must be a list of at most 20 routes';
      for (const route of value) {
        const says = routeFault(route);
        if (says !== undefined) return says;
      }
      return undefined;
    case 'origin':
      return typeof value === 'string' && ORIGIN.test(value)
        ? undefined
        : 'must be `booking-core` or an http(s) address without a path';
    default:
      return typeof value === 'boolean' ? undefined : 'must be true or false';
  }
};

/**
 * Reads settings given by an operator, a file or SQL over `base`. Unknown names are faults. Fractions, NaN and
 * numbers in text are refused, never rounded.
 */
export const parseSettings = (input: unknown, base: Settings = defaultSettings): ParsedSettings => {
  if (typeof input !== 'object' || input === null || Array.isArray(input))
    return { outcome: 'faults', faults: [{ field: '', says: 'must be an object of settings' }] };
  const faults: SettingsFault[] = [];
  for (const [field, value] of Object.entries(input)) {
    if (!Object.hasOwn(defaultSettings, field)) faults.push({ field, says: 'is not a setting' });
    else if (field === 'bypass') faults.push(...parseBypass(value).faults);
    else {
      const says = faultOf(field, value);
      if (says !== undefined) faults.push({ field, says });
    }
  }
  if (faults.length > 0) return { outcome: 'faults', faults };
  // Each field above is a known name whose value passed its own check.
  const given = { ...base, ...(input as Partial<Settings>) };
  const settings: Settings = {
    ...given,
    routes: given.routes.map((route) => routeText(routeOf(route))),
    bypass: parseBypass(given.bypass).rules,
  };
  const { prequeueStartsAt, opensAt, closesAt } = settings;
  if (closesAt !== 0 && closesAt <= Math.max(opensAt, prequeueStartsAt))
    faults.push({ field: 'closesAt', says: 'must be after opening' });
  if (prequeueStartsAt !== 0 && (opensAt === 0 || prequeueStartsAt >= opensAt))
    faults.push({ field: 'prequeueStartsAt', says: 'must be before opensAt' });
  if (settings.shuffleAtOpen && settings.queueingMethod === 'random')
    faults.push({
      field: 'shuffleAtOpen',
      says: 'means nothing with queueingMethod random: choose one draw',
    });
  if (settings.shuffleAtOpen && opensAt === 0) faults.push({ field: 'shuffleAtOpen', says: 'needs opensAt' });
  if (settings.absoluteSessionSeconds < settings.sessionSeconds)
    faults.push({ field: 'absoluteSessionSeconds', says: 'must be at least sessionSeconds' });
  // A poller near its turn asks every few seconds (cadence.ts); it must get two chances to hear of its turn.
  if (settings.claimSeconds < 10)
    faults.push({
      field: 'claimSeconds',
      says: 'must be at least 10, twice the longest poll of someone whose turn is near',
    });
  return faults.length > 0 ? { outcome: 'faults', faults } : { outcome: 'ok', settings };
};

/** What a setting counts as when another version wrote what this one cannot read: rather closed than open. */
const CAUTIOUS: Partial<Settings> = {
  suspended: true,
  identity: 'required',
  // A name that leads nowhere (RFC 2606).
  origin: 'http://origin.invalid',
};

/** A list is read entry by entry; a number that is too high for this version counts as its highest. */
const readableOf = (name: keyof Settings, value: unknown): unknown => {
  if (name === 'routes' && Array.isArray(value))
    return value.filter((route) => routeFault(route) === undefined);
  if (name === 'bypass') return parseBypass(value).rules;
  if (name in RANGES && typeof value === 'number') {
    const [, max] = RANGES[name as keyof typeof RANGES]; // `in` has checked the name.
    if (Number.isInteger(value) && value > max) return max;
  }
  return CAUTIOUS[name] ?? defaultSettings[name];
};

/**
 * Settings as another version may have stored them, an older or a newer one. What this version does not know means
 * nothing to it and is carried along, so that it is still there for the one that does; what it cannot read of what it
 * knows is cautiously taken, and named in `faults`. Never fails.
 */
export const readStoredSettings = (input: unknown): { settings: Settings; faults: SettingsFault[] } => {
  const stored = typeof input === 'object' && input !== null && !Array.isArray(input) ? input : CAUTIOUS;
  const faults: SettingsFault[] = [];
  const read: Record<string, unknown> = { ...defaultSettings };
  for (const [field, value] of Object.entries(stored)) {
    if (!Object.hasOwn(defaultSettings, field)) {
      read[field] = value;
      continue;
    }
    const name = field as keyof Settings; // Just checked.
    const faulty = name === 'bypass' ? parseBypass(value).faults : [];
    const says = name === 'bypass' ? undefined : faultOf(name, value);
    if (says !== undefined) faulty.push({ field, says });
    faults.push(...faulty);
    read[field] = faulty.length > 0 ? readableOf(name, value) : value;
  }
  const { routes, bypass } = read as Settings; // Every known name has a value that passed its check, or a cautious one.
  return {
    settings: {
      ...(read as Settings), // The same.
      routes: routes.map((route) => routeText(routeOf(route))),
      bypass: parseBypass(bypass).rules,
    },
    faults,
  };
};

/** The burst that is meant by 0: a second's worth, at least one. */
export const burstOf = (settings: Pick<Settings, 'burst' | 'newUsersPerMinute'>): number =>
  settings.burst > 0 ? settings.burst : Math.max(1, Math.ceil(settings.newUsersPerMinute / 60));
