// SPDX-License-Identifier: Apache-2.0
// The map: services and callers as nodes, who calls whom as edges, laid out left to right.

import dagre from "@dagrejs/dagre";
import { join, tone } from "./format";
import type { Edge, Golden, Resource, Service, Stat, Tone, Workload } from "./types";

export type MapNode = {
  id: string;
  /** Where it leads, or empty for what is no service. */
  service?: Service;
  kind: "service" | "version" | "caller" | "edge";
  golden?: Golden;
  tone: Tone;
};
export type MapEdge = {
  id: string;
  source: string;
  destination: string;
  /** A call that was counted, or the share of a route's traffic that goes to a version. */
  kind: "call" | "split";
  golden?: Golden;
  tls?: Edge["tls"];
  weight?: number;
  tone: Tone;
};
export type Graph = { nodes: MapNode[]; edges: MapEdge[]; left: number };

/** More than this can't be read as a map; the busiest are drawn. */
export const NODES_MAX = 60;

/** Adds up what several instances saw. Latencies can't be added: the worst stands for all. */
export function sum(parts: Golden[]): Golden {
  const requests = parts.reduce((n, part) => n + part.requests, 0);
  const ok = parts.reduce((n, part) => n + (part.requests * (part.okPercent ?? 100)) / 100, 0);
  const worst = (of: (part: Golden) => number | null) => parts.reduce<number | null>((most, part) => (of(part) == null ? most : Math.max(most ?? 0, of(part)!)), null);
  const statuses = new Map<string, Golden["statuses"][number]>();
  for (const one of parts.flatMap((part) => part.statuses)) {
    const key = `${one.status} ${one.reason}`;
    const have = statuses.get(key);
    statuses.set(key, have ? { ...have, count: have.count + one.count } : one);
  }
  return {
    requests,
    rps: parts.reduce((n, part) => n + part.rps, 0),
    okPercent: requests ? (ok * 100) / requests : null,
    p50Ms: worst((part) => part.p50Ms),
    p99Ms: worst((part) => part.p99Ms),
    retries: parts.reduce((n, part) => n + part.retries, 0),
    statuses: [...statuses.values()].sort((a, b) => b.count - a.count),
  };
}

type Ref = { kind?: string; name?: string; namespace?: string; weight?: number };
type RouteSpec = { parentRefs?: Ref[]; rules?: { backendRefs?: Ref[] }[] };

/** Where routes of services send a share of their calls. */
export function splits(routes: Resource[]): { parent: string; backend: string; weight: number }[] {
  return routes.flatMap((route) => {
    const spec = (route.spec ?? {}) as RouteSpec;
    const own = route.metadata.namespace ?? "default";
    const name = (ref: Ref) => join(ref.namespace || own, ref.name ?? "");
    const parents = (spec.parentRefs ?? []).filter((ref) => ref.kind === "Service").map(name);
    const shares = new Map<string, number>();
    for (const rule of spec.rules ?? []) {
      const total = (rule.backendRefs ?? []).reduce((n, ref) => n + (ref.weight ?? 1), 0);
      for (const ref of rule.backendRefs ?? []) {
        const part = total ? ((ref.weight ?? 1) * 100) / total : 0;
        shares.set(name(ref), Math.max(part, shares.get(name(ref)) ?? 0));
      }
    }
    return parents.flatMap((parent) => [...shares].filter(([backend]) => backend !== parent).map(([backend, weight]) => ({ parent, backend, weight })));
  });
}

export type Seen = {
  services: Service[];
  workloads: Workload[];
  stats: Map<string, Stat>;
  instances: Map<string, Stat[]>;
  edges: Edge[];
  routes: Resource[];
};

/** The mesh's own services are machinery: shown once somebody calls them. */
export function shown(service: Service, edges: Edge[]): boolean {
  return service.namespace !== "byrnie" || edges.some((edge) => edge.destination === join(service.namespace, service.name));
}

export function graph(seen: Seen): Graph {
  const nodes = new Map<string, MapNode>();
  const edges = new Map<string, MapEdge>();
  for (const service of seen.services.filter((one) => shown(one, seen.edges))) {
    const id = join(service.namespace, service.name);
    const golden = seen.stats.get(id);
    nodes.set(id, { id, service, kind: "service", golden, tone: tone(golden) });
  }
  for (const edge of seen.edges) {
    const source = edge.source || "unknown";
    const caller = (id: string): MapNode => ({ id, kind: id.startsWith("edge.byrnie") || id === "edge" ? "edge" : "caller", tone: "idle" });
    if (!nodes.has(source)) nodes.set(source, caller(source));
    if (!nodes.has(edge.destination)) {
      const golden = seen.stats.get(edge.destination);
      nodes.set(edge.destination, { id: edge.destination, kind: "service", golden, tone: tone(golden) });
    }
    const id = `${source}>${edge.destination}`;
    edges.set(id, { id, source, destination: edge.destination, kind: "call", golden: edge, tls: edge.tls, tone: tone(edge) });
  }
  for (const { parent, backend, weight } of splits(seen.routes)) {
    const node = nodes.get(backend);
    const id = `${parent}>${backend}`;
    if (!node || !nodes.has(parent) || edges.has(id)) continue;
    const own = seen.workloads.filter((workload) => workload.services.some((name) => join(workload.namespace, name) === backend));
    const parts = own.flatMap((workload) => seen.instances.get(`${workload.namespace}/${workload.name}`) ?? []);
    const golden = node.golden ?? (parts.length ? sum(parts) : undefined);
    nodes.set(backend, { ...node, kind: "version", golden, tone: tone(golden) });
    edges.set(id, { id, source: parent, destination: backend, kind: "split", golden, weight, tone: tone(golden) });
  }
  // A service that only calls others is drawn as the caller that it is.
  const calling = new Set([...edges.values()].map((edge) => edge.source));
  for (const node of nodes.values()) if (node.kind === "service" && !node.golden && calling.has(node.id)) nodes.set(node.id, { ...node, kind: "caller" });
  const busy = (node: MapNode) => (node.tone === "bad" ? 1e6 : 0) + (node.golden?.rps ?? 0);
  const kept = [...nodes.values()].sort((a, b) => busy(b) - busy(a) || (a.id < b.id ? -1 : 1)).slice(0, NODES_MAX);
  const ids = new Set(kept.map((node) => node.id));
  return {
    nodes: kept,
    edges: [...edges.values()].filter((edge) => ids.has(edge.source) && ids.has(edge.destination)),
    left: nodes.size - kept.length,
  };
}

export const NODE = { width: 146, height: 52 };
const LABEL = { width: 90, height: 38 };

export type Point = { x: number; y: number };
export type Layout = { width: number; height: number; at: Map<string, Point>; paths: Map<string, { d: string; label: Point }> };

/** What a layout depends on: as long as it is the same, nothing moves. */
export const shape = (g: Graph): string => JSON.stringify([g.nodes.map((n) => n.id).sort(), g.edges.map((e) => e.id).sort()]);

export function layout(g: Graph): Layout {
  const d = new dagre.graphlib.Graph();
  d.setGraph({ rankdir: "LR", nodesep: 30, edgesep: 16, ranksep: 19, marginx: 12, marginy: 12, ranker: "network-simplex" });
  const linked = new Set(g.edges.flatMap((edge) => [edge.source, edge.destination]));
  const sorted = [...g.nodes].sort((a, b) => (a.id < b.id ? -1 : 1));
  for (const node of sorted) if (linked.has(node.id)) d.setNode(node.id, { ...NODE });
  for (const edge of [...g.edges].sort((a, b) => (a.id < b.id ? -1 : 1))) {
    d.setEdge(edge.source, edge.destination, edge.kind === "split" ? { width: 60, height: 20, labelpos: "c" } : { ...LABEL, labelpos: "c" });
  }
  dagre.layout(d);
  const size = d.graph();
  const drawn = linked.size > 0;
  let width = drawn ? (size.width ?? 0) : 24;
  let height = drawn ? (size.height ?? 0) : 12;
  const at = new Map<string, Point>();
  for (const id of d.nodes()) at.set(id, { x: d.node(id).x, y: d.node(id).y });
  // What nobody calls stands in rows of its own below.
  const alone = sorted.filter((node) => !linked.has(node.id));
  const columns = Math.max(1, Math.min(alone.length, Math.floor((Math.max(width, 820) - 24) / (NODE.width + 24))));
  alone.forEach((node, index) => {
    const x = 12 + NODE.width / 2 + (index % columns) * (NODE.width + 24);
    const y = height + 12 + NODE.height / 2 + Math.floor(index / columns) * (NODE.height + 20);
    at.set(node.id, { x, y });
    width = Math.max(width, x + NODE.width / 2 + 12);
  });
  if (alone.length) height += 24 + Math.ceil(alone.length / columns) * (NODE.height + 20);
  const paths = new Map<string, { d: string; label: Point }>();
  for (const edge of g.edges) {
    const laid = d.edge(edge.source, edge.destination);
    if (laid) paths.set(edge.id, { d: curve(laid.points), label: { x: laid.x ?? 0, y: laid.y ?? 0 } });
  }
  return { width, height, at, paths };
}

/** A smooth line through a polyline's points: a uniform B-spline that starts and ends on the nodes. */
function curve(points: Point[]): string {
  const [first, ...rest] = points;
  const last = rest.at(-1);
  if (!first || !last) return "";
  if (rest.length === 1) return `M${n(first.x)} ${n(first.y)}L${n(last.x)} ${n(last.y)}`;
  let d = `M${n(first.x)} ${n(first.y)}`;
  for (let i = 1; i < points.length - 1; i++) {
    const p = points[i]!;
    const q = points[i + 1]!;
    const end = i === points.length - 2 ? q : { x: (p.x + q.x) / 2, y: (p.y + q.y) / 2 };
    d += `Q${n(p.x)} ${n(p.y)} ${n(end.x)} ${n(end.y)}`;
  }
  return d;
}

const n = (value: number): string => value.toFixed(1).replace(/\.0$/, "");
