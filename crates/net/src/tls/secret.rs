// SPDX-License-Identifier: Apache-2.0
//! What tokens need of the crypto library: randomness, a digest, and a comparison that tells nothing by
//! the time it takes. The control plane calls it; it keeps nothing.

use super::Error;
use aws_lc_rs::{constant_time, digest, rand};

/// 32 bytes that nobody can guess.
///
/// # Errors
/// If the system gives no randomness.
pub fn random() -> Result<[u8; 32], Error> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).map_err(|_| Error::Crypto("randomness"))?;
    Ok(bytes)
}

/// The SHA-256 digest of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

/// Whether both are the same, in a time that depends on their lengths alone.
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}
