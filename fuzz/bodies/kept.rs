// SPDX-License-Identifier: Apache-2.0
//! The view that a proxy keeps of its configuration, as it's read when the control plane is away, behind its seal: what is read survives
//! its own encoding.

use byrnie_xds::kept::{decode, encode};

/// One input.
pub(crate) fn run(bytes: &[u8]) {
    let Some(kept) = decode(bytes) else { return };
    let again = encode(&kept.origin, kept.revision, kept.resources.iter());
    assert_eq!(decode(&again), Some(kept));
}
