// SPDX-License-Identifier: Apache-2.0
//! One access-log line: a JSON object. Written for every exchange, so it's put together by hand in a
//! buffer that is reused. Never holds a body, a token or a query string.

use super::Seen;
use byrnie_engine::{Reason, Verdict};
use std::io::Write as _;

/// One access-log line.
pub(crate) struct Line<'a> {
    /// How it went.
    pub(crate) verdict: &'a Verdict,
    /// What was asked for.
    pub(crate) seen: &'a Seen<'a>,
}

impl Line<'_> {
    /// Appends the line with its end.
    pub(crate) fn append(&self, out: &mut Vec<u8>) {
        let Self { verdict, seen } = self;
        let labels = &verdict.labels;
        write!(out, "{{\"at\":{}", seen.ended.as_millis()).ok();
        text(out, "id", verdict.id.as_str());
        if let Some(trace) = &verdict.trace {
            write!(out, ",\"trace\":\"{}\"", trace.id).ok();
        }
        text(out, "direction", labels.side.label());
        write!(out, ",\"client\":\"{}\"", seen.client).ok();
        text(out, "source", &labels.source);
        text(out, "destination", &labels.destination);
        text(out, "protocol", seen.protocol);
        text(out, "method", seen.method);
        text(out, "host", seen.host);
        text(out, "path", seen.path);
        write!(out, ",\"status\":{}", verdict.status).ok();
        if let Some(status) = verdict.grpc {
            text(out, "grpcStatus", status.name());
        }
        if let Some(reason) = verdict.reason {
            text(out, "reason", reason.label());
            text(out, "code", Reason::code(reason).map_or("", |code| code.id));
        }
        text(out, "route", &verdict.decided.route);
        text(out, "rule", &verdict.decided.rule);
        text(out, "tls", labels.tls.label());
        if let Some((guarantee, note)) = verdict.decided.keyed {
            text(out, "guarantee", guarantee.name());
            text(out, "idempotency", note);
        }
        if let Some(endpoint) = verdict.attempts.iter().last().and_then(|attempt| attempt.endpoint()) {
            text(out, "endpoint", endpoint);
        }
        let (received, sent) = seen.bytes;
        let (tries, micros) = (verdict.attempts.count(), verdict.duration.as_micros());
        let revision = verdict.decided.revision;
        writeln!(
            out,
            ",\"attempts\":{tries},\"durationUs\":{micros},\"bytesReceived\":{received},\"bytesSent\":{sent},\"revision\":{revision}}}"
        )
        .ok();
    }
}

/// `,"name":"value"`, escaped (RFC 8259 7).
fn text(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":\"");
    for &byte in value.as_bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0..=0x1f => {
                write!(out, "\\u{byte:04x}").ok();
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}
