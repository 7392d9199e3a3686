// node bench/flooder.ts BASE PATH SECONDS CONNECTIONS: joins from one address, as fast as they are answered, in a
// process of its own and behind everything else on its core. Prints what came back as one line of JSON.

import { setPriority } from 'node:os';
import { browserHeaders } from './fan.ts';
import { runLoad } from './load.ts';

const [base = '', path = '', seconds = '0', connections = '0'] = process.argv.slice(2);
// The fans that are measured share this core: they go first, so that the flood slows the gateway and not them.
setPriority(19);
runLoad(
  {
    base,
    method: 'POST',
    path,
    body: '{}',
    headers: {
      ...browserHeaders,
      'content-type': 'application/json',
      'x-forwarded-for': '203.0.113.66',
    },
  },
  { connections: Number(connections), seconds: Number(seconds) },
).then(
  ({ answers, statuses, ...done }) => {
    console.log(JSON.stringify({ answers, seconds: done.seconds, refused: statuses.get(429) ?? 0 }));
  },
  (error: unknown) => {
    console.error(error);
    process.exitCode = 1;
  },
);
