// SPDX-License-Identifier: Apache-2.0
//! HTTP/1.0 and HTTP/1.1 by RFC 9112, strictly: what two servers could read in two ways is refused,
//! each with its reason. The same parser serves both sides. Connections of `proxy` call
//! `parse_*` on what they have read, `emit_*` on what they send, and a [`Body`] for what follows.

mod body;
mod check;
mod emit;
mod lines;
mod request;
mod response;

pub(crate) use body::parse_trailers;
pub use body::{Body, Piece, chunk_end, chunk_start, last_chunk};
pub use emit::{CONTINUE, emit_request, emit_response, fit_downstream};
pub use request::parse_request;
pub use response::{Asked, parse_response};

pub(crate) use body::is_forbidden;
pub(crate) use check::{content_length, tokens};
pub(crate) use emit::{emit_request_unframed, emit_response_unframed};

#[cfg(test)]
mod tests;
