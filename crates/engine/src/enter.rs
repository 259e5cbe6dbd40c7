// SPDX-License-Identifier: Apache-2.0
//! What a request may bring in, by the door it comes through, and what the mesh adds to it. First step
//! of every exchange, so that nothing after it ever sees a header that its sender may not set.

use crate::digits::request_id;
use crate::shard::Shard;
use crate::{Arrival, Side, Tls};
use byrnie_codec::headers::{Sender, add_forwarded, set_client_identity, strip_hop_by_hop, strip_untrusted};
use byrnie_codec::{Head, Known};
use std::fmt::Write as _;

/// Makes `head` trustworthy.
///
/// A head that has no room for what the mesh adds goes on without it: what is removed is what matters.
pub(crate) fn request(shard: &mut Shard, arrival: &Arrival<'_>, head: &mut Head) {
    let sender = match (arrival.direction.side(), arrival.source) {
        (Side::Outbound, _) => Sender::Program,
        (Side::Inbound, Some(_)) => Sender::Mesh,
        (Side::Inbound, None) | (Side::Edge, _) => Sender::Outside,
    };
    strip_hop_by_hop(head);
    strip_untrusted(head, sender);
    if head.header(Known::XRequestId).is_none() {
        head.append(Known::XRequestId.name(), &request_id(&mut shard.rng)).ok();
    }
    match arrival.direction.side() {
        Side::Outbound => {}
        Side::Edge => {
            add_forwarded(head, arrival.remote.ip(), arrival.tls != Tls::None).ok();
        }
        Side::Inbound => {
            shard.scratch.clear();
            let identity = arrival.source.map(|identity| {
                write!(shard.scratch, "{identity}").ok();
                shard.scratch.as_str()
            });
            set_client_identity(head, identity).ok();
        }
    }
}
