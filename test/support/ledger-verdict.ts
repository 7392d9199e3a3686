// The ledger of a running system's demo sale, as anybody would verify it, and what its watcher has said.

import type { Test } from 'tap';
import { type LedgerVerdict, verifyLedger } from '../../line/ledger-verify.ts';
import { eventually } from './eventually.ts';
import type { System } from './system.ts';

export const ledgerVerdict = async (system: System): Promise<LedgerVerdict> => {
  const answer = await fetch(`${system.admin}/v1/rooms/demo/sales/1/ledger`, {
    headers: { authorization: `Bearer ${system.operatorToken}` },
  });
  if (answer.status !== 200 || answer.body === null)
    throw new Error(`the ledger answered ${answer.status}: ${await answer.text()}`);
  // A web stream can be read by `for await`; its type in the DOM's library does not say so.
  return verifyLedger(answer.body as unknown as AsyncIterable<Uint8Array>);
};

/** What happened was no fault of anybody: the ledger verifies as far as it is written, and nobody was accused. */
export const ledgerVerifies = async (t: Test, system: System): Promise<void> => {
  let verdict: LedgerVerdict | undefined;
  await eventually('the ledger can be read', async () => {
    verdict = await ledgerVerdict(system);
    return verdict.outcome !== 'unreadable';
  });
  t.equal(verdict?.outcome, 'verified', JSON.stringify(verdict));
  t.notMatch(system.output(), 'promise-broken', 'the watcher raised no alarm');
};
