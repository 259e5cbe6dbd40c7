// SPDX-License-Identifier: Apache-2.0
//! Spans and metrics as collectors read them: the protobuf messages of OTLP 1 (opentelemetry-proto, `trace/v1`,
//! `metrics/v1` and `collector/*`), as far as byrnie fills them. Written by hand, as that is a few fields, and the
//! library that holds all of them brings an SDK along. Proxies and the coordinator hand the bytes to `net`.

mod metrics;

pub use metrics::metrics;

use crate::protobuf::{self, Writer};
use crate::trace::{SpanId, TraceId};
use byrnie_base::Text;

/// Who sends: `service.name` and its like.
pub type Attributes = Vec<(&'static str, Value)>;

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(Text),
    /// A number.
    Int(i64),
    /// Yes or no.
    Bool(bool),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<&Text> for Value {
    fn from(text: &Text) -> Self {
        Self::Text(text.clone())
    }
}

/// Which side of a call a span tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// Neither.
    Internal = 1,
    /// Who answers.
    Server = 2,
    /// Who asks.
    Client = 3,
}

/// One span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The trace that it's part of.
    pub trace: TraceId,
    /// Its own id.
    pub id: SpanId,
    /// The span that it hangs below.
    pub parent: Option<SpanId>,
    /// Which side of a call.
    pub kind: SpanKind,
    /// What was done, in a few words that many spans share.
    pub name: Text,
    /// From when to when, in nanoseconds since 1970.
    pub times: (u64, u64),
    /// What else is known.
    pub attributes: Attributes,
    /// What happened meanwhile.
    pub events: Vec<SpanEvent>,
    /// Why it failed, if it did; may be empty.
    pub error: Option<Text>,
}

/// A moment of a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanEvent {
    /// In nanoseconds since 1970.
    pub at: u64,
    /// What happened.
    pub name: &'static str,
    /// What else is known.
    pub attributes: Attributes,
}

/// What a collector did not take of a batch that it accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partial {
    /// Spans or data points.
    pub rejected: u64,
    /// Why, in its words, cut short.
    pub message: String,
}

/// The body of a request to `/v1/traces`.
pub fn traces(resource: &Attributes, spans: &[Span]) -> Vec<u8> {
    let mut out = Writer::default();
    out.message(1, |of_resource| {
        of_resource.message(1, |out| attributes(out, 1, resource));
        of_resource.message(2, |of_scope| {
            scope(of_scope);
            spans.iter().for_each(|each| of_scope.message(2, |out| span(out, each)));
        });
    });
    out.into_bytes()
}

/// What a collector said to a batch that it accepted.
pub fn partial(answer: &[u8]) -> Partial {
    let mut partial = Partial::default();
    let Some(inner) = protobuf::fields(answer).find_map(|field| field.bytes_of(1)) else { return partial };
    for field in protobuf::fields(inner) {
        if let Some(rejected) = field.number_of(1) {
            partial.rejected = rejected;
        }
        if let Some(message) = field.bytes_of(2) {
            let message = String::from_utf8_lossy(message);
            partial.message = message.chars().filter(|c| !c.is_control()).take(MESSAGE_CHARS_MAX).collect();
        }
    }
    partial
}

/// What is kept of a collector's words.
const MESSAGE_CHARS_MAX: usize = 200;

fn span(out: &mut Writer, span: &Span) {
    out.bytes(1, &span.trace.0);
    out.bytes(2, &span.id.0);
    if let Some(parent) = &span.parent {
        out.bytes(4, &parent.0);
    }
    out.text(5, &span.name);
    out.number(6, span.kind as u64);
    out.fixed(7, span.times.0);
    out.fixed(8, span.times.1.max(span.times.0));
    attributes(out, 9, &span.attributes);
    for event in &span.events {
        out.message(11, |out| {
            out.fixed(1, event.at);
            out.text(2, event.name);
            attributes(out, 3, &event.attributes);
        });
    }
    if let Some(error) = &span.error {
        out.message(15, |out| {
            out.text(2, error);
            out.number(3, STATUS_ERROR);
        });
    }
}

const STATUS_ERROR: u64 = 2;

fn scope(out: &mut Writer) {
    out.message(1, |out| {
        out.text(1, "byrnie");
        out.text(2, env!("CARGO_PKG_VERSION"));
    });
}

fn attributes(out: &mut Writer, field: u32, attributes: &Attributes) {
    for (key, value) in attributes {
        attribute(out, field, key, value);
    }
}

fn attribute(out: &mut Writer, field: u32, key: &str, value: &Value) {
    out.message(field, |out| {
        out.text(1, key);
        out.message(2, |out| match value {
            Value::Text(text) => out.always(1, text),
            Value::Bool(yes) => out.number_always(2, u64::from(*yes)),
            // A negative number has ten bytes, as protobuf's int64 does.
            Value::Int(number) => out.number_always(3, number.cast_unsigned()),
        });
    });
}

#[cfg(test)]
mod tests;
