// SPDX-License-Identifier: Apache-2.0
//! Chains that were found good. A peer that comes again shows the same one, and its authority's signature is as good
//! as it was: verifying it anew would be a quarter of what a handshake costs. What is left to be seen each time is
//! whether it's still the time for it, and, by TLS, whether the peer holds the key. Each core keeps its own.

use super::{Proven, Usage};
use crate::tls::Roots;
use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use byrnie_base::Timestamp;
use rustls_pki_types::CertificateDer;
use std::cell::RefCell;
use std::collections::HashMap;

/// Chains that a core remembers. One more, and it begins anew.
pub(super) const CHAINS_MAX: usize = 1024;
/// Bytes of a chain that is remembered: those of a mesh have a tenth of it, and a stranger's isn't hashed for nothing.
const CHAIN_BYTES_MAX: usize = 8 * 1024;

thread_local! {
    static KNOWN: RefCell<HashMap<Fingerprint, Proven>> = RefCell::default();
}

/// Stands for a chain, on one side of TLS, under one set of roots.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint([u8; SHA256_OUTPUT_LEN]);

impl Fingerprint {
    /// `None` if the chain is too long to be remembered.
    pub(super) fn of(chain: &[CertificateDer<'_>], roots: &Roots, usage: Usage) -> Option<Self> {
        if chain.iter().map(|certificate| certificate.len()).sum::<usize>() > CHAIN_BYTES_MAX {
            return None;
        }
        let mut context = Context::new(&SHA256);
        context.update(&roots.anchors.id.to_le_bytes());
        context.update(&[u8::from(usage == Usage::Server)]);
        for certificate in chain {
            context.update(&certificate.len().to_le_bytes());
            context.update(certificate);
        }
        context.finish().as_ref().try_into().ok().map(Self)
    }
}

/// What a chain was found to prove, if that holds at `now`.
pub(super) fn recall(fingerprint: &Fingerprint, now: Timestamp) -> Option<Proven> {
    let holds = |proven: &&Proven| (proven.not_before..=proven.not_after).contains(&now);
    KNOWN.with_borrow(|known| known.get(fingerprint).filter(holds).cloned())
}

/// Remembers what a chain proves.
pub(super) fn keep(fingerprint: Fingerprint, proven: Proven) {
    KNOWN.with_borrow_mut(|known| {
        if known.len() >= CHAINS_MAX {
            known.clear();
        }
        known.insert(fingerprint, proven);
    });
}

#[cfg(test)]
pub(super) fn count() -> usize {
    KNOWN.with_borrow(HashMap::len)
}
