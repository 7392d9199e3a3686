// Prints a new value for ANTEROOM_KEYS: one master key, from which every process derives all others.
// To rotate, put the new key in front of the old ones, separated by a comma; the newest signs, all verify.

import { generateKey } from '../kernel/token.ts';

console.log(generateKey());
