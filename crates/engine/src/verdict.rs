// SPDX-License-Identifier: Apache-2.0
//! How one exchange or tunnel went, in full: what metrics count, what logs say, what the decision
//! record keeps. The engine returns it once, at the end; the proxy writes it where it belongs.

use crate::attempts::Attempts;
use crate::{DecisionId, Reason, Side, Tls, Trace};
use byrnie_base::{Text, Timestamp};
use byrnie_codec::grpc::Status;
use byrnie_model::policy::idempotency::Guarantee;
use byrnie_model::{Record, Revision, record};
use std::time::Duration;

/// How one exchange or tunnel went.
#[derive(Debug)]
pub struct Verdict {
    /// The id of its record.
    pub id: DecisionId,
    /// What metrics are labelled with.
    pub labels: Labels,
    /// How it was decided.
    pub decided: Decided,
    /// The status that the caller got; 0 if none (and for tunnels). For a call of gRPC the one of HTTP that says the same.
    pub status: u16,
    /// How a call of gRPC ended, as its client sees it.
    pub grpc: Option<Status>,
    /// Why the mesh itself answered or failed; `None` if it did neither.
    pub reason: Option<Reason>,
    /// Each try, in order.
    pub attempts: Attempts,
    /// From the head to the end.
    pub duration: Duration,
    /// Whether the caller asked for the id of its record: then it is kept.
    pub asked: bool,
    /// Where it stood in its trace, if spans may be sent.
    pub trace: Option<Box<Trace>>,
}

/// What metrics are labelled with. Every value comes from configuration or from a short fixed list,
/// never from a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Labels {
    /// Which side of the workload.
    pub side: Side,
    /// The caller, as `ACCOUNT.NAMESPACE`; `unknown` if not proven.
    pub source: Text,
    /// The service asked for, as `NAME.NAMESPACE`; `unknown` if there is none.
    pub destination: Text,
    /// The method; `OTHER` for one that is not of RFC 9110 or PATCH; empty for a tunnel.
    pub method: &'static str,
    /// How the connection from the caller is protected inbound; how the one to the endpoint is outbound.
    pub tls: Tls,
}

/// How it was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The route that fitted, as `NAMESPACE/NAME[RULE]`; `default` if the service has none; empty if
    /// none was looked for, or none fitted.
    pub route: Text,
    /// The access rule that decided, as `NAMESPACE/NAME[RULE]`; `default` if none fitted; empty if access
    /// is not decided here.
    pub rule: Text,
    /// The rule of a Shadow policy that would have decided otherwise.
    pub shadow: Option<Text>,
    /// The rule that came nearest, and what it lacked, if the call was refused.
    pub nearest: Option<Text>,
    /// If an idempotency key protected the request: what is promised, and what became of it.
    pub keyed: Option<(Guarantee, &'static str)>,
    /// The record of the other proxy, if the answer was its own and not its program's.
    pub peer: Option<Text>,
    /// The configuration in force.
    pub revision: Revision,
}

impl Verdict {
    /// The decision record. `at` is when the request arrived, `proxy` the workload of the proxy, `request`
    /// what was asked for (taken down before routes rewrote it), `source` the caller's identity or empty.
    pub fn record(&self, at: Timestamp, proxy: Text, request: record::Request, source: Text) -> Record {
        let code = self.reason.and_then(Reason::code).map_or("", |code| code.id);
        Record {
            id: self.id.text(),
            at,
            proxy,
            direction: self.labels.side.label().into(),
            request,
            source,
            destination: self.labels.destination.clone(),
            decision: record::Decision {
                code: code.into(),
                reason: self.reason.map_or("", Reason::label).into(),
                route: self.decided.route.clone(),
                rule: self.decided.rule.clone(),
                nearest: self.decided.nearest.clone().unwrap_or_default(),
                idempotency: self
                    .decided
                    .keyed
                    .map_or_else(Text::default, |(guarantee, note)| format!("{} {note}", guarantee.name()).into()),
                peer: self.decided.peer.clone().unwrap_or_default(),
                revision: self.decided.revision.0,
            },
            attempts: self.attempts.iter().map(|attempt| attempt.record()).collect(),
            status: self.status,
            duration_us: u64::try_from(self.duration.as_micros()).unwrap_or(u64::MAX),
        }
    }
}

/// The method as a metric label.
pub(crate) fn method_label(method: &str) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE"];
    KNOWN.iter().find(|known| **known == method).copied().unwrap_or("OTHER")
}
