// SPDX-License-Identifier: Apache-2.0
//! What a gRPC status says beside its code and its message: a `google.rpc.Status` (google/rpc/status.proto) with one
//! `ErrorInfo` (google/rpc/error_details.proto), which clients of every language can read and tell cases apart by.

use super::Status;
use crate::base64;
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
        base64::encode(&out.into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
