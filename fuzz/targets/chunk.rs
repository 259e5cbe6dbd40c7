// SPDX-License-Identifier: Apache-2.0
//! Feeds `bodies/chunk.rs`.
#![no_main]

#[path = "../bodies/chunk.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::run(bytes));
