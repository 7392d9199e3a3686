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
import { hostOf } from '../line/routes.ts';
import type { Snapshot } from '../line/snapshot.ts';
import type { View } from '../line/view.ts';
import type { CookieNames } from '../line/visitor.ts';
import { decide, isOpenPath } from './gate.ts';
import type { Judge } from './judging.ts';
import type { Sessions } from './sessions.ts';

/** What is asked for, and who asks. In auth mode the first three are those of the original request. */
export type Asked = {
  /** The Host header. */
  host: string | undefined;
  /** Without the query. In plain form (kernel/path.ts): whoever calls has refused all others. */
  path: string;
  method: string;
  /** Where address, headers and cookies are read. */
  request: Pick<Request, 'address' | 'header' | 'flatHeaders' | 'cookie'>;
};

export type Admitted =
  | { act: 'refuse'; code: 'session-required' | 'not-found'; room: RoomId | undefined }
  | { act: 'waitingPage'; room: RoomId; snapshot: Snapshot }
  | {
      act: 'proxy';
      to: 'room' | 'booking-core' | 'default';
      snapshot: Snapshot | undefined;
      /** Of the route that matched; empty for a whole host, and where no room guards. */
      prefix: string;
      session: Session | undefined;
      /** The renewed value of the session's cookie, when it should be replaced. */
      cookie: string | undefined;
      /** The rule by which it passes without a session. */
      bypass: string | undefined;
    };

export type Admission = {
  /** Throws Refusal `bad-header` for a malformed host, and what sessions.admit throws. */
  decide(asked: Asked): Promise<Admitted>;
};

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

  /** Any live session of a room in front of booking-core, for its paths that no room guards. */
  const bookingSession = async (request: Asked['request']) => {
    for (const [room, snapshot] of view.all()) {
      if (snapshot.settings.origin !== 'booking-core') continue;
      const shown = request.cookie(names.session(room));
      if (shown === undefined) continue;
      const admission = await sessions.admit(room, snapshot, shown);
      if (admission.outcome === 'admitted') return admission;
    }
    return undefined;
  };

  const bypassed = async (asked: Asked, room: RoomId, snapshot: Snapshot): Promise<string | undefined> => {
    const { bypass: rules } = snapshot.settings;
    if (rules.length === 0) return undefined;
    const { path, method, request } = asked;
    const rule = await bypassOf(rules).find({
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

  return {
    async decide(asked) {
      const { path, method, request } = asked;
      const host = hostOf(asked.host);
      if (host === undefined)
        throw new Refusal('bad-header', { detail: '`host` is not the name of a host.' });
      const open = isOpenPath(path);
      const guarded = open ? undefined : view.guarding(host, path);
      const room = guarded?.room;
      const snapshot = room === undefined ? undefined : view.of(room);
      const bypass =
        room === undefined || snapshot === undefined ? undefined : await bypassed(asked, room, snapshot);
      // Whoever is let by needs no session, and must not depend on Redis for one.
      const found =
        bypass !== undefined
          ? undefined
          : room !== undefined && snapshot !== undefined
            ? await sessions.admit(room, snapshot, request.cookie(names.session(room)))
            : open
              ? await bookingSession(request)
              : undefined;
      const admitted = found?.outcome === 'admitted' ? found : undefined;
      const decision = decide({
        path,
        room,
        method,
        acceptsHtml: (request.header('accept') ?? '').includes('text/html'),
        passthrough: snapshot?.settings.queueingMethod === 'passthrough',
        bypassed: bypass !== undefined,
        admitted: admitted !== undefined,
        hasDefaultOrigin,
      });
      switch (decision.act) {
        case 'refuse':
          return { ...decision, room };
        case 'waitingPage':
          return { ...decision, room: room!, snapshot: snapshot! }; // Only ever decided for a room.
        case 'proxy':
          return {
            ...decision,
            snapshot,
            prefix: guarded?.prefix ?? '',
            session: admitted?.session,
            cookie: admitted?.cookie,
            bypass,
          };
      }
    },
  };
};
