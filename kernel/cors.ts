// Which pages of other web origins may read answers of ours (CORS, as the Fetch standard has it in section 3.2).
// Origins are listed by the operator and compared whole; `*` cannot be one, because the answers are about the visitor
// whose cookies come along. A page that is not listed is answered as ever and the browser keeps the answer from it.
//
// Cookies of ours are SameSite=Lax: they come along only from pages of the same site (www.example.org to
// tickets.example.org). A page of another site works with receipts and tokens it keeps itself.

import type { Answer, HeaderList } from './answer.ts';
import { Refusal } from './errors.ts';
import type { Handler, Method, Refuse, Server, Stream } from './server.ts';

/** What a page may read besides the body. */
const EXPOSED = 'retry-after, ratelimit, ratelimit-policy, x-request-id';
const SENT = 'authorization, content-type, last-event-id, place-receipt, traceparent, tracestate';
/** Chromium believes a preflight for two hours at most; a changed list should not take as long. */
const PREFLIGHT_SECONDS = 600;

/** An origin exactly as browsers write it: scheme, host, and a port where it is not the scheme's own. */
export const isWebOrigin = (text: string): boolean =>
  /^https?:\/\/[^*]+$/.test(text) && URL.canParse(text) && new URL(text).origin === text;

const VARY: HeaderList = [['vary', 'Origin']];

/** The same server, whose routes below `prefix` may be used from pages of these origins. Their preflights included. */
export const withCors = (server: Server, options: { origins: readonly string[]; prefix: string }): Server => {
  if (options.origins.length === 0) return server;
  const origins = new Set(options.origins);
  const methodsOf = new Map<string, Method[]>();
  const headersFor = (origin: string | undefined): HeaderList =>
    origin === undefined || !origins.has(origin)
      ? VARY
      : [
          ...VARY,
          ['access-control-allow-origin', origin],
          ['access-control-allow-credentials', 'true'],
          ['access-control-expose-headers', EXPOSED],
        ];

  /** Its prepared lines would hide the headers that are added. */
  const withHeaders = ({ lines: _, ...answer }: Answer, more: HeaderList): Answer => ({
    ...answer,
    headers: [...(answer.headers ?? []), ...more],
  });
  const added = (result: Answer | Stream, more: HeaderList): Answer | Stream => {
    if (!('stream' in result)) return withHeaders(result, more);
    // What answers for a stream lives as long as it, and may be more than its own members: no copy is made of it.
    result.headers = [...(result.headers ?? []), ...more];
    return result;
  };
  const refused = (error: unknown, more: HeaderList): unknown =>
    error instanceof Refusal
      ? new Refusal(error.code, {
          detail: error.detail,
          extra: error.extra,
          headers: [...error.headers, ...more],
          ...(error.cause === undefined ? {} : { cause: error.cause }),
        })
      : error;
  const shared =
    (run: Handler): Handler =>
    (request) => {
      const more = headersFor(request.header('origin'));
      try {
        const result = run(request);
        if (!('then' in result)) return added(result, more);
        return result.then(
          (value) => added(value, more),
          (error: unknown) => {
            throw refused(error, more);
          },
        );
      } catch (error) {
        throw refused(error, more);
      }
    };

  const sharedRefusal =
    (refuse: Refuse): Refuse =>
    (request) => {
      const given = refuse(request);
      if (given === undefined) return undefined;
      return { ...given, answer: withHeaders(given.answer, headersFor(request.header('origin'))) };
    };

  const preflight =
    (methods: readonly Method[]): Handler =>
    (request) => {
      const headers = headersFor(request.header('origin'));
      if (headers === VARY) return { status: 204, headers };
      return {
        status: 204,
        headers: [
          ...headers,
          ['access-control-allow-methods', methods.join(', ')],
          ['access-control-allow-headers', SENT],
          ['access-control-max-age', String(PREFLIGHT_SECONDS)],
        ],
      };
    };

  return {
    ...server,
    route(method, pattern, run, more) {
      if (!pattern.startsWith(options.prefix)) return server.route(method, pattern, run, more);
      const refuse = more?.refuse === undefined ? {} : { refuse: sharedRefusal(more.refuse) };
      server.route(method, pattern, shared(run), { ...more, ...refuse });
      const methods = methodsOf.get(pattern);
      if (methods !== undefined) return void methods.push(method);
      const first = [method];
      methodsOf.set(pattern, first);
      server.route('OPTIONS', pattern, preflight(first), { bodyBytesMax: 0 });
    },
  };
};
