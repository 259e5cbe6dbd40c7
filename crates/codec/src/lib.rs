// SPDX-License-Identifier: Apache-2.0
//! Bytes to messages and back. The one [`Head`] type that every HTTP version meets at, HTTP/1
//! framing by RFC 9112, the canonical form of paths and hosts, PROXY protocol, sniffing, gRPC, gzip,
//! datagrams on a stream.
//! The engine reads and edits a `Head`; `net` and `proxy` move its bytes. Nothing here does IO,
//! knows a route, or panics on untrusted bytes.

#![forbid(unsafe_code)]

pub mod capsule;
pub mod exposition;
pub mod grpc;
pub mod gzip;
pub mod h1;
pub mod h2;
pub mod h3;
pub mod headers;
pub mod hop;
pub mod idempotency;
pub mod otlp;
pub mod proxy_protocol;
pub mod sniff;
pub mod trace;
pub mod uri;

mod base64;
mod fields;
mod head;
mod known;
mod protobuf;
mod ready;
mod reject;

pub use fields::Fields;
pub use head::{Framing, Head, Version};
pub use known::Known;
pub use ready::{ReadyLine, ReadyName};
pub use reject::{Reject, RejectReason};

/// How much of a message is accepted before it is refused. A limit counts bytes as received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a whole head, from the first byte to the empty line. Default 64 KiB.
    pub head_bytes_max: usize,
    /// Header lines of a head; at most [`Limits::HEADERS_CEILING`]. Default 100.
    pub headers_max: usize,
    /// Bytes of a request line without its CRLF. Default 16 KiB.
    pub request_line_bytes_max: usize,
    /// Bytes of one header name. Default 256.
    pub name_bytes_max: usize,
    /// Bytes of chunk extensions in one chunk's line. Default 256.
    pub chunk_extension_bytes_max: usize,
    /// Bytes of chunk extensions over a whole body, as an extension costs work and carries nothing. Default 16 KiB.
    pub body_extension_bytes_max: usize,
    /// Bytes of a trailer section. Default 8 KiB.
    pub trailer_bytes_max: usize,
    /// Trailer lines. Default 32.
    pub trailers_max: usize,
}

impl Limits {
    /// The most header lines that any setting can allow.
    pub const HEADERS_CEILING: usize = 256;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes_max: 64 * 1024,
            headers_max: 100,
            request_line_bytes_max: 16 * 1024,
            name_bytes_max: 256,
            chunk_extension_bytes_max: 256,
            body_extension_bytes_max: 16 * 1024,
            trailer_bytes_max: 8 * 1024,
            trailers_max: 32,
        }
    }
}

/// What a parser made of the bytes it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Nothing wrong so far, but more bytes are needed. None was used.
    Partial,
    /// The message is whole; so many bytes were used.
    Complete(usize),
}
