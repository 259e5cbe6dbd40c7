// SPDX-License-Identifier: Apache-2.0
//! What tells two requests under one key apart: SHA-256 over method, path, who is spoken for, and body.

use sha2::{Digest, Sha256};

/// The digest of a request.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl std::fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fingerprint({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

/// A fingerprint in the making.
pub struct Fingerprinting(Sha256);

impl Fingerprinting {
    /// Begins with the method and the canonical path with its query.
    pub fn new(method: &str, path_and_query: &str) -> Self {
        let mut this = Self(Sha256::new_with_prefix(b"byrnie ledger 1"));
        this.part(method.as_bytes());
        this.part(path_and_query.as_bytes());
        this
    }

    /// A header that says on whose behalf the request is made (`authorization`, `cookie`): callers that
    /// share one identity, as all strangers do at an edge, must never be given each other's answers.
    pub fn credential(mut self, value: &[u8]) -> Self {
        self.part(value);
        self
    }

    /// Ends with the body.
    pub fn body(mut self, body: &[u8]) -> Fingerprint {
        self.part(body);
        Fingerprint(self.0.finalize().into())
    }

    /// Length first, so that no two lists of parts give the same bytes.
    fn part(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }
}
