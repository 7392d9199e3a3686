// The origin's side of a waiting room, for Node: lets only those requests through that have come by the gate, and says
// who they are. One function that is Express middleware and a Fastify hook alike. It imports nothing but Node; types
// are in origin.d.ts.
//
//   app.use(createGuard({ room: 'demo', keys: gateKeys }))                      Express
//   fastify.addHook('onRequest', createGuard({ room: 'demo', keys: gateKeys }))  Fastify
//
// Two proofs are known. The context is a header that the gateway, or a proxy in auth mode, adds to each request: an
// HMAC with a key of this room alone (`npm run keys -- context <room>`), good for a minute. The pass is a JWT that its
// visitor got with the turn, for an origin that no gate stands in front of; it is checked with the public keys.
//
// Promises: whatever is missing, malformed, old, forged, or of another room is refused; the answer says in a stable
// `code` which of these it was and never more. No header is believed unless one of the proofs says the same.

import { createHmac, createPublicKey, timingSafeEqual, verify } from 'node:crypto';

const CONTEXT_LIFE_MS = 60_000;
const CONTEXT_CHARS_MAX = 400;
const MAC_BYTES = 16;
const PASS_CHARS_MAX = 2000;
const PASS_TYP = 'anteroom-pass+jwt';
/** A pass lives five minutes; clocks of two machines differ by a few seconds. */
const PASS_LIFE_SECONDS = 300;
const CLOCK_SECONDS = 5;
/** Public keys are asked for again after ten minutes, and for an unknown key at most twice a minute. */
const KEYS_LIFE_MS = 600_000;
const KEYS_PAUSE_MS = 30_000;
const REQUEST_MS = 5000;

const refusals = {
  'gate-missing': [401, 'This address is reached through its waiting room. Go there first.'],
  'context-invalid': [403, 'This request did not come through the waiting room. Go there first.'],
  'context-expired': [403, 'This request took too long to come from the waiting room, or a clock is wrong.'],
  'context-other-room': [403, 'This request came through another waiting room.'],
  'pass-invalid': [403, 'This pass is not valid here. Enter from the waiting page to get one.'],
  'pass-expired': [403, 'This pass has expired. Enter from the waiting page again to get a new one.'],
  'keys-unavailable': [503, 'Passes cannot be checked for a moment. Try again.'],
};

/** Base64url to a list, an object or undefined: what comes from outside is not always what it says. */
const decoded = (text) => {
  try {
    return JSON.parse(Buffer.from(text, 'base64url').toString('utf8'));
  } catch {
    return undefined; // Not JSON, and so not ours.
  }
};

/** `kid:base64url,…` as `npm run keys -- context` prints it. */
const parseKeys = (text) => {
  const keys = new Map();
  for (const part of String(text).split(',')) {
    const [, kid, secret] = /^([a-z0-9]{1,8}):([A-Za-z0-9_-]{43})$/.exec(part.trim()) ?? [];
    if (kid === undefined)
      throw new Error('`keys` is not what `npm run keys -- context <room>` prints for this room');
    keys.set(kid, Buffer.from(secret, 'base64url'));
  }
  return keys;
};

/** @type {import('./origin.d.ts').createContextReader} */
export const createContextReader = ({ room, keys: keysText, nowMs = Date.now }) => {
  const keys = parseKeys(keysText);
  return (text) => {
    if (typeof text !== 'string' || text === '') return { outcome: 'gate-missing' };
    const [kid, payload, mac, ...more] = text.length > CONTEXT_CHARS_MAX ? [] : text.split('.');
    const fields = decoded(payload ?? '');
    if (mac === undefined || more.length > 0 || !Array.isArray(fields)) return { outcome: 'context-invalid' };
    const [visitor, of, placeId, number, sale, atMs] = fields;
    // Another room has another key: said before the signature is looked at, or nobody could tell the two apart.
    if (of !== room) return { outcome: 'context-other-room' };
    const key = keys.get(kid);
    const given = Buffer.from(mac, 'base64url');
    if (key === undefined || given.length !== MAC_BYTES) return { outcome: 'context-invalid' };
    const wanted = createHmac('sha256', key)
      .update(`context.${kid}.${payload}`)
      .digest()
      .subarray(0, MAC_BYTES);
    if (!timingSafeEqual(given, wanted)) return { outcome: 'context-invalid' };
    if (typeof atMs !== 'number' || Math.abs(nowMs() - atMs) > CONTEXT_LIFE_MS)
      return { outcome: 'context-expired' };
    const session = placeId === '' ? undefined : { id: `${placeId}.${number}`, placeId, number, sale };
    return { outcome: 'valid', visitor, room, session };
  };
};

/** The public keys at an address, by kid; asked for when a kid is unknown, but not for every stranger who names one. */
const createKeySource = (url, nowMs) => {
  let keys = new Map();
  let askedAtMs = Number.NEGATIVE_INFINITY;
  let gotAtMs = Number.NEGATIVE_INFINITY;
  let asking;
  const fetchKeys = async () => {
    const answer = await fetch(url, { signal: AbortSignal.timeout(REQUEST_MS), redirect: 'error' });
    if (answer.status !== 200) throw new Error(`${url} answered ${answer.status}`);
    const fresh = new Map();
    for (const jwk of (await answer.json()).keys)
      if (jwk.kty === 'OKP' && jwk.crv === 'Ed25519')
        fresh.set(jwk.kid, createPublicKey({ key: jwk, format: 'jwk' }));
    keys = fresh;
    gotAtMs = nowMs();
  };
  return async (kid) => {
    const stale = nowMs() - gotAtMs > KEYS_LIFE_MS;
    if ((stale || !keys.has(kid)) && nowMs() - askedAtMs > KEYS_PAUSE_MS) {
      askedAtMs = nowMs();
      asking = fetchKeys();
    }
    // Known keys stay good while the address is out of reach; without any, whoever asked is told why.
    try {
      await asking;
    } catch (error) {
      if (keys.size === 0) throw error;
    }
    return keys.get(kid);
  };
};

/** @type {import('./origin.d.ts').createPassReader} */
export const createPassReader = ({ room, jwks, issuer, nowMs = Date.now }) => {
  const keyOf = createKeySource(jwks, nowMs);
  return async (text) => {
    const [head, body, signature, ...more] =
      typeof text === 'string' && text.length <= PASS_CHARS_MAX ? text.split('.') : [];
    const header = decoded(head ?? '');
    const claims = decoded(body ?? '');
    if (signature === undefined || more.length > 0) return { outcome: 'pass-invalid' };
    // The algorithm is ours to say, not the token's; a head with anything that must be understood is refused.
    if (header?.alg !== 'EdDSA' || header.typ !== PASS_TYP || header.crit !== undefined)
      return { outcome: 'pass-invalid' };
    let key;
    try {
      key = await keyOf(header.kid);
    } catch (cause) {
      return { outcome: 'keys-unavailable', cause };
    }
    if (key === undefined) return { outcome: 'pass-invalid' };
    if (!verify(null, Buffer.from(`${head}.${body}`), key, Buffer.from(signature, 'base64url')))
      return { outcome: 'pass-invalid' };
    const { iss, aud, exp, iat, sub, jti, number, sale } = claims ?? {};
    if (iss !== issuer || aud !== room) return { outcome: 'pass-invalid' };
    if (typeof exp !== 'number' || typeof iat !== 'number' || typeof jti !== 'string')
      return { outcome: 'pass-invalid' };
    const now = nowMs() / 1000;
    if (iat > now + CLOCK_SECONDS) return { outcome: 'pass-invalid' };
    if (exp < now - CLOCK_SECONDS || iat < now - PASS_LIFE_SECONDS - CLOCK_SECONDS)
      return { outcome: 'pass-expired' };
    return { outcome: 'valid', visitor: undefined, room, session: { id: jti, placeId: sub, number, sale } };
  };
};

/** @type {import('./origin.d.ts').createSessionEnder} */
export const createSessionEnder = ({ url, token }) => {
  return async (room, sessionId) => {
    const answer = await fetch(`${url}/v1/rooms/${encodeURIComponent(room)}/sessions/end`, {
      method: 'POST',
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
      body: JSON.stringify({ session: sessionId }),
      signal: AbortSignal.timeout(REQUEST_MS),
    });
    if (answer.status === 204) return { outcome: 'ended' };
    const problem = await answer.json();
    if (problem.code === 'session-missing') return { outcome: 'missing' };
    throw new Error(`the gateway did not end the session: ${answer.status} ${problem.code}`);
  };
};

/** Express and Node itself have `setHeader`, Fastify has `header`. */
const setHeader = (response, name, value) =>
  response.raw === undefined ? response.setHeader(name, value) : response.header(name, value);

const refuse = (response, code) => {
  const [status, title] = refusals[code];
  setHeader(response, 'content-type', 'application/problem+json');
  setHeader(response, 'cache-control', 'no-store');
  const body = JSON.stringify({ type: `urn:anteroom:error:${code}`, title, status, code });
  response.statusCode = status;
  if (response.raw === undefined) response.end(body);
  else response.send(body);
};

/** @type {import('./origin.d.ts').createGuard} */
export const createGuard = (options) => {
  const { room, keys, passes, service, nowMs } = options;
  if (keys === undefined && passes === undefined)
    throw new Error('createGuard needs `keys` for contexts, or `passes`, or both');
  const readContext = keys === undefined ? undefined : createContextReader({ room, keys, nowMs });
  const readPass = passes === undefined ? undefined : createPassReader({ room, ...passes, nowMs });
  const endSession = service === undefined ? undefined : createSessionEnder(service);

  const judge = ({ headers }) => {
    const context = headers['anteroom-context'];
    if (readContext !== undefined && (context !== undefined || readPass === undefined))
      return readContext(context);
    const pass = /^Bearer (\S+)$/i.exec(headers.authorization ?? '')?.[1];
    return pass === undefined ? { outcome: 'gate-missing' } : readPass(pass);
  };

  return (request, response, next) => {
    const act = (read) => {
      if (read.outcome !== 'valid') return refuse(response, read.outcome);
      const { visitor, session } = read;
      const end = async () => {
        if (session === undefined) return { outcome: 'missing' };
        if (endSession !== undefined) return endSession(room, session.id);
        setHeader(response, 'anteroom-session', 'end');
        return { outcome: 'told' };
      };
      request.anteroom = { visitor, room, session, end };
      next();
    };
    const read = judge(request);
    if ('then' in read) read.then(act, next);
    else act(read);
  };
};
