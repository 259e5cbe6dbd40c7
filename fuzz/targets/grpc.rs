// SPDX-License-Identifier: Apache-2.0
//! Feeds `bodies/grpc.rs`.
#![no_main]

#[path = "../bodies/grpc.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::run(bytes));
