// Payment is a port: what booking-core needs of a provider, in our words. The sandbox provider is the first that
// fits; it is reached over HTTP like any other. Every call carries a reference that we chose, so it may be
// repeated, and every silence is `unknown`, never a failure: it is looked up.

import { createHmac } from 'node:crypto';
import type { Config } from '../kernel/config.ts';
import type { Fetcher } from '../kernel/fetch.ts';
import type { Log } from '../kernel/log.ts';
import { sameSecret } from '../kernel/token.ts';

export type ChargeOutcome = 'succeeded' | 'declined' | 'pending' | 'missing' | 'unknown';
/** What the provider says of a charge; the amount is what it took, in minor units, and missing where it says none. */
export type Charge = { outcome: ChargeOutcome; amountMinor?: number; currency?: string };

export type WebhookRead =
  | { outcome: 'event'; reference: string; charge: Charge }
  | { outcome: 'ignored' }
  | { outcome: 'forged' };

export type PaymentProvider = {
  name: string;
  charge(order: { reference: string; amountMinor: number; currency: string; token: string }): Promise<Charge>;
  lookup(reference: string): Promise<Charge>;
  refund(order: {
    reference: string;
    charge: string;
    amountMinor: number;
    currency: string;
  }): Promise<{ outcome: 'refunded' } | { outcome: 'failed'; says: string }>;
  /** `signature` is the provider's own header, checked over the exact bytes of the body. */
  readWebhook(header: (name: string) => string | undefined, body: Buffer, nowMs: number): WebhookRead;
};

const WEBHOOK_AGE_MS_MAX = 300_000;

/** `t=<ms>,v1=<hex HMAC-SHA-256 of "t.body">`, the form Stripe made common: the time is part of what is signed. */
export const signWebhook = (secret: string, body: string, nowMs: number): string =>
  `t=${nowMs},v1=${createHmac('sha256', secret).update(`${nowMs}.${body}`).digest('hex')}`;

const chargeOf = (value: unknown): Charge & { reference: string } => {
  const unknown = { reference: '', outcome: 'unknown' } as const;
  if (typeof value !== 'object' || value === null) return unknown;
  const { reference, state, amountMinor, currency } = value as Record<string, unknown>; // An object, just checked.
  if (typeof reference !== 'string') return unknown;
  if (state !== 'succeeded' && state !== 'declined' && state !== 'pending')
    return { reference, outcome: 'unknown' };
  return {
    reference,
    outcome: state,
    ...(Number.isSafeInteger(amountMinor) && Number(amountMinor) >= 0
      ? { amountMinor: Number(amountMinor) }
      : {}),
    // Providers differ in how they write it.
    ...(typeof currency === 'string' ? { currency: currency.toUpperCase() } : {}),
  };
};

const UNKNOWN = { outcome: 'unknown' } as const;
/** An answer about another charge says nothing of the one that was asked for. */
const ofReference = (reference: string, value: unknown): Charge => {
  const { reference: of, ...charge } = chargeOf(value);
  return of === reference ? charge : UNKNOWN;
};

export const createSandboxProvider = (options: {
  config: Pick<Config, 'sandboxUrl' | 'sandboxSecret' | 'host' | 'sandboxPort' | 'paymentTimeoutMs'>;
  fetcher: Pick<Fetcher, 'json'>;
  log: Log;
}): PaymentProvider => {
  const { config, fetcher, log } = options;
  const origin = config.sandboxUrl || `http://${config.host}:${config.sandboxPort}`;
  const ask = async (method: 'GET' | 'POST', path: string, body?: unknown) => {
    try {
      return await fetcher.json({
        origin,
        method,
        path,
        headers: [['authorization', `Bearer ${config.sandboxSecret}`]],
        ...(body === undefined ? {} : { body }),
        timeoutMs: config.paymentTimeoutMs,
      });
    } catch (error) {
      // Out of reach or too late: whether it happened is not known, and the caller looks it up.
      log.warn('payment-provider-silent', { method, error });
      return undefined;
    }
  };
  return {
    name: 'sandbox',
    async charge({ reference, amountMinor, currency, token }) {
      const answer = await ask('POST', '/charges', { reference, amountMinor, currency, card: token });
      return answer === undefined || answer.status >= 500 ? UNKNOWN : ofReference(reference, answer.value);
    },
    async lookup(reference) {
      const answer = await ask('GET', `/charges/${reference}`);
      if (answer === undefined) return UNKNOWN;
      return answer.status === 404 ? { outcome: 'missing' } : ofReference(reference, answer.value);
    },
    async refund({ reference, charge, amountMinor, currency }) {
      const answer = await ask('POST', '/refunds', { reference, charge, amountMinor, currency });
      if (answer !== undefined && answer.status < 300) return { outcome: 'refunded' };
      return { outcome: 'failed', says: answer === undefined ? 'no answer' : `status ${answer.status}` };
    },
    readWebhook(header, body, nowMs) {
      const given = header('sandbox-signature') ?? '';
      const atMs = Number(/^t=(\d{1,15}),/.exec(given)?.[1]);
      if (!(Math.abs(nowMs - atMs) <= WEBHOOK_AGE_MS_MAX)) return { outcome: 'forged' };
      if (!sameSecret(given, signWebhook(config.sandboxSecret, body.toString('utf8'), atMs)))
        return { outcome: 'forged' };
      let value: unknown;
      try {
        value = JSON.parse(body.toString('utf8'));
      } catch {
        return { outcome: 'ignored' }; // Signed, but nothing we understand.
      }
      const { reference, ...charge } = chargeOf(value);
      return charge.outcome === 'unknown' ? { outcome: 'ignored' } : { outcome: 'event', reference, charge };
    },
  };
};
