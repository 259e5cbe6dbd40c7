// SPDX-License-Identifier: Apache-2.0
//! What the first and the last frame of a direction hold. Heads are written and read by the code of
//! HTTP/1, so that both versions of the hop are as strict; but on a stream the frame with the mark of
//! the end is the only end of a message: there are no chunks, and a length is a promise to be checked.

use super::{TARGET_BYTES_MAX, Wrong};
use crate::fields::Fields;
use crate::h1::{self, Asked};
use crate::head::{Framing, Head};
use crate::reject::{Reject, RejectReason};
use crate::{Limits, Parsed};

/// What a stream is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Asks {
    /// One HTTP exchange: a head follows.
    Exchange = 1,
    /// An opaque connection: its bytes follow.
    Bytes = 2,
    /// A flow of datagrams: its capsules follow (see [`crate::capsule`]).
    Datagrams = 3,
}

/// Appends what an OPEN begins with: `u8 asks | u8 length | target`. `target` is the server name of the
/// service port asked for, `PORT.SERVICE.NAMESPACE.mesh`; what is too long for it is cut off.
pub fn emit_preamble(asks: Asks, target: &str, out: &mut Vec<u8>) {
    let target = &target.as_bytes()[..target.len().min(TARGET_BYTES_MAX)];
    out.extend_from_slice(&[asks as u8, target.len() as u8]);
    out.extend_from_slice(target);
}

/// What an OPEN asks for, the target, and what follows. `last` is a target that was found well formed before, as most
/// often the next is the same.
///
/// # Errors
/// If it doesn't begin so.
pub fn parse_preamble<'a>(payload: &'a [u8], last: &'a str) -> Result<(Asks, &'a str, &'a [u8]), Wrong> {
    let [asks, length, rest @ ..] = payload else { return Err(Wrong::Preamble) };
    let asks = match asks {
        1 => Asks::Exchange,
        2 => Asks::Bytes,
        3 => Asks::Datagrams,
        _ => return Err(Wrong::Preamble),
    };
    let (target, rest) = rest.split_at_checked(usize::from(*length)).ok_or(Wrong::Preamble)?;
    if !target.is_empty() && target == last.as_bytes() {
        return Ok((asks, last, rest));
    }
    let named = !target.is_empty() && target.iter().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'));
    match std::str::from_utf8(target) {
        Ok(target) if named => Ok((asks, target, rest)),
        _ => Err(Wrong::Preamble),
    }
}

/// Appends the head of a request, without what frames a body in HTTP/1 but its length.
pub fn emit_request(head: &Head, out: &mut Vec<u8>) {
    h1::emit_request_unframed(head, out);
}

/// Appends the head of a response, as [`emit_request`].
pub fn emit_response(head: &Head, out: &mut Vec<u8>) {
    h1::emit_response_unframed(head, out);
}

/// Parses the head of a request at the start of an OPEN's payload, after the preamble; answers its length.
/// `end` says that the frame is the last of its direction.
///
/// # Errors
/// As [`h1::parse_request`]; a head that isn't whole or announces chunks is refused too.
pub fn parse_request(payload: &[u8], end: bool, limits: &Limits, head: &mut Head) -> Result<usize, Reject> {
    let used = whole(h1::parse_request(payload, limits, head)?)?;
    match head.framing() {
        Framing::Chunked | Framing::UntilClose => return Err(RejectReason::TransferEncoding.into()),
        // Not ended, as more may follow if the switch is granted; but no body.
        Framing::None if head.upgrade().is_some() => {}
        Framing::None if !end || used < payload.len() => head.set_framing(Framing::Stream),
        Framing::None | Framing::Length(_) | Framing::Stream => {}
    }
    head.set_keep_alive(true);
    Ok(used)
}

/// Parses the head of a response at the start of a payload; answers its length. `interim` says that it
/// came in a frame of interim answers.
///
/// # Errors
/// As [`h1::parse_response`]; a head that isn't whole, announces chunks or came in the wrong kind of frame
/// is refused too.
pub fn parse_response(
    payload: &[u8],
    interim: bool,
    asked: Asked,
    limits: &Limits,
    head: &mut Head,
) -> Result<usize, Reject> {
    let used = whole(h1::parse_response(payload, limits, asked, head)?).map_err(Reject::upstream)?;
    let informs = (100..=199).contains(&head.status()) && head.status() != 101;
    if informs != interim {
        return Err(Reject::from(RejectReason::StatusLine).upstream());
    }
    match head.framing() {
        Framing::Chunked => return Err(Reject::from(RejectReason::TransferEncoding).upstream()),
        Framing::UntilClose => head.set_framing(Framing::Stream),
        Framing::None | Framing::Length(_) | Framing::Stream => {}
    }
    head.set_keep_alive(true);
    Ok(used)
}

fn whole(parsed: Parsed) -> Result<usize, Reject> {
    match parsed {
        Parsed::Complete(used) => Ok(used),
        Parsed::Partial => Err(RejectReason::Truncated.into()),
    }
}

/// Appends a trailer section.
pub fn emit_trailers(trailers: &Fields, out: &mut Vec<u8>) {
    trailers.emit(out, |_| false);
    out.extend_from_slice(b"\r\n");
}

/// Parses a trailer section, which must fill the payload, into `fields`, in place of what they held.
///
/// # Errors
/// As for the trailers of a chunked body, of which a proxy may have received as many as are allowed.
pub fn parse_trailers(payload: &[u8], limits: &Limits, fields: &mut Fields) -> Result<(), Reject> {
    // In the form that they are written in, a line is up to a byte longer than it was when the limit was kept.
    if payload.len() > limits.trailer_bytes_max + limits.trailers_max {
        return Err(RejectReason::TrailersTooLarge.into());
    }
    match h1::parse_trailers(payload, limits.trailers_max, fields)? {
        Parsed::Complete(used) if used == payload.len() => Ok(()),
        Parsed::Complete(_) | Parsed::Partial => Err(RejectReason::Truncated.into()),
    }
}
