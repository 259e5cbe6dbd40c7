// SPDX-License-Identifier: Apache-2.0
//! Where a request stands in its trace at this proxy, and whether its spans are sent. Who brings a `traceparent`, or a
//! decision in B3's headers, has decided that already; for a trace that begins here a share of all is drawn by the trace's id (parent-based
//! sampling by ratio, as OpenTelemetry's SDKs do). Called once per exchange, and only where a Mesh asks for traces.

use crate::shard::Shard;
use crate::{Arrival, Side, Tls};
use byrnie_base::Instant;
use byrnie_codec::trace::b3::B3;
use byrnie_codec::trace::{Context, SpanId, TraceId};
use byrnie_codec::{Head, Known};
use byrnie_model::telemetry::Share;

/// Where a request stands in its trace.
#[derive(Clone, Copy, Debug)]
pub struct Trace {
    /// The trace.
    pub id: TraceId,
    /// The span that the request came from; `None` where the trace begins.
    pub parent: Option<SpanId>,
    /// This proxy's own.
    pub span: SpanId,
    /// The one that the request leaves from: another only at the edge, which answers its caller and asks a service.
    pub onward: SpanId,
    /// Whether the spans of the trace are sent. Where it's not and the trace begins here, a failure is sent all the same.
    pub sampled: bool,
    /// Whether the request came under https from outside.
    pub secure: bool,
    /// When the request came.
    pub begun: Instant,
}

impl Trace {
    /// Continues the trace of a request, or begins one, and writes into `head` what those behind go on from. `None` if
    /// whoever asks has decided that nothing is sent: then a `traceparent` stays as it is, and one is written for those behind who don't
    /// read B3 where that has decided.
    pub(crate) fn enter(
        share: Share,
        shard: &mut Shard,
        arrival: &Arrival<'_>,
        head: &mut Head,
        begun: Instant,
    ) -> Option<Box<Self>> {
        let from = head.header(Known::Traceparent).and_then(Context::parse);
        let b3 = if from.is_none() { B3::read(|name| head.get(name)) } else { None };
        let decided = from.map(|from| from.sampled).or(b3.and_then(|b3| b3.sampled));
        if decided == Some(false) {
            if from.is_none() {
                refuse(shard, b3.and_then(|b3| b3.from), head);
            }
            return None;
        }
        let from = from.map(|from| (from.trace, from.span));
        let (id, sampled) = match from {
            Some((trace, _)) => (trace, true),
            None => {
                let drawn = || TraceId::of(shard.rng.next_u64(), shard.rng.next_u64());
                let id = b3.and_then(|b3| b3.from).map_or_else(drawn, |(trace, _)| trace);
                // Without its parent the state says nothing (W3C trace context 3.3).
                head.remove_known(Known::Tracestate);
                (id, decided.unwrap_or_else(|| share.holds(id.low())))
            }
        };
        let span = SpanId::of(shard.rng.next_u64());
        let edge = arrival.direction.side() == Side::Edge;
        let onward = if edge { SpanId::of(shard.rng.next_u64()) } else { span };
        let context = Context { trace: id, span: onward, sampled };
        // A head without room goes on as it came.
        head.set_known(Known::Traceparent, &context.write()).ok();
        let parent = from.or(b3.and_then(|b3| b3.from)).map(|(_, span)| span);
        let secure = edge && arrival.tls != Tls::None;
        Some(Box::new(Self { id, parent, span, onward, sampled, secure, begun }))
    }
}

/// Writes into `head` that its trace, which B3 tells as `told` or not at all, isn't sent.
fn refuse(shard: &mut Shard, told: Option<(TraceId, SpanId)>, head: &mut Head) {
    let mut random = || shard.rng.next_u64();
    let (trace, span) = told.unwrap_or_else(|| (TraceId::of(random(), random()), SpanId::of(random())));
    head.remove_known(Known::Tracestate);
    // A head without room goes on as it came.
    head.set_known(Known::Traceparent, &Context { trace, span, sampled: false }.write()).ok();
}
