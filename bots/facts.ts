// What a request tells about whoever sent it, collected once: the agent as it names itself, which headers came and
// whether they fit together. Pure. ua-parser-js is imported here and nowhere else.

import { UAParser } from 'ua-parser-js';
import { createRecent } from '../kernel/recent.ts';

export type Facts = {
  /** As sent, cut at 300 characters; empty when there was none. */
  agent: string;
  browser: { name: string; major: number };
  /** Names itself a tool that no person waits with. */
  tool: string | undefined;
  /** Names itself a browser that a program drives. */
  driven: string | undefined;
  /** Names itself a search engine. */
  crawler: string | undefined;
  /** Names and values alternately, in wire order, names in lower case. */
  headers: readonly string[];
  language: boolean;
  accept: boolean;
  /** Any of the Sec-Fetch-* headers, which every current browser sends and no script can change. */
  fetchMetadata: boolean;
  /** Brands of Sec-CH-UA; empty when not sent. */
  brands: string;
  platform: string;
  /** First 24 bits of an IPv4 address, first 48 of an IPv6 address. */
  addressPrefix: string;
  /** Joins from that prefix in the last minute, this one included. */
  joinsLastMinute: number;
};

const TOOL =
  /\b(curl|wget|python-requests|python-urllib|aiohttp|httpx|go-http-client|okhttp|java|apache-httpclient|libwww-perl|node-fetch|axios|undici|scrapy|postmanruntime|insomnia)\b/i;
const DRIVEN = /\b(headlesschrome|phantomjs|playwright|puppeteer|selenium|slimerjs)\b/i;
const CRAWLER = /\b(googlebot|bingbot|yandexbot|baiduspider|duckduckbot|applebot)\b/i;

const found = (pattern: RegExp, text: string): string | undefined => pattern.exec(text)?.[1]?.toLowerCase();

/** Reading an agent costs some 80 µs, and a crowd uses a few hundred of them. */
const AGENTS_MAX = 2000;
type AgentFacts = Pick<Facts, 'browser' | 'tool' | 'driven' | 'crawler'>;
const agents = createRecent<string, AgentFacts>(AGENTS_MAX);

const agentFactsOf = (agent: string): AgentFacts => {
  const known = agents.get(agent);
  if (known !== undefined) return known;
  const { browser } = new UAParser(agent).getResult();
  return agents.set(agent, {
    browser: { name: browser.name ?? '', major: Number(browser.version?.split('.')[0] ?? 0) || 0 },
    tool: found(TOOL, agent),
    driven: found(DRIVEN, agent),
    crawler: found(CRAWLER, agent),
  });
};

export const factsOf = (
  request: { headers: readonly string[]; addressPrefix: string },
  joinsLastMinute: number,
): Facts => {
  const { headers } = request;
  let [agent, brands, platform] = ['', '', ''];
  let [language, accept, fetchMetadata] = [false, false, false];
  for (let index = 0; index < headers.length; index += 2) {
    switch (headers[index]) {
      case 'user-agent':
        agent = headers[index + 1]!.slice(0, 300);
        break;
      case 'accept':
        accept = true;
        break;
      case 'accept-language':
        language = true;
        break;
      case 'sec-fetch-site':
      case 'sec-fetch-mode':
        fetchMetadata = true;
        break;
      case 'sec-ch-ua':
        brands = headers[index + 1]!;
        break;
      case 'sec-ch-ua-platform':
        platform = headers[index + 1]!.replaceAll('"', '');
        break;
    }
  }
  const { browser, tool, driven, crawler } = agentFactsOf(agent);
  return {
    agent,
    browser,
    tool,
    driven,
    crawler,
    headers,
    language,
    accept,
    fetchMetadata,
    brands,
    platform,
    addressPrefix: request.addressPrefix,
    joinsLastMinute,
  };
};
