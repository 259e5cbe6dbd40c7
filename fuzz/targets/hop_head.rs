// SPDX-License-Identifier: Apache-2.0
//! Feeds `bodies/hop_head.rs`.
#![no_main]

#[path = "../bodies/hop_head.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::run(bytes));
