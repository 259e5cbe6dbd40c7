// SPDX-License-Identifier: Apache-2.0
//! What fuzzing feeds to the authority, over the inputs that it once found worth keeping.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking, its own functions too")]

#[path = "../../../fuzz/bodies/csr.rs"]
mod csr;
#[path = "../../../fuzz/bodies/replay.rs"]
mod replay;

#[test]
fn requests_for_certificates_are_refused_or_signed() {
    replay::replay("csr", csr::run);
}
