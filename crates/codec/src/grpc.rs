// SPDX-License-Identifier: Apache-2.0
//! What a proxy must know of gRPC over HTTP/2: time-outs, status codes, answers made without the
//! server, and the frame of a message. The engine and the proxy call it; it looks into no message but those of gRPC's own services
//! that it speaks itself: health and load.

pub mod health;
pub mod load;

mod details;

pub use details::Details;

use std::time::Duration;

use crate::fields::Fields;
use crate::head::{Framing, Head, Version};
use crate::known::Known;
use crate::reject::{Reject, RejectReason};

/// A gRPC status code (grpc.github.io/grpc/core/md_doc_statuscodes.html).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Status {
    /// Success.
    Ok = 0,
    /// The caller cancelled.
    Cancelled = 1,
    /// Of unknown cause.
    Unknown = 2,
    /// The arguments are wrong whatever the state.
    InvalidArgument = 3,
    /// The deadline passed.
    DeadlineExceeded = 4,
    /// The thing asked for isn't there.
    NotFound = 5,
    /// The thing to be made is there already.
    AlreadyExists = 6,
    /// The caller may not do this.
    PermissionDenied = 7,
    /// A quota or limit is used up.
    ResourceExhausted = 8,
    /// The state doesn't allow it.
    FailedPrecondition = 9,
    /// Aborted, as by a conflict.
    Aborted = 10,
    /// Beyond the valid range.
    OutOfRange = 11,
    /// No such method here.
    Unimplemented = 12,
    /// An invariant is broken.
    Internal = 13,
    /// Not available now; a retry may help.
    Unavailable = 14,
    /// Data is lost.
    DataLoss = 15,
    /// The caller has not said who it is.
    Unauthenticated = 16,
}

impl Status {
    /// The code of a number; others are `None`.
    pub const fn of(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::Ok,
            1 => Self::Cancelled,
            2 => Self::Unknown,
            3 => Self::InvalidArgument,
            4 => Self::DeadlineExceeded,
            5 => Self::NotFound,
            6 => Self::AlreadyExists,
            7 => Self::PermissionDenied,
            8 => Self::ResourceExhausted,
            9 => Self::FailedPrecondition,
            10 => Self::Aborted,
            11 => Self::OutOfRange,
            12 => Self::Unimplemented,
            13 => Self::Internal,
            14 => Self::Unavailable,
            15 => Self::DataLoss,
            16 => Self::Unauthenticated,
            _ => return None,
        })
    }

    /// The code of a `grpc-status` value; what isn't a known code is [`Status::Unknown`].
    pub fn parse(value: &[u8]) -> Self {
        match value {
            [d @ b'0'..=b'9'] => Self::of(u32::from(d - b'0')).unwrap_or(Self::Unknown),
            [b'1', d @ b'0'..=b'6'] => Self::of(10 + u32::from(d - b'0')).unwrap_or(Self::Unknown),
            _ => Self::Unknown,
        }
    }

    /// The code that stands for an HTTP status where a gRPC answer was expected
    /// (grpc.github.io/grpc/core/md_doc_http-grpc-status-mapping.html).
    pub const fn of_http(status: u16) -> Self {
        match status {
            400 => Self::Internal,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::Unimplemented,
            429 | 502 | 503 | 504 => Self::Unavailable,
            _ => Self::Unknown,
        }
    }

    /// The HTTP status that means the same (the mapping in google/rpc/code.proto).
    pub const fn http(self) -> u16 {
        match self {
            Self::Ok => 200,
            Self::InvalidArgument | Self::FailedPrecondition | Self::OutOfRange => 400,
            Self::Unauthenticated => 401,
            Self::PermissionDenied => 403,
            Self::NotFound => 404,
            Self::AlreadyExists | Self::Aborted => 409,
            Self::ResourceExhausted => 429,
            Self::Cancelled => 499,
            Self::Unknown | Self::Internal | Self::DataLoss => 500,
            Self::Unimplemented => 501,
            Self::Unavailable => 503,
            Self::DeadlineExceeded => 504,
        }
    }

    /// The number, as `grpc-status` carries it.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The name in capitals, as it is written in the documentation.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Cancelled => "CANCELLED",
            Self::Unknown => "UNKNOWN",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::Aborted => "ABORTED",
            Self::OutOfRange => "OUT_OF_RANGE",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Internal => "INTERNAL",
            Self::Unavailable => "UNAVAILABLE",
            Self::DataLoss => "DATA_LOSS",
            Self::Unauthenticated => "UNAUTHENTICATED",
        }
    }
}

/// True if a request or response is gRPC: its content type is `application/grpc`, alone or with a
/// `+` or `;` suffix. gRPC-Web is another protocol.
pub fn is_grpc(head: &Head) -> bool {
    const TYPE: &[u8] = b"application/grpc";
    let Some(value) = head.header(Known::ContentType) else { return false };
    let Some((start, rest)) = value.split_at_checked(TYPE.len()) else { return false };
    start.eq_ignore_ascii_case(TYPE) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// The time of a `grpc-timeout`: one to eight digits and a unit (H, M, S, m, u or n). All values fit:
/// the longest is 99,999,999 hours.
pub fn parse_timeout(value: &[u8]) -> Option<Duration> {
    let (&unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let n = digits.iter().fold(0u64, |n, b| n * 10 + u64::from(b - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(n * 3600),
        b'M' => Duration::from_secs(n * 60),
        b'S' => Duration::from_secs(n),
        b'm' => Duration::from_millis(n),
        b'u' => Duration::from_micros(n),
        b'n' => Duration::from_nanos(n),
        _ => return None,
    })
}

/// Writes a time as a `grpc-timeout`: in the finest unit that has room for it, rounded down, so that
/// the next hop never has more time than is left; at most 99,999,999 hours.
pub fn format_timeout(left: Duration) -> String {
    const MAX: u128 = 99_999_999;
    const UNITS: [(u128, char); 6] = [
        (1, 'n'),
        (1_000, 'u'),
        (1_000_000, 'm'),
        (1_000_000_000, 'S'),
        (60_000_000_000, 'M'),
        (3_600_000_000_000, 'H'),
    ];
    let nanos = left.as_nanos();
    let fitting = UNITS.iter().find(|(size, _)| nanos / size <= MAX);
    match fitting {
        Some((size, unit)) => format!("{}{unit}", nanos / size),
        None => format!("{MAX}H"),
    }
}

/// Makes `head` a whole gRPC answer without messages ("Trailers-Only"): HTTP status 200, the status
/// code, the message and its details in the head, and no body.
///
/// # Errors
/// None in practice; the head's limits are far away.
pub fn trailers_only(head: &mut Head, status: Status, message: &str, info: &Details<'_>) -> Result<(), Reject> {
    head.start_response(200);
    head.set_version(Version::Http2);
    head.set_framing(Framing::None);
    head.append(Known::ContentType.name(), b"application/grpc")?;
    for (name, value) in said(status, message, info) {
        head.append(name, value.as_bytes())?;
    }
    Ok(())
}

/// The same as the trailers of an answer that has begun.
///
/// # Errors
/// None in practice, as there.
pub fn trailers(status: Status, message: &str, info: &Details<'_>) -> Result<Fields, RejectReason> {
    let mut fields = Fields::new();
    for (name, value) in said(status, message, info) {
        fields.append(name, value.as_bytes())?;
    }
    Ok(fields)
}

/// The lines that tell how a call ended.
fn said(status: Status, message: &str, info: &Details<'_>) -> impl Iterator<Item = (&'static str, String)> {
    let message_line = (!message.is_empty()).then(|| (Known::GrpcMessage.name(), encode_message(message)));
    let details = (details::HEADER, info.encode(status, cut(message)));
    [(Known::GrpcStatus.name(), status.code().to_string())].into_iter().chain(message_line).chain([details])
}

/// Longest message that is put into `grpc-message` and the details, in bytes before encoding; it is cut there.
const MESSAGE_BYTES_MAX: usize = 1024;

/// A text as `grpc-message` carries it: printable ASCII but `%`, all else percent-encoded.
pub fn encode_message(message: &str) -> String {
    use std::fmt::Write;
    let message = cut(message);
    let mut out = String::with_capacity(message.len());
    for b in message.bytes() {
        match b {
            b' '..=b'~' if b != b'%' => out.push(b as char),
            // Writing to a String can't fail.
            _ => drop(write!(out, "%{b:02X}")),
        }
    }
    out
}

fn cut(message: &str) -> &str {
    &message[..message.floor_char_boundary(MESSAGE_BYTES_MAX)]
}

/// The text of a `grpc-message`. What is no percent-encoding of UTF-8 is shown as well as it can be.
pub fn decode_message(value: &[u8]) -> String {
    let digit = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16)).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match (first, digit(after.first()), digit(after.get(1))) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(high << 4 | low);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => bytes.push(*first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Why a body isn't one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOne {
    /// It ends early, holds more than one message, or is no frame at all.
    Malformed,
    /// The message is compressed, which was not agreed on.
    Compressed,
    /// The message is longer than the limit.
    TooLong,
}

/// The message of a unary call, whose whole body is `bytes`.
///
/// # Errors
/// If it isn't exactly one message, uncompressed, of at most `max` bytes.
pub fn only_message(bytes: &[u8], max: u32) -> Result<&[u8], NotOne> {
    let header = FrameHeader::parse(bytes, u32::MAX).ok().flatten().ok_or(NotOne::Malformed)?;
    if header.length > max {
        return Err(NotOne::TooLong);
    }
    let message = bytes.get(FRAME_HEADER_BYTES..).unwrap_or_default();
    if u64::from(header.length) != message.len() as u64 {
        return Err(NotOne::Malformed);
    }
    if header.compressed { Err(NotOne::Compressed) } else { Ok(message) }
}

/// A message with the header before it; one longer than the header can tell is cut.
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut bytes = FrameHeader { compressed: false, length }.bytes().to_vec();
    bytes.extend_from_slice(&message[..message.len().min(length as usize)]);
    bytes
}

/// Bytes of the header before each message.
pub const FRAME_HEADER_BYTES: usize = 5;

/// The header before a message: one byte that says whether it is compressed, four that tell its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// True if the message is compressed with `grpc-encoding`.
    pub compressed: bool,
    /// Bytes of the message.
    pub length: u32,
}

impl FrameHeader {
    /// Reads the header at the start of `bytes`; `None` if it isn't there as a whole.
    ///
    /// # Errors
    /// If the first byte is neither 0 nor 1, or the message is longer than `max` bytes.
    pub fn parse(bytes: &[u8], max: u32) -> Result<Option<Self>, Reject> {
        let Some(&[flag, a, b, c, d]) = bytes.first_chunk::<FRAME_HEADER_BYTES>() else {
            return if bytes.first().is_some_and(|flag| *flag > 1) {
                Err(RejectReason::GrpcFrame.into())
            } else {
                Ok(None)
            };
        };
        let length = u32::from_be_bytes([a, b, c, d]);
        if flag > 1 || length > max {
            return Err(RejectReason::GrpcFrame.into());
        }
        Ok(Some(Self { compressed: flag == 1, length }))
    }

    /// The header as bytes.
    pub const fn bytes(self) -> [u8; FRAME_HEADER_BYTES] {
        let [a, b, c, d] = self.length.to_be_bytes();
        [self.compressed as u8, a, b, c, d]
    }
}

#[cfg(test)]
mod tests;
