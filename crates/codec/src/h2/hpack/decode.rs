// SPDX-License-Identifier: Apache-2.0
//! Header blocks to lines. What is refused of a line is its reader's to say; here a block is only broken or not.

use super::super::message::Blocks;
use super::table::{STATIC, Table};
use super::{Broken, Named, TABLE_BYTES, huffman, is_clean, read_integer};
use std::ops::Range;

/// One header line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line<'a> {
    pub(crate) named: Named,
    pub(crate) name: &'a [u8],
    pub(crate) value: &'a [u8],
    /// Whether the value may stand in a header.
    pub(crate) clean: bool,
}

/// Reads the header blocks of one direction of a connection, all of them and in order.
#[derive(Debug)]
pub(in crate::h2) struct Decoder {
    table: Table,
    /// Strings as they were before they were coded.
    text: Vec<u8>,
}

/// Where a string is.
enum Text<'a> {
    /// In the block, or in the static table.
    There(&'a [u8]),
    /// In `Decoder::text`.
    Here(Range<usize>),
}

impl Default for Decoder {
    fn default() -> Self {
        Self { table: Table::new(TABLE_BYTES), text: Vec::new() }
    }
}

impl Blocks for Decoder {
    /// As RFC 7541 has them.
    fn read(&mut self, block: &[u8], mut take: impl FnMut(Line<'_>)) -> Result<(), Broken> {
        let mut rest = block;
        let mut begun = false;
        while let Some(first) = rest.first() {
            match first {
                0x80.. => {
                    let index = read_integer(&mut rest, 7)?;
                    self.indexed(index, &mut take)?;
                }
                0x40.. => self.literal(&mut rest, 6, &mut take)?,
                // A change of size stands at the beginning (RFC 7541 4.2).
                0x20.. if begun => return Err(Broken),
                0x20.. => {
                    let size = read_integer(&mut rest, 5)?;
                    if size > TABLE_BYTES || rest.is_empty() {
                        return Err(Broken);
                    }
                    self.table.resize(size);
                    continue;
                }
                _ => self.literal(&mut rest, 4, &mut take)?,
            }
            begun = true;
        }
        Ok(())
    }
}

impl Decoder {
    fn indexed(&self, index: usize, take: &mut impl FnMut(Line<'_>)) -> Result<(), Broken> {
        let at = index.checked_sub(1).ok_or(Broken)?;
        if let Some((named, name, value)) = STATIC.get(at) {
            take(Line { named: *named, name: name.as_bytes(), value: value.as_bytes(), clean: true });
            return Ok(());
        }
        let entry = self.table.get(at - STATIC.len()).ok_or(Broken)?;
        let (name, value) = (self.table.name(entry), self.table.value(entry));
        take(Line { named: entry.named, name, value, clean: entry.clean });
        Ok(())
    }

    fn literal(&mut self, rest: &mut &[u8], prefix: u32, take: &mut impl FnMut(Line<'_>)) -> Result<(), Broken> {
        let Self { table, text } = self;
        text.clear();
        let (named, name) = match read_integer(rest, prefix)? {
            0 => (None, string(rest, text)?),
            index => match STATIC.get(index - 1) {
                Some((named, name, _)) => (Some(*named), Text::There(name.as_bytes())),
                None => {
                    let entry = table.get(index - 1 - STATIC.len()).ok_or(Broken)?;
                    text.extend_from_slice(table.name(entry));
                    (Some(entry.named), Text::Here(0..text.len()))
                }
            },
        };
        let value = string(rest, text)?;
        let find = |there| match there {
            Text::There(bytes) => bytes,
            Text::Here(range) => &text[range],
        };
        let (name, value) = (find(name), find(value));
        let named = named.unwrap_or_else(|| Named::of(name));
        take(Line { named, name, value, clean: is_clean(value) });
        if prefix == 6 {
            table.add(named, name, value);
        }
        Ok(())
    }
}

fn string<'a>(rest: &mut &'a [u8], text: &mut Vec<u8>) -> Result<Text<'a>, Broken> {
    let coded = rest.first().is_some_and(|first| first & 0x80 != 0);
    let length = read_integer(rest, 7)?;
    let (bytes, after) = rest.split_at_checked(length).ok_or(Broken)?;
    *rest = after;
    if !coded {
        return Ok(Text::There(bytes));
    }
    let from = text.len();
    huffman::decode(bytes, text)?;
    Ok(Text::Here(from..text.len()))
}
