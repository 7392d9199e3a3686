// Who may pass a room without a session: rules of the room's settings, each with a name and conditions that must all
// hold. Parsing answers every fault with the field it is in. Whether a rule holds is decided in two steps, cheap
// ones first; claims and verdict are asked for only where everything else of the rule holds.
//
// Opening fails closed, the other way round than guarding: a path is compared with its case, and only when it is in
// plain form. A secret in a header is kept as its SHA-256 alone, so neither Redis nor the audit trail ever has it.

import { createHash, timingSafeEqual } from 'node:crypto';
import { createNetworks, type Networks } from '../kernel/address.ts';
import { isPlainPath } from '../kernel/path.ts';
import { isBelow, parsePrefix } from './routes.ts';

export const verdictWords = ['allow', 'challenge', 'tarpit', 'block'] as const;
export type VerdictWord = (typeof verdictWords)[number];

export type BypassRule = {
  /** Shown in metrics. */
  name: string;
  /** Prefixes, case sensitive. */
  paths?: readonly string[];
  methods?: readonly string[];
  /** Addresses or networks, IPv4 and IPv6. */
  addresses?: readonly string[];
  /** Without `sha256` the header need only be there. */
  headers?: readonly { name: string; sha256?: string }[];
  /** Claims of a verified user JWT; a claim that is a list must contain the text. */
  claims?: readonly { name: string; equals: string }[];
  verdicts?: readonly VerdictWord[];
};

export type BypassFault = { field: string; says: string };

export const BYPASS_RULES_MAX = 20;
/** Of each condition of a rule: ranges of a crawler or a content network are lists of this length. */
const ENTRIES_MAX = 50;
const HEADER_CHARS_MAX = 200;
const SECRET_CHARS_MIN = 16;
const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'];
const CONDITIONS = ['paths', 'methods', 'addresses', 'headers', 'claims', 'verdicts'] as const;

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const isText = (value: unknown, charsMax: number): value is string =>
  typeof value === 'string' && value.length >= 1 && value.length <= charsMax;

/** Rewritten by every proxy, or read by nobody here as it came: no condition can rest on them. */
const isUnusableHeader = (name: string): boolean =>
  /^(?:anteroom-.*|x-forwarded-.*|forwarded|host|cookie|content-length|connection|transfer-encoding)$/.test(
    name,
  );

const sha256 = (text: string): Buffer => createHash('sha256').update(text).digest();

const isAddress = (text: string): boolean => {
  try {
    createNetworks([text]);
    return true;
  } catch {
    return false; // Neither an address nor a prefix, which is the answer.
  }
};

/** One entry in its normal form, or what is wrong with it. */
const entryOf = (
  condition: (typeof CONDITIONS)[number],
  value: unknown,
): { read: unknown } | { says: string } => {
  switch (condition) {
    case 'paths': {
      const prefix = parsePrefix(value);
      return prefix === undefined
        ? { says: 'must be a path in plain form that begins with `/`, without `*`' }
        : { read: prefix === '' ? '/' : prefix };
    }
    case 'methods':
      return typeof value === 'string' && METHODS.includes(value)
        ? { read: value }
        : { says: `must be one of ${METHODS.join(', ')}` };
    case 'addresses':
      return isText(value, 60) && isAddress(value)
        ? { read: value.toLowerCase() }
        : { says: 'must be an address or a network such as 192.0.2.0/24 or 2001:db8::/32' };
    case 'verdicts':
      return verdictWords.some((word) => word === value)
        ? { read: value }
        : { says: `must be one of ${verdictWords.join(', ')}` };
    case 'claims': {
      if (!isRecord(value) || Object.keys(value).some((key) => key !== 'name' && key !== 'equals'))
        return { says: 'must have `name` and `equals`' };
      return isText(value.name, 100) && isText(value.equals, HEADER_CHARS_MAX)
        ? { read: { name: value.name, equals: value.equals } }
        : { says: `must have \`name\` and \`equals\`, texts of at most ${HEADER_CHARS_MAX} characters` };
    }
    case 'headers':
      return headerOf(value);
  }
};

const headerOf = (value: unknown): { read: unknown } | { says: string } => {
  if (!isRecord(value)) return { says: 'must have `name`' };
  const { name, equals, sha256: hash, ...more } = value;
  if (!isText(name, 100) || !/^[a-z0-9-]+$/i.test(name)) return { says: 'must have `name`, a header name' };
  const lower = name.toLowerCase();
  if (isUnusableHeader(lower)) return { says: `must not rest on \`${lower}\`` };
  if (Object.keys(more).length > 0 || (equals !== undefined && hash !== undefined))
    return { says: 'must have `name`, and either `equals`, `sha256` or neither' };
  if (equals !== undefined) {
    if (!isText(equals, HEADER_CHARS_MAX) || equals.length < SECRET_CHARS_MIN)
      return {
        says: `must have a secret of ${SECRET_CHARS_MIN} to ${HEADER_CHARS_MAX} characters in \`equals\``,
      };
    return { read: { name: lower, sha256: sha256(equals).toString('hex') } };
  }
  if (hash === undefined) return { read: { name: lower } };
  return typeof hash === 'string' && /^[0-9a-f]{64}$/i.test(hash)
    ? { read: { name: lower, sha256: hash.toLowerCase() } }
    : { says: 'must have 64 hexadecimal digits in `sha256`' };
};

const ruleOf = (value: unknown, at: string, faults: BypassFault[]): BypassRule | undefined => {
  const before = faults.length;
  if (!isRecord(value)) {
    faults.push({ field: at, says: 'must be an object' });
    return undefined;
  }
  const { name, ...given } = value;
  if (typeof name !== 'string' || !/^[a-z0-9][a-z0-9-]{0,39}$/.test(name))
    faults.push({ field: `${at}.name`, says: 'must be 1 to 40 small letters, digits or `-`' });
  const read: Record<string, unknown> = { name };
  for (const [key, list] of Object.entries(given)) {
    const condition = CONDITIONS.find((known) => known === key);
    const field = `${at}.${key.slice(0, 20)}`;
    if (condition === undefined) faults.push({ field, says: `is not one of ${CONDITIONS.join(', ')}` });
    else if (!Array.isArray(list) || list.length < 1 || list.length > ENTRIES_MAX)
      faults.push({ field, says: `must be a list of 1 to ${ENTRIES_MAX}` });
    else
      read[condition] = list.map((entry, index) => {
        const done = entryOf(condition, entry);
        if ('read' in done) return done.read;
        faults.push({ field: `${field}[${index}]`, says: done.says });
        return undefined;
      });
  }
  if (Object.keys(given).length === 0)
    faults.push({ field: at, says: `needs at least one of ${CONDITIONS.join(', ')}` });
  // Every field was put there by its own check above, or a fault says why not.
  return faults.length > before ? undefined : (read as BypassRule);
};

/** The rules in their normal form, or every fault. Reading its own result again changes nothing. */
export const parseBypass = (value: unknown): { rules: BypassRule[]; faults: BypassFault[] } => {
  if (!Array.isArray(value) || value.length > BYPASS_RULES_MAX)
    return {
      rules: [],
      faults: [{ field: 'bypass', says: `must be a list of at most ${BYPASS_RULES_MAX} rules` }],
    };
  const faults: BypassFault[] = [];
  const rules: BypassRule[] = [];
  for (const [index, entry] of value.entries()) {
    const rule = ruleOf(entry, `bypass[${index}]`, faults);
    if (rule === undefined) continue;
    if (rules.some(({ name }) => name === rule.name))
      faults.push({ field: `bypass[${index}].name`, says: 'is the name of another rule here' });
    rules.push(rule);
  }
  return { rules, faults };
};

/** What a request shows; the two lookups are made at most once, and only when a rule gets as far as asking. */
export type BypassFacts = {
  path: string;
  method: string;
  address: string;
  header(name: string): string | undefined;
  /** Values of these claims of the verified user; empty for anybody else. */
  claims(names: readonly string[]): Promise<ReadonlyMap<string, readonly string[]>>;
  verdict(): VerdictWord;
};

type Ready = {
  rule: BypassRule;
  networks: Networks | undefined;
  headers: readonly { name: string; digest: Buffer | undefined }[];
};

const holdsPlainly = ({ rule, networks, headers }: Ready, facts: BypassFacts): boolean =>
  (rule.methods === undefined || rule.methods.includes(facts.method)) &&
  (rule.paths === undefined ||
    rule.paths.some((prefix) => isBelow(facts.path, prefix === '/' ? '' : prefix))) &&
  (networks === undefined || networks(facts.address)) &&
  headers.every(({ name, digest }) => {
    const value = facts.header(name);
    return value !== undefined && (digest === undefined || timingSafeEqual(sha256(value), digest));
  });

const holdsByClaims = async (rule: BypassRule, facts: BypassFacts): Promise<boolean> => {
  if (rule.claims === undefined) return true;
  const found = await facts.claims(rule.claims.map(({ name }) => name));
  return rule.claims.every(({ name, equals }) => found.get(name)?.includes(equals) === true);
};

export type Bypass = {
  /** The name of the first rule that holds. */
  find(facts: BypassFacts): Promise<string | undefined>;
};

/** Makes rules ready to be asked. */
export const createBypass = (rules: readonly BypassRule[]): Bypass => {
  const ready: Ready[] = rules.map((rule) => ({
    rule,
    networks: rule.addresses === undefined ? undefined : createNetworks(rule.addresses),
    headers: (rule.headers ?? []).map(({ name, sha256: hash }) => ({
      name,
      digest: hash === undefined ? undefined : Buffer.from(hash, 'hex'),
    })),
  }));
  return {
    async find(facts) {
      if (!isPlainPath(facts.path)) return undefined;
      let verdict: VerdictWord | undefined;
      for (const some of ready) {
        if (!holdsPlainly(some, facts) || !(await holdsByClaims(some.rule, facts))) continue;
        if (some.rule.verdicts !== undefined) {
          verdict ??= facts.verdict();
          if (!some.rule.verdicts.includes(verdict)) continue;
        }
        return some.rule.name;
      }
      return undefined;
    },
  };
};
