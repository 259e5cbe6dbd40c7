// SPDX-License-Identifier: Apache-2.0
//! Answers that the mesh itself makes: `application/problem+json` (RFC 9457), or Trailers-Only for
//! gRPC. The engine says what, the proxy writes it; the bytes are made here so that every proxy and
//! every HTTP version says the same.

use crate::digits::Digits;
use crate::{DecisionId, Reason, Side};
use byrnie_base::Text;
use byrnie_codec::grpc::{self, Details, Status};
use byrnie_codec::{Fields, Framing, Head, Known};
use byrnie_model::route::DirectResponse;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

/// What an inbound proxy tells the proxy that called it, in an answer that it made itself because the
/// program could not be reached: `unsent` if the program provably never saw the request, `lost` if it
/// may have. The caller's proxy decides by it whether to try another endpoint, and drops it.
pub(crate) const FAILURE_HEADER: &str = "x-byrnie-failure";
pub(crate) const FAILURE_UNSENT: &str = "unsent";
pub(crate) const FAILURE_LOST: &str = "lost";

/// Whose list the codes are, in the details of a gRPC status.
pub const ERROR_DOMAIN: &str = "mesh.byrnie.dev";

/// An answer that the mesh itself makes.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The HTTP status (a gRPC answer has 200 on the wire; this one is for metrics and records).
    pub status: u16,
    /// Why.
    pub reason: Reason,
    /// Whether the caller speaks gRPC.
    pub grpc: bool,
    /// When to try again, if that's known.
    pub retry_after: Option<Duration>,
    /// What a route answers by itself, instead of a problem document.
    pub(crate) direct: Option<Arc<DirectResponse>>,
    /// Further header lines, such as where a redirect points.
    pub(crate) fields: Vec<(&'static str, Text)>,
    /// One sentence about this case, fit for the caller's eyes.
    pub detail: Text,
    /// What became of an idempotency key, for `Idempotency-Status`.
    pub(crate) idempotency: Option<&'static str>,
    /// How long to wait before it is given; zero but for faults on purpose.
    pub delay: Duration,
    /// The connection, or the stream, is to be cut instead of answered: a fault on purpose.
    pub cut: bool,
    /// Which side's proxy makes it; `None` where there is no exchange.
    pub(crate) side: Option<Side>,
    /// For the calling proxy alone: see [`FAILURE_HEADER`].
    pub(crate) failure: Option<&'static str>,
}

impl Answer {
    /// An answer for `reason`. A proxy makes one itself only where there is no exchange: for a request that
    /// is malformed, or that comes while the proxy is draining (which tells a calling proxy to go elsewhere).
    pub fn new(reason: Reason, grpc: bool, detail: impl Into<Text>) -> Self {
        let (status, detail) = (reason.status(), detail.into());
        let failure = (reason == Reason::Draining).then_some(FAILURE_UNSENT);
        Self {
            status,
            reason,
            grpc,
            retry_after: None,
            direct: None,
            fields: Vec::new(),
            detail,
            delay: Duration::ZERO,
            cut: false,
            idempotency: None,
            side: None,
            failure,
        }
    }

    /// The gRPC status.
    pub fn grpc_status(&self) -> u8 {
        self.reason.grpc_status()
    }

    /// Makes `head` the head of this answer, with its framing, and returns the body.
    pub fn write(&self, id: &DecisionId, head: &mut Head) -> Vec<u8> {
        if self.grpc {
            head.clear();
            self.with_details(id, |status, info| grpc::trailers_only(head, status, &self.detail, info)).ok();
        } else {
            head.start_response(self.status);
        }
        head.append(Known::ByrnieDecision.name(), id.as_str().as_bytes()).ok();
        if let Some(span) = self.retry_after {
            // Whole seconds, rounded up, as RFC 9110 10.2.3 knows no fractions.
            let seconds = span.as_secs() + u64::from(span.subsec_nanos() > 0);
            head.append(Known::RetryAfter.name(), Digits::of(seconds.max(1)).as_bytes()).ok();
        }
        for (name, value) in &self.fields {
            head.append(name, value.as_bytes()).ok();
        }
        if let Some(status) = self.idempotency {
            head.append(Known::IdempotencyStatus.name(), status.as_bytes()).ok();
        }
        if let Some(failure) = self.failure {
            head.append(FAILURE_HEADER, failure.as_bytes()).ok();
        }
        if self.grpc {
            return Vec::new();
        }
        let (body, kind) = match &self.direct {
            Some(says) => (says.body.as_bytes().to_vec(), says.content_type.as_deref()),
            None => (self.body(id), Some("application/problem+json")),
        };
        if let Some(kind) = kind.filter(|_| !body.is_empty()) {
            head.append("content-type", kind.as_bytes()).ok();
        }
        // A 204 has no length, and that of a 304 would be another answer's (RFC 9110 8.6).
        let framing = if matches!(self.status, 204 | 304) { Framing::None } else { Framing::Length(body.len() as u64) };
        head.set_framing(framing);
        body
    }

    /// What ends an answer of gRPC that has begun, in place of its server's own trailers.
    pub(crate) fn trailers(&self, id: &DecisionId) -> Option<Fields> {
        let mut fields = self.with_details(id, |status, info| grpc::trailers(status, &self.detail, info)).ok()?;
        fields.append(Known::ByrnieDecision.name(), id.as_str().as_bytes()).ok()?;
        Some(fields)
    }

    /// The status of gRPC, which has for programs what a problem document has.
    fn with_details<T>(&self, id: &DecisionId, write: impl FnOnce(Status, &Details<'_>) -> T) -> T {
        let status = Status::of(u32::from(self.grpc_status())).unwrap_or(Status::Unknown);
        let metadata = [
            ("reason", self.reason.label()),
            ("where", self.place()),
            ("next", &*format!("byrnie explain {id}")),
            ("decision", id.as_str()),
        ];
        let reason = self.reason.code().map_or("", |code| code.id);
        write(status, &Details { reason, domain: ERROR_DOMAIN, metadata: &metadata })
    }

    fn place(&self) -> &'static str {
        self.side.map_or("", Side::place)
    }

    /// The body for HTTP: a problem document; empty for a redirect.
    pub fn body(&self, id: &DecisionId) -> Vec<u8> {
        let Some(code) = self.reason.code() else { return Vec::new() };
        let mut json = String::with_capacity(512);
        write!(json, "{{\"title\":\"{}\",\"status\":{},\"code\":\"{}\"", Json(code.title), self.status, code.id).ok();
        write!(json, ",\"reason\":\"{}\",\"detail\":\"{}\"", self.reason.label(), Json(&self.detail)).ok();
        write!(json, ",\"where\":\"{}\"", self.place()).ok();
        write!(json, ",\"next\":\"byrnie explain {id}\",\"decision\":\"{id}\"}}").ok();
        json.push('\n');
        json.into_bytes()
    }
}

/// Text within a JSON string (RFC 8259 7).
struct Json<'a>(&'a str);

impl std::fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                c if c < ' ' => write!(f, "\\u{:04x}", c as u32)?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}
