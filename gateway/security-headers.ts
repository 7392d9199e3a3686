// Headers that every answer of the public port carries, whatever it is: also those that are proxied, and refusals.

import type { HeaderList } from '../kernel/answer.ts';

/** `secure` means that fans reach us by https; only then may a browser be told never to come otherwise (RFC 6797). */
export const securityHeaders = ({ secure }: { secure: boolean }): HeaderList => [
  ['x-content-type-options', 'nosniff'],
  ['referrer-policy', 'same-origin'],
  ...(secure ? [['strict-transport-security', 'max-age=31536000'] as const] : []),
];
