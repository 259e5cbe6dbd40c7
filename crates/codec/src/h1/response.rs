// SPDX-License-Identifier: Apache-2.0
//! The head of a response, from bytes. Called by the client side of a connection. What a response
//! means depends on what was asked, so the caller says that.

use super::check::{self, Announced};
use super::lines;
use crate::head::{Framing, Head, Version, status_has_no_body};
use crate::known::Known;
use crate::reject::{Reject, RejectReason};
use crate::{Limits, Parsed};

/// What kind of request is being answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// HEAD: the answer has no body, whatever it announces.
    Head,
    /// CONNECT: a 2xx begins a tunnel.
    Connect,
    /// A request that asked for another protocol: 101 may be answered.
    Upgrade,
    /// Any other.
    Other,
}

impl Asked {
    /// The kind of a request, as it is sent.
    pub fn by(request: &Head) -> Self {
        match request.method() {
            "HEAD" => Self::Head,
            "CONNECT" => Self::Connect,
            _ if request.upgrade().is_some() => Self::Upgrade,
            _ => Self::Other,
        }
    }
}

/// Parses the head of a response at the start of `buf` into `head`; calls again as for requests. A
/// 1xx other than 101 is followed by another head.
///
/// # Errors
/// If the bytes can't become a response that all clients read alike; the status is 502.
pub fn parse_response(buf: &[u8], limits: &Limits, asked: Asked, head: &mut Head) -> Result<Parsed, Reject> {
    if check::is_still_partial(buf, limits, head) {
        return Ok(Parsed::Partial);
    }
    let parsed = parse(buf, limits, asked, head);
    check::forget_unless_whole(&parsed, head);
    parsed.map_err(|reason| Reject::from(reason).upstream())
}

fn parse(buf: &[u8], limits: &Limits, asked: Asked, head: &mut Head) -> Result<Parsed, RejectReason> {
    head.begin_anew();
    let buf = &buf[..buf.len().min(limits.head_bytes_max)];
    if matches!(buf, [b'\r' | b'\n', ..]) {
        return Err(RejectReason::LeadingLine);
    }
    let Some(Line { version, status, section }) = status_line(buf)? else { return check::partial(buf, limits, head) };
    head.set_version(version);
    head.set_status(status);
    let Parsed::Complete(used) = lines::take(section, limits, &mut head.fields)? else {
        return check::partial(buf, limits, head);
    };
    frame(head, asked)?;
    Ok(Parsed::Complete(buf.len() - section.len() + used))
}

/// A status line.
struct Line<'a> {
    version: Version,
    status: u16,
    /// What follows it.
    section: &'a [u8],
}

/// Reads exactly `HTTP/1.x SP 3DIGIT [SP reason] CRLF`; `None` if it isn't whole. The space before an empty reason is left
/// out by many servers.
fn status_line(message: &[u8]) -> Result<Option<Line<'_>>, RejectReason> {
    let Some((version, rest)) = check::version(message)? else { return Ok(None) };
    let (Some(&[b' ', a, b, c]), Some(after)) = (rest.first_chunk(), rest.get(4..)) else {
        let digits = rest.strip_prefix(b" ").unwrap_or(rest);
        let so_far = digits.len() < rest.len() || rest.is_empty();
        return if so_far && digits.iter().all(u8::is_ascii_digit) { Ok(None) } else { Err(RejectReason::StatusLine) };
    };
    if ![a, b, c].iter().all(u8::is_ascii_digit) {
        return Err(RejectReason::StatusLine);
    }
    let status = [a, b, c].iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
    let (_, end) = match after {
        [b' ', reason @ ..] => lines::split_value(reason),
        _ => (&[][..], after),
    };
    match end {
        [b'\r', b'\n', section @ ..] if (100..=599).contains(&status) => Ok(Some(Line { version, status, section })),
        [] | [b'\r'] => Ok(None),
        [b'\n', ..] => Err(RejectReason::LineEnd),
        _ => Err(RejectReason::StatusLine),
    }
}

fn frame(head: &mut Head, asked: Asked) -> Result<(), RejectReason> {
    let status = head.status();
    let connection = check::connection(&head.fields, head.version());
    head.set_keep_alive(connection.keep_alive);
    if status == 101 {
        let named = head.fields.known(Known::Upgrade).is_some_and(check::is_upgradable);
        if asked != Asked::Upgrade || !connection.upgrade || !named {
            return Err(RejectReason::UnexpectedUpgrade);
        }
        head.allow_upgrade();
    }
    // RFC 9112 6.3, in its order.
    if asked == Asked::Connect && (200..300).contains(&status) {
        head.set_framing(Framing::None);
        return Ok(());
    }
    let announced = check::announced(&head.fields, head.version())?;
    if asked == Asked::Head || status_has_no_body(status) {
        let harmless =
            asked == Asked::Head || status == 304 || matches!(announced, Announced::Nothing | Announced::Length(0));
        if !harmless {
            return Err(RejectReason::BodyNotAllowed);
        }
        if let Announced::Length(length) = announced {
            head.set_declared_length(Some(length).filter(|_| status == 304 || status >= 200 && status != 204));
        }
        head.set_framing(Framing::None);
        return Ok(());
    }
    head.set_framing(match announced {
        Announced::Length(length) => Framing::Length(length),
        Announced::Chunked => Framing::Chunked,
        Announced::Nothing => Framing::UntilClose,
    });
    Ok(())
}
