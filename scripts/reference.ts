// Writes docs/reference from the tables in the code: settings, error codes, Redis keys, metrics, the headers of the
// Lua scripts, and the public API. `npm run docs` writes; `npm run docs -- --check` only compares and answers 1 when a
// page is out of date. A tidy test compares too, so the pages cannot fall behind.

import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { configTable } from '../kernel/config.ts';
import { errorTable } from '../kernel/errors.ts';
import { keyTable } from '../kernel/keys.ts';
import { metricPrefix, metricTable } from '../kernel/metrics.ts';
import { closeRanges, endings } from '../line/endings.ts';
import { frameOf, messageTable } from '../line/messages.ts';
import { createOpenApi } from '../line/openapi.ts';
import { luaHeaders } from './lua-headers.ts';

const folder = fileURLToPath(new URL('../docs/reference/', import.meta.url));

/** A cell of a Markdown table: a bar would end it, and `{r}` or `<x>` are to be read as they are. */
const cell = (text: string): string => text.replaceAll('|', '\\|').replaceAll('<', '&lt;');
const code = (text: string): string => (text === '' ? '' : `\`${text.replaceAll('|', '\\|')}\``);
const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [head, head.map(() => '---'), ...rows].map((row) => `| ${row.join(' | ')} |`).join('\n');
const page = (title: string, source: string, intro: string, body: string): string =>
  `# ${title}\n\n${intro}\n\nMade from \`${source}\` by \`npm run docs\`; change it there.\n\n${body}\n`;

const configPage = (): string =>
  page(
    'Settings',
    'kernel/config.ts',
    'Settings are environment variables. All faults are reported at once, at start; an unknown `ANTEROOM_…` name is a fault.',
    table(
      ['name', 'default', 'unit', 'range', 'what it does'],
      Object.values(configTable).map((row) => [
        code(row.env),
        code(Array.isArray(row.default) ? row.default.join(',') : String(row.default)),
        row.unit,
        row.kind === 'integer'
          ? `${row.min} to ${row.max}`
          : row.kind === 'choice'
            ? row.choices.join(', ')
            : '',
        cell(row.says) + ('secret' in row && row.secret ? ' Secret.' : ''),
      ]),
    ),
  );

const errorsPage = (): string =>
  page(
    'Error codes',
    'kernel/errors.ts',
    'Every refusal is `application/problem+json` (RFC 9457) with a `code` that does not change. `Retry-After` is sent where trying again helps.',
    table(
      ['code', 'status', 'Retry-After', 'public text'],
      Object.entries(errorTable).map(([name, row]) => {
        const [status, text, retryAfterSeconds]: readonly [number, string, number?] = row;
        return [
          code(name),
          String(status),
          retryAfterSeconds === undefined ? '' : `${retryAfterSeconds} s`,
          cell(text),
        ];
      }),
    ),
  );

const keysPage = (): string =>
  page(
    'Keys in Redis',
    'kernel/keys.ts',
    '`{r}` is the room, `{event}` the event: the hash tag that keeps all keys of one script in one slot.',
    table(
      ['key', 'type', 'written by', 'lives', 'holds'],
      Object.values(keyTable).map((row) => [code(row.name), row.type, row.owner, row.life, cell(row.holds)]),
    ),
  );

const metricsPage = (): string =>
  page(
    'Metrics',
    'kernel/metrics.ts',
    'Served on the metrics port at `/metrics` in the Prometheus text format, besides the process metrics of prom-client.',
    table(
      ['name', 'type', 'labels', 'what it counts'],
      Object.entries(metricTable).map(([name, row]) => [
        code(metricPrefix + name),
        row.kind,
        row.labels.join(', '),
        cell(row.help),
      ]),
    ),
  );

const messagesPage = (): string =>
  page(
    'Messages of a stream',
    'line/messages.ts` and `line/endings.ts',
    'What `GET /v1/rooms/:room/events` (server-sent events) and `GET /v1/rooms/:room/socket` (WebSocket, one JSON text a message) say. Both say the same; where an event has `event:` and `id:`, a socket message has the members `type` and `id`. An id is the epoch of the room and the offset in its entry stream; every message has one but `position` (over a socket, the `id` of a `notice` is the notice’s own). Whoever comes back, with any `Last-Event-ID` or none, is told the present state first and then what is new; nothing old is repeated.',
    [
      ...Object.values(messageTable).map(({ when, has, example }) => {
        const id = example.type === 'position' ? undefined : '1795270000000-1795276800000-0';
        const shown = (['sse', 'socket'] as const).map(
          (transport) => `\`\`\`\n${frameOf(transport, example, id).trim()}\n\`\`\``,
        );
        return `## ${example.type}\n\n${when}\n\n${has}\n\n${shown.join('\n\n')}`;
      }),
      `## How a stream ends\n\n${table(
        ['reason', 'close code', 'what it means'],
        Object.entries(endings).map(([word, { code: number, says }]) => [
          code(word),
          String(number),
          cell(says),
        ]),
      )}`,
      `An event stream is told how long to wait by \`retry:\`; a socket by its close code:\n\n${table(
        ['close codes', 'what the client does'],
        closeRanges.map(({ from, to, act }) => [from === to ? String(from) : `${from} to ${to}`, cell(act)]),
      )}`,
    ].join('\n\n'),
  );

const scriptsPage = (): string =>
  page(
    'Lua scripts',
    'lua/**/*.lua',
    'Each script is one transition of shared state, in one step. It answers with one of the outcome words, in the order they are checked.',
    luaHeaders()
      .map((header) =>
        [
          `## ${header.name}`,
          header.purpose.charAt(0).toUpperCase() + header.purpose.slice(1),
          `- Keys: ${header.keys.map(code).join(' ') || 'none'}`,
          `- Arguments: ${header.args.map((arg) => code(arg.name) + (arg.note === '' ? '' : ` (${cell(arg.note)})`)).join(', ') || 'none'}`,
          `- Outcomes: ${header.returns.map((outcome) => code(`${outcome.word} ${outcome.values}`.trim())).join(', ')}`,
          `- Cost: ${cell(header.cost)}`,
        ]
          .join('\n')
          .replace('\n', '\n\n')
          .replace('\n- Keys', '\n\n- Keys'),
      )
      .join('\n\n'),
  );

/** File name → text, for every page. */
export const referencePages = (): Map<string, string> =>
  new Map([
    ['config.md', configPage()],
    ['errors.md', errorsPage()],
    ['keys.md', keysPage()],
    ['metrics.md', metricsPage()],
    ['messages.md', messagesPage()],
    ['scripts.md', scriptsPage()],
    ['openapi.json', `${JSON.stringify(createOpenApi(), null, 2)}\n`],
  ]);

/** The names of the pages that differ from what is checked in. */
export const outdatedPages = (): string[] =>
  [...referencePages()]
    .filter(([name, text]) => !existsSync(folder + name) || readFileSync(folder + name, 'utf8') !== text)
    .map(([name]) => name);

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  if (process.argv.includes('--check')) {
    const outdated = outdatedPages();
    if (outdated.length > 0) {
      console.error(`Out of date in docs/reference: ${outdated.join(', ')}. Run \`npm run docs\`.`);
      process.exitCode = 1;
    }
  } else {
    mkdirSync(folder, { recursive: true });
    for (const [name, text] of referencePages()) writeFileSync(folder + name, text);
    console.log(`Wrote ${referencePages().size} pages to docs/reference.`);
  }
}
