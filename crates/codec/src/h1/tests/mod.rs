// SPDX-License-Identifier: Apache-2.0
//! HTTP/1 by sections of RFC 9112, a line per case. In messages `|` stands for CRLF.

mod body;
mod emit;
mod request;
mod response;

/// The bytes that a case stands for.
fn bytes(case: &str) -> Vec<u8> {
    case.replace('|', "\r\n").into_bytes()
}
