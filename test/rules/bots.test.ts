// The judge: people pass, whatever browser they use; tools and fakes do not, and are told why in words.

import t from 'tap';
import { factsOf } from '../../bots/facts.ts';
import { createHistory } from '../../bots/history.ts';
import { judge } from '../../bots/judge.ts';
import { checks, createRuleBook, parseRules } from '../../bots/rules.ts';
import { silentLog } from '../../kernel/log.ts';

const rules = createRuleBook({ log: silentLog }).current();
const verdict = (headers: [string, string][], joins = 1) =>
  judge(factsOf({ headers: headers.flat(), addressPrefix: '10.0.0.0/24' }, joins), rules);

const modern: [string, string][] = [
  ['accept', 'application/json'],
  ['accept-language', 'en-GB,en;q=0.9'],
  ['sec-fetch-site', 'same-origin'],
  ['sec-fetch-mode', 'cors'],
];
const plain: [string, string][] = [
  ['accept', '*/*'],
  ['accept-language', 'de-DE'],
];
const chrome = (version: number, os: string): string =>
  `Mozilla/5.0 (${os}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/${version}.0.0.0 Safari/537.36`;

t.test('how often a network joined is known without counting, for a minute', async (t) => {
  const history = createHistory();
  t.equal(history.recent('a', 1_000_000), 0);
  history.count('a', 1_000_000);
  t.equal(history.recent('a', 1_059_000), 1);
  t.equal(history.recent('a', 1_060_000), 0);
  for (let second = 0; second < 100; second += 1) history.count('a', 2_000_000 + second * 1000);
  t.equal(history.recent('a', 2_099_000), 60);
  t.equal(history.recent('a', 2_109_000), 50);
  t.equal(history.recent('a', 2_050_000), 60, 'a clock that went back');
  t.equal(history.recent('a', 2_200_000), 0);
  t.equal(history.count('a', 2_099_000), 61);
});

t.test('people pass, whatever browser they use', async (t) => {
  const people: [string, string, [string, string][]][] = [
    [
      'Chrome on Windows',
      chrome(140, 'Windows NT 10.0; Win64; x64'),
      [...modern, ['sec-ch-ua', '"Chromium";v="140", "Google Chrome";v="140"']],
    ],
    [
      'Chrome on Android',
      `${chrome(139, 'Linux; Android 10; K')}`.replace('Safari', 'Mobile Safari'),
      modern,
    ],
    [
      'Edge',
      `${chrome(140, 'Windows NT 10.0; Win64; x64')} Edg/140.0.0.0`,
      [...modern, ['sec-ch-ua', '"Microsoft Edge";v="140"']],
    ],
    ['Firefox', 'Mozilla/5.0 (X11; Linux x86_64; rv:142.0) Gecko/20100101 Firefox/142.0', modern],
    ['Firefox of old', 'Mozilla/5.0 (Windows NT 6.1; rv:78.0) Gecko/20100101 Firefox/78.0', plain],
    [
      'Safari on a Mac',
      'Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Safari/605.1.15',
      modern,
    ],
    [
      'Safari on an old iPhone',
      'Mozilla/5.0 (iPhone; CPU iPhone OS 13_3 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/13.0.4 Mobile/15E148 Safari/604.1',
      plain,
    ],
    [
      'Chrome on an iPhone',
      'Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/140.0.7339.39 Mobile/15E148 Safari/604.1',
      modern,
    ],
    [
      'Instagram’s browser',
      'Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 Instagram 340.0.0.21.109',
      plain,
    ],
    [
      'Facebook’s browser',
      `${chrome(138, 'Linux; Android 14; SM-S918B')} [FB_IAB/FB4A;FBAV/470.0.0.0.0;]`,
      modern,
    ],
    [
      'Samsung Internet',
      `${chrome(136, 'Linux; Android 14; SM-S918B')}`.replace('Chrome', 'SamsungBrowser/28.0 Chrome'),
      modern,
    ],
    ['Opera', `${chrome(139, 'Windows NT 10.0; Win64; x64')} OPR/123.0.0.0`, modern],
    ['Tor Browser', 'Mozilla/5.0 (Windows NT 10.0; rv:128.0) Gecko/20100101 Firefox/128.0', modern],
    [
      'DuckDuckGo',
      'Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Safari/605.1.15 Ddg/18.5',
      plain,
    ],
  ];
  for (const [who, agent, headers] of people) {
    const decision = verdict([['user-agent', agent], ...headers]);
    t.equal(decision.verdict, 'allow', `${who}: ${JSON.stringify(decision.reasons)}`);
  }
});

t.test('tools and fakes do not pass, and the reason is a sentence', async (t) => {
  const fakes: [string, [string, string][], string, string][] = [
    [
      'curl',
      [
        ['user-agent', 'curl/8.5.0'],
        ['accept', '*/*'],
      ],
      'challenge',
      'agent-tool',
    ],
    ['nothing at all', [], 'block', 'agent-missing'],
    [
      'Python',
      [
        ['user-agent', 'python-requests/2.32'],
        ['accept', '*/*'],
      ],
      'challenge',
      'agent-tool',
    ],
    ['Go without more', [['user-agent', 'Go-http-client/2.0']], 'block', 'headers-bare'],
    [
      'headless Chrome',
      [['user-agent', chrome(140, 'X11; Linux x86_64').replace('Chrome/', 'HeadlessChrome/')], ...modern],
      'challenge',
      'agent-driven',
    ],
    [
      'a search engine',
      [['user-agent', 'Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)'], ...plain],
      'challenge',
      'agent-crawler',
    ],
    [
      'Chrome by name only',
      [['user-agent', chrome(140, 'Windows NT 10.0')]],
      'tarpit',
      'headers-no-metadata',
    ],
    [
      'two versions',
      [['user-agent', chrome(140, 'Windows NT 10.0')], ...modern, ['sec-ch-ua', '"Google Chrome";v="99"']],
      'challenge',
      'headers-brand-mismatch',
    ],
  ];
  for (const [who, headers, expected, check] of fakes) {
    const decision = verdict(headers);
    t.equal(decision.verdict, expected, `${who}: ${decision.weight} ${JSON.stringify(decision.reasons)}`);
    const reason = decision.reasons.find((found) => found.check === check);
    t.match(reason?.words, /^[A-Z].{20,}\.$/, who);
  }
});

t.test(
  'a network alone never goes beyond a challenge, and a block needs two families of evidence',
  async (t) => {
    const strict = parseRules(
      JSON.stringify({
        challengeAt: 1,
        tarpitAt: 2,
        blockAt: 3,
        checks: {
          'rate-network': { mode: 'enforce', weight: 900, threshold: 10 },
          'agent-tool': { mode: 'enforce', weight: 900 },
        },
      }),
    );
    t.ok(strict.outcome === 'ok');
    if (strict.outcome !== 'ok') return;
    const of = (agent: string, joins: number) =>
      judge(factsOf({ headers: ['user-agent', agent], addressPrefix: 'x' }, joins), strict.rules).verdict;
    t.equal(of('Mozilla/5.0', 11), 'challenge');
    t.equal(of('Mozilla/5.0', 10), 'allow');
    t.equal(of('curl/8', 1), 'tarpit');
    t.equal(of('curl/8', 11), 'block');
  },
);

t.test('3,000 people behind one address get in', async (t) => {
  const history = createHistory();
  let allowed = 0;
  for (let index = 0; index < 3000; index += 1) {
    const joins = history.count('net', 1_000_000 + index * 10);
    if (verdict([['user-agent', chrome(140, 'Windows NT 10.0')], ...modern], joins).verdict === 'allow')
      allowed += 1;
  }
  t.equal(allowed, 3000);
});

t.test('a join is forgotten after a minute, and a clock that goes back does no harm', async (t) => {
  const history = createHistory();
  t.equal(history.count('a', 10_000), 1);
  t.equal(history.count('a', 69_000), 2);
  t.equal(history.count('a', 70_000), 2, 'the first is a minute old');
  t.equal(history.count('a', 5000), 3);
  t.equal(history.count('a', 500_000), 1);
  t.equal(history.count('b', 500_000), 1);
});

t.test('a bad rule file keeps the old rules and says what is wrong', async (t) => {
  const book = createRuleBook({ log: silentLog });
  const before = book.current();
  for (const json of [
    '',
    '[]',
    '{}',
    '{"checks":{}}',
    '{"challengeAt":5,"tarpitAt":1,"blockAt":9,"checks":{}}',
    '{"challengeAt":1,"tarpitAt":2,"blockAt":3,"checks":{"nonsense":{"mode":"enforce","weight":1}}}',
    '{"challengeAt":1,"tarpitAt":2,"blockAt":3,"checks":{"agent-tool":{"mode":"loud","weight":-1}}}',
  ]) {
    const read = book.replace(json);
    t.equal(read.outcome, 'faults', json);
    if (read.outcome === 'faults') t.ok(read.faults.every((fault) => fault.length > 10));
  }
  t.equal(book.current(), before);
  const off = JSON.stringify({
    challengeAt: 1,
    tarpitAt: 2,
    blockAt: 3,
    checks: { 'agent-tool': { mode: 'shadow', weight: 5 } },
  });
  t.equal(book.replace(off).outcome, 'ok');
  const decision = judge(
    factsOf({ headers: ['user-agent', 'curl/8'], addressPrefix: 'x' }, 1),
    book.current(),
  );
  t.equal(decision.verdict, 'allow');
  t.equal(decision.shadow.length, 1, 'shadow is noted, not counted');
  t.equal(new Set(checks.map((check) => check.id)).size, checks.length);
});
