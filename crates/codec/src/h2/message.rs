// SPDX-License-Identifier: Apache-2.0
//! Between header blocks and the one `Head`. Strict: pseudo-headers obey RFC 9113 8.3, headers of one connection
//! never pass, `host` never contradicts `:authority`. A block is always read to its end, whatever is wrong
//! with its message, as the tables of the connection depend on it. Messages of HTTP/3 obey the same rules
//! (RFC 9114 4.2, 4.3), so `h3` reads its blocks here too.

use super::HEADER_LIST_BYTES_MAX;
use super::hpack::{Broken, Encoder, Line, Named, Place};
use crate::Limits;
use crate::fields::{Fields, is_token_byte};
use crate::h1::is_forbidden;
use crate::head::{Framing, Head, Version, status_has_no_body};
use crate::known::Known;
use crate::reject::{Reject, RejectReason};

/// What a line costs beside its text (RFC 9113 6.5.2).
const LINE_BYTES: usize = 32;
/// The longest decimal number of 64 bits.
const DIGITS_MAX: usize = 20;

/// What takes header blocks apart, by whichever compression.
pub(crate) trait Blocks {
    /// Reads a whole block and hands out its lines.
    ///
    /// # Errors
    /// If it can't be read, and so nothing after it.
    fn read(&mut self, block: &[u8], take: impl FnMut(Line<'_>)) -> Result<(), Broken>;
}

/// What is wrong with a message whose block was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// It is malformed (RFC 9113 8.1.1): an error of its stream.
    Malformed(Reject),
    /// It is a message, which is to be refused with this.
    Refused(Reject),
}

impl Flaw {
    /// As an answer's reader is told.
    pub(crate) const fn reject(self) -> Reject {
        match self {
            Self::Malformed(reject) | Self::Refused(reject) => reject,
        }
    }
}

pub(crate) fn malformed(reason: RejectReason) -> Flaw {
    Flaw::Malformed(reason.into())
}

impl From<Reject> for Flaw {
    fn from(reject: Reject) -> Self {
        Self::Refused(reject)
    }
}

impl From<RejectReason> for Flaw {
    fn from(reason: RejectReason) -> Self {
        Self::Refused(reason.into())
    }
}

/// What all readers count.
struct Tally {
    bytes: usize,
    /// Lines of Content-Length.
    lengths: u32,
    /// A header has come: no pseudo-header may follow.
    fields: bool,
    /// The pseudo-headers that came, a bit each.
    pseudo: u8,
    flaw: Option<Flaw>,
}

impl Tally {
    const fn new() -> Self {
        Self { bytes: 0, lengths: 0, fields: false, pseudo: 0, flaw: None }
    }

    /// Counts a line; false if no more are looked at.
    fn goes_on(&mut self, line: &Line<'_>) -> bool {
        self.bytes = self.bytes.saturating_add(line.name.len() + line.value.len() + LINE_BYTES);
        if self.bytes > HEADER_LIST_BYTES_MAX as usize {
            self.flaw = Some(RejectReason::HeadTooLarge.into());
        }
        self.flaw.is_none()
    }

    /// Notes a pseudo-header, which may come once and before all headers.
    fn note(&mut self, bit: u8) -> Result<(), Flaw> {
        if self.fields || self.pseudo & bit != 0 {
            return Err(malformed(RejectReason::RequestLine));
        }
        self.pseudo |= bit;
        Ok(())
    }

    const fn has(&self, bits: u8) -> bool {
        self.pseudo & bits == bits
    }
}

const METHOD: u8 = 1;
const SCHEME: u8 = 2;
const AUTHORITY: u8 = 4;
const PATH: u8 = 8;
const PROTOCOL: u8 = 16;
const STATUS: u8 = 32;

/// Reads the head of a request into `head`. `ended`: no body follows. An extended CONNECT (RFC 8441) becomes a GET
/// that asks for its protocol. `path` is memory to be used.
pub(crate) fn read_request(
    decoder: &mut impl Blocks,
    block: &[u8],
    ended: bool,
    head: &mut Head,
    path: &mut Vec<u8>,
) -> Result<Result<(), Flaw>, Broken> {
    head.clear();
    path.clear();
    let mut tally = Tally::new();
    decoder.read(block, |line| {
        if tally.goes_on(&line)
            && let Err(flaw) = request_line(&mut tally, head, path, &line)
        {
            tally.flaw = Some(flaw);
        }
    })?;
    Ok(finish_request(&mut tally, ended, head, path))
}

fn request_line(tally: &mut Tally, head: &mut Head, path: &mut Vec<u8>, line: &Line<'_>) -> Result<(), Flaw> {
    match line.named {
        Named::Field(known) => {
            if !std::mem::replace(&mut tally.fields, true) {
                target(tally, head, path)?;
            }
            return field(tally, head, known, line);
        }
        Named::Method => {
            tally.note(METHOD)?;
            if line.value.is_empty() || !line.value.iter().all(|byte| is_token_byte(*byte)) {
                return Err(malformed(RejectReason::Method));
            }
            head.write_method(text(line.value))?;
        }
        Named::Scheme => {
            tally.note(SCHEME)?;
            head.write_scheme(text(line.value))?;
        }
        Named::Authority => {
            tally.note(AUTHORITY)?;
            if !line.value.is_empty() {
                head.set_authority(std::str::from_utf8(line.value).map_err(|_| RejectReason::Host)?)?;
            }
        }
        Named::Path => {
            tally.note(PATH)?;
            path.extend_from_slice(line.value);
        }
        Named::Protocol => {
            tally.note(PROTOCOL)?;
            head.set_upgrade(Some(text(line.value))).map_err(|_| malformed(RejectReason::Protocol))?;
        }
        Named::Status | Named::Wrong => return Err(malformed(RejectReason::HeaderName)),
    }
    Ok(())
}

/// The text of what must be ASCII; what isn't becomes empty, which nothing allows.
fn text(value: &[u8]) -> &str {
    std::str::from_utf8(value).unwrap_or_default()
}

/// All pseudo-headers are there (RFC 9113 8.3.1, 8.5).
fn target(tally: &Tally, head: &mut Head, path: &[u8]) -> Result<(), Flaw> {
    let incomplete = Err(malformed(RejectReason::RequestLine));
    if !tally.has(METHOD) {
        return incomplete;
    }
    match (head.method() == "CONNECT", tally.has(PROTOCOL)) {
        (true, false) if !tally.has(AUTHORITY) || tally.pseudo & (SCHEME | PATH) != 0 => return incomplete,
        (true, false) => return Ok(()),
        (false, true) => return incomplete,
        _ if !tally.has(SCHEME | PATH) || path.is_empty() => return incomplete,
        // It stands for what HTTP/1 says with a GET (RFC 8441 5).
        (true, true) => head.write_method("GET")?,
        (false, false) => {}
    }
    Ok(head.write_target(path)?)
}

fn finish_request(tally: &mut Tally, ended: bool, head: &mut Head, path: &[u8]) -> Result<(), Flaw> {
    if let Some(flaw) = tally.flaw {
        return Err(flaw);
    }
    if !tally.fields {
        target(tally, head, path)?;
    }
    head.set_version(Version::Http2);
    if head.authority().is_empty() {
        // HTTP/1 can't be asked without one (RFC 9113 8.3.1), nor any policy.
        return Err(RejectReason::HostMissing.into());
    }
    match (tally.lengths, ended, head.framing()) {
        (0, true, _) => head.set_framing(Framing::None),
        (0, false, _) => head.set_framing(Framing::Stream),
        (_, true, Framing::Length(1..)) => return Err(malformed(RejectReason::ContentLength)),
        _ => {}
    }
    Ok(())
}

/// A header line.
fn field(tally: &mut Tally, head: &mut Head, known: Known, line: &Line<'_>) -> Result<(), Flaw> {
    check_field(known, line)?;
    match known {
        Known::Host => head.append_known(Known::Host, line.value)?,
        Known::ContentLength => {
            tally.lengths += 1;
            if tally.lengths > 1 {
                return Err(RejectReason::ContentLengthRepeated.into());
            }
            head.append_known(Known::ContentLength, line.value)?;
        }
        _ => head.fields.push(line.name, line.value.trim_ascii(), known)?,
    }
    Ok(())
}

/// Refuses what no HTTP/2 message may hold.
fn check_field(known: Known, line: &Line<'_>) -> Result<(), Flaw> {
    if !line.clean {
        return Err(malformed(RejectReason::HeaderValue));
    }
    let te = known == Known::Te && !line.value.eq_ignore_ascii_case(b"trailers");
    if te || is_of_one_connection(known) { Err(malformed(RejectReason::ConnectionSpecific)) } else { Ok(()) }
}

/// What may not stand in an HTTP/2 message (RFC 9113 8.2.2), whatever its value.
const fn is_of_one_connection(known: Known) -> bool {
    use Known::{Connection, Http2Settings, KeepAlive, ProxyConnection, TransferEncoding, Upgrade};
    matches!(known, Connection | KeepAlive | ProxyConnection | TransferEncoding | Upgrade | Http2Settings)
}

/// Reads the head of a response into `head`. `ended`: no body follows.
pub(super) fn read_response(
    decoder: &mut impl Blocks,
    block: &[u8],
    ended: bool,
    head: &mut Head,
) -> Result<Result<(), Flaw>, Broken> {
    head.start_response(0);
    let mut tally = Tally::new();
    decoder.read(block, |line| {
        if tally.goes_on(&line)
            && let Err(flaw) = response_line(&mut tally, head, &line)
        {
            tally.flaw = Some(flaw);
        }
    })?;
    let read = match tally.flaw {
        Some(flaw) => Err(flaw),
        None if !tally.has(STATUS) => Err(malformed(RejectReason::StatusLine)),
        None => {
            finish_response(&tally, ended, head);
            head.check_lines(Limits::HEADERS_CEILING).map_err(Flaw::from)
        }
    };
    Ok(read.map_err(|flaw| match flaw {
        Flaw::Malformed(reject) => Flaw::Malformed(reject.upstream()),
        Flaw::Refused(reject) => Flaw::Refused(reject.upstream()),
    }))
}

fn response_line(tally: &mut Tally, head: &mut Head, line: &Line<'_>) -> Result<(), Flaw> {
    match line.named {
        Named::Field(known) => {
            tally.fields = true;
            field(tally, head, known, line)
        }
        Named::Status => {
            tally.note(STATUS)?;
            head.start_response(status(line.value)?);
            Ok(())
        }
        // Of a request (RFC 9113 8.3).
        _ => Err(malformed(RejectReason::HeaderName)),
    }
}

fn status(value: &[u8]) -> Result<u16, Flaw> {
    match value {
        // HTTP/2 has no such switch (RFC 9113 8.6).
        b"101" => Err(malformed(RejectReason::UnexpectedUpgrade)),
        [a @ b'1'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9'] => {
            Ok([a, b, c].into_iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0')))
        }
        _ => Err(malformed(RejectReason::StatusLine)),
    }
}

fn finish_response(tally: &Tally, ended: bool, head: &mut Head) {
    head.set_version(Version::Http2);
    if !ended && !status_has_no_body(head.status()) {
        if tally.lengths == 0 {
            head.set_framing(Framing::Stream);
        }
        return;
    }
    if let (1.., Framing::Length(length)) = (tally.lengths, head.framing()) {
        head.set_declared_length(Some(length));
    }
    let declared = head.declared_length().is_some_and(|length| length > 0);
    // An empty body is said as such to HTTP/1; an answer to HEAD keeps the length it announces.
    head.set_framing(if status_has_no_body(head.status()) || declared { Framing::None } else { Framing::Length(0) });
}

/// Reads trailers into `fields`, which are empty; `asked`: of a request. What may not stand there, or is more than HTTP/1 takes,
/// refuses a request, as there; an answer, which a program has made and its caller waits for, goes without the one and may have the
/// other. Pseudo-headers may stand in neither (RFC 9113 8.1).
pub(crate) fn read_trailers(
    decoder: &mut impl Blocks,
    block: &[u8],
    asked: bool,
    fields: &mut Fields,
) -> Result<Result<(), Flaw>, Broken> {
    let mut tally = Tally::new();
    decoder.read(block, |line| {
        if !tally.goes_on(&line) {
            return;
        }
        let read = match line.named {
            Named::Field(known) => check_field(known, &line).and_then(|()| match is_forbidden(known, line.name) {
                true if asked => Err(malformed(RejectReason::TrailerForbidden)),
                true => Ok(()),
                false => Ok(fields.push(line.name, line.value.trim_ascii(), known)?),
            }),
            _ => Err(malformed(RejectReason::HeaderName)),
        };
        tally.flaw = read.err();
    })?;
    Ok(match tally.flaw {
        Some(flaw) => Err(flaw),
        None if asked => fields.check_trailers(&Limits::default()).map_err(Flaw::from),
        None => Ok(()),
    })
}

/// Writes the head of a request. `connect`: as the extended CONNECT that its handshake stands for, without
/// the header `but` (RFC 8441 5).
pub(super) fn write_request(encoder: &mut Encoder, head: &Head, connect: Option<(&str, &str)>, out: &mut Vec<u8>) {
    encoder.begin(out);
    match (head.method(), connect) {
        (_, Some(_)) => Encoder::once(2, b"CONNECT", out),
        ("GET", None) => Encoder::indexed(2, out),
        ("POST", None) => Encoder::indexed(3, out),
        (method, None) => Encoder::once(2, method.as_bytes(), out),
    }
    if connect.is_some() || head.method() != "CONNECT" {
        Encoder::indexed(if head.scheme() == "https" { 7 } else { 6 }, out);
        match head.path_and_query() {
            "/" => Encoder::indexed(4, out),
            path => encoder.pseudo(Place::Path, path.as_bytes(), out),
        }
    }
    encoder.pseudo(Place::Authority, head.authority().as_bytes(), out);
    if let Some((protocol, _)) = connect {
        Encoder::plain(b":protocol", protocol.as_bytes(), out);
    }
    write_fields(encoder, head, connect.map(|(_, but)| but), out);
}

/// Writes the head of a response with `status`, without the header `but`.
pub(super) fn write_response(encoder: &mut Encoder, head: &Head, status: u16, but: Option<&str>, out: &mut Vec<u8>) {
    encoder.begin(out);
    match status {
        200 => Encoder::indexed(8, out),
        204 => Encoder::indexed(9, out),
        404 => Encoder::indexed(13, out),
        _ => {
            let digits = [status / 100, status / 10 % 10, status % 10].map(|digit| b'0' + digit as u8);
            encoder.pseudo(Place::Status, &digits, out);
        }
    }
    write_fields(encoder, head, but, out);
}

fn write_fields(encoder: &mut Encoder, head: &Head, but: Option<&str>, out: &mut Vec<u8>) {
    each_field(head, but, |known, name, value| encoder.field(known, name, value, out));
}

/// Hands out the header lines that go with a head, but not the one called `but`.
pub(crate) fn each_field(head: &Head, but: Option<&str>, mut take: impl FnMut(Known, &[u8], &[u8])) {
    for (known, name, value) in head.fields.entries() {
        let te = known == Known::Te && value != b"trailers";
        let left_out =
            te || is_of_one_connection(known) || but.is_some_and(|but| but.as_bytes().eq_ignore_ascii_case(name));
        if !left_out {
            take(known, name, value);
        }
    }
    let length = match head.framing() {
        // Of an answer of gRPC that is nothing but trailers the specification knows no length.
        Framing::Length(0) if !head.is_request() && head.header(Known::GrpcStatus).is_some() => None,
        Framing::Length(length) if !status_has_no_body(head.status()) => Some(length),
        Framing::None => head.declared_length(),
        _ => None,
    };
    if let Some(length) = length {
        let mut digits = [0; DIGITS_MAX];
        take(Known::ContentLength, b"", decimal(length, &mut digits));
    }
}

/// A number's decimal digits.
fn decimal(mut number: u64, digits: &mut [u8; DIGITS_MAX]) -> &[u8] {
    let mut at = DIGITS_MAX;
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 || at == 0 {
            return &digits[at..];
        }
    }
}

/// Writes trailers.
pub(super) fn write_trailers(encoder: &mut Encoder, fields: &Fields, out: &mut Vec<u8>) {
    encoder.begin(out);
    each_trailer(fields, |known, name, value| encoder.field(known, name, value, out));
}

/// Hands out the lines that may stand in trailers.
pub(crate) fn each_trailer(fields: &Fields, mut take: impl FnMut(Known, &[u8], &[u8])) {
    let fit = fields.entries().filter(|(known, ..)| !is_of_one_connection(*known) && *known != Known::Te);
    fit.for_each(|(known, name, value)| take(known, name, value));
}
