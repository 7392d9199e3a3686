// A payment provider to try things with: a server of its own that takes no money. It promises what a real one does
// (a reference charges once, a charge can be looked up and refunded once, webhooks are signed and repeated until
// they are answered) and misbehaves on request: the card's word says how. What it did survives a restart in a
// journal of JSON lines. Never for production: whoever knows a word can pay with it.

import { appendFileSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Config } from '../../kernel/config.ts';
import { Refusal } from '../../kernel/errors.ts';
import { createFetcher } from '../../kernel/fetch.ts';
import { createServer, json, type Request, type Server } from '../../kernel/http.ts';
import type { Log } from '../../kernel/log.ts';
import { sameSecret } from '../../kernel/token.ts';
import { signWebhook } from '../payment.ts';

/** What each word of a card does. `late` may carry seconds: `late:8`. */
export const cards = {
  ok: 'charges at once',
  declined: 'is declined at once',
  slow: 'charges, and answers after two seconds',
  late: 'answers `pending`, then charges and tells by webhook, after the given seconds (3 without)',
  'timeout-charged': 'charges and never answers',
  'timeout-not-charged': 'neither charges nor answers',
  'webhook-twice': 'charges at once and sends its webhook twice',
  'other-amount': 'charges one minor unit more than was asked for',
  'refund-fails': 'charges at once; its refund fails twice before it works',
} as const;

type Charge = {
  reference: string;
  amountMinor: number;
  currency: string;
  card: string;
  state: 'pending' | 'succeeded' | 'declined';
  refund?: string;
};
type Entry = { charge: Charge } | { refund: { reference: string; charge: string } };

const SLOW_MS = 2000;
const LATE_S = 3;
/** Longer than anyone waits; the client has left by then. */
const NEVER_MS = 60_000;
const WEBHOOK_TRIES_MAX = 8;
const CHARGES_MAX = 100_000;
const REFERENCE = /^[A-Za-z0-9-]{1,64}$/;

type Body = { reference: string; amountMinor: number; currency: string; card: string; charge: string };

const bodyOf = (request: Request): Body => {
  let value: unknown;
  try {
    value = JSON.parse(request.body.toString('utf8'));
  } catch (cause) {
    throw new Refusal('bad-json', { cause });
  }
  if (typeof value !== 'object' || value === null) throw new Refusal('bad-json');
  const { reference, amountMinor, currency, card = '', charge = '' } = value as Record<string, unknown>; // An object.
  if (typeof reference !== 'string' || !REFERENCE.test(reference))
    throw new Refusal('bad-field', { detail: '`reference` is 1 to 64 letters, digits or `-`' });
  if (!Number.isSafeInteger(amountMinor) || Number(amountMinor) < 0)
    throw new Refusal('bad-field', { detail: '`amountMinor` is a whole number of minor units' });
  if (typeof currency !== 'string' || !/^[A-Z]{3}$/.test(currency))
    throw new Refusal('bad-field', { detail: '`currency` is three capital letters' });
  return {
    reference,
    amountMinor: Number(amountMinor),
    currency,
    card: String(card),
    charge: String(charge),
  };
};

export type Sandbox = { start(): Promise<{ port: number }>; stop(): Promise<void> };

export const createSandbox = (options: { config: Config; log: Log }): Sandbox => {
  const { config, log } = options;
  const folder = join(config.dataFolder, 'sandbox');
  const journal = join(folder, 'journal.jsonl');
  const charges = new Map<string, Charge>();
  const failures = new Map<string, number>();
  const timers = new Set<NodeJS.Timeout>();
  const fetcher = createFetcher({ connectionsMax: 16, headersTimeoutMs: 5000 });
  const bookingUrl = config.bookingUrl || `http://${config.host}:${config.bookingPort}`;
  let server: Server | undefined;

  const apply = (entry: Entry): void => {
    if ('charge' in entry) charges.set(entry.charge.reference, entry.charge);
    else {
      const charge = charges.get(entry.refund.charge);
      if (charge !== undefined) charge.refund = entry.refund.reference;
    }
  };
  const record = (entry: Entry): void => {
    apply(entry);
    appendFileSync(journal, `${JSON.stringify(entry)}\n`);
  };
  const after = (ms: number, work: () => void): void => {
    const timer = setTimeout(() => {
      timers.delete(timer);
      work();
    }, ms);
    timers.add(timer);
  };

  const tell = (charge: Charge, attempt = 1): void => {
    const body = JSON.stringify({
      type: 'charge',
      reference: charge.reference,
      state: charge.state,
      amountMinor: charge.amountMinor,
      currency: charge.currency,
    });
    const again = (why: string): void => {
      log.debug('sandbox-webhook-failed', { attempt, why });
      if (attempt < WEBHOOK_TRIES_MAX)
        after(Math.min(250 * 2 ** attempt, 30_000), () => tell(charge, attempt + 1));
    };
    fetcher
      .json({
        origin: bookingUrl,
        method: 'POST',
        path: '/v1/payments/sandbox/webhook',
        headers: [['sandbox-signature', signWebhook(config.sandboxSecret, body, Date.now())]],
        body: JSON.parse(body),
        timeoutMs: 5000,
      })
      .then(
        ({ status }) => status >= 300 && again(`status ${status}`),
        (error: unknown) => again(String(error)),
      );
  };

  const succeed = (charge: Charge, webhooks = 1): void => {
    const done: Charge = { ...charge, state: 'succeeded' };
    record({ charge: done });
    for (let n = 0; n < webhooks; n++) after(20 * n, () => tell(done));
  };

  const answer = (charge: Charge) => json(200, charges.get(charge.reference) ?? charge);
  const pause = (ms: number, signal: AbortSignal): Promise<void> =>
    new Promise((resolve) => {
      after(ms, resolve);
      signal.addEventListener('abort', () => resolve(), { once: true });
    });

  const authorize = (request: Request): void => {
    if (!sameSecret(request.header('authorization') ?? '', `Bearer ${config.sandboxSecret}`))
      throw new Refusal('token-invalid');
  };

  return {
    async start() {
      mkdirSync(folder, { recursive: true });
      if (existsSync(journal))
        for (const line of readFileSync(journal, 'utf8').split('\n'))
          try {
            // Written by `record` above; a last line cut short by a crash does not parse and never happened.
            if (line !== '') apply(JSON.parse(line) as Entry);
          } catch (error) {
            log.warn('sandbox-journal-line-skipped', { error });
          }
      server = createServer({
        name: 'sandbox',
        host: config.host,
        port: config.sandboxPort,
        exclusive: true,
        log,
        bodyBytesMax: 4096,
        slowReaderMs: config.slowReaderMs,
        trustedProxies: [],
      });
      server.route('POST', '/charges', async (request) => {
        authorize(request);
        const { reference, amountMinor, currency, card } = bodyOf(request);
        const known = charges.get(reference);
        if (known !== undefined) return answer(known);
        if (charges.size >= CHARGES_MAX) throw new Refusal('overloaded');
        const [word = 'ok', seconds] = card.split(':');
        const charge: Charge = { reference, amountMinor, currency, card, state: 'pending' };
        switch (word) {
          case 'ok':
          case 'refund-fails':
            succeed(charge);
            break;
          case 'other-amount':
            succeed({ ...charge, amountMinor: amountMinor + 1 });
            break;
          case 'webhook-twice':
            succeed(charge, 2);
            break;
          case 'slow':
            record({ charge });
            await pause(SLOW_MS, new AbortController().signal);
            succeed(charge);
            break;
          case 'late':
            record({ charge });
            after((seconds === undefined ? LATE_S : Number(seconds)) * 1000, () => succeed(charge));
            break;
          case 'timeout-charged':
            succeed(charge, 0);
            await pause(NEVER_MS, request.signal);
            break;
          case 'timeout-not-charged':
            await pause(NEVER_MS, request.signal);
            throw new Refusal('overloaded');
          default:
            record({ charge: { ...charge, state: 'declined' } });
        }
        return answer(charge);
      });
      server.route('GET', '/charges/:reference', async (request) => {
        authorize(request);
        const charge = charges.get(request.params.reference ?? '');
        if (charge === undefined) throw new Refusal('not-found');
        return answer(charge);
      });
      server.route('POST', '/refunds', async (request) => {
        authorize(request);
        const { reference, charge: of, amountMinor } = bodyOf(request);
        const charge = charges.get(of);
        if (charge?.state !== 'succeeded' || charge.amountMinor !== amountMinor)
          throw new Refusal('bad-field', { detail: '`charge` is no charge of that amount' });
        if (charge.refund !== undefined && charge.refund !== reference)
          throw new Refusal('order-state', { detail: 'the charge was refunded before' });
        const failed = failures.get(of) ?? 0;
        if (charge.card === 'refund-fails' && failed < 2) {
          failures.set(of, failed + 1);
          throw new Refusal('overloaded');
        }
        if (charge.refund === undefined) record({ refund: { reference, charge: of } });
        return json(200, { reference, charge: of, state: 'refunded' });
      });
      const listening = await server.listen();
      // What was promised before a restart is kept: charges still pending become good now.
      for (const charge of charges.values())
        if (charge.state === 'pending') after(1000, () => succeed(charge));
      return listening;
    },
    async stop() {
      for (const timer of timers) clearTimeout(timer);
      timers.clear();
      await server?.close(500);
      await fetcher.close();
    },
  };
};
