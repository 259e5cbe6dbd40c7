// SPDX-License-Identifier: Apache-2.0
//! Feeds `bodies/h3.rs`.
#![no_main]

#[path = "../bodies/h3.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::run(bytes));
