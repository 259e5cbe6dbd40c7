// SPDX-License-Identifier: Apache-2.0
//! What a gRPC status says beside its code and its message: a `google.rpc.Status` (google/rpc/status.proto) with one
//! `ErrorInfo` (google/rpc/error_details.proto), which clients of every language can read and tell cases apart by.

use super::Status;
use crate::protobuf::Writer;

/// The header, or trailer, in which it stands, in base64 as every one of gRPC that ends so.
pub(super) const HEADER: &str = "grpc-status-details-bin";
const TYPE_URL: &str = "type.googleapis.com/google.rpc.ErrorInfo";

/// Why a call failed, for programs.
#[derive(Clone, Copy, Debug)]
pub struct Details<'a> {
    /// The cause: one of a fixed list of the domain's.
    pub reason: &'a str,
    /// Whose list that is.
    pub domain: &'a str,
    /// What else is known, by name. What is empty is left out.
    pub metadata: &'a [(&'a str, &'a str)],
}

impl Details<'_> {
    /// The value of the header that tells this of a status.
    pub(super) fn encode(&self, status: Status, message: &str) -> String {
        let mut out = Writer::default();
        out.number(1, status.code().into());
        out.text(2, message);
        out.message(3, |any| {
            any.text(1, TYPE_URL);
            any.message(2, |info| {
                info.text(1, self.reason);
                info.text(2, self.domain);
                for (name, value) in self.metadata.iter().filter(|(_, value)| !value.is_empty()) {
                    info.message(3, |entry| {
                        entry.text(1, name);
                        entry.text(2, value);
                    });
                }
            });
        });
        base64(&out.into_bytes())
    }
}

/// By RFC 4648 4, without padding, as gRPC asks whoever writes it to.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().enumerate().fold(0, |bits, (at, byte)| bits | u32::from(*byte) << (16 - 8 * at));
        // Three bytes are four characters, two are three, one is two.
        out.extend((0..=chunk.len()).map(|at| char::from(ALPHABET[(bits >> (18 - 6 * at) & 63) as usize])));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_as_the_rfc_has_them() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg"),
            ("fooba", "Zm9vYmE"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xbe]), "+/++");
    }

    /// As `googleapis-common-protos` of Python writes it.
    #[test]
    fn details_are_as_other_libraries_write_them() {
        let info =
            Details { reason: "BYR-A001", domain: "mesh.byrnie.dev", metadata: &[("decision", "abc"), ("where", "")] };
        assert_eq!(
            info.encode(Status::PermissionDenied, "no"),
            "CAcSAm5vGlgKKHR5cGUuZ29vZ2xlYXBpcy5jb20vZ29vZ2xlLnJwYy5FcnJvckluZm8SLAoIQllSLUEwMDESD21lc2guYnlybmllLmRldhoPCghkZWNpc2lvbhIDYWJj"
        );
    }
}
