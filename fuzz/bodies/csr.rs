// SPDX-License-Identifier: Apache-2.0
//! Requests for certificates, as whoever reaches the control plane may send them: refused or signed, and what is signed is of the
//! form of a chain.

use byrnie_base::Timestamp;
use byrnie_model::Identity;
use byrnie_net::tls::ca::Authority;
use std::sync::OnceLock;
use std::time::Duration;

const DOMAIN: &str = "fuzz.local";
/// Any time within the root's.
const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// One input.
pub(crate) fn run(bytes: &[u8]) {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    let authority = AUTHORITY.get_or_init(|| Authority::create(DOMAIN, NOW).expect("an authority"));
    let identity = Identity::new(DOMAIN, "default", "web").expect("an identity");
    if let Ok(chain) = authority.sign(bytes, &identity, Duration::from_secs(3600), &[], NOW) {
        assert!(chain.starts_with("-----BEGIN CERTIFICATE-----") && chain.ends_with("-----END CERTIFICATE-----\n"));
    }
}
