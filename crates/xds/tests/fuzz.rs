// SPDX-License-Identifier: Apache-2.0
//! What fuzzing feeds to the readers of resources and of views, over the inputs that it once found worth keeping.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its own functions too")]

#[path = "../../../fuzz/bodies/kept.rs"]
mod kept;
#[path = "../../../fuzz/bodies/replay.rs"]
mod replay;
#[path = "../../../fuzz/bodies/resource.rs"]
mod resource;

#[test]
fn resources_that_are_read_survive_their_own_encoding() {
    replay::replay("resource", resource::run);
}

#[test]
fn views_that_are_read_survive_their_own_encoding() {
    replay::replay("kept", kept::run);
}
