// SPDX-License-Identifier: Apache-2.0
//! The coordinator of transactions across services: a role that accepts them (`api`), drives each by the
//! machine of `saga` (`run`, `actor`), calls participants through the mesh (`dispatch`), and goes on after a
//! crash (`recover`). It keeps everything in a [`Journal`](byrnie_store::Journal), which several coordinators may share
//! (`shards`, `letters`); it decides no order itself.

mod actor;
mod api;
mod audit;
mod authorize;
mod definition;
mod dispatch;
mod dtm;
mod join;
mod late;
mod letters;
mod location;
mod metrics;
mod nest;
mod problem;
mod reach;
mod recover;
mod run;
mod sealed;
mod shards;
mod spec;
mod trace;
mod trouble;
mod unary;
mod view;

pub use api::answer;
pub use audit::Line;
pub(crate) use join::answer as enlist;
pub use run::Coordinator;
pub use sealed::Sealed;

use byrnie_base::Text;
use byrnie_model::Identity;
use byrnie_net::BoxFuture;
use byrnie_net::serve::client::Reply;
use byrnie_net::serve::{HeaderName, HeaderValue};
use bytes::Bytes;
use std::fmt;
use std::time::Duration;

/// The service account of the coordinator, in the system's namespace; also the name of its service.
pub const ACCOUNT: &str = "transactions";

/// Calls services. The binary fills it with the coordinator's own proxy, so that a call has an identity and
/// passes balancing, retries, policy and traces like any other.
pub trait Outbound: Send + Sync {
    /// Makes one call, within `limit`. An answer of any status is an answer; otherwise why there is none.
    fn call(&self, request: Request, limit: Duration) -> BoxFuture<'static, Result<Reply, Text>>;

    /// Whether somebody listens at the host and port of a raw URL.
    fn reaches(&self, authority: &str) -> BoxFuture<'static, bool>;
}

/// One call of a service.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: Text,
    /// `SERVICE.NAMESPACE[:PORT]`, or host and port of a raw URL.
    pub authority: Text,
    /// Path and query.
    pub path: Text,
    /// A raw URL: not through the mesh.
    pub raw: bool,
    /// gRPC: over HTTP/2, and what follows the answer counts.
    pub grpc: bool,
    /// Header fields.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub body: Bytes,
}

/// Who asks something of the coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Whoever shows the operator's token.
    Operator,
    /// A workload that the mesh has proven.
    Workload(Identity),
}

/// How the operator is written down as a creator.
pub const OPERATOR: &str = "operator";

impl Caller {
    /// As it's written down.
    pub fn name(&self) -> Text {
        self.to_string().into()
    }

    /// The namespace of bare service names.
    pub fn namespace(&self) -> &str {
        match self {
            Self::Operator => "default",
            Self::Workload(identity) => identity.namespace(),
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => f.write_str(OPERATOR),
            Self::Workload(identity) => identity.fmt(f),
        }
    }
}
