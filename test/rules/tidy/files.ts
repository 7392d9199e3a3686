// What the tidy tests look at: the files of the project, and what a rule about them finds.

import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { isDeepStrictEqual } from 'node:util';
import t from 'tap';

export const root = fileURLToPath(new URL('../../../', import.meta.url));

/** Folders that are made, fetched or measured, never written by hand. */
const SKIPPED = /^(node_modules|data|\.git|\.tap|test-results|bench\/results)(\/|$)/;
const TEXT =
  /(\.(ts|js|mjs|css|html|svg|lua|sql|json|md|yaml|yml|service)|^scripts\/setup|^\.ci\/run|Dockerfile)$/;

const walk = (folder: string): string[] =>
  readdirSync(root + folder, { withFileTypes: true }).flatMap((entry) => {
    const path = folder + entry.name;
    if (SKIPPED.test(path)) return [];
    return entry.isDirectory() ? walk(`${path}/`) : [path];
  });

/** Paths below the project, of everything people write. */
export const files: readonly string[] = walk('').filter((path) => TEXT.test(path));
export const read = (path: string): string => readFileSync(root + path, 'utf8');

/** The scripts: TypeScript everywhere, JavaScript where a browser or a foreign Node runs it. */
export const sources: readonly string[] = files.filter((path) => /\.(ts|js|mjs)$/.test(path));

/** What a rule finds wrong, in sentences. */
export type Faults = {
  fail(fault: string): void;
  ok(isFine: boolean, fault: string): void;
  match(text: string, pattern: RegExp, fault: string): void;
  notMatch(text: string, pattern: RegExp, fault: string): void;
  same(found: unknown, wanted: unknown, fault: string): void;
};

/** A rule over many files is one test with one assertion: the list of its faults, all of them, is empty. */
export const rule = (name: string, look: (found: Faults) => Promise<void> | void): void => {
  t.test(name, async (t) => {
    const faults: string[] = [];
    const ok = (isFine: boolean, fault: string): void => {
      if (!isFine) faults.push(fault);
    };
    await look({
      ok,
      fail: (fault) => ok(false, fault),
      match: (text, pattern, fault) => ok(pattern.test(text), `${fault}: no ${pattern}`),
      notMatch: (text, pattern, fault) => ok(!pattern.test(text), `${fault}: ${pattern.exec(text)?.[0]}`),
      same: (found, wanted, fault) =>
        ok(
          isDeepStrictEqual(found, wanted),
          `${fault}: ${JSON.stringify(found)}, not ${JSON.stringify(wanted)}`,
        ),
    });
    t.same(faults, []);
  });
};
