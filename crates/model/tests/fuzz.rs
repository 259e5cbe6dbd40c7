// SPDX-License-Identifier: Apache-2.0
//! What fuzzing feeds to readers of configuration, over the inputs that it once found worth keeping.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its own functions too")]
#![cfg(feature = "yaml")]

#[path = "../../../fuzz/bodies/documents.rs"]
mod documents;
#[path = "../../../fuzz/bodies/expression.rs"]
mod expression;
#[path = "../../../fuzz/bodies/replay.rs"]
mod replay;

#[test]
fn documents_that_are_read_survive_their_canonical_form() {
    replay::replay("documents", documents::run);
}

#[test]
fn expressions_have_the_same_value_every_time() {
    replay::replay("expression", expression::run);
}
