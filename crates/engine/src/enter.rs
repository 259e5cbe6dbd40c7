// SPDX-License-Identifier: Apache-2.0
//! What a request may bring in, by the door it comes through, and what the mesh adds to it. First step
//! of every exchange, so that nothing after it ever sees a header that its sender may not set.

use crate::digits::request_id;
use crate::shard::Shard;
use crate::{Arrival, Side, Tls};
use byrnie_codec::headers::{Sender, add_forwarded, set_client_identity, strip_hop_by_hop, strip_untrusted};
use byrnie_codec::hop::NEWCOMER;
use byrnie_codec::{Framing, Head, Known};
use byrnie_model::Identity;

/// Makes `head` trustworthy, at a node of the trust domain `own`.
///
/// A head that has no room for what the mesh adds goes on without it: what is removed is what matters. Whether it said what
/// only the coordinator may is told.
pub(crate) fn request(shard: &mut Shard, arrival: &Arrival<'_>, own: &str, head: &mut Head) -> bool {
    let sender = match (arrival.direction.side(), arrival.source) {
        (Side::Outbound, _) => Sender::Program,
        (Side::Inbound, Some(source)) if source.is_edge() && **source.trust_domain() == *own => Sender::Edge,
        (Side::Inbound, Some(_)) => Sender::Mesh,
        (Side::Inbound, None) | (Side::Edge, _) => Sender::Outside,
    };
    strip_hop_by_hop(head);
    strip_untrusted(head, sender);
    // Nobody may ask whether to send what isn't there (RFC 9110 10.1.1), and some servers then wait for it for ever.
    if head.header(Known::Expect).is_some() && matches!(head.framing(), Framing::None | Framing::Length(0)) {
        let is_known = |value: &[u8]| value.eq_ignore_ascii_case(b"100-continue");
        if head.values(Known::Expect.name()).all(is_known) {
            head.remove_known(Known::Expect);
        }
    }
    if head.header(Known::XRequestId).is_none() {
        head.append_known(Known::XRequestId, &request_id(&mut shard.rng)).ok();
    }
    if !matches!(sender, Sender::Mesh | Sender::Edge) && shard.overload.newcomer {
        head.append_known(Known::ByrnieNewcomer, NEWCOMER).ok();
    }
    let mut posed = false;
    match arrival.direction.side() {
        Side::Outbound => {}
        Side::Edge => {
            add_forwarded(head, arrival.remote.ip(), arrival.tls != Tls::None).ok();
            if let Some(certificate) = arrival.direction.gate().certificate() {
                head.append_known(Known::XForwardedClientCert, certificate.as_bytes()).ok();
            }
        }
        Side::Inbound => {
            if !arrival.source.is_some_and(|source| is_coordinator(source, own)) {
                posed = drop_coordinator_words(head);
            }
            shard.scratch.clear();
            let identity = arrival.source.map(|identity| {
                identity.push_to(&mut shard.scratch);
                shard.scratch.as_str()
            });
            set_client_identity(head, identity).ok();
        }
    }
    posed
}

/// The service account of the coordinator of transactions, in the system's namespace.
const COORDINATOR: &str = "transactions";

/// Whether it's the coordinator of transactions of the mesh with this trust domain: another site's is nobody here.
pub(crate) fn is_coordinator(identity: &Identity, own: &str) -> bool {
    **identity.trust_domain() == *own
        && **identity.namespace() == *Identity::SYSTEM_NAMESPACE
        && **identity.service_account() == *COORDINATOR
}

/// Takes from a call what only the coordinator may say: that it takes back, confirms or asks about a part of a
/// transaction; whether there was any. The call goes on as what it is, an ordinary one.
fn drop_coordinator_words(head: &mut Head) -> bool {
    let own = |op: &[u8]| matches!(op, b"compensate" | b"cancel" | b"confirm" | b"complete" | b"check");
    let posed = head.header(Known::TxnOp).is_some_and(own);
    if posed {
        [Known::TxnOp, Known::TxnId, Known::TxnBranch, Known::TxnAttempt]
            .into_iter()
            .for_each(|k| head.remove_known(k));
    }
    posed
}
