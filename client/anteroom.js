// The browser's side of a waiting room, for any page: joins, listens, claims and leaves. It imports nothing and
// needs no build; types are in anteroom.d.ts.
//
// Promises: the receipt is kept and shown again, so a lost cookie or a lost line does not lose the place; news
// comes over SSE, else WebSocket, else polling, chosen by what works here; every retry waits a random time
// (full jitter), so that a crowd never comes back in step; expected refusals are values or callbacks, never throws.
//
// Modes: idle -> joining -> listening -> ended. `turn` counts them: whatever answers late carries the turn it was
// asked in and is dropped when that has passed.

const TRANSPORTS = ['events', 'socket', 'poll'];
const EVENTS = ['position', 'state', 'promoted', 'notice', 'ended'];
// A proxy that buffers lets a stream open and then passes nothing on; the first message comes at once by contract.
const FIRST_MESSAGE_MS = 10_000;
// The slowest cadence is 30 s. Twice that and a half without a word is a dead connection.
const SILENT_MS = 75_000;
const REQUEST_MS = 10_000;
const BACKOFF_BASE_MS = 500;
const BACKOFF_MAX_MS = 30_000;
const POLL_MS = 5_000;
// Where streams do not get through, they are tried again after so many polls.
const POLLS_BEFORE_STREAM = 40;

/** @type {import('./anteroom.d.ts').createAnteroom} */
export const createAnteroom = (options) => {
  const { room, base = '' } = options;
  const api = `${base}/v1/rooms/${encodeURIComponent(room)}`;
  const tell = (name, ...values) => options[name]?.(...values);

  let turn = 0;
  let mode = 'idle';
  let transport = 0;
  let failures = 0;
  let polls = 0;
  let streamWorked = false;
  let claimToken;
  let claimDeadlineMs = 0;
  let clockAheadMs = 0;
  let cadenceMs = 0;
  let withheld = false;
  let noticeId;
  let heardAtMs = 0;
  let timer;
  let hush = () => {};

  /** Storage may be refused (private windows); then the cookie alone carries the place. */
  const receipt = (act, value) => {
    try {
      return localStorage[act](`anteroom:${room}`, value) ?? undefined;
    } catch {
      return undefined;
    }
  };

  const jittered = (attempt) => Math.random() * Math.min(BACKOFF_MAX_MS, BACKOFF_BASE_MS * 2 ** attempt);
  const later = (delayMs, work) => {
    clearTimeout(timer);
    const asked = turn;
    timer = setTimeout(() => asked === turn && work(), delayMs);
  };
  const connection = (state) => tell('onConnection', state, TRANSPORTS[transport]);

  /** One request. `status` 0 means that no answer came. */
  const ask = async (method, path, sent) => {
    const abort = new AbortController();
    const deadline = setTimeout(() => abort.abort(), REQUEST_MS);
    try {
      const response = await fetch(api + path, {
        method,
        signal: abort.signal,
        credentials: base === '' ? 'same-origin' : 'include',
        headers: { accept: 'application/json', ...(sent && { 'content-type': 'application/json' }) },
        ...(sent && { body: JSON.stringify(sent) }),
      });
      const text = await response.text();
      let body = {};
      try {
        body = text === '' ? {} : JSON.parse(text);
      } catch {
        // Something between us and the server answered in its own words; the status is all there is to know.
      }
      const retryAfterMs = 1000 * Number(response.headers.get('retry-after') ?? 0) || 0;
      return { status: response.status, ok: response.ok, body, retryAfterMs };
    } catch {
      return { status: 0, ok: false, body: {}, retryAfterMs: 0 };
    } finally {
      clearTimeout(deadline);
    }
  };

  const stop = (next) => {
    turn += 1;
    mode = next;
    clearTimeout(timer);
    hush();
    hush = () => {};
  };

  const ended = (reason) => {
    stop('ended');
    claimToken = undefined;
    // A missed turn and a closed sale keep the place; the other ends are for good.
    if (reason === 'finished' || reason === 'left') receipt('removeItem');
    tell('onEnded', { reason });
  };

  const hear = (type, data) => {
    if (data.serverNowMs) clockAheadMs = data.serverNowMs - Date.now();
    if (type === 'position') {
      cadenceMs = data.nextMs ?? 0;
      tell('onPosition', data);
    } else if (type === 'state') {
      if (data.state === 'finished') return ended(data.reason ?? 'finished');
      if (data.state === 'closed') return ended('closed');
      // The server knows of no place of ours; the receipt brings it back. A moment later, never in a tight loop.
      if (data.state === 'none') {
        stop('listening');
        return later(1000 + 2000 * Math.random(), join);
      }
      tell('onState', data);
    } else if (type === 'promoted') {
      claimToken = data.claimToken;
      claimDeadlineMs = data.deadlineMs;
      tell('onPromoted', data);
    } else if (type === 'notice') {
      if (data.id !== undefined && data.id === noticeId) return;
      noticeId = data.id;
      tell('onNotice', data);
    } else if (type === 'ended') ended(data.reason ?? 'finished');
  };

  /** What a join or a poll answers, told as the messages that a stream would have brought. */
  const take = (answer) => {
    if (answer.receipt) receipt('setItem', answer.receipt);
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

  const listen = () => {
    hush();
    mode = 'listening';
    const asked = turn;
    // A stream shows a withheld place a line like everyone's; polls tell those who were told so when it is over.
    if (withheld || transport === 2) return poll();
    let worked = false;
    let over = false;
    let source;
    let watch;
    const finish = () => {
      over = true;
      clearTimeout(watch);
      source?.close();
    };
    const broken = () => {
      if (over) return;
      finish();
      if (asked !== turn) return;
      failures += 1;
      // Two tries where no stream ever worked, three where one did, then the next transport has its chance.
      if (!worked && failures >= (streamWorked ? 3 : 2)) transport += 1;
      connection('reconnecting');
      later(jittered(failures), listen);
    };
    const watchFor = (ms) => {
      clearTimeout(watch);
      watch = setTimeout(broken, ms);
    };
    const message = (type, text) => {
      if (over || asked !== turn) return;
      let data;
      try {
        data = JSON.parse(text);
      } catch {
        return broken(); // A frame that is not ours: whatever speaks there is not the broker.
      }
      if (!worked) connection('live');
      worked = true;
      streamWorked = true;
      failures = 0;
      heardAtMs = Date.now();
      watchFor(Math.max(SILENT_MS, 2.5 * cadenceMs));
      hear(type ?? data.type, data);
    };
    hush = finish;
    watchFor(FIRST_MESSAGE_MS);
    try {
      if (transport === 0) {
        source = new EventSource(`${api}/events`, { withCredentials: base !== '' });
        for (const type of EVENTS) source.addEventListener(type, (event) => message(type, event.data));
        source.onerror = broken;
      } else {
        const address = new URL(`${api}/socket`, location.href);
        address.protocol = address.protocol.replace('http', 'ws');
        source = new WebSocket(address);
        source.onmessage = (event) => message(undefined, event.data);
        source.onclose = broken;
        source.onerror = broken;
      }
    } catch {
      broken(); // Forbidden by policy or missing in this browser: the next transport will do.
    }
  };

  const poll = async () => {
    const asked = turn;
    const { ok, status, body, retryAfterMs } = await ask('GET', '/places/me');
    if (asked !== turn) return;
    if (ok) {
      const recovered = failures > 0 && streamWorked;
      failures = 0;
      polls += 1;
      heardAtMs = Date.now();
      connection('polling');
      take(body);
      if (asked !== turn) return;
      if (recovered || polls % POLLS_BEFORE_STREAM === 0) transport = 0;
      if (!withheld && transport < 2) return listen();
      return later((body.pollAfterMs || POLL_MS) * (0.9 + 0.2 * Math.random()), poll);
    }
    if (status === 404) return join();
    if (status === 410) return ended('finished');
    failures += 1;
    connection(status === 0 ? 'offline' : 'reconnecting');
    if (body.code === 'room-recovering') tell('onState', { state: 'recovering' });
    later(retryAfterMs + jittered(failures + 1), poll);
  };

  /** A join that was refused: what it means, and when to ask again. */
  const refused = ({ status, body, retryAfterMs }, withReceipt) => {
    const again = (delayMs) => later(delayMs, join);
    const { code, title, detail } = body;
    failures += 1;
    connection(status === 0 ? 'offline' : status < 500 ? 'live' : 'reconnecting');
    if (withReceipt && (code === 'receipt-invalid' || code === 'place-finished')) {
      receipt('removeItem');
      return again(0);
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
      return again(Math.min(waitMs, 3_600_000) + 3000 * Math.random());
    }
    if (status !== 0)
      tell('onState', {
        state: code === 'room-recovering' ? 'recovering' : 'unavailable',
        reason: code === 'room-full' || status === 404 ? title : undefined,
      });
    again(retryAfterMs * (1 + Math.random()) + jittered(failures));
  };

  const join = async () => {
    stop('joining');
    const asked = turn;
    connection('connecting');
    const kept = receipt('getItem');
    const answer = await ask('POST', '/places', kept ? { receipt: kept } : {});
    if (asked !== turn) return;
    if (!answer.ok) return refused(answer, kept);
    failures = 0;
    take(answer.body);
    if (asked === turn) listen();
  };

  const claim = async () => {
    for (let attempt = 0; ; attempt += 1) {
      const { ok, status, body, retryAfterMs } = await ask(
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
      await new Promise((resolve) => setTimeout(resolve, retryAfterMs + jittered(attempt)));
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
    if (mode !== 'listening' || document.visibilityState === 'hidden') return;
    if (failures > 0 || Date.now() - heardAtMs > SILENT_MS) later(1000 * Math.random(), listen);
  };
  const offline = () => mode === 'listening' && connection('offline');
  const hide = () => hush();
  const show = (event) => event.persisted && mode === 'listening' && listen();
  const life = new AbortController();
  const on = (target, type, work) => target.addEventListener(type, work, { signal: life.signal });
  on(window, 'online', wake);
  on(window, 'offline', offline);
  on(window, 'pagehide', hide);
  on(window, 'pageshow', show);
  on(document, 'visibilitychange', wake);

  const close = () => {
    stop('idle');
    life.abort();
  };

  return { join, claim, leave, close };
};
