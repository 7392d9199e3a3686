// One simulated fan over plain node:http: a browser's headers, a cookie jar, JSON requests and an event stream. It
// knows the public API and nothing else.

import { type Agent, type ClientRequest, type IncomingMessage, request } from 'node:http';

/** What Chrome 140 on Windows sends with a fetch, so that nobody takes the fan for a tool. */
export const browserHeaders: Readonly<Record<string, string>> = {
  'sec-ch-ua-platform': '"Windows"',
  'user-agent':
    'Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36',
  'sec-ch-ua': '"Chromium";v="140", "Not=A?Brand";v="24", "Google Chrome";v="140"',
  'sec-ch-ua-mobile': '?0',
  accept: 'application/json',
  'sec-fetch-site': 'same-origin',
  'sec-fetch-mode': 'cors',
  'sec-fetch-dest': 'empty',
  'accept-encoding': 'identity',
  'accept-language': 'en-GB,en;q=0.9',
};

export type FanAnswer = { status: number; json: Record<string, unknown> };
export type FanEvent = { event: string; data: Record<string, unknown> };
export type FanStream = { close(): void };

const REQUEST_MS_MAX = 15_000;
const FRAME_CHARS_MAX = 64_000;

/** An object, or an empty one for everything else a server might send. */
export const parseObject = (text: string): Record<string, unknown> => {
  try {
    const value: unknown = JSON.parse(text);
    // A non-null object that is no array: its fields may be looked at by name.
    if (typeof value === 'object' && value !== null && !Array.isArray(value))
      return value as Record<string, unknown>;
  } catch {
    return {}; // Pages and texts are answers too; a fan only looks at their status.
  }
  return {};
};

/** Splits a stream of server-sent events (WHATWG HTML, section 9.2) and hands each one over. */
const readEvents = (answer: IncomingMessage, take: (event: FanEvent) => void): void => {
  let rest = '';
  answer.setEncoding('utf8');
  answer.on('data', (chunk: string) => {
    rest += chunk;
    for (let end = rest.indexOf('\n\n'); end >= 0; end = rest.indexOf('\n\n')) {
      let event = 'message';
      let data = '';
      for (const line of rest.slice(0, end).split('\n')) {
        if (line.startsWith('event:')) event = line.slice(6).trim();
        else if (line.startsWith('data:')) data += line.slice(5).trim();
      }
      rest = rest.slice(end + 2);
      if (data !== '') take({ event, data: parseObject(data) });
    }
    if (rest.length > FRAME_CHARS_MAX) answer.destroy(new Error('a frame without an end'));
  });
};

export type Fan = {
  ask(
    method: string,
    path: string,
    options?: { body?: unknown; headers?: Record<string, string> },
  ): Promise<FanAnswer>;
  /** The cookies as a browser would send them now. */
  cookieHeader(): string;
  /** Resolves when the stream is open; `ended` is called once when it is not any more, unless closed by us. */
  listen(path: string, take: (event: FanEvent) => void, ended: () => void): Promise<FanStream>;
};

/** `localAddress` is where the fan's connections come from; one each keeps the address limit out of the picture. */
export const createFan = (options: { base: string; localAddress?: string; agent: Agent }): Fan => {
  const { base, agent } = options;
  const url = new URL(base);
  const cookies = new Map<string, string>();
  const place = {
    hostname: url.hostname.replace(/^\[|\]$/g, ''),
    port: url.port === '' ? 80 : Number(url.port),
    ...(options.localAddress === undefined ? {} : { localAddress: options.localAddress }),
  };
  const cookieHeader = (): string => [...cookies].map(([name, value]) => `${name}=${value}`).join('; ');
  const headersWith = (more: Record<string, string>): Record<string, string> => {
    const cookie = cookieHeader();
    return { ...browserHeaders, host: url.host, ...(cookie === '' ? {} : { cookie }), ...more };
  };
  const keepCookies = (answer: IncomingMessage): void => {
    for (const line of answer.headers['set-cookie'] ?? []) {
      const pair = line.split(';', 1)[0] ?? '';
      const at = pair.indexOf('=');
      const [name, value] = [pair.slice(0, at), pair.slice(at + 1)];
      if (value === '') cookies.delete(name);
      else cookies.set(name, value);
    }
  };
  return {
    cookieHeader,
    ask(method, path, { body, headers = {} } = {}) {
      const text = body === undefined ? undefined : JSON.stringify(body);
      const typed: Record<string, string> =
        text === undefined
          ? {}
          : { 'content-type': 'application/json', 'content-length': String(Buffer.byteLength(text)) };
      return new Promise((resolve, reject) => {
        const asked = request(
          { ...place, agent, method, path, headers: headersWith({ ...typed, ...headers }) },
          (answer) => {
            let read = '';
            answer.setEncoding('utf8');
            answer.on('data', (chunk: string) => {
              read += chunk;
            });
            answer.on('error', reject);
            answer.on('end', () => {
              keepCookies(answer);
              resolve({ status: answer.statusCode ?? 0, json: parseObject(read) });
            });
          },
        );
        asked.setTimeout(REQUEST_MS_MAX, () => asked.destroy(new Error('no answer in time')));
        asked.on('error', reject);
        asked.end(text);
      });
    },
    listen(path, take, ended) {
      return new Promise((resolve, reject) => {
        let closedByUs = false;
        const asked: ClientRequest = request(
          { ...place, agent: false, path, headers: headersWith({ accept: 'text/event-stream' }) },
          (answer) => {
            if (answer.statusCode !== 200) {
              answer.resume();
              reject(new Error(`the stream answered ${answer.statusCode}`));
              return;
            }
            readEvents(answer, take);
            // An error is followed by close, where the end of the stream is told once.
            answer.on('error', () => undefined);
            answer.on('close', () => {
              if (!closedByUs) ended();
            });
            resolve({
              close: () => {
                closedByUs = true;
                asked.destroy();
              },
            });
          },
        );
        asked.on('error', reject);
        asked.end();
      });
    },
  };
};

/** The nth address of 127.0.0.0/8, from 127.1.0.1 on: the whole net is this machine on Linux. */
export const loopbackAddress = (index: number): string => {
  const host = index % (254 * 254 * 200);
  return `127.${1 + Math.floor(host / (254 * 254))}.${1 + (Math.floor(host / 254) % 254)}.${1 + (host % 254)}`;
};
