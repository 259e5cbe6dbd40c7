// SPDX-License-Identifier: Apache-2.0
//! Entries of the journal of transactions, as they are read after a crash: what is read survives its own encoding.

use byrnie_saga::Entry;

/// One input.
pub(crate) fn run(bytes: &[u8]) {
    let Ok(entry) = Entry::decode(bytes) else { return };
    assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
}
