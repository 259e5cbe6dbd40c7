// SPDX-License-Identifier: Apache-2.0
//! What fuzzing feeds to the reader of the journal, over the inputs that it once found worth keeping.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its own functions too")]

#[path = "../../../fuzz/bodies/journal.rs"]
mod journal;
#[path = "../../../fuzz/bodies/replay.rs"]
mod replay;

#[test]
fn entries_that_are_read_survive_their_own_encoding() {
    replay::replay("journal", journal::run);
}
