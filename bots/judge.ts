// The verdict on a request: pure, from facts and rules. Weights of what was found add up; where the sum stands
// decides. Two rules stand above the sum: a block needs evidence from two families, and a network alone never goes
// beyond a challenge. Whoever is not allowed keeps a place, so that a mistake can be made good.

import type { Family } from './checks/check.ts';
import type { Facts } from './facts.ts';
import { checks, type Rules } from './rules.ts';

export type Verdict = 'allow' | 'challenge' | 'tarpit' | 'block';
export type Reason = { check: string; words: string };
export type Decision = {
  verdict: Verdict;
  weight: number;
  reasons: Reason[];
  /** What checks in shadow found; noted, not counted. */
  shadow: Reason[];
};

export const judge = (facts: Facts, rules: Rules): Decision => {
  const reasons: Reason[] = [];
  const shadow: Reason[] = [];
  let families: Set<Family> | undefined;
  let weight = 0;
  for (const check of checks) {
    const rule = rules.checks.get(check.id);
    if (rule === undefined || rule.mode === 'off') continue;
    const words = check.find(facts, rule.threshold);
    if (words === undefined) continue;
    if (rule.mode === 'shadow') {
      shadow.push({ check: check.id, words });
      continue;
    }
    reasons.push({ check: check.id, words });
    families ??= new Set();
    families.add(check.family);
    weight += rule.weight;
  }
  if (families === undefined) return { verdict: 'allow', weight, reasons, shadow };
  const bySum: Verdict =
    weight >= rules.blockAt
      ? 'block'
      : weight >= rules.tarpitAt
        ? 'tarpit'
        : weight >= rules.challengeAt
          ? 'challenge'
          : 'allow';
  const onlyNetwork = families.size === 1 && families.has('rate');
  const verdict: Verdict = bySum === 'block' && families.size < 2 ? 'tarpit' : bySum;
  return { verdict: onlyNetwork && verdict !== 'allow' ? 'challenge' : verdict, weight, reasons, shadow };
};
