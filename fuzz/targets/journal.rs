// SPDX-License-Identifier: Apache-2.0
//! Feeds `bodies/journal.rs`.
#![no_main]

#[path = "../bodies/journal.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::run(bytes));
