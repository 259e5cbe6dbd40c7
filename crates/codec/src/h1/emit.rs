// SPDX-License-Identifier: Apache-2.0
//! Heads to HTTP/1.1 bytes. What frames and routes the message is written from the head's typed
//! state alone; other lines are copied in runs. Called by whoever sends, on a buffer it reuses.

use crate::head::{Framing, Head, Version, status_has_no_body};
use crate::known::Known;

/// The interim answer that lets a waiting client send its body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Appends the head of a request in origin form (authority form for CONNECT).
pub fn emit_request(head: &Head, out: &mut Vec<u8>) {
    emit_request_unframed(head, out);
    // In place of the empty line.
    out.truncate(out.len() - 2);
    match head.framing() {
        Framing::None | Framing::Length(_) => {}
        // A request can't end with its connection: the answer could not be sent.
        Framing::Chunked | Framing::Stream | Framing::UntilClose => out.extend_from_slice(CHUNKED),
    }
    if head.upgrade().is_none() && !head.keep_alive() {
        out.extend_from_slice(b"connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// As [`emit_request`], but for a body whose end is found otherwise than by chunks, on a connection
/// whose persistence is said otherwise too.
pub(crate) fn emit_request_unframed(head: &Head, out: &mut Vec<u8>) {
    out.reserve(head.fields.bytes_len() + head.authority().len() + head.path_and_query().len() + 128);
    out.extend_from_slice(head.method().as_bytes());
    out.push(b' ');
    let target = if head.method() == "CONNECT" { head.authority() } else { head.path_and_query() };
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    out.extend_from_slice(head.authority().as_bytes());
    out.extend_from_slice(b"\r\n");
    lines(head, out);
    if let Framing::Length(length) = head.framing() {
        write_length(length, out);
    }
    if head.upgrade().is_some() || head.wants_upgrade() {
        out.extend_from_slice(b"connection: upgrade\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the head of a response. Its version is that of the client; call [`fit_downstream`] first
/// if it came from a server.
pub fn emit_response(head: &Head, out: &mut Vec<u8>) {
    emit_response_unframed(head, out);
    // In place of the empty line.
    out.truncate(out.len() - 2);
    if matches!(head.framing(), Framing::Chunked | Framing::Stream) {
        out.extend_from_slice(CHUNKED);
    }
    match (head.upgrade(), head.keep_alive(), head.version()) {
        (Some(_), ..) | (None, true, Version::Http11 | Version::Http2 | Version::Http3) => {}
        (None, true, Version::Http10) => out.extend_from_slice(b"connection: keep-alive\r\n"),
        (None, false, _) => out.extend_from_slice(b"connection: close\r\n"),
    }
    out.extend_from_slice(b"\r\n");
}

/// As [`emit_response`], but as [`emit_request_unframed`].
pub(crate) fn emit_response_unframed(head: &Head, out: &mut Vec<u8>) {
    out.reserve(head.fields.bytes_len() + 128);
    out.extend_from_slice(b"HTTP/1.1 ");
    write_status(head.status(), out);
    lines(head, out);
    match head.framing() {
        Framing::None => {
            let length = head.declared_length().filter(|_| !matches!(head.status(), 100..=199 | 204));
            if let Some(length) = length {
                write_length(length, out);
            }
        }
        Framing::Length(length) if length > 0 || !status_has_no_body(head.status()) => write_length(length, out),
        Framing::Length(_) | Framing::UntilClose | Framing::Chunked | Framing::Stream => {}
    }
    if head.upgrade().is_some() || head.wants_upgrade() {
        out.extend_from_slice(b"connection: upgrade\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Makes a response fit to be written to an HTTP/1 client of `version`: an HTTP/1.0 client knows no
/// chunks, so that a body of unknown length ends with the connection. `keep_alive` is what the
/// client's connection allows.
pub fn fit_downstream(response: &mut Head, version: Version, keep_alive: bool) {
    response.set_version(version);
    response.set_keep_alive(keep_alive);
    response.set_framing(match (response.framing(), version) {
        (Framing::Chunked | Framing::Stream | Framing::UntilClose, Version::Http10) => Framing::UntilClose,
        (Framing::Stream | Framing::UntilClose, _) => Framing::Chunked,
        (framing, _) => framing,
    });
}

const CHUNKED: &[u8] = b"transfer-encoding: chunked\r\n";

/// The lines but those that belong to another connection. HTTP/2 splits a cookie header into
/// crumbs, HTTP/1 wants them as one line (RFC 9113 8.2.3).
fn lines(head: &Head, out: &mut Vec<u8>) {
    let upgrades = head.upgrade().is_some() || head.wants_upgrade();
    let crumbs = head.is_request() && head.fields.count(Known::Cookie) > 1;
    head.fields.emit(out, |known| match known {
        Known::Te | Known::Http2Settings => true,
        Known::Upgrade => !upgrades,
        Known::Cookie => crumbs,
        _ => false,
    });
    if !crumbs {
        return;
    }
    let mut between: &[u8] = b"cookie: ";
    for crumb in head.fields.values(Known::Cookie.name()) {
        out.extend_from_slice(between);
        out.extend_from_slice(crumb);
        between = b"; ";
    }
    out.extend_from_slice(b"\r\n");
}

fn write_length(length: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"content-length: ");
    write_decimal(length, out);
    out.extend_from_slice(b"\r\n");
}

/// Appends a number in decimal.
pub(crate) fn write_decimal(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// `200 OK CRLF`.
fn write_status(status: u16, out: &mut Vec<u8>) {
    if status == 200 {
        return out.extend_from_slice(b"200 OK\r\n");
    }
    write_decimal(u64::from(status), out);
    out.push(b' ');
    out.extend_from_slice(phrase(status).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The customary reason phrase of a status (RFC 9110 15); empty for others. What a server sent as its
/// own phrase isn't passed on.
const fn phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}
