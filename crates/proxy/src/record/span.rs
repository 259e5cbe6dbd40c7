// SPDX-License-Identifier: Apache-2.0
//! The spans of one exchange, by OpenTelemetry's semantic conventions for HTTP and for RPC; what is byrnie's own has the
//! prefix `byrnie.`. A proxy beside a program tells of one side of a call, the edge of both. Never a body, a query
//! string, or a header.

use super::{Seen, is_failure};
use byrnie_base::{Instant, Text};
use byrnie_codec::grpc::Status;
use byrnie_codec::otlp::{Attributes, Span, SpanEvent, SpanKind, Value};
use byrnie_codec::trace::SpanId;
use byrnie_engine::{Reason, Side, Trace, Verdict};
use byrnie_net::runtime;

/// Tries of one exchange that its span tells of; later ones are only counted.
const TRIES_MAX: usize = 8;

/// What is told of a path, a host or a method, in bytes.
const TEXT_BYTES_MAX: usize = 1024;

/// Whether its spans are sent: those of traces that are sampled and, where a trace begins, what failed.
pub(super) fn is_sent(trace: &Trace, verdict: &Verdict) -> bool {
    trace.sampled || trace.parent.is_none() && is_failure(verdict)
}

/// What a proxy tells of an exchange, whose trace it knows.
pub(super) fn spans(trace: &Trace, verdict: &Verdict, seen: &Seen<'_>) -> (Span, Option<Span>) {
    let epoch = runtime::clock().unix_nanos(Instant::from_nanos(0));
    let telling = Telling { trace, verdict, seen, epoch };
    match verdict.labels.side {
        Side::Inbound => (telling.server(), None),
        Side::Outbound => (telling.client(trace.parent, trace.begun), None),
        Side::Edge => {
            let first = verdict.attempts.iter().next();
            let onward = first.map(|first| telling.client(Some(trace.span), first.begun()));
            (telling.server(), onward)
        }
    }
}

struct Telling<'a> {
    trace: &'a Trace,
    verdict: &'a Verdict,
    seen: &'a Seen<'a>,
    /// When the monotonic clock stood at zero, in nanoseconds since 1970.
    epoch: u64,
}

impl Telling<'_> {
    /// As the one who is asked sees it.
    fn server(&self) -> Span {
        let mut attributes = self.attributes();
        let seen = self.seen;
        attributes.push(("client.address", seen.client.ip().to_string().into()));
        attributes.push(("network.peer.address", seen.client.ip().to_string().into()));
        attributes.push(("network.peer.port", Value::Int(seen.client.port().into())));
        if !self.is_grpc() {
            attributes.push(("url.scheme", self.scheme().into()));
            attributes.push(("url.path", cut(seen.path).into()));
        }
        if let Some(source) = seen.source {
            attributes.push(("byrnie.source.identity", source.to_string().into()));
        }
        let failed = match self.verdict.grpc {
            Some(status) => is_fault(status),
            None => self.verdict.status >= 500 || self.verdict.status == 0,
        };
        self.span((SpanKind::Server, self.trace.span, self.trace.parent), self.trace.begun, attributes, failed)
    }

    /// As the one who asks sees it.
    fn client(&self, parent: Option<SpanId>, begun: Instant) -> Span {
        let mut attributes = self.attributes();
        if !self.is_grpc() {
            let full = format!("{}://{}{}", self.scheme(), cut(self.seen.host), cut(self.seen.path));
            attributes.push(("url.full", full.into()));
        }
        attributes.push(("peer.service", (&self.verdict.labels.destination).into()));
        if let Some(member) = self.verdict.attempts.iter().last().and_then(|attempt| attempt.member()) {
            attributes.push(("network.peer.address", member.address().ip().to_string().into()));
            attributes.push(("network.peer.port", Value::Int(member.address().port().into())));
            attributes.push(("byrnie.endpoint", member.name().into()));
            attributes.push(("byrnie.destination.identity", member.identity().to_string().into()));
        }
        let again = self.verdict.attempts.count().saturating_sub(1);
        if again > 0 {
            attributes.push(("http.request.resend_count", Value::Int(i64::try_from(again).unwrap_or(i64::MAX))));
        }
        let failed = match self.verdict.grpc {
            Some(status) => status != Status::Ok,
            None => self.verdict.status >= 400 || self.verdict.status == 0,
        };
        let mut span = self.span((SpanKind::Client, self.trace.onward, parent), begun, attributes, failed);
        if again > 0 {
            span.events = self.tries();
        }
        span
    }

    fn span(
        &self,
        (kind, id, parent): (SpanKind, SpanId, Option<SpanId>),
        begun: Instant,
        mut attributes: Attributes,
        failed: bool,
    ) -> Span {
        let (seen, verdict) = (self.seen, self.verdict);
        let name: Text = if self.is_grpc() { rpc(seen).into() } else { method(verdict).into() };
        let error = failed.then(|| self.error());
        if let Some(error) = &error {
            attributes.push(("error.type", error.into()));
        }
        let end = self.trace.begun + verdict.duration;
        Span {
            trace: self.trace.id,
            id,
            parent,
            kind,
            name,
            times: (self.at(begun), self.at(end)),
            attributes,
            events: Vec::new(),
            error,
        }
    }

    /// What both sides say.
    fn attributes(&self) -> Attributes {
        let (seen, verdict) = (self.seen, self.verdict);
        let mut attributes = Attributes::with_capacity(24);
        if self.is_grpc() {
            attributes.push(("rpc.system.name", "grpc".into()));
            attributes.push(("rpc.method", rpc(seen).into()));
            if let Some(status) = verdict.grpc {
                attributes.push(("rpc.response.status_code", status.name().into()));
            }
        } else {
            attributes.push(("http.request.method", method(verdict).into()));
            if method(verdict) == OTHER {
                attributes.push(("http.request.method_original", cut(seen.method).into()));
            }
            if verdict.status != 0 {
                attributes.push(("http.response.status_code", Value::Int(verdict.status.into())));
            }
        }
        let version = match seen.protocol {
            "http/1.1" => "1.1",
            "http/3" => "3",
            _ => "2",
        };
        attributes.push(("network.protocol.name", "http".into()));
        attributes.push(("network.protocol.version", version.into()));
        let (host, port) = address(cut(seen.host), if self.trace.secure { 443 } else { 80 });
        attributes.push(("server.address", host.into()));
        attributes.push(("server.port", Value::Int(port.into())));
        let decided = &verdict.decided;
        attributes.push(("byrnie.decision", verdict.id.as_str().into()));
        attributes.push(("byrnie.destination", (&verdict.labels.destination).into()));
        for (name, value) in [("byrnie.route", &decided.route), ("byrnie.rule", &decided.rule)] {
            if !value.is_empty() {
                attributes.push((name, value.into()));
            }
        }
        if let Some(reason) = verdict.reason {
            attributes.push(("byrnie.reason", reason.label().into()));
            attributes.extend(reason.code().map(|code| ("byrnie.code", Value::from(code.id))));
        }
        if let Some((_, note)) = decided.keyed {
            attributes.push(("byrnie.idempotency", note.into()));
        }
        attributes
    }

    /// One event for each try, as all of them go out below one span.
    fn tries(&self) -> Vec<SpanEvent> {
        let tries = self.verdict.attempts.iter().enumerate().take(TRIES_MAX);
        let event = |(number, attempt): (usize, &byrnie_engine::Attempt)| {
            let told = attempt.record();
            let number = Value::Int(i64::try_from(number + 1).unwrap_or(i64::MAX));
            let attributes = vec![
                ("byrnie.try", number),
                ("byrnie.endpoint", (&told.endpoint).into()),
                ("byrnie.outcome", (&told.outcome).into()),
            ];
            SpanEvent { at: self.at(attempt.begun()), name: "byrnie.try", attributes }
        };
        tries.map(event).collect()
    }

    /// A few words that many failures share (`error.type`).
    fn error(&self) -> Text {
        let status = self.verdict.grpc;
        match (self.verdict.reason.map(Reason::label), status) {
            (Some(reason), _) => reason.into(),
            (None, Some(status)) => status.name().into(),
            (None, None) if self.verdict.status == 0 => "_OTHER".into(),
            (None, None) => self.verdict.status.to_string().into(),
        }
    }

    const fn at(&self, moment: Instant) -> u64 {
        self.epoch.saturating_add(moment.as_nanos())
    }

    fn is_grpc(&self) -> bool {
        self.seen.protocol == "grpc"
    }

    const fn scheme(&self) -> &'static str {
        if self.trace.secure { "https" } else { "http" }
    }
}

/// What the conventions call a method that they don't know.
const OTHER: &str = "_OTHER";

fn method(verdict: &Verdict) -> &'static str {
    if verdict.labels.method == "OTHER" { OTHER } else { verdict.labels.method }
}

/// Whether it speaks against the server (semantic conventions for gRPC).
const fn is_fault(status: Status) -> bool {
    matches!(
        status,
        Status::Unknown
            | Status::DeadlineExceeded
            | Status::Unimplemented
            | Status::Internal
            | Status::Unavailable
            | Status::DataLoss
    )
}

/// The method of a call by gRPC, with its service.
fn rpc<'a>(seen: &Seen<'a>) -> &'a str {
    cut(seen.path).trim_start_matches('/')
}

/// The beginning of what a caller may make as long as it likes.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

/// Host and port of an authority.
fn address(authority: &str, default: u16) -> (&str, u16) {
    let split = authority.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = split.unwrap_or((authority, default));
    (host.trim_start_matches('[').trim_end_matches(']'), port)
}
