// The sale's pages as HTML: pure functions from what is known to text. The first page carries two ways through: the
// seat map for those with JavaScript, and plain forms in `noscript` for those without.

import { priceText, type SaleEvent, type Section } from '../inventory.ts';
import type { OrderView } from '../orders.ts';
import type { Asset } from './assets.ts';
import { Html, html, jsonInHtml } from './html.ts';

export type Assets = { script: Asset; style: Asset };
export type HeldView = {
  id: string;
  sectionName: string;
  seats: readonly string[];
  amountMinor: number;
  currency: string;
  expiresInMs: number;
};

export const testCards = [
  { token: 'ok', name: 'Card that works', says: 'ends in 4242' },
  { token: 'declined', name: 'Card that is declined', says: 'ends in 0002' },
  { token: 'late', name: 'Card of a slow bank', says: 'ends in 3063, takes some seconds' },
] as const;

const dateText = (date: Date): string =>
  new Intl.DateTimeFormat('en-GB', { dateStyle: 'full', timeStyle: 'short', timeZone: 'UTC' }).format(date);

const layout = (
  assets: Assets,
  options: { title: string; script?: boolean; refreshSeconds?: number },
  body: Html,
): string =>
  html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
${options.refreshSeconds === undefined ? undefined : html`<meta http-equiv="refresh" content="${options.refreshSeconds}">`}
<title>${options.title}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="${assets.style.path}">
${options.script ? html`<script src="${assets.script.path}" defer></script>` : undefined}
</head>
<body>${body}</body>
</html>`.text;

const head = (event: SaleEvent): Html => html`<header class="event">
<div>
<h1>${event.name}</h1>
<p>${event.venue} · <time datetime="${event.startsAt.toISOString()}">${dateText(event.startsAt)}</time></p>
</div>
<nav><a href="/demo/orders">My orders</a></nav>
</header>`;

const alert = (message: string | undefined): Html | undefined =>
  message === undefined ? undefined : html`<p class="alert" role="alert">${message}</p>`;

const sectionForm = (
  event: SaleEvent,
  section: Section,
  free: number | undefined,
  key: string,
  max: number,
): Html =>
  html`<form method="post" action="/demo/book" class="card plain">
<h2>${section.name}</h2>
<p class="muted">${priceText(section.priceMinor, event.currency)} each${free === undefined ? '' : ` · ${free} left`}</p>
<input type="hidden" name="step" value="hold">
<input type="hidden" name="key" value="${key}">
<input type="hidden" name="section" value="${section.id}">
<label>How many <select name="count">${Array.from({ length: max }, (_, n) => html`<option${n === 1 ? ' selected' : ''}>${n + 1}</option>`)}</select></label>
<button>${section.kind === 'area' ? 'Take these places' : 'Find seats together'}</button>
</form>`;

export const salePage = (
  assets: Assets,
  event: SaleEvent,
  options: {
    seatsPerVisitor: number;
    free: ReadonlyMap<string, number>;
    key: string;
    message?: string | undefined;
  },
): string =>
  layout(
    assets,
    { title: event.name, script: true },
    html`<a class="skip" href="#choose">Skip to the seats</a>
<div class="page">
${head(event)}
<script type="application/json" id="event">${jsonInHtml({ ...event, seatsPerVisitor: options.seatsPerVisitor, cards: testCards })}</script>
${alert(options.message)}
<div id="app" hidden></div>
<noscript>
<p class="muted">Choose where, and how many. We find the best that are left, and keep them for you while you pay.</p>
<div class="plain-forms">${event.sections.map((section) =>
      sectionForm(event, section, options.free.get(section.id), options.key, options.seatsPerVisitor),
    )}</div>
</noscript>
</div>`,
  );

const minutesText = (ms: number): string => {
  const minutes = Math.floor(ms / 60_000);
  return minutes >= 1 ? `${minutes} min` : `${Math.floor(ms / 1000)} s`;
};

const seatList = (sectionName: string, seats: readonly string[]): Html =>
  html`<ul class="seats">${seats.map((seat) => html`<li>${sectionName} <strong>${seat}</strong></li>`)}</ul>`;

/** The second step for those without JavaScript. */
export const holdPage = (
  assets: Assets,
  event: SaleEvent,
  hold: HeldView,
  options: { key: string; message?: string | undefined },
): string =>
  layout(
    assets,
    { title: `Pay · ${event.name}` },
    html`<div class="page narrow">
${head(event)}
${alert(options.message)}
<form method="post" action="/demo/book" class="card">
<h2>Your seats are kept</h2>
<p class="muted">For another ${minutesText(hold.expiresInMs)}. Pay before then, or they go back on sale.</p>
${seatList(hold.sectionName, hold.seats)}
<p class="total"><span>Total</span> <strong>${priceText(hold.amountMinor, hold.currency)}</strong></p>
<input type="hidden" name="key" value="${options.key}">
<input type="hidden" name="hold" value="${hold.id}">
<fieldset><legend>Test card</legend>${testCards.map(
      ({ token, name, says }, index) =>
        html`<label class="choice"><input type="radio" name="card" value="${token}"${index === 0 ? ' checked' : ''}> <span>${name}<small>${says}</small></span></label>`,
    )}</fieldset>
<button name="step" value="pay">Pay ${priceText(hold.amountMinor, hold.currency)}</button>
<button name="step" value="release" class="quiet">Give the seats back</button>
</form>
</div>`,
  );

type Words = { title: string; says: string; tone: 'ok' | 'bad' | 'wait' };
/** Of a state that a newer version wrote. */
const SOMEHOW: Words = { title: 'Your order', says: 'Look again in a moment.', tone: 'wait' };
const words: Record<OrderView['state'], Words> = {
  paying: {
    title: 'Waiting for your payment',
    says: 'Your bank has not answered yet. This page looks again by itself.',
    tone: 'wait',
  },
  paid: {
    title: 'You are going!',
    says: 'Your order is confirmed and paid. Show these codes at the door.',
    tone: 'ok',
  },
  failed: {
    title: 'The payment did not go through',
    says: 'You were not charged. Go back and try another card while your seats are kept.',
    tone: 'bad',
  },
  expired: {
    title: 'The time to pay ran out',
    says: 'You were not charged. Choose seats again.',
    tone: 'bad',
  },
  late: {
    title: 'Your payment came late',
    says: 'We are checking whether your seats are still free. If not, your money goes back.',
    tone: 'wait',
  },
  refunding: {
    title: 'Your money is on its way back',
    says: 'Nothing more is needed from you.',
    tone: 'wait',
  },
  refunded: { title: 'Refunded', says: 'Your money has been sent back.', tone: 'ok' },
};

const orderCard = (order: OrderView, level: 'h1' | 'h2'): Html => {
  const { title, says, tone } = words[order.state] ?? SOMEHOW;
  const heading = new Html(`<${level}>`);
  const headingEnd = new Html(`</${level}>`);
  return html`<article class="card order" data-tone="${tone}">
${heading}${title}${headingEnd}
<p class="muted">${says}</p>
<dl><div><dt>Order</dt><dd><code>${order.id}</code></dd></div>
<div><dt>Event</dt><dd>${order.eventName}</dd></div>
<div><dt>Total</dt><dd>${priceText(order.amountMinor, order.currency)}</dd></div></dl>
${
  order.tickets.length > 0
    ? html`<ul class="tickets">${order.tickets.map(({ code, seat }) => html`<li><span>${order.sectionName} <strong>${seat}</strong></span><code>${code}</code></li>`)}</ul>`
    : seatList(order.sectionName, order.seats)
}
</article>`;
};

export const orderPage = (assets: Assets, order: OrderView, holdId: string | undefined): string =>
  layout(
    assets,
    {
      title: `Order ${order.id}`,
      ...(order.state === 'paying' || order.state === 'late' ? { refreshSeconds: 2 } : {}),
    },
    html`<main class="page narrow">
${orderCard(order, 'h1')}
<p class="links"><a href="/demo/orders">My orders</a>${order.state === 'failed' && holdId !== undefined ? html`<a href="/demo/hold/${holdId}">Try another card</a>` : undefined}</p>
</main>`,
  );

export const ordersPage = (assets: Assets, orders: readonly OrderView[]): string =>
  layout(
    assets,
    { title: 'My orders' },
    html`<main class="page narrow">
<header class="event"><div><h1>My orders</h1><p>Kept for this browser.</p></div><nav><a href="/demo">The sale</a></nav></header>
${
  orders.length === 0
    ? html`<p class="card empty">Nothing here yet. What you buy in this browser will show up on this page.</p>`
    : orders.map(
        (order) => html`<a class="plain-link" href="/demo/orders/${order.id}">${orderCard(order, 'h2')}</a>`,
      )
}
</main>`,
  );

/** A refusal for those without JavaScript: what happened, and where to go. */
export const refusalPage = (assets: Assets, message: string, back: string): string =>
  layout(
    assets,
    { title: 'That did not work' },
    html`<main class="page narrow"><div class="card"><h1>That did not work</h1>
<p role="alert">${message}</p><p class="links"><a class="button" href="${back}">Go back</a></p></div></main>`,
  );
