// SPDX-License-Identifier: Apache-2.0
// What every page looks at: the mesh as it is, taken in once for all of them.

import { get, Problem } from "./api";
import { bare, join, short } from "./format";
import type { Certificate, DecisionRecord, Edge, Proxy, Resource, Service, Stat, Status, Workload } from "./types";

/** The window of every number shown, unless it says otherwise. */
export const WINDOW = "60s";
const HISTORY = 60;
/** What changes rarely is asked for every so many rounds, and when the revision moves. */
const SLOW_ROUNDS = 4;

class Mesh {
  status = $state.raw<Status>();
  stats = $state.raw<Stat[]>([]);
  instances = $state.raw<Stat[]>([]);
  edges = $state.raw<Edge[]>([]);
  services = $state.raw<Service[]>([]);
  workloads = $state.raw<Workload[]>([]);
  proxies = $state.raw<Proxy[]>([]);
  certificates = $state.raw<Certificate[]>([]);
  routes = $state.raw<Resource[]>([]);
  /** p99 of each service at each round, oldest first: what the console itself does not keep. */
  latency = $state.raw<Map<string, number[]>>(new Map());
  loaded = $state(false);
  problem = $state.raw<Problem>();

  readonly statOf = $derived(new Map(this.stats.map((stat) => [stat.name, stat])));
  readonly serviceOf = $derived(new Map(this.services.map((service) => [join(service.namespace, service.name), service])));
  readonly workloadOf = $derived(new Map(this.workloads.map((workload) => [`${workload.namespace}/${workload.name}`, workload])));
  readonly instanceOf = $derived.by(() => {
    const all = new Map<string, Stat[]>();
    for (const stat of this.instances) all.set(stat.instance ?? "", [...(all.get(stat.instance ?? "") ?? []), stat]);
    return all;
  });

  /** What passes a service where nobody looks at it, and nothing is answered by a status. */
  streamOf(service: string): string {
    const spoken = this.serviceOf.get(service)?.ports.map((port) => port.protocol) ?? [];
    const flows = spoken.includes("udp");
    return !flows ? "tcp" : spoken.some((word) => word === "tcp" || word === "undeclared") ? "tcp, udp" : "udp";
  }

  /** The kind of a route of this name; of several, one for requests if it's those that are meant. */
  kindOf(namespace: string, name: string, requests: boolean): string {
    const kinds = this.routes.filter((route) => route.metadata.namespace === namespace && route.metadata.name === name).map((route) => route.kind);
    return kinds.find((kind) => /^(HTTP|GRPC)/.test(kind) === requests) ?? kinds[0] ?? "HTTPRoute";
  }

  /** Who made the request of a record: its own proxy does not name the program beside it. */
  callerOf(record: DecisionRecord): string {
    if (record.source) return short(record.source);
    if (record.direction === "edge") return "outside";
    return short(this.identityOf(record.proxy)) || bare(record.proxy);
  }

  identityOf(proxy: string): string {
    return this.workloadOf.get(proxy.includes("/") ? proxy : `default/${proxy}`)?.identity ?? "";
  }

  /** Whether the caller's own proxy tells of the same exchange, and this side adds nothing to it. */
  isEcho(record: DecisionRecord): boolean {
    return record.direction === "inbound" && !record.decision.reason && this.workloads.some((workload) => workload.identity === record.source);
  }

  private round = 0;

  async refresh(signal: AbortSignal): Promise<void> {
    try {
      const [status, stats, instances, edges] = await Promise.all([
        get<Status>("status", signal),
        get<Stat[]>(`stats?by=service&window=${WINDOW}&seconds=60`, signal),
        get<Stat[]>(`stats?by=instance&window=${WINDOW}`, signal),
        get<Edge[]>(`edges?window=${WINDOW}`, signal),
      ]);
      if (this.round++ % SLOW_ROUNDS === 0 || status.revision !== this.status?.revision) await this.slow(signal);
      this.status = status;
      this.stats = stats;
      this.instances = instances;
      this.edges = edges;
      this.remember(stats);
      this.loaded = true;
      this.problem = undefined;
    } catch (error) {
      if (signal.aborted) return;
      this.problem = error instanceof Problem ? error : new Problem(0, "", String(error), "", "byrnie status");
      throw error;
    }
  }

  private async slow(signal: AbortSignal): Promise<void> {
    [this.services, this.workloads, this.proxies, this.certificates, this.routes] = await Promise.all([
      get<Service[]>("services", signal),
      get<Workload[]>("workloads", signal),
      get<Proxy[]>("proxies", signal),
      get<Certificate[]>("certificates", signal),
      get<Resource[]>("routes", signal),
    ]);
  }

  private remember(stats: Stat[]): void {
    const next = new Map<string, number[]>();
    for (const stat of stats) {
      const past = this.latency.get(stat.name) ?? [];
      next.set(stat.name, stat.p99Ms == null ? past : [...past.slice(1 - HISTORY), stat.p99Ms]);
    }
    this.latency = next;
  }
}

export const mesh = new Mesh();
