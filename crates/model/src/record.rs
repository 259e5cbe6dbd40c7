// SPDX-License-Identifier: Apache-2.0
//! The decision record: why one exchange went as it did.

use byrnie_base::{Text, Timestamp};
use serde::{Deserialize, Serialize};

/// Why one exchange went as it did. Never holds a body, a token or a query string.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Unique in a mesh; what `x-byrnie-decision` says. Lower-case base 32, 13 characters.
    pub id: Text,
    /// When the request arrived.
    pub at: Timestamp,
    /// Which proxy wrote it (its workload) and on which side.
    pub proxy: Text,
    /// `inbound`, `outbound` or `edge`.
    pub direction: Text,
    /// What was asked for.
    pub request: Request,
    /// Who asked: an identity, or empty if unknown.
    pub source: Text,
    /// The service asked for (`NAME.NAMESPACE`), or empty if none was found.
    pub destination: Text,
    /// How it was decided.
    pub decision: Decision,
    /// Each try, in order.
    pub attempts: Vec<Attempt>,
    /// The status that the caller got; 0 if none.
    pub status: u16,
    /// From the request's head to the last byte of the answer, in microseconds.
    pub duration_us: u64,
}

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// `http/1.1`, `http/2`, `grpc` or `tcp`.
    pub protocol: Text,
    /// The method; empty for TCP.
    pub method: Text,
    /// The authority.
    pub host: Text,
    /// The canonical path, without query.
    pub path: Text,
}

fn is_empty(text: &Text) -> bool {
    text.is_empty()
}

/// How it was decided.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// A stable code of the BYR- registry if the mesh itself answered or failed; else empty.
    pub code: Text,
    /// The metric label for it, such as `access_denied`; else empty.
    pub reason: Text,
    /// The route that fitted, as `NAMESPACE/NAME[RULE]`; `default` if the service has none.
    pub route: Text,
    /// The access rule that decided, as `NAMESPACE/NAME[RULE]`; `default` if none fitted.
    pub rule: Text,
    /// The rule that came nearest, and what it lacked, if the call was refused.
    pub nearest: Text,
    /// If an idempotency key protected the request: what is promised and what became of it, such as
    /// `G1 replayed`; else empty.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub idempotency: Text,
    /// The record of the other proxy, if it gave the answer itself, without its program; else empty.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub peer: Text,
    /// The configuration in force.
    pub revision: u64,
}

/// One try.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// The workload tried.
    pub endpoint: Text,
    /// Its address.
    pub address: Text,
    /// `status N`, or what failed.
    pub outcome: Text,
    /// How long it took, in microseconds.
    pub duration_us: u64,
}
