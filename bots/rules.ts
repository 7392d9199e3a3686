// Rules as data: what each check weighs, whether it counts (enforce), is only noted (shadow) or is not run (off),
// and where a challenge, a tarpit and a block begin. A bad rule file keeps the old rules and says what is wrong.

import { readFileSync } from 'node:fs';
import type { Log } from '../kernel/log.ts';
import { agentCrawler, agentDriven, agentMissing, agentTool } from './checks/agent.ts';
import type { Check } from './checks/check.ts';
import { headersBare, headersBrandMismatch, headersNoLanguage, headersNoMetadata } from './checks/headers.ts';
import { rateNetwork } from './checks/rate.ts';

export const checks: readonly Check[] = [
  agentMissing,
  agentTool,
  agentDriven,
  agentCrawler,
  headersBare,
  headersNoLanguage,
  headersNoMetadata,
  headersBrandMismatch,
  rateNetwork,
];

export type Mode = 'off' | 'shadow' | 'enforce';
export type Rule = { mode: Mode; weight: number; threshold: number };
export type Rules = {
  challengeAt: number;
  tarpitAt: number;
  blockAt: number;
  checks: ReadonlyMap<string, Rule>;
};
export type ParsedRules = { outcome: 'ok'; rules: Rules } | { outcome: 'faults'; faults: string[] };

const WEIGHT_MAX = 1000;
const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const weightIn = (value: unknown): value is number =>
  Number.isInteger(value) && Number(value) >= 0 && Number(value) <= WEIGHT_MAX;

/** Reads rules from JSON; every fault at once. */
export const parseRules = (json: string): ParsedRules => {
  const faults: string[] = [];
  let raw: unknown;
  try {
    raw = JSON.parse(json);
  } catch {
    return { outcome: 'faults', faults: ['the file is not JSON'] };
  }
  if (!isRecord(raw) || !isRecord(raw.checks))
    return { outcome: 'faults', faults: ['the file needs challengeAt, tarpitAt, blockAt and checks'] };
  const { challengeAt, tarpitAt, blockAt } = raw;
  if (
    !weightIn(challengeAt) ||
    !weightIn(tarpitAt) ||
    !weightIn(blockAt) ||
    !(challengeAt <= tarpitAt && tarpitAt <= blockAt)
  )
    faults.push(`challengeAt ≤ tarpitAt ≤ blockAt must be whole numbers from 0 to ${WEIGHT_MAX}`);
  const read = new Map<string, Rule>();
  for (const [id, rule] of Object.entries(raw.checks)) {
    if (!checks.some((check) => check.id === id)) faults.push(`${id} is not a check`);
    else if (
      !isRecord(rule) ||
      !['off', 'shadow', 'enforce'].includes(String(rule.mode)) ||
      !weightIn(rule.weight)
    )
      faults.push(`${id} needs a mode (off, shadow, enforce) and a weight from 0 to ${WEIGHT_MAX}`);
    // The mode was found in the list above.
    else
      read.set(id, {
        mode: rule.mode as Mode,
        weight: rule.weight,
        threshold: typeof rule.threshold === 'number' ? rule.threshold : 0,
      });
  }
  if (faults.length > 0) return { outcome: 'faults', faults };
  // Each was checked by weightIn, and a fault would have returned.
  return {
    outcome: 'ok',
    rules: {
      challengeAt: challengeAt as number,
      tarpitAt: tarpitAt as number,
      blockAt: blockAt as number,
      checks: read,
    },
  };
};

export type RuleBook = {
  current(): Rules;
  /** Replaces the rules when they are good; keeps the old ones and answers the faults when they are not. */
  replace(json: string): ParsedRules;
};

/** Begins with the rules that come with this version. */
export const createRuleBook = (options: { log: Log }): RuleBook => {
  const first = parseRules(readFileSync(new URL('./rules.json', import.meta.url), 'utf8'));
  if (first.outcome !== 'ok') throw new Error(`bots/rules.json: ${first.faults.join('; ')}`);
  let rules = first.rules;
  return {
    current: () => rules,
    replace(json) {
      const read = parseRules(json);
      if (read.outcome === 'ok') rules = read.rules;
      else options.log.warn('rules-refused', { faults: read.faults });
      return read;
    },
  };
};
