// SPDX-License-Identifier: Apache-2.0
// JSON as YAML, for reading and for `byrnie apply`. Strings are quoted whenever YAML could read them as
// anything else.

const PLAIN = /^[A-Za-z_/.$*][A-Za-z0-9_/.@*$+:=~-]*( [A-Za-z0-9_/.@*$+=~-]+)*$/;
const SPAN = /^\d+(ms|s|m|h)$/;
const WORDS = /^(true|false|null|yes|no|on|off|y|n|~)$/i;

function scalar(value: unknown): string {
  if (typeof value !== "string") return JSON.stringify(value) ?? "null";
  if (SPAN.test(value)) return value;
  const plain = PLAIN.test(value) && !WORDS.test(value) && !/:( |$)/.test(value) && !/^[.*]/.test(value) && !/^[-+.]?\d/.test(value);
  return plain ? value : JSON.stringify(value);
}

const isEmpty = (value: object): boolean => (Array.isArray(value) ? value.length === 0 : Object.keys(value).length === 0);

function lines(value: unknown, indent: string): string[] {
  if (typeof value !== "object" || value === null) return [indent + scalar(value)];
  if (isEmpty(value)) return [indent + (Array.isArray(value) ? "[]" : "{}")];
  if (Array.isArray(value)) {
    return value.flatMap((item) => {
      const [first = "", ...rest] = lines(item, `${indent}  `);
      return [`${indent}- ${first.trimStart()}`, ...rest];
    });
  }
  return Object.entries(value).flatMap(([key, item]) => {
    const name = indent + scalar(key);
    if (typeof item !== "object" || item === null || isEmpty(item)) return [`${name}: ${lines(item, "")[0]}`];
    return [`${name}:`, ...lines(item, Array.isArray(item) ? indent : `${indent}  `)];
  });
}

export const yaml = (value: unknown): string => lines(value, "").join("\n");

export type DiffLine = { sign: " " | "+" | "-"; text: string };
const CONTEXT = 2;

/** Lines of two texts by their longest common subsequence; equal runs are cut to their ends. */
export function diff(before: string, after: string): DiffLine[] {
  const a = before ? before.split("\n") : [];
  const b = after ? after.split("\n") : [];
  const table = Array.from({ length: a.length + 1 }, () => new Uint32Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      table[i]![j] = a[i] === b[j] ? table[i + 1]![j + 1]! + 1 : Math.max(table[i + 1]![j]!, table[i]![j + 1]!);
    }
  }
  const all: DiffLine[] = [];
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      all.push({ sign: " ", text: a[i++]! });
      j++;
    } else if (i < a.length && (j >= b.length || table[i + 1]![j]! >= table[i]![j + 1]!)) all.push({ sign: "-", text: a[i++]! });
    else all.push({ sign: "+", text: b[j++]! });
  }
  const near = (at: number) => all.slice(Math.max(0, at - CONTEXT), at + CONTEXT + 1).some((line) => line.sign !== " ");
  return all.filter((line, at) => line.sign !== " " || near(at));
}
