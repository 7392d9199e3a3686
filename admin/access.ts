// Who may do what: one table of all routes with the role each one needs. A handler is found by its row here, so a
// route without a row cannot exist, and a test walks the table with every role.

import type { OperatorRole } from './operators.ts';

/** `any` operator; `operator` tunes the line; `security` reviews and releases; `admin` governs and may do it all. */
export type Need = 'any' | 'operator' | 'security' | 'admin';

export const accessTable = {
  'GET /v1/me': 'any',
  'GET /v1/rooms': 'any',
  'POST /v1/rooms': 'operator',
  'GET /v1/rooms/:room': 'any',
  'PATCH /v1/rooms/:room': 'operator',
  'POST /v1/rooms/:room/suspend': 'operator',
  'POST /v1/rooms/:room/resume': 'operator',
  'POST /v1/rooms/:room/notices': 'operator',
  'GET /v1/rooms/:room/history': 'any',
  'GET /v1/rooms/:room/live': 'any',
  'GET /v1/rooms/:room/sales': 'operator',
  'GET /v1/rooms/:room/sales/:sale/ledger': 'operator',
  'GET /v1/decisions': 'security',
  'POST /v1/decisions/:decision/release': 'security',
  'GET /v1/audit': 'any',
  'GET /v1/audit/verify': 'any',
  'GET /v1/operators': 'admin',
  'POST /v1/operators': 'admin',
  'POST /v1/operators/:operator/disable': 'admin',
} as const satisfies Record<`${'GET' | 'POST' | 'PATCH'} /${string}`, Need>;

export type RouteName = keyof typeof accessTable;

export const mayUse = (role: OperatorRole, need: Need): boolean =>
  need === 'any' || role === 'admin' || role === need;
