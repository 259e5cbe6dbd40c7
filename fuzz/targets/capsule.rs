// SPDX-License-Identifier: Apache-2.0
//! Feeds `bodies/capsule.rs`.
#![no_main]

#[path = "../bodies/capsule.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::run(bytes));
