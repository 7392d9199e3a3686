// The reference pages say what the code says. They are made from its tables; this notices when someone changed a
// table and did not run `npm run docs`.

import t from 'tap';
import { configTable } from '../../../kernel/config.ts';
import { errorTable } from '../../../kernel/errors.ts';
import { keyTable } from '../../../kernel/keys.ts';
import { metricPrefix, metricTable } from '../../../kernel/metrics.ts';
import { outdatedPages, referencePages } from '../../../scripts/reference.ts';

t.test('the reference pages are up to date', async (t) => {
  t.same(outdatedPages(), [], 'if not: npm run docs');
});

t.test('every setting, error code, key and metric is on its page', async (t) => {
  const pages = referencePages();
  const holds = (name: string, word: string) =>
    t.ok(pages.get(name)?.includes(`\`${word}\``), `${name}: ${word}`);
  for (const row of Object.values(configTable)) holds('config.md', row.env);
  for (const code of Object.keys(errorTable)) holds('errors.md', code);
  for (const row of Object.values(keyTable)) holds('keys.md', row.name);
  for (const name of Object.keys(metricTable)) holds('metrics.md', metricPrefix + name);
});
