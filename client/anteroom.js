// The browser's side of a waiting room, for any page: joins, listens, claims and leaves. One file that imports nothing
// and needs no build; types are in anteroom.d.ts, how to use it in README.md.
//
// Promises: the receipt is kept and shown again, so a lost cookie or a lost line does not lose the place; it travels in
// headers and bodies, never in an address. News comes over SSE, else WebSocket, else polling, one at a time, chosen by
// what works here and tried again later. Every retry waits a random time (full jitter), so that a crowd never comes back
// in step. A position never rises unless the server gave a reason. Expected refusals are values or callbacks, never
// throws.
//
// Modes: idle -> joining -> listening -> ended. `turn` counts them: whatever answers late carries the turn it was
// asked in and is dropped when that has passed.

const TRANSPORTS = ['events', 'socket', 'poll'];
const POLL = 2;
// A proxy that buffers lets a stream open and then passes nothing on; the first words come at once by contract.
const FIRST_WORDS_MS = 10_000;
// A stream speaks at least every 25 s. Three times that without a word is a dead connection.
const SILENT_MS = 75_000;
const REQUEST_MS = 10_000;
const BACKOFF_BASE_MS = 500;
const BACKOFF_MAX_MS = 30_000;
const POLL_MS = 5_000;
// Where streams do not get through they are tried again: after a minute or so, then ever more seldom.
const CLIMB_MS = 60_000;
const CLIMB_MAX_MS = 900_000;
// One message of ours is below 2 KB. Whatever sends more without an end of line is not the broker.
const LINE_CHARS_MAX = 65_536;
/** No room for one more stream; requests are welcome meanwhile. */
const FULL = ['streams-full', 'too-many-streams'];
/** A stream that ends, not a visit: it is opened again, or the answer to that says why not. */
const NOT_ENDS = ['restarting', 'tokenExpired', 'tooManyMessages'];

// --- The parts that only count ------------------------------------------------------------------------------

/** How long to wait: what the server asked for and a quarter more by lot, then anything up to twice the last longest. */
export const pauseMs = (failures, askedMs = 0, random = Math.random) =>
  askedMs * (1 + random() / 4) + random() * Math.min(BACKOFF_MAX_MS, BACKOFF_BASE_MS * 2 ** failures);

/** The transport after so many tries in vain; one that has worked here before is trusted a little longer. */
export const nextTransport = (transport, tries, worked) =>
  transport < POLL && tries >= (worked ? 3 : 2) ? transport + 1 : transport;

/** When to try streams again after `climbs` attempts in vain. */
export const climbMs = (climbs, random = Math.random) =>
  Math.min(CLIMB_MAX_MS, CLIMB_MS * 2 ** climbs) * (0.5 + random());

/**
 * Whether a closed socket may be opened again (docs/reference/messages.md; RFC 6455, section 7.4). After the rest it
 * would end the same way.
 */
export const mayReopen = (code) =>
  code === 1001 || code === 1006 || (code > 1011 && code < 1015) || (code >= 4100 && code < 4300);

/** Reads an event stream (WHATWG HTML, section 9.2.6) piece by piece. */
export const createReader = ({ onEvent, onRetry }) => {
  let rest = '';
  let type = '';
  let id;
  let data = [];
  return (piece) => {
    const lines = (rest + piece).split('\n');
    rest = lines.pop();
    if (rest.length > LINE_CHARS_MAX) throw new RangeError('no end of line');
    for (const ended of lines) {
      const line = ended.endsWith('\r') ? ended.slice(0, -1) : ended;
      const colon = line.indexOf(':');
      const name = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? '' : line.slice(line[colon + 1] === ' ' ? colon + 2 : colon + 1);
      if (line === '') {
        if (data.length > 0) onEvent(type, data.join('\n'), id);
        type = '';
        id = undefined;
        data = [];
      } else if (name === 'event') type = value;
      else if (name === 'data') data.push(value);
      else if (name === 'id') id = value;
      else if (name === 'retry' && Number(value) > 0) onRetry(Number(value));
    }
  };
};

// Near the turn news comes every second and is exact; there is nothing to guess.
const DRIFT_FROM_MS = 2500;
const DRIFT_CAUTION = 0.7;

/**
 * A position between two messages: it goes on at the rate that the last one told, a little slower (rather late than
 * wrong), and for no longer than until the next was due. It never rises unless it may, and never falls below 1.
 */
export const createDrift = () => {
  let last;
  let shown;
  const at = (nowMs) => {
    if (last === undefined) return undefined;
    const { position, nextMs = 0, perMinute = 0, atMs } = last;
    const ranMs = nextMs < DRIFT_FROM_MS ? 0 : Math.max(0, Math.min(nowMs - atMs, nextMs));
    shown = Math.min(
      shown,
      Math.max(1, position - Math.floor(((perMinute * DRIFT_CAUTION) / 60_000) * ranMs)),
    );
    return shown;
  };
  return {
    at,
    /** Takes a message; answers the position to show for it. */
    hear(message, nowMs, mayRise) {
      const { position } = message;
      if (position === undefined) last = undefined;
      else {
        shown = last === undefined || mayRise ? position : Math.min(position, at(nowMs));
        last = { ...message, position: shown, atMs: nowMs };
      }
      return last && shown;
    },
    forget() {
      last = undefined;
    },
  };
};

// --- The visit ----------------------------------------------------------------------------------------------

/** @type {import('./anteroom.d.ts').createAnteroom} */
export const createAnteroom = (options) => {
  const { room, base = '' } = options;
  const path = `/v1/rooms/${encodeURIComponent(room)}`;
  /** What a page's own code throws is the page's; it must not end the stream. */
  const tell = (name, ...values) => {
    try {
      options[name]?.(...values);
    } catch (error) {
      queueMicrotask(() => {
        throw error;
      });
    }
  };
  const drift = createDrift();
  // What the page shows already must not rise either.
  drift.hear({ position: options.position }, Date.now());

  let turn = 0;
  let mode = 'idle';
  let claimToken;
  let claimDeadlineMs = 0;
  let clockAheadMs = 0;
  let withheld = false;
  let { number } = options;
  let mayRise = false;
  let noticeId;
  // The turn that was told last: it comes again after every reconnect.
  let called;
  let lastId;
  let lastFrame;
  let told;

  let transport = 0;
  // Failures of any kind in a row; failures of streams in a row; tries in vain of this transport alone.
  let failures = 0;
  let missing = 0;
  let tries = 0;
  const worked = [];
  let climbs = 0;
  let climbAtMs = 0;
  let rejoins = 0;
  let retryMs = 0;
  let elsewhere;
  let pollMs = POLL_MS;
  let cadenceMs = 0;
  let heardAtMs = 0;
  let polled = false;
  let timer;
  let pending;
  let notBeforeMs = 0;
  let hush = () => {};

  /** Storage may be refused (private windows); then memory and cookie carry the place. */
  let kept;
  const storage = (act, value) => {
    try {
      return localStorage[act](`anteroom:${room}`, value) ?? undefined;
    } catch {
      return undefined;
    }
  };
  const receipt = () => storage('getItem') ?? kept;
  const keep = (value) => {
    kept = value;
    storage(value ? 'setItem' : 'removeItem', value);
  };
  /** Cookies of another site do not come along, and browsers may refuse them altogether. */
  const proof = () => {
    const shown = receipt();
    return shown && { 'place-receipt': shown };
  };
  const credentialsFor = (origin) => (origin === '' ? 'same-origin' : 'include');

  /** `again` runs later, or sooner when the network or the visitor comes back; never before the server's time. */
  const later = (delayMs, again, askedMs = 0) => {
    clearTimeout(timer);
    const asked = turn;
    notBeforeMs = Date.now() + askedMs;
    pending = () => {
      pending = undefined;
      clearTimeout(timer);
      if (asked === turn) again();
    };
    timer = setTimeout(pending, delayMs);
  };
  const connection = (state) => {
    const now = state === 'reconnecting' && navigator.onLine === false ? 'offline' : state;
    if (told === now + transport) return;
    told = now + transport;
    tell('onConnection', now, TRANSPORTS[transport]);
  };

  const answerOf = async (response) => {
    let body = {};
    try {
      body = (await response.json()) ?? {};
    } catch {
      // Nothing, or something between us and the server answered in its own words; the status is all there is to know.
    }
    const afterMs = Math.max(
      1000 * Number(response.headers.get('retry-after') ?? 0) || 0,
      response.ok ? 0 : Number(body.pollAfterMs) || 0,
    );
    return { status: response.status, ok: response.ok, body, afterMs };
  };

  /** One request. `status` 0 means that no answer came. */
  const ask = async (method, below, sent) => {
    const abort = new AbortController();
    const deadline = setTimeout(() => abort.abort(), REQUEST_MS);
    try {
      const response = await fetch(base + path + below, {
        method,
        credentials: credentialsFor(base),
        signal: abort.signal,
        headers: {
          accept: 'application/json',
          ...(sent && { 'content-type': 'application/json' }),
          ...(sent?.receipt ? {} : proof()),
        },
        ...(sent && { body: JSON.stringify(sent) }),
      });
      return await answerOf(response);
    } catch {
      return { status: 0, ok: false, body: {}, afterMs: 0 };
    } finally {
      clearTimeout(deadline);
    }
  };

  const stop = (next) => {
    turn += 1;
    mode = next;
    pending = undefined;
    clearTimeout(timer);
    hush();
    hush = () => {};
  };

  const ended = (reason) => {
    stop('ended');
    claimToken = undefined;
    drift.forget();
    // A missed turn and a closed sale keep the place; the other ends are for good.
    if (reason !== 'missed' && reason !== 'closed') keep();
    tell('onEnded', { reason });
  };

  /** The server knows of no place of ours; the receipt brings it back. A moment later, never in a tight loop. */
  const rejoin = () => {
    stop('listening');
    rejoins += 1;
    later(pauseMs(rejoins, 1000), join);
  };

  const hear = (type, data) => {
    if (data.serverNowMs) clockAheadMs = data.serverNowMs - Date.now();
    if (type === 'position') {
      cadenceMs = data.nextMs ?? 0;
      const position = drift.hear(data, Date.now(), mayRise);
      mayRise = false;
      tell('onPosition', { ...data, ...(position && { position }) });
    } else if (type === 'state') {
      if (data.state === 'finished') return ended(data.reason ?? 'finished');
      if (data.state === 'closed') return ended('closed');
      if (data.state === 'none') return rejoin();
      mayRise ||= Boolean(data.reason || (number && data.number && data.number !== number));
      number = data.number ?? number;
      if (data.state !== 'promoted') called = undefined;
      tell('onState', data);
    } else if (type === 'promoted') {
      claimToken = data.claimToken;
      claimDeadlineMs = data.deadlineMs;
      if (called === data.deadlineMs) return;
      called = data.deadlineMs;
      tell('onPromoted', data);
    } else if (type === 'notice') {
      if (data.id !== undefined && data.id === noticeId) return;
      noticeId = data.id;
      tell('onNotice', data);
    } else if (type === 'ended' && !NOT_ENDS.includes(data.reason)) ended(data.reason ?? 'finished');
  };

  /** What a join or a poll answers, told as the messages that a stream would have brought. */
  const take = (answer) => {
    heardAtMs = Date.now();
    failures = 0;
    pollMs = answer.pollAfterMs || POLL_MS;
    if (answer.receipt) keep(answer.receipt);
    const asked = turn;
    withheld = answer.state === 'withheld';
    hear('state', answer);
    if (asked !== turn) return;
    if (answer.position !== undefined || answer.order === 'drawn')
      hear('position', { ...answer, ahead: answer.peopleAhead, nextMs: answer.pollAfterMs });
    if (answer.claimToken)
      hear('promoted', {
        claimToken: answer.claimToken,
        deadlineMs: answer.claimDeadlineMs,
        serverNowMs: answer.serverNowMs,
      });
    if (answer.notice) hear('notice', answer.notice);
  };

  /** After something failed. Whoever has heard nothing for a while asks how things stand before the next attempt. */
  const again = (afterMs = 0) => {
    failures += 1;
    connection('reconnecting');
    const waitMs = pauseMs(Math.max(failures, missing), afterMs || (missing === 1 ? retryMs : 0));
    const pollInMs = Math.max(heardAtMs + pollMs - Date.now(), pauseMs(failures, afterMs));
    if (!polled && pollInMs < waitMs) later(pollInMs, poll, afterMs);
    else later(waitMs, listen, afterMs);
  };

  const listen = () => {
    hush();
    mode = 'listening';
    // A stream shows a withheld place a line like everyone's; polls tell those who were told so when it is over.
    if (withheld || transport === POLL) return poll();
    polled = false;
    lastFrame = undefined;
    const asked = turn;
    let over = false;
    let live = false;
    let watch;
    let close = () => {};
    const finish = () => {
      over = true;
      clearTimeout(watch);
      close();
    };
    /** `inVain` counts against this transport; 0 where a server of ours answered, so that the way there is good. */
    const broken = (inVain = 1, afterMs = 0) => {
      if (over) return;
      finish();
      if (asked !== turn) return;
      missing += 1;
      tries += inVain;
      const next = nextTransport(transport, tries, worked[transport]);
      if (next !== transport) {
        transport = next;
        tries = climbs > 0 ? 1 : 0;
        if (next === POLL) {
          climbAtMs = Date.now() + climbMs(climbs);
          climbs += 1;
        }
      }
      again(afterMs);
    };
    const watchFor = (ms, inVain) => {
      clearTimeout(watch);
      watch = setTimeout(() => broken(inVain), ms);
    };
    const alive = () => {
      heardAtMs = Date.now();
      watchFor(Math.max(SILENT_MS, 2.5 * cadenceMs));
    };
    const message = (type, text, id) => {
      if (over || asked !== turn) return;
      let data;
      try {
        data = JSON.parse(text);
      } catch {
        return broken(2); // A frame that is not ours: whatever speaks there is not the broker.
      }
      live = worked[transport] = true;
      failures = missing = tries = climbs = rejoins = 0;
      alive();
      connection('live');
      lastId = id ?? lastId;
      // A sign of life says the same again, under the same id.
      const frame = (id ?? data.id) && type + id + text;
      const repeated = frame && frame === lastFrame;
      lastFrame = frame;
      if (!repeated) hear(type || data.type, data);
    };
    hush = finish;
    watchFor(FIRST_WORDS_MS, 2);
    const from = elsewhere ?? base;
    elsewhere = undefined;

    const events = async () => {
      const abort = new AbortController();
      close = () => abort.abort();
      const response = await fetch(`${from + path}/events`, {
        credentials: credentialsFor(from),
        cache: 'no-store',
        signal: abort.signal,
        headers: {
          accept: 'text/event-stream',
          ...proof(),
          ...(lastId && { 'last-event-id': lastId }),
        },
      });
      if (over) return;
      if (response.status === 204) return ended('finished');
      if (!/event-stream/.test(response.headers.get('content-type'))) {
        const { status, body, afterMs } = await answerOf(response);
        if (over || settled(status, body)) return;
        // Another address to try, at once: this one is full.
        elsewhere =
          body.elsewhere && new URL(body.elsewhere, new URL(base, location.href)).href.replace(/\/$/, '');
        if (FULL.includes(body.code) && !elsewhere) {
          finish();
          missing += 1;
          transport = POLL;
          climbAtMs = Date.now() + pauseMs(missing, afterMs);
          return later(Math.max(1000 * Math.random(), heardAtMs + pollMs - Date.now()), poll);
        }
        // Without a word of ours it is something between us and the server, and may never let a stream through.
        return broken(body.code && (status === 429 || status >= 500) ? 0 : 1, elsewhere ? 0 : afterMs);
      }
      const reader = response.body.getReader();
      const decoder = new TextDecoder();
      const read = createReader({
        onEvent: message,
        onRetry: (ms) => {
          retryMs = ms;
        },
      });
      while (!over) {
        const { done, value } = await reader.read();
        if (done) return broken();
        if (live) alive();
        read(decoder.decode(value, { stream: true }));
      }
    };
    const socket = () => {
      const address = new URL(`${from + path}/socket`, location.href);
      address.protocol = address.protocol.replace('http', 'ws');
      const wire = new WebSocket(address);
      close = () => wire.close();
      wire.onmessage = (event) => message('', event.data);
      // What would end the same way is not opened again before streams are tried anew; polls say what there is to say.
      wire.onclose = ({ code, reason }) => {
        retryMs = Number(/\d+$/.exec(reason) ?? retryMs);
        broken(mayReopen(code) ? 1 : 3);
      };
    };
    // Forbidden by policy, missing in this browser, cut: the next attempt or the next transport will do.
    if (transport === 0) return void events().catch(() => broken());
    try {
      socket();
    } catch {
      broken(2);
    }
  };

  /** What a refusal says about the place itself, whoever was asked. Answers whether that settles it. */
  const settled = (status, { code }) => {
    if (code === 'place-missing') rejoin();
    else if (code === 'place-finished') ended('finished');
    else if (code === 'room-closed') ended('closed');
    else return false;
    return true;
  };

  const poll = async () => {
    mode = 'listening';
    polled = true;
    const asked = turn;
    let over = false;
    hush = () => {
      over = true;
    };
    const { ok, status, body, afterMs } = await ask('GET', '/places/me');
    if (over || asked !== turn) return;
    if (ok) {
      const recovered = failures > 0 && transport === POLL && worked.length > 0;
      take(body);
      if (asked !== turn) return;
      const polling = withheld || transport === POLL;
      if (polling) connection('polling');
      if (recovered && climbs < 2) climbAtMs = 0;
      if (transport === POLL && !withheld && Date.now() >= climbAtMs) {
        transport = 0;
        tries = 1;
        return listen();
      }
      return later(
        polling ? pollMs * (0.9 + 0.2 * Math.random()) : Math.min(pollMs, pauseMs(missing)),
        listen,
      );
    }
    if (settled(status, body)) return;
    if (status === 404) return rejoin();
    if (body.code === 'room-recovering') tell('onState', { state: 'recovering' });
    again(afterMs);
  };

  /** A join that was refused: what it means, and when to ask again. */
  const refused = ({ status, body, afterMs }, shown) => {
    const { code, title, detail } = body;
    failures += 1;
    connection(status === 0 || status >= 500 ? 'reconnecting' : 'live');
    if (shown && (code === 'receipt-invalid' || code === 'place-finished')) {
      keep();
      return later(0, join);
    }
    if (code === 'place-finished') return ended('finished');
    if (code === 'room-closed') return ended('closed');
    if (code === 'blocked' || code === 'challenge') {
      const verdict = code === 'blocked' ? 'block' : 'challenge';
      return tell('onState', { state: 'withheld', verdict, reason: detail, reference: body.requestId });
    }
    if (code === 'room-not-open') {
      const { opensAtMs } = body;
      tell('onState', { state: 'notOpen', opensAtMs });
      // Everybody's clock strikes at once; three seconds of spread make a crowd of a wave. Timers hold 24 days.
      const waitMs = opensAtMs === undefined ? 15_000 : Math.max(0, opensAtMs - Date.now() - clockAheadMs);
      return later(Math.min(waitMs, 3_600_000) + 3000 * Math.random(), join, waitMs);
    }
    if (status !== 0)
      tell('onState', {
        state: code === 'room-recovering' ? 'recovering' : 'unavailable',
        reason: code === 'room-full' || status === 404 ? title : undefined,
      });
    later(pauseMs(failures, afterMs), join, afterMs);
  };

  const join = async () => {
    stop('joining');
    const asked = turn;
    connection('connecting');
    const shown = receipt();
    const answer = await ask('POST', '/places', shown ? { receipt: shown } : {});
    if (asked !== turn) return;
    if (!answer.ok) return refused(answer, shown);
    take(answer.body);
    if (asked === turn) listen();
  };

  const claim = async () => {
    for (let attempt = 0; ; attempt += 1) {
      const { ok, status, body, afterMs } = await ask(
        'POST',
        '/pass',
        claimToken ? { claim: claimToken } : {},
      );
      if (ok) {
        stop('ended');
        return { outcome: 'entered', ...body };
      }
      const helpless = status !== 0 && status !== 429 && status < 500;
      if (helpless || Date.now() + clockAheadMs > claimDeadlineMs)
        return { outcome: 'refused', code: body.code };
      await new Promise((resolve) => setTimeout(resolve, pauseMs(attempt, afterMs)));
    }
  };

  const leave = async () => {
    const { ok, status, body } = await ask('DELETE', '/places/me');
    if (!ok && status !== 404 && status !== 410) return { outcome: 'refused', code: body.code };
    ended('left');
    return { outcome: 'left' };
  };

  // Coming back (network, tab, back button) is a good moment to look at once instead of waiting for a timer.
  const wake = () => {
    if (document.visibilityState === 'hidden') return;
    const soonMs = Math.max(notBeforeMs - Date.now(), 1000 * Math.random());
    if (pending) {
      if (failures > 0 || Date.now() - heardAtMs > pollMs) later(soonMs, pending, soonMs);
    } else if (mode === 'listening' && Date.now() - heardAtMs > 2.5 * cadenceMs + POLL_MS)
      later(soonMs, listen);
  };
  const life = new AbortController();
  const on = (target, type, work) => target.addEventListener(type, work, { signal: life.signal });
  on(window, 'online', wake);
  on(window, 'offline', () => mode === 'listening' && connection('reconnecting'));
  on(window, 'pagehide', () => hush());
  on(window, 'pageshow', (event) => event.persisted && mode === 'listening' && listen());
  on(document, 'visibilitychange', wake);

  const close = () => {
    stop('idle');
    life.abort();
  };

  return { join, claim, leave, close, position: () => drift.at(Date.now()) };
};
