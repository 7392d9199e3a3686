// One simulated fan: keeps cookies like a browser, sends a browser's headers, and speaks HTTP only.

import { Agent, request } from 'node:http';
import { openSocket, openStream } from './client.ts';
import { eventually } from './eventually.ts';

export type FanAnswer = {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  text: string;
  json: Record<string, unknown>;
};

/**
 * A server closes a connection that has been idle for ten seconds. Ours are given up long before, so that none is
 * closed in the moment of its next use, however late we are.
 */
const IDLE_MS = 4000;
const AGENT = new Agent({ keepAlive: true, maxSockets: 64, timeout: IDLE_MS });

/** A turn that takes longer than that does not come; tests with long lines say a time of their own. */
const TURN_MS_MAX = 120_000;

/** What Chrome sends, so that nobody takes the fan for a robot. */
export const browserHeaders = {
  'sec-ch-ua': '"Chromium";v="140", "Not=A?Brand";v="24", "Google Chrome";v="140"',
  'sec-ch-ua-mobile': '?0',
  'sec-ch-ua-platform': '"Windows"',
  'user-agent':
    'Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36',
  accept: 'application/json',
  'sec-fetch-site': 'same-origin',
  'sec-fetch-mode': 'cors',
  'sec-fetch-dest': 'empty',
  'accept-language': 'en-GB,en;q=0.9',
};

export class Fan {
  readonly base: string;
  readonly room: string;
  readonly address: string;
  readonly cookies = new Map<string, string>();
  readonly positions: number[] = [];
  number = 0;

  constructor(options: { base: string; room?: string; index: number }) {
    this.base = options.base;
    this.room = options.room ?? 'demo';
    this.address = `10.${(options.index >> 16) & 255}.${(options.index >> 8) & 255}.${options.index & 255}`;
  }

  headers(more: Record<string, string> = {}): Record<string, string> {
    const cookie = [...this.cookies].map(([name, value]) => `${name}=${value}`).join('; ');
    return {
      ...browserHeaders,
      'x-forwarded-for': this.address,
      ...(cookie === '' ? {} : { cookie }),
      ...more,
    };
  }

  ask(
    method: string,
    path: string,
    options: { body?: unknown; raw?: string; headers?: Record<string, string> } = {},
  ): Promise<FanAnswer> {
    const body = options.body === undefined ? options.raw : JSON.stringify(options.body);
    return new Promise((resolve, reject) => {
      const asked = request(
        `${this.base}${path}`,
        {
          method,
          agent: AGENT,
          headers: this.headers({
            ...(body === undefined
              ? {}
              : { 'content-type': 'application/json', 'content-length': String(Buffer.byteLength(body)) }),
            ...options.headers,
          }),
        },
        (answer) => {
          const chunks: Buffer[] = [];
          answer.on('data', (chunk: Buffer) => chunks.push(chunk));
          answer.on('error', reject);
          answer.on('end', () => {
            for (const cookie of answer.headers['set-cookie'] ?? []) {
              const [pair = ''] = cookie.split(';');
              const at = pair.indexOf('=');
              if (pair.slice(at + 1) === '') this.cookies.delete(pair.slice(0, at));
              else this.cookies.set(pair.slice(0, at), pair.slice(at + 1));
            }
            const text = Buffer.concat(chunks).toString('utf8');
            const isJson = /json/.test(answer.headers['content-type'] ?? '');
            resolve({
              status: answer.statusCode ?? 0,
              headers: answer.headers,
              text,
              json: isJson && text !== '' ? JSON.parse(text) : {},
            });
          });
        },
      );
      // The server may close a connection that was idle just as it is used again; such a request was not taken
      // (https://nodejs.org/api/http.html#requestreusedsocket), and a browser sends it once more, too.
      asked.on('error', (error: NodeJS.ErrnoException) =>
        asked.reusedSocket && error.code === 'ECONNRESET'
          ? this.ask(method, path, options).then(resolve, reject)
          : reject(error),
      );
      asked.end(body);
    });
  }

  async join(): Promise<FanAnswer> {
    const answer = await this.ask('POST', `/v1/rooms/${this.room}/places`, { body: {} });
    if (typeof answer.json.number === 'number') this.number = answer.json.number;
    return answer;
  }

  /** Waits for "your turn" over a channel; answers the claim token, or the reason of an end. */
  async wait(
    channel: 'sse' | 'socket' | 'poll',
    deadlineMs = TURN_MS_MAX,
  ): Promise<{ claim: string } | { ended: string }> {
    const until = performance.now() + deadlineMs;
    const left = () => Math.max(1, until - performance.now());
    const path = `/v1/rooms/${this.room}`;
    if (channel === 'poll') {
      let claim = '';
      await eventually(
        `fan ${this.number} is promoted`,
        async () => {
          const answer = await this.ask('GET', `${path}/places/me`);
          if (typeof answer.json.position === 'number') this.positions.push(answer.json.position);
          if (answer.json.state !== 'promoted') {
            await new Promise((resolve) =>
              setTimeout(resolve, Math.min(Number(answer.json.pollAfterMs ?? 2000), 4000)),
            );
            return false;
          }
          claim = String(answer.json.claimToken);
          return true;
        },
        deadlineMs,
      );
      return { claim };
    }
    const stream =
      channel === 'sse'
        ? await openStream(`${this.base}${path}/events`, {
            headers: this.headers({ accept: 'text/event-stream' }),
          })
        : undefined;
    const socket =
      channel === 'socket'
        ? await openSocket(`${this.base}${path}/socket`.replace('http', 'ws'), {
            headers: this.headers({ origin: this.base }),
          })
        : undefined;
    const answered = stream?.answered ?? socket?.answered;
    if (answered !== 200 && answered !== 101)
      throw new Error(`${channel} answered ${answered}: ${stream?.text ?? socket?.text}`);
    try {
      for (;;) {
        const event = stream === undefined ? undefined : await stream.next(left());
        const text = socket === undefined ? undefined : await socket.next(left());
        if (event === undefined && text === undefined)
          throw new Error(`${channel} ended for fan ${this.number} before its turn`);
        const data = JSON.parse(text ?? event?.data ?? '{}');
        const type = event?.event ?? data.type;
        if (type === 'position') this.positions.push(data.position);
        if (type === 'promoted') return { claim: data.claimToken };
        if (type === 'ended') return { ended: data.reason };
      }
    } finally {
      stream?.close();
      socket?.close();
    }
  }

  claim(token?: string): Promise<FanAnswer> {
    return this.ask('POST', `/v1/rooms/${this.room}/pass`, {
      body: token === undefined ? {} : { claim: token },
    });
  }
}
