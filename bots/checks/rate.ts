// How many have joined from the same network in the last minute. A campus or a phone network has thousands of
// people behind one address, so this alone never goes beyond a challenge (see judge.ts).

import type { Check } from './check.ts';

export const rateNetwork: Check = {
  id: 'rate-network',
  family: 'rate',
  find: ({ joinsLastMinute }, threshold) =>
    joinsLastMinute > threshold
      ? `More than ${threshold} people joined from this network within a minute.`
      : undefined,
};
