// SPDX-License-Identifier: Apache-2.0
//! How a call of gRPC ends: its answer says so beside a status of HTTP that is 200 whatever happened. Metrics, logs and
//! records tell the status of HTTP that means the same, by which successes are told from failures as for every other request.

use super::Exchange;
use crate::{Failure, Reason};
use byrnie_codec::grpc::Status;
use byrnie_codec::{Fields, Head, Known};

/// What kind of request it is. One byte, as every exchange has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    /// A call of gRPC, and how its answer says that it ended.
    Grpc(Option<Status>),
}

impl Kind {
    pub(super) const fn of(grpc: bool) -> Self {
        if grpc { Self::Grpc(None) } else { Self::Plain }
    }
}

impl Exchange {
    /// Takes in what is given in place of an answer to this request: the one to an earlier request under its key.
    pub fn on_replay(&mut self, head: &Head, trailers: Option<&Fields>) {
        self.note_grpc(|| trailers.and_then(|t| t.known(Known::GrpcStatus)).or_else(|| head.header(Known::GrpcStatus)));
    }

    /// Takes down how the newest answer says that the call ended, if it says so.
    pub(super) fn note_grpc<'a>(&mut self, said: impl FnOnce() -> Option<&'a [u8]>) {
        if let Kind::Grpc(status) = &mut self.facts.kind {
            *status = said().map(Status::parse);
        }
    }

    /// The status that is told of the exchange, and how it ended if it's a call of gRPC; `wire` is what its client got. One that
    /// doesn't say how it ended has ended as clients take it to have (grpc.github.io/grpc/core/md_doc_http-grpc-status-mapping.html).
    pub(super) fn status_told(&self, wire: u16) -> (u16, Option<Status>) {
        let Kind::Grpc(said) = self.facts.kind else { return (wire, None) };
        if let Some(reason) = self.reason {
            return (wire, Status::of(reason.grpc_status().into()));
        }
        let status = said.unwrap_or_else(|| Status::of_http(wire));
        // What isn't 200 comes from no server of gRPC, and says more.
        (if wire == 200 { status.http() } else { wire }, Some(status))
    }

    /// What ends the answer of a call in place of its server's trailers, where it breaks off by `failure` and its caller can still be
    /// told: the status that the caller would have been answered, had nothing come. `None` if it's no call of gRPC.
    pub fn last_words(&self, failure: Failure) -> Option<Fields> {
        if !self.is_grpc() {
            return None;
        }
        let mut answer = self.refuse(Reason::of(failure), failure.to_string());
        answer.side = Some(self.facts.side);
        answer.trailers(self.id())
    }

    pub(crate) const fn is_grpc(&self) -> bool {
        matches!(self.facts.kind, Kind::Grpc(_))
    }
}
