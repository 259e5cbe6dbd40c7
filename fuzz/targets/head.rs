// SPDX-License-Identifier: Apache-2.0
//! Feeds `bodies/head.rs`.
#![no_main]

#[path = "../bodies/head.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::run(bytes));
