// SPDX-License-Identifier: Apache-2.0
//! First bytes: a verdict stands whatever follows.

use byrnie_codec::sniff::{Opening, ServerName, Sniff, opening, server_name, sniff};

/// One input.
pub(crate) fn run(bytes: &[u8]) {
    let whole = sniff(bytes);
    let name = server_name(bytes);
    let opened = opening(bytes);
    for cut in 0..bytes.len().min(64) {
        let part = sniff(&bytes[..cut]);
        assert!(part == Sniff::NeedMore || part == whole);
        let part = server_name(&bytes[..cut]);
        assert!(part == ServerName::NeedMore || part == name);
        match opening(&bytes[..cut]) {
            Opening::NeedMore => {}
            // Read on, it's told as when it's whole.
            Opening::Unlikely(line) => assert!(line.read(&bytes[cut..]) == opened),
            told => assert!(told == opened),
        }
    }
}
