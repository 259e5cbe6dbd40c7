// SPDX-License-Identifier: Apache-2.0
//! Decides what happens to a request or a connection: a pure function of snapshot, shard, time and
//! event. Proxies perform what it wants done; `explain`, `plan` and the simulator run the same code.
//! Never sees a socket, a clock, a protobuf or a runtime.

mod admission;
mod ahead;
mod answer;
mod aside;
mod attempts;
mod authorize;
mod balance;
mod cluster;
mod compile;
mod concurrency;
mod cors;
mod course;
mod deadline;
mod digits;
mod edge;
mod enlist;
mod enter;
mod exchange;
mod explain;
mod fault;
mod filter;
#[cfg(test)]
mod fixtures;
mod hedge;
mod inbound;
mod keyed;
mod latency;
mod node;
mod outlier;
mod overload;
mod plan;
mod probe;
mod program;
mod queue;
mod quota;
mod reason;
mod resolve;
mod retry;
mod route;
mod session;
mod shard;
mod slot;
mod snapshot;
mod trace;
mod tunnel;
mod undeclared;
mod verdict;
mod window;

pub use answer::Answer;
pub use aside::Copy;
pub use attempts::{Attempt, Attempts, Ending};
pub use cluster::{Cluster, Member};
pub use compile::{Compiler, Refusal, Work};
pub use digits::DecisionId;
pub use edge::{Served, Site};
pub use enlist::{Enlistment, Joined};
pub use exchange::Exchange;
pub use explain::{Explanation, Onward, Step, explain, explain_tunnel};
pub use keyed::{Claim, Heard, KEYED_BODY_BYTES_MAX, REPLAYED, Recall, Recalled, Told, Word};
pub use node::{Arrival, Direction, Gate, Node, Role, Side, Tls};
pub use overload::{Reading, Short, Strain};
pub use plan::{Again, Effect, Failure, Hop, Outcome, Plan, Target};
pub use probe::{Checked, Probe, Pulse};
pub use program::{Outside, Program, Security, Verify};
pub use queue::Place;
pub use quota::{Allowance, QuotaAsk};
pub use reason::{Blame, Reason};
pub use shard::{Counts, Shard};
pub use snapshot::Snapshot;
pub use trace::Trace;
pub use tunnel::Tunnel;
pub use undeclared::SILENCE_MAX;
pub use verdict::{Decided, Labels, Verdict};
