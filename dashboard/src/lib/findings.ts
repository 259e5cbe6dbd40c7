// SPDX-License-Identifier: Apache-2.0
// What is wrong now, in sentences: drawn from the same numbers that the pages show. Causes come before
// what merely suffers from them.

import { commandIn, join, plural, reason, share, short } from "./format";
import { sum } from "./graph";
import { to } from "./router.svelte";
import type { Edge, Golden, Service, Stat, Status, StatusCount, Tone, Workload } from "./types";

export type Finding = { id: string; tone: Tone; text: string; detail: string; href: string; command: string; symptom?: boolean };

type Seen = {
  status?: Status;
  services: Service[];
  workloads: Workload[];
  edges: Edge[];
  instances: Map<string, Stat[]>;
};

/** Fewer failures than this may be anything. */
const FAILURES_MIN = 2;
const BAD_SHARE = 10;
const RETRIES_SHARE = 10;

const bad = (one: StatusCount): boolean => one.status >= 500 || one.reason !== "";
const failures = (golden: Golden): StatusCount[] => golden.statuses.filter(bad).sort((a, b) => b.count - a.count);
const failedCount = (golden: Golden): number => failures(golden).reduce((n, one) => n + one.count, 0);
const failedShare = (golden: Golden): number => (golden.requests ? (failedCount(golden) * 100) / golden.requests : 0);

export function findings(seen: Seen): Finding[] {
  const out: Finding[] = [];
  for (const warning of seen.status?.warnings ?? []) {
    const command = commandIn(warning.next);
    out.push({
      id: `${warning.code} ${warning.where}`,
      tone: warning.severity === "error" ? "bad" : "warn",
      text: warning.message,
      detail: [warning.code, command ? "" : warning.next].filter(Boolean).join(" · "),
      href: "/proxies",
      command,
    });
  }
  for (const service of seen.services) out.push(...instances(service));
  const failing = seen.edges.filter((edge) => failedCount(edge) >= FAILURES_MIN && failedShare(edge) >= 0.1);
  const suffers = (name: string) => failing.some((edge) => edge.source === name && !refused(edge));
  for (const edge of failing) out.push(refused(edge) ? denial(edge) : failure(edge, seen, suffers(edge.destination)));
  for (const edge of seen.edges) {
    const again = edge.requests ? (edge.retries * 100) / edge.requests : 0;
    if (again >= RETRIES_SHARE && edge.retries >= 5 && !failing.includes(edge)) {
      const text = `${share(again)} of calls from ${caller(edge)} to ${edge.destination} needed another try`;
      out.push({ id: `retry ${edge.source} ${edge.destination}`, tone: "warn", text, detail: "they succeeded in the end", href: link(edge.destination), command: `byrnie stat edge --service ${edge.destination}` });
    }
    if (edge.tls !== "mutual" && edge.source) {
      const text = `calls from ${caller(edge)} to ${edge.destination} ${edge.tls === "none" ? "are not encrypted" : "do not prove the caller"}`;
      out.push({ id: `tls ${edge.source} ${edge.destination}`, tone: "warn", text, detail: `tls: ${edge.tls}`, href: link(edge.destination), command: "byrnie edges --window 1m" });
    }
  }
  const lost = seen.workloads.filter((workload) => !workload.connected && workload.inbound);
  for (const workload of lost) {
    const text = `the proxy of ${workload.name} is not connected to the control plane`;
    out.push({ id: `lost ${workload.name}`, tone: "warn", text, detail: "it keeps the last configuration that it got", href: "/proxies", command: "byrnie proxies" });
  }
  const rank = (finding: Finding) => (finding.tone === "bad" ? 0 : 2) + (finding.symptom ? 1 : 0);
  const once = new Map(out.map((finding) => [finding.id, { ...finding, text: sentence(finding.text) }] as const));
  return [...once.values()].sort((a, b) => rank(a) - rank(b));
}

const caller = (edge: Edge): string => edge.source || "an unknown caller";
const refused = (edge: Edge): boolean => failures(edge)[0]?.reason === "access_denied";
/** Names keep their case, so a sentence may begin with a small letter. */
const sentence = (text: string): string => text.replace(/^(the|calls|none) /, (word) => word.charAt(0).toUpperCase() + word.slice(1)).replaceAll("default/", "").replace(/\.$/, "");

function link(name: string): string {
  const [own = "", namespace = "default"] = short(name).split(".");
  return to.service(own, namespace);
}

function instances(service: Service): Finding[] {
  const name = join(service.namespace, service.name);
  const href = to.service(service.name, service.namespace);
  const all = service.endpoints.length;
  if (all === 0) {
    const detail = Object.keys(service.selector).length ? "no workload carries the labels it selects" : "it selects nothing";
    return [{ id: `none ${name}`, tone: "warn", text: `${name} has no instance`, detail, href, command: `byrnie run --name ${service.name} --port 3000 -- ./${service.name}` }];
  }
  if (service.healthy === 0) {
    return [{ id: `down ${name}`, tone: "bad", text: `none of the ${plural(all, "instance")} of ${name} is healthy`, detail: "its callers get 503", href, command: "byrnie get workload" }];
  }
  return service.endpoints
    .filter((endpoint) => endpoint.ejectedBy > 0)
    .map((endpoint) => ({
      id: `ejected ${endpoint.workload}`,
      tone: "warn" as Tone,
      text: `${plural(endpoint.ejectedBy, "proxy", "proxies")} set ${endpoint.workload} aside after failures`,
      detail: "calls go to the other instances meanwhile",
      href,
      command: `byrnie stat instance --service ${name}`,
    }));
}

function denial(edge: Edge): Finding {
  const n = failedCount(edge);
  return {
    id: `denied ${edge.source} ${edge.destination}`,
    tone: "bad",
    text: `${caller(edge)} may not call ${edge.destination}: ${plural(n, "call")} refused in the last minute`,
    detail: "no access policy allows it",
    href: to.live({ service: edge.destination, failed: "true" }),
    command: `byrnie explain last --service ${edge.destination}`,
  };
}

function failure(edge: Edge, seen: Seen, symptom: boolean): Finding {
  const top = failures(edge)[0]!;
  const amount = failedShare(edge);
  const base = { id: `fail ${edge.source} ${edge.destination}`, tone: (amount >= BAD_SHARE && !symptom ? "bad" : "warn") as Tone, href: link(edge.destination) };
  const command = `byrnie explain last --status ${top.status}`;
  if (top.reason) {
    const text = `${share(amount)} of calls from ${caller(edge)} to ${edge.destination} fail: ${reason(top.reason)}`;
    return { ...base, text, detail: `answered ${top.status} by the mesh`, command };
  }
  const guilty = symptom ? undefined : version(edge.destination, seen);
  if (guilty) {
    const text = `${edge.destination} ${guilty.name} answers ${guilty.status} to ${share(guilty.share)} of its calls from ${caller(edge)}`;
    return { ...base, tone: "bad", text, detail: `${share(amount)} of all calls to ${edge.destination}; ${guilty.others} is fine`, command };
  }
  const text = `${edge.destination} answers ${top.status} to ${share(amount)} of calls from ${caller(edge)}`;
  const causes = seen.edges.filter((next) => next.source === edge.destination && failedShare(next) >= 0.1).map((next) => next.destination);
  const detail = symptom ? `follows from its calls to ${causes.join(", ")}` : "the program itself answered so";
  return { ...base, text, detail, command, symptom };
}

/** The one version that the failures of a service come from, if there is such a one. */
function version(name: string, seen: Seen): { name: string; status: number; share: number; others: string } | undefined {
  const versions = new Map<string, Golden[]>();
  for (const workload of seen.workloads) {
    if (!workload.services.some((service) => join(workload.namespace, service) === name)) continue;
    const label = workload.labels.version;
    if (!label) return undefined;
    versions.set(label, [...(versions.get(label) ?? []), ...(seen.instances.get(`${workload.namespace}/${workload.name}`) ?? [])]);
  }
  if (versions.size < 2) return undefined;
  const rows = [...versions].map(([label, parts]) => ({ label, golden: sum(parts) })).sort((a, b) => failedShare(b.golden) - failedShare(a.golden));
  const [worst, ...others] = rows;
  const rest = others.reduce((most, row) => Math.max(most, failedShare(row.golden)), 0);
  if (!worst || failedShare(worst.golden) < 1 || failedShare(worst.golden) < rest * 3) return undefined;
  return {
    name: worst.label,
    status: failures(worst.golden)[0]?.status ?? 0,
    share: failedShare(worst.golden),
    others: others.map((row) => row.label).join(", "),
  };
}
