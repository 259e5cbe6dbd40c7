// SPDX-License-Identifier: Apache-2.0
//! Feeds `bodies/kept.rs`.
#![no_main]

#[path = "../bodies/kept.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::run(bytes));
