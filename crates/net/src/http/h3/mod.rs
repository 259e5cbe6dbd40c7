// SPDX-License-Identifier: Apache-2.0
//! HTTP/3, the side of a server: one [`Flow`] per request, a [`Server`] per connection. `codec/h3` knows the protocol, quinn
//! moves the packets; here one is given to the other. Nothing is pushed, and no table of header lines is offered.

mod flow;
mod server;

pub use flow::Flow;
pub use server::Server;

use super::h2;
use byrnie_codec::h3::code;

/// Requests that a client may give up in a burst, whatever became of the work that it had begun with them; as many as by
/// HTTP/2.
const RESETS_MAX: u32 = 200;
/// How many of them each second gives back. An answer that came to its end gives back one.
const RESETS_PER_SECOND: u32 = 100;
/// Streams that a client may open, of kinds that aren't known.
const UNKNOWN_STREAMS_MAX: u32 = 1_000;
/// Bytes that are read at once of a stream that carries no request.
const UNI_READ_BYTES_MAX: usize = 4 * 1024;

/// The code of HTTP/3 that means what one of HTTP/2 does.
pub(super) const fn code_of(h2: u32) -> u64 {
    match h2 {
        h2::CANCEL => code::REQUEST_CANCELLED,
        h2::REFUSED_STREAM => code::REQUEST_REJECTED,
        _ => code::INTERNAL_ERROR,
    }
}
