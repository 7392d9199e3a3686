// Results: a table for people on the screen and a JSON file to be checked in. Ratios are medians of the rounds;
// absolute rates stand beside them and mean little on a shared machine.

import { mkdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { Machine } from './machine.ts';

export type Row = Record<string, string | number>;
export type Result = {
  name: string;
  quick: boolean;
  command: string;
  at: string;
  machine: Machine;
  /** What was done to keep noise out, and what was not possible. */
  conditions: readonly string[];
  rows: readonly Row[];
  rounds: readonly Row[];
};

const FOLDER = fileURLToPath(new URL('results/', import.meta.url));

export const median = (values: readonly number[]): number => {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  if (sorted.length === 0) return Number.NaN;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
};

export const rounded = (value: number, digits = 2): number => Number(value.toFixed(digits));

const tableOf = (rows: readonly Row[]): string => {
  const names = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const cells = [names, ...rows.map((row) => names.map((name) => String(row[name] ?? '')))];
  const widths = names.map((_, column) => Math.max(...cells.map((line) => line[column]!.length)));
  return cells
    .map((line) => line.map((cell, column) => cell.padEnd(widths[column]!)).join('  '))
    .map((line) => `  ${line.trimEnd()}`)
    .join('\n');
};

/** Prints the result and writes `results/<name>-<date>.json`; a quick run has `-quick` in its name. */
export const publish = (result: Result): void => {
  const { machine } = result;
  const file = `${result.name}${result.quick ? '-quick' : ''}-${result.at.slice(0, 10)}.json`;
  mkdirSync(FOLDER, { recursive: true });
  writeFileSync(`${FOLDER}${file}`, `${JSON.stringify(result, undefined, 2)}\n`);
  console.log(`\n${result.name}: ${machine.cpu}, ${machine.cores} cores, ${machine.memoryGiB} GiB`);
  console.log(`Linux ${machine.kernel}, Node ${machine.node}, commit ${machine.commit}`);
  console.log(`${result.command}\n${result.conditions.map((line) => `- ${line}`).join('\n')}\n`);
  console.log(`${tableOf(result.rows)}\n\nwritten to bench/results/${file}`);
};
