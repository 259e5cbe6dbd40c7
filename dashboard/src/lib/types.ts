// SPDX-License-Identifier: Apache-2.0
// The shapes of the console's answers.

export type Warning = { code: string; severity: "error" | "warning" | "info"; where: string; message: string; next: string };

export type Status = {
  ok: boolean;
  warnings: Warning[];
  proxies: number;
  inSync: number;
  revision: number;
  trustDomain: string;
  version: string;
  resources: Record<string, number>;
};

export type StatusCount = { status: number; reason: string; count: number };

export type Golden = {
  requests: number;
  rps: number;
  okPercent: number | null;
  p50Ms: number | null;
  p99Ms: number | null;
  retries: number;
  statuses: StatusCount[];
};

export type Stat = Golden & {
  name: string;
  service: string;
  source?: string;
  route?: string;
  method?: string;
  instance?: string;
  /** All and good exchanges of each second, oldest first. */
  seconds?: [number, number][];
};

export type Edge = Golden & { source: string; destination: string; tls: "mutual" | "simple" | "none"; ok: number };

export type Health = "healthy" | "draining" | "unhealthy";
export type Port = { name: string; port: number; protocol: string };
export type Labels = Record<string, string>;

export type Endpoint = {
  workload: string;
  address: string;
  identity: string;
  labels: Labels;
  weight: number;
  health: Health;
  ejectedBy: number;
};

export type Attached = { kind: string; namespace: string; name: string; says: string };

export type Service = {
  name: string;
  namespace: string;
  ports: Port[];
  selector: Labels;
  endpoints: Endpoint[];
  healthy: number;
  attached: Attached[];
  revision: number;
};

export type Workload = {
  name: string;
  namespace: string;
  identity: string;
  address: string;
  inbound: string | null;
  admin: string | null;
  ports: Port[];
  labels: Labels;
  uses: string[];
  region: string;
  zone: string;
  weight: number;
  health: Health;
  revision: number;
  services: string[];
  connected: boolean;
  inSync: boolean | null;
};

export type Proxy = {
  name: string;
  identity: string;
  revision: number;
  inSync: boolean;
  /** Why it is not in sync; null if it is. */
  reason: string | null;
  admin: string | null;
  inbound: string | null;
  version: string;
  refused: number;
  reportedMsAgo: number | null;
  certificateNotAfter: number | null;
};

export type Certificate = { name: string; identity: string; notAfter: number | null; secondsLeft: number | null };

export type Meta = { name: string; namespace?: string; labels?: Labels };
export type Resource = {
  apiVersion: string;
  kind: string;
  metadata: Meta;
  spec?: unknown;
  status?: { revision?: number; accepted?: boolean; refusals?: { proxy: string; reason: string }[] };
};

export type Change = {
  kind: string;
  namespace: string;
  name: string;
  action: "created" | "changed" | "deleted";
  before: Resource | null;
  after: Resource | null;
};
export type Revision = { revision: number; at: number; who: string; why: string; changes: Change[] };

export type Attempt = { endpoint: string; address: string; outcome: string; durationUs: number };
export type DecisionRecord = {
  id: string;
  at: number;
  proxy: string;
  direction: "inbound" | "outbound" | "edge";
  request: { protocol: string; method: string; host: string; path: string };
  source: string;
  destination: string;
  decision: { code: string; reason: string; route: string; rule: string; nearest: string; revision: number };
  attempts: Attempt[];
  status: number;
  durationUs: number;
};

export type Step = { hop: string; rule: string; where: string; detail: string; proxy: string };
export type Explanation = {
  decision: "allow" | "deny" | "fail";
  code: string;
  reason: string;
  status: number;
  steps: Step[];
  nearest: string;
  next: string;
  record?: DecisionRecord;
};

/** What a thing's state comes to; shown by shape, word and colour. */
export type Tone = "ok" | "warn" | "bad" | "idle";

export type TransactionRow = { id: string; mode: string; state: string; reason: string; creator: string; created: number; services: string[]; ended: number | null };

export type TransactionCall = { target: string; state: string };

export type TransactionBranch = {
  name: string;
  after: string[];
  pivot: boolean;
  calls: Record<string, TransactionCall>;
  attempts: number;
  calling: boolean;
  reason: string;
};

export type Transaction = {
  id: string;
  mode: string;
  state: string;
  reason: string;
  creator: string;
  created: number;
  deadline: number | null;
  definition: string;
  branches: TransactionBranch[];
};

/** One entry of a transaction's history. */
export type TransactionEvent = { at: number; what: string; branch?: string | null; op?: string; attempt?: number; detail?: string | null; by?: string };
