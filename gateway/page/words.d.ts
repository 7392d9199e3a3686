// Types of words.js.

import type { WaitingView } from './page.ts';

export type Described = {
  tone: 'calm' | 'good' | 'warn' | 'bad';
  /** The `d` of an SVG path in a 24 × 24 box. */
  glyph: string;
  headline: string;
  lead: string;
  docTitle: string;
  big?: string | undefined;
  caption?: string;
  ahead?: string;
  eta?: string;
  progress?: number;
  number?: string | undefined;
  safe?: string | undefined;
  button?: { act: 'join' | 'enter'; label: string };
  leave?: boolean;
  appeal?: boolean;
};

export function countInWords(count: number): string;
export function etaInWords(range: readonly [p50: number, p90: number] | undefined): string;
export function clockInWords(leftMs: number): string;
/** Empty when the reason says nothing to people. */
export function reasonInWords(reason: string | undefined): string;
export function describe(view: WaitingView & { nowMs: number }): Described;
