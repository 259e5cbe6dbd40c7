// SPDX-License-Identifier: Apache-2.0
//! What happens to headers at a proxy whatever its routes say: lines of one connection end here,
//! what only the mesh may claim is taken from those who can't prove it, and what the mesh adds is
//! added. The proxy calls these once per request and hop, before the engine sees the head.

use std::net::IpAddr;

use crate::fields::is_token_byte;
use crate::head::Head;
use crate::known::Known;
use crate::reject::Reject;

/// Prefix of the mesh's own headers.
const OWN_PREFIX: &[u8] = b"x-byrnie-";
/// Longest x-request-id that is kept, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// Longest x-forwarded-for, in bytes; a longer one keeps its end, which was written by nearer proxies.
const FORWARDED_FOR_BYTES_MAX: usize = 1024;

/// Who sent a request, as far as headers are concerned. Never derived from an IP address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// Anyone: a request that came in at the edge, or in plain text.
    Outside,
    /// The workload's own program, on its sidecar's outbound listener.
    Program,
    /// Another proxy of the mesh, proven by its certificate.
    Mesh,
    /// The proxy at the mesh's edge, proven so: it alone says what callers from outside have proven.
    Edge,
}

/// Drops the lines that belong to the connection a message came by (RFC 9110 7.6.1): those that
/// Connection names (but never one that frames, routes, identifies or controls a message: naming it
/// there would hide it from the next server), and those that always do. An upgrade that is under
/// way, or asked for by a 426, keeps its line; `te: trailers` of an HTTP/2 or HTTP/3 message stays, as gRPC servers ask for it.
pub fn strip_hop_by_hop(head: &mut Head) {
    // Hardly any message has one of them.
    const NAMES: u128 = Known::bits(&[
        Known::Connection,
        Known::Upgrade,
        Known::Te,
        Known::ProxyAuthenticate,
        Known::ProxyAuthorization,
        Known::ProxyAuthenticationInfo,
        Known::Http2Settings,
    ]);
    if !head.fields.has_any(NAMES) {
        return;
    }
    let tokens = head.fields.typed(Known::Connection).flat_map(crate::h1::tokens);
    let named = tokens.filter(|token| !is_meant(token) && token.len() <= NOMINATED_BYTES_MAX);
    // Copied, so that the head can be edited; hardly any message has one.
    let nominated: Vec<_> = named.take(NOMINATED_MAX).map(<[u8]>::to_vec).collect();
    let upgrading = head.upgrade().is_some() || head.wants_upgrade();
    let streams = head.version() >= crate::Version::Http2;
    let keeps_te = streams && head.header(Known::Te).is_some_and(|v| v.eq_ignore_ascii_case(b"trailers"));
    head.fields.remove_where(|known, name| match known {
        Known::Upgrade => !upgrading,
        Known::Te => !keeps_te,
        Known::ProxyAuthenticate
        | Known::ProxyAuthorization
        | Known::ProxyAuthenticationInfo
        | Known::Http2Settings => true,
        _ => nominated.iter().any(|n| n.eq_ignore_ascii_case(name)) && !is_protected(known, name),
    });
}

/// Names that Connection may nominate in one message; those after are ignored, as no sane message has them.
const NOMINATED_MAX: usize = 16;
/// Longest nominated name, in bytes; longer ones are ignored.
const NOMINATED_BYTES_MAX: usize = 62;

/// What Connection says of the connection itself.
fn is_meant(token: &[u8]) -> bool {
    [&b"close"[..], b"keep-alive", b"upgrade", b"te"].iter().any(|meant| token.eq_ignore_ascii_case(meant))
}

/// True for headers that a sender can't have dropped by nominating them.
fn is_protected(known: Known, name: &[u8]) -> bool {
    match known {
        Known::Other => is_own(name),
        Known::Trailer | Known::Via | Known::MaxForwards | Known::Server | Known::Date | Known::UserAgent => false,
        Known::Accept | Known::AcceptEncoding | Known::AcceptLanguage | Known::Referer => false,
        // Identity, authentication, content, routing, tracing, transactions: all that is left.
        _ => true,
    }
}

fn is_own(name: &[u8]) -> bool {
    name.get(..OWN_PREFIX.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(OWN_PREFIX))
}

/// Drops what the sender of a request may not claim, what is malformed, and lookalikes of names the mesh
/// knows (`content_length`). The client's identity is
/// dropped whoever sent it: the proxy that verified it writes it anew with [`set_client_identity`].
pub fn strip_untrusted(head: &mut Head, sender: Sender) {
    const NEVER: u128 = Known::ForwardedClientIdentity.bit();
    const OF_EDGE: u128 = Known::XForwardedClientCert.bit();
    // Verdicts of the mesh: some travel in responses only, one proxy tells another the rest.
    const OF_PROXIES: u128 =
        Known::bits(&[Known::ByrnieDecision, Known::IdempotencyStatus, Known::ByrnieNewcomer, Known::ByrnieSession]);
    const FROM_WITHIN: u128 = Known::bits(&[
        Known::Forwarded,
        Known::XForwardedFor,
        Known::XForwardedProto,
        Known::XForwardedHost,
        Known::XForwardedPort,
        Known::XRealIp,
        Known::ByrnieDeadlineMs,
        Known::ByrnieRetryBudget,
        Known::ByrnieCriticality,
        Known::TxnId,
        Known::TxnBranch,
        Known::TxnOp,
        Known::TxnAttempt,
    ]);
    let dropped = match sender {
        Sender::Edge => NEVER,
        Sender::Mesh => NEVER | OF_EDGE,
        Sender::Program => NEVER | OF_EDGE | OF_PROXIES,
        Sender::Outside => NEVER | OF_EDGE | OF_PROXIES | FROM_WITHIN,
    };
    strip(head, dropped, |name| (sender == Sender::Outside && is_own(name)) || is_lookalike(name));
    drop_malformed(head);
}

/// Drops the lines of these names, and of those that aren't known for which `drop` says so.
fn strip(head: &mut Head, names: u128, drop: impl Fn(&[u8]) -> bool) {
    // Most messages have none of them.
    if head.fields.has_any(names | Known::Other.bit()) {
        head.fields.remove_where(|known, name| match known {
            Known::Other => drop(name),
            _ => names & known.bit() != 0,
        });
    }
}

/// What is for the mesh alone.
const INTERNAL: u128 = Known::bits(&[
    Known::ForwardedClientIdentity,
    Known::XForwardedClientCert,
    Known::ByrnieDecision,
    Known::ByrnieDeadlineMs,
    Known::ByrnieRetryBudget,
    Known::ByrnieCriticality,
    Known::ByrnieNewcomer,
    Known::ByrnieSession,
]);

/// Drops what is for the mesh alone from a request that leaves it: who calls, how much time and how many tries are left.
/// What a participant of a transaction is to know stays.
pub fn strip_internal(head: &mut Head) {
    strip(head, INTERNAL, is_own);
}

/// Drops what a server outside the proof of the mesh may not claim in a response: that the mesh decided
/// it, or what became of an idempotency key.
pub fn strip_untrusted_response(head: &mut Head, sender: Sender) {
    if matches!(sender, Sender::Mesh | Sender::Edge) {
        return;
    }
    strip(head, INTERNAL | Known::IdempotencyStatus.bit(), |name| is_own(name) || is_lookalike(name));
}

/// True for a name that is one the mesh knows but for `_` in place of `-`. Programs behind a CGI-like
/// interface read both as one, and would take the forged line for the true one.
fn is_lookalike(name: &[u8]) -> bool {
    const NAME_BYTES_MAX: usize = 64;
    if !name.contains(&b'_') || name.len() > NAME_BYTES_MAX {
        return false;
    }
    let mut dashed = [0; NAME_BYTES_MAX];
    for (to, from) in dashed.iter_mut().zip(name) {
        *to = if *from == b'_' { b'-' } else { *from };
    }
    let dashed = &dashed[..name.len()];
    Known::of(dashed) != Known::Other || is_own(dashed)
}

/// Drops headers of the mesh that are there more than once or don't say what they should: who reads
/// them later would take the first, the last or none. An idempotency key is left as it is: where it
/// counts, a bad one is refused, as dropping it would leave the request unprotected.
fn drop_malformed(head: &mut Head) {
    const CHECKS: [(Known, Check); 7] = [
        (Known::XRequestId, is_request_id),
        (Known::Traceparent, is_traceparent),
        (Known::GrpcTimeout, |v| crate::grpc::parse_timeout(v).is_some()),
        (Known::ByrnieDeadlineMs, |v| deadline_ms(v).is_some()),
        (Known::ByrnieRetryBudget, is_short_token),
        (Known::ByrnieCriticality, is_short_token),
        (Known::TxnAttempt, is_short_token),
    ];
    const NAMES: u128 =
        Known::bits(&[CHECKS[0].0, CHECKS[1].0, CHECKS[2].0, CHECKS[3].0, CHECKS[4].0, CHECKS[5].0, CHECKS[6].0]);
    if !head.fields.has_any(NAMES) {
        return;
    }
    for (known, is_valid) in CHECKS {
        let Some(value) = head.header(known) else { continue };
        if is_valid(value) && head.fields.count(known) == 1 {
            continue;
        }
        head.remove_known(known);
        if known == Known::Traceparent {
            // Without its parent the state says nothing (W3C trace context 3.3).
            head.remove_known(Known::Tracestate);
        }
    }
}

/// Tells whether a value says what its header should.
type Check = fn(&[u8]) -> bool;

fn is_request_id(value: &[u8]) -> bool {
    // Without an early end, so that many bytes are looked at by one instruction.
    let fine = value.iter().fold(true, |fine, &b| fine & b.is_ascii_graphic() & (b != b'"'));
    fine && !value.is_empty() && value.len() <= REQUEST_ID_BYTES_MAX
}

fn is_short_token(value: &[u8]) -> bool {
    !value.is_empty() && value.len() <= 64 && value.iter().all(|&b| is_token_byte(b))
}

/// `00-<32 lower hex, not all 0>-<16 lower hex, not all 0>-<2 hex>` (W3C trace context 3.2), or a
/// later version that begins so.
pub fn is_traceparent(value: &[u8]) -> bool {
    crate::trace::Context::parse(value).is_some()
}

/// The milliseconds of an `x-byrnie-deadline-ms`: at most nine digits, which is eleven days.
pub fn deadline_ms(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 9 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0, |ms, b| ms * 10 + u64::from(b - b'0')))
}

/// Adds who was talking to an edge: `client` to x-forwarded-for, the scheme and the authority it asked
/// for. The edge calls [`strip_untrusted`] before, unless it knows the proxy in front of it.
///
/// # Errors
/// If the head can't take more lines.
pub fn add_forwarded(head: &mut Head, client: IpAddr, https: bool) -> Result<(), Reject> {
    let mut chain = Vec::with_capacity(64);
    for value in head.values(Known::XForwardedFor.name()) {
        chain.extend_from_slice(value);
        chain.extend_from_slice(b", ");
    }
    let excess = chain.len().saturating_sub(FORWARDED_FOR_BYTES_MAX);
    if excess > 0 {
        let cut = chain[excess..].iter().position(|&b| b == b',').map_or(chain.len(), |at| excess + at + 2);
        chain.drain(..cut.min(chain.len()));
    }
    chain.extend_from_slice(client.to_string().as_bytes());
    head.set(Known::XForwardedFor.name(), &chain)?;
    head.set(Known::XForwardedProto.name(), if https { b"https" } else { b"http" })?;
    if head.header(Known::XForwardedHost).is_none() && !head.authority().is_empty() {
        let host = head.authority().to_owned();
        head.set(Known::XForwardedHost.name(), host.as_bytes())?;
    }
    Ok(())
}

/// Writes the identity that the caller's certificate proved, in place of whatever was there; without
/// one the header is dropped.
///
/// # Errors
/// If the head can't take more lines.
pub fn set_client_identity(head: &mut Head, identity: Option<&str>) -> Result<(), Reject> {
    head.remove_known(Known::ForwardedClientIdentity);
    match identity {
        Some(identity) => head.append_known(Known::ForwardedClientIdentity, identity.as_bytes()),
        None => Ok(()),
    }
}

/// Keeps the request's id, or gives it the one that `make` writes (a UUID, say).
///
/// # Errors
/// If the head can't take more lines.
pub fn ensure_request_id(head: &mut Head, make: impl FnOnce(&mut String)) -> Result<(), Reject> {
    if head.header(Known::XRequestId).is_some() {
        return Ok(());
    }
    let mut id = String::with_capacity(36);
    make(&mut id);
    head.append(Known::XRequestId.name(), id.as_bytes())
}

#[cfg(test)]
mod tests;
