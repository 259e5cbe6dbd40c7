// SPDX-License-Identifier: Apache-2.0
//! Feeds `bodies/expression.rs`.
#![no_main]

#[path = "../bodies/expression.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::run(bytes));
