// Makes what has to be secret.
//   npm run keys                              a new value for ANTEROOM_KEYS: one master key, from which every process
//                                             derives all others. To rotate, put the new key in front of the old
//                                             ones, separated by a comma; the newest signs, all verify.
//   npm run keys -- service <room|*> [days]   a service token, with which an origin ends sessions of that room (`*`:
//                                             of all). It is signed with ANTEROOM_KEYS of the environment, or with the
//                                             key in the data folder where that is unset. Default: 90 days.

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { readConfig } from '../kernel/config.ts';
import { createTokens, generateKey, loadKeys, parseKeys } from '../kernel/token.ts';
import { parseServiceScope, SERVICE_DAYS_MAX, signService } from '../line/service.ts';

const DAYS = 90;

const serviceToken = async (scopeText: string | undefined, daysText: string | undefined): Promise<string> => {
  const scope = parseServiceScope(scopeText ?? '');
  if (scope === undefined)
    throw new Error('name a room, or * for all: npm run keys -- service <room|*> [days]');
  const days = daysText === undefined ? DAYS : Number(daysText);
  if (!Number.isInteger(days) || days < 1 || days > SERVICE_DAYS_MAX)
    throw new Error(`days must be a whole number from 1 to ${SERVICE_DAYS_MAX}`);
  const config = readConfig(process.env);
  const file = join(config.dataFolder, 'keys');
  if (config.keys === '' && !existsSync(file))
    throw new Error(
      'set ANTEROOM_KEYS to the value the gateways have, or ANTEROOM_DATA to the folder of a started Anteroom',
    );
  const keys = parseKeys(config.keys === '' ? await loadKeys(file) : config.keys);
  if (keys === undefined) throw new Error('ANTEROOM_KEYS is malformed');
  const tokens = createTokens({ keys, issuer: '' });
  return signService(tokens, { scope, expiresAtMs: Date.now() + days * 86_400_000 });
};

const [command, ...rest] = process.argv.slice(2);
try {
  if (command === undefined) console.log(generateKey());
  else if (command === 'service') console.log(await serviceToken(rest[0], rest[1]));
  else throw new Error(`there is no ${command}; the only command is service`);
} catch (error) {
  console.error(error instanceof Error ? error.message : String(error));
  process.exitCode = 1;
}
