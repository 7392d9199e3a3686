// What the agent says of itself: nothing, a tool, a browser that a program drives, or a search engine (which never
// buys a ticket, so that a claim to be one is either a fake or lost).

import type { Check } from './check.ts';

export const agentMissing: Check = {
  id: 'agent-missing',
  family: 'agent',
  find: ({ agent }) => (agent.trim() === '' ? 'The request does not say which browser sent it.' : undefined),
};
export const agentTool: Check = {
  id: 'agent-tool',
  family: 'agent',
  find: ({ tool }) => (tool === undefined ? undefined : `The request says it was sent by the tool ${tool}.`),
};
export const agentDriven: Check = {
  id: 'agent-driven',
  family: 'agent',
  find: ({ driven }) =>
    driven === undefined ? undefined : `The browser says a program drives it (${driven}).`,
};
export const agentCrawler: Check = {
  id: 'agent-crawler',
  family: 'agent',
  find: ({ crawler }) =>
    crawler === undefined
      ? undefined
      : `The request says it is the search engine ${crawler}, which does not queue for tickets.`,
};
