// SPDX-License-Identifier: Apache-2.0
//! The head of a request, from bytes. Called by the server side of a connection with all bytes it
//! has of a message; uses none of them before the head is whole.

use super::check::{self, Announced};
use super::lines;
use crate::fields::is_token_byte;
use crate::head::{Framing, Head, Version};
use crate::known::Known;
use crate::reject::{Reject, RejectReason};
use crate::{Limits, Parsed, uri};

/// Parses the head of a request at the start of `buf` into `head`. A single CRLF before it is
/// skipped (RFC 9112 2.2). After `Partial`, call again with the same head and more bytes: `buf` may
/// only have grown. What `head` holds after an error is unspecified.
///
/// # Errors
/// If the bytes can't become a request that all servers read alike.
pub fn parse_request(buf: &[u8], limits: &Limits, head: &mut Head) -> Result<Parsed, Reject> {
    if check::is_still_partial(buf, limits, head) {
        return Ok(Parsed::Partial);
    }
    let parsed = parse(buf, limits, head);
    check::forget_unless_whole(&parsed, head);
    Ok(parsed?)
}

fn parse(buf: &[u8], limits: &Limits, head: &mut Head) -> Result<Parsed, RejectReason> {
    // Whoever asks again asks the same host, most often.
    let last = std::mem::take(head.authority_mut());
    head.begin_anew();
    let buf = &buf[..buf.len().min(limits.head_bytes_max)];
    let skipped = match buf {
        [b'\r', b'\n', b'\r' | b'\n', ..] | [b'\n', ..] => return Err(RejectReason::LeadingLine),
        [b'\r', b'\n', ..] => 2,
        [b'\r'] | [] => return check::partial(buf, limits, head),
        _ => 0,
    };
    let message = &buf[skipped..];
    let Some(line) = request_line(message)? else {
        let unended = message.len() > limits.request_line_bytes_max + 1;
        return if unended { Err(RejectReason::RequestLineTooLong) } else { check::partial(buf, limits, head) };
    };
    if line.len > limits.request_line_bytes_max {
        return Err(RejectReason::RequestLineTooLong);
    }
    head.set_version(line.version);
    let section = &message[line.len + 2..];
    let Parsed::Complete(used) = lines::take(section, limits, &mut head.fields)? else {
        return check::partial(buf, limits, head);
    };
    head.write_token(line.method)?;
    write_target(head, line.target, last)?;
    frame(head)?;
    Ok(Parsed::Complete(skipped + line.len + 2 + used))
}

/// A request line.
struct Line<'a> {
    method: &'a str,
    target: &'a [u8],
    version: Version,
    /// Without its end.
    len: usize,
}

/// Reads exactly `method SP target SP HTTP/1.x CRLF`; `None` if it isn't whole.
fn request_line(message: &[u8]) -> Result<Option<Line<'_>>, RejectReason> {
    let Some(space) = message.iter().position(|b| !is_token_byte(*b)) else { return Ok(None) };
    let (method, rest) = message.split_at(space);
    let Some(rest) = rest.strip_prefix(b" ").filter(|_| space > 0) else { return Err(RejectReason::RequestLine) };
    // Which of these bytes have a meaning, the target's form says.
    let (target, rest) = lines::split_visible(rest);
    let Some((b' ', rest)) = rest.split_first().filter(|_| !target.is_empty()) else {
        return if rest.is_empty() { Ok(None) } else { Err(RejectReason::RequestLine) };
    };
    let Some((version, rest)) = check::version(rest)? else { return Ok(None) };
    match rest {
        [b'\r', b'\n', ..] => {}
        [] | [b'\r'] => return Ok(None),
        _ => return Err(RejectReason::LineEnd),
    }
    let method = match method {
        b"GET" => "GET",
        b"POST" => "POST",
        // A token is ASCII.
        _ => std::str::from_utf8(method).map_err(|_| RejectReason::RequestLine)?,
    };
    Ok(Some(Line { method, target, version, len: message.len() - rest.len() }))
}

fn write_target(head: &mut Head, target: &[u8], last: String) -> Result<(), RejectReason> {
    let host = host_line(head, last)?;
    match (head.method(), target) {
        ("CONNECT", bytes) => {
            if bytes.iter().any(|b| matches!(b, b'/' | b'?' | b'#' | b'*')) {
                return Err(RejectReason::TargetForm);
            }
            absolute_authority(head, bytes, host)?;
            if head.port().is_none() { Err(RejectReason::TargetForm) } else { Ok(()) }
        }
        ("OPTIONS", b"*") | (_, [b'/', ..]) => {
            if let Host::Name(name) = host {
                *head.authority_mut() = name;
            }
            head.write_target(target)
        }
        (_, b"*") => Err(RejectReason::TargetForm),
        _ => {
            let target = std::str::from_utf8(target).map_err(|_| RejectReason::RequestLine)?;
            write_absolute(head, target, host)
        }
    }
}

/// `http://authority/path?query`.
fn write_absolute(head: &mut Head, target: &str, host: Host) -> Result<(), RejectReason> {
    let Some((scheme, rest)) = target.split_once("://") else {
        return Err(RejectReason::TargetForm);
    };
    head.write_scheme(scheme)?;
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    absolute_authority(head, authority.as_bytes(), host)?;
    match (head.method(), path.as_bytes()) {
        // The server as a whole (RFC 9112 3.2.4).
        ("OPTIONS", b"") => head.write_target(b"*"),
        (_, b"") => head.write_target(b"/"),
        (_, [b'?', ..]) => {
            // An empty path before a query is `/` (RFC 9110 4.2.3).
            let mut whole = String::with_capacity(path.len() + 1);
            whole.push('/');
            whole.push_str(path);
            head.write_target(whole.as_bytes())
        }
        (_, bytes) => head.write_target(bytes),
    }
}

/// The authority of the target wins over Host, which must agree. Clients leave the port out of one of
/// them if it is the scheme's own, and out of a CONNECT's Host whatever it is.
fn absolute_authority(head: &mut Head, authority: &[u8], host: Host) -> Result<(), RejectReason> {
    if authority.contains(&b'@') {
        return Err(RejectReason::Userinfo);
    }
    uri::authority(authority, head.authority_mut())?;
    let Host::Name(name) = host else { return Ok(()) };
    let default = if head.scheme() == "https" { 443 } else { 80 };
    let (target, target_port) = (head.host(), head.port().unwrap_or(default));
    let (host, port) = uri::split_port(&name);
    let implied = if head.method() == "CONNECT" { target_port } else { default };
    if host == target && port.unwrap_or(implied) == target_port { Ok(()) } else { Err(RejectReason::HostMismatch) }
}

enum Host {
    /// There is no Host line, as HTTP/1.0 allows.
    Absent,
    Name(String),
}

/// `name` is the authority of the request before, and its memory is used again: what is in canonical form stays.
fn host_line(head: &Head, mut name: String) -> Result<Host, RejectReason> {
    let mut lines = head.fields.typed(Known::Host);
    match (lines.next(), lines.next()) {
        (Some(value), None) if !name.is_empty() && value == name.as_bytes() => Ok(Host::Name(name)),
        (Some(value), None) => {
            name.clear();
            uri::authority(value, &mut name).map(|()| Host::Name(name))
        }
        (Some(_), Some(_)) => Err(RejectReason::HostRepeated),
        (None, _) if head.version() == Version::Http10 => Ok(Host::Absent),
        (None, _) => Err(RejectReason::HostMissing),
    }
}

fn frame(head: &mut Head) -> Result<(), RejectReason> {
    let announced = check::announced(&head.fields, head.version())?;
    let bodyless = matches!(head.method(), "CONNECT" | "TRACE");
    head.set_framing(match announced {
        Announced::Nothing => Framing::None,
        _ if bodyless => return Err(RejectReason::BodyNotAllowed),
        Announced::Length(length) => Framing::Length(length),
        Announced::Chunked => Framing::Chunked,
    });
    let connection = check::connection(&head.fields, head.version());
    head.set_keep_alive(connection.keep_alive);
    expect(head)?;
    // A body before the switch is legal and of no use; who asks for it gets no upgrade.
    let empty = matches!(head.framing(), Framing::None | Framing::Length(0));
    let asked = connection.upgrade && empty && head.fields.count(Known::Upgrade) == 1;
    if asked && head.fields.known(Known::Upgrade).is_some_and(check::is_upgradable) {
        head.allow_upgrade();
    }
    Ok(())
}

fn expect(head: &mut Head) -> Result<(), RejectReason> {
    if head.version() == Version::Http10 || head.fields.count(Known::Expect) == 0 {
        return Ok(());
    }
    let mut waits = false;
    for value in head.fields.values(Known::Expect.name()) {
        if !value.eq_ignore_ascii_case(b"100-continue") {
            return Err(RejectReason::Expect);
        }
        waits = true;
    }
    if waits && !matches!(head.framing(), Framing::None | Framing::Length(0)) {
        head.set_expects_continue();
    }
    Ok(())
}
