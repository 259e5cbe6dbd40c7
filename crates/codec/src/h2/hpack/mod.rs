// SPDX-License-Identifier: Apache-2.0
//! Compression of header lines (RFC 7541), one [`Decoder`] and one [`Encoder`] for each connection. Lines come
//! out with what is known of their names, so that what a peer repeats is looked at once.

mod decode;
mod encode;
pub(crate) mod huffman;
mod table;

pub(super) use decode::Decoder;
pub(crate) use decode::Line;
pub(super) use encode::{Encoder, Place};

use crate::fields::{is_token_byte, is_value_byte};
use crate::known::Known;

#[cfg(test)]
mod tests;

/// The dynamic tables of both directions, in bytes: the default, which neither side asks to change.
pub(super) const TABLE_BYTES: usize = 4096;

/// A header block that can't be read: the tables of the two sides are apart from here on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken;

/// What a line is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    Authority,
    Method,
    Path,
    Scheme,
    Status,
    /// RFC 8441 4.
    Protocol,
    Field(Known),
    /// No name that a message may hold (RFC 9113 8.2.1 and 8.3).
    Wrong,
}

impl Named {
    pub(crate) fn of(name: &[u8]) -> Self {
        match name {
            b":authority" => Self::Authority,
            b":method" => Self::Method,
            b":path" => Self::Path,
            b":scheme" => Self::Scheme,
            b":status" => Self::Status,
            b":protocol" => Self::Protocol,
            _ if is_name(name) => Self::Field(Known::of(name)),
            _ => Self::Wrong,
        }
    }
}

/// A token without capitals.
fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().fold(true, |fine, byte| fine & is_token_byte(*byte) & !byte.is_ascii_uppercase())
}

/// Whether a header may have this value.
pub(crate) fn is_clean(value: &[u8]) -> bool {
    value.iter().fold(true, |fine, byte| fine & is_value_byte(*byte))
}

/// Writes a number whose first byte shares `prefix` bits with `pattern` (RFC 7541 5.1).
pub(crate) fn write_integer(value: usize, prefix: u32, pattern: u8, out: &mut Vec<u8>) {
    let most = (1 << prefix) - 1;
    if value < most {
        return out.push(pattern | value as u8);
    }
    out.push(pattern | most as u8);
    let mut rest = value - most;
    while rest >= 128 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Most bytes after the first of a number: enough for 28 bits, more than any that is allowed.
const INTEGER_BYTES_MAX: u32 = 4;

/// Reads a number.
pub(crate) fn read_integer(rest: &mut &[u8], prefix: u32) -> Result<usize, Broken> {
    let (first, mut after) = rest.split_first().ok_or(Broken)?;
    let most = (1 << prefix) - 1;
    let mut value = usize::from(*first) & most;
    if value == most {
        for nth in 0..=INTEGER_BYTES_MAX {
            let (byte, next) = after.split_first().ok_or(Broken)?;
            if nth == INTEGER_BYTES_MAX {
                return Err(Broken);
            }
            after = next;
            value += usize::from(byte & 0x7f) << (7 * nth);
            if *byte < 0x80 {
                break;
            }
        }
    }
    *rest = after;
    Ok(value)
}
