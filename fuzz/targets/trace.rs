// SPDX-License-Identifier: Apache-2.0
//! Feeds `bodies/trace.rs`.
#![no_main]

#[path = "../bodies/trace.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::run(bytes));
