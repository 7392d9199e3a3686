// What becomes of a request that is not one of our own, in one place for whoever has to know: the proxy that carries
// it, and other proxies that only ask. It fetches the facts (which room, which bypass, which session), in the order
// that costs least, and lets gate.ts decide. It writes nothing but a count.

import { Refusal } from '../kernel/errors.ts';
import type { Request } from '../kernel/http.ts';
import type { RoomId } from '../kernel/ids.ts';
import type { Metrics } from '../kernel/metrics.ts';
import { type Bypass, type BypassRule, createBypass } from '../line/bypass.ts';
import type { ClaimsReader } from '../line/claims.ts';
import type { Session } from '../line/receipt.ts';
import { type Guarded, hostOf } from '../line/routes.ts';
import type { Snapshot } from '../line/snapshot.ts';
import type { View } from '../line/view.ts';
import type { CookieNames } from '../line/visitor.ts';
import { decide, isOpenPath } from './gate.ts';
import type { Judge } from './judging.ts';
import type { Admission as SessionFound, Sessions } from './sessions.ts';

/** What is asked for, and who asks. In auth mode the first three are those of the original request. */
export type Asked = {
  /** The Host header. */
  host: string | undefined;
  /** Without the query. In plain form (kernel/path.ts): whoever calls has refused all others. */
  path: string;
  method: string;
  /** Where address, headers and cookies are read. */
  request: Pick<Request, 'address' | 'header' | 'flatHeaders' | 'cookie'>;
  /** Whether booking-core stands behind whoever asks, so that its paths that need no session are open. */
  bookingBehind: boolean;
};

export type Admitted =
  | { act: 'refuse'; code: 'session-required' | 'not-found'; room: RoomId | undefined }
  | { act: 'waitingPage'; room: RoomId; snapshot: Snapshot }
  | {
      act: 'proxy';
      to: 'room' | 'booking-core' | 'default';
      room: RoomId | undefined;
      snapshot: Snapshot | undefined;
      /** Of the route that matched; empty for a whole host, and where no room guards. */
      prefix: string;
      session: Session | undefined;
      /** Of the same request, of other rooms: only where no room guards, for booking-core. */
      others: readonly Session[];
      /** The renewed value of the session's cookie, when it should be replaced. */
      cookie: string | undefined;
      /** The rule by which it passes without a session. */
      bypass: string | undefined;
    };

export type Admission = {
  /**
   * At once for a session that is known and a room without rules; otherwise a promise. Throws, or rejects with, Refusal
   * `bad-header` for a malformed host, and what sessions.admit throws.
   */
  decide(asked: Asked): Admitted | Promise<Admitted>;
};

const NOBODY = {};
const NO_OTHERS: readonly Session[] = [];

export const createAdmission = (options: {
  view: View;
  sessions: Sessions;
  names: CookieNames;
  claims: ClaimsReader;
  judge: Pick<Judge, 'look'>;
  metrics: Metrics;
  hasDefaultOrigin: boolean;
}): Admission => {
  const { view, sessions, names, claims, judge, metrics, hasDefaultOrigin } = options;
  // Settings are read anew with each snapshot; a list of rules lives as long as they do.
  const made = new WeakMap<readonly BypassRule[], Bypass>();
  const bypassOf = (rules: readonly BypassRule[]): Bypass => {
    const known = made.get(rules) ?? createBypass(rules);
    made.set(rules, known);
    return known;
  };

  /** Every live session of a room in front of booking-core, for its paths that no room guards. */
  const bookingSessions = async (request: Asked['request']) => {
    const live: (SessionFound & { outcome: 'admitted' })[] = [];
    for (const [room, snapshot] of view.all()) {
      if (snapshot.settings.origin !== 'booking-core') continue;
      const shown = request.cookie(names.session(room));
      if (shown === undefined) continue;
      const admission = await sessions.admit(room, snapshot, shown);
      if (admission.outcome === 'admitted') live.push(admission);
    }
    const [first, ...others] = live;
    return first === undefined ? NOBODY : { ...first, others: others.map(({ session }) => session) };
  };

  const bypassed = async (asked: Asked, room: RoomId, snapshot: Snapshot): Promise<string | undefined> => {
    const { path, method, request } = asked;
    const rule = await bypassOf(snapshot.settings.bypass).find({
      path,
      method,
      address: request.address,
      header: (name) => request.header(name),
      claims: (wanted) => claims.of(request, wanted),
      verdict: () => judge.look(request),
    });
    if (rule !== undefined) metrics.inc('bypassed_total', { room, rule });
    return rule;
  };

  type Found = { open: boolean; guarded: Guarded | undefined; snapshot: Snapshot | undefined };
  const conclude = (
    { method, request }: Asked,
    { guarded, snapshot, open }: Found,
    shown: { session?: Session; others?: readonly Session[]; cookie?: string | undefined; bypass?: string },
  ): Admitted => {
    const room = guarded?.room;
    const admitted = shown.session !== undefined;
    const decision = decide({
      open,
      room,
      method,
      // Who is inside gets no page, whatever they accept.
      acceptsHtml: !admitted && (request.header('accept') ?? '').includes('text/html'),
      passthrough: snapshot?.settings.queueingMethod === 'passthrough',
      bypassed: shown.bypass !== undefined,
      admitted,
      hasDefaultOrigin,
    });
    // Written out: a spread costs more than the rest of this, with each request.
    switch (decision.act) {
      case 'refuse':
        return { act: 'refuse', code: decision.code, room };
      case 'waitingPage':
        return { act: 'waitingPage', room: room!, snapshot: snapshot! }; // Only ever decided for a room.
      case 'proxy':
        return {
          act: 'proxy',
          to: decision.to,
          room,
          snapshot,
          prefix: guarded?.prefix ?? '',
          session: shown.session,
          others: shown.others ?? NO_OTHERS,
          cookie: shown.cookie,
          bypass: shown.bypass,
        };
    }
  };
  const admittedBy = (found: SessionFound | undefined) => (found?.outcome === 'admitted' ? found : NOBODY);
  // The name of a room's session cookie, made once: a text that was put together is put together at each comparison.
  const cookieNames = new Map<RoomId, string>();
  const sessionCookieOf = (room: RoomId): string => {
    const known = cookieNames.get(room);
    if (known !== undefined) return known;
    const name = names.session(room);
    cookieNames.set(room, name);
    return name;
  };
  // A proxy's questions are about the same few hosts, mostly about one.
  let last: { header: string | undefined; host: string | undefined } = { header: '', host: '' };
  const hostOfHeader = (header: string | undefined): string | undefined => {
    if (last.header !== header) last = { header, host: hostOf(header) };
    return last.host;
  };

  const byRules = async (asked: Asked, found: Found, room: RoomId, snapshot: Snapshot): Promise<Admitted> => {
    // Whoever is let by needs no session, and must not depend on Redis for one.
    const bypass = await bypassed(asked, room, snapshot);
    if (bypass !== undefined) return conclude(asked, found, { bypass });
    return conclude(
      asked,
      found,
      admittedBy(await sessions.admit(room, snapshot, asked.request.cookie(names.session(room)))),
    );
  };

  return {
    decide(asked) {
      const host = hostOfHeader(asked.host);
      if (host === undefined)
        throw new Refusal('bad-header', { detail: '`host` is not the name of a host.' });
      const open = asked.bookingBehind && isOpenPath(asked.path);
      const guarded = open ? undefined : view.guarding(host, asked.path);
      const room = guarded?.room;
      const snapshot = room === undefined ? undefined : view.of(room);
      const found = { open, guarded, snapshot };
      if (open) return bookingSessions(asked.request).then((shown) => conclude(asked, found, shown));
      if (room === undefined || snapshot === undefined) return conclude(asked, found, {});
      if (snapshot.settings.bypass.length > 0) return byRules(asked, found, room, snapshot);
      const cookie = asked.request.cookie(sessionCookieOf(room));
      const known = sessions.admitKnown(room, snapshot, cookie);
      if (known !== undefined) return conclude(asked, found, admittedBy(known));
      return sessions
        .admit(room, snapshot, cookie)
        .then((shown) => conclude(asked, found, admittedBy(shown)));
    },
  };
};
