// SPDX-License-Identifier: Apache-2.0
//! The head of a response, from bytes. Called by the client side of a connection. What a response
//! means depends on what was asked, so the caller says that.

use super::check::{self, Announced};
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
    parse(buf, limits, asked, head).map_err(|reason| Reject::from(reason).upstream())
}

fn parse(buf: &[u8], limits: &Limits, asked: Asked, head: &mut Head) -> Result<Parsed, RejectReason> {
    head.clear();
    let buf = &buf[..buf.len().min(limits.head_bytes_max)];
    if matches!(buf, [b'\r' | b'\n', ..]) {
        return Err(RejectReason::LeadingLine);
    }
    let mut table = check::table();
    let rows = limits.headers_max.min(Limits::HEADERS_CEILING);
    let mut response = httparse::Response::new(&mut []);
    let status = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut response, buf, &mut table[..rows])
        .map_err(|e| check::reason(e, RejectReason::StatusLine))?;
    let httparse::Status::Complete(used) = status else {
        return check::partial(buf, limits, head);
    };
    let (Some(code @ 100..=599), Some(minor)) = (response.code, response.version) else {
        return Err(RejectReason::StatusLine);
    };
    let line = status_line(buf)?;
    head.set_version(if minor == 0 { Version::Http10 } else { Version::Http11 });
    head.set_status(code);
    check::take_lines(&buf[line + 2..used], response.headers, limits, &mut head.fields)?;
    frame(head, asked)?;
    Ok(Parsed::Complete(used))
}

/// Length of the status line, if it is `HTTP/1.x SP 3DIGIT [SP reason] CRLF`. The space before an
/// empty reason is left out by many servers.
fn status_line(message: &[u8]) -> Result<usize, RejectReason> {
    const CODE_END: usize = "HTTP/1.x 200".len();
    let shaped = message.starts_with(b"HTTP/1.") && message.get(8) == Some(&b' ');
    if !shaped || !matches!(message.get(CODE_END), Some(b' ' | b'\r')) {
        return Err(RejectReason::StatusLine);
    }
    match message.iter().position(|&b| b == b'\n') {
        Some(end) if message[end - 1] == b'\r' && !message[..end - 1].contains(&b'\r') => Ok(end - 1),
        _ => Err(RejectReason::LineEnd),
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
