// SPDX-License-Identifier: Apache-2.0
// A transaction's history as bars: for each call of each branch, from when it was due until it was settled.

import type { Tone, Transaction, TransactionEvent } from "./types";

export const WIDTH = 1000;
/** A pause longer than so many usual ones is drawn as short as that. */
const LONG = 4;

const GOOD = new Set(["SUCCEEDED", "DELIVERED", "CONFIRMED", "CLOSED"]);
const BACK = new Set(["COMPENSATED", "CANCELLED", "ABORTED", "RESOLVED"]);

export function stateTone(state: string): Tone {
  if (GOOD.has(state)) return "ok";
  if (state === "STUCK") return "bad";
  return BACK.has(state) ? "warn" : "idle";
}

export const isOver = (state: string): boolean => GOOD.has(state) || BACK.has(state);

export type Try = { at: number; settled: boolean; detail: string };
export type Bar = { branch: string; op: string; target: string; pivot: boolean; state: string; tone: Tone; from: number; until: number; tries: Try[]; open: boolean };

export type Timeline = {
  bars: Bar[];
  /** Where it took another direction. */
  turns: { at: number; what: string }[];
  start: number;
  end: number;
  /** The place of a moment, 0 to WIDTH. */
  place: (at: number) => number;
  /** Whether pauses are drawn shorter than they were. */
  shortened: boolean;
};

const SETTLED = new Set(["done", "rejected", "stuck"]);
const CALLS = new Set(["tried", "ongoing", "retried", ...SETTLED]);

function toneOf(state: string): Tone {
  if (state === "done") return "ok";
  if (state === "rejected") return "warn";
  return state === "stuck" ? "bad" : "idle";
}

export function timeline(transaction: Transaction, events: TransactionEvent[], now: number, toScale: boolean): Timeline {
  const start = transaction.created;
  const over = isOver(transaction.state);
  const last = events.at(-1)?.at ?? start;
  const end = Math.max(start + 1, over ? last : Math.max(now, last));
  const turns = events.filter((event) => !CALLS.has(event.what) && event.what !== "begun" && event.what !== "enlisted").map(({ at, what }) => ({ at, what }));
  const settled = (branch: string, op: string) => events.findLast((event) => event.branch === branch && event.op === op && SETTLED.has(event.what));
  const bars: Bar[] = [];
  for (const branch of transaction.branches) {
    const ops = Object.entries(branch.calls);
    ops.forEach(([op, call], index) => {
      const own = events.filter((event) => event.branch === branch.name && event.op === op);
      if (!own.length && (call.state === "not needed" || (over && call.state === "pending"))) return;
      const first = index === 0;
      const before = branch.after.map((name) => settled(name, op)?.at ?? start);
      const turned = turns.find((turn) => own.length === 0 || turn.at <= own[0]!.at)?.at ?? start;
      const from = first ? Math.max(start, ...before) : turned;
      const done = settled(branch.name, op);
      const waits = first && branch.after.some((name) => settled(name, op)?.what !== "done") && own.length === 0;
      if (waits) return;
      const open = !done && !over;
      bars.push({
        branch: branch.name,
        op,
        target: call.target,
        pivot: branch.pivot && first,
        state: call.state,
        tone: toneOf(call.state),
        from: Math.min(from, own[0]?.at ?? from),
        until: done ? done.at : open ? end : Math.max(from, own.at(-1)?.at ?? from),
        tries: own.map((event) => ({ at: event.at, settled: SETTLED.has(event.what), detail: [event.what, event.detail].filter(Boolean).join(": ") })),
        open,
      });
    });
  }
  bars.sort((a, b) => a.from - b.from || a.until - b.until);
  return { bars, turns, start, end, ...scale([start, end, ...events.map((event) => event.at)], toScale) };
}

/** Moments to places. Where somebody waited long for little, the pause is drawn as a few usual ones. */
function scale(moments: number[], toScale: boolean): { place: (at: number) => number; shortened: boolean } {
  const times = [...new Set(moments)].sort((a, b) => a - b);
  const gaps = times.slice(1).map((at, index) => at - times[index]!);
  const usual = [...gaps].sort((a, b) => a - b)[Math.floor(gaps.length / 2)] ?? 1;
  const most = toScale ? Infinity : Math.max(1, usual * LONG);
  const places = [0];
  for (const gap of gaps) places.push(places.at(-1)! + Math.min(gap, most));
  const whole = places.at(-1) || 1;
  const place = (at: number): number => {
    let index = times.findLastIndex((time) => time <= at);
    if (index < 0) index = 0;
    const gap = gaps[index];
    const share = gap ? Math.min(1, (at - times[index]!) / gap) : 0;
    const within = gap ? share * Math.min(gap, most) : 0;
    return ((places[index]! + within) / whole) * WIDTH;
  };
  return { place, shortened: gaps.some((gap) => gap > most) };
}
