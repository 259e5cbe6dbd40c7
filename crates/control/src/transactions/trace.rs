// SPDX-License-Identifier: Apache-2.0
//! Spans of transactions: one for the whole, told when it has ended, and one for each call of a participant, below which
//! hangs what the participant's proxies tell. Ids are worked out from the transaction, so that a coordinator that starts
//! again, or takes over, goes on with the same. What participants answered is never told.

use super::run::Coordinator;
use crate::State;
use crate::export::otlp;
use byrnie_base::{Instant, Text};
use byrnie_codec::otlp::{Attributes, Span, SpanKind, Value};
use byrnie_codec::trace::{Context, SpanId, TraceId};
use byrnie_model::telemetry::Share;
use byrnie_net::runtime;
use byrnie_net::serve::Request;
use byrnie_net::tls::secret::sha256;
use byrnie_saga::machine::State as Standing;
use byrnie_saga::{End, Order, Outcome, Spec};

/// The header that says where a request stands in a trace.
pub(super) const TRACEPARENT: &str = "traceparent";

fn share(state: &State) -> Option<Share> {
    otlp(state).and_then(|otlp| otlp.traces)
}

/// The trace that whoever asks for a transaction is in, to be kept with it.
pub(super) fn given(request: &Request) -> Option<Text> {
    let context = request.header(TRACEPARENT).and_then(|value| Context::parse(value.as_bytes()))?;
    Some(context.to_string().into())
}

/// Where a transaction stands in its trace.
struct Place {
    trace: TraceId,
    parent: Option<SpanId>,
    span: SpanId,
    sampled: bool,
}

/// The first bytes of a digest of what names one thing.
fn digest(id: &Text, spec: &Spec, rest: &[&str]) -> (u64, u64) {
    let text = format!("{id}\0{}\0{}\0{}", spec.creator, spec.created.as_millis(), rest.join("\0"));
    let bytes = sha256(text.as_bytes());
    let number = |at: usize| bytes[at..at + 8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    (number(0), number(8))
}

fn own_span(id: &Text, spec: &Spec) -> SpanId {
    SpanId::of(digest(id, spec, &["span"]).0)
}

fn place(id: &Text, state: &Standing) -> Option<Place> {
    let kept = Context::parse(state.trace.as_ref()?.as_bytes())?;
    let span = own_span(id, &state.spec);
    // Where the trace begins with the transaction, its own span stands there.
    let parent = Some(kept.span).filter(|parent| *parent != span);
    Some(Place { trace: kept.trace, parent, span, sampled: kept.sampled })
}

fn call_span(id: &Text, state: &Standing, order: &Order) -> SpanId {
    let (branch, attempt) = (branch_of(state, order), order.attempt.to_string());
    SpanId::of(digest(id, &state.spec, &[branch, state.spec.mode.op(order.op), &attempt]).0)
}

fn branch_of<'s>(state: &'s Standing, order: &Order) -> &'s str {
    let branch = order.branch.and_then(|at| state.spec.branches.get(usize::from(at)));
    branch.map_or("", |branch| &branch.name)
}

impl Coordinator {
    /// A trace that begins with a transaction.
    pub(super) fn new_trace(&self, id: &Text, spec: &Spec) -> Option<Text> {
        let share = share(&self.state)?;
        // The domain tells one mesh's `order-1` from another's.
        let (high, low) = digest(id, spec, &["trace", &self.state.trust_domain]);
        let trace = TraceId::of(high, low);
        let context = Context { trace, span: own_span(id, spec), sampled: share.holds(trace.low()) };
        Some(context.to_string().into())
    }

    /// What the call of a participant says of its trace.
    pub(super) fn traceparent(&self, id: &Text, state: &Standing, order: &Order) -> Option<Text> {
        let place = place(id, state)?;
        if !place.sampled || share(&self.state).is_none() {
            return state.trace.clone();
        }
        let context = Context { trace: place.trace, span: call_span(id, state, order), sampled: true };
        Some(context.to_string().into())
    }

    /// Tells of a call that has ended.
    pub(super) fn trace_call(&self, id: &Text, state: &Standing, order: &Order, begun: Instant, outcome: &Outcome) {
        let Some(place) = place(id, state).filter(|place| place.sampled) else { return };
        let (name, failed) = match outcome {
            Outcome::Done { .. } => ("done", false),
            Outcome::Ongoing { .. } => ("ongoing", false),
            Outcome::Rejected { .. } => ("rejected", true),
            Outcome::Unknown { .. } => ("unknown", true),
            Outcome::Ambiguous { .. } => ("ambiguous", true),
            Outcome::Misdirected { .. } | Outcome::Elsewhere { .. } => ("misdirected", true),
        };
        let (branch, op) = (branch_of(state, order), state.spec.mode.op(order.op));
        let call = match order.branch {
            Some(at) => state.spec.branches.get(usize::from(at)).and_then(|branch| branch.call(order.op)),
            None => state.spec.check.as_ref(),
        };
        let mut attributes = about(id, &state.spec);
        attributes.push(("byrnie.txn.branch", branch.into()));
        attributes.push(("byrnie.txn.op", op.into()));
        attributes.push(("byrnie.txn.attempt", Value::Int(order.attempt.into())));
        attributes.push(("byrnie.txn.outcome", name.into()));
        if let Some(call) = call {
            attributes.push(("server.address", call.target.place().into()));
        }
        let clock = runtime::clock();
        self.trace(Span {
            trace: place.trace,
            id: call_span(id, state, order),
            parent: Some(place.span),
            kind: SpanKind::Client,
            name: if branch.is_empty() { op.into() } else { format!("{op} {branch}").into() },
            times: (clock.unix_nanos(begun), clock.unix_nanos(clock.mono())),
            attributes,
            events: Vec::new(),
            error: failed.then(|| name.into()),
        });
    }

    /// Tells of a transaction that has ended.
    pub(super) fn trace_end(&self, id: &Text, state: &Standing, end: End) {
        let spec = &state.spec;
        let Some(place) = place(id, state).filter(|place| place.sampled) else { return };
        let mode = spec.mode.name();
        let mut attributes = about(id, spec);
        attributes.push(("byrnie.txn.state", state.name().into()));
        attributes.push(("byrnie.txn.creator", (&spec.creator).into()));
        let clock = runtime::clock();
        self.trace(Span {
            trace: place.trace,
            id: place.span,
            parent: place.parent,
            kind: SpanKind::Internal,
            name: if spec.definition.is_empty() { mode.into() } else { format!("{mode} {}", spec.definition).into() },
            times: (spec.created.as_millis().saturating_mul(1_000_000), clock.unix_nanos(clock.mono())),
            attributes,
            events: Vec::new(),
            error: (end == End::Undone).then(|| state.name().into()),
        });
    }

    fn trace(&self, span: Span) {
        if share(&self.state).is_some() {
            self.state.tracer.tell(span);
        }
    }
}

/// What every span of a transaction says.
fn about(id: &Text, spec: &Spec) -> Attributes {
    vec![("byrnie.txn.id", id.into()), ("byrnie.txn.mode", spec.mode.name().into())]
}
