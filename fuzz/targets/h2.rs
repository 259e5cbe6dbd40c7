// SPDX-License-Identifier: Apache-2.0
//! Feeds `bodies/h2.rs`.
#![no_main]

#[path = "../bodies/h2.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::run(bytes));
