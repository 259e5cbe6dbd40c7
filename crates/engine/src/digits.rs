// SPDX-License-Identifier: Apache-2.0
//! Short texts on the stack: decimal numbers for headers, and the ids of decision records.

use byrnie_base::{Rng, Text};
use byrnie_codec::trace::TraceId;
use std::fmt;

/// A decimal number as text, without asking for memory.
pub(crate) struct Digits {
    bytes: [u8; 21],
    start: usize,
}

impl Digits {
    pub(crate) fn of(mut number: u64) -> Self {
        let mut digits = Self { bytes: [b'0'; 21], start: 20 };
        loop {
            digits.start -= 1;
            digits.bytes[digits.start] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return digits;
            }
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[self.start..20]
    }

    /// The number with one more byte behind it.
    pub(crate) fn with(&mut self, unit: u8) -> &[u8] {
        self.bytes[20] = unit;
        &self.bytes[self.start..]
    }
}

/// The id of a decision record: 64 random bits as 13 characters of lower-case base 32 (RFC 4648 6).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DecisionId([u8; 13]);

impl DecisionId {
    /// A new id. Unique among a day's records in practice; not a secret.
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        let mut bits = rng.next_u64();
        let mut id = [b'a'; 13];
        for byte in &mut id {
            *byte = ALPHABET[(bits & 31) as usize];
            bits >>= 5;
        }
        Self(id)
    }

    /// The characters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// As a shared string.
    pub fn text(&self) -> Text {
        self.as_str().into()
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// 128 random bits in lower-case hexadecimal, for `x-request-id`.
pub(crate) fn request_id(rng: &mut Rng) -> [u8; 32] {
    TraceId::of(rng.next_u64(), rng.next_u64()).text()
}
