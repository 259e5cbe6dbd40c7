// SPDX-License-Identifier: Apache-2.0
// How numbers, times and names are written. One place, so that every page says the same.

import type { DecisionRecord, Golden, Tone } from "./types";

export const DASH = "–";

export function rate(rps: number | null | undefined): string {
  if (rps == null) return DASH;
  if (rps >= 10_000) return `${(rps / 1000).toFixed(0)}k`;
  if (rps >= 1000) return `${(rps / 1000).toFixed(1)}k`;
  if (rps >= 100) return rps.toFixed(0);
  return rps >= 0.05 || rps === 0 ? rps.toFixed(1) : rps.toFixed(2);
}

/** Never rounds a failure away: 99.97 is not 100. */
export function percent(value: number | null | undefined): string {
  if (value == null) return DASH;
  if (value === 100) return "100%";
  const cut = Math.floor(value * 10) / 10;
  return value > 99.9 && value < 100 ? `${(Math.floor(value * 100) / 100).toFixed(2)}%` : `${cut.toFixed(1)}%`;
}

/** A share of failures, as people say it. */
export function share(value: number): string {
  if (value >= 99.95) return "all";
  if (value >= 10) return `${Math.round(value)}%`;
  return value >= 1 ? `${value.toFixed(1).replace(/\.0$/, "")}%` : `${value.toFixed(2)}%`;
}

export function millis(ms: number | null | undefined): string {
  if (ms == null) return DASH;
  if (ms >= 10_000) return `${(ms / 1000).toFixed(0)} s`;
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
  return ms >= 10 ? `${ms.toFixed(0)} ms` : `${ms.toFixed(1)} ms`;
}

export const micros = (us: number): string => millis(us / 1000);

export const count = (n: number): string => n.toLocaleString("en-US");

export const plural = (n: number, word: string, words = `${word}s`): string => `${count(n)} ${n === 1 ? word : words}`;

export function clock(at: number): string {
  const d = new Date(at);
  const two = (n: number) => String(n).padStart(2, "0");
  return `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}.${String(d.getMilliseconds()).padStart(3, "0")}`;
}

export const day = (at: number): string => new Date(at).toLocaleString("sv-SE").slice(0, 19);

/** A span in the two units that matter. */
export function span(seconds: number): string {
  if (seconds < 0) return "over";
  const d = Math.floor(seconds / 86_400);
  const h = Math.floor((seconds % 86_400) / 3600);
  const m = Math.floor((seconds % 3600) / 60);
  if (d >= 10) return `${d} d`;
  if (d > 0) return `${d} d ${h} h`;
  if (h > 0) return `${h} h ${String(m).padStart(2, "0")} min`;
  return m > 0 ? `${m} min` : `${Math.floor(seconds)} s`;
}

export const ago = (ms: number): string => (ms < 1000 ? "just now" : `${span(ms / 1000)} ago`);

/** The name by which people know a service or caller: as the console shortens it. */
export function short(name: string): string {
  const identity = /^spiffe:\/\/[^/]+\/ns\/([^/]+)\/sa\/([^/]+)$/.exec(name);
  if (identity) return identity[1] === "default" ? identity[2]! : `${identity[2]}.${identity[1]}`;
  return name.replace(/\.default$/, "");
}

/** `NAME` and `NAMESPACE` of a short name. */
export function split(name: string): { name: string; namespace: string } {
  const dot = name.indexOf(".");
  return dot < 0 ? { name, namespace: "default" } : { name: name.slice(0, dot), namespace: name.slice(dot + 1) };
}

export const join = (namespace: string, name: string): string => (namespace === "default" || !namespace ? name : `${name}.${namespace}`);

/** A proxy's or workload's name without the default namespace. */
export const bare = (name: string): string => name.replace(/^default\//, "");

const REASONS: Record<string, string> = {
  access_denied: "refused by access policy",
  no_route: "no route fits",
  no_endpoint: "no healthy instance",
  no_healthy_endpoint: "no healthy instance",
  no_backend: "the route's service does not exist",
  timeout: "took too long",
  deadline: "took too long",
  connect_failed: "could not connect",
  overload: "overloaded",
  rate_limited: "over the rate limit",
};
export const reason = (label: string): string => REASONS[label] ?? label.replaceAll("_", " ");

export const failed = (r: DecisionRecord): boolean => r.status >= 500 || r.decision.reason !== "";

export function recordTone(r: DecisionRecord): Tone {
  if (failed(r)) return "bad";
  return r.status >= 400 ? "warn" : "ok";
}

export function recordWord(r: DecisionRecord): string {
  if (r.decision.reason === "access_denied") return "denied";
  if (failed(r)) return "failed";
  return r.status >= 400 ? "client error" : "ok";
}

/** `tcp` or `udp` of what nobody looks at, and nothing for a request. */
export const streamed = (r: DecisionRecord): string => (r.request.method ? "" : r.request.protocol === "tcp" || r.request.protocol === "udp" ? r.request.protocol : "");

export function tone(golden: Golden | undefined): Tone {
  if (!golden || golden.requests === 0 || golden.okPercent == null) return "idle";
  if (golden.okPercent < 90) return "bad";
  return golden.okPercent < 99.5 ? "warn" : "ok";
}

export const WORDS: Record<Tone, string> = { ok: "healthy", warn: "degraded", bad: "failing", idle: "no traffic" };

/** The command that an advice names, if it names one. */
export const commandIn = (advice: string): string => /`(byrnie [^`]+)`/.exec(advice)?.[1] ?? (/^byrnie [a-z]/.test(advice) ? advice : "");
