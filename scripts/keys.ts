// Makes what has to be secret, and changes it without anyone losing a place.
//   npm run keys                              a new value for ANTEROOM_KEYS: one key that signs, and the root, from
//                                             which everything comes that must not move
//   npm run keys -- add                       adds a key that verifies and does not sign yet
//   npm run keys -- use <kid>                 lets it sign; the one before goes on verifying
//   npm run keys -- rotate                    both at once, and drop: for one process alone
//   npm run keys -- drop                      takes away keys of which nothing signed can be alive
//   npm run keys -- list                      the kids, and when each was made
//   npm run keys -- service <room|*> [days]   a service token, with which an origin ends sessions of that room (`*`:
//                                             of all). Default: 90 days.
//   npm run keys -- context <room>            what an origin of that room needs to check `Anteroom-Context`
//                                             (client/origin.js). It can neither make sessions nor speak for another
//                                             room. Print it again after a rotation.
// They work on ANTEROOM_KEYS of the environment and print the new value; where that is unset, on the key file of the
// data folder, which is replaced whole. Keys never stand in arguments, where every user of the machine could read them.
// docs/operate.md says in which order several processes are told.

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { type Config, readConfig } from '../kernel/config.ts';
import { parseRoomId } from '../kernel/ids.ts';
import {
  addKey,
  dropKeys,
  formatKeys,
  generateKeys,
  type KeysChange,
  loadKeys,
  type MasterKey,
  madeAtMs,
  parseKeys,
  RECEIPT_DAYS,
  ROOT_KID,
  saveKeys,
  signingKeys,
  useKey,
} from '../kernel/master-keys.ts';
import { createTokens } from '../kernel/token.ts';
import { contextKeys } from '../line/context.ts';
import { parseServiceScope, SERVICE_DAYS_MAX, signService } from '../line/service.ts';

const DAYS = 90;

type Held = { config: Config; keys: MasterKey[]; save(keys: readonly MasterKey[]): Promise<void> };

/** The keys that are in use, and where they go when they are changed. */
const held = async (): Promise<Held> => {
  // A machine on which keys are made need not have the rest of production's settings.
  const config = readConfig({ ...process.env, ANTEROOM_ENV: 'development' });
  const file = join(config.dataFolder, 'keys');
  if (config.keys === '' && !existsSync(file))
    throw new Error(
      'set ANTEROOM_KEYS to the value the gateways have, or ANTEROOM_DATA to the folder of a started Anteroom',
    );
  const keys = parseKeys(config.keys === '' ? await loadKeys(file) : config.keys);
  if (keys === undefined) throw new Error('ANTEROOM_KEYS is malformed');
  const save = async (changed: readonly MasterKey[]): Promise<void> => {
    if (config.keys !== '') return console.log(formatKeys(changed));
    await saveKeys(file, formatKeys(changed));
    console.error(`Written to ${file}. Restart Anteroom: it reads its keys at start.`);
  };
  return { config, keys, save };
};

const serviceToken = async (scopeText: string | undefined, daysText: string | undefined): Promise<string> => {
  const scope = parseServiceScope(scopeText ?? '');
  if (scope === undefined)
    throw new Error('name a room, or * for all: npm run keys -- service <room|*> [days]');
  const days = daysText === undefined ? DAYS : Number(daysText);
  if (!Number.isInteger(days) || days < 1 || days > SERVICE_DAYS_MAX)
    throw new Error(`days must be a whole number from 1 to ${SERVICE_DAYS_MAX}`);
  const { keys } = await held();
  const tokens = createTokens({ keys, issuer: '' });
  return signService(tokens, { scope, expiresAtMs: Date.now() + days * 86_400_000 });
};

const contextKey = async (roomText: string | undefined): Promise<string> => {
  const room = parseRoomId(roomText);
  if (room === undefined) throw new Error('name a room: npm run keys -- context <room>');
  const { keys } = await held();
  return contextKeys(createTokens({ keys, issuer: '' }), room);
};

const changed = (change: KeysChange): { keys: MasterKey[]; kid: string } => {
  if (change.outcome === 'refused') throw new Error(change.says);
  return change;
};

const dropped = ({ config }: Held, keys: readonly MasterKey[]): MasterKey[] => {
  const lifeDays = Math.max(config.visitorDays, RECEIPT_DAYS);
  const done = dropKeys(keys, { nowMs: Date.now(), lifeDays });
  const names = done.dropped.join(', ');
  console.error(
    done.dropped.length === 0
      ? 'No key is old enough to be dropped.'
      : `Dropped: ${names}. Service tokens signed with it are worth nothing from now on; make new ones.`,
  );
  return done.keys;
};

const commands: Record<string, (rest: readonly string[]) => Promise<void>> = {
  async service([scope, days]) {
    console.log(await serviceToken(scope, days));
  },
  async context([room]) {
    console.log(await contextKey(room));
  },
  async add() {
    const { keys, save } = await held();
    const added = changed(addKey(keys, Date.now()));
    await save(added.keys);
    console.error(`Added ${added.kid}. When every process has this value: npm run keys -- use ${added.kid}`);
  },
  async use([kid]) {
    const { keys, save } = await held();
    await save(changed(useKey(keys, kid ?? '', Date.now())).keys);
    console.error(`From now on ${kid} signs. The keys before it go on verifying.`);
  },
  async rotate() {
    const now = await held();
    const added = changed(addKey(now.keys, Date.now()));
    const used = changed(useKey(added.keys, added.kid, Date.now()));
    await now.save(dropped(now, used.keys));
    console.error(`From now on ${added.kid} signs. With several processes, use add and use instead.`);
  },
  async drop() {
    const now = await held();
    await now.save(dropped(now, now.keys));
  },
  async list() {
    const { keys } = await held();
    for (const [index, { kid }] of signingKeys(keys).entries()) {
      const atMs = madeAtMs(kid);
      const made = atMs === undefined ? 'at a time unknown' : new Date(atMs).toISOString().slice(0, 10);
      console.log(`${kid}  made ${made}${index === 0 ? ', signs' : ''}`);
    }
    const hasRoot = keys.some(({ kid }) => kid === ROOT_KID);
    console.log(hasRoot ? `${ROOT_KID}  never changes` : 'no root: the last key is it');
  },
};

const [command, ...rest] = process.argv.slice(2);
try {
  if (command === undefined) console.log(generateKeys());
  else if (Object.hasOwn(commands, command)) await commands[command]!(rest);
  else throw new Error(`there is no ${command}; the commands are ${Object.keys(commands).join(', ')}`);
} catch (error) {
  console.error(error instanceof Error ? error.message : String(error));
  process.exitCode = 1;
}
