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

/** A table for each run of rows of one kind: one that has too few columns in common begins another. */
const tablesOf = (rows: readonly Row[]): string => {
  const groups: Row[][] = [];
  for (const row of rows) {
    const group = groups.at(-1);
    const known = new Set(group?.flatMap((other) => Object.keys(other)));
    const names = Object.keys(row);
    const shared = names.filter((name) => known.has(name)).length;
    if (group !== undefined && shared * 3 >= Math.min(names.length, known.size) * 2) group.push(row);
    else groups.push([row]);
  }
  return groups.map(tableOf).join('\n\n');
};

/**
 * Prints the result and writes `results/<name>-<date>.json`; a quick run has `-quick` in its name. A chart (SVG) is
 * written beside it under the same name.
 */
export const publish = (result: Result, chart?: string): void => {
  const { machine } = result;
  const stem = `${result.name}${result.quick ? '-quick' : ''}-${result.at.slice(0, 10)}`;
  const file = `${stem}.json`;
  mkdirSync(FOLDER, { recursive: true });
  writeFileSync(`${FOLDER}${file}`, `${JSON.stringify(result, undefined, 2)}\n`);
  if (chart !== undefined) writeFileSync(`${FOLDER}${stem}.svg`, chart);
  console.log(`\n${result.name}: ${machine.cpu}, ${machine.cores} cores, ${machine.memoryGiB} GiB`);
  console.log(`Linux ${machine.kernel}, Node ${machine.node}, commit ${machine.commit}`);
  console.log(`${result.command}\n${result.conditions.map((line) => `- ${line}`).join('\n')}\n`);
  console.log(
    `${tablesOf(result.rows)}\n\nwritten to bench/results/${file}${chart === undefined ? '' : ` and ${stem}.svg`}`,
  );
};
