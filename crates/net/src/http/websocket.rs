// SPDX-License-Identifier: Apache-2.0
//! The two headers by which a WebSocket's opening handshake is proven in HTTP/1 (RFC 6455 4) and which an
//! extended CONNECT does without (RFC 8441 5): made where a handshake passes from HTTP/2 to HTTP/1, checked
//! and dropped where its answer passes back. Called by `h2`.

use crate::tls::secret;
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use byrnie_codec::Head;
use data_encoding::BASE64;

/// What a handshake asks for.
pub(super) const PROTOCOL: &str = "websocket";
/// The header in which the client proves nothing but that it means it.
pub(super) const KEY: &str = "sec-websocket-key";
/// The header in which the server proves that it has read it.
pub(super) const ACCEPT: &str = "sec-websocket-accept";
/// Between two proxies of the mesh: in a handshake, that the caller's proxy can be told if the program overlooks it, as any server may
/// (RFC 9110 7.8); in a success, that this is one such, and no consent. Who doesn't know it is told 502.
pub const OVERLOOKED: &str = "x-byrnie-overlooked";
/// RFC 6455 1.3.
const MAGIC: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Bytes of a key before they are encoded (RFC 6455 4.1).
const KEY_BYTES: usize = 16;

/// Whether `request` is a whole handshake: only that may be said by an extended CONNECT, as a server may overlook
/// any other wish for a protocol and answer as if it weren't there.
pub(super) fn is_handshake(request: &Head) -> bool {
    let meant = request.upgrade().is_some_and(|protocol| protocol.eq_ignore_ascii_case(PROTOCOL.as_bytes()));
    meant && request.method() == "GET" && request.get(KEY).is_some()
}

/// A fresh key; `None` if the system has no random numbers.
pub(super) fn key() -> Option<String> {
    let random = secret::random().ok()?;
    Some(BASE64.encode(&random[..KEY_BYTES]))
}

/// What a server answers that has read `key`.
pub(super) fn accept(key: &[u8]) -> String {
    BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, MAGIC].concat()).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc_is_answered_as_it_says() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn no_two_keys_are_alike() {
        let (one, other) = (key().unwrap(), key().unwrap());
        assert_eq!((one.len(), one != other), (24, true));
    }
}
