// House rules that a machine can see. Types, enums and `any` are the compiler's and the linter's; here is what
// they do not know: swallowed errors, where the environment is read, who prints, and words that must not stay.

import ts from 'typescript';
import { errorTable } from '../../../kernel/errors.ts';
import { files, read, rule, sources } from './files.ts';
import { at, parse, visit } from './syntax.ts';

const ENVIRONMENT_READERS = ['kernel/config.ts', 'kernel/http.ts', 'main.ts'];
const MAY_PRINT = /^(scripts|bench|test)\//;
const ours = sources.filter((path) => !path.startsWith('test/'));

const isNothing = (node: ts.Node): boolean =>
  (ts.isBlock(node) && node.statements.length === 0) ||
  (ts.isIdentifier(node) && node.text === 'undefined') ||
  node.kind === ts.SyntaxKind.NullKeyword;

/** Whether a comment stands on the node's line or on one of the two above: the reason why doing nothing is right. */
const isExplained = (source: ts.SourceFile, node: ts.Node): boolean => {
  const line = source.getLineAndCharacterOfPosition(node.getStart()).line;
  return source.text
    .split('\n')
    .slice(Math.max(0, line - 2), line + 2)
    .some((text) => /\/\/|\*\/|^\s*\*/.test(text));
};

rule('no error is swallowed', (found) => {
  for (const path of sources) {
    const source = parse(path);
    visit(source, (node) => {
      // A block without a statement but with a comment has said why going on is right; one without has not.
      if (
        ts.isCatchClause(node) &&
        node.block.statements.length === 0 &&
        !/\/[/*]/.test(node.block.getText())
      )
        found.fail(`${at(source, node)}: an empty catch`);
      if (!ts.isCallExpression(node) || !ts.isPropertyAccessExpression(node.expression)) return;
      if (node.expression.name.text !== 'catch') return;
      const [handler] = node.arguments;
      if (handler === undefined || !ts.isArrowFunction(handler) || !isNothing(handler.body)) return;
      if (!isExplained(source, handler))
        found.fail(`${at(source, handler)}: a rejection dropped without a reason`);
    });
  }
});

rule('the environment is read in one place', (found) => {
  for (const path of ours)
    if (!ENVIRONMENT_READERS.includes(path) && !MAY_PRINT.test(path))
      found.notMatch(read(path), /process\.env\b/, path);
});

rule('the kernel takes time and chance as parts, so that a test can move them', (found) => {
  for (const path of ours)
    if (path.startsWith('kernel/') && path !== 'kernel/clock.ts')
      found.notMatch(read(path), /\b(Date\.now|performance\.now|Math\.random)\(/, path);
});

rule('nobody prints but the tools', (found) => {
  for (const path of ours)
    if (!MAY_PRINT.test(path))
      found.notMatch(read(path), /^[^/*]*\bconsole\.\w+\(/m, `${path} logs through kernel/log.ts`);
});

rule('nothing is left for later, and no path of one machine is written down', (found) => {
  // Put together here so that this file passes its own test.
  const later = new RegExp(`\\b(${['TO' + 'DO', 'FIX' + 'ME', 'XX' + 'X'].join('|')})\\b`);
  const machine = new RegExp(`(^|[\\s'"\`(=])/(${['home', 'Users', 'root', 'work'].join('|')})/\\w`, 'm');
  for (const path of files) {
    if (path === 'package-lock.json') continue;
    const text = read(path);
    found.notMatch(text, later, path);
    found.notMatch(text, machine, path);
  }
});

rule('every file says what it is for', (found) => {
  for (const path of sources)
    found.match(read(path), /^(#!.*\n)?(\/\/ \S|\/\*)/, `${path} opens with a comment`);
  for (const path of files.filter((name) => name.endsWith('.sql')))
    found.match(read(path), /^-- \S/, `${path} opens with a comment`);
});

rule('every error code is used: a refusal nobody gives is a promise nobody keeps', (found) => {
  const text = ours
    .filter((path) => path !== 'kernel/errors.ts')
    .map(read)
    .join('\n');
  for (const code of Object.keys(errorTable))
    found.ok(new RegExp(`['"\`]${code}['"\`]`).test(text), `${code} is given somewhere`);
});
