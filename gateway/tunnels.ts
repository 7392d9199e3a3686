// WebSockets of those inside, passed through to the origin: messages both ways as they are, the subprotocol the origin
// chose, close codes. Both handshakes are real, so nothing of one side's framing reaches the other.
//
// A tunnel lives no longer than the session it was opened with: it is closed (1008) when the session ends or runs out,
// goes to another browser, or reaches its absolute limit. Messages do not renew a session; requests do. A fan who reads
// slowly holds the origin back; an origin that reads slowly cannot hold back a fan (the server below has no such
// valve), so what waits for it is bounded and the tunnel ends beyond (1013).

import type { Config } from '../kernel/config.ts';
import { Refusal } from '../kernel/errors.ts';
import type { Answer, Tunnel, TunnelSocket } from '../kernel/http.ts';
import type { RoomId } from '../kernel/ids.ts';
import type { Log } from '../kernel/log.ts';
import type { Metrics } from '../kernel/metrics.ts';
import { openOriginSocket } from '../kernel/origin-socket.ts';
import type { Session } from '../line/receipt.ts';
import type { View } from '../line/view.ts';
import { headersToClient, headersToOrigin, type Proxied, pathToOrigin } from './proxy.ts';
import type { Sessions } from './sessions.ts';

type Visit = { placeId: string; number: number };
type Open = { session: Session; end(): void };

export type Tunnels = {
  pass(p: Proxied & { session: Session | undefined }): Promise<Answer | Tunnel>;
  /** Said by the entry stream, or by whoever ended the session here. */
  ended(room: RoomId, visit: Visit): void;
  superseded(room: RoomId, visit: Visit, serial: number): void;
  /** After a gap in the stream: every session is looked up again. */
  doubt(): void;
  stop(): void;
};

const SWEEP_MS = 1000;
const POLICY_VIOLATION = 1008;
const TRY_AGAIN_LATER = 1013;

/** What the fan can speak, as it said it. */
const protocolsOf = (header: string | undefined): string[] =>
  (header ?? '')
    .split(',')
    .map((name) => name.trim())
    .filter((name) => name !== '');

export const createTunnels = (options: {
  config: Pick<Config, 'originStreamsMax' | 'socketMessageBytesMax'>;
  sessions: Pick<Sessions, 'isLive'>;
  view: Pick<View, 'of' | 'redisNowMs'>;
  metrics: Metrics;
  log: Log;
}): Tunnels => {
  const { config, sessions, view, metrics, log } = options;
  const bytesMax = config.socketMessageBytesMax;
  const byVisit = new Map<string, Set<Open>>();
  const countByOrigin = new Map<string, number>();
  const keyOf = (room: RoomId, { placeId, number }: Visit) => `${room}/${placeId}/${number}`;

  let openCount = 0;
  const count = (origin: string, by: 1 | -1): void => {
    const now = (countByOrigin.get(origin) ?? 0) + by;
    if (now === 0) countByOrigin.delete(origin);
    else countByOrigin.set(origin, now);
    openCount += by;
    metrics.set('tunnels_open', {}, openCount);
  };
  const enter = (session: Session, end: () => void): (() => void) => {
    const key = keyOf(session.room, session);
    const open = { session, end };
    const all = byVisit.get(key) ?? new Set();
    byVisit.set(key, all.add(open));
    return () => {
      all.delete(open);
      if (all.size === 0 && byVisit.get(key) === all) byVisit.delete(key);
    };
  };
  const everyone = (): Open[] => [...byVisit.values()].flatMap((all) => [...all]);

  const pass: Tunnels['pass'] = async (p) => {
    const { request, origin, session } = p;
    if ((countByOrigin.get(origin) ?? 0) >= config.originStreamsMax) throw new Refusal('overloaded');
    count(origin, 1);
    let isCounted = true;
    const over = (): void => {
      if (isCounted) count(origin, -1);
      isCounted = false;
    };
    try {
      const there = await openOriginSocket({
        origin,
        path: pathToOrigin(p.path, request),
        headers: headersToOrigin(p, { isHandshake: true }),
        protocols: protocolsOf(request.header('sec-websocket-protocol')),
        timeoutMs: p.timeoutMs,
        bytesMax,
        signal: request.signal,
      });
      if (there.outcome === 'answered') {
        over();
        const { headers } = headersToClient(there.headers);
        return { status: there.status, headers: [...headers, ...p.setCookies], body: there.body };
      }
      let here: TunnelSocket | undefined;
      let leave: (() => void) | undefined;
      return {
        tunnel: true,
        protocol: there.protocol,
        headers: p.setCookies,
        open(socket) {
          here = socket;
          if (session !== undefined)
            leave = enter(session, () => socket.end(POLICY_VIOLATION, 'the session has ended'));
          there.listen({
            message(payload, isBinary) {
              if (!socket.send(payload, isBinary)) there.pause();
            },
            closed: (code, reason) => socket.end(code, reason),
          });
        },
        message(payload, isBinary) {
          there.send(payload, isBinary);
          if (there.waitingBytes > bytesMax) here?.end(TRY_AGAIN_LATER, 'too much is waiting');
        },
        writable: there.resume,
        closed(code, reason) {
          there.end(code, reason);
          leave?.();
          over();
        },
      };
    } catch (error) {
      over();
      throw error;
    }
  };

  const sweep = setInterval(() => {
    const nowMs = view.redisNowMs();
    for (const { session, end } of everyone()) {
      const settings = view.of(session.room)?.settings;
      const isOver =
        settings === undefined ||
        settings.sale !== session.sale ||
        nowMs >= session.startedAtMs + settings.absoluteSessionSeconds * 1000;
      if (isOver) end();
    }
  }, SWEEP_MS);
  sweep.unref();

  return {
    pass,
    ended(room, visit) {
      for (const { end } of [...(byVisit.get(keyOf(room, visit)) ?? [])]) end();
    },
    superseded(room, visit, serial) {
      for (const { session, end } of [...(byVisit.get(keyOf(room, visit)) ?? [])])
        if (session.serial < serial) end();
    },
    doubt() {
      for (const { session, end } of everyone())
        sessions.isLive(session).then(
          (isLive) => {
            if (!isLive) end();
          },
          // Redis is away: what the room says of that is for new requests; the absolute limit still holds.
          (error: unknown) => log.debug('tunnel-unchecked', { room: session.room, error: String(error) }),
        );
    },
    stop: () => clearInterval(sweep),
  };
};
