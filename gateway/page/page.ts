// The waiting page and the problem page as HTML. Pure: a view in, text out, every word from outside escaped. Each
// state is complete without JavaScript: its words, its numbers, a form that joins, enters or leaves, and a refresh.
// With JavaScript the script takes the same elements over by their ids (page.js) and says the same words (words.js).

import { type Asset, createAssets } from './assets.ts';
import { describe } from './words.js';

export type WaitingView = {
  room: string;
  title: string;
  state:
    | 'new'
    | 'waiting'
    | 'parked'
    | 'withheld'
    | 'promoted'
    | 'active'
    | 'finished'
    | 'closed'
    | 'notOpen'
    | 'recovering'
    | 'unavailable';
  verdict?: 'challenge' | 'tarpit' | 'block';
  number?: number;
  position?: number;
  /** Each admission is drawn by lot: there is no position, only how many wait. */
  order?: 'drawn';
  waiting?: number;
  etaSeconds?: readonly [p50: number, p90: number];
  /** 0 to 1. */
  progress?: number;
  suspended?: boolean;
  /** With `parked`: a turn went by unclaimed; only the visitor's own act brings the place back. */
  missed?: boolean;
  opensAtMs?: number;
  claimDeadlineMs?: number;
  /** A word the page knows or a sentence for people. */
  reason?: string;
  notice?: { id?: string; text: string; level: string };
  /** Where to go after admission: a path of this site. */
  returnTo: string;
  /** Short, for people to quote. */
  reference: string;
  /** The line's clock; without it, this process's. */
  nowMs?: number;
};

export type ProblemView = { status: number; title: string; detail?: string; requestId: string };

/** For the header `content-security-policy`: nothing inline, nothing from elsewhere. */
export const pageSecurityPolicy =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
  "form-action 'self'; base-uri 'none'; frame-ancestors 'self'";

const ESCAPES: Record<string, string> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

/** Safe in text and in double-quoted attributes. */
export const escapeHtml = (text: string): string => text.replace(/[&<>"']/g, (found) => ESCAPES[found]!);

/** Safe in single-quoted attributes, where JSON needs the fewest escapes. */
const escapeQuoted = (text: string): string => text.replace(/[&<>']/g, (found) => ESCAPES[found]!);

const REFRESH_SECONDS = 10;
const REFRESH_NEAR_SECONDS = 5;
/** States that nothing but the visitor's own act changes. */
const RESTING = ['new', 'active', 'finished', 'closed'];

let read: readonly Asset[] | undefined;
const addressOf = (name: Asset['name']): string => {
  read ??= createAssets();
  return read.find((asset) => asset.name === name)!.path;
};

const ICON =
  "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 9 9'%3E%3Cpath d='M1 9V1h7v8H6V3H3v6' fill='%236366f1'/%3E%3C/svg%3E";

const shell = (parts: { title: string; head: string; body: string; site: string; data: string }): string =>
  `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<meta name="color-scheme" content="light dark">
<title>${escapeHtml(parts.title)}</title>
<link rel="icon" href="${ICON}">
<link rel="stylesheet" href="${addressOf('style')}">
${parts.head}</head>
<body ${parts.data}>
<header><p class="site"><span class="brand" aria-hidden="true"></span>${escapeHtml(parts.site)}</p></header>
${parts.body}
</body>
</html>
`;

const glyphMark = (path: string, hidden = false): string =>
  `<div class="mark" id="mark"${hidden ? ' hidden' : ''} aria-hidden="true"><svg viewBox="0 0 24 24"><path id="glyph" d="${path}"/></svg></div>`;

/** An element that the script may show and fill later; hidden while it has nothing to say. */
const block = (tag: string, id: string, text: string | undefined, more = ''): string =>
  `<${tag} id="${id}"${more}${text === undefined ? ' hidden' : ''}>${escapeHtml(text ?? '')}</${tag}>`;

const fact = (id: string, name: string, value: string | undefined): string =>
  `<div id="${id}-row"${value === undefined ? ' hidden' : ''}><dt>${name}</dt><dd id="${id}">${escapeHtml(value ?? '')}</dd></div>`;

export const renderWaitingPage = (given: WaitingView): string => {
  const view = { ...given, nowMs: given.nowMs ?? Date.now() };
  const said = describe(view);
  const action = `/rooms/${escapeHtml(encodeURIComponent(view.room))}`;
  const returnTo = escapeHtml(view.returnTo);
  const { notice, button } =
    said.button === undefined ? { ...view, button: undefined } : { ...view, ...said };
  const level = notice !== undefined && ['warn', 'bad'].includes(notice.level) ? notice.level : 'info';
  const soon = view.state === 'promoted' || (view.etaSeconds?.[0] ?? REFRESH_SECONDS * 6) < 60;
  const refresh = soon ? REFRESH_NEAR_SECONDS : REFRESH_SECONDS;
  const resting = RESTING.includes(view.state) || (view.state === 'parked' && view.missed === true);
  const hidden = (act: string, id = ''): string =>
    `<input type="hidden" name="act"${id} value="${act}"><input type="hidden" name="returnTo" value="${returnTo}">`;
  const progress = said.progress === undefined ? ' hidden' : ` value="${Math.round(said.progress * 1000)}"`;
  return shell({
    title: said.docTitle,
    site: view.title,
    data: `data-state="${view.state}" data-tone="${said.tone}" data-view='${escapeQuoted(JSON.stringify(view))}'`,
    head: `<script type="module" src="${addressOf('script')}"></script>
${resting ? '' : `<noscript><meta http-equiv="refresh" content="${refresh}"></noscript>\n`}`,
    body: `<main>
<p id="notice" class="notice" role="status" data-level="${level}"${notice === undefined ? ' hidden' : ''}>${escapeHtml(notice?.text ?? '')}</p>
<section class="card" aria-labelledby="headline">
${glyphMark(said.glyph, said.big !== undefined)}
<h1 id="headline" tabindex="-1">${escapeHtml(said.headline)}</h1>
<div id="place" class="place"${said.big === undefined ? ' hidden' : ''}>
<p id="big" class="big">${escapeHtml(said.big ?? '')}</p>
<p id="caption" class="caption">${escapeHtml(said.caption ?? '')}</p>
</div>
<progress id="progress" max="1000" aria-label="Way through the line"${progress}></progress>
<p id="lead" class="lead">${escapeHtml(said.lead)}</p>
<dl id="facts" class="facts">
${fact('ahead', 'People ahead', said.ahead)}
${fact('eta', 'Your wait', said.eta)}
${fact('number', 'Your number', said.number)}
</dl>
<div id="appeal" class="appeal"${said.appeal ? '' : ' hidden'}>
<h2>Are you a person?</h2>
<p>Then we are sorry. Tell the organiser’s support this reference: <strong>${escapeHtml(view.reference)}</strong>. Staff can look at what happened and let you through, with the place you have now.</p>
</div>
<form id="act-form" class="act" method="post" action="${action}"${button === undefined ? ' hidden' : ''}>
${hidden(button?.act ?? 'join', ' id="act"')}
<button id="button">${escapeHtml(button?.label ?? '')}</button>
</form>
${block('p', 'safe', said.safe, ' class="safe"')}
</section>
<p id="said" class="unseen" aria-live="polite"></p>
</main>
<footer>
<p class="status"><span id="connection" hidden><span class="dot" aria-hidden="true"></span><span id="connection-words"></span></span>${resting ? '' : `<noscript>This page refreshes itself every ${refresh} seconds.</noscript>`}</p>
<details id="leave" class="leave"${said.leave ? '' : ' hidden'}>
<summary>Leave the line</summary>
<form method="post" action="${action}">
${hidden('leave')}
<p>Your place goes to the next person.</p>
<button class="quiet">Give up my place</button>
</form>
</details>
<p class="reference">Reference ${escapeHtml(view.reference)}</p>
</footer>
<dialog id="leave-dialog" aria-labelledby="leave-title">
<form method="dialog">
<h2 id="leave-title">Leave the line?</h2>
<p>Your place goes to the next person. Later you would start at the back.</p>
<div class="choice"><button value="stay" autofocus>Keep my place</button><button value="leave" class="quiet">Leave</button></div>
</form>
</dialog>`,
  });
};

/** The same look for what went wrong: an origin that is gone, a page that does not exist, a refused request. */
export const renderProblemPage = (view: ProblemView): string => {
  const again = view.status >= 500 || view.status === 429;
  const [sentence, ...rest] = view.title.split(/(?<=\.)\s+/);
  return shell({
    title: view.title,
    site: 'Waiting room',
    data: `data-state="problem" data-tone="${view.status === 404 ? 'calm' : 'warn'}"`,
    head: '',
    body: `<main>
<section class="card" aria-labelledby="headline">
${glyphMark('M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM12 8v5M12 16v.5')}
<h1 id="headline">${escapeHtml((sentence ?? '').replace(/\.$/, ''))}</h1>
${rest.length === 0 ? '' : `<p class="lead">${escapeHtml(rest.join(' '))}</p>`}
${view.detail === undefined || view.detail === view.title ? '' : `<p class="lead">${escapeHtml(view.detail)}</p>`}
${again ? '<p class="act"><a class="button" href="">Try again</a></p>' : ''}
</section>
</main>
<footer><p class="status">Error ${view.status}</p><p class="reference">Reference ${escapeHtml(view.requestId)}</p></footer>`,
  });
};
